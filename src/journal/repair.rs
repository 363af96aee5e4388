//! The operator's way on from corruption.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Visit;
use super::compact::copy_all;
use super::damage::{Corruption, inspect};
use super::framing::Header;
use super::paths::{NAME, keep};
use super::scanner::{Part, Scanner};
use crate::sys::fs as files;

/// What a repair did.
#[derive(Debug)]
pub struct Repaired {
    /// What was wrong.
    pub found: Corruption,
    /// Where the corrupt file is now, whole.
    pub kept: PathBuf,
    /// The records that the new journal has, and those behind the corruption that were whole and are
    /// only in the kept file: what follows a gap may not be true any more.
    pub records: u64,
    pub left_out: u64,
}

/// Goes on with what is before the corruption, in a new journal whose next number is higher than any in
/// the old one. A record that `visit` cannot understand is corruption too. `None`: there is none. For a
/// gateway that does not run.
///
/// # Errors
/// The corruption, where it is none that can be cut off.
pub fn repair(dir: &Path, visit: Visit<'_>) -> Result<Option<Repaired>, Corruption> {
    let path = dir.join(NAME);
    let Err(found) = inspect(&path, visit) else { return Ok(None) };
    let Some((offset, _)) = found.place else { return Err(found) };
    cut(&path, offset, found).map(Some).map_err(|e| Corruption::io(&path, &e))
}

fn cut(path: &Path, offset: u64, found: Corruption) -> io::Result<Repaired> {
    let file = files::open_own(path)?;
    let (length, inode) = (file.metadata()?.len(), file.metadata()?.ino());
    let mut scanner = Scanner::new(Part { file: &file, at: 0, end: length });
    let (first, start) = scanner.header()?;
    // Where only the header is corrupt, the records before the next corruption are good.
    let mut highest = Header::parse(first).map_or(0, |header| header.base - 1);
    let (mut end, mut whole, mut records) = (start, 0, 0);
    let mut before = true;
    while let Some(segment) = scanner.next()? {
        let entry = segment.record.ok();
        let number = entry.map(|entry| entry.number);
        let counts = u64::from(entry.is_some_and(|entry| !entry.is_checkpoint()));
        before &= if offset == 0 { number > Some(highest) } else { segment.at < offset };
        if before {
            records += counts;
            end = segment.end;
        }
        whole += counts;
        highest = highest.max(number.unwrap_or(0));
    }
    let kept = keep(path, &format!("damaged-{offset}"), &|to| match fs::hard_link(path, to) {
        Ok(()) => files::sync_dir_of(to).map(|()| true),
        // A repair that was cut short got as far as this.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            Ok(fs::symlink_metadata(to)?.ino() == inode)
        }
        Err(e) => Err(e),
    })?;
    copy_all(path, Part { file: &file, at: start, end }, highest.saturating_add(1))?;
    Ok(Repaired { found, kept, records, left_out: whole - records })
}
