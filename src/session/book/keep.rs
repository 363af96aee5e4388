//! How long messages are known: what is settled is kept for a while, and within bounds. Pure.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Book, Entry, Id};
use crate::limits::{KEEP_DEAD_LETTERS, KEEP_RESULTS_FOR, MAX_DEAD_LETTERS};

impl Book {
    /// Settled messages that need not be known any more: those with a key after a day, those
    /// without also where there are more than `keep`. `now`: milliseconds since 1970.
    pub fn overdue(&self, now: u64, keep: usize) -> Vec<Id> {
        let old = |id: &&Id, most: u64| {
            self.entries.get(id).is_none_or(|entry| entry.ended.saturating_add(most) <= now)
        };
        let day = millis(KEEP_RESULTS_FOR);
        let too_many = self.plain.len().saturating_sub(keep);
        let plain = self.plain.iter().enumerate();
        let plain = plain.take_while(|(at, id)| *at < too_many || old(id, day)).map(|(_, id)| id);
        let keyed = self.keyed.iter().take_while(|id| old(id, day));
        let too_many = self.dead.len().saturating_sub(MAX_DEAD_LETTERS);
        let dead = self.dead.iter().enumerate();
        let dead = dead
            .take_while(|(at, id)| *at < too_many || old(id, millis(KEEP_DEAD_LETTERS)))
            .map(|(_, id)| id);
        plain.chain(keyed).chain(dead).copied().collect()
    }

    /// Whether there are so many more than `keep` that they are worth a look.
    pub fn is_crowded(&self, keep: usize) -> bool {
        self.plain.len() > keep + keep / 8 + 64 || self.dead.len() > MAX_DEAD_LETTERS
    }

    /// Forgets messages that were [`Book::overdue`].
    pub fn forget(&mut self, ids: &[Id]) {
        for id in ids {
            let Some(entry) = self.entries.remove(id) else { continue };
            self.count(&entry, false);
            self.bytes -= entry.bytes;
            self.dead.remove(id);
            if let Some(key) = entry.key.filter(|key| self.keys.get(key) == Some(id)) {
                self.keys.remove(&key);
            }
        }
        let gone = |list: &mut VecDeque<Id>, entries: &BTreeMap<Id, Entry>| {
            while list.front().is_some_and(|id| !entries.contains_key(id)) {
                list.pop_front();
            }
        };
        gone(&mut self.plain, &self.entries);
        gone(&mut self.keyed, &self.entries);
    }

    /// Drops the resets of sessions that nothing is known of any more.
    pub fn forget_resets(&mut self) {
        let mut sessions = BTreeSet::new();
        sessions.extend(self.entries.values().filter_map(|entry| entry.session));
        self.resets.retain(|session, _| sessions.contains(session));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
