//! What is known of a message on a channel, and of the channels themselves. Pure.

use super::owner::{Digest, digest_of};
use crate::journal::record::{Fact, Origin, Part};
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
    /// The record that has its text, and the bytes of that; 0: the one that began it.
    pub edited: (u64, u64),
    pub parts: Option<Box<Parts>>,
    /// It is to be cancelled before it gets a turn.
    pub held: bool,
    /// The keys of all its ids but the first.
    pub joined: Vec<Digest>,
}

impl OnChannel {
    pub(super) fn new(channel: &str, origin: &Origin) -> OnChannel {
        let Origin { conversation, thread, account, ids, from, group, prompt, .. } = origin;
        let more = ids.iter().skip(1).filter(|_| !account.is_empty());
        OnChannel {
            place: Place { conversation: conversation.clone(), thread: thread.clone() },
            asker: if *group { from.clone() } else { String::new() },
            reply_to: ids.last().cloned(),
            prompt: prompt.clone(),
            held: origin.held,
            joined: more.map(|id| channel_key(channel, account, id)).gather(),
            ..OnChannel::default()
        }
    }

    /// Forgets where anything could go. Whether nothing is left.
    pub(super) fn settle(&mut self) -> bool {
        let (edited, joined) = (self.edited, std::mem::take(&mut self.joined));
        *self = OnChannel { edited, joined, ..OnChannel::default() };
        edited.0 == 0 && self.joined.is_empty()
    }
}

/// What stays in the journal of a message that a channel has offered when its text goes; 0 of others.
pub(super) fn bytes_left(channel: &str, origin: &Origin) -> u32 {
    let Origin { account, ids, cursor, .. } = origin;
    let length = |id: &String| id.len() + 3;
    let left = 80 + channel.len() + account.len() + cursor.as_ref().map_or(0, length);
    let left = left + ids.iter().map(length).sum::<usize>();
    if account.is_empty() { 0 } else { u32::try_from(left).unwrap_or(u32::MAX) }
}

/// The idempotency key of what a platform calls so.
pub fn channel_key(channel: &str, account: &str, id: &str) -> Digest {
    digest_of(&[b"channel", channel.as_bytes(), account.as_bytes(), id.as_bytes()])
}

/// What is kept of a channel, and the record that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub fact: Fact,
    pub key: String,
    pub value: String,
    pub record: u64,
    pub bytes: u64,
}

/// What is kept of one channel, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Facts(pub Vec<Known>);
