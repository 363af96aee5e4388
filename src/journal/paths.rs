//! The journal's name in the state directory, and those of the files beside it.

use std::fs;
use std::io;
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
    let is_copy = |name: &str| name.starts_with(&format!("{NAME}.{SAVED}"));
    let all = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    let mut found = all.collect::<io::Result<Vec<PathBuf>>>()?;
    found.retain(|path| path.file_name().is_some_and(|name| is_copy(&name.to_string_lossy())));
    // By their numbers: a longer one is higher.
    found.sort_by(|a, b| (a.as_os_str().len(), a).cmp(&(b.as_os_str().len(), b)));
    Ok(found)
}
