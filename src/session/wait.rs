//! Waiting for the end of a message.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hub::Hub;
use super::id::Id;
use super::message_table::Entry;
use super::reply::Watch;
use super::states::TurnState;
use crate::cancel::Cancel;
use crate::sys::{fd::EventFd, poll::Interest};

impl Hub {
    /// Keeps a message from being forgotten, however few results are kept, for as long as what is
    /// returned lives: until its end was read.
    pub fn pin_reply(&self, id: Id) -> Arc<Id> {
        let pin = Arc::new(id);
        self.lock().pin(&pin, false);
        pin
    }

    /// The same for the client of a chat: the message's turn begins also during a pause.
    pub fn attend(self: &Arc<Self>, id: Id) -> Arc<Id> {
        let pin = Arc::new(id);
        let mut state = self.lock();
        state.pin(&pin, true);
        if self.is_paused() {
            self.start_turns(state);
        }
        pin
    }

    /// Watches a message that is not over, or whose agent is not, by this event.
    pub fn watch(&self, id: Id, event: EventFd) -> Option<Watch> {
        let mut state = self.lock();
        let over = state.table.get(id).is_none_or(|entry| entry.turn.is_over());
        // The agent of a message that was taken back may still be ending.
        if over && state.replies.get(id).is_none() {
            return None;
        }
        Some(state.replies.of(id).watch(event))
    }

    /// Whether the gateway stops before this message runs, or restarts, and it or the one that heads its
    /// session was released for that.
    pub fn is_put_off(&self, id: Id) -> bool {
        let stops = self.is_draining() || self.is_paused() && self.lock().is_released(id);
        stops && !self.goes_on(id)
    }

    /// Whether a message runs or is over.
    fn goes_on(&self, id: Id) -> bool {
        let goes_on = |entry: &Entry| entry.turn == TurnState::Running || entry.turn.is_over();
        self.lock().table.get(id).is_some_and(goes_on)
    }

    /// Waits until a message is over. Says whether it is: the wait ends before where it has lasted for
    /// `timeout`, where the client goes away, and where the gateway stops or restarts before the message
    /// runs.
    pub fn wait(&self, id: Id, client: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
        let (abort, client) = (Some(self.abort.as_fd()), Some(client));
        let cancel = Cancel { abort, client, ..Cancel::at(Instant::now() + timeout) };
        let Some(watch) = self.watch(id, EventFd::new()?) else { return Ok(true) };
        let (watch, _waiting) = (watch.for_end(), self.begin_wait());
        loop {
            watch.event.clear();
            if watch.reply.lock().over {
                return Ok(self.lock().table.get(id).is_none_or(|entry| entry.turn.is_over()));
            }
            let news = [Interest::read(watch.event.as_fd())];
            let put_off = self.are_waits_over() && !self.goes_on(id);
            if put_off || cancel.wait(news, cancel.deadline)?.0 == [false] {
                return Ok(false);
            }
        }
    }

    /// Whether a message has begun to run, and when it was accepted.
    pub fn progress_of(&self, id: Id) -> Option<(bool, u64)> {
        let state = self.lock();
        let entry = state.table.get(id)?;
        Some((!matches!(entry.turn, TurnState::Queued | TurnState::Backoff), entry.at))
    }
}
