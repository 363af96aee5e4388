//! The gateway in the foreground, without a service manager: how it ends, and how it drains.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use util::fault::{self, Fault, HANG, When};
use util::http::Connection;
use util::{DEADLINE, Gate, Gateway, Home, eventually, pause, rounds, sys};

/// Gives it an agent that waits at a gate.
fn gated(home: &Home) -> Gate {
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    gate
}

/// What the only line of its history says.
#[track_caller]
fn last_stop(home: &Home) -> serde_json::Value {
    let text = fs::read_to_string(home.state_dir().join("history.jsonl")).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn ctrl_c_in_the_foreground_is_planned() {
    let gateway = Gateway::start();
    let mut connection = gateway.connect();
    connection.get("/health", &[]).assert_status(200);
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    let line = gateway.wait_for_log("Shutdown context: signal=SIGINT", DEADLINE);
    assert!(line.contains(" under_systemd=no "), "{line}");
    gateway.wait_for_log(
        "Exiting with code 0 (planned: an interrupt (SIGINT) that a process sent)",
        DEADLINE,
    );
    assert_eq!(last_stop(gateway.home())["exit"], 0);
    // The whole of a name's files are its own and nobody else's.
    for dir in [gateway.home().state_dir(), gateway.home().runtime_dir()] {
        assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
    }
    assert!(!gateway.home().control_socket().exists());
    assert!(gateway.home().runtime_dir().join("lock").exists());
}

#[test]
fn a_kill_in_the_foreground_is_external() {
    let gateway = Gateway::start();
    gateway.signal(libc::SIGTERM);
    let line = gateway.wait_for_log("Shutdown context: signal=SIGTERM", DEADLINE);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
    let sender = format!(" sender_pid={} ", std::process::id());
    assert!(line.contains(&sender), "{line}");
    let stop = last_stop(gateway.home());
    assert_eq!((&stop["verdict"], &stop["exit"]), (&"external".into(), &143.into()), "{stop}");
}

/// Between the last question and the exit there is still time for a stop: here while the history,
/// on a disk that hangs for a moment, gets the line of the kill.
#[test]
fn a_stop_in_the_last_moment_of_a_kill_is_a_stop() {
    let home = Home::new();
    let hangs = home.path().join("hangs");
    let fault =
        Fault { call: "write", error: HANG, when: When::While(&hangs), on: "history.jsonl" };
    let gateway = fault.into(home.launch(), &home).start();
    fs::write(&hangs, "").unwrap();
    gateway.signal(libc::SIGTERM);
    eventually("it writes the history", || (!fault::hits(&home).is_empty()).then_some(()));
    // It is pending when this returns.
    gateway.signal(libc::SIGINT);
    fs::remove_file(&hangs).unwrap();
    gateway.wait_for_log("Shutdown context: signal=SIGINT", DEADLINE);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    assert_eq!(last_stop(&home)["exit"], 0);
}

#[test]
fn stop() {
    let gateway = Gateway::start();
    let outcome = gateway.home().run(&["stop"]).assert_code(0);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0, "{outcome:?}");
    let stop = last_stop(gateway.home());
    assert_eq!(stop["reason"], "a stop that was announced", "{stop}");
    // Nothing is left that could turn the next kill into a stop.
    assert!(!gateway.home().runtime_dir().join("planned-stop").exists());
    let again = gateway.home().start();
    again.signal(libc::SIGTERM);
    assert_eq!(again.wait_for_exit(DEADLINE), 143);
}

#[test]
fn forged_signals_are_kills() {
    for code in [libc::SI_QUEUE, -60] {
        let gateway = Gateway::start();
        sys::forge_signal(gateway.pid(), libc::SIGTERM, code, 1, 0).unwrap();
        let line = gateway.wait_for_log("Shutdown context", DEADLINE);
        assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
        assert!(line.contains(" sender_name=(forged) "), "{line}");
    }
}

// ------------------------------------------------------- the marker of a stop ----

