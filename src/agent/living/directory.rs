//! Where a session of a living agent works.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Characters of a message's id.
const MESSAGE_ID: usize = 26;

/// A session's directory. One that the gateway made for a single turn goes with this, if it is empty.
#[derive(Debug)]
pub struct Directory {
    pub path: PathBuf,
    temporary: bool,
}

impl Directory {
    /// The one that is configured, else one below `data`: of this session, or, where that is empty, of this
    /// message.
    ///
    /// # Errors
    /// It is not there, or cannot be made: in words.
    pub fn of(
        configured: Option<&Path>,
        data: &Path,
        (session, message): (&str, &str),
    ) -> Result<Directory, String> {
        if let Some(path) = configured {
            let wrong = |why: &str| {
                format!("agent.directory is {}, {why}; make it, or name another", path.display())
            };
            return match fs::metadata(path) {
                Ok(meta) if meta.is_dir() => {
                    Ok(Directory { path: path.to_owned(), temporary: false })
                }
                Ok(_) => Err(wrong("which is no directory")),
                Err(e) => Err(wrong(&format!("which cannot be used ({e})"))),
            };
        }
        let name = if session.is_empty() { message } else { session };
        let path = work(data).join(name);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|e| format!("the directory {} cannot be made: {e}", path.display()))?;
        Ok(Directory { path, temporary: session.is_empty() })
    }

    pub fn is_empty(&self) -> bool {
        fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Removes those of single turns that the end of an earlier process has left, unless something is in
    /// them: their names are messages' ids, which are shorter than those of sessions.
    pub fn remove_temporary(data: &Path) {
        let entries = fs::read_dir(work(data)).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().len() == MESSAGE_ID) {
            // One that stays is in nobody's way.
            let _ = remove(&entry.path());
        }
    }

    /// Removes that of a session which is over, unless something is in it.
    pub fn forget(data: &Path, session: &str) {
        if let Err(e) = remove(&work(data).join(session)) {
            log::warn!("the directory of a session that is over stays: {e}");
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary
            && let Err(e) = remove(&self.path)
        {
            log::warn!("the directory of a turn that is over stays: {e}");
        }
    }
}

fn work(data: &Path) -> PathBuf {
    data.join("work")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(e)
            if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) =>
        {
            Ok(())
        }
        removed => removed,
    }
}
