//! What is known of one session: its messages, the numbers of its records and its last reset. What is
//! asked here costs what that session has, however much others have. Pure.

use super::{Digest, Entry, Id, MessageTable, session_digest};
use crate::digest_map::DigestMap;
use crate::journal::record::{Record, id_of};

/// The records of each session. A key is half of the session's digest and the record's number; its
/// value the number of the record before it of the same message, or 0.
#[derive(Debug, Default)]
pub(super) struct Records(DigestMap);

impl Records {
    pub fn add(&mut self, session: Digest, number: u64, before: u64) {
        self.0.insert(key(session, number), before.into());
    }

    /// Takes out a record and those before it of its message.
    pub fn remove(&mut self, session: Digest, mut number: u64) {
        while let Some(before) = self.0.get(key(session, number)) {
            self.0.remove(key(session, number));
            number = number_of(before);
        }
    }

    /// The numbers after this one, in order, and whether each is the first of something.
    pub fn after(
        &self,
        session: Digest,
        number: u64,
    ) -> impl DoubleEndedIterator<Item = (u64, bool)> {
        let from = key(session, number.saturating_add(1));
        let all = self.0.range(from, key(session, u64::MAX));
        all.map(|(key, before)| (number_of(key), before == 0))
    }
}

fn key(session: Digest, number: u64) -> u128 {
    session << 64 | u128::from(number)
}

fn number_of(key: u128) -> u64 {
    u64::try_from(key & u128::from(u64::MAX)).unwrap_or(0)
}

impl MessageTable {
    /// The messages of a session that began after this record, in order.
    pub fn messages_of(
        &self,
        session: Digest,
        after: u64,
    ) -> impl DoubleEndedIterator<Item = (Id, &Entry)> {
        let begun = self.records.after(session, after).filter(|(_, first)| *first);
        let known = begun.filter_map(|(number, _)| self.entries.begun_by(number));
        // Another session may have the same half of a digest.
        known.filter(move |(_, entry)| entry.session() == Some(session))
    }

    /// The numbers of a session's records after this one, in order.
    pub fn records_of(&self, session: Digest, after: u64) -> impl Iterator<Item = u64> {
        self.records.after(session, after).map(|(number, _)| number)
    }

    /// The session that a record is about, unless what it says was erased.
    pub fn session_of(&self, record: &Record) -> Option<Digest> {
        match record {
            Record::Reset { principal, session, .. } => Some(session_digest(principal, session)),
            other => {
                let entry = self.get(other.id().and_then(Id::parse)?)?;
                entry.session().filter(|_| !self.is_erased(entry))
            }
        }
    }

    /// Everything up to this record of a session is void.
    pub(super) fn reset(&mut self, session: Digest, number: u64, erases: bool) {
        let erasure = self.erasing.resets.get(session);
        for old in [self.resets.get(session), erasure].into_iter().flatten() {
            // One that erases counts until the next that does.
            if erases || Some(old) != erasure {
                self.records.remove(session, number_of(old));
            }
        }
        self.records.add(session, number, 0);
        self.resets.insert(session, number.into());
        self.newest_at_reset.insert(session, self.last.map_or(0, |id| id.0));
        if erases {
            self.erasing.resets.insert(session, number.into());
            self.erasing.sessions.push_back(session);
            // The first of its messages at once.
            self.erase_some();
        }
    }

    /// Whether a message of this session belongs to a time before its last reset.
    pub fn is_reset(&self, session: Digest, accepted: u64) -> bool {
        self.resets.get(session).is_some_and(|reset| reset > accepted.into())
    }

    /// The newest message that there was at a session's last reset, and that reset's record.
    pub fn reset_of(&self, session: Digest) -> Option<(Id, u64)> {
        let newest = self.newest_at_reset.get(session).map(Id)?;
        Some((newest, number_of(self.resets.get(session)?)))
    }

    /// Drops the resets of sessions that nothing is known of any more, of so many from this session
    /// on. Returns where to go on.
    pub fn forget_resets(&mut self, from: Digest, most: usize) -> Option<Digest> {
        let sessions: Vec<Digest> =
            self.resets.range(from, Digest::MAX).map(|(session, _)| session).take(most).collect();
        for session in &sessions {
            let known = self.messages_of(*session, 0).next().is_some();
            if known || self.erasing.left.contains(*session) {
                continue;
            }
            let resets = [&mut self.resets, &mut self.erasing.resets];
            for reset in resets.map(|resets| resets.remove(*session)).into_iter().flatten() {
                self.records.remove(*session, number_of(reset));
            }
            self.newest_at_reset.remove(*session);
        }
        let last = sessions.get(most.checked_sub(1)?)?;
        last.checked_add(1)
    }

    /// Whether a record is still needed.
    pub fn keeps(&self, number: u64, json: &str) -> bool {
        if let Some(id) = id_of(json).and_then(Id::parse) {
            return self.get(id).is_some();
        }
        match Record::parse(json) {
            Ok(Record::Reset { principal, session, .. }) => {
                let session = session_digest(&principal, &session);
                let needed = [self.resets.get(session), self.erasing.resets.get(session)];
                needed.contains(&Some(number.into()))
            }
            Ok(Record::Clock { .. }) => {
                self.clock.as_ref().is_some_and(|known| known.record == number)
            }
            // A newer gateway may need it.
            Ok(Record::Unknown { .. }) => true,
            Ok(Record::Accepted(_) | Record::Step { .. }) | Err(_) => false,
        }
    }
}
