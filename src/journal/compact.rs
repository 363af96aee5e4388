//! A journal without its dead records, put in the place of the old one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::damage::{invalid, one_lost};
use super::framing::{Header, VERSION, line};
use super::paths::{keep, temporary};
use super::scanner::{Part, Scanner};
use super::writer::{FileJournal, Index, index_offset};
use super::{Condition, Decision, record};
use crate::limits::{COMPACT_TAIL, MAX_RECORD};
use crate::sys::fs as files;

/// How often it copies what came meanwhile, before it makes writers wait for all that is left.
const COMPACT_ROUNDS: u32 = 16;

/// Corrupt places over which a compaction goes on: more are a disk that fails.
const MAX_CORRUPT: usize = 16;

/// Says what is done with a record of this number and JSON.
type Decide<'a> = &'a mut dyn FnMut(u64, &str) -> Decision;

/// A journal that is being written.
struct NewJournal {
    to: BufWriter<File>,
    index: Index,
    end: u64,
    header: Header,
    /// How many places were corrupt.
    corrupt: usize,
    /// Where the first of them that stays is now, and why.
    still: Option<String>,
    /// Where those were of which the message is forgotten, and their bytes.
    removed: Vec<(u64, Vec<u8>)>,
}

impl NewJournal {
    /// Starts a journal at `path` in which all records below `base` are kept ones.
    fn start(path: &Path, base: u64) -> io::Result<NewJournal> {
        let header = Header { version: VERSION, base, kept: 0 };
        let mut to = BufWriter::new(files::create_new(path, 0o600)?);
        to.write_all(&header.line())?;
        let (end, removed) = (header.line().len() as u64, Vec::new());
        Ok(NewJournal { to, index: Vec::new(), end, header, corrupt: 0, still: None, removed })
    }

    /// Copies those records of a part of a journal that `decide` keeps or replaces. `None`: the part may
    /// have no gaps, so all.
    fn lines(&mut self, from: Part<'_>, mut decide: Option<Decide<'_>>) -> io::Result<()> {
        let mut scanner = Scanner::new(from);
        while let Some(segment) = scanner.next()? {
            let (at, end) = (segment.at, segment.end);
            match (segment.record, &mut decide) {
                (Ok(entry), decide) => {
                    let decision = match decide {
                        None => Decision::Keep,
                        Some(_) if entry.is_checkpoint() => Decision::Drop,
                        Some(decide) => decide(entry.number, entry.json),
                    };
                    let json = match &decision {
                        Decision::Keep => entry.json,
                        Decision::Replace(json) => json,
                        Decision::Drop | Decision::Erase => continue,
                    };
                    let line = line(entry.number, json, Some(entry.durable.unwrap_or(0)));
                    self.to.write_all(&line)?;
                    index_offset(&mut self.index, entry.number, self.end);
                    self.end += line.len() as u64;
                    self.header.kept += u64::from(entry.number < self.header.base);
                }
                (Err(why), None) => return Err(invalid(at, why)),
                (Err(why), Some(decide)) => self.copy_corrupt(from, (at, end, why), decide)?,
            }
        }
        Ok(())
    }

    /// Corruption among old records. Where the message is forgotten, the bytes go to a file beside the
    /// journal, or nowhere if they were to be erased. Else they stay in their place: what the message
    /// was can be read nowhere else, and a start must not believe that this record never was.
    fn copy_corrupt(
        &mut self,
        from: Part<'_>,
        (at, end, why): (u64, u64, &str),
        decide: &mut Decide<'_>,
    ) -> io::Result<()> {
        let length = usize::try_from(end - at).unwrap_or(usize::MAX);
        self.corrupt += 1;
        if self.corrupt > MAX_CORRUPT || length > 2 * MAX_RECORD {
            let words = format!("{why}; more than one record is damaged: the disk may be failing");
            return Err(invalid(at, &words));
        }
        let mut bytes = vec![0; length];
        from.file.read_exact_at(&mut bytes, at)?;
        match decision_on(from, &bytes, decide)? {
            Decision::Keep => {}
            Decision::Drop => {
                self.removed.push((at, bytes));
                return Ok(());
            }
            Decision::Erase | Decision::Replace(_) => return Ok(()),
        }
        if bytes.last() != Some(&b'\n') {
            bytes.push(b'\n');
        }
        self.to.write_all(&bytes)?;
        self.still.get_or_insert_with(|| one_lost(self.end, why));
        self.end += bytes.len() as u64;
        self.header.kept += 1;
        Ok(())
    }

    /// Completes the header, so that all can be read; its file.
    fn finish(&mut self) -> io::Result<File> {
        self.to.flush()?;
        self.to.get_ref().write_all_at(&self.header.line(), 0)?;
        self.to.get_ref().try_clone()
    }
}

