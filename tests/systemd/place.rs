//! Where the gateway runs decides whose stop is its own: as a child in another unit, in a scope, and
//! in a shell with somebody else's `INVOCATION_ID`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::Path;

use serde_json::Value;
use util::sys::{self, Pidfd};
use util::{DEADLINE, Home, Manager, Process, Sandbox, Service, binary, eventually};

/// The gateway as the child of a shell in a unit of its own.
struct InShell<'a> {
    manager: &'a Manager,
    pid: i32,
    pidfd: Pidfd,
    dir: String,
}

impl<'a> InShell<'a> {
    /// Starts the unit `shell.service`; the shell outlives SIGTERM and writes down how the gateway
    /// ended.
    #[track_caller]
    fn start(manager: &'a Manager, name: &str) -> InShell<'a> {
        let dir = format!("{}/{name}", manager.home().display());
        fs::create_dir(&dir).unwrap();
        let script = format!(
            "trap : TERM INT; export XDG_STATE_HOME={dir}
            {} run --set http.listen=127.0.0.1:0 & echo $! > {dir}/pid.new
            mv {dir}/pid.new {dir}/pid
            wait $!; status=$?
            [ $status -le 128 ] || {{ wait $!; status=$?; }}
            echo $status > {dir}/status",
            binary().display()
        );
        let args = ["--unit=shell", "--quiet", "sh", "-c", &script];
        manager.systemd_run(&args).assert_code(0);
        let pid = eventually("the pid", || {
            let text = fs::read_to_string(format!("{dir}/pid")).ok()?;
            text.trim().parse::<i32>().ok()
        });
        let serves = format!("[{pid}]: gateway default serves on");
        manager.unit("shell.service").wait_for_journal(&serves);
        let pidfd = Pidfd::open(pid).unwrap();
        InShell { manager, pid, pidfd, dir }
    }

    /// Waits for the gateway's end; returns what its history has of it.
    #[track_caller]
    fn last_stop(&self) -> Value {
        let journal = || self.manager.unit("shell.service").journal();
        assert!(self.pidfd.wait(DEADLINE).unwrap(), "{}", journal());
        let file = Path::new(&self.dir).join("hermes-gateway/default/history.jsonl");
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{e}\n{}", journal()));
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    /// What the shell saw.
    #[track_caller]
    fn status(&self) -> String {
        let file = format!("{}/status", self.dir);
        eventually("its status", || {
            let text = fs::read_to_string(&file).ok()?;
            text.ends_with('\n').then_some(text)
        })
    }
}

#[test]
fn in_a_shell_of_another_unit_a_kill_is_external_and_a_stop_of_the_unit_planned() {
    Sandbox::user().run(|manager| {
        let gateway = InShell::start(manager, "killed");
        sys::kill(gateway.pid, libc::SIGTERM).unwrap();
        let stop = gateway.last_stop();
        assert_eq!((&stop["verdict"], &stop["exit"]), (&"external".into(), &143.into()), "{stop}");
        assert_eq!(gateway.status(), "143\n");
        let shell = manager.unit("shell.service");
        shell.wait_for(&[("ActiveState", "inactive")]);

        let gateway = InShell::start(manager, "stopped");
        manager.systemctl(&["stop", "shell.service"]).assert_code(0);
        let stop = gateway.last_stop();
        assert_eq!((&stop["verdict"], &stop["exit"]), (&"planned".into(), &0.into()), "{stop}");

        let gateway = InShell::start(manager, "interrupted");
        sys::kill(gateway.pid, libc::SIGINT).unwrap();
        let stop = gateway.last_stop();
        assert_eq!((&stop["verdict"], &stop["exit"]), (&"planned".into(), &0.into()), "{stop}");
        assert_eq!(stop["reason"], "an interrupt (SIGINT) that a process sent", "{stop}");
        assert_eq!(gateway.status(), "0\n");
    });
}

/// The gateway in the foreground of a login session, with this further environment.
#[track_caller]
fn in_session(env: &[(&str, &str)], through: &[&str]) -> Process {
    let home = Home::new();
    let mut launch = home.launch().through(through);
    for (name, value) in env {
        launch = launch.env(name, value);
    }
    let process = launch.spawn();
    process.wait_for_log("serves on", DEADLINE);
    // The home is read no more: what follows is in the log.
    process
}

#[test]
fn a_forged_invocation_id_in_a_login_session_makes_no_kill_planned() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let theirs = service.unit().property("InvocationID");
        for id in ["0123456789abcdef0123456789abcdef", &theirs, "x", "-"] {
            let process = in_session(&[("INVOCATION_ID", id)], &[]);
            process.signal(libc::SIGTERM);
            let line = process.wait_for_log("Shutdown context", DEADLINE);
            assert_eq!(process.wait_for_exit(DEADLINE), 143);
            for word in [" under_systemd=yes ", " verdict=external ", "no unit of its own"] {
                assert!(line.contains(word), "{id}: {line}");
            }
        }
        // A stop of the unit whose id was taken is no business of the one in the session.
        let process = in_session(&[("INVOCATION_ID", &theirs)], &[]);
        service.systemctl("stop");
        assert!(process.is_running());
        process.signal(libc::SIGINT);
        assert_eq!(process.wait_for_exit(DEADLINE), 0);
    });
}

#[test]
fn without_an_invocation_id_nobody_is_asked() {
    Sandbox::user().run(|_| {
        let process = in_session(&[], &[]);
        process.signal(libc::SIGTERM);
        let line = process.wait_for_log("Shutdown context", DEADLINE);
        assert_eq!(process.wait_for_exit(DEADLINE), 143);
        assert!(line.contains(" under_systemd=no unit=- active_state=- "), "{line}");
    });
}

#[test]
fn in_a_scope_a_kill_is_external_and_a_stop_of_the_scope_planned() {
    Sandbox::user().run(|manager| {
        let start = |name: &str| {
            let unit = format!("--unit={name}");
            let scope = ["systemd-run", "--user", "--scope", "--quiet", &unit];
            in_session(&[("XDG_RUNTIME_DIR", "/run/user/4242")], &scope)
        };
        let process = start("one");
        process.signal(libc::SIGTERM);
        assert_eq!(process.wait_for_exit(DEADLINE), 143);

        let process = start("two");
        manager.systemctl(&["stop", "two.scope"]).assert_code(0);
        assert_eq!(process.wait_for_exit(DEADLINE), 0);
        let line = process.wait_for_log("Shutdown context", DEADLINE);
        assert!(line.contains(" unit=two.scope "), "{line}");
    });
}
