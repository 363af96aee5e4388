//! Which signal ended it, and who sent it: the history and the log name both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;

use util::fault::{Fault, When};
use util::{DEADLINE, Gateway, Home, eventually};

/// Runs a program at a terminal of its own. SIGUSR1 closes that, SIGUSR2 presses Ctrl-C.
const TERMINAL: &str = r#"
import os, pty, select, signal, sys
wake, raised = os.pipe()
os.set_blocking(raised, False)
signal.set_wakeup_fd(raised)
for number in signal.SIGUSR1, signal.SIGUSR2:
    signal.signal(number, lambda *_: None)
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    ready = select.select([terminal, wake], [], [])[0]
    if wake in ready:
        if os.read(wake, 1)[0] == signal.SIGUSR1:
            os.close(terminal)
            break
        os.write(terminal, b"\x03")
    elif terminal in ready:
        try:
            os.write(2, os.read(terminal, 4096))
        except OSError:
            break
end = os.waitpid(pid, 0)[1]
sys.exit(os.WEXITSTATUS(end) if os.WIFEXITED(end) else 128 + os.WTERMSIG(end))
"#;

/// The last line of its history.
#[track_caller]
fn last_stop(home: &Home) -> serde_json::Value {
    let text = fs::read_to_string(home.state_dir().join("history.jsonl")).unwrap_or_default();
    serde_json::from_str(text.lines().last().unwrap_or("null")).unwrap()
}

#[test]
fn ctrl_c_is_a_key_at_the_terminal() {
    let home = Home::new();
    let terminal = home.launch().through(&["python3", "-c", TERMINAL]).start();
    terminal.signal(libc::SIGUSR2);
    assert_eq!(terminal.wait_for_exit(DEADLINE), 0);
    let stop = last_stop(&home);
    assert_eq!((&stop["verdict"], &stop["reason"]), (&"planned".into(), &"Ctrl-C".into()));
}

/// signal-hook drops what arrives between a handler's installation and its entry in the table of handlers.
#[test]
fn a_signal_in_the_moment_in_which_its_handler_is_installed_is_not_lost() {
    for (signal, name, code) in [(libc::SIGTERM, "SIGTERM", 143), (libc::SIGINT, "SIGINT", 0)] {
        let home = Home::new();
        let when = When::Once(1);
        let fault = Fault { call: "sigaction", error: signal, when, on: "journal" };
        let end = fault.into(home.launch(), &home).try_start().err().expect("a start that it ends");
        // So early that there may be no history to write it into.
        let said = end.assert_code(code).stderr;
        assert!(said.contains(&format!("Shutdown context: signal={name} ")), "{said}");
    }
}

#[test]
fn a_closed_terminal_ends_a_foreground_run() {
    let home = Home::new();
    let terminal = home.launch().through(&["python3", "-c", TERMINAL]).start();
    terminal.signal(libc::SIGUSR1);
    assert_eq!(terminal.wait_for_exit(DEADLINE), 143);
    let stop = last_stop(&home);
    assert_eq!((&stop["signal"], &stop["verdict"]), (&"SIGHUP".into(), &"external".into()));
    assert_eq!(stop["reason"], "the terminal was closed", "{stop}");
}

/// The shell passes the signal on: to a job in the foreground beside the kernel's own, to one in the
/// background alone. That it comes twice cuts no drain short.
#[test]
fn a_closed_terminal_ends_a_run_under_a_shell() {
    for job in [r#""$@"; true"#, r#""$@" & wait"#] {
        for _ in 0..8 {
            let home = Home::new();
            let shell = ["python3", "-c", TERMINAL, "bash", "--norc", "-ic", job, "bash"];
            let terminal = home.launch().through(&shell).start();
            terminal.signal(libc::SIGUSR1);
            terminal.wait_for_exit(DEADLINE);
            let stop = eventually("it ends", || Some(last_stop(&home)).filter(|s| !s.is_null()));
            assert_eq!(stop["reason"], "the terminal was closed", "{job}: {stop}");
        }
    }
}

#[test]
fn under_nohup_it_outlives_its_terminal() {
    let home = Home::new();
    let nohup = ["python3", "-c", TERMINAL, "sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];
    let terminal = home.launch().through(&nohup).start();
    terminal.signal(libc::SIGUSR1);
    let terminals = || {
        let open = fs::read_dir(format!("/proc/{}/fd", terminal.pid())).unwrap().flatten();
        let open = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        open.filter(|to| to.ends_with("ptmx")).count()
    };
    eventually("the terminal is closed", || (terminals() == 0).then_some(()));
    assert_eq!(terminal.ask("still there?").assert_status(200).reply(), "still there?");
    home.run(&["stop"]).assert_code(0);
    assert_eq!(terminal.wait_for_exit(DEADLINE), 0);
    // Had it begun to end before, a stop that comes in time would be planned all the same.
    let stop = last_stop(&home);
    assert_eq!((&stop["verdict"], &stop["signal"]), (&"planned".into(), &"SIGTERM".into()));
}

#[test]
fn sighup_by_a_process_is_a_reload() {
    let gateway = Gateway::start();
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("the configuration was read again", DEADLINE);
    gateway.signal(libc::SIGTERM);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
}

#[test]
fn sigint_by_a_process_is_not_called_ctrl_c() {
    let gateway = Gateway::start();
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    let stop = last_stop(gateway.home());
    assert_eq!(stop["verdict"], "planned", "{stop}");
    assert_eq!(stop["sender"]["pid"], std::process::id(), "{stop}");
    assert!(!stop["reason"].as_str().unwrap().contains("Ctrl-C"), "{stop}");
}

#[test]
fn every_other_signal_that_ends_it_is_named_with_its_sender() {
    let signals = [
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGIO, "SIGIO"),
        (libc::SIGPWR, "SIGPWR"),
        (libc::SIGSTKFLT, "SIGSTKFLT"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
    ];
    let home = Home::new();
    for (signal, name) in signals {
        let gateway = home.start();
        gateway.signal(signal);
        assert_eq!(gateway.wait_for_exit(DEADLINE), 143, "{name}");
        let stop = last_stop(&home);
        assert_eq!((&stop["signal"], &stop["exit"]), (&name.into(), &143.into()), "{stop}");
        assert_eq!(stop["sender"]["pid"], std::process::id(), "{stop}");
        assert_eq!(stop["verdict"], "external", "{stop}");
    }
}

#[test]
fn the_first_sigsegv_or_sigbus_from_outside_ends_it() {
    let home = Home::new();
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        let gateway = home.start();
        gateway.signal(signal);
        assert_eq!(gateway.wait_for_exit(DEADLINE), 128 + signal);
        let next = home.start();
        let stop = eventually("the entry", || {
            Some(last_stop(&home)).filter(|stop| stop["pid"] == gateway.pid())
        });
        assert_eq!(stop["verdict"], "unclean exit", "{stop}");
        // Which of them it was cannot be known.
        let reason = stop["reason"].as_str().unwrap();
        assert!(reason.contains("killed") && reason.contains("crashed"), "{stop}");
        next.signal(libc::SIGINT);
        assert_eq!(next.wait_for_exit(DEADLINE), 0);
    }
}
