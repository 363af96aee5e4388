//! Runs the body of a test as root in mount and pid namespaces of its own, where it may mount what
//! it likes. When it ends, however it does, the kernel ends all that it has started and takes its
//! mounts down, and with them their loop devices.
//!
//! As in [`super::Sandbox`], the test program starts itself again, told to run this one test.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::sandbox::{indented, test_name};
use super::{Process, skip, sys};

/// Set inside.
const INSIDE: &str = "HERMES_PRIVATE";

/// Namespaces in the making.
pub struct Private {
    needs: Vec<(&'static str, &'static str)>,
    limit: Duration,
}

impl Private {
    /// Needs nothing but root.
    pub fn new() -> Private {
        Private { needs: Vec::new(), limit: Duration::from_secs(120) }
    }

    /// A file that must be there, and the package that brings it.
    pub fn needs(mut self, package: &'static str, file: &'static str) -> Private {
        self.needs.push((package, file));
        self
    }

    /// How long the whole test may take, when two minutes are not enough.
    pub fn limit(mut self, limit: Duration) -> Private {
        self.limit = limit;
        self
    }

    /// Runs the body inside, and fails with all that was said if the body fails. To be called from
    /// the `#[test]` function itself, with a closure: its name tells which test to run inside.
    #[track_caller]
    pub fn run<F: FnOnce()>(self, body: F) {
        if env::var_os(INSIDE).is_some() {
            return body();
        }
        if let Some(reason) = self.cannot_run() {
            return skip(&reason);
        }
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"])
            .arg("--mount-proc")
            .arg(env::current_exe().expect("the test program"))
            .args(["--exact", test_name::<F>(), "--nocapture"])
            .env(INSIDE, "1");
        let outcome = Process::spawn(&mut command).finish(self.limit);
        let said = format!("{}\n{}", indented(&outcome.stdout), indented(&outcome.stderr));
        assert!(
            outcome.code() == 0 && outcome.stdout.contains("test result: ok. 1 passed"),
            "inside (exit status {}):\n{said}",
            outcome.code(),
        );
        // What the body has to tell of a success.
        print!("{said}");
    }

    /// Why there can be no namespaces here.
    fn cannot_run(&self) -> Option<String> {
        if sys::uid() != 0 {
            return Some("needs root".to_owned());
        }
        let mut missing = self.needs.iter().filter(|(_, file)| !Path::new(file).exists());
        if let Some((package, file)) = missing.next() {
            return Some(format!("needs the package {package} ({file})"));
        }
        let allowed = Command::new("unshare").args(["--mount", "true"]).output();
        let allowed = allowed.is_ok_and(|output| output.status.success());
        (!allowed).then(|| "mount namespaces are not allowed".to_owned())
    }
}
