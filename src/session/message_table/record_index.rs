//! What is kept of each session. Pure.

use super::owner::Digest;
use crate::session::id::Id;
use crate::session::tree::Tree;

/// What is known of a session that was reset.
#[derive(Debug, Default)]
pub(super) struct Reset {
    /// How many erased messages are known: as long the reset is told to its followers.
    pub erased: usize,
    /// The record of the last reset, and the newest message that there was then. A start may read of
    /// erased messages before it.
    pub last: u64,
    pub newest: Id,
    /// The record of the last reset that erases, 0 without one.
    pub erasure: u64,
}

/// The records of each session. A key is half of the session's digest and the record's number; its
/// value the number of the record before it of the same message, or 0.
#[derive(Debug, Default)]
pub(super) struct RecordIndex(Tree);

impl RecordIndex {
    pub fn add(&mut self, session: Digest, number: u64, before: u64) {
        self.0.insert(key(session, number), before.into());
    }

    /// Takes out a record and those before it of its message.
    pub fn remove(&mut self, session: Digest, mut number: u64) {
        while let Some(before) = self.0.remove(&key(session, number)) {
            number = number_of(before);
        }
    }

    /// The numbers after this one, in order, and whether each is the first of something.
    pub fn after(
        &self,
        session: Digest,
        number: u64,
    ) -> impl DoubleEndedIterator<Item = (u64, bool)> {
        let all = self.0.range(key(session, number.saturating_add(1))..=key(session, u64::MAX));
        all.map(move |(key, before)| (number_of(*key), *before == 0))
    }
}

fn number_of(key: u128) -> u64 {
    u64::try_from(key & u128::from(u64::MAX)).unwrap_or(0)
}

fn key(session: Digest, number: u64) -> u128 {
    session << 64 | u128::from(number)
}
