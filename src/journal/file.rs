//! The journal as a file. A record is one write; one `fdatasync` serves all that wait for it.
//!
//! A write that fails is taken back, and the next one may succeed. A sync that fails is never tried
//! again on that descriptor: the kernel may have dropped what it could not write, and would report
//! success (PostgreSQL's and the ATC'20 findings): the journal is broken until a start reads it anew.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::format::{Header, line, parse};
use super::read::{Damage, Lines, Next, Range, Torn, walk};
use super::{Condition, Journal, Purpose, Refused, over_cap};
use crate::limits::{
    DISK_PROBE, INDEX_STEP, JOURNAL_AHEAD, JOURNAL_RESERVE, LARGE_READ, MAX_RECORD, SMALL_BUFFER,
};
use crate::sys::fs as files;

/// The journal's name in the state directory.
pub const NAME: &str = "journal";

/// A journal in a file that is open for writing.
#[derive(Debug)]
pub struct FileJournal {
    pub(super) path: PathBuf,
    pub(super) inner: Mutex<Inner>,
    /// A sync has ended.
    pub(super) synced: Condvar,
    /// One compaction at a time.
    pub(super) compacting: Mutex<()>,
    syncs: AtomicU64,
    /// For the test that a journal without syncs loses something; debug builds only.
    no_sync: bool,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) file: Arc<File>,
    pub(super) length: u64,
    /// The disk has room up to here.
    pub(super) allocated: u64,
    pub(super) next: u64,
    /// The last record that is durable.
    pub(super) durable: u64,
    pub(super) syncing: bool,
    pub(super) index: Index,
    cap: u64,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
enum Trouble {
    /// The last record was not taken; looked at again after a while.
    Passing {
        why: String,
        at: Instant,
    },
    Broken(String),
}

/// What opening found beside the records.
#[derive(Debug, Default)]
pub struct Opened {
    /// Words on an incomplete last record, which was cut off.
    pub torn: Option<String>,
}

impl FileJournal {
    /// Opens the journal of a state directory, or makes it, and shows every record. `cap`: the bytes
    /// that it may have.
    ///
    /// # Errors
    /// What is wrong with the file, by `visit` too. It is left as it is then.
    pub fn open(
        dir: &Path,
        cap: u64,
        visit: &mut dyn FnMut(u64, &str) -> Result<(), String>,
    ) -> Result<(FileJournal, Opened), Damage> {
        let path = dir.join(NAME);
        let io = |e: io::Error| Damage::io(&path, &e);
        // Left by a compaction that did not come to its end.
        match fs::remove_file(new_path(&path)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
            Ok(()) | Err(_) => {}
        }
        match files::open_own(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                files::replace(&path, &Header { base: 1, kept: 0 }.line(), 0o600).map_err(io)?;
            }
            result => drop(result.map_err(io)?),
        }
        let file = Arc::new(files::open_or_create(&path).map_err(io)?);
        let mut index = Index::default();
        let walked = walk(&path, &file, &mut |offset, number, json| {
            index.note(number, offset);
            visit(number, json)
        })?;
        let mut opened = Opened::default();
        if let Some(torn) = walked.torn {
            opened.torn = Some(cut(&path, &file, torn).map_err(io)?);
        }
        let inner = Inner {
            file,
            length: walked.end,
            allocated: walked.end,
            next: walked.last + 1,
            // What a killed process has written need not be on the disk yet.
            durable: 0,
            syncing: false,
            index,
            cap,
            trouble: None,
        };
        let no_sync =
            cfg!(debug_assertions) && std::env::var_os("HERMES_TEST_NO_FDATASYNC").is_some();
        let journal = FileJournal {
            path,
            inner: Mutex::new(inner),
            synced: Condvar::new(),
            compacting: Mutex::new(()),
            syncs: AtomicU64::new(0),
            no_sync,
        };
        Ok((journal, opened))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sync_file(&self, file: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if self.no_sync { Ok(()) } else { file.sync_data() }
    }

    /// How often the disk was asked to sync.
    #[cfg(test)]
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// The lines from the one of this number on, or a little before it, up to the present end.
    fn lines_from(&self, number: u64, buffer: usize) -> Lines {
        let inner = self.lock();
        let at = inner.index.before(number);
        Lines::new(Range::new(Arc::clone(&inner.file), at, inner.length), buffer)
    }
}

