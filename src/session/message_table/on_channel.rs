//! What is known of a message on a channel, and of the channels themselves. Pure.

use super::{Digest, MessageTable, digest_of};
use crate::journal::record::{Accepted, Fact, Origin, Part, Record};
use crate::limits::MAX_FACTS;
use crate::sys::gather::Gather;

/// Where on a channel something is said; the ids are the platform's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub conversation: String,
    pub thread: Option<String>,
}

impl Place {
    /// The same for a message that goes there.
    pub fn into_origin(self) -> Box<Origin> {
        let Place { conversation, thread } = self;
        Box::new(Origin { conversation, thread, ..Origin::default() })
    }
}

/// How far a reply has come, part by part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Where they end, in bytes of the reply.
    pub cuts: Vec<u32>,
    /// The platform's ids of the first ones, which have arrived.
    pub sent: Vec<String>,
    /// The next one, or a preview, was handed over, and nothing was heard of it.
    pub open: bool,
    /// The platform's id of the preview or empty place that the next one replaces.
    pub preview: Option<String>,
}

impl Parts {
    pub(super) fn apply(&mut self, part: &Part) {
        if !part.cuts.is_empty() {
            self.cuts.clone_from(&part.cuts);
        }
        self.open = part.sent.is_none();
        match &part.sent {
            Some(id) if part.preview => self.preview = Some(id.clone()),
            Some(id) => {
                self.preview = None;
                self.sent.push(id.clone());
            }
            None => {}
        }
    }
}

/// What a message has that is of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnChannel {
    pub place: Place,
    /// The sender, in a conversation of several people; empty elsewhere.
    pub asker: String,
    /// The platform's id of what it is, the last one where it is several.
    pub reply_to: Option<String>,
    /// The question of an agent that it asks.
    pub prompt: Option<String>,
    /// The record that has its text; 0: the one that began it.
    pub edited: u64,
    pub parts: Option<Box<Parts>>,
    /// It came from the channel, which may offer it again: its id is known for longer than its text.
    pub offered: bool,
    /// It is known by its id alone.
    pub(super) faded: bool,
    /// The keys of all its ids but the first.
    pub(super) joined: Vec<Digest>,
    /// What stays of this in the journal when the text goes.
    pub(super) left: u32,
}

impl OnChannel {
    pub(super) fn new(channel: &str, origin: &Origin) -> OnChannel {
        let Origin { conversation, thread, account, ids, from, group, prompt, cursor, .. } = origin;
        let offered = !account.is_empty();
        let more = ids.iter().skip(1).filter(|_| offered);
        let length = |id: &String| id.len() + 3;
        let left = 80 + channel.len() + account.len() + cursor.as_ref().map_or(0, length);
        let left = left + ids.iter().map(length).sum::<usize>();
        OnChannel {
            place: Place { conversation: conversation.clone(), thread: thread.clone() },
            asker: if *group { from.clone() } else { String::new() },
            reply_to: ids.last().cloned(),
            prompt: prompt.clone(),
            offered,
            joined: more.map(|id| channel_key(channel, account, id)).gather(),
            left: u32::try_from(left).unwrap_or(u32::MAX),
            ..OnChannel::default()
        }
    }

    /// Forgets all but what tells that it was offered.
    pub(super) fn erase(&mut self) {
        let OnChannel { offered, faded, left, .. } = *self;
        let joined = std::mem::take(&mut self.joined);
        *self = OnChannel { offered, faded, left, joined, ..OnChannel::default() };
    }
}

/// The idempotency key of what a platform calls so.
pub fn channel_key(channel: &str, account: &str, id: &str) -> Digest {
    digest_of(&[b"channel", channel.as_bytes(), account.as_bytes(), id.as_bytes()])
}

/// What is kept of a channel, and the record that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    fact: Fact,
    key: String,
    value: String,
    record: u64,
    bytes: u64,
}

/// What is kept of one channel, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Facts(Vec<Known>);

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
