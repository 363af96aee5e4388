//! What is kept of channels, apart from their messages. Pure.

use super::on_channel::{Facts, Known};
use super::{MessageTable, channel_key};
use crate::journal::record::{Accepted, Fact, Record};
use crate::limits::MAX_FACTS;
use crate::sys::gather::Gather;

impl MessageTable {
    /// Takes a fact from the record of this number, which may be that of a message: `bytes` is 0 then.
    pub(super) fn learn(
        &mut self,
        (number, bytes): (u64, u64),
        (channel, fact): (&str, Fact),
        (key, value): (&str, &str),
    ) {
        let all = &mut self.facts.of(channel).0;
        // There is one cursor, of the account of today.
        all.retain(|it| it.fact != fact || (it.key != key && fact != Fact::Cursor));
        if value.is_empty() {
            return;
        }
        let (key, value) = (key.to_owned(), value.to_owned());
        all.push(Known { fact, key, value, record: number, bytes });
        let same = |it: &Known| it.fact == fact;
        if all.iter().filter(|it| same(it)).count() > MAX_FACTS {
            let oldest = all.iter().position(same);
            oldest.into_iter().for_each(|at| drop(all.remove(at)));
        }
    }

    /// Takes what a new message says of its channel.
    pub(super) fn learn_origin(&mut self, number: u64, id: u128, record: &Accepted) {
        let (Some(channel), Some(origin)) = (&record.deliver, &record.origin) else { return };
        if origin.account.is_empty() {
            return;
        }
        for more in origin.ids.iter().skip(1) {
            let key = channel_key(channel, &origin.account, more);
            self.idempotency_keys.entry(key).or_insert(id);
        }
        if let Some(cursor) = &origin.cursor {
            self.learn((number, 0), (channel, Fact::Cursor), (&origin.account, cursor));
        }
    }

    /// What is kept of a channel: keys and values, the oldest first.
    pub fn facts_of(&self, channel: &str, fact: Fact) -> Vec<(String, String)> {
        let all = self.facts.get(channel).into_iter().flat_map(|facts| &facts.0);
        let all = all.filter(|it| it.fact == fact);
        all.map(|it| (it.key.clone(), it.value.clone())).gather()
    }

    /// The value of a fact.
    pub fn fact(&self, channel: &str, fact: Fact, key: &str) -> Option<&str> {
        let all = &self.facts.get(channel)?.0;
        let known = all.iter().find(|it| it.fact == fact && it.key == key)?;
        Some(&known.value)
    }

    /// Whether the record of this number has up to where a channel was read. Asked for each record that a
    /// compaction drops: a cursor is among the newest facts.
    pub(super) fn has_cursor(&self, number: u64) -> bool {
        let mut all = self.facts.values();
        let newest =
            |facts: &Facts| facts.0.iter().rfind(|it| it.fact == Fact::Cursor).map(|it| it.record);
        all.any(|facts| newest(facts) == Some(number))
    }

    /// Whether the record of this number has something that is kept of a channel.
    pub(super) fn has_fact(&self, number: u64) -> bool {
        self.facts.values().any(|facts| facts.0.iter().any(|it| it.record == number))
    }

    /// What the facts' own records take in the journal.
    pub fn fact_bytes(&self) -> u64 {
        self.facts.values().flat_map(|facts| &facts.0).map(|it| it.bytes).sum()
    }

    /// What stays of a message's first record when the message goes: up to where its channel was read.
    pub(super) fn cursor_left(&self, number: u64, accepted: &Accepted) -> Option<Record> {
        let (channel, origin) = (accepted.deliver.clone()?, accepted.origin.as_ref()?);
        let value = origin.cursor.clone().filter(|_| self.has_cursor(number))?;
        let (fact, key, at) = (Fact::Cursor, origin.account.clone(), accepted.at);
        Some(Record::Channel { channel, fact, key, value, at })
    }
}
