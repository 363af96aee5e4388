//! Whether the journal's path still leads to the file that is written, and what becomes of that file
//! where it does not.
//!
//! Somebody may remove, replace or move it. The open descriptor takes records all the same, and the
//! next start would find none of them: so nothing more is taken, and what there is gets a name again.

use std::fs::{self, File};
use std::io;
use std::io::ErrorKind::{AlreadyExists, NotADirectory, NotFound};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::health::Loss;
use super::paths::{NAME, SAVED, keep};
use super::scanner::Part;
use super::writer::{FileJournal, Inner};
use crate::sys::{fs as files, process::Pid};
use crate::threads::lock;

impl FileJournal {
    /// What has happened to the name of the open file; `None` where nothing has, or it cannot be told.
    pub(super) fn lost_by(&self, file: &File) -> Option<&'static str> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if found.is_symlink() => Some("was replaced by a symlink"),
            Ok(found) => (!is_same(&found, file)?).then_some("was replaced by another file"),
            // Another directory may have been made in its place by now.
            Err(e) if matches!(e.kind(), NotFound | NotADirectory) => {
                match fs::metadata(self.path.parent()?) {
                    Ok(found) if is_same(&found, &self.dir)? => Some("was removed"),
                    Ok(_) | Err(_) => Some("was moved or removed with its directory"),
                }
            }
            Err(_) => None,
        }
    }

    /// Takes nothing more, and gives what there is a name again. The lock is held, so that a record
    /// is either in the copy or was never taken.
    pub(super) fn report_loss(&self, inner: &Inner, what: &'static str) {
        let (path, fd) = (self.path.display(), inner.file.as_raw_fd());
        let saved = self.save(inner);
        let rest = match &saved {
            Ok(copy) => format!(
                "what it had is saved as {}; to go on with that, stop the gateway, give the copy its \
                 old name, and start it again",
                copy.canonicalize().unwrap_or_else(|_| copy.clone()).display()
            ),
            Err(e) => format!(
                "it could not be saved ({e}): copy /proc/{}/fd/{fd} before you stop the gateway, or \
                 it is lost",
                Pid::own()
            ),
        };
        let saved = saved.ok();
        let why = format!("the journal {path} {what} under the running gateway; {rest}");
        if saved.is_some() || self.health.loss().is_none() {
            log::error!("{why}");
        }
        lock(&self.health.0).loss = Some(Loss { what, why, saved, at: Instant::now() });
    }

    /// Copies the open file beside its path, where the next start looks, in a new directory if need be;
    /// where that cannot be, into the directory that it was in, wherever that is by now.
    fn save(&self, inner: &Inner) -> io::Result<PathBuf> {
        let into = |dir: &Path| {
            keep(&dir.join(NAME), SAVED, &|to| copy(&inner.file, inner.status.size, to))
        };
        let dir = self.path.parent().ok_or(NotFound)?;
        files::private_dir(dir).and_then(|()| into(dir)).or_else(|first| {
            let held = PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd()));
            into(&held).map_err(|_| first)
        })
    }
}

fn is_same(found: &fs::Metadata, open: &File) -> Option<bool> {
    let ours = open.metadata().ok()?;
    Some((found.dev(), found.ino()) == (ours.dev(), ours.ino()))
}

/// Makes a durable copy; `false` where something has this name already.
fn copy(from: &File, length: u64, to: &Path) -> io::Result<bool> {
    let mut target = match files::create_new(to, 0o600) {
        Err(e) if e.kind() == AlreadyExists => return Ok(false),
        target => target?,
    };
    let copied = io::copy(&mut Part { file: from, at: 0, end: length }, &mut target)
        .and_then(|_| target.sync_all())
        .and_then(|()| files::sync_dir_of(to));
    if copied.is_err() {
        let _ = fs::remove_file(to);
    }
    copied.map(|()| true)
}
