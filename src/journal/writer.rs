//! The open journal and its end, where records are written.

use std::env;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::framing::line;
use super::health::{Health, Status};
use super::{Condition, Purpose, WriteError};
use crate::limits::JOURNAL_PREALLOCATED;
use crate::sys::fs as files;
use crate::threads::lock;

/// Bytes of journal between two places that are indexed: what a read has to scan at most, beside
/// the record itself; 16 bytes of memory each.
const JOURNAL_STEP: u64 = 16 << 10;

/// Zeros that are written behind the records, where the next ones go. These then neither make the file
/// longer nor take new blocks, so that a sync has nothing to commit but them. So much at once takes
/// some ten microseconds, and one sync in a thousand writes it.
const ROOM: u64 = 256 << 10;

/// There are zeros from so many records without a rest on: for fewer they would cost more than they save.
fn load(room: u64) -> u64 {
    (room >> 12).max(2)
}

/// Free space from which on room is cut off at a rest: what was reserved is free for a moment then, and
/// has to come back whoever else writes.
const AMPLE: u64 = 64 * JOURNAL_PREALLOCATED;

/// What is asked of the disk, so that tests can have it refused.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    pub write: fn(&File, &[u8], u64) -> io::Result<usize>,
    pub truncate: fn(&File, u64) -> io::Result<()>,
    pub preallocate: fn(&File, u64, u64) -> io::Result<bool>,
    /// How many zeros are written at once: [`ROOM`], or none where that would be no use.
    pub room: fn(&File) -> u64,
    /// Bytes that are free for us on its file system.
    pub free: fn(&File) -> u64,
    pub sync: fn(&File) -> io::Result<()>,
}

impl Disk {
    pub fn real() -> Disk {
        // Tests of durability have to fail without the one call that makes for it.
        let trusting = cfg!(debug_assertions) && env::var_os("HERMES_TEST_NO_FDATASYNC").is_some();
        Disk {
            write: File::write_at,
            truncate: File::set_len,
            preallocate: files::preallocate,
            room: |file| if files::overwrites_in_place(file) { ROOM } else { 0 },
            free: files::free_space,
            sync: if trusting { |_| Ok(()) } else { File::sync_data },
        }
    }
}

/// Numbers and offsets of records.
pub type Index = Vec<(u64, u64)>;

/// The journal on disk.
#[derive(Debug)]
pub struct FileJournal {
    pub path: PathBuf,
    pub inner: Mutex<Inner>,
    /// Where all that wait are told. A lock of its own: nobody who has been told waits for a write.
    pub told: Mutex<Told>,
    /// Notified when a round has ended, or nothing more will be durable: each round the one that the
    /// one before it did not use.
    pub synced: [Condvar; 2],
    /// Held by the one compaction that may run.
    pub compacting: Mutex<()>,
    pub disk: Disk,
    pub health: Health,
    /// The directory of `path`, also after a move.
    pub dir: File,
    /// How often somebody has waited for a round.
    #[cfg(test)]
    pub waits: std::sync::atomic::AtomicUsize,
}

impl FileJournal {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Waits for the end of this round; whether it went well. If not, it may not have ended either.
    pub fn wait(&self, inner: MutexGuard<'_, Inner>, round: u64) -> bool {
        // Before the other is given back: the round cannot end in between.
        let told = lock(&self.told);
        #[cfg(test)]
        self.waits.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        drop(inner);
        let told = self.synced(round).wait(told).unwrap_or_else(PoisonError::into_inner);
        told.ended >= round && !told.broken
    }

    /// Ends the round under way: wakes all that waited for it, and of those that wait for the next the
    /// one that syncs for them.
    pub fn end_round(&self, mut inner: MutexGuard<'_, Inner>) {
        inner.syncing = false;
        self.publish(&inner);
        let (ended, broken) = (inner.round, matches!(inner.status.condition, Condition::Broken(_)));
        *lock(&self.told) = Told { ended, broken };
        drop(inner);
        self.synced(ended).notify_all();
        if broken {
            self.synced(ended + 1).notify_all();
        } else {
            self.synced(ended + 1).notify_one();
        }
    }

    /// Tells all that wait that nothing more will be durable: who was woken to sync for the others may
    /// have learnt it first, and have gone. The journal's lock is held.
    pub fn tell_broken(&self) {
        lock(&self.told).broken = true;
        self.synced.iter().for_each(Condvar::notify_all);
    }

    fn synced(&self, round: u64) -> &Condvar {
        &self.synced[usize::from(round % 2 == 1)]
    }

    /// Makes a change known. The journal's lock is held.
    pub fn publish(&self, inner: &Inner) {
        lock(&self.health.0).status.clone_from(&inner.status);
    }
}

/// The last round that has ended, and whether nothing more will be durable.
#[derive(Debug, Default)]
pub struct Told {
    pub ended: u64,
    broken: bool,
}

/// The end of the journal: what is guarded by its lock.
#[derive(Debug)]
pub struct Inner {
    pub file: Arc<File>,
    /// Number and offset of a record every [`JOURNAL_STEP`] bytes, and of the first.
    pub index: Index,
    pub status: Status,
    /// The last number that is known to be durable.
    pub durable: u64,
    /// The last number of which the file itself says that it is durable.
    pub known_durable: u64,
    /// Whether a round is under way: a sync by one of those that wait, or by a compaction.
    pub syncing: bool,
    /// The round under way, or else the last one, and the last record that it makes durable.
    pub round: u64,
    pub covered: u64,
    /// Up to where room is preallocated; the maximum where the file system cannot.
    pub preallocated: u64,
    /// Where the zeros behind the last record end, if there are any: see [`ROOM`].
    pub zeros: u64,
    /// How many are written at once; not known before the first.
    pub room: Option<u64>,
    /// The last record when nothing more had come for a while.
    pub rested: u64,
}

