//! Chat over a durable message: its reply is passed on while somebody is there to take it.

use std::os::fd::AsFd;
use std::time::Instant;

use super::Service;
use super::error::ApiError;
use super::messages::submit;
use super::reply_writer::ReplyWriter;
use crate::agent::Reply;
use crate::limits::{KEEP_ALIVE, LONGEST_REPLY};
use crate::session::{Draft, HeldUp, Id, Submitted, TurnState as Stage};
use crate::sys::fd::EventFd;
use crate::sys::poll::{Interest, poll};

/// Hands a durable message in and passes its reply on. `Err(None)`: nobody is there any more, and
/// the message goes on without.
pub fn run_durable(
    service: &Service,
    draft: Draft,
    client: &dyn AsFd,
    answer: &mut ReplyWriter<'_>,
) -> Result<(), Option<ApiError>> {
    // Before it is accepted: who is told to try again must not find it done twice.
    let event = EventFd::new().map_err(|e| ApiError::short(&e))?;
    let keyed = draft.key.is_some();
    let (id, replayed) = match submit(service, draft)? {
        Submitted::New { id, .. } => (id, false),
        Submitted::Known(id) => (id, true),
    };
    let _held = service.hub.pin_reply(id);
    answer.replayed = replayed;
    answer.id = id.to_string();
    let waiter = Waiter { service, id, keyed, came: Instant::now() };
    let passed = waiter.wait(event, client, answer)?;
    let message = service.hub.message(id).map_err(ApiError::from)?;
    let message = message.ok_or_else(ApiError::stopping)?;
    if message.erased {
        return Err(Some(ApiError::erased()));
    }
    answer.report(message.report.clone());
    let error = message.error.clone().unwrap_or_default();
    match message.turn {
        Stage::Done if message.reply.is_none() && !passed => {
            Err(Some(ApiError::new(503, "unavailable", error)))
        }
        Stage::Done => {
            let text = message.extent();
            answer.store(text.clone()).map_err(|_| None)?;
            let again = answer.streams() && !passed;
            let told = again.then(|| text.texts(&mut |piece| answer.chunk(piece)));
            told.unwrap_or(Ok(())).map_err(|_| None)
        }
        Stage::Failed => {
            let failed = ApiError::new(502, "agent_failed", error);
            Err(Some(message.refused.map_or(failed, ApiError::upstream)))
        }
        Stage::Cancelled => Err(Some(ApiError::new(502, "cancelled", error))),
        // The same key again finds it.
        Stage::Queued | Stage::Running | Stage::Resting if keyed => Err(Some(ApiError::stopping())),
        Stage::Queued | Stage::Resting => {
            // Who is told to try again must not find it done twice.
            let _ = service.hub.cancel(id, "the gateway stopped, and its sender was told so");
            Err(Some(ApiError::stopping()))
        }
        Stage::Running => {
            let words = format!("The gateway is stopping; message {id} goes on when it is back.");
            let problem = ApiError::new(503, "gateway_stopping", words);
            Err(Some(ApiError { after: None, ..problem }))
        }
    }
}

/// A client that waits for the reply of a message.
struct Waiter<'a> {
    service: &'a Service,
    id: Id,
    /// It can find the message again.
    keyed: bool,
    came: Instant,
}

impl Waiter<'_> {
    /// Passes the pieces of a turn on until its end, for a client that wants a stream. Says whether
    /// there were any.
    fn wait(
        &self,
        event: EventFd,
        client: &dyn AsFd,
        answer: &mut ReplyWriter<'_>,
    ) -> Result<bool, Option<ApiError>> {
        let hub = &self.service.hub;
        let Some(watch) = hub.watch(self.id, event) else { return Ok(false) };
        let (streams, mut attempt, mut offset) = (answer.streams(), 0, 0);
        loop {
            watch.event.clear();
            // Who wants the whole is given what the journal has.
            let seen = watch.run.see(attempt, if streams { offset } else { usize::MAX });
            if seen.attempt != attempt {
                if offset > 0 {
                    return Err(Some(self.cut_short()));
                }
                attempt = seen.attempt;
            }
            if streams && !seen.text.is_empty() {
                offset += seen.text.len();
                answer.chunk(&seen.text).map_err(|_| None)?;
            }
            if seen.more && streams {
                continue;
            }
            if seen.over || hub.is_put_off(self.id) || self.came.elapsed() > LONGEST_REPLY {
                return Ok(offset > 0);
            }
            let held = hub.held_up(self.id).filter(|held| held.next.is_some());
            if let Some(held) = held {
                self.look_at(&held, offset > 0)?;
            }
            let mut interests = [
                Interest::read(watch.event.as_fd()),
                Interest::hangup(client.as_fd()),
                Interest::read(hub.cut.as_fd()),
            ];
            let quiet =
                poll(&mut interests, Some(KEEP_ALIVE)).map_err(|e| ApiError::short(&e))? == 0;
            // A stream that has begun has no status any more, and the next thing may be an error.
            if quiet && (held.is_none() || offset > 0) {
                answer.idle().map_err(|_| None)?;
            }
            let [_, gone, cut] = interests.map(|interest| interest.ready());
            if gone {
                return Err(None);
            } else if cut {
                return if offset > 0 { Err(Some(ApiError::stopping())) } else { Ok(false) };
            }
        }
    }

    /// Ends the wait where the next attempt comes later than the client waits for, from the first
    /// one that failed or from its own coming. A message that it cannot find again is cancelled
    /// before it is told to try again.
    fn look_at(&self, held: &HeldUp, begun: bool) -> Result<(), Option<ApiError>> {
        let hub = &self.service.hub;
        let within = self.service.settings().config.agent.answer_within;
        let until = held.since.max(self.came) + within;
        let Some(next) = held.next.filter(|next| begun || *next > until) else { return Ok(()) };
        // Read before it is cancelled, which may be the end of its error.
        let first = hub.message(held.by).map_err(ApiError::from)?;
        let why = "its sender was told to send it again: the agent is away";
        if !self.keyed && hub.withdraw(self.id, why).is_err() {
            // It has just begun or ended, or the journal does not take it: the wait goes on.
            return Ok(());
        }
        if begun {
            return Err(Some(self.cut_short()));
        }
        let left = next.saturating_duration_since(Instant::now()).as_millis();
        let seconds = u64::try_from(left.div_ceil(1000)).unwrap_or(1).max(1);
        let (error, refused) = first.map_or((None, None), |first| (first.error, first.refused));
        let problem = match refused {
            Some(refused) => ApiError::upstream(refused),
            None => {
                let mut words = error.unwrap_or_else(|| "the agent is away".to_owned());
                if self.keyed {
                    let id = self.id;
                    words += &format!("; message {id} goes on, and the same key finds its reply");
                }
                ApiError::new(503, "agent_unavailable", words)
            }
        };
        Err(Some(problem.after(seconds)))
    }

    fn cut_short(&self) -> ApiError {
        let goes_on = self.service.hub.held_up(self.id).is_some();
        let what = if goes_on { "is tried again" } else { "was cancelled: send it again" };
        let message = format!("The turn was cut short; message {} {what}.", self.id);
        ApiError::new(503, "agent_unavailable", message)
    }
}
