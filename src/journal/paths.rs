//! The journal's name in the state directory, and those of the files beside it.

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

/// The names that a file beside the journal can have: `journal.WHAT`, `journal.WHAT.1`, ….
fn names(path: &Path, what: &str) -> impl Iterator<Item = PathBuf> {
    (0..MAX_KEPT).map(move |number| {
        let more = if number == 0 { String::new() } else { format!(".{number}") };
        path.with_file_name(format!("{NAME}.{what}{more}"))
    })
}

/// Finds a name of these that `make` accepts.
pub fn keep(
    path: &Path,
    what: &str,
    make: &dyn Fn(&Path) -> io::Result<bool>,
) -> io::Result<PathBuf> {
    for to in names(path, what) {
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
    let mut found = Vec::new();
    for copy in names(&dir.join(NAME), SAVED) {
        if copy.try_exists()? {
            found.push(copy);
        }
    }
    Ok(found)
}
