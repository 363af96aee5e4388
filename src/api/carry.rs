//! Chat over a durable message: its reply is passed on while somebody is there to take it.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

use super::Service;
use super::answer::Answer;
use super::error::Problem;
use super::messages::submit;
use crate::agent::Reply;
use crate::limits::{KEEP_ALIVE, LONGEST_REPLY};
use crate::session::id::Id;
use crate::session::life::Turn as Stage;
use crate::session::place::NoPlace;
use crate::session::submit::{Draft, Submitted};
use crate::session::view::Waited;
use crate::sys::fd::Event;
use crate::sys::poll::{Interest, poll};

/// Hands a durable message in and passes its reply on. `Err(None)`: nobody is there any more, and
/// the message goes on without.
pub fn carry(
    service: &Service,
    draft: Draft,
    client: &dyn AsFd,
    answer: &mut Answer<'_>,
) -> Result<(), Option<Problem>> {
    let broken = |e: io::Error| Problem::no_place(&NoPlace::Failed(e));
    // Before it is accepted: who is told to try again must not find it done twice.
    let event = Event::new().map_err(broken)?;
    let keyed = draft.key.is_some();
    let (id, replayed) = match submit(service, draft)? {
        Submitted::New { id, .. } => (id, false),
        Submitted::Known(id) => (id, true),
    };
    let _held = service.hub.hold(id);
    answer.replayed = replayed;
    answer.id = id.to_string();
    let passed = if answer.streams() {
        pass_on(service, id, event, client, answer)?
    } else {
        let waited = service.hub.wait_by(event, id, client.as_fd(), LONGEST_REPLY);
        match waited.map_err(broken)? {
            Waited::Gone => return Err(None),
            Waited::Over | Waited::NotYet => false,
        }
    };
    let message = service.hub.message(id).map_err(|refused| Problem::journal(&refused))?;
    let message = message.ok_or_else(Problem::stopping)?;
    answer.report(message.report);
    match message.turn {
        Stage::Done if passed => Ok(()),
        Stage::Done => match message.reply {
            Some(reply) => answer.piece(&reply).map_err(|_| None),
            None => Err(Some(Problem::new(503, "unavailable", message.error.unwrap_or_default()))),
        },
        Stage::Failed | Stage::Cancelled => {
            let code = if message.turn == Stage::Failed { "agent_failed" } else { "cancelled" };
            Err(Some(Problem::new(502, code, message.error.unwrap_or_default())))
        }
        // The same key again finds it.
        Stage::Queued | Stage::Running | Stage::Resting if keyed => Err(Some(Problem::stopping())),
        Stage::Queued | Stage::Resting => {
            // Who is told to try again must not find it done twice.
            let _ = service.hub.cancel(id, "the gateway stopped, and its sender was told so");
            Err(Some(Problem::stopping()))
        }
        Stage::Running => {
            let words = format!("The gateway is stopping; message {id} goes on when it is back.");
            let problem = Problem::new(503, "gateway_stopping", words);
            Err(Some(Problem { again: false, ..problem }))
        }
    }
}

/// Passes the pieces of a turn on until its end. Says whether there were any.
fn pass_on(
    service: &Service,
    id: Id,
    event: Event,
    client: &dyn AsFd,
    answer: &mut Answer<'_>,
) -> Result<bool, Option<Problem>> {
    let broken = |e: io::Error| Problem::no_place(&NoPlace::Failed(e));
    let Some(watch) = service.hub.watch(id, event) else { return Ok(false) };
    let (mut attempt, mut offset) = (0, 0);
    loop {
        watch.event.clear();
        let seen = watch.run.see(attempt, offset);
        if seen.attempt != attempt {
            if offset > 0 {
                let message = format!("The turn was cut short; message {id} is tried again.");
                return Err(Some(Problem::new(503, "agent_unavailable", message)));
            }
            attempt = seen.attempt;
        }
        if !seen.text.is_empty() {
            offset += seen.text.len();
            answer.piece(&seen.text).map_err(|_| None)?;
        }
        if seen.over || service.hub.is_put_off(id) {
            return Ok(offset > 0);
        }
        let mut interests = [
            Interest::read(watch.event.as_fd()),
            Interest::hangup(client.as_fd()),
            Interest::read(service.hub.cut.as_fd()),
        ];
        if poll(&mut interests, Some(KEEP_ALIVE)).map_err(broken)? == 0 {
            answer.idle().map_err(|_| None)?;
        }
        let [_, gone, cut] = interests.map(|interest| interest.ready());
        if gone || cut {
            return Err(cut.then(Problem::stopping));
        }
    }
}
