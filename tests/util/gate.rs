//! A gate that agents wait at, so that a test decides when they go on.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::sys;

/// Closed until it is opened or dropped. Made of flock(2): who comes late passes too.
pub struct Gate {
    path: PathBuf,
    _held: File,
}

impl Gate {
    /// A closed gate, as a file in this directory.
    #[track_caller]
    pub fn closed(dir: &Path) -> Gate {
        let path = dir.join("gate");
        let file = File::create(&path).expect("make a gate");
        sys::flock(&file).expect("close a gate");
        Gate { path, _held: file }
    }

    /// The words of a shell that waits until the gate is open.
    pub fn wait(&self) -> String {
        format!("flock -s {} true", self.path.display())
    }

    /// The configuration of an agent that says "begun", waits, and repeats its message.
    pub fn agent(&self) -> String {
        let script = format!("echo begun; {}; cat", self.wait());
        format!("[agent]\ncommand = [\"sh\", \"-c\", {script:?}]\n")
    }

    /// Lets all through.
    pub fn open(self) {}
}
