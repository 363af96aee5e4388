//! What was said in a session, as the agent finds it in `HERMES_TRANSCRIPT`: JSON lines, two a turn.
//!
//! The files follow the journal: a turn is appended before its end is recorded there, without a sync
//! of its own, and [`Transcripts::reconcile`] puts back from the journal what a power cut has taken.
//! Names come from digests, never from keys that somebody chose.

mod info;

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;

use super::id::Id;
use super::message_table::{Digest, Owner, session_name};
use super::transcript_usage::TranscriptUsage;
use super::tree::Tree;
use crate::escape::quoted;
use crate::limits::MAX_TRANSCRIPT_RANGE;
use crate::sys::fs::{self as files, if_exists, private_dir, replace_unsynced};
use crate::sys::gather::Gather;
use crate::threads::lock;

/// One turn as the transcript has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub id: Id,
    /// Milliseconds since 1970.
    pub asked_at: u64,
    pub text: String,
    pub answered_at: u64,
    pub reply: String,
}

impl Turn {
    fn lines(&self) -> String {
        let line = |role: &str, at: u64, content: &str| {
            let (content, id) = (quoted(content), self.id);
            format!("{{\"role\":\"{role}\",\"content\":{content},\"id\":\"{id}\",\"at\":{at}}}\n")
        };
        let asked = line("user", self.asked_at, &self.text);
        asked + &line("assistant", self.answered_at, &self.reply)
    }
}

/// The transcripts of all sessions, in one directory. One thread at a time works on them.
#[derive(Debug, Default)]
pub struct Transcripts {
    dir: PathBuf,
    /// Sessions whose file agrees with the journal, as far as this process knows, and the time of use that is
    /// written down; a time to come where that is not known.
    reconciled: Mutex<Tree>,
    /// What there is of all sessions. Held for moments.
    pub(super) usage: Mutex<TranscriptUsage>,
}

impl Transcripts {
    pub fn new(dir: PathBuf) -> Transcripts {
        Transcripts { dir, ..Transcripts::default() }
    }

    /// Where all of them are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the transcript of a session is. It need not exist.
    pub fn path(&self, session: Digest) -> PathBuf {
        self.dir.join(session_name(session) + ".jsonl")
    }

    fn info_path(&self, session: Digest) -> PathBuf {
        self.dir.join(session_name(session) + ".json")
    }

    /// Makes the file agree with the journal before a session's first turn in this process. `known`
    /// tells which turns the journal has of it, and `load` gives one of them. Does nothing where that
    /// was done already, or where there is no transcript and none is to be made (`create`).
    pub fn reconcile(
        &self,
        (session, create): (Digest, bool),
        owner: &Owner,
        cap: usize,
        known: &dyn Fn() -> Known,
        load: &dyn Fn(Id) -> io::Result<Turn>,
    ) -> io::Result<()> {
        let mut reconciled = lock(&self.reconciled);
        if reconciled.contains_key(&session) {
            return Ok(());
        }
        let found = self.find(session);
        if found.is_none() && !create {
            return Ok(());
        }
        let Known { answered: said, unanswered: unsaid, reset } = known();
        let (text, length) = read(&self.path(session))?;
        let mut kept: Vec<(Id, &str)> = pairs(&text);
        let is_reset = |id: &Id| reset.is_some_and(|reset| *id <= reset);
        kept.retain(|(id, _)| unsaid.binary_search(id).is_err() && !is_reset(id));
        let first = kept.first().map(|(id, _)| *id);
        let (mut missing, mut size) = (Vec::new(), 0);
        // The newest first, no more than have room. Those before the first made room for others.
        let newer = said.into_iter().rev().take_while(|id| first.is_none_or(|first| *id > first));
        let is_kept = |id: &Id| kept.binary_search_by_key(id, |(id, _)| *id).is_ok();
        for id in newer.filter(|id| !is_kept(id)) {
            let lines = match load(id) {
                // What is damaged is lost to this turn alone.
                Err(e) if e.kind() == ErrorKind::InvalidData => {
                    log::warn!("turn {id} is missing from its transcript: {e}");
                    continue;
                }
                turn => turn?.lines(),
            };
            size += lines.len();
            missing.push((id, lines));
            if size > cap {
                break;
            }
        }
        // Agents open it in their first turn too.
        let named = found.is_some_and(|about| about.owner == *owner);
        let size: usize = kept.iter().map(|(_, lines)| lines.len()).sum();
        if !named || !missing.is_empty() || size as u64 != length {
            missing.iter().rev().for_each(|(id, lines)| insert(&mut kept, *id, lines));
            self.write(session, owner, &rolled(kept, cap))?;
        }
        reconciled.insert(session, u128::MAX);
        Ok(())
    }

