//! What goes into the outbox and what comes out of it. Pure.

use std::time::Duration;

use crate::channel::wire::{Can, Outbound, Ready, Unit};
use crate::config::{Channel, Uncertain};
use crate::journal::record::Step;
use crate::session::Id;

/// What the configuration says.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub uncertain: Uncertain,
    /// Between two states of a preview.
    pub pace: Duration,
}

impl Rules {
    pub fn of(channel: &Channel) -> Rules {
        Rules { uncertain: channel.uncertain, pace: channel.pace }
    }
}

/// What an adapter that is ready can do.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    pub edit: bool,
    pub delete: bool,
    /// Its platform shows what has the id of an earlier send only once.
    pub key: bool,
    pub max_len: u32,
    pub unit: Unit,
    /// Sends without an answer at once.
    pub send_window: usize,
}

impl Abilities {
    pub fn of(ready: &Ready) -> Abilities {
        Abilities {
            edit: ready.can.has(Can::EDIT),
            delete: ready.can.has(Can::DELETE),
            key: ready.outbound == Outbound::Key,
            max_len: u32::try_from(ready.max_len).unwrap_or(u32::MAX),
            unit: ready.unit,
            send_window: usize::try_from(ready.send_window).unwrap_or(usize::MAX).max(1),
        }
    }
}

/// A reply as the journal has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    pub id: Id,
    pub thread: Option<String>,
    /// The platform's id of what it answers.
    pub reply_to: Option<String>,
    /// The question that it asks.
    pub prompt: Option<String>,
    pub markdown: bool,
    /// Attempts so far.
    pub attempts: u32,
    pub text: String,
    /// Where its parts end; empty: it was not begun.
    pub cuts: Vec<u32>,
    /// The first parts that have receipts.
    pub sent: usize,
    /// The text of the next part was handed over, and nothing was heard of it.
    pub open: bool,
    /// The platform's id of what the next part replaces; none, or empty, where there is nothing.
    pub preview: Option<String>,
}

/// A reply that is still being made.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    pub id: Id,
    pub conversation: &'a str,
    pub thread: Option<&'a str>,
    pub reply_to: Option<&'a str>,
    /// The platform's id of a preview of an earlier attempt, which it goes on in.
    pub preview: Option<&'a str>,
    pub text: &'a str,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read this reply, for [`load`](super::Outbox::load); or [`put_off`](super::Outbox::put_off),
    /// or [`forget`](super::Outbox::forget).
    Load(Id),
    /// Append this record of attempt `n`, then call [`written`](super::Outbox::written), once it is durable
    /// if it has to be; or [`unwritten`](super::Outbox::unwritten) where that may work later, or
    /// [`forget`](super::Outbox::forget). An attempt of 0: it is a preview.
    Write { id: Id, n: u32, step: Step, durable: bool },
    /// Hand it over.
    Send(Box<Send>),
    /// Have this message of the platform taken back.
    Delete { id: Id, conversation: String, message: String },
    /// Remember that a conversation goes on under another id.
    Moved { from: String, to: String },
}

/// One part to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Send {
    pub id: Id,
    /// 0: a preview.
    pub attempt: u32,
    pub part: u32,
    pub parts: u32,
    pub conversation: String,
    pub thread: Option<String>,
    pub reply_to: Option<String>,
    /// With the last part.
    pub prompt: Option<String>,
    pub text: String,
    pub markdown: bool,
    /// The platform's id of what is edited.
    pub replaces: Option<String>,
    /// Not a preview, and not an empty place.
    pub last: bool,
}
