//! A look at a journal from outside, at a live gateway's too, and the operator's way on from damage.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file::{NAME, rewrite};
use super::line::{Header, Lines};
use super::pieces::Pieces;
use super::verify::{Corruption, Report, verify};
use crate::sys::fs as files;

/// Pieces of damaged journals that are kept under one name: who has more should look at the disk.
const MAX_KEPT_PIECES: u32 = 100;

/// Reads the journal at `path` and shows every record. Nothing is written. Damage is what keeps a
/// start from going on by itself.
///
/// # Errors
/// The first damage, or what `visit` cannot understand.
pub fn inspect(
    path: &Path,
    visit: &mut dyn FnMut(u64, &str) -> Result<(), String>,
) -> Result<Report, Corruption> {
    let file = files::open_own(path).map_err(|e| Corruption::io(path, &e))?;
    verify(path, &file, &mut |number, _, json| visit(number, json))
}

/// What a repair did.
#[derive(Debug)]
pub struct Repaired {
    /// What was wrong.
    pub damage: Corruption,
    /// Where the damaged file is now, whole.
    pub kept: PathBuf,
    /// The records that the new journal has, and those behind the damage that were whole and are
    /// only in the kept file: what follows a gap may not be true any more.
    pub records: u64,
    pub left_out: u64,
}

/// Goes on with what is before the damage, in a new journal whose next number is higher than any in
/// the old one. A record that `visit` cannot understand is damage too. `None`: there is none. For a
/// gateway that does not run.
///
/// # Errors
/// The damage, where it is none that can be cut off.
pub fn repair(
    dir: &Path,
    visit: &mut dyn FnMut(u64, &str) -> Result<(), String>,
) -> Result<Option<Repaired>, Corruption> {
    let path = dir.join(NAME);
    let Err(damage) = inspect(&path, visit) else { return Ok(None) };
    let Some((offset, _)) = damage.place else { return Err(damage) };
    cut(&path, offset)
        .map(|(kept, records, left_out)| Some(Repaired { damage, kept, records, left_out }))
        .map_err(|e| Corruption::io(&path, &e))
}

fn cut(path: &Path, offset: u64) -> io::Result<(PathBuf, u64, u64)> {
    let file = files::open_own(path)?;
    let (length, inode) = (file.metadata()?.len(), file.metadata()?.ino());
    let mut lines = Lines::new(&file, 0, length);
    let header = lines.next()?.and_then(|(_, line)| Header::parse(line).ok());
    // Where only the header is damaged, the records before the next damage are good.
    let start = lines.at;
    let mut highest = header.map_or(0, |header| header.base - 1);
    let (mut end, mut whole, mut good) = (start, 0, 0);
    let mut before_damage = true;
    let mut pieces = Pieces::new(&file, start, length);
    while let Some(piece) = pieces.next()? {
        let (at, next) = (piece.at, piece.end);
        let entry = piece.record.ok();
        let number = entry.map(|entry| entry.number);
        let counts = u64::from(entry.is_some_and(|entry| !entry.is_mark()));
        let follows = if offset == 0 { number > Some(highest) } else { at < offset };
        before_damage &= follows;
        if before_damage {
            good += counts;
            end = next;
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
    rewrite(path, &file, (start, end), highest.saturating_add(1))?;
    Ok((kept, good, whole - good))
}

/// Finds a name beside the journal that `make` accepts: `journal.WHAT`, `journal.WHAT.1`, ….
pub(super) fn keep(
    path: &Path,
    what: &str,
    make: &dyn Fn(&Path) -> io::Result<bool>,
) -> io::Result<PathBuf> {
    for number in 0..MAX_KEPT_PIECES {
        let more = if number == 0 { String::new() } else { format!(".{number}") };
        let to = path.with_file_name(format!("{NAME}.{what}{more}"));
        if make(&to)? {
            return Ok(to);
        }
    }
    let why = format!("{NAME}.{what} exists {MAX_KEPT_PIECES} times");
    Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
}
