//! Failures that are to be told of.

use std::time::Instant;

use super::id::Id;

/// Failures that `stop.notify_failures` was not told yet.
#[derive(Debug, Default)]
pub struct Failures {
    newest: Option<Id>,
    count: u64,
    /// None is told of before then.
    pub until: Option<Instant>,
}

impl Failures {
    pub fn add(&mut self, id: Id) {
        (self.newest, self.count) = (Some(id), self.count + 1);
    }

    /// The newest, and how many there are.
    pub fn take(&mut self) -> Option<(Id, u64)> {
        let id = self.newest.take()?;
        Some((id, std::mem::take(&mut self.count)))
    }

    /// It was too early for these.
    pub fn put_back(&mut self, id: Id, count: u64) {
        self.newest = self.newest.or(Some(id));
        self.count += count;
    }

    /// When the next one can be told.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.newest.map(|_| self.until.unwrap_or(now))
    }
}
