//! What each principal has, for its share of what is kept. Pure.

use std::collections::VecDeque;

use super::{Counts, Id, MessageTable};
use crate::digest_map::DigestMap;
use crate::named::ByName;

/// What one principal has.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub counts: Counts,
    /// What the records of its messages take in the journal.
    pub bytes: u64,
    /// Settled messages without a key, in the order in which they settled.
    pub plain: VecDeque<Id>,
    pub dead: DigestMap,
}

/// The most of something that each principal may keep, so that all together keep no more than `most`.
pub(super) fn level(accounts: &ByName<Account>, most: usize, of: fn(&Account) -> usize) -> usize {
    let kept = |level| accounts.iter().map(|(_, own)| of(own).min(level)).sum::<usize>();
    let (mut level, mut above) = (0, most + 1);
    while level + 1 < above {
        let middle = usize::midpoint(level, above);
        *(if kept(middle) <= most { &mut level } else { &mut above }) = middle;
    }
    level
}

/// What each principal holds of something, by name.
pub type Usage = ByName<Vec<(&'static str, u64)>>;

impl MessageTable {
    /// What the records of a principal's messages take in the journal.
    pub fn bytes_of(&self, principal: &str) -> u64 {
        self.accounts.get(principal).map_or(0, |account| account.bytes)
    }

    /// What each principal holds.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::new();
        for (name, own) in self.accounts.iter().filter(|(_, own)| own.counts.kept > 0) {
            let count = |count: usize| count as u64;
            *usage.of(name) = vec![
                ("running", count(own.counts.running)),
                ("journal_bytes", own.bytes),
                ("results", count(own.plain.len())),
                ("outbox", count(own.counts.outbox)),
                ("dead_letters", count(own.dead.len())),
            ];
        }
        usage
    }
}
