//! The journal on disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use super::compact::copy_all;
use super::damage::{Corruption, Report, invalid, one_lost};
use super::framing::{CHECKPOINT, Header, VERSION};
use super::health::{Health, Status};
use super::paths::{NAME, keep, temporary};
use super::replay::{Apply, replay};
use super::scanner::{Part, Scanner};
use super::writer::{Disk, FileJournal, Inner};
use super::{Condition, Decision, Journal, Loss, Purpose, WriteError, check_json, long_record};
use crate::fault_points;
use crate::limits::LONG_RECORD;
use crate::stored_text::StoredText;
use crate::sys::fs as files;
use crate::threads::lock;

type Opened = Result<(FileJournal, Vec<String>), Corruption>;

impl FileJournal {
    /// Opens the journal in `dir`, or makes one, and applies every record in order. New work is
    /// refused beyond `cap` bytes, less a reserve.
    ///
    /// Nothing counts as durable before the first [`Journal::sync`]: what is read here may be in
    /// the page cache only. One process at a time: the lock of the instance sees to that.
    ///
    /// Also tells what was changed before it was used, in words for the log.
    ///
    /// # Errors
    /// The file cannot be trusted, or a record does not follow. It is as it was.
    pub fn open_records(dir: &Path, cap: u64, apply: Apply<'_>) -> Opened {
        FileJournal::open_with(dir, cap, &mut |path, file| replay(path, file, apply))
    }

    /// The same with the records as they stand.
    #[cfg(test)]
    pub fn open(dir: &Path, cap: u64, visit: super::Visit<'_>) -> Opened {
        FileJournal::open_with(dir, cap, &mut |path, file| super::damage::verify(path, file, visit))
    }

    fn open_with(
        dir: &Path,
        cap: u64,
        read: &mut dyn FnMut(&Path, &File) -> Result<Report, Corruption>,
    ) -> Opened {
        let path = dir.join(NAME);
        let io = |e: io::Error| Corruption::io(&path, &e);
        // Left by a compaction that was cut short: the journal itself is still the old one.
        files::if_exists(fs::remove_file(temporary(&path))).map_err(io)?;
        let dir = File::open(dir).map_err(io)?;
        let mut file = open_or_create(&path).map_err(io)?;
        let found = read(&path, &file)?;
        let mut changed = Vec::from_iter(drop_end(&path, &file, &found).map_err(io)?);
        // Zeros are room for records again.
        let mut zeros = file.metadata().map_err(io)?.len();
        let (mut index, mut end) = (found.index, found.bytes);
        if found.version < VERSION {
            let words = |e| format!("it cannot be rewritten in format version {VERSION}: {e}");
            let all = Part { file: &file, at: found.start, end };
            let new = copy_all(&path, all, found.last + 1);
            (file, index, end) = new.map_err(|e| io(io::Error::other(words(e))))?;
            zeros = 0;
            changed.push(format!("the journal was rewritten in format version {VERSION}"));
        }
        let inner = Inner {
            file: Arc::new(file),
            index,
            status: Status { last: found.last, size: end, cap, ..Status::default() },
            durable: 0,
            known_durable: found.known_durable,
            syncing: false,
            round: 0,
            covered: 0,
            preallocated: 0,
            zeros,
            room: None,
            rested: found.last,
        };
        let journal = FileJournal {
            path,
            inner: Mutex::new(inner),
            told: Mutex::default(),
            synced: [Condvar::new(), Condvar::new()],
            compacting: Mutex::new(()),
            disk: Disk::real(),
            health: Health::default(),
            dir,
            #[cfg(test)]
            waits: Default::default(),
        };
        journal.publish(&journal.lock());
        Ok((journal, changed))
    }

    /// The nearest place before a record that is indexed, the next one behind it, and the end.
    fn locate(&self, number: u64) -> (Arc<File>, u64, u64, u64) {
        let inner = self.lock();
        let after = inner.index.partition_point(|(indexed, _)| *indexed <= number);
        let at = |place: usize| inner.index.get(place).map_or(inner.status.size, |(_, at)| *at);
        (Arc::clone(&inner.file), at(after.saturating_sub(1)), at(after), inner.status.size)
    }

