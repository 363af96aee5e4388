//! Directories for tests, removed with the value. A test that was killed leaves its own behind: the next
//! test program removes it.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Short, since the path of a socket holds 107 bytes.
const PREFIX: &str = "hgt-";

/// A directory of a test's own.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    /// A file beside the directory, locked for as long as that is used. A process id would not do: tests in
    /// pid namespaces of their own share the temporary directory. Nor would a lock of the directory itself,
    /// which the gateway may want.
    _lock: File,
}

impl TempDir {
    /// Makes a directory that all may read, with this in its name.
    #[track_caller]
    pub fn new(what: &str) -> TempDir {
        TempDir::with_mode(what, 0o755)
    }

    /// Makes a directory with this mode.
    #[track_caller]
    pub fn with_mode(what: &str, mode: u32) -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static ONCE: Once = Once::new();
        ONCE.call_once(remove_abandoned);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{PREFIX}{what}{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let lock = match File::create_new(lock_of(&path)) {
                Ok(lock) => lock,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => panic!("cannot make {}: {error}", path.display()),
            };
            // Another test program may have taken it for an abandoned one before it was locked.
            if lock.try_lock().is_ok() && lock_of(&path).exists() {
                fs::create_dir(&path).expect("make a directory");
                fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set its mode");
                return TempDir { path, _lock: lock };
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn lock_of(directory: &Path) -> PathBuf {
    directory.with_extension("lock")
}

/// Removes a directory and its lock.
fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        // A file in it that went by itself is an error, too, and leaves the rest.
        Err(error) if directory.exists() => Err(error),
        _ => fs::remove_file(lock_of(directory)),
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let mut result = remove(&self.path);
        // What was killed may still write for a moment.
        for _ in 0..100 {
            if result.is_ok() {
                return;
            }
            thread::park_timeout(Duration::from_millis(10));
            result = remove(&self.path);
        }
        // A test that is failing has said why.
        assert!(thread::panicking(), "{}: {result:?}", self.path.display());
    }
}

/// Removes the directories of test programs that were killed.
fn remove_abandoned() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        if path.extension().is_none() {
            // A lock is there before its directory, and for longer.
            if !lock_of(&path).exists() {
                let _ = fs::remove_dir_all(&path);
            }
            continue;
        }
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        // Locked until it is gone; and not another one by now.
        let Ok(lock) = File::open(&path) else { continue };
        let inode = |data: io::Result<fs::Metadata>| data.map(|data| data.ino()).ok();
        let is_same = || inode(lock.metadata()) == inode(fs::metadata(&path));
        if lock.try_lock().is_ok() && is_same() {
            let _ = remove(&path.with_extension(""));
        }
    }
}