/// A marker for this process, as `stop` writes it.
fn marker(pid: i32) -> serde_json::Value {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let start: u64 = after_name.split_whitespace().nth(19).unwrap().parse().unwrap();
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    serde_json::json!({
        "pid": pid,
        "start": start,
        "at": uptime.split('.').next().unwrap().parse::<u64>().unwrap(),
        "boot": boot.trim(),
        "requester": "a test",
    })
}

/// Puts something in the marker's place with `place`, kills the gateway, and returns its status.
#[track_caller]
fn killed_with(place: impl FnOnce(&Path, serde_json::Value)) -> i32 {
    let gateway = Gateway::start();
    let path = gateway.home().runtime_dir().join("planned-stop");
    place(&path, marker(gateway.pid()));
    gateway.signal(libc::SIGTERM);
    gateway.wait_for_exit(DEADLINE)
}

#[test]
fn a_marker_makes_a_kill_a_stop() {
    let code = killed_with(|path, marker| fs::write(path, marker.to_string()).unwrap());
    assert_eq!(code, 0, "the cases below prove nothing without this one");
}

#[test]
fn a_stale_foreign_or_garbled_marker_makes_no_kill_a_stop() {
    let changes: [(&str, serde_json::Value); 11] = [
        ("pid", 1.into()),
        ("pid", std::process::id().into()),
        ("pid", "1".into()),
        ("start", 1.into()),
        ("start", serde_json::Value::Null),
        ("at", 0.into()),
        ("at", u64::MAX.into()),
        ("at", serde_json::Value::Null),
        ("at", (-1).into()),
        ("boot", "another".into()),
        ("boot", serde_json::Value::Null),
    ];
    for (key, value) in changes {
        let code = killed_with(|path, mut marker| {
            marker[key] = value.clone();
            fs::write(path, marker.to_string()).unwrap();
        });
        assert_eq!(code, 143, "{key}={value}");
    }
    // A minute is long enough for a stop, and no longer.
    let code = killed_with(|path, mut marker| {
        marker["at"] = marker["at"].as_u64().unwrap().saturating_sub(62).into();
        fs::write(path, marker.to_string()).unwrap();
    });
    assert_eq!(code, 143, "62 s old");
    for text in ["", "{", "[]", "null", "planned", "\0\0\0\0"] {
        let code = killed_with(|path, _| fs::write(path, text).unwrap());
        assert_eq!(code, 143, "{text:?}");
    }
}

#[test]
fn a_marker_that_is_no_file_of_ours_makes_no_kill_a_stop() {
    let symlinked = killed_with(|path, marker| {
        let elsewhere = path.with_file_name("elsewhere");
        fs::write(&elsewhere, marker.to_string()).unwrap();
        symlink(&elsewhere, path).unwrap();
    });
    assert_eq!(symlinked, 143);
    assert_eq!(killed_with(|path, _| fs::create_dir(path).unwrap()), 143);
    let fifo = killed_with(|path, _| {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    });
    assert_eq!(fifo, 143);
    if sys::uid() != 0 {
        return util::skip("only root can give a file to another user");
    }
    let foreign = killed_with(|path, marker| {
        fs::write(path, marker.to_string()).unwrap();
        chown(path, Some(4242), Some(4242)).unwrap();
    });
    assert_eq!(foreign, 143);
}

#[test]
fn a_marker_is_used_once() {
    let home = Home::new();
    let gate = gated(&home);
    let gateway = home.start();
    let path = home.runtime_dir().join("planned-stop");
    let turn = gateway.begin("x", false);
    gateway.wait_for_turns(1);
    gateway.signal(libc::SIGTERM);
    gateway.wait_for_log("verdict=external", DEADLINE);
    // Too late for the first signal; and the drain's end does not look at it for a kill.
    fs::write(&path, marker(gateway.pid()).to_string()).unwrap();
    gateway.signal(libc::SIGTERM);
    drop((turn, gate));
    // A stop that comes on top of a kill is a stop.
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    assert!(!path.exists());
}

