//! Records of messages: written to the journal and to the table, and read back.

use std::io;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::Entry;
use super::submit::Refusal;
use crate::journal::record::{Accepted, Record, Step};
use crate::journal::{Purpose, WriteError};
use crate::limits::DISK_RETRY_DELAY;
use crate::stored_text::StoredText;
use crate::threads::in_turn;

/// How long nothing is written before the journal says that all is durable: within twice this after
/// the last record.
const MARK_AFTER: Duration = Duration::from_millis(25);

impl Hub {
    /// Appends a record and applies it to the table: see [`Hub::write_json`].
    pub(super) fn write(&self, state: &mut State, record: &Record) -> Result<u64, WriteError> {
        self.write_json(state, (record, &record.to_json()))
    }

    /// The same with a step of a message.
    pub(super) fn write_step(
        &self,
        state: &mut State,
        (id, n): (Id, u32),
        step: Step,
    ) -> Result<u64, WriteError> {
        self.write(state, &Record::step(id, n, self.stamp(), step))
    }

    /// Appends a record with its JSON and applies it to the table. Follows the journal's order: the
    /// lock is held, and the JSON of a long one was made before.
    pub(super) fn write_json(
        &self,
        state: &mut State,
        (record, json): (&Record, &str),
    ) -> Result<u64, WriteError> {
        if let Err(why) = state.table.check(record) {
            log::error!("a record was not written, since the next start would reject it: {why}");
            return Err(WriteError::Unavailable(why));
        }
        let purpose = match record {
            Record::Accepted(_)
            | Record::Step { step: Step::Requeued | Step::Approval(_) | Step::Edited(_), .. } => {
                Purpose::NewWork
            }
            _ => Purpose::Completion,
        };
        let number =
            self.journal.append(json, purpose).map_err(|refused| self.note_refusal(refused))?;
        if let Err(why) = state.table.apply(number, record, json.len()) {
            log::error!("record {number} contradicts the records before it: {why}");
        }
        state.recent.add(number, record, json.len());
        if let Record::Step { id, step: Step::Failed(..) | Step::Dead(_), .. } = record {
            self.note_failure(state, id);
        }
        if let (Some(id), true) = (record.id().and_then(Id::parse), record.moves_turn()) {
            self.wake_channel_of(state, id);
        }
        if let Some(session) = state.table.session_of(record) {
            state.notify_followers(Some(session));
        }
        let rested = state.mark_at.replace(Instant::now() + MARK_AFTER).is_none();
        if rested || state.table.is_crowded(self.settings().config.limits.keep_results) {
            self.maintenance_wakeup.notify_all();
        }
        Ok(number)
    }

    /// Writes a record, however long the disk has no room.
    ///
    /// # Errors
    /// Unavailable: it does not follow, and was left out; TooLong; Broken, also where the gateway ends
    /// before that.
    pub(super) fn write_with_retry(
        &self,
        what: &str,
        record: &Record,
    ) -> Result<MutexGuard<'_, State>, WriteError> {
        let (mut logged, json) = (false, record.to_json());
        loop {
            let mut state = self.lock();
            let Err(refused) = self.write_json(&mut state, (record, &json)) else {
                return Ok(state);
            };
            let passes = matches!(refused, WriteError::Full(_) | WriteError::Unavailable(_));
            if !passes || state.table.check(record).is_err() {
                return Err(refused);
            }
            drop(state);
            if !std::mem::replace(&mut logged, true) {
                log::warn!("{what} waits for the disk: {refused}");
            }
            if self.aborted_within(DISK_RETRY_DELAY) {
                return Err(WriteError::Broken("the gateway ends".to_owned()));
            }
        }
    }

    /// Records what an operator or a sender wants of a message, if it can follow.
    pub(super) fn write_operation(&self, id: Id, step: Step) -> Result<(), Refusal> {
        let mut state = self.lock();
        state.table.get(id).ok_or(Refusal::Unknown)?;
        let record = Record::step(id, 0, self.stamp(), step);
        state.table.check(&record).map_err(|_| Refusal::TooLate)?;
        let number = self.write(&mut state, &record)?;
        drop(state);
        Ok(self.sync(number)?)
    }

    /// The record that began a message.
    pub(super) fn accepted(&self, entry: &Entry) -> io::Result<Accepted> {
        if entry.erased {
            return Err(io::ErrorKind::NotFound.into());
        }
        match parsed(&self.journal.read(entry.accepted)?)? {
            Record::Accepted(mut accepted) => {
                let edited = entry.channel.as_ref().map_or(0, |on| on.edited.0);
                if let Some(Step::Edited(text)) = self.step(edited)? {
                    accepted.text = text;
                }
                Ok(*accepted)
            }
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
    ) -> io::Result<(Option<Step>, Option<StoredText>)> {
        let number = entry.outcome;
        let long = self.journal.is_long(number) && self.lock().recent.get(number).is_none();
        if !long || entry.erased {
            return Ok((self.outcome(entry)?, None));
        }
        let turn = in_turn(entry.owner.principal.as_bytes());
        let (json, reply) = self.journal.read_without_reply(number, &mut |_| Ok(()))?;
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

    /// The record that began a message, its reply, and what its agent told of that.
    ///
    /// # Errors
    /// NotFound also where it has none.
    pub(super) fn exchange(&self, entry: &Entry) -> io::Result<(Accepted, String, Option<String>)> {
        match self.outcome(entry)? {
            Some(Step::Done(reply, told)) => Ok((self.accepted(entry)?, reply, told)),
            Some(_) | None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The text of a message, and the context that it came with.
    pub fn accepted_of(&self, id: Id) -> io::Result<(String, Option<String>)> {
        let entry = self.lock().table.copy(id).ok_or(io::ErrorKind::NotFound)?;
        let Accepted { text, context, .. } = self.accepted(&entry)?;
        Ok((text, context))
    }
}

fn parsed(json: &str) -> io::Result<Record> {
    Record::parse(json).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn step_of(json: &str) -> io::Result<Option<Step>> {
    let Record::Step { step, .. } = parsed(json)? else { return Ok(None) };
    Ok(Some(step))
}