impl Journal for FileJournal {
    fn append(&self, json: &str, purpose: Purpose) -> Result<u64, Refused> {
        if json.len() > MAX_RECORD - 64 {
            return Err(Refused::TooLong);
        }
        let mut inner = self.lock();
        inner.is_whole()?;
        let number = inner.next;
        let line = line(number, json);
        let result = inner.append(&line, purpose);
        match result {
            Ok(()) => {
                let offset = inner.length - line.len() as u64;
                inner.index.note(number, offset);
                inner.next += 1;
                if purpose == Purpose::NewWork {
                    inner.trouble = None;
                }
                Ok(number)
            }
            Err(refused) => {
                if inner.trouble.is_none() {
                    log::warn!("the journal took no record: {refused}");
                }
                let why = refused.to_string();
                inner.trouble = Some(match refused {
                    Refused::Broken(_) => Trouble::Broken(why),
                    Refused::Full(_) | Refused::Unavailable(_) | Refused::TooLong => {
                        Trouble::Passing { why, at: Instant::now() }
                    }
                });
                Err(refused)
            }
        }
    }

    fn sync(&self, number: u64) -> Result<(), Refused> {
        let mut inner = self.lock();
        loop {
            // What is durable stays so, whatever broke since.
            if inner.durable >= number {
                return Ok(());
            }
            inner.is_whole()?;
            if inner.syncing {
                inner = self.synced.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            // Whoever finds no sync under way makes one, for all that is written by now.
            inner.syncing = true;
            let (file, last) = (Arc::clone(&inner.file), inner.next - 1);
            drop(inner);
            let result = self.sync_file(&file);
            inner = self.lock();
            inner.syncing = false;
            match result {
                Ok(()) => inner.durable = inner.durable.max(last),
                Err(e) => {
                    let why = format!("{} could not be synced: {e}", self.path.display());
                    inner.break_down(why);
                }
            }
            self.synced.notify_all();
        }
    }

    fn read(&self, number: u64) -> io::Result<String> {
        let mut lines = self.lines_from(number, SMALL_BUFFER);
        while let Next::Line(_, line) = lines.next()? {
            let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
            // The number stands behind the checksum; those of other records need no check.
            let (found, json) = match number_of(line) {
                Some(found) if found < number => continue,
                Some(_) | None => parse(line).map_err(invalid)?,
            };
            if found == number {
                return Ok(json.to_owned());
            }
            break;
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn scan(&self, after: u64, visit: &mut dyn FnMut(u64, &str) -> bool) -> io::Result<()> {
        let mut lines = self.lines_from(after + 1, LARGE_READ);
        while let Next::Line(_, line) = lines.next()? {
            if number_of(line).is_some_and(|number| number <= after) {
                continue;
            }
            let (number, json) =
                parse(line).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
            if number > after && !visit(number, json) {
                break;
            }
        }
        Ok(())
    }

    fn compact(&self, keep: &mut dyn FnMut(u64, &str) -> bool) -> io::Result<()> {
        super::compact::compact(self, keep)
    }

    fn last(&self) -> u64 {
        self.lock().next - 1
    }

    fn size(&self) -> u64 {
        self.lock().length
    }

    fn set_cap(&self, cap: u64) {
        self.lock().cap = cap;
    }

    fn condition(&self) -> Condition {
        let mut inner = self.lock();
        match &inner.trouble {
            Some(Trouble::Broken(why)) => return Condition::Broken(why.clone()),
            Some(Trouble::Passing { why, at }) if at.elapsed() < DISK_PROBE => {
                return Condition::Degraded(why.clone());
            }
            Some(Trouble::Passing { .. }) | None => {}
        }
        if inner.trouble.take().is_some()
            && let Err(refused) = inner.reserve(0)
        {
            let why = refused.to_string();
            inner.trouble = Some(Trouble::Passing { why: why.clone(), at: Instant::now() });
            return Condition::Degraded(why);
        }
        match over_cap(inner.length, inner.cap, Purpose::NewWork) {
            Some(refused) => Condition::Degraded(refused.to_string()),
            None => Condition::Good,
        }
    }
}

impl Inner {
    fn is_whole(&self) -> Result<(), Refused> {
        match &self.trouble {
            Some(Trouble::Broken(why)) => Err(Refused::Broken(why.clone())),
            Some(Trouble::Passing { .. }) | None => Ok(()),
        }
    }

    /// Nothing is written any more.
    pub(super) fn break_down(&mut self, why: String) {
        log::error!("{why}; nothing is accepted any more");
        self.trouble = Some(Trouble::Broken(why));
    }

    pub(super) fn is_usable(&self) -> io::Result<()> {
        self.is_whole().map_err(|refused| io::Error::other(refused.to_string()))
    }

    /// Appends a line: all of it, or nothing.
    fn append(&mut self, line: &[u8], purpose: Purpose) -> Result<(), Refused> {
        let size = line.len() as u64;
        if let Some(refused) = over_cap(self.length + size, self.cap, purpose) {
            return Err(refused);
        }
        if purpose == Purpose::NewWork {
            self.reserve(size)?;
        }
        match write_once(&self.file, line, self.length) {
            Ok(()) => {
                self.length += size;
                self.allocated = self.allocated.max(self.length);
                Ok(())
            }
            Err(e) => {
                // Half a record must not stay: the next one would stand behind it. With it goes what
                // was reserved.
                self.allocated = self.length;
                match self.file.set_len(self.length) {
                    Ok(()) => Err(refusal(&e)),
                    Err(cut) => Err(Refused::Broken(format!(
                        "a record could not be written ({e}) and not be taken back ({cut})"
                    ))),
                }
            }
        }
    }

    /// Sees to it that the disk has room for `size` bytes and, behind them, for what completes the
    /// work that there is: new work is refused before that reserve is touched.
    fn reserve(&mut self, size: u64) -> Result<(), Refused> {
        let wanted = self.length + size + JOURNAL_RESERVE;
        if wanted <= self.allocated {
            return Ok(());
        }
        let until = wanted + JOURNAL_AHEAD;
        files::allocate(&self.file, self.length, until - self.length).map_err(|e| refusal(&e))?;
        self.allocated = until;
        Ok(())
    }
}

/// One write call for all of it.
fn write_once(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    loop {
        match file.write_at(bytes, at) {
            Ok(count) if count == bytes.len() => return Ok(()),
            // What is short of room says so at the next call, and that is not waited for.
            Ok(_) => return Err(io::ErrorKind::StorageFull.into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn refusal(e: &io::Error) -> Refused {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Refused::Full(format!("the disk has no room for the journal ({e})"))
        }
        _ => Refused::Unavailable(format!("the journal cannot be written: {e}")),
    }
}

/// Cuts off an incomplete last record. One that looks whole is kept beside the journal: it may have
/// been damaged later.
fn cut(path: &Path, file: &File, torn: Torn) -> io::Result<String> {
    let Torn { offset, length, looks_whole } = torn;
    let mut kept = String::new();
    if looks_whole {
        let beside = path.with_file_name(format!("{NAME}.torn-{offset}"));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut bytes, offset)?;
        files::replace(&beside, &bytes, 0o600)?;
        kept = format!("; it is kept in {}", beside.display());
    }
    file.set_len(offset)?;
    file.sync_all()?;
    Ok(format!(
        "the journal's last record was incomplete and was cut off: {length} bytes at {offset}{kept}"
    ))
}

pub(super) fn new_path(path: &Path) -> PathBuf {
    path.with_file_name(format!("{NAME}.new"))
}

/// The number in a line whose checksum is not looked at.
pub(super) fn number_of(line: &[u8]) -> Option<u64> {
    let rest = line.get(9..)?;
    let digits = rest.iter().position(|byte| *byte == b' ')?;
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

/// Where some of the records are.
#[derive(Debug, Default)]
pub(super) struct Index(Vec<(u64, u64)>);

impl Index {
    /// Takes the place of a record, if it is far enough from the last one that is here.
    pub(super) fn note(&mut self, number: u64, offset: u64) {
        if self.0.last().is_none_or(|(_, last)| offset - last >= INDEX_STEP) {
            self.0.push((number, offset));
        }
    }

    /// The offset of the record of this number, or of one before it; that of the header where there
    /// is none.
    fn before(&self, number: u64) -> u64 {
        let at = self.0.partition_point(|(known, _)| *known <= number);
        at.checked_sub(1).map_or(0, |at| self.0[at].1)
    }

    /// The part behind `from`, moved to where it begins at `to`.
    pub(super) fn moved(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
        let behind = self.0.iter().filter(move |(_, offset)| *offset >= from);
        behind.map(move |(number, offset)| (*number, offset - from + to))
    }
}