/// Replaces the journal at `path` by all records of this part of it, in the format of today; the new
/// file, its index and its end.
pub fn copy_all(path: &Path, from: Part<'_>, base: u64) -> io::Result<(File, Index, u64)> {
    let temporary = temporary(path);
    let _ = fs::remove_file(&temporary);
    let mut copy = NewJournal::start(&temporary, base)?;
    copy.lines(from, Some(&mut |_, _| Decision::Keep))?;
    let file = copy.finish()?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    files::sync_dir_of(path)?;
    Ok((file, copy.index, copy.end))
}

/// What is done with the message of a corrupt record: it goes only with all its other records. Its id counts only
/// where another record bears it: it may be corrupt itself.
fn decision_on(from: Part<'_>, bytes: &[u8], decide: &mut Decide<'_>) -> io::Result<Decision> {
    let text = String::from_utf8_lossy(bytes);
    let json = &text[text.find('{').unwrap_or(text.len())..];
    let Some(id) = record::id_of(json) else { return Ok(Decision::Keep) };
    let (mut scanner, mut decision) = (Scanner::new(from), Decision::Keep);
    while let Some(segment) = scanner.next()? {
        if let Ok(entry) = segment.record
            && record::id_of(entry.json) == Some(id)
        {
            decision = decide(entry.number, entry.json);
            if !matches!(decision, Decision::Drop) {
                break;
            }
        }
    }
    Ok(decision)
}

impl FileJournal {
    /// Replaces the journal by way of a `temporary` file. Another compaction must not run.
    pub(super) fn replace(&self, temporary: &Path, decide: Decide<'_>) -> io::Result<()> {
        let (old, start, mut middle, base) = {
            let inner = self.lock();
            let start = inner.index.first().map_or(inner.status.size, |(_, at)| *at);
            (Arc::clone(&inner.file), start, inner.status.size, inner.status.last + 1)
        };
        // What is appended from here on has no gaps, so that only older records count as kept.
        let mut copy = NewJournal::start(temporary, base)?;
        copy.lines(Part { file: &old, at: start, end: middle }, Some(decide))?;
        for (at, bytes) in copy.removed.drain(..) {
            let create = |to: &Path| files::create(to, &bytes, 0o600);
            let kept = keep(&self.path, &format!("damaged-{at}"), &create)?;
            let kept = kept.display();
            log::warn!(
                "a damaged record of a forgotten message was moved out of the journal to {kept}"
            );
        }
        // What came meanwhile, until the rest is so little that writers can wait for it.
        for _ in 0..COMPACT_ROUNDS {
            copy.finish()?.sync_all()?;
            let end = self.lock().status.size;
            if end - middle < COMPACT_TAIL {
                break;
            }
            copy.lines(Part { file: &old, at: middle, end }, None)?;
            middle = end;
        }
        self.put(copy, temporary, Part { file: &old, at: middle, end: middle })
    }

    /// Puts a copy of the journal in its place, with what has come since: `rest` of the old file, which may have
    /// grown.
    fn put(&self, mut copy: NewJournal, temporary: &Path, rest: Part<'_>) -> io::Result<()> {
        let _call = self.health.call("a compaction of the journal");
        let mut inner = self.lock();
        // Whoever waits for a sync from here on waits for that of the new file.
        while inner.syncing {
            let round = inner.round;
            self.wait(inner, round);
            inner = self.lock();
        }
        if let Some(loss) = self.health.loss() {
            return Err(io::Error::other(loss.why));
        }
        // What somebody has put in its place is not ours to replace; the watch says so.
        if let Some(what) = self.lost_by(&inner.file) {
            return Err(io::Error::other(format!("the journal {what}")));
        }
        if let Condition::Broken(why) = &inner.status.condition {
            return Err(io::Error::other(why.clone()));
        }
        copy.lines(Part { end: inner.status.size, ..rest }, None)?;
        let file = Arc::new(copy.finish()?);
        // Writers go on, in the new file: what they wait for is its sync, and not this lock.
        (inner.file, inner.index, inner.status.size) = (Arc::clone(&file), copy.index, copy.end);
        (inner.preallocated, inner.zeros, inner.room) = (0, 0, None);
        inner.rested = inner.status.last;
        inner.begin_round();
        drop(inner);
        let named = (self.disk.sync)(&file).and_then(|()| fs::rename(temporary, &self.path));
        let named = named.and_then(|()| files::sync_dir_of(&self.path));
        let mut inner = self.lock();
        if let Err(e) = &named {
            // The next start may find the old file, which has all that was ever durable.
            inner.mark_broken(format!("the journal could not be replaced: {e}"));
        } else {
            (inner.status.corrupt, inner.known_durable) =
                (copy.still, inner.known_durable.max(copy.header.base - 1));
            inner.durable = inner.covered;
            if !matches!(inner.status.condition, Condition::Broken(_)) {
                inner.probe(self.disk);
            }
        }
        self.end_round(inner);
        named
    }
}
