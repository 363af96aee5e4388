//! The attempts of turns: which run, which failed and how often in a row, and which come next. Pure.

use std::time::Duration;

use super::{Digest, Entry, Id, MessageTable, RetryState};
use crate::journal::record::{Retry, Stamp};
use crate::session::clock::millis;
use crate::session::states::TurnState;

impl MessageTable {
    /// Messages that run, and the number of the attempt.
    pub fn running(&self) -> Vec<(Id, u32)> {
        let running = self.entries().filter(|(_, entry)| entry.turn == TurnState::Running);
        running.map(|(id, entry)| (id, entry.attempts)).collect()
    }

    /// After a start: what ran when the last process ended waits for another attempt.
    pub fn requeue(&mut self) {
        for (id, _) in self.running() {
            self.change(id, |entry| (entry.turn, entry.cuts) = (TurnState::Queued, entry.cuts + 1));
        }
    }

    /// Some messages in the order of one of their records.
    pub fn sorted(&self, are: fn(&Entry) -> bool, by: fn(&Entry) -> u64) -> Vec<(Id, &Entry)> {
        let chosen = self.entries().filter(|(_, entry)| are(entry));
        let mut order: Vec<(u64, u128)> = chosen.map(|(id, entry)| (by(entry), id.0)).collect();
        order.sort_unstable();
        let ids = order.into_iter().map(|(_, id)| Id(id));
        ids.filter_map(|id| Some((id, self.get(id)?))).collect()
    }

    /// An attempt failed, and the next one waits for its time.
    pub(super) fn set_retry(&mut self, id: Id, retry: &Retry, at: Stamp) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        // One that ended by itself shows that the message is not what ends its agent or us.
        entry.cuts = if retry.crash { entry.cuts + 1 } else { 0 };
        entry.failing = Some(Box::new(RetryState::new(retry, at)));
    }

    /// That attempt failed in this process, when it was so old.
    pub fn mark_failure(&mut self, id: Id, age: Duration) {
        if let Some(failing) = self.entries.get_mut(id).and_then(|e| e.failing.as_mut()) {
            failing.mark = millis(age);
        }
    }

    /// Whether a message of this session that was accepted after this one has its reply already.
    pub fn is_late(&self, id: Id, session: Digest) -> bool {
        let after = self.get(id).map_or(0, |entry| entry.accepted);
        self.messages_of(session, after).rev().any(|(_, entry)| entry.turn == TurnState::Done)
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
        let mut failing = RetryState::new(&retry, Stamp::from(50_000));
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