// ---------------------------------------------------------------- the drain ----

#[test]
fn turns_in_flight_finish_and_new_work_is_turned_away() {
    let home = Home::new();
    let gate = gated(&home);
    let gateway = home.start();
    let mut whole = gateway.begin("the whole", false);
    let mut stream = gateway.begin("the stream", true);
    gateway.wait_for_turns(2);
    let mut kept = gateway.connect();
    kept.get("/health", &[]).assert_status(200);
    let key = gateway.authorization();
    gateway.signal(libc::SIGTERM);
    gateway.wait_for_log("Shutdown context", DEADLINE);
    gateway.wait_for_notification("STATUS=Draining: turns in flight 2", DEADLINE);
    // One that was kept alive hears why, and so does a new one.
    let refused = kept.get("/v1/models", &[("Authorization", &key)]);
    assert_eq!(refused.field("connection"), Some("close"), "{refused:?}");
    assert!(refused.error(503).contains("stopping"));
    kept.assert_closed();
    let fields = [("Authorization", key.as_str())];
    let refused =
        gateway.connect().post("/v1/chat/completions", &fields, &util::http::chat("no", false));
    assert_eq!(refused.field("connection"), Some("close"), "{refused:?}");
    assert!(refused.field("retry-after").is_some(), "{refused:?}");
    assert!(refused.error(503).contains("stopping"));
    gateway.connect().get("/ready", &[]).assert_status(503);
    assert_eq!(gateway.status()["state"], "draining");
    gate.open();
    let response = whole.response();
    assert_eq!(response.field("connection"), Some("close"), "{response:?}");
    assert_eq!(response.reply(), "begun\nthe whole");
    let response = stream.response().assert_status(200);
    let text = response.text();
    assert!(text.contains("the stream") && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
    let stop = last_stop(&home);
    assert_eq!((&stop["in_flight"], &stop["cut"]), (&2.into(), &0.into()), "{stop}");
}

#[test]
fn a_second_signal_ends_the_drain_at_once() {
    for (first, second, code) in [
        (libc::SIGTERM, libc::SIGTERM, 143),
        (libc::SIGINT, libc::SIGINT, 0),
        (libc::SIGTERM, libc::SIGINT, 0),
    ] {
        let home = Home::new();
        let _gate = gated(&home);
        let gateway = home.start();
        let mut turn = gateway.begin("x", false);
        gateway.wait_for_turns(1);
        gateway.signal(first);
        gateway.wait_for_log("Shutdown context", DEADLINE);
        assert!(gateway.is_running());
        let began = Instant::now();
        gateway.signal(second);
        assert_eq!(gateway.wait_for_exit(DEADLINE), code, "{first} {second}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(turn.response().error(503).contains("stopping"));
        assert_eq!(last_stop(&home)["cut"], 1);
    }
}

#[test]
fn a_drain_that_takes_too_long_is_cut_and_nothing_is_left() {
    let home = Home::new();
    let file = home.path().join("pid");
    let script = format!(
        "trap '' TERM; echo $$ > {0}.new; mv {0}.new {0}; while :; do sleep 1; done",
        file.display()
    );
    home.configure(&format!(
        "[agent]\ncommand = [\"sh\", \"-c\", {script:?}]\n[stop]\ndrain_timeout = \"200ms\"\n"
    ));
    let gateway = home.start();
    let mut turn = gateway.begin("x", true);
    let pid: i32 = eventually("a pid", || fs::read_to_string(&file).ok()?.trim().parse().ok());
    gateway.signal(libc::SIGINT);
    assert!(turn.response().error(503).contains("stopping"));
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}

#[test]
fn idle_connections_hold_nothing_up() {
    let gateway = Gateway::start();
    let mut idle: Vec<Connection> = (0..10).map(|_| gateway.connect()).collect();
    let half = b"POST /v1/chat/completions HTTP/1.1\r\nHost: local";
    idle[0].send(half);
    for connection in &mut idle[5..] {
        connection.get("/health", &[]).assert_status(200);
    }
    let began = Instant::now();
    gateway.signal(libc::SIGINT);
    for connection in &mut idle[5..] {
        connection.assert_closed();
    }
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_stop_before_it_is_ready() {
    for (signal, code) in [(libc::SIGINT, 0), (libc::SIGTERM, 143)] {
        let home = Home::new();
        home.configure("");
        let mut lease = sys::Lease::take(&home.config_file()).unwrap();
        let process = home.launch().spawn();
        lease.wait_until_asked(DEADLINE).unwrap();
        process.signal(signal);
        assert_eq!(process.wait_for_exit(DEADLINE), code);
        process.wait_for_log("Shutdown context", DEADLINE);
        assert!(process.notified().iter().all(|line| !line.starts_with("READY")));
    }
}

/// In a control group that names no unit the managers are asked which one is ours.
#[test]
fn a_kill_while_no_manager_answers_is_called_a_guess() {
    let home = Home::new();
    let bin = home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("systemctl"), "#!/bin/sh\nexec sleep 60\n").unwrap();
    fs::set_permissions(bin.join("systemctl"), Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let hidden = ["unshare", "--map-root-user", "--cgroup", "--"];
    if !std::process::Command::new("unshare")
        .args(&hidden[1..])
        .arg("true")
        .status()
        .unwrap()
        .success()
    {
        return util::skip("no control group namespace can be made here");
    }
    let launch = home.launch().env("PATH", &path).env("INVOCATION_ID", "x");
    let process = launch.through(&hidden).start();
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait_for_exit(DEADLINE), 143);
    let stop = last_stop(&home);
    assert!(stop["reason"].as_str().unwrap().starts_with("a guess: "), "{stop}");
}

/// Whether there is one decides what an empty configuration means.
#[test]
fn a_stop_during_a_start_ends_it_in_time_though_the_disk_with_its_unit_hangs() {
    let home = Home::new();
    let hangs = home.path().join("hangs");
    fs::write(&hangs, "").unwrap();
    let unit = home.path().join("c/systemd/user/hermes-gateway.service");
    let on = unit.to_str().unwrap();
    let fault = Fault { call: "statx", error: HANG, when: When::While(&hangs), on };
    let process = fault.into(home.launch(), &home).spawn();
    let tasks = || fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap().flatten();
    let names = || tasks().filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    eventually("it starts", || names().any(|name| name.trim() == "start").then_some(()));
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait_for_exit(DEADLINE), 143);
}

#[test]
fn a_kill_at_every_moment_of_a_start_ends_with_143() {
    let home = Home::new();
    for round in 0..rounds(40, 400) {
        let process = home.launch().spawn();
        // The case is the delay itself.
        pause(Duration::from_micros((round as u64 % 40) * 100));
        process.signal(libc::SIGTERM);
        assert_eq!(process.wait_for_exit(DEADLINE), 143, "round {round}");
    }
    // None of them is in the way of the next, nor taken for one that a SIGKILL ended.
    home.start();
    let history = fs::read_to_string(home.state_dir().join("history.jsonl")).unwrap();
    assert!(!history.contains("unclean exit"), "{history}");
}

#[test]
fn permissions_are_narrow_whatever_the_umask_says() {
    let home = Home::new();
    let through = ["sh", "-c", "umask 0; exec \"$@\"", "sh"];
    let gateway = home.launch().through(&through).start();
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    let open: Vec<_> = fs::read_dir(home.state_dir())
        .unwrap()
        .chain(fs::read_dir(home.runtime_dir()).unwrap())
        .map(|entry| entry.unwrap())
        .filter(|entry| {
            let mode: Permissions = entry.metadata().unwrap().permissions();
            mode.mode() & 0o077 != 0
        })
        .collect();
    assert!(open.is_empty(), "{open:?}");
}
