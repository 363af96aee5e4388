//! The journal: a durable log of records, in the order in which they were written.
//!
//! What may enter: how records get to disk and back, when they are durable, and what is wrong with a
//! file. What a record says is in [`record`]; what follows from it is decided above.

mod compact;
mod damage;
mod file;
mod framing;
mod health;
mod long_record;
mod loss;
mod memory;
mod origin;
mod parse;
mod paths;
pub mod record;
mod repair;
mod replay;
mod scanner;
#[cfg(test)]
pub mod tests;
mod writer;

use std::fmt;
use std::io;

pub use damage::{Corruption, Report, inspect};
pub use health::{Health, Loss};
pub use memory::MemoryJournal;
pub use paths::{NAME, saved};
pub use repair::repair;
pub use replay::inspect_records;
pub use writer::FileJournal;

use crate::limits::{JOURNAL_PREALLOCATED, MAX_RECORD};
use crate::stored_text::StoredText;

/// The part of `max_journal` that new work leaves to what completes the work there is, as a divisor;
/// at least [`JOURNAL_PREALLOCATED`], but never more than half of a small journal.
const JOURNAL_RESERVE: u64 = 8;

/// What looks at each record of a file, by number and JSON, and may find it wrong.
pub type Visit<'a> = &'a mut dyn FnMut(u64, &str) -> Result<(), String>;

/// A log of records. Records have numbers that only grow; each is one line of JSON.
///
/// Two implementations stand behind it: a file, and memory for tests and `--ephemeral`.
pub trait Journal: Send + Sync {
    /// Appends a record and returns its number. It survives a power cut, or the end of this process in
    /// the last moment of a compaction, only once [`Journal::sync`] has returned for its number.
    ///
    /// # Errors
    /// Nothing was appended, or it was taken back: see [`WriteError`].
    fn append(&self, json: &str, purpose: Purpose) -> Result<u64, WriteError>;

    /// Waits until the record of this number, and so all before it, are durable. One sync of the
    /// disk serves all that wait.
    ///
    /// # Errors
    /// The disk did not keep its word; the journal is broken from now on.
    fn sync(&self, number: u64) -> Result<(), WriteError>;

    /// Makes all that was written durable and writes that down, unless it says so already: what a
    /// start may cut off without an operator begins behind it. Called when no more has come for a
    /// while, and at the end.
    ///
    /// # Errors
    /// As with [`Journal::sync`]; or there was no room for it, which costs nothing else.
    fn checkpoint(&self) -> Result<(), WriteError> {
        Ok(())
    }

    /// The JSON of one record.
    ///
    /// # Errors
    /// NotFound where it was compacted away; InvalidData where it is corrupt, which is
    /// [`Condition::Degraded`] from then on. Other records are not affected.
    fn read(&self, number: u64) -> io::Result<String>;

    /// The same, where the reply in it may be left out because it is long: what is in it then. `room` is
    /// asked first where as many bytes are loaded all the same.
    ///
    /// # Errors
    /// As with [`Journal::read`], and what `room` says.
    fn read_without_reply(
        &self,
        number: u64,
        _room: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<(String, Option<StoredText>)> {
        self.read(number).map(|json| (json, None))
    }

    /// Whether this record may be one whose reply is left out there.
    fn is_long(&self, _number: u64) -> bool {
        false
    }

    /// Shows every record after number `after` in order, until `visit` says false or the end that
    /// the journal had when the call began. Damaged ones are left out.
    fn scan(&self, after: u64, visit: &mut dyn FnMut(u64, &str) -> bool) -> io::Result<()>;

    /// Does with each record what `decide` says, by replacement of the whole; writers go on meanwhile, and
    /// what they append is kept unseen. A record that was dropped once is never asked for again. A corrupt
    /// one is kept as it is, or in a file beside the journal where its message is forgotten.
    fn rewrite(&self, decide: &mut dyn FnMut(u64, &str) -> Decision) -> io::Result<()>;

    /// Changes the most bytes that the journal may have.
    fn set_cap(&self, cap: u64);

    /// Looks whether room has come back, and whether the journal's path still leads to its file. To be
    /// called every few seconds, by a thread that may hang with the disk.
    fn check_file(&self) {}

    /// How it and its disk are: told at once, whatever the disk does.
    fn health(&self) -> &Health;

    /// The number of the last record; 0 where there never was one.
    fn last(&self) -> u64 {
        self.health().status().last
    }

    /// Bytes on disk.
    fn size(&self) -> u64 {
        self.health().status().size
    }

    /// Whether new work can be taken.
    fn condition(&self) -> Condition {
        self.health().condition()
    }
}

impl fmt::Debug for dyn Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Journal")
    }
}

/// What a compaction does with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Keep,
    Drop,
    /// Drops it, and leaves no copy of it anywhere.
    Erase,
    /// Erases it and puts this in its place.
    Replace(String),
}

/// What a record is for. New work has to leave a reserve to what completes the work there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    NewWork,
    Completion,
}

/// Why a record was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The journal has reached its cap, or the disk is full: later, when there is room.
    Full(String),
    /// The disk refused for another reason; the next try may go better.
    Unavailable(String),
    /// The record is longer than a record may be.
    TooLong,
    /// A sync failed: what was written may be lost, and nothing more is taken until a restart has
    /// read the file again.
    Broken(String),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Full(why) | WriteError::Unavailable(why) | WriteError::Broken(why) => {
                f.write_str(why)
            }
            WriteError::TooLong => f.write_str("the record is too long for the journal"),
        }
    }
}

/// How the journal is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    #[default]
    Good,
    /// New work is refused for now, or a record is corrupt; why.
    Degraded(String),
    /// See [`WriteError::Broken`].
    Broken(String),
}

/// What a record has to be, whatever is in it.
fn check_json(json: &str) -> Result<(), WriteError> {
    let is_object = json.starts_with("{\"") && json.ends_with('}') && !json.contains('\n');
    match json.len() {
        0..=MAX_RECORD if is_object => Ok(()),
        0..=MAX_RECORD => {
            Err(WriteError::Unavailable("a record has to be one line of a JSON object".to_owned()))
        }
        _ => Err(WriteError::TooLong),
    }
}

/// The part of a cap that new work may fill.
pub fn new_work_capacity(cap: u64) -> u64 {
    cap - (cap / JOURNAL_RESERVE).max(JOURNAL_PREALLOCATED).min(cap / 2)
}
