//! Turns of ephemeral messages: one without a session and without an idempotency
//! key waits on its connection, in the same queue and within the same limits as all others.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hub::Hub;
use super::id::Id;
use super::reply::MAX_RELEASES;
use super::submit::Draft;
use super::worker::Attempt;
use crate::agent::{Outcome, Reply};
use crate::cancel::{Cancel, CancelReason};
use crate::journal::record::Timestamp;
use crate::limits::KEEP_ALIVE;
use crate::shares::LimitReached;
use crate::sys::{fd::EventFd, poll::Interest};

/// How long the main thread tries, for a figure in the status line or the history.
const HINT_LOCK_TIMEOUT: Duration = Duration::from_millis(20);

/// A slot in which a turn may run; dropping it gives the slot to the next.
#[derive(Debug)]
pub struct TurnPermit {
    hub: Arc<Hub>,
    pub id: Id,
}

/// Why no slot was acquired.
#[derive(Debug)]
pub enum AcquireError {
    /// The queue is full.
    Full(LimitReached),
    /// The wait was ended; TimedOut: it was as long as a turn may take.
    Ended(CancelReason),
    /// No descriptor, or another error of the system.
    Failed(io::Error),
}

impl Hub {
    /// Acquires a slot, waiting for it in order. `client`: a socket whose hang-up ends the wait;
    /// `reply`: notified now and then that the wait goes on.
    pub fn acquire_turn(
        self: &Arc<Self>,
        principal: &str,
        client: BorrowedFd<'_>,
        reply: &mut dyn Reply,
    ) -> Result<TurnPermit, AcquireError> {
        let timeout = self.settings().config.agent.turn_timeout;
        let (abort, client) = (Some(self.abort.as_fd()), Some(client));
        let cancel = Cancel { abort, client, ..Cancel::at(Instant::now() + timeout) };
        let mut state = self.lock();
        let id = state.next_id().map_err(AcquireError::Failed)?;
        state.dispatch.submit(id, principal, None).map_err(AcquireError::Full)?;
        state.waiting_permits.push((id, None));
        let begun = self.begin_attempts(&mut state);
        let waits = state.waiting_permits.iter_mut().find(|(waiting, _)| *waiting == id);
        let event = waits.map(|(_, event)| {
            let new = Arc::new(EventFd::new()?);
            Ok(Arc::clone(event.insert(new)))
        });
        drop(state);
        self.spawn_workers(begun);
        // An early return drops it, and with it the turn leaves the queue.
        let permit = TurnPermit { hub: Arc::clone(self), id };
        let event = event.transpose().map_err(AcquireError::Failed)?;
        let Some(event) = event else { return Ok(permit) };
        loop {
            let turn = [Interest::read(event.as_fd())];
            match cancel.wait(turn, Instant::now() + KEEP_ALIVE).map_err(AcquireError::Failed)? {
                ([true], _) => return Ok(permit),
                (_, Some(reason)) => return Err(AcquireError::Ended(reason)),
                (_, None) => {
                    reply.idle().map_err(|_| AcquireError::Ended(CancelReason::ClientGone))?;
                }
            }
        }
    }

    /// How many turns run, told without waiting long for the lock.
    pub fn turns_hint(&self) -> usize {
        let state = self.lock_within(HINT_LOCK_TIMEOUT);
        state.map_or_else(|| self.busy(), |state| state.dispatch.counts().0)
    }
}

impl TurnPermit {
    /// Runs the turn of a message that is not written down, for this client alone.
    ///
    /// # Errors
    /// As with [`Hub::run_agent`].
    pub fn run(
        &self,
        draft: Draft,
        client: BorrowedFd<'_>,
        reply: &mut dyn Reply,
    ) -> io::Result<Outcome> {
        let (hub, began) = (&self.hub, Instant::now());
        let attempt = Attempt { n: 1, ..Attempt::default() };
        let message = draft.accept(self.id, Timestamp::default());
        let mut outcome = hub.run_agent(&message, &attempt, reply, (Some(client), None))?;
        // It was ended for the sake of another turn: nothing has come of it yet.
        for _ in 0..MAX_RELEASES {
            let again = matches!(outcome, Outcome::Released(_)) && reply.bytes() == 0;
            if !again || hub.is_draining() {
                break;
            }
            outcome = hub.run_agent(&message, &attempt, reply, (Some(client), None))?;
        }
        // An echo takes 10 µs, and a line in the journal half as much again: debug has it.
        let echoed = outcome == Outcome::Done && hub.settings().agent.kind() == "echo";
        if !echoed || log::log_enabled!(log::Level::Debug) {
            outcome.log(&message.id, None, 1, began, reply.bytes());
        }
        Ok(outcome)
    }
}

impl Drop for TurnPermit {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.waiting_permits.retain(|(waiting, _)| *waiting != self.id);
        state.dispatch.leave(self.id);
        self.hub.start_turns(state);
    }
}
