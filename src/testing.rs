//! For unit tests only: directories of their own, and numbers by chance.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

#[path = "../tests/util/random.rs"]
mod random;
pub use random::Random;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory that is gone with the value.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(what: &str) -> TempDir {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hermes-unit-{what}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