    /// The file may lack a turn: it is looked at again before the next one.
    pub fn mark_stale(&self, session: Digest) {
        lock(&self.reconciled).remove(&session);
    }

    /// Adds a turn; the oldest ones go where more than `cap` bytes would be there. `late`: some that
    /// were accepted after it are there already. `still`: the session was not reset meanwhile.
    pub fn append(
        &self,
        session: Digest,
        owner: &Owner,
        turn: &Turn,
        (cap, late): (usize, bool),
        still: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        let mut reconciled = lock(&self.reconciled);
        if !still() {
            return Ok(());
        }
        let path = self.path(session);
        let lines = turn.lines();
        let mut options = OpenOptions::new();
        let file = options.append(true).custom_flags(files::NO_FOLLOW).open(&path);
        let file = if_exists(file)?;
        let size =
            file.as_ref().map_or(Ok(0), |file| Ok::<_, io::Error>(file.metadata()?.len()))?;
        let whole = size + lines.len() as u64;
        let Some(mut file) = file.filter(|_| !late && size > 0 && whole <= cap as u64) else {
            let text = read(&path)?.0;
            let mut turns = pairs(&text);
            insert(&mut turns, turn.id, &lines);
            return self.write(session, owner, &rolled(turns, cap));
        };
        if let Err(e) = file.write_all(lines.as_bytes()) {
            // Half a line would spoil the next one.
            file.set_len(size)?;
            return Err(e);
        }
        let now = lock(&self.usage).now;
        let said = reconciled.get_mut(&session);
        let used = said.as_deref().and_then(|said| u64::try_from(*said).ok());
        if !used.is_some_and(|used| Self::is_recent(used, now)) {
            let used = self.record_owner(session, owner)?;
            said.into_iter().for_each(|said| *said = used.into());
        }
        lock(&self.usage).set(session, &owner.principal, whole, now);
        Ok(())
    }

    /// Takes back the turn of `id`: an attempt whose end was never recorded.
    pub fn remove_turn(&self, session: Digest, id: Id) -> io::Result<()> {
        let _alone = lock(&self.reconciled);
        let path = self.path(session);
        let (text, length) = read(&path)?;
        let mut turns = pairs(&text);
        turns.retain(|(said, _)| *said != id);
        let kept = rolled(turns, usize::MAX);
        let less = (kept.len() as u64) < length;
        if less { files::replace(&path, kept.as_bytes(), 0o600) } else { Ok(()) }
    }

    /// Writes down what was said before a turn that has no session, for as long as the turn lasts.
    pub fn write_temporary(&self, id: &str, lines: &str) -> io::Result<TemporaryTranscript> {
        private_dir(&self.dir)?;
        let file = TemporaryTranscript(self.dir.join(format!("{TEMPORARY}{id}.jsonl")));
        replace_unsynced(&file.0, lines.as_bytes(), 0o600)?;
        Ok(file)
    }

    /// Removes the temporary files of a process that did not live to do so.
    pub fn remove_temporary(&self) {
        let names = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for name in names.filter(|name| name.file_name().to_string_lossy().starts_with(TEMPORARY)) {
            drop(TemporaryTranscript(name.path()));
        }
    }

