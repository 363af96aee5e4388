//! `status` and `stop` from shells that are not the one that started the gateway: root's, with and
//! without the user's HOME, and the user's own with another runtime directory or none.
//!
//! The right answer is the truth; where that cannot be told, exit status 4 and an explanation, and
//! never a comfortable guess.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;

use util::sys::Pidfd;
use util::{DEADLINE, Manager, Outcome, Process, Sandbox, Service, UNIT, binary, eventually};

const UID: u32 = 4242;
const HOME: &str = "/home/tester";
/// A runtime directory that is the user's own, and not the one that logind made.
const OTHER: &str = "/home/tester/other";

/// A shell that somebody types into.
struct Shell {
    name: &'static str,
    root: bool,
    env: &'static [(&'static str, &'static str)],
    /// Its places are those of another gateway, root's own: it may speak of that one, if it says so.
    names_another: bool,
}

const SUDO: (&str, &str) = ("SUDO_USER", "tester");
const SUDO_UID: (&str, &str) = ("SUDO_UID", "4242");

const SHELLS: &[Shell] = &[
    Shell {
        name: "sudo that keeps HOME",
        root: true,
        env: &[("HOME", HOME), SUDO, SUDO_UID],
        names_another: false,
    },
    Shell {
        name: "root with the user's HOME",
        root: true,
        env: &[("HOME", HOME)],
        names_another: false,
    },
    Shell {
        name: "sudo that keeps the whole environment",
        root: true,
        env: &[("HOME", HOME), ("XDG_RUNTIME_DIR", "/run/user/4242"), SUDO, SUDO_UID],
        names_another: false,
    },
    Shell {
        name: "sudo with root's HOME",
        root: true,
        env: &[("HOME", "/root"), SUDO, SUDO_UID],
        names_another: true,
    },
    Shell {
        name: "the user's without XDG_RUNTIME_DIR",
        root: false,
        env: &[("HOME", HOME)],
        names_another: false,
    },
    Shell {
        name: "the user's with a runtime directory that was removed",
        root: false,
        env: &[("HOME", HOME), ("XDG_RUNTIME_DIR", "/run/user/4242x")],
        names_another: false,
    },
    Shell {
        name: "the user's with root's runtime directory",
        root: false,
        env: &[("HOME", HOME), ("XDG_RUNTIME_DIR", "/run/user/0")],
        names_another: false,
    },
    Shell {
        name: "the user's with another runtime directory",
        root: false,
        env: &[("HOME", HOME), ("XDG_RUNTIME_DIR", OTHER)],
        names_another: false,
    },
];

impl Shell {
    #[track_caller]
    fn run(&self, args: &[&str]) -> Outcome {
        let mut command = Command::new("env");
        command.arg("-i").arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(self.env.iter().map(|(name, value)| format!("{name}={value}")));
        if !self.root {
            let ids = [format!("--reuid={UID}"), format!("--regid={UID}")];
            command.arg("setpriv").args(ids).args(["--clear-groups", "--"]);
        }
        Process::spawn(command.arg(binary()).args(args).current_dir("/")).finish(DEADLINE)
    }

    /// Whether the words tell whose gateway they are about, where that is not the one that runs.
    fn owns_up(&self, outcome: &Outcome) -> bool {
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        self.names_another
            && ["tester", "4242", "need root", "uid 0"].iter().any(|w| said.contains(w))
    }

    fn complaint(&self, what: &str, outcome: &Outcome) -> String {
        let Outcome { stdout, stderr, .. } = outcome;
        format!("{}: {what}: exit status {}\n{stdout}{stderr}", self.name, outcome.code())
    }
}

/// Asks for the status in every shell while process `pid` runs, and collects what is not true.
#[track_caller]
fn untrue_statuses(pid: i32) -> Vec<String> {
    let shell_says_otherwise = |shell: &&Shell| {
        let outcome = shell.run(&["status"]);
        let words = outcome.stdout.lines().count() > 1 || !outcome.stderr.is_empty();
        let says_it = outcome.stdout.contains(&format!("pid  {pid}\n"));
        let true_word = match outcome.code() {
            0 => says_it,
            4 => words,
            _ => shell.owns_up(&outcome),
        };
        (!true_word).then(|| shell.complaint("status", &outcome))
    };
    SHELLS.iter().filter_map(|shell| shell_says_otherwise(&shell)).collect()
}

