//! What a start goes on with, and where attempts that have failed are in time. Pure.

use std::time::Duration;

use super::{Entry, Id, MessageTable};
use crate::session::clock::millis;
use crate::session::states::TurnState;
use crate::sys::gather::Gather;

impl MessageTable {
    /// Messages that run, and the number of the attempt.
    pub fn running(&self) -> Vec<(Id, u32)> {
        let running = self.entries().filter(|(_, entry)| entry.turn == TurnState::Running);
        running.map(|(id, entry)| (id, entry.attempts)).gather()
    }

    /// After a start: what ran when the last process ended waits for another attempt.
    pub fn requeue(&mut self) {
        for (id, _) in self.running() {
            self.change(id, &mut |entry| {
                (entry.turn, entry.crashes) = (TurnState::Queued, entry.crashes + 1);
            });
        }
    }

    /// Some messages in the order of one of their records.
    pub fn sorted(&self, are: fn(&Entry) -> bool, by: fn(&Entry) -> u64) -> Vec<(Id, &Entry)> {
        let chosen = self.entries().filter(|(_, entry)| are(entry));
        let mut order: Vec<(u64, u128)> = chosen.map(|(id, entry)| (by(entry), id.0)).gather();
        order.sort_unstable();
        let ids = order.into_iter().map(|(_, id)| Id(id));
        ids.filter_map(|id| Some((id, self.get(id)?))).gather()
    }

    /// The attempt that failed last did so in this process, when it was so old.
    pub fn mark_failure(&mut self, id: Id, age: Duration) {
        if let Some(failing) = self.entries.get_mut(id).and_then(|e| e.failing.as_mut()) {
            failing.mark = millis(age);
        }
    }
}
