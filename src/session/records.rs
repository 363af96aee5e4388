//! What the journal says of a message, read back: how it began and how it ended.

use std::collections::VecDeque;
use std::io;

use super::hub::Hub;
use super::id::Id;
use super::message_table::Entry;
use crate::extent::Extent;
use crate::journal::record::{Accepted, Record, Step};
use crate::threads::in_turn;

/// Ends of turns that are kept in memory, and the longest record of one: 256 KiB in all.
const MAX_RECENT: usize = 32;

pub(super) const MAX_RECENT_RECORD: usize = 8 << 10;

/// Ends of turns that were just written: their clients and targets are about to be given them. Emptied
/// as soon as nothing more is written.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(u64, Step)>);

impl Recent {
    pub fn add(&mut self, number: u64, record: &Record, bytes: usize) {
        let Record::Step { step: step @ (Step::Done(..) | Step::Failed(..)), .. } = record else {
            return;
        };
        if bytes <= MAX_RECENT_RECORD {
            self.0.truncate(MAX_RECENT - 1);
            self.0.push_front((number, step.clone()));
        }
    }

    fn get(&self, number: u64) -> Option<Step> {
        self.0.iter().find(|(known, _)| *known == number).map(|(_, step)| step.clone())
    }

    pub fn clear(&mut self) {
        self.0 = VecDeque::new();
    }
}

impl Hub {
    /// The record that began a message.
    pub(super) fn accepted(&self, entry: &Entry) -> io::Result<Accepted> {
        if entry.erased {
            return Err(io::ErrorKind::NotFound.into());
        }
        match parsed(&self.journal.read(entry.accepted)?)? {
            Record::Accepted(accepted) => Ok(*accepted),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Its end or its last failed attempt.
    pub(super) fn outcome(&self, entry: &Entry) -> io::Result<Option<Step>> {
        if entry.erased { Ok(None) } else { self.step(entry.outcome) }
    }

    /// The same, without the reply where that is long, which stays in the journal.
    pub(super) fn outcome_around(
        &self,
        entry: &Entry,
    ) -> io::Result<(Option<Step>, Option<Extent>)> {
        let number = entry.outcome;
        let long = self.journal.is_long(number) && self.lock().recent.get(number).is_none();
        if !long || entry.erased {
            return Ok((self.outcome(entry)?, None));
        }
        let turn = in_turn(entry.who.principal.as_bytes());
        let (json, reply) = self.journal.read_around(number, &mut |_| Ok(()))?;
        drop(turn);
        Ok((step_of(&json)?, reply))
    }

    /// The step that this record tells of; of 0 there is none.
    pub(super) fn step(&self, number: u64) -> io::Result<Option<Step>> {
        if number == 0 {
            return Ok(None);
        }
        let recent = self.lock().recent.get(number);
        recent.map_or_else(|| step_of(&self.journal.read(number)?), |step| Ok(Some(step)))
    }

    /// The record that began a message, and its reply.
    ///
    /// # Errors
    /// NotFound also where it has none.
    pub(super) fn said(&self, entry: &Entry) -> io::Result<(Accepted, String)> {
        match self.outcome(entry)? {
            Some(Step::Done(reply, _)) => Ok((self.accepted(entry)?, reply)),
            Some(_) | None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The context that a message came with.
    pub fn context_of(&self, id: Id) -> io::Result<Option<String>> {
        let entry = self.lock().book.copy(id).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.accepted(&entry)?.context)
    }
}

fn parsed(json: &str) -> io::Result<Record> {
    Record::parse(json).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn step_of(json: &str) -> io::Result<Option<Step>> {
    match parsed(json)? {
        Record::Step { step, .. } => Ok(Some(step)),
        _ => Ok(None),
    }
}