    /// Shows what is there from `number` on, from the nearest place that is indexed, and without the
    /// lock. Returns what is corrupt in the place of `number`, where that may have been.
    fn scan_from(
        &self,
        number: u64,
        visit: &mut dyn FnMut(u64, &str) -> bool,
    ) -> io::Result<Option<io::Error>> {
        let (file, from, _, end) = self.locate(number);
        let (mut scanner, mut corrupt) = (Scanner::new(Part { file: &file, at: from, end }), None);
        while let Some(segment) = scanner.next()? {
            match segment.record {
                Ok(entry) if entry.number < number => corrupt = None,
                Ok(entry) if entry.is_checkpoint() || visit(entry.number, entry.json) => {}
                Ok(_) => break,
                Err(why) => {
                    corrupt = corrupt.or_else(|| Some(invalid(segment.at, why)));
                    self.report_corrupt(&file, segment.at, why);
                }
            }
        }
        Ok(corrupt)
    }

    /// The first corruption is logged, and reported in the condition from then on.
    fn report_corrupt(&self, file: &Arc<File>, at: u64, why: &str) {
        let mut inner = self.lock();
        if Arc::ptr_eq(file, &inner.file) && inner.status.corrupt.is_none() {
            let words = one_lost(at, why);
            log::error!("{words}");
            inner.status.corrupt = Some(words);
            self.publish(&inner);
        }
    }

    fn append_to(
        &self,
        inner: &mut Inner,
        json: &str,
        purpose: Purpose,
    ) -> Result<u64, WriteError> {
        if let Some(loss) = self.health.loss() {
            return Err(WriteError::Broken(loss.why));
        }
        let result = inner.append(self.disk, json, purpose);
        self.publish(inner);
        if let Err(WriteError::Broken(_)) = &result {
            self.tell_broken();
        }
        result
    }
}

impl Journal for FileJournal {
    fn append(&self, json: &str, purpose: Purpose) -> Result<u64, WriteError> {
        check_json(json)?;
        let _call = self.health.call("a write to the journal");
        let mut inner = self.lock();
        fault_points::at("journal-write");
        self.append_to(&mut inner, json, purpose)
    }

    fn sync(&self, number: u64) -> Result<(), WriteError> {
        let mut inner = loop {
            let inner = self.lock();
            let number = number.min(inner.status.last);
            if inner.durable >= number {
                return Ok(());
            }
            if let Condition::Broken(why) = &inner.status.condition {
                return Err(WriteError::Broken(why.clone()));
            }
            if !inner.syncing {
                break inner;
            }
            // What came too late for the round under way is in the next one.
            let round = inner.round + u64::from(number > inner.covered);
            if self.wait(inner, round) {
                return Ok(());
            }
        };
        // This thread syncs all that was appended so far.
        inner.begin_round();
        let file = Arc::clone(&inner.file);
        drop(inner);
        let call = self.health.call("a sync of the journal");
        fault_points::at("journal-sync");
        let result = (self.disk.sync)(&file);
        drop(call);
        let mut inner = self.lock();
        match result {
            Ok(()) => inner.durable = inner.covered,
            Err(e) => {
                files::drop_page_cache(&file);
                inner.mark_broken(format!("the disk did not keep the journal: {e}"));
            }
        }
        self.end_round(inner);
        self.sync(number)
    }

    fn checkpoint(&self) -> Result<(), WriteError> {
        self.sync(self.last())?;
        let number = {
            let _call = self.health.call("a write to the journal");
            let mut inner = self.lock();
            // While writes go on, the next record says it.
            if inner.known_durable == inner.status.last || inner.durable < inner.status.last {
                return Ok(());
            }
            inner.known_durable = self.append_to(&mut inner, CHECKPOINT, Purpose::Completion)?;
            inner.known_durable
        };
        self.sync(number)?;
        let _call = self.health.call("a write to the journal");
        let mut inner = self.lock();
        inner.rest(self.disk);
        self.publish(&inner);
        Ok(())
    }

