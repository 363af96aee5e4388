//! What is left of messages whose session was reset: ids and idempotency keys, so that a repeat is told
//! so and becomes no second turn. Pure.

use std::collections::VecDeque;

use super::{Cause, Digest, Entry, Id, MessageTable};
use crate::digest_map::DigestMap;
use crate::journal::Fate;
use crate::journal::record::{Accepted, Record, Step, id_of};
use crate::limits::{ERASED_AT_ONCE, ERASED_BYTES};

/// Messages that are on their way out.
#[derive(Debug, Default)]
pub(super) struct Erasing {
    /// Sessions that were reset, and may have messages of before that.
    pub sessions: VecDeque<Digest>,
    /// The last reset of each, by its record.
    pub resets: DigestMap,
    /// How many erased messages are known of each: as long the reset is told to who follows it.
    pub left: DigestMap,
}

impl MessageTable {
    /// Whether a message was over when its session was reset.
    pub fn is_erased(&self, entry: &Entry) -> bool {
        let reset = entry.session().and_then(|session| self.erasing.resets.get(session));
        let newest = u128::from(entry.outcome.max(entry.accepted));
        entry.erased || (entry.turn.is_over() && reset.is_some_and(|reset| reset > newest))
    }

    /// A message as it is now, with or without what it said.
    pub fn copy(&self, id: Id) -> Option<Entry> {
        let entry = self.get(id)?;
        Some(Entry { erased: self.is_erased(entry), ..entry.clone() })
    }

    /// Whether nothing of a session is queued, runs, is to be delivered or could not be.
    pub fn is_idle(&self, session: Digest) -> bool {
        self.busy.get(session).is_none()
    }

    /// Takes a step of a message that was erased.
    pub(super) fn end_erased(&mut self, id: Id, step: &Step, (number, _, at): Cause, bytes: u64) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if let Step::Cancelled(_) = step {
            (entry.outcome, entry.ended) = (number, at);
            entry.bytes += bytes;
            self.accounts.of(&entry.who.principal).bytes += bytes;
        }
    }

    /// Counts a message that keeps its session from being idle, or one that does so no more.
    pub(super) fn keep_busy(&mut self, session: Option<Digest>, more: bool) {
        session.into_iter().for_each(|session| self.busy.count(session, more));
    }

    /// Erases some messages of sessions that were reset; says whether there are more.
    pub fn erase_some(&mut self) -> bool {
        let Some(session) = self.erasing.sessions.front().copied() else { return false };
        let reset = self.erasing.resets.get(session).unwrap_or(0);
        let old = |entry: &Entry| u128::from(entry.accepted) < reset;
        let before = self.messages_of(session, 0).take_while(|(_, entry)| old(entry));
        let erased = before.filter(|(_, entry)| self.is_erased(entry));
        let ids: Vec<Id> = erased.map(|(id, _)| id).take(ERASED_AT_ONCE).collect();
        self.must_erase |= !ids.is_empty();
        ids.iter().for_each(|id| self.erase(*id));
        if ids.len() < ERASED_AT_ONCE {
            self.erasing.sessions.pop_front();
        }
        !self.erasing.sessions.is_empty()
    }

    /// Forgets all of a message but its id and idempotency key.
    pub(super) fn erase(&mut self, id: Id) {
        self.change(id, |entry| {
            (entry.delivery, entry.failing, entry.erased) = (None, None, true);
        });
        let Some(entry) = self.entries.get_mut(id) else { return };
        let names = entry.who.principal.len() + entry.who.session.as_ref().map_or(0, String::len);
        // Of one without a key nothing stays: it is known until it is overdue, or the next start.
        let left =
            if entry.key.is_none() { 0 } else { entry.bytes.min(ERASED_BYTES + names as u64) };
        self.accounts.of(&entry.who.principal).bytes -= entry.bytes - left;
        entry.bytes = left;
        let latest = std::mem::take(&mut entry.latest);
        if let Some(session) = entry.session() {
            self.records.remove(session, latest);
            self.erasing.left.count(session, true);
        }
    }

    /// What a compaction does with a record.
    pub fn fate(&self, number: u64, json: &str) -> Fate {
        let id = id_of(json).and_then(Id::parse);
        let entry = id.and_then(|id| Some((id, self.get(id)?)));
        let Some((id, entry)) = entry.filter(|(_, entry)| self.is_erased(entry)) else {
            return if self.keeps(number, json) { Fate::Keep } else { Fate::Drop };
        };
        // New ids come after the newest.
        let stays = entry.key.is_some() || self.last == Some(id);
        if stays && number == entry.outcome {
            // So that an older gateway does not take the message for one that waits. Made without a look
            // at the reply, which may be long: the lock is held.
            let left = Record::step(id, 0, entry.ended, Step::Cancelled(String::new()));
            return Fate::Replace(left.to_json());
        }
        match (stays && number == entry.accepted).then(|| Record::parse(json)) {
            // It knows the idempotency key.
            Some(Ok(Record::Accepted(accepted))) => {
                let Accepted { id, at, principal, session, key, body, .. } = *accepted;
                let left =
                    Accepted { id, at, principal, session, key, body, ..Accepted::default() };
                let left = Accepted { erased: true, ..left };
                Fate::Replace(Record::Accepted(Box::new(left)).to_json())
            }
            _ => Fate::Erase,
        }
    }
}
