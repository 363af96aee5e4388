//! Chat over a durable message: its reply is passed on while somebody is there to take it.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::Service;
use super::chat::Answer;
use super::error::Problem;
use super::messages::submit;
use crate::agent::Reply;
use crate::limits::LONGEST_REPLY;
use crate::session::id::Id;
use crate::session::life::Turn as Stage;
use crate::session::place::NoPlace;
use crate::session::submit::{Draft, Submitted};
use crate::session::view::Waited;
use crate::sys::poll::{Interest, poll};

/// Hands a durable message in and passes its reply on. `Err(None)`: nobody is there any more, and
/// the message goes on without.
pub fn carry(
    service: &Service,
    draft: Draft,
    client: &OwnedFd,
    answer: &mut Answer<'_>,
) -> Result<(), Option<Problem>> {
    let (id, replayed) = match submit(service, draft)? {
        Submitted::New { id, .. } => (id, false),
        Submitted::Known(id) => (id, true),
    };
    answer.replayed = replayed;
    answer.id = id.to_string();
    let broken = |e: io::Error| Problem::no_place(&NoPlace::Failed(e));
    let passed = if answer.chat.stream {
        pass_on(service, id, client, answer)?
    } else {
        match service.hub.wait(id, client.as_fd(), LONGEST_REPLY).map_err(broken)? {
            Waited::Gone => return Err(None),
            Waited::Over | Waited::NotYet => false,
        }
    };
    let message = service.hub.message(id).map_err(|refused| Problem::journal(&refused))?;
    let message = message.ok_or_else(Problem::stopping)?;
    match message.turn {
        Stage::Done if passed => Ok(()),
        Stage::Done => answer.piece(&message.reply.unwrap_or_default()).map_err(|_| None),
        Stage::Failed | Stage::Cancelled => {
            let code = if message.turn == Stage::Failed { "agent_failed" } else { "cancelled" };
            Err(Some(Problem::new(502, code, message.error.unwrap_or_default())))
        }
        Stage::Queued | Stage::Running | Stage::Resting => Err(Some(Problem::stopping())),
    }
}

/// Passes the pieces of a turn on until its end. Says whether there were any.
fn pass_on(
    service: &Service,
    id: Id,
    client: &OwnedFd,
    answer: &mut Answer<'_>,
) -> Result<bool, Option<Problem>> {
    let broken = |e: io::Error| Problem::no_place(&NoPlace::Failed(e));
    let Some(watch) = service.hub.watch(id).map_err(broken)? else { return Ok(false) };
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
        let mut interests = [Interest::read(watch.event.as_fd()), Interest::hangup(client.as_fd())];
        poll(&mut interests, None).map_err(broken)?;
        if interests[1].ready() {
            return Err(None);
        }
    }
}
