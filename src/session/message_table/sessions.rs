//! What is known of one session: its messages, the numbers of its records and its last reset. What is
//! asked here costs what that session has, however much others have. Pure.

use super::{Digest, Entry, Id, MessageTable, session_digest};
use crate::journal::record::{Record, id_of};
use crate::session::states::TurnState;
use crate::session::tree::halves;
use crate::sys::gather::Gather;

impl MessageTable {
    /// The messages of a session that began after this record, in order.
    pub fn messages_of(
        &self,
        session: Digest,
        after: u64,
    ) -> impl DoubleEndedIterator<Item = (Id, &Entry)> {
        let begun = self.records.firsts(session, after);
        let known = begun.filter_map(|number| self.entries.begun_by(number));
        // Another session may have the same half of a digest.
        known.filter(move |(_, entry)| entry.session() == Some(session))
    }

    /// Whether a message of this session that was accepted after this one has its reply already.
    pub fn is_late(&self, id: Id, session: Digest) -> bool {
        let after = self.get(id).map_or(0, |entry| entry.accepted);
        self.messages_of(session, after).rev().any(|(_, entry)| entry.turn == TurnState::Done)
    }

    /// The numbers of a session's records after this one, in order.
    pub fn records_of(&self, session: Digest, after: u64) -> impl Iterator<Item = u64> {
        self.records.after(session, after)
    }

    /// The session that a record is about, unless what it says was erased.
    pub fn session_of(&self, record: &Record) -> Option<Digest> {
        match record {
            Record::Reset { principal, session, .. }
            | Record::AgentSession { principal, session, .. } => {
                Some(session_digest(principal, session))
            }
            other => {
                let entry = self.get(other.id().and_then(Id::parse)?)?;
                entry.session().filter(|_| !self.is_erased(entry))
            }
        }
    }

    /// The record of the living agent's own session for this one; 0 without one.
    pub fn agent_session_of(&self, session: Digest) -> u64 {
        self.agent_sessions.get(&session).map_or(0, |kept| halves(*kept).0)
    }

    /// The record of this number has the living agent's own session for this one of a principal; 0: there
    /// is none any more.
    pub(super) fn keep_agent_session(
        &mut self,
        (principal, session): (&str, Digest),
        number: u64,
        bytes: u64,
    ) {
        let before = match number {
            0 => self.agent_sessions.remove(&session),
            _ => self.agent_sessions.insert(session, u128::from(number) << 64 | u128::from(bytes)),
        };
        let (before, freed) = before.map_or((0, 0), halves);
        let own = self.accounts.of(principal);
        own.agent_session_bytes = own.agent_session_bytes + bytes - freed;
        self.records.remove(session, before);
        if number > 0 {
            self.records.add(session, number, 0);
        }
    }

    /// Everything up to this record of a session is void.
    pub(super) fn reset(&mut self, of: (&str, Digest), number: u64, erases: bool) {
        self.keep_agent_session(of, 0, 0);
        let session = of.1;
        let reset = self.resets.of(session);
        let old = [std::mem::replace(&mut reset.last, number), reset.erasure];
        reset.newest = self.last.unwrap_or_default();
        // One that erases counts until the next that does.
        let erasure = if erases { number } else { reset.erasure };
        reset.erasure = erasure;
        let void = old.into_iter().filter(|old| *old != erasure);
        void.for_each(|old| self.records.remove(session, old));
        self.records.add(session, number, 0);
        if erases {
            self.to_erase.push_back(session);
            // The first of its messages at once.
            self.erase_some();
        }
    }

    /// Whether nothing of a session is queued, runs, is to be delivered or could not be.
    pub fn is_idle(&self, session: Digest) -> bool {
        !self.busy.contains_key(&session)
    }

    /// Whether a message of this session belongs to a time before its last reset.
    pub fn is_reset(&self, session: Digest, accepted: u64) -> bool {
        self.resets.get(session).is_some_and(|reset| reset.last > accepted)
    }

    /// The newest message that there was at a session's last reset, and that reset's record.
    pub fn reset_of(&self, session: Digest) -> Option<(Id, u64)> {
        self.resets.get(session).map(|reset| (reset.newest, reset.last))
    }

    /// The sessions that were reset, from this one on.
    pub fn reset_sessions(&self, from: Digest) -> impl Iterator<Item = Digest> {
        self.resets.keys_from(from)
    }

    /// Drops the resets of sessions that nothing is known of any more, of so many from this session
    /// on. Returns where to go on.
    pub fn forget_resets(&mut self, from: Digest, most: usize) -> Option<Digest> {
        let sessions: Vec<Digest> = self.reset_sessions(from).take(most).gather();
        for session in &sessions {
            let known = self.messages_of(*session, 0).next().is_some();
            if let Some(reset) = self.resets.get(*session).filter(|it| !known && it.erased == 0) {
                let records = [reset.last, reset.erasure];
                records.into_iter().for_each(|record| self.records.remove(*session, record));
                self.resets.remove(*session);
            }
        }
        let last = sessions.get(most.checked_sub(1)?)?;
        last.checked_add(1)
    }

    /// Whether a record is still needed.
    pub fn is_needed(&self, number: u64, json: &str) -> bool {
        if let Some(id) = id_of(json).and_then(Id::parse) {
            // Of its texts the newest counts.
            let newest = |entry: &Entry| entry.channel.as_ref().map_or(0, |on| on.edited.0);
            let is_text = json.starts_with(r#"{"t":"edited""#);
            return self.get(id).is_some_and(|entry| !is_text || newest(entry) == number);
        }
        match Record::parse(json) {
            Ok(Record::Reset { principal, session, .. }) => {
                let reset = self.resets.get(session_digest(&principal, &session));
                reset.is_some_and(|reset| [reset.last, reset.erasure].contains(&number))
            }
            Ok(Record::AgentSession { principal, session, .. }) => {
                self.agent_session_of(session_digest(&principal, &session)) == number
            }
            Ok(Record::Clock { .. }) => {
                self.clock.as_ref().is_some_and(|known| known.record == number)
            }
            Ok(Record::Channel { .. }) => self.has_fact(number),
            // A newer gateway may need it.
            Ok(Record::Unknown { .. }) => true,
            Ok(Record::Accepted(_) | Record::Step { .. }) | Err(_) => false,
        }
    }
}
