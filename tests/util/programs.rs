//! Programs that a gateway must not go over to: each broken in a way of its own, and what is said of it.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Kinds of programs that cannot take over, and what is said of each besides its path. Where a program
/// may take long, `restart.start_timeout` ends it.
pub const BROKEN: &[(&str, &str)] = &[
    ("missing", "No such file or directory"),
    ("empty", "it is empty"),
    ("not-executable", "it is not executable: chmod +x "),
    ("wrong-architecture", "it cannot be executed: Exec format error"),
    (
        "exit-1",
        "it exited with status 1 before it was ready: no\\u{1b}[31m luck / in a second line",
    ),
    ("exit-78", "with status 78 before it was ready: the configuration is wrong / x.toml:2:1: "),
    ("hang", "it was not ready within "),
    ("crash", "it was ended by signal 11 before it was ready"),
    ("ready-crash", "it was ended by signal 11 after it was ready"),
    ("old-journal", "with status 78 before it was ready: /s/journal: it has version 9"),
    // Beyond the ten.
    ("directory", "it is a directory"),
    ("script", "it is a script"),
    ("damaged", ""),
    ("open-to-all", "may be written by other users (mode 757): chmod go-w "),
    ("usage", "it is older than "),
    ("no-handover", "it is older than "),
    ("silent", "it exited with status 0 before it was ready"),
    ("junk", r#"it did not say that it is ready, but: {"ready":"\u{1b}yes"}"#),
    ("flood", "it did not say that it is ready, but: xxxx"),
    ("no-health", "/health at 127.0.0.1:"),
    ("unhealthy", "failed: status 500"),
    ("other-version", "another version answers there"),
    ("end-crash", "it was ended by signal 11 after it was ready"),
    ("end-exit-3", "it exited with status 3 after it was ready"),
    ("stays", "it did not end within 5 s after its input had ended"),
];

/// Puts a program of this kind at a path, in one step, in the place of what is there: one of [`BROKEN`];
/// or `deleted`, which proves itself and removes its file first; or `good`, which proves itself, and exits
/// with status 1 when it is to run; or `environment`, which says what it was given.
#[track_caller]
pub fn put(kind: &str, at: &Path) {
    let built = || fs::read(stand_in()).unwrap();
    let mut mode = 0o755;
    let bytes = match kind {
        "missing" => return fs::remove_file(at).unwrap_or_default(),
        "directory" => {
            put("missing", at);
            return fs::create_dir(at).unwrap();
        }
        "empty" => Vec::new(),
        "not-executable" => {
            mode = 0o644;
            built()
        }
        "wrong-architecture" => {
            let mut bytes = built();
            // e_machine (elf(5)): SPARC.
            bytes[18..20].copy_from_slice(&2u16.to_ne_bytes());
            bytes
        }
        "script" => b"#!/bin/sh\nexec hermes-gateway \"$@\"\n".to_vec(),
        "damaged" => built()[..3000].to_vec(),
        "open-to-all" => {
            mode = 0o757;
            [built(), b"\ngood".to_vec()].concat()
        }
        kind => [&built(), &b"\n"[..], kind.as_bytes()].concat(),
    };
    let new = at.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(new, at).unwrap();
}

/// Built once by each test program. In a sandbox, where there is no compiler, what was built before:
/// [`super::Sandbox::with_programs`] brings it.
#[track_caller]
pub fn stand_in() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let brought = env::current_dir().unwrap().join("stand-in");
        if brought.exists() {
            return brought;
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/stand_in.rs");
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let made = dir.join(format!("stand-in-{}", std::process::id()));
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        // It may run where the C library is older than here.
        let built = Command::new(rustc)
            .args(["--edition", "2024", "-C", "panic=abort", "-C", "strip=symbols"])
            .args(["-C", "target-feature=+crt-static", "-o"])
            .args([&made, &source])
            .output();
        let path = dir.join("stand-in");
        if built.is_err() && path.exists() {
            return path;
        }
        let built = built.expect("rustc");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        fs::rename(&made, &path).unwrap();
        path
    })
}

/// The version of the gateway under test, and that of [`put_newer`].
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub const NEWER: &str = "9.9.9";

/// Puts the gateway itself at a path, in one step, as it is or calling itself [`NEWER`].
#[track_caller]
pub fn put_gateway(at: &Path, newer: bool) {
    let mut bytes = fs::read(super::binary()).unwrap();
    let (old, new) = (VERSION.as_bytes(), NEWER.as_bytes());
    assert_eq!(
        old.len(),
        new.len(),
        "the name of a version of another length would move what follows"
    );
    let mut from = 0;
    while newer && let Some(found) = find(&bytes[from..], old) {
        bytes[from + found..][..new.len()].copy_from_slice(new);
        from += found + new.len();
    }
    let temporary = at.with_extension("new");
    fs::write(&temporary, bytes).unwrap();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(temporary, at).unwrap();
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let first = what[0];
    (0..bytes.len().saturating_sub(what.len()))
        .find(|at| bytes[*at] == first && &bytes[*at..*at + what.len()] == what)
}
