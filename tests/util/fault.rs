//! Faults on order: single system calls of the gateway's on files of its state fail, by a library
//! (tests/preload/fault.rs) that stands between it and the C library.
//!
//! Not by `strace -e inject`: that counts the calls of each thread for itself, so it can fail
//! neither the N-th call of a process nor exactly one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::{Home, Launch, env};

/// Which calls fail, and how.
#[derive(Clone, Copy, Debug)]
pub enum When<'a> {
    /// This one only, counted from 1.
    Once(u32),
    /// This one and all behind it.
    From(u32),
    /// As long as this file is there.
    While(&'a Path),
}

/// Writes half and then finds the disk full.
pub const SHORT: i32 = 0;
/// Does not return as long as the file of [`When::While`] is there.
pub const HANG: i32 = -1;

/// A fault: calls of this kind fail with this error, or as [`SHORT`] and [`HANG`] say.
#[derive(Clone, Copy, Debug)]
pub struct Fault<'a> {
    /// "read", "write", "fdatasync", "fsync", "rename", "openat", "statx", "ftruncate", "fallocate",
    /// "fadvise", "unlink", "pthread_create", "eventfd", "fork", or several with "+" between them; "sigaction":
    /// `error` is a signal that comes as soon as it has a handler; "waitid": `error` is by how many
    /// milliseconds each such call is late; "environ": seven of eight environments are cut.
    pub call: &'static str,
    pub error: i32,
    pub when: When<'a>,
    /// On which files of the state directory: those whose names begin so, and the directory itself.
    /// Other files by their absolute paths.
    pub on: &'a str,
}

impl Fault<'_> {
    /// Puts it into a start, and forgets what an earlier one has hit.
    #[track_caller]
    pub fn into(self, launch: Launch, home: &Home) -> Launch {
        let [(preload, library), (name, order)] = self.variables(home);
        launch.env(preload, &library).env(name, &order)
    }

    /// What a program has to find in its environment for it.
    #[track_caller]
    pub fn variables(self, home: &Home) -> [(&'static str, String); 2] {
        self.variables_in(&home.state_dir(), &log(home))
    }

    /// The same for a gateway elsewhere: with its state directory, and where hits are written down.
    #[track_caller]
    pub fn variables_in(self, state_dir: &Path, log: &Path) -> [(&'static str, String); 2] {
        let _ = fs::remove_file(log);
        let (first, last, marker) = match self.when {
            When::Once(number) => (number, number, Path::new("-")),
            When::From(number) => (number, u32::MAX, Path::new("-")),
            When::While(file) => (1, u32::MAX, file),
        };
        let order = format!(
            "{} {} {first} {last} {} {} {}",
            self.call,
            self.error,
            state_dir.join(self.on).display(),
            log.display(),
            marker.display()
        );
        [("LD_PRELOAD", library().display().to_string()), ("HERMES_FAULT", order)]
    }
}

/// The calls that failed, oldest first: "fdatasync /…/journal".
pub fn hits(home: &Home) -> Vec<String> {
    let text = fs::read_to_string(log(home)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn log(home: &Home) -> PathBuf {
    home.path().join("faults")
}

/// Built once by each test program, into cargo's directory for such things. In a sandbox, where there is
/// no compiler, what was built outside before.
#[track_caller]
pub fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preload/fault.rs");
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let made = dir.join(format!("fault-{}.so", std::process::id()));
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let built = Command::new(rustc)
            .args(["--edition", "2024", "--crate-type", "cdylib", "-C", "panic=abort", "-o"])
            .args([&made, &source])
            .output();
        // In one step: another test program may be using the one that is there.
        let path = dir.join("fault.so");
        if built.is_err() && path.exists() {
            return path;
        }
        let built = built.expect("rustc");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        fs::rename(&made, &path).unwrap();
        path
    })
}
