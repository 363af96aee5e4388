//! A disk that hangs: every readable state is told in time, connections keep to their places, and a
//! stop ends with its verdict's status inside of its budget. When the disk answers again, so does the
//! gateway. By calls that hang in a library, and by a frozen file system, where the kernel waits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use util::fault::{self, Fault, HANG, When};
use util::http::{Connection, Response};
use util::{Caller, DEADLINE, Disk, Gateway, Home, Private, eventually};

/// What `/ready` and `/v1/status` may take.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// What a stop may take beside its drain while the disk hangs: two questions and the disk's patience,
/// on a loaded machine.
const STOPPED_WITHIN: Duration = Duration::from_secs(6);

/// The calls that hang, and the file whose removal lets them go on.
struct Hang(PathBuf);

impl Hang {
    fn new(home: &Home) -> Hang {
        Hang(home.path().join("hang"))
    }

    fn begin(&self) {
        fs::write(&self.0, "").unwrap();
    }

    fn end(&self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        self.end();
    }
}

/// A gateway on whose files such calls hang on demand.
#[track_caller]
fn with(
    home: &Home,
    call: &'static str,
    on: &'static str,
    set: &[(&str, &str)],
) -> (Gateway, Hang) {
    let hang = Hang::new(home);
    let launch = home.launch().set("stop.drain_timeout", "1s");
    let launch = set.iter().fold(launch, |launch, (key, value)| launch.set(key, value));
    let fault = Fault { call, error: HANG, when: When::While(&hang.0), on };
    (fault.into(launch, home).start(), hang)
}