    /// Makes the transcript durable, where there is one.
    pub fn sync(&self, session: Digest) -> io::Result<()> {
        for path in [self.info_path(session), self.path(session)] {
            if_exists(files::sync(&path))?;
        }
        Ok(())
    }

    fn write(&self, session: Digest, owner: &Owner, text: &str) -> io::Result<()> {
        private_dir(&self.dir)?;
        self.record_owner(session, owner)?;
        let path = self.path(session);
        // One that has something in it may be durable: its successor must be so too.
        let durable = fs::metadata(&path).is_ok_and(|meta| meta.len() > 0);
        let replace = if durable { files::replace } else { replace_unsynced };
        replace(&path, text.as_bytes(), 0o600)?;
        self.count_use(session, &owner.principal);
        Ok(())
    }
}

/// Before the id in the name of a temporary file.
const TEMPORARY: &str = "lent-";

/// A file for one turn; dropping it removes it.
#[derive(Debug)]
pub struct TemporaryTranscript(pub PathBuf);

impl Drop for TemporaryTranscript {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What the journal knows of a session since its last reset.
#[derive(Debug, Default)]
pub struct Known {
    /// The messages that were answered by a turn, in order.
    pub answered: Vec<Id>,
    /// Those that came to no reply, in order.
    pub unanswered: Vec<Id>,
    /// Nothing up to this one counts any more.
    pub reset: Option<Id>,
}

/// The text of a transcript, and the length of its file: a power cut may have left anything in the
/// last lines, and what is no text there is no turn either.
fn read(path: &Path) -> io::Result<(String, u64)> {
    let cap = *MAX_TRANSCRIPT_RANGE.end() as u64 * 2;
    let Some(file) = if_exists(files::open_own(path))? else { return Ok((String::new(), 0)) };
    let length = file.metadata()?.len();
    let bytes = files::read_bytes(file, cap)?;
    let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    Ok((text.to_owned(), length))
}

/// The turns in a transcript in the order of acceptance: both lines of each. It ends where a line is not
/// of a turn.
fn pairs(mut text: &str) -> Vec<(Id, &str)> {
    let mut turns = Vec::new();
    while let Some((id, length)) = pair(text) {
        let (lines, rest) = text.split_at(length);
        insert(&mut turns, id, lines);
        text = rest;
    }
    turns
}

fn pair(text: &str) -> Option<(Id, usize)> {
    let first = text.find('\n')? + 1;
    let second = first + text[first..].find('\n')? + 1;
    let id = |line: &str, role: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        let id = value["id"].as_str().and_then(Id::parse)?;
        (value["role"] == role && value["content"].is_string()).then_some(id)
    };
    let asked = id(&text[..first], "user")?;
    (id(&text[first..second], "assistant")? == asked).then_some((asked, second))
}

/// Inserts a turn in the order of acceptance: one that failed at first may have come to its
/// reply late.
fn insert<'a>(turns: &mut Vec<(Id, &'a str)>, id: Id, lines: &'a str) {
    let at = turns.partition_point(|(known, _)| *known <= id);
    turns.insert(at, (id, lines));
}

/// The text of some turns; without the oldest where that is longer than `cap`, so that there is room for
/// some more.
fn rolled(mut turns: Vec<(Id, &str)>, cap: usize) -> String {
    if turns.iter().map(|(_, lines)| lines.len()).sum::<usize>() > cap {
        let mut size = 0;
        let newest = turns.iter().rev().take_while(|(_, lines)| {
            size += lines.len();
            size <= cap - cap / 4
        });
        // A turn that fits by itself is kept, if it has the room of all others.
        let last = turns.last().is_some_and(|(_, lines)| lines.len() <= cap);
        let kept = newest.count().max(usize::from(last));
        turns.drain(..turns.len() - kept);
    }
    turns.iter().map(|(_, lines)| *lines).gather().concat()
}

#[cfg(test)]
mod tests;
