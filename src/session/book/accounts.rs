//! What each principal has, for its share of what is kept. Pure.

use std::collections::VecDeque;

use super::{Book, Counts, Id};
use crate::named::ByName;

/// What one principal has.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub counts: Counts,
    /// What the records of its messages take in the journal.
    pub bytes: u64,
    /// Settled messages without a key, in the order in which they settled.
    pub plain: VecDeque<Id>,
}

/// How many of something each principal has to let go, so that all together keep no more than
/// `most`: those with the most go first.
pub(super) fn excess(
    accounts: &ByName<Account>,
    most: usize,
    of: fn(&Account) -> usize,
) -> ByName<usize> {
    let counts = || accounts.iter().map(|(_, account)| of(account));
    let mut over = counts().sum::<usize>().saturating_sub(most);
    let mut excess = ByName::new();
    if over == 0 {
        return excess;
    }
    // The highest level to which all can be cut down.
    let (mut level, mut above) = (0, most + 1);
    while level + 1 < above {
        let middle = usize::midpoint(level, above);
        let fits = counts().map(|count| count.min(middle)).sum::<usize>() <= most;
        *(if fits { &mut level } else { &mut above }) = middle;
    }
    for (name, account) in accounts.iter() {
        let count = of(account).saturating_sub(level).min(over);
        over -= count;
        excess.insert(name.to_owned(), count);
    }
    excess
}

/// Something that each principal holds, by name: a column of a table.
pub type Column = (&'static str, Vec<(String, u64)>);

impl Book {
    /// What the records of a principal's messages take in the journal.
    pub fn bytes_of(&self, principal: &str) -> u64 {
        self.accounts.get(principal).map_or(0, |account| account.bytes)
    }

    /// What each principal holds.
    pub fn usage(&self) -> Vec<Column> {
        let column = |of: fn(&Account) -> u64| {
            self.accounts.iter().map(|(who, own)| (who.to_owned(), of(own))).collect()
        };
        vec![
            ("running", column(|own| own.counts.running as u64)),
            ("journal_bytes", column(|own| own.bytes)),
            ("results", column(|own| own.plain.len() as u64)),
            ("outbox", column(|own| own.counts.outbox as u64)),
            ("dead_letters", column(|own| own.counts.dead_letters as u64)),
        ]
    }
}
