//! Compaction: a new file with what is still needed takes the place of the old one, while writers go
//! on.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, PoisonError};

use super::file::{FileJournal, Index, new_path};
use super::format::{Header, parse};
use super::read::{Lines, Next, Range};
use crate::limits::LARGE_READ;
use crate::sys::fs as files;

/// The new file in the making.
struct Copy {
    out: BufWriter<File>,
    length: u64,
    index: Index,
    kept: u64,
}

pub(super) fn compact(
    journal: &FileJournal,
    keep: &mut dyn FnMut(u64, &str) -> bool,
) -> io::Result<()> {
    let _alone = journal.compacting.lock().unwrap_or_else(PoisonError::into_inner);
    let new = new_path(&journal.path);
    let result = replace(journal, keep);
    if result.is_err() {
        let _ = fs::remove_file(&new);
    }
    result
}

fn replace(journal: &FileJournal, keep: &mut dyn FnMut(u64, &str) -> bool) -> io::Result<()> {
    let (old, seen, base) = {
        let inner = journal.lock();
        (Arc::clone(&inner.file), inner.length, inner.next)
    };
    let new = new_path(&journal.path);
    let _ = fs::remove_file(&new);
    let mut copy = Copy::begin(files::create_new(&new, 0o600)?)?;
    copy.take(Lines::new(Range::new(Arc::clone(&old), 0, seen), LARGE_READ), keep)?;
    // Most of it goes to the disk while nobody waits.
    copy.out.flush()?;
    copy.out.get_ref().sync_data()?;

    let mut inner = journal.lock();
    while inner.syncing {
        inner = journal.synced.wait(inner).unwrap_or_else(PoisonError::into_inner);
    }
    inner.is_usable()?;
    // What came meanwhile, unseen and without a gap.
    let moved = copy.length;
    io::copy(&mut Range::new(old, seen, inner.length).take(u64::MAX), &mut copy.out)?;
    for (number, offset) in inner.index.moved(seen, moved) {
        copy.index.note(number, offset);
    }
    copy.length += inner.length - seen;
    let Copy { mut out, length, index, kept } = copy;
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&Header { base, kept }.line())?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(&new, &journal.path)?;
    if let Err(e) = files::sync_dir_of(&journal.path) {
        // Which of the two files a power cut leaves is open now.
        inner.break_down(format!("the journal's directory could not be synced: {e}"));
        journal.synced.notify_all();
        return Err(e);
    }
    inner.file = Arc::new(file);
    (inner.length, inner.allocated, inner.index) = (length, length, index);
    inner.durable = inner.next - 1;
    Ok(())
}

impl Copy {
    fn begin(file: File) -> io::Result<Copy> {
        // Its figures come at the end; its length is always the same.
        let header = Header { base: 1, kept: 0 }.line();
        let mut out = BufWriter::with_capacity(LARGE_READ, file);
        out.write_all(&header)?;
        Ok(Copy { out, length: header.len() as u64, index: Index::default(), kept: 0 })
    }

    /// Takes over the lines that are to be kept.
    fn take(
        &mut self,
        mut lines: Lines,
        keep: &mut dyn FnMut(u64, &str) -> bool,
    ) -> io::Result<()> {
        while let Next::Line(_, line) = lines.next()? {
            let (number, json) =
                parse(line).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
            // Number 0 is the header's.
            if number > 0 && keep(number, json) {
                self.out.write_all(line)?;
                self.out.write_all(b"\n")?;
                self.index.note(number, self.length);
                self.length += line.len() as u64 + 1;
                self.kept += 1;
            }
        }
        Ok(())
    }
}
