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
use crate::sys::fd::EventFd;
use crate::sys::poll::{Interest, poll};

/// How a wait for a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    Over,
    /// The time is over, or the gateway stops before the message runs.
    NotYet,
    /// The client went away.
    Gone,
}

/// A message that is not forgotten meanwhile.
#[derive(Debug)]
pub struct PinnedReply {
    hub: Arc<Hub>,
    id: Id,
}

impl Drop for PinnedReply {
    fn drop(&mut self) {
        let pinned = &mut self.hub.lock().pinned;
        if let Some(at) = pinned.iter().position(|id| *id == self.id) {
            pinned.swap_remove(at);
        }
    }
}

impl Hub {
    /// Keeps a message from being forgotten, however few results are kept, until its end was read.
    pub fn pin_reply(self: &Arc<Self>, id: Id) -> PinnedReply {
        self.lock().pinned.push(id);
        PinnedReply { hub: Arc::clone(self), id }
    }

    /// Watches a message that is not over, or whose agent is not, by this event.
    pub fn watch(&self, id: Id, event: EventFd) -> Option<Watch> {
        let mut state = self.lock();
        let over = state.book.get(id).is_none_or(|entry| entry.turn.is_over());
        // The agent of a message that was taken back may still be ending.
        if over && state.replies.get(id).is_none() {
            return None;
        }
        Some(state.replies.of(id).watch(event))
    }

    /// Whether the gateway stops before this message runs.
    pub fn is_put_off(&self, id: Id) -> bool {
        let state = self.lock();
        let goes_on = |entry: &Entry| entry.turn == TurnState::Running || entry.turn.is_over();
        self.is_draining() && !state.book.get(id).is_some_and(goes_on)
    }

    /// Waits until a message is over.
    pub fn wait(&self, id: Id, client: BorrowedFd<'_>, patience: Duration) -> io::Result<Waited> {
        let deadline = Instant::now() + patience;
        let Some(watch) = self.watch(id, EventFd::new()?) else { return Ok(Waited::Over) };
        loop {
            watch.event.clear();
            if watch.reply.lock().over {
                let over = self.lock().book.get(id).is_none_or(|entry| entry.turn.is_over());
                return Ok(if over { Waited::Over } else { Waited::NotYet });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.is_put_off(id) || left == Duration::ZERO {
                return Ok(Waited::NotYet);
            }
            let mut interests = [
                Interest::read(watch.event.as_fd()),
                Interest::hangup(client),
                Interest::read(self.abort.as_fd()),
            ];
            poll(&mut interests, Some(left))?;
            let [_, gone, cut] = interests.map(|interest| interest.ready());
            if gone || cut {
                return Ok(if gone { Waited::Gone } else { Waited::NotYet });
            }
        }
    }

    /// Whether a message has begun to run, and when it was accepted.
    pub fn glance(&self, id: Id) -> Option<(bool, u64)> {
        let state = self.lock();
        let entry = state.book.get(id)?;
        Some((!matches!(entry.turn, TurnState::Queued | TurnState::Resting), entry.at))
    }
}
