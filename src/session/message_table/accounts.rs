//! What each principal has, for its share of what is kept. Pure.

use std::collections::VecDeque;

use super::entry::Entry;
use crate::named::ByName;
use crate::session::id::Id;
use crate::session::states::{DeliveryState, TurnState};

/// How many messages there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub queued: usize,
    pub running: usize,
    /// Replies that wait for their delivery.
    pub outbox: usize,
    pub dead_letters: usize,
    /// All that are known.
    pub kept: usize,
    /// What their records take in the journal.
    pub bytes: u64,
    /// What their attachments take on the disk.
    pub attachments: u64,
}

impl Counts {
    /// A message as it is counted.
    pub(super) fn of(entry: &Entry) -> Counts {
        Counts {
            queued: usize::from(matches!(entry.turn, TurnState::Queued | TurnState::Backoff)),
            running: usize::from(entry.turn == TurnState::Running),
            outbox: usize::from(entry.is_to_be_sent()),
            dead_letters: usize::from(entry.delivery_state() == Some(DeliveryState::Dead)),
            kept: 1,
            bytes: entry.bytes,
            attachments: entry.files.as_ref().map_or(0, |files| files.bytes),
        }
    }

    /// Counts what was `before` as what is `after`.
    pub(super) fn replace(&mut self, before: Counts, after: Counts) {
        self.queued = self.queued + after.queued - before.queued;
        self.running = self.running + after.running - before.running;
        self.outbox = self.outbox + after.outbox - before.outbox;
        self.dead_letters = self.dead_letters + after.dead_letters - before.dead_letters;
        self.kept = self.kept + after.kept - before.kept;
        self.bytes = self.bytes + after.bytes - before.bytes;
        self.attachments = self.attachments + after.attachments - before.attachments;
    }

    /// A message that keeps its session from being idle.
    pub(super) fn is_busy(self) -> bool {
        self.queued + self.running + self.outbox + self.dead_letters > 0
    }
}

/// What one principal has.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub counts: Counts,
    /// What the records of its living agents' own sessions take in the journal.
    pub agent_session_bytes: u64,
    /// Settled messages without a key, in the order in which they settled.
    pub unkeyed: VecDeque<Id>,
}

impl Account {
    /// What all its records take in the journal.
    pub fn bytes(&self) -> u64 {
        self.counts.bytes + self.agent_session_bytes
    }
}

/// What each principal holds of something, by name.
pub type Usage = ByName<Vec<(&'static str, u64)>>;