impl Inner {
    /// Begins a round for all that was appended so far.
    pub fn begin_round(&mut self) {
        (self.syncing, self.covered) = (true, self.status.last);
        self.round += 1;
    }

    /// Writes one record with one call, and takes back what is not whole.
    pub fn append(&mut self, disk: Disk, json: &str, purpose: Purpose) -> Result<u64, WriteError> {
        if let Condition::Broken(why) = &self.status.condition {
            return Err(WriteError::Broken(why.clone()));
        }
        let number = self.status.last + 1;
        let line = line(number, json, Some(self.durable));
        let length = line.len() as u64;
        if purpose == Purpose::NewWork {
            self.status.wanted = length;
            self.status.check_capacity(length, purpose)?;
        }
        if let Err(e) = self.preallocate(disk, length)
            && purpose == Purpose::NewWork
        {
            return Err(self.degrade(&e));
        }
        let written = loop {
            match (disk.write)(&self.file, &line, self.status.size) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(count) if count < line.len() => {
                    let short = format!("it took {count} bytes of {length}");
                    break Err(io::Error::new(io::ErrorKind::StorageFull, short));
                }
                result => break result,
            }
        };
        if let Err(e) = written {
            if let Err(worse) = self.cut(disk) {
                let why = format!("a record that failed ({e}) cannot be taken back: {worse}");
                return Err(self.mark_broken(why));
            }
            return Err(self.degrade(&e));
        }
        index_offset(&mut self.index, number, self.status.size);
        self.status.size += length;
        self.status.last = number;
        if purpose == Purpose::NewWork {
            self.status.wanted = 0;
            self.status.condition = Condition::Good;
        }
        if self.status.size > self.zeros {
            self.write_zeros(disk);
        }
        Ok(number)
    }

    /// Writes zeros behind the last record, as far as room is preallocated. Without them the file grows
    /// with each record.
    fn write_zeros(&mut self, disk: Disk) {
        let (size, records) = (self.status.size, self.status.last - self.rested);
        let room = *self.room.get_or_insert_with(|| (disk.room)(&self.file));
        let length = room.min(self.preallocated.saturating_sub(size));
        if length > 0 && records >= load(room) {
            let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
            let written = (disk.write)(&self.file, &zeros, size).unwrap_or(0);
            self.zeros = size + written as u64;
        }
    }

    /// All is durable, and no more has come for a while: leaves nothing but records in the file, unless
    /// what is reserved for them may not come back.
    pub fn rest(&mut self, disk: Disk) {
        let is_last = self.known_durable == self.status.last;
        let is_good = is_last && self.status.condition == Condition::Good;
        if self.zeros > self.status.size && is_good && (disk.free)(&self.file) >= AMPLE {
            // Else the next rest, or the next start, finds them.
            let _ = self.cut(disk);
            if let Err(e) = self.preallocate(disk, 0) {
                self.degrade(&e);
            }
        }
        self.rested = self.status.last;
    }

    /// Cuts off what is behind the last record.
    fn cut(&mut self, disk: Disk) -> io::Result<()> {
        (disk.truncate)(&self.file, self.status.size)?;
        // What was preallocated went with it: as much is asked for again, since on a full disk more
        // would be refused.
        let before = std::mem::take(&mut self.preallocated);
        let length = before.saturating_sub(self.status.size);
        if before < u64::MAX
            && (disk.preallocate)(&self.file, self.status.size, length).is_ok_and(|can| can)
        {
            self.preallocated = before;
        }
        self.zeros = 0;
        Ok(())
    }

    /// Sees to it that there is room for `more` bytes and a reserve beyond them, so that a disk
    /// which others fill up still takes what completes the work there is.
    pub fn preallocate(&mut self, disk: Disk, more: u64) -> io::Result<()> {
        let enough = |ahead: u64| self.status.size.saturating_add(more).saturating_add(ahead);
        if enough(JOURNAL_PREALLOCATED) <= self.preallocated {
            return Ok(());
        }
        let ask = |ahead: u64| {
            let length = more.saturating_add(ahead);
            let can = (disk.preallocate)(&self.file, self.status.size, length)?;
            Ok(if can { enough(ahead) } else { u64::MAX })
        };
        // Twice as much first: then the disk is asked once for many records.
        let twice = ask(2 * JOURNAL_PREALLOCATED);
        self.preallocated = twice.or_else(|_: io::Error| ask(JOURNAL_PREALLOCATED))?;
        Ok(())
    }

    /// Asks the disk again whether it has room.
    pub fn probe(&mut self, disk: Disk) {
        self.preallocated = 0;
        match self.preallocate(disk, self.status.wanted) {
            Ok(()) => self.status.condition = Condition::Good,
            Err(e) => drop(self.degrade(&e)),
        }
    }

    fn degrade(&mut self, e: &io::Error) -> WriteError {
        let why = format!("the journal cannot be written: {e}");
        self.status.condition = Condition::Degraded(why.clone());
        match e.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => WriteError::Full(why),
            _ => WriteError::Unavailable(why),
        }
    }

    pub fn mark_broken(&mut self, why: String) -> WriteError {
        self.status.condition = Condition::Broken(why.clone());
        WriteError::Broken(why)
    }
}

/// Adds the place of a record, if the last that is indexed is far enough before it.
pub fn index_offset(index: &mut Index, number: u64, at: u64) {
    if index.last().is_none_or(|(_, before)| at - before >= JOURNAL_STEP) {
        index.push((number, at));
    }
}