    fn read(&self, number: u64) -> io::Result<String> {
        let mut read = None;
        let corrupt = self.scan_from(number, &mut |found, json| {
            read = (found == number).then(|| json.to_owned());
            false
        })?;
        read.ok_or_else(|| corrupt.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn read_without_reply(
        &self,
        number: u64,
        room: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<(String, Option<StoredText>)> {
        let (file, from, next, _) = self.locate(number);
        // A long record is always followed by a place that is indexed.
        if let Some((json, text)) = long_record::read(&file, (from, next), number, room)? {
            return Ok((json, Some(text)));
        }
        self.read(number).map(|json| (json, None))
    }

    fn is_long(&self, number: u64) -> bool {
        let (_, from, next, _) = self.locate(number);
        next - from >= LONG_RECORD
    }

    fn scan(&self, after: u64, visit: &mut dyn FnMut(u64, &str) -> bool) -> io::Result<()> {
        self.scan_from(after.saturating_add(1), visit).map(drop)
    }

    fn rewrite(&self, decide: &mut dyn FnMut(u64, &str) -> Decision) -> io::Result<()> {
        let _only = lock(&self.compacting);
        let temporary = temporary(&self.path);
        let result = self.replace(&temporary, decide);
        if result.is_err() {
            // The error that counts is the first; the next start removes what is left.
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    fn set_cap(&self, cap: u64) {
        let mut inner = self.lock();
        inner.status.cap = cap;
        self.publish(&inner);
    }

    fn check_file(&self) {
        let _call = self.health.call("a look at the journal's path");
        match self.health.loss() {
            None => {}
            // Whatever removed the journal may go on, and remove the copy too.
            Some(Loss { saved: Some(copy), .. }) if copy.exists() || self.path.exists() => return,
            Some(Loss { what, .. }) => return self.report_loss(&self.lock(), what),
        }
        // A compaction looks by itself, before it puts another file there.
        let Ok(_only) = self.compacting.try_lock() else { return };
        let mut inner = self.lock();
        // A compaction that failed may have left it without the name.
        if matches!(inner.status.condition, Condition::Broken(_)) {
            return;
        }
        if let Some(what) = self.lost_by(&inner.file) {
            self.report_loss(&inner, what);
        } else if matches!(inner.status.condition, Condition::Degraded(_)) {
            inner.probe(self.disk);
            self.publish(&inner);
        }
    }

    fn health(&self) -> &Health {
        &self.health
    }
}

fn open_or_create(path: &Path) -> io::Result<File> {
    let new = Header::NEW.line();
    if let Some(file) = files::if_exists(files::open_own_to_write(path))? {
        // A beginning of the header of a new journal can never have had a record behind it.
        let mut start = vec![0; new.len()];
        let read = file.read_at(&mut start, 0)?;
        if read == new.len() || !new.starts_with(&start[..read]) {
            return Ok(file);
        }
    }
    files::replace(path, &new, 0o600)?;
    files::open_own_to_write(path)
}

/// Cuts off what was never acknowledged. More than one record that a write was cut short of is kept
/// beside the journal first.
fn drop_end(path: &Path, file: &File, found: &Report) -> io::Result<Option<String>> {
    let Some((at, length)) = found.torn else { return Ok(None) };
    let mut words =
        format!("what was never acknowledged was cut off: {length} bytes from byte {at} on");
    let mut torn = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut torn, at)?;
    if torn.contains(&b'\n') {
        let create = |to: &Path| files::create(to, &torn, 0o600);
        let kept = keep(path, &format!("torn-{at}"), &create)?;
        words += &format!("; it is kept as {}", kept.display());
    }
    file.set_len(at)?;
    file.sync_all()?;
    Ok(Some(words))
}