/// Stops in every shell what `start` starts, and collects what is not true. `start` says which
/// process it is.
#[track_caller]
fn untrue_stops(mut start: impl FnMut() -> i32, still: impl Fn(i32) -> bool) -> Vec<String> {
    let mut untrue = Vec::new();
    for shell in SHELLS {
        let pid = start();
        let process = Pidfd::open(pid).unwrap();
        let outcome = shell.run(&["stop"]);
        if outcome.code() == 0 {
            let ended = process.wait(std::time::Duration::ZERO).unwrap();
            if !(ended || shell.owns_up(&outcome)) {
                untrue.push(shell.complaint("stop, while it keeps running", &outcome));
            }
        } else if outcome.stderr.trim().is_empty() {
            untrue.push(shell.complaint("stop, without a word why not", &outcome));
        } else if !still(pid) {
            untrue.push(shell.complaint("stop, though it ended", &outcome));
        }
    }
    untrue
}

#[track_caller]
fn assert_true(untrue: &[String]) {
    assert!(untrue.is_empty(), "{} untrue answers:\n{}", untrue.len(), untrue.join("\n"));
}

#[track_caller]
fn make_other() {
    fs::create_dir(OTHER).unwrap();
    chown(OTHER, Some(UID), Some(UID)).unwrap();
}

/// The user's gateway in the foreground, on a free port.
#[track_caller]
fn foreground(user: &Manager) -> Process {
    let mut command = user.command(&binary());
    let process = Process::spawn(command.args(["run", "--set", "http.listen=127.0.0.1:0"]));
    process.wait_for_log("serves on", DEADLINE);
    process
}

#[test]
fn the_status_of_an_installed_unit_is_true_in_every_shell() {
    Sandbox::system().run(|manager| {
        let user = manager.user();
        let service = Service::start(&user);
        make_other();
        assert_true(&untrue_statuses(service.pid()));
        service.unit().assert(&[("ActiveState", "active"), ("NRestarts", "0")]);
    });
}

#[test]
fn the_stop_of_an_installed_unit_is_true_in_every_shell() {
    Sandbox::system().run(|manager| {
        let user = manager.user();
        let service = Service::start(&user);
        make_other();
        let start = || {
            service.systemctl("start");
            service.pid()
        };
        // Whatever was not stopped runs on as the same process.
        let still = |pid| service.unit().main_pid() == pid;
        let untrue = untrue_stops(start, still);
        assert_true(&untrue);
        // Who stopped it stopped the unit: none has failed or come back.
        for stop in service.stops() {
            assert_eq!(stop["exit"], 0, "{stop}");
        }
    });
}

#[test]
fn the_status_of_a_gateway_in_the_foreground_is_true_in_every_shell() {
    Sandbox::system().run(|manager| {
        make_other();
        let process = foreground(&manager.user());
        assert_true(&untrue_statuses(process.pid()));
        assert!(process.is_running());
    });
}

#[test]
fn the_stop_of_a_gateway_in_the_foreground_is_true_in_every_shell() {
    Sandbox::system().run(|manager| {
        make_other();
        let user = manager.user();
        let running = std::cell::RefCell::new(None::<Process>);
        let start = || {
            let mut running = running.borrow_mut();
            if !running.as_ref().is_some_and(Process::is_running) {
                if let Some(ended) = &*running {
                    assert_eq!(ended.wait_for_exit(DEADLINE), 0, "it was a planned stop");
                }
                // What was stopped must have given up its lock before the next one starts.
                *running = None;
                *running = Some(foreground(&user));
            }
            running.as_ref().unwrap().pid()
        };
        let still = |_| running.borrow().as_ref().is_some_and(Process::is_running);
        assert_true(&untrue_stops(start, still));
    });
}

#[test]
fn a_removed_control_socket_or_runtime_directory_hides_nothing() {
    Sandbox::system().run(|manager| {
        let user = manager.user();
        let service = Service::start(&user);
        let pid = service.pid();
        let dir = util_runtime();
        fs::remove_file(dir.join("control.sock")).unwrap();
        eventually("the control socket is made again", || {
            dir.join("control.sock").exists().then_some(())
        });
        let outcome = user.gateway(&["status"]).assert_code(0);
        assert!(outcome.stdout.contains(&format!("pid  {pid}\n")), "{}", outcome.stdout);

        // With the lock in it, even.
        fs::remove_dir_all(&dir).unwrap();
        let outcome = user.gateway(&["status"]);
        assert!([0, 4].contains(&outcome.code()), "{outcome:?}");
        user.gateway(&["stop"]).assert_code(0);
        service.assert_inactive(0);
        service.unit().assert(&[("Result", "success")]);
        assert_eq!(user.systemctl(&["is-failed", UNIT]).stdout, "inactive\n");
    });
}

fn util_runtime() -> std::path::PathBuf {
    std::path::Path::new("/run/user/4242/hermes-gateway/default").to_owned()
}
