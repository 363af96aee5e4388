//! What is known of one message. Pure.

use std::sync::Arc;
use std::time::Duration;

use super::on_channel::OnChannel;
use super::owner::{Digest, Owner};
use crate::escape::first_chars;
use crate::journal::record::{Retry, Timestamp};
use crate::limits::MAX_QUOTED_ERROR;
use crate::session::clock::millis;
use crate::session::states::{DeliveryState, TurnState};
use crate::session::stored_file::Files;

/// A reply's way to a target of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    pub target: Arc<str>,
    /// `None`: there is no reply yet, or never will be.
    pub state: Option<DeliveryState>,
    pub attempts: u32,
    /// When it began to wait, or was revived.
    pub since: Timestamp,
    /// The record that says why the last attempt failed; 0 where none did.
    pub error_record: u64,
}

/// The failures of a turn that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryState {
    /// What the record of the last of them says, with no more than the beginning of its error.
    pub retry: Retry,
    /// When that was: milliseconds of this process's life, 0 for what an earlier one wrote.
    pub(super) mark: u64,
    /// When its record was written.
    pub since: Timestamp,
}

impl RetryState {
    pub(super) fn new(retry: &Retry, since: Timestamp) -> RetryState {
        let error = first_chars(&retry.error, MAX_QUOTED_ERROR);
        let (failures, detail) = (retry.failures.max(1), None);
        RetryState { retry: Retry { error, failures, detail, ..*retry }, mark: 0, since }
    }

    /// For how long its attempts have failed, when this process is so old.
    pub fn spent(&self, age: Duration) -> Duration {
        let since = millis(age).saturating_sub(self.mark);
        Duration::from_millis(self.retry.spent.saturating_add(since))
    }

    /// When the pause is over, by the wall clock of its record.
    pub fn next_attempt_at(&self) -> u64 {
        self.since.at.saturating_add(self.retry.pause)
    }

    /// What is left of the pause. `now`: in the journal's own time.
    pub fn left(&self, now: u64) -> Duration {
        Duration::from_millis(self.retry.pause.saturating_sub(now.saturating_sub(self.since.age)))
    }
}

/// An idempotency key and what was asked with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub key: Digest,
    pub body: Digest,
}

/// A message. Ten thousand of them are kept, so what most do not have is behind a pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub owner: Arc<Owner>,
    pub turn: TurnState,
    /// Attempts that were begun.
    pub attempts: u32,
    /// How many of the last attempts in a row a crash or kill ended.
    pub crashes: u32,
    pub failing: Option<Box<RetryState>>,
    /// The record that holds the text.
    pub accepted: u64,
    /// The record by which it entered its session's queue: that one, or that of its new beginning.
    pub queued: u64,
    /// Its newest run of records, where there is a session: see [`super::record_index`].
    pub(super) latest: u64,
    /// The record of the end, or of the last failed attempt; 0 where there is none.
    pub outcome: u64,
    /// When it was accepted: milliseconds since 1970.
    pub at: u64,
    /// All 0 for an end that has not come.
    pub ended: Timestamp,
    pub key: Option<Box<IdempotencyKey>>,
    pub delivery: Option<Box<Outgoing>>,
    /// Where on the channel that is its target, while something may still go there.
    pub channel: Option<Box<OnChannel>>,
    /// What came with it, on the disk.
    pub files: Option<Box<Files>>,
    /// What its records take in the journal.
    pub(super) bytes: u64,
    /// Its session was reset: what it said is gone, or about to go. See [`super::MessageTable::is_erased`].
    pub erased: bool,
    /// It came from a channel, which may offer it again: its id is known for longer than its text.
    pub offered: bool,
    /// It is known by its id alone.
    pub(super) faded: bool,
    /// What stays in the journal of its ids on a channel when the text goes.
    pub(super) left: u32,
}

/// By what a settled message is found again, and so for how long it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Keyed,
    /// See [`Entry::offered`].
    Offered,
}

impl Entry {
    pub(super) fn kind(&self) -> Kind {
        match &self.key {
            None => Kind::Plain,
            Some(_) if self.offered => Kind::Offered,
            Some(_) => Kind::Keyed,
        }
    }

    /// Its id alone is known.
    pub fn is_faded(&self) -> bool {
        self.faded
    }

    /// Whether nobody answers it before its sender asks for that.
    pub fn is_held(&self) -> bool {
        self.turn == TurnState::Cancelled && self.channel.as_ref().is_some_and(|on| on.held)
    }

    /// Drops what is of no use once nothing more can be sent of it.
    pub(super) fn settle(&mut self) {
        let dead = self.delivery_state() == Some(DeliveryState::Dead);
        if self.is_settled() && self.turn != TurnState::Failed && !dead && !self.is_held() {
            self.channel.take_if(|on| on.settle());
        }
    }

    /// Nothing will happen to it any more, unless an operator wants it.
    pub(super) fn is_settled(&self) -> bool {
        self.turn.is_over() && !self.is_to_be_sent()
    }

    /// Its reply is on its way.
    pub fn is_to_be_sent(&self) -> bool {
        matches!(self.delivery_state(), Some(DeliveryState::Pending | DeliveryState::Sending))
    }

    /// When it ended, or its delivery was begun anew.
    pub(super) fn quiet_since(&self) -> Timestamp {
        let begun = self.delivery.as_ref().map_or(self.ended, |outgoing| outgoing.since);
        if begun.age > self.ended.age { begun } else { self.ended }
    }

    /// What its session is known by.
    pub fn session(&self) -> Option<Digest> {
        self.owner.digest()
    }

    /// The record that says why the last attempt of its delivery failed; 0 where none did.
    pub fn delivery_error_record(&self) -> u64 {
        self.delivery.as_ref().map_or(0, |outgoing| outgoing.error_record)
    }

    /// Where its reply goes.
    pub fn target(&self) -> Option<&str> {
        self.delivery.as_ref().map(|outgoing| &*outgoing.target)
    }

    pub fn delivery_state(&self) -> Option<DeliveryState> {
        self.delivery.as_ref()?.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The age of a process stands still while its machine sleeps: an evening's failure is no reason
    /// to give up in the morning.
    #[test]
    fn only_the_time_of_running_processes_counts() {
        let seconds = Duration::from_secs;
        let retry = Retry { spent: 100_000, pause: 7000, ..Retry::default() };
        let mut failing = RetryState::new(&retry, Timestamp::from(50_000));
        // Read back at a start: this process adds its own age.
        assert_eq!(failing.spent(seconds(0)), seconds(100));
        assert_eq!(failing.spent(seconds(30)), seconds(130));
        // Written by this process, when it was so old.
        failing.mark = 1_000_000;
        assert_eq!(failing.spent(seconds(1000)), seconds(100));
        assert_eq!(failing.spent(seconds(1030)), seconds(130));
        // Its pause goes by the journal's own time, and never grows.
        for (now, left) in [(50_000, 7), (54_000, 3), (57_000, 0), (u64::MAX, 0), (0, 7)] {
            assert_eq!(failing.left(now), seconds(left), "{now}");
        }
    }
}
