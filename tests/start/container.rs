//! As process 1 of a pid namespace, as in a container without an init: signals from inside and from
//! outside, and the orphans that become its children.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;

use util::{Contained, DEADLINE, Home, binary, eventually, sys};

#[test]
fn ctrl_c_in_a_container_is_a_planned_stop() {
    let home = Home::new();
    let Some(contained) = Contained::start(&home) else {
        return;
    };
    contained.inside(&["kill", "-INT", "1"]).assert_code(0);
    contained.assert_end(0, &["signal=SIGINT", "verdict=planned"]);
}

#[test]
fn ctrl_c_at_the_terminal_of_the_host() {
    let home = Home::new();
    let Some(contained) = Contained::start(&home) else {
        return;
    };
    sys::kill(contained.pid, libc::SIGINT).unwrap();
    contained.assert_end(0, &["signal=SIGINT", "verdict=planned"]);
}

#[test]
fn a_stop_from_inside_a_container_is_planned() {
    let home = Home::new();
    let Some(contained) = Contained::start(&home) else {
        return;
    };
    let program = binary();
    // It may not live to see its success: the namespace ends with its process 1.
    let code = contained.inside(&[program.to_str().unwrap(), "stop"]).code();
    assert!([0, 137].contains(&code), "{code}");
    contained.assert_end(0, &["signal=SIGTERM", "verdict=planned"]);
}

#[test]
fn a_plain_kill_from_inside_a_container_is_external() {
    let home = Home::new();
    let Some(contained) = Contained::start(&home) else {
        return;
    };
    contained.inside(&["kill", "-TERM", "1"]).assert_code(0);
    contained.assert_end(143, &["verdict=external", "under_systemd=no"]);
}

#[test]
fn a_signal_from_outside_of_the_pid_namespace_is_external_and_said_to_be_from_outside() {
    let home = Home::new();
    let Some(contained) = Contained::start(&home) else {
        return;
    };
    sys::kill(contained.pid, libc::SIGTERM).unwrap();
    let words = ["verdict=external", " sender_pid=0 ", " sender_name=(outside) "];
    contained.assert_end(143, &words);
}

#[test]
fn a_stop_from_outside_of_the_namespace_is_no_plain_kill() {
    let home = Home::new();
    let Some(contained) = Contained::start(&home) else {
        return;
    };
    // It shares the directories, and sees another pid than the gateway itself does: whatever it
    // can do, it must not report a stop that the gateway took for a kill.
    let outcome = home.run(&["stop"]);
    if outcome.code() == 0 {
        contained.assert_end(0, &["verdict=planned"]);
    } else {
        assert!(contained.gateway.is_running(), "{outcome:?}");
    }
}

/// The children of process 1, by the state that /proc gives them.
fn children(pid: i32) -> Vec<char> {
    let mut states = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let pids = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in pids.split_whitespace() {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            states.extend(state);
        }
    }
    states
}

#[test]
fn orphans_are_reaped() {
    let home = Home::new();
    // Each turn leaves five that end after their parent, out of its group.
    let script = "for n in 1 2 3 4 5; do setsid sleep 0.$n & done; \
                  while [ $(ps -o pgid= | sort -u | wc -l) -lt 6 ]; do :; done; echo ok";
    let keep = "leftovers = \"keep\"\n";
    home.configure(&format!("[agent]\ncommand = [\"sh\", \"-c\", {script:?}]\n{keep}"));
    let Some(contained) = Contained::start(&home) else {
        return;
    };
    let turns: Vec<_> = (0..8).map(|_| contained.gateway.begin("x", false)).collect();
    let mut most = 0;
    for mut turn in turns {
        assert_eq!(turn.response().reply(), "ok");
        most = most.max(children(contained.pid).len());
    }
    assert!(most > 0, "no orphan was ever a child of process 1");
    eventually("all are reaped", || children(contained.pid).is_empty().then_some(()));
    // Its own children are still waited for by those who want their status.
    home.configure("[agent]\ncommand = [\"sh\", \"-c\", \"exit 7\"]\n");
    sys::kill(contained.pid, libc::SIGHUP).unwrap();
    contained.gateway.wait_for_log("read again", DEADLINE);
    for _ in 0..50 {
        let message = contained.gateway.ask("x").error(502);
        assert!(message.contains("exit status 7"), "{message}");
    }
    contained.inside(&["kill", "-TERM", "1"]).assert_code(0);
    contained.assert_end(143, &[]);
}
