//! What is known of one message. Pure.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::who::{Digest, Party};
use crate::journal::record::Stamp;
use crate::session::life::{Delivery, Turn};

/// A reply's way to a target of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub target: String,
    /// `None`: there is no reply yet, or never will be.
    pub state: Option<Delivery>,
    pub attempts: u32,
    /// When it began to wait, or was revived.
    pub since: Stamp,
    /// The record that says why the last attempt failed; 0 where none did.
    pub trouble: u64,
}

/// An idempotency key and what was asked with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub key: Digest,
    pub body: Digest,
}

/// A message. Ten thousand of them are kept, so what most do not have is behind a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub who: Arc<Party>,
    pub turn: Turn,
    /// Attempts that were begun.
    pub attempts: u32,
    /// The record that holds the text.
    pub accepted: u64,
    /// The record of the end, or of the last failed attempt; 0 where there is none.
    pub outcome: u64,
    /// When it was accepted: milliseconds since 1970.
    pub at: u64,
    /// All 0 for an end that has not come.
    pub ended: Stamp,
    pub key: Option<Box<Key>>,
    pub delivery: Option<Box<Outgoing>>,
    /// What its records take in the journal.
    pub(super) bytes: u64,
}

impl Entry {
    /// Nothing will happen to it any more, unless an operator wants it.
    pub(super) fn is_settled(&self) -> bool {
        let state = self.delivery.as_ref().and_then(|outgoing| outgoing.state);
        self.turn.is_over() && !matches!(state, Some(Delivery::Pending | Delivery::Sending))
    }

    pub(super) fn is_dead(&self) -> bool {
        self.delivery_state() == Some(Delivery::Dead)
    }

    /// When it ended, or its delivery was begun anew.
    pub(super) fn quiet_since(&self) -> Stamp {
        let begun = self.delivery.as_ref().map_or(self.ended, |outgoing| outgoing.since);
        if begun.age > self.ended.age { begun } else { self.ended }
    }

    /// What its session is known by.
    pub fn session(&self) -> Option<Digest> {
        self.who.session_digest()
    }

    pub fn delivery_state(&self) -> Option<Delivery> {
        self.delivery.as_ref()?.state
    }
}
