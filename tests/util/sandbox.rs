//! Runs the body of a test under a real, freshly booted systemd (`tests/with-systemd`).
//!
//! The test program starts a copy of itself inside, told to run this one test; there the same
//! call runs the body. So a test reads as if it had always been inside.

use std::any::type_name;
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Manager, Process, TempDir, binary, report, skip, sys};

/// Set inside of the sandbox.
const INSIDE: &str = "HERMES_SANDBOX";

/// Where a machine's program belongs: in a directory that only root may write, as /tmp is not.
const INSTALLED: &str = "/opt/hermes-gateway/hermes-gateway";

/// A sandbox in the making.
pub struct Sandbox {
    system: bool,
    limit: Duration,
    programs: bool,
}

impl Sandbox {
    /// The body runs as the unprivileged user `tester`, with a `systemd --user`.
    pub fn user() -> Sandbox {
        Sandbox { system: false, limit: Duration::from_secs(120), programs: false }
    }

    /// The body runs as root, beside the system's manager.
    pub fn system() -> Sandbox {
        Sandbox { system: true, ..Sandbox::user() }
    }

    /// How long the whole test may take, when two minutes are not enough.
    pub fn limit(mut self, limit: Duration) -> Sandbox {
        self.limit = limit;
        self
    }

    /// The body has the programs of [`super::programs`].
    pub fn with_programs(self) -> Sandbox {
        Sandbox { programs: true, ..self }
    }

    /// Boots, runs the body inside, and fails with all that was said if the body fails. To be called
    /// from the `#[test]` function itself, with a closure: its name tells the copy which test to run.
    #[track_caller]
    pub fn run<F: FnOnce(&Manager)>(self, body: F) {
        if env::var_os(INSIDE).is_some() {
            if self.system {
                let dir = Path::new(INSTALLED).parent().unwrap();
                fs::create_dir_all(dir).expect("make a directory for the gateway");
                fs::copy("hermes-gateway", INSTALLED).expect("install the gateway");
            }
            return body(&Manager { system: self.system });
        }
        if let Some(reason) = cannot_run() {
            return skip(&reason);
        }
        // Where everybody may read and execute: cargo's own directory may be root's alone.
        let dir = TempDir::new("");
        let [gateway, test] = ["hermes-gateway", "test"].map(|name| dir.path().join(name));
        fs::copy(binary(), &gateway).expect("copy the gateway");
        fs::copy(env::current_exe().unwrap(), &test).expect("copy the test program");

        if self.programs {
            fs::copy(super::programs::stand_in(), dir.path().join("stand-in")).expect("copy it");
        }
        let with_systemd = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/with-systemd");
        let mut command = Command::new(with_systemd);
        command.arg("--journal");
        if self.system {
            command.arg("--system");
        }
        if let Some(root) = env::var_os("HERMES_ROOT") {
            command.arg("--root").arg(root);
        }
        command
            .arg("--")
            .arg(&test)
            .args(["--exact", test_name::<F>(), "--nocapture"])
            .current_dir(dir.path())
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HERMES_BIN", if self.system { Path::new(INSTALLED) } else { &gateway })
            .env(INSIDE, "1");
        for name in ["CI", "HERMES_FULL", "RUST_BACKTRACE"] {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        let outcome = Process::spawn(&mut command).finish(self.limit);
        assert!(
            outcome.code() == 0 && outcome.stdout.contains("test result: ok. 1 passed"),
            "in the sandbox (exit status {}):\n{}\n{}",
            outcome.code(),
            indented(&outcome.stdout),
            indented(&outcome.stderr)
        );
        // What the copy has reported is worth to be read here, too.
        let figures = format!("{}: ", test_name::<F>());
        outcome.stderr.lines().filter_map(|line| line.strip_prefix(&figures)).for_each(report);
    }
}

/// Why there can be no sandbox here.
fn cannot_run() -> Option<String> {
    if sys::uid() != 0 {
        return Some("needs root".to_owned());
    }
    let packages = [
        ("systemd", "/lib/systemd/systemd"),
        ("dbus", "/usr/bin/dbus-daemon"),
        ("dbus-user-session", "/usr/lib/systemd/user/dbus.socket"),
    ];
    packages
        .into_iter()
        .find(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| format!("needs the package {package}"))
}

/// The name of the test that a closure was written in: `crate::path::test::{{closure}}`.
#[track_caller]
pub(super) fn test_name<F>() -> &'static str {
    type_name::<F>()
        .split_once("::")
        .filter(|(_, path)| path.ends_with("::{{closure}}"))
        .map(|(_, path)| path.trim_end_matches("::{{closure}}"))
        .expect("this takes a closure written in the test itself")
}

/// Indented, so that nobody counts the inner runner's closing line as the outer one's.
pub(super) fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  | {line}\n")).collect()
}
