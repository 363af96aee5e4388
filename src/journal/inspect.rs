//! A journal looked at from outside, beside a running gateway too, and an operator's way on behind
//! damage.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::file::{NAME, new_path};
use super::read::{Damage, Range, Walked, walk};
use crate::sys::fs as files;

/// A journal that is whole.
#[derive(Debug)]
pub struct Report(Walked);

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Walked { records, last, end, torn, .. } = &self.0;
        write!(f, "good: {records} records up to number {last}, {end} bytes")?;
        match torn {
            None => Ok(()),
            Some(torn) => write!(
                f,
                "; an incomplete record of {} bytes follows, which a running gateway completes and \
                 the next start cuts off",
                torn.length
            ),
        }
    }
}

/// Shows the records of the journal in a state directory, and writes nothing.
///
/// # Errors
/// The damage, or why the file cannot be read.
pub fn inspect(
    dir: &Path,
    visit: &mut dyn FnMut(u64, &str) -> Result<(), String>,
) -> Result<Report, Damage> {
    let path = dir.join(NAME);
    let file = files::open_own(&path).map_err(|e| Damage::io(&path, &e))?;
    walk(&path, &Arc::new(file), &mut |_, number, json| visit(number, json)).map(Report)
}

/// Cuts the journal of a state directory off where its damage begins; the whole of it is kept beside
/// it. `visit` may find damage too. Returns what was done, in words.
pub fn repair(
    dir: &Path,
    visit: &mut dyn FnMut(u64, &str) -> Result<(), String>,
) -> io::Result<String> {
    let path = dir.join(NAME);
    let file = Arc::new(files::open_own(&path)?);
    let damage = match walk(&path, &file, &mut |_, number, json| visit(number, json)) {
        Ok(walked) => return Ok(format!("nothing to repair; {}", Report(walked))),
        Err(damage) if damage.offset == 0 => return Err(io::Error::other(damage.why)),
        Err(damage) => damage,
    };
    let size = file.metadata()?.len();
    let beside = path.with_file_name(format!("{NAME}.damaged-{}", damage.offset));
    copy(&file, size, &beside)?;
    let new = new_path(&path);
    let _ = std::fs::remove_file(&new);
    copy(&file, damage.offset, &new)?;
    std::fs::rename(&new, &path)?;
    files::sync_dir_of(&path)?;
    Ok(format!(
        "cut off at byte {}: {} bytes, among them whatever records followed; the journal as it was \
         is kept in {}",
        damage.offset,
        size - damage.offset,
        beside.display()
    ))
}

/// Copies the beginning of a file into a new, durable one.
fn copy(file: &Arc<File>, length: u64, to: &Path) -> io::Result<()> {
    let mut out = files::create_new(to, 0o600)?;
    io::copy(&mut Range::new(Arc::clone(file), 0, length), &mut out)?;
    out.sync_all()?;
    files::sync_dir_of(to)
}