/// A message that is posted meanwhile; what it is answered, if it is.
fn post(gateway: &Gateway, key: &'static str) -> JoinHandle<Option<u16>> {
    let (address, authorization) = (gateway.address(), gateway.authorization());
    thread::spawn(move || {
        let mut connection = Connection::tcp(address);
        connection.set_read_limit(4 * DEADLINE);
        let fields = [
            ("Authorization", authorization.as_str()),
            ("Content-Type", "application/json"),
            ("Idempotency-Key", key),
        ];
        let target = "/v1/sessions/s/messages";
        connection.send(&util::http::request("POST", target, &fields, br#"{"text":"x"}"#));
        std::panic::catch_unwind(move || connection.response().status()).ok()
    })
}

#[track_caller]
fn told(connection: &mut Connection, target: &str, fields: &[(&str, &str)]) -> Response {
    connection.set_read_limit(TOLD_WITHIN);
    connection.get(target, fields)
}

fn ready(address: SocketAddr) -> Response {
    told(&mut Connection::tcp(address), "/ready", &[])
}

/// Waits until `/ready` says that the disk hangs: within 5 s.
#[track_caller]
fn assert_said(gateway: &Gateway) {
    let began = Instant::now();
    // A 503 of a gateway that is full is another one.
    let authorization = gateway.authorization();
    let fields = [("Authorization", authorization.as_str())];
    eventually("/ready is 503 for the disk", || {
        let answer = told(&mut gateway.connect(), "/ready", &fields);
        (answer.status() == 503 && answer.text().contains("disk")).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for mut connection in [gateway.connect(), gateway.control()] {
        let status = told(&mut connection, "/v1/status", &fields).assert_status(200).json();
        assert!(status["degraded"].as_str().unwrap().contains("disk"), "{status}");
    }
}

#[track_caller]
fn assert_stops(gateway: &Gateway, signal: i32, code: i32) {
    let began = Instant::now();
    gateway.signal(signal);
    assert_eq!(gateway.wait_for_exit(DEADLINE), code, "{}", gateway.stderr());
    let limit = Duration::from_secs(1) + STOPPED_WITHIN;
    assert!(began.elapsed() < limit, "{:?}: {}", began.elapsed(), gateway.stderr());
}

fn hangs_and_returns(call: &'static str) {
    let home = Home::new();
    let (gateway, hang) = with(&home, call, "journal", &[]);
    hang.begin();
    let posted = post(&gateway, "k");
    eventually("a call hangs", || (!fault::hits(&home).is_empty()).then_some(()));
    assert_said(&gateway);
    hang.end();
    assert_eq!(posted.join().unwrap(), Some(202));
    let good = || (ready(gateway.address()).status() == 200).then_some(());
    eventually("the gateway is good again", good);
    let mut caller = Caller::tcp(gateway.address(), &gateway.authorization()).unwrap();
    assert_eq!(caller.post_message("s", "again", "x").unwrap().status(), 202);
    assert_stops(&gateway, libc::SIGINT, 0);
}

#[test]
fn a_sync_that_hangs_is_said_within_five_seconds_and_forgotten_when_it_returns() {
    hangs_and_returns("fdatasync");
}

#[test]
fn a_write_that_hangs_keeps_neither_ready_nor_status_from_answering() {
    hangs_and_returns("write");
}

#[test]
fn what_would_wait_for_a_disk_that_hangs_is_answered_instead() {
    let home = Home::new();
    let (gateway, hang) = with(&home, "write", "journal", &[]);
    hang.begin();
    let posted = post(&gateway, "k");
    eventually("a call hangs", || (!fault::hits(&home).is_empty()).then_some(()));
    let target = "/v1/sessions/other";
    let authorization = gateway.authorization();
    let refused = eventually("it is refused", || {
        let mut caller = Caller::tcp(gateway.address(), &authorization).unwrap();
        caller.try_ask("GET", target, &[], "").ok()
    });
    assert_eq!(refused.status(), 503, "{}", refused.text());
    assert!(refused.text().contains("the disk has not answered"), "{}", refused.text());
    assert!(refused.field("retry-after").is_some());
    hang.end();
    assert_eq!(posted.join().unwrap(), Some(202));
}

#[test]
fn readiness_that_is_asked_without_a_key_piles_up_no_threads_while_the_disk_hangs() {
    let home = Home::new();
    let (gateway, hang) = with(&home, "write", "journal", &[("limits.max_connections", "40")]);
    hang.begin();
    let posted = post(&gateway, "k");
    eventually("a call hangs", || (!fault::hits(&home).is_empty()).then_some(()));
    let mut open = Vec::new();
    for _ in 0..120 {
        let mut connection = gateway.connect();
        connection.offer(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        open.push(connection);
        let threads = fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap().count();
        assert!(threads <= 40 + 10 + 12, "{threads} threads");
    }
    drop(open);
    assert_said(&gateway);
    hang.end();
    posted.join().unwrap();
}

#[test]
fn a_stop_keeps_its_time_and_status_while_a_message_hangs_in_the_disk() {
    for (call, signal, code) in [("fdatasync", libc::SIGINT, 0), ("write", libc::SIGTERM, 143)] {
        let home = Home::new();
        let (gateway, hang) = with(&home, call, "journal", &[]);
        hang.begin();
        let posted = post(&gateway, "k");
        eventually("a call hangs", || (!fault::hits(&home).is_empty()).then_some(()));
        eventually("/ready is 503", || (ready(gateway.address()).status() == 503).then_some(()));
        assert_stops(&gateway, signal, code);
        drop(hang);
        posted.join().unwrap();
    }
}

#[test]
fn an_idle_stop_waits_for_no_file_of_its_state() {
    for (call, on) in
        [("write+fdatasync", "history.jsonl"), ("unlink", "run.json"), ("fdatasync", "journal")]
    {
        for (signal, code) in [(libc::SIGINT, 0), (libc::SIGTERM, 143)] {
            let home = Home::new();
            let (gateway, hang) = with(&home, call, on, &[]);
            let mut caller = Caller::tcp(gateway.address(), &gateway.authorization()).unwrap();
            assert_eq!(caller.post_message("s", "k", "x").unwrap().status(), 202);
            hang.begin();
            assert_stops(&gateway, signal, code);
        }
    }
}

#[test]
fn a_marker_that_cannot_be_removed_holds_up_no_verdict() {
    let home = Home::new();
    let hang = Hang::new(&home);
    let fault =
        Fault { call: "unlink", error: HANG, when: When::While(&hang.0), on: "planned-stop" };
    // The marker is on the disk of the state, too.
    let state = home.path().join("s");
    let state = state.to_str().unwrap();
    let gateway = fault.into(home.launch().env("XDG_RUNTIME_DIR", state), &home).spawn();
    assert!(!gateway.wait_for_end_or("READY=1"), "{}", gateway.stderr());
    hang.begin();
    let stopped = home.command(&["stop"]).env("XDG_RUNTIME_DIR", state).output().unwrap();
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0, "{}", gateway.stderr());
    assert!(stopped.status.success(), "{stopped:?}");
    assert!(!fault::hits(&home).is_empty(), "no marker was removed");
}

#[test]
fn a_stop_is_in_the_history_before_the_process_has_ended() {
    let home = Home::new();
    assert_in_history(&home, &home.start());
}

#[test]
fn a_stop_is_in_the_history_also_where_the_system_has_no_process_for_it() {
    for error in [libc::EAGAIN, libc::ENOMEM] {
        let home = Home::new();
        let fault = Fault { call: "fork", error, when: When::From(1), on: "" };
        let gateway = fault.into(home.launch(), &home).start();
        assert_in_history(&home, &gateway);
        assert!(!fault::hits(&home).is_empty(), "nothing was forked");
    }
}

#[track_caller]
fn assert_in_history(home: &Home, gateway: &Gateway) {
    let pid = gateway.pid();
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    let text = fs::read_to_string(home.state_dir().join("history.jsonl")).unwrap_or_default();
    let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&line["exit"], &line["pid"]), (&0.into(), &pid.into()), "{line}");
    assert!(!home.control_socket().exists());
    assert!(!home.state_dir().join("run.json").exists());
}

/// The time that a stop has without a manager: the drain, and 15 s.
#[test]
fn a_stop_that_is_stuck_ends_by_itself_and_says_where() {
    for (signal, code) in [(libc::SIGINT, 0), (libc::SIGTERM, 143)] {
        let home = Home::new();
        let launch = home.launch().set("stop.drain_timeout", "10ms");
        let gateway = launch.env("HERMES_GATEWAY_FAULT", "stop-exit").start();
        let began = Instant::now();
        gateway.signal(signal);
        let limit = Duration::from_secs(16);
        assert_eq!(gateway.wait_for_exit(limit), code, "{}", gateway.stderr());
        assert!(began.elapsed() > Duration::from_secs(10), "{:?}", began.elapsed());
        gateway.wait_for_log("The stop is stuck in the exit", DEADLINE);
        let history = home.run(&["history", "--json"]).stdout;
        assert!(history.contains("the stop was stuck in the exit"), "{history}");
    }
}

#[test]
fn a_pause_before_a_restart_that_is_stuck_ends_the_process_with_75() {
    let home = Home::new();
    let launch = home.launch().set("stop.drain_timeout", "10ms");
    let gateway = launch.env("HERMES_GATEWAY_FAULT", "restart-pause").start();
    gateway.signal(libc::SIGUSR1);
    assert_eq!(gateway.wait_for_exit(2 * DEADLINE), 75, "{}", gateway.stderr());
    gateway.wait_for_log("The stop is stuck in the pause before a restart", DEADLINE);
    let history = home.run(&["history", "--json"]).stdout;
    assert!(history.contains("stuck in the pause before a restart"), "{history}");
}

/// An idle gateway has nothing to drain, whatever became of the restart.
#[test]
fn a_stop_does_not_wait_for_the_note_of_a_restart() {
    let home = Home::new();
    let patient = [("stop.drain_timeout", "60s")];
    let (gateway, hang) = with(&home, "write", "restart.json", &patient);
    hang.begin();
    gateway.signal(libc::SIGUSR1);
    eventually("the note hangs", || (!fault::hits(&home).is_empty()).then_some(()));
    assert_stops(&gateway, libc::SIGINT, 0);
}

// --------------------------------------------------------------------- a frozen disk ----

/// A home whose state is on a disk of its own.
fn on_a_disk() -> (Home, Disk) {
    let home = Home::new();
    let disk = Disk::new("ext4", home.path(), &home.path().join("s"));
    // In this order: the disk goes before the directory that it is mounted in.
    (home, disk)
}

/// Where a disk can be mounted.
fn private() -> Private {
    let needs = [Disk::NEEDS[0], Disk::NEEDS[2]];
    needs.iter().fold(Private::new(), |private, (package, file)| private.needs(package, file))
}

#[test]
fn an_idle_gateway_ends_at_once_on_a_frozen_disk() {
    private().run(|| {
        for (signal, code) in [(libc::SIGINT, 0), (libc::SIGTERM, 143)] {
            let (home, disk) = on_a_disk();
            let gateway = home.launch().set("stop.drain_timeout", "1s").start();
            gateway.ask("hello").reply();
            eventually("all is durable, and said to be", || {
                let text = home.journal_text();
                text.lines().last().is_some_and(|line| line.contains("\"mark\"")).then_some(())
            });
            let frozen = disk.freeze();
            assert_eq!(ready(gateway.address()).status(), 200);
            assert_stops(&gateway, signal, code);
            drop(frozen);
            // The child that was left behind has the locks for as long as it writes.
            let next = eventually("the next start", || home.launch().try_start().ok());
            let history = home.run(&["history", "--json"]).stdout;
            assert!(history.contains(&format!("\"exit\":{code}")), "{history}");
            next.signal(libc::SIGINT);
            next.wait_for_exit(DEADLINE);
        }
    });
}

/// A thread that waits for a frozen file system cannot be killed, and the kernel keeps its process
/// until then: the status is settled in time, and whoever waits has it as soon as the disk thaws.
#[test]
fn a_frozen_disk_is_said_and_the_status_of_the_stop_is_settled_in_time() {
    private().run(|| {
        let (home, disk) = on_a_disk();
        let gateway = home.launch().set("stop.drain_timeout", "1s").start();
        let frozen = disk.freeze();
        let posted = post(&gateway, "k");
        assert_said(&gateway);
        gateway.signal(libc::SIGINT);
        gateway.wait_for_log("Exiting with code 0", Duration::from_secs(1) + STOPPED_WITHIN);
        assert!(gateway.stderr().contains("the disk"), "{}", gateway.stderr());
        drop(frozen);
        assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
        let _ = posted.join();
    });
}
