//! What records say of channels: where on one a message came from, its reply part by part, and what is kept.

use serde::{Deserialize, Serialize};

/// Whether a member says no more than its absence.
pub(super) fn absent<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is kept of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// Up to where the platform was read. Key: the account; value: what its adapter calls the place.
    Cursor,
    /// A conversation goes on under another id. Key: the old one; value: the new one.
    Moved,
    /// Somebody was let in. Key: the platform's id; value: the name.
    Paired,
}

impl Fact {
    pub const ALL: [Fact; 3] = [Fact::Cursor, Fact::Moved, Fact::Paired];

    pub fn word(self) -> &'static str {
        match self {
            Fact::Cursor => "cursor",
            Fact::Moved => "moved",
            Fact::Paired => "paired",
        }
    }
}

/// Where on a channel a message came from, and where its reply goes there; all ids are the platform's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    pub conversation: String,
    #[serde(skip_serializing_if = "absent")]
    pub thread: Option<String>,
    /// Of the bot; empty in what did not come from the channel.
    #[serde(skip_serializing_if = "absent")]
    pub account: String,
    /// The messages that became this one; what is sent replies to the last.
    #[serde(skip_serializing_if = "absent")]
    pub ids: Vec<String>,
    /// The sender, where the platform knows one; the name is for people.
    #[serde(skip_serializing_if = "absent")]
    pub from: String,
    #[serde(skip_serializing_if = "absent")]
    pub name: String,
    /// Several people are in the conversation.
    #[serde(skip_serializing_if = "absent")]
    pub group: bool,
    /// Up to where its channel was read with it.
    #[serde(skip_serializing_if = "absent")]
    pub cursor: Option<String>,
    /// The question of an agent that it asks: its id.
    #[serde(skip_serializing_if = "absent")]
    pub prompt: Option<String>,
    /// It was old when it came: it is cancelled at once.
    #[serde(skip_serializing_if = "absent")]
    pub held: bool,
}

/// One part of a reply on its way to a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    /// From 0.
    pub part: u32,
    /// Where the parts end, in bytes of the reply: with the first part of the first attempt.
    #[serde(skip_serializing_if = "absent")]
    pub cuts: Vec<u32>,
    /// The platform's id of what it took. `None`: the part is about to be handed over; empty, with `preview`:
    /// an empty place is about to be made, or what was to be edited is gone.
    #[serde(skip_serializing_if = "absent")]
    pub sent: Option<String>,
    /// It is a preview of a reply that is still being made, or an empty place for the text.
    #[serde(skip_serializing_if = "absent")]
    pub preview: bool,
}
