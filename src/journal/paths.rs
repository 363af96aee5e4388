//! The journal's name in the state directory, and those of the files beside it.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub const NAME: &str = "journal";

/// What a copy of a lost journal has behind the journal's name.
pub const SAVED: &str = "saved";

/// Files that are kept under one name: an operator who has more should look at the disk.
const MAX_KEPT: u32 = 100;

/// Where a compaction writes.
pub fn temporary(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Finds a name beside the journal that `make` accepts: `journal.WHAT`, `journal.WHAT.1`, ….
pub fn keep(
    path: &Path,
    what: &str,
    make: &dyn Fn(&Path) -> io::Result<bool>,
) -> io::Result<PathBuf> {
    for number in 0..MAX_KEPT {
        let more = if number == 0 { String::new() } else { format!(".{number}") };
        let to = path.with_file_name(format!("{NAME}.{what}{more}"));
        if make(&to)? {
            return Ok(to);
        }
    }
    let why = format!("{NAME}.{what} exists {MAX_KEPT} times");
    Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
}

/// The copies of lost journals in a state directory. While there is one, a start would go on without
/// what it has.
///
/// # Errors
/// The directory cannot be read.
pub fn saved(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let copy = format!("{NAME}.{SAVED}");
    // By their numbers: a longer name has a higher one.
    let order = |path: &PathBuf| (path.as_os_str().len(), path.clone());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_bytes().starts_with(copy.as_bytes())) {
            let at = found.partition_point(|other| order(other) < order(&path));
            found.insert(at, path);
        }
    }
    Ok(found)
}
