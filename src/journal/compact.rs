//! A journal without its dead records, put in the place of the old one.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::Condition;
use super::file::{FileJournal, invalid};
use super::line::{Header, Lines, parse};
use super::writer::note;
use crate::limits::{COMPACT_ROUNDS, COMPACT_TAIL};
use crate::sys::fs as files;

/// A new journal in the making.
pub(super) struct Copy {
    to: BufWriter<File>,
    pub index: Vec<(u64, u64)>,
    pub end: u64,
    pub header: Header,
}

impl Copy {
    /// Starts a journal at `path` in which all records below `base` are kept ones.
    pub fn start(path: &Path, base: u64) -> io::Result<Copy> {
        let header = Header { base, kept: 0 };
        let mut to = BufWriter::new(files::create_new(path, 0o600)?);
        to.write_all(&header.line())?;
        Ok(Copy { to, index: Vec::new(), end: header.line().len() as u64, header })
    }

    /// Copies those lines of a part of a journal that `keep` says yes to.
    pub fn lines(
        &mut self,
        from: &File,
        part: (u64, u64),
        keep: &mut dyn FnMut(u64, &str) -> bool,
    ) -> io::Result<()> {
        let mut lines = Lines::new(from, part.0, part.1);
        while let Some((at, line)) = lines.next()? {
            let (number, json) = parse(line).map_err(|why| invalid(at, why))?;
            if keep(number, json) {
                self.to.write_all(line)?;
                note(&mut self.index, number, self.end);
                self.end += line.len() as u64;
                self.header.kept += u64::from(number < self.header.base);
            }
        }
        Ok(())
    }

    /// Completes the header and makes all of it durable.
    pub fn sync(&mut self) -> io::Result<()> {
        self.to.flush()?;
        self.to.get_ref().write_all_at(&self.header.line(), 0)?;
        self.to.get_ref().sync_all()
    }

    fn into_file(self) -> io::Result<File> {
        self.to.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

impl FileJournal {
    pub(super) fn replace(
        &self,
        temporary: &Path,
        keep: &mut dyn FnMut(u64, &str) -> bool,
    ) -> io::Result<()> {
        let (old, start, middle, base) = {
            let inner = self.lock();
            let start = inner.index.first().map_or(inner.end, |(_, at)| *at);
            (Arc::clone(&inner.file), start, inner.end, inner.last + 1)
        };
        // What is appended from here on has no gaps, so that only older records count as kept.
        let mut copy = Copy::start(temporary, base)?;
        copy.lines(&old, (start, middle), keep)?;
        copy.sync()?;
        // What came meanwhile, until the rest is so little that writers can wait for it.
        let mut middle = middle;
        for _ in 0..COMPACT_ROUNDS {
            let end = self.lock().end;
            if end - middle < COMPACT_TAIL {
                break;
            }
            copy.lines(&old, (middle, end), &mut |_, _| true)?;
            copy.sync()?;
            middle = end;
        }

        let _call = self.health.call("a compaction of the journal");
        let mut inner = self.lock();
        if let Some(loss) = self.health.loss() {
            return Err(io::Error::other(loss.why));
        }
        if let Condition::Broken(why) = &inner.condition {
            return Err(io::Error::other(why.clone()));
        }
        copy.lines(&old, (middle, inner.end), &mut |_, _| true)?;
        copy.sync()?;
        let (index, end) = (std::mem::take(&mut copy.index), copy.end);
        let file = copy.into_file()?;
        fs::rename(temporary, &self.path)?;
        // The name leads to the new file now, whatever comes of it.
        let named = files::sync_dir_of(&self.path);
        (inner.file, inner.index, inner.end) = (Arc::new(file), index, end);
        drop(old);
        let result = match named {
            Ok(()) => {
                inner.durable = inner.last;
                inner.probe(self.disk);
                self.synced.notify_all();
                Ok(())
            }
            // After a power cut the name may lead to the old file, which gets no records any more.
            Err(e) => {
                inner.break_off(&format!("the journal's new name may not last: {e}"));
                self.synced.notify_all();
                Err(e)
            }
        };
        self.publish(&inner);
        result
    }
}
