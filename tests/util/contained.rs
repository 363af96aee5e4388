//! A gateway as process 1 of a pid namespace, as in a container without an init.

use std::process::Command;

use super::{DEADLINE, Gateway, Home, Outcome, Process, sys};

/// A gateway that is process 1 of a pid namespace of its own.
pub struct Contained {
    pub gateway: Gateway,
    /// Process 1, as it is called out here.
    pub pid: i32,
}

impl Contained {
    /// Starts it; `None`, said aloud, where there can be no namespace.
    #[track_caller]
    pub fn start(home: &Home) -> Option<Contained> {
        if sys::uid() != 0 {
            super::skip("a pid namespace needs root");
            return None;
        }
        let words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
        let gateway = home.launch().through(&words).start();
        assert_eq!(gateway.status()["pid"], 1);
        let pid = gateway.children()[0];
        Some(Contained { gateway, pid })
    }

    /// Runs a command inside, with the gateway's own environment.
    #[track_caller]
    pub fn inside(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new("nsenter");
        let own = self.gateway.home().command(&[]);
        command.env_clear();
        for (name, value) in own.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let target = format!("--target={}", self.pid);
        command.args([&target, "--pid", "--mount", "--"]).args(words);
        Process::spawn(&mut command).finish(DEADLINE)
    }

    #[track_caller]
    pub fn assert_end(&self, code: i32, words: &[&str]) {
        let line = self.gateway.wait_for_log("Shutdown context", DEADLINE);
        assert_eq!(self.gateway.wait_for_exit(DEADLINE), code, "{line}");
        for word in words {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
}
