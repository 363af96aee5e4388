//! `run --replace`: another process takes over from a gateway in the foreground, or that one takes it back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::thread;

use util::fault::{self, Fault, HANG, When};
use util::programs::VERSION;
use util::{DEADLINE, Gate, Home, eventually, rounds};

fn holder(home: &Home) -> i64 {
    let text = fs::read_to_string(home.runtime_dir().join("lock")).unwrap();
    let lock: serde_json::Value = serde_json::from_str(&text).unwrap();
    lock["pid"].as_i64().unwrap()
}

#[test]
fn the_new_process_has_all_that_the_old_one_had_which_ends() {
    let home = Home::new();
    let mut gateway = home.start();
    let mut idle = gateway.connect();
    for round in 0..rounds(3, 50) {
        let id = gateway.api().accepted("s", &format!("message {round}"));
        let listen = gateway.address().to_string();
        let next = home.launch().arg("--replace").set("http.listen", "127.0.0.1:0").start();
        assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
        gateway.wait_for_log(&format!("replaced by pid {}", next.pid()), DEADLINE);
        assert_eq!(holder(&home), i64::from(next.pid()));
        assert_eq!(next.status()["listen"], listen);
        // The connection lives on, and the journal has what was accepted.
        idle.get("/health", &[]).assert_status(200);
        assert_eq!(next.api().reply(&id), format!("message {round}"));
        gateway = next;
    }
    // Its arguments ask for that no more.
    home.run(&["restart", "--graceful"]).assert_code(0);
    idle.get("/health", &[]).assert_status(200);
    let history = home.run(&["history"]).assert_code(0).stdout;
    assert!(history.contains(&format!("handed over to pid {}, version {VERSION}", gateway.pid())));
    home.run(&["stop"]).assert_code(0);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    assert!(!home.control_socket().exists());
}

#[test]
fn where_none_runs_it_is_a_start() {
    let home = Home::new();
    let gateway = home.launch().arg("--replace").start();
    assert_eq!(gateway.ask("x").assert_status(200).reply(), "x");
}

#[test]
fn one_that_cannot_start_gives_it_all_back() {
    let home = Home::new();
    let gateway = home.start();
    let mut idle = gateway.connect();
    idle.get("/health", &[]).assert_status(200);
    // A wrong configuration is found before anything is asked for.
    let refused = home.launch().arg("--replace").set("agent.comand", "[]").try_start();
    refused.err().expect("a start that fails").assert_code(78);
    // An address that is taken is found only then.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("\"{}\"", taken.local_addr().unwrap());
    let refused = home.launch().arg("--replace").set("http.listen", &listen).try_start();
    refused.err().expect("a start that fails").assert_code(69);
    gateway.wait_for_log("could not be executed, the old one was: pid ", DEADLINE);
    idle.get("/health", &[]).assert_status(200);
    assert_eq!(gateway.ask("x").assert_status(200).reply(), "x");
    assert_eq!(holder(&home), i64::from(gateway.pid()));
    home.run(&["stop"]).assert_code(0);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
}

#[test]
fn the_new_process_takes_more_connections_than_it_may_have_open_at_first() {
    let home = Home::new();
    let few = || home.launch().through(&["prlimit", "--nofile=64:"]);
    let gateway = few().start();
    let mut idle: Vec<_> = (0..100).map(|_| gateway.connect()).collect();
    idle.iter_mut().for_each(|it| drop(it.get("/health", &[]).assert_status(200)));
    let next = few().arg("--replace").start();
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    idle.iter_mut().for_each(|it| drop(it.get("/health", &[]).assert_status(200)));
    drop(next);
}

/// Longer than a stop may take.
#[test]
fn a_new_process_that_hangs_has_the_time_of_a_start_and_then_the_old_one_serves() {
    let home = Home::new();
    home.configure("[stop]\ndrain_timeout = \"10ms\"\n[restart]\nstart_timeout = \"16s\"\n");
    let gateway = home.start();
    let hang = home.path().join("hang");
    fs::write(&hang, "").unwrap();
    let when = When::While(&hang);
    let fault = Fault { call: "openat", error: HANG, when, on: "state.lock" };
    let next = fault.into(home.launch().arg("--replace"), &home).spawn();
    let said = "the old one was: pid ";
    gateway.wait_for_log(said, 2 * DEADLINE);
    assert!(gateway.stderr().contains("was not ready within 16 s"), "{}", gateway.stderr());
    assert_eq!(gateway.ask("x").assert_status(200).reply(), "x");
    next.finish(DEADLINE).assert_code(128 + libc::SIGKILL);
}

/// The old one judges it: nobody else has begun.
#[test]
fn a_stop_while_the_new_process_starts_ends_both() {
    for (signal, code, verdict) in [(libc::SIGTERM, 143, "external"), (libc::SIGINT, 0, "planned")]
    {
        let home = Home::new();
        let gateway = home.start();
        let hang = home.path().join("hang");
        fs::write(&hang, "").unwrap();
        let when = When::While(&hang);
        let fault = Fault { call: "openat", error: HANG, when, on: "state.lock" };
        let next = fault.into(home.launch().arg("--replace"), &home).spawn();
        eventually("it starts", || (!fault::hits(&home).is_empty()).then_some(()));
        gateway.signal(signal);
        assert_eq!(gateway.wait_for_exit(DEADLINE), code, "{}", gateway.stderr());
        next.finish(DEADLINE).assert_code(128 + libc::SIGKILL);
        let history = home.run(&["history", "--json"]).assert_code(0).stdout;
        assert!(history.contains(&format!("\"verdict\":\"{verdict}\"")), "{history}");
    }
}

/// It may have sent nothing yet, or all.
#[test]
fn a_new_process_whose_predecessor_is_killed_starts_with_what_that_has_left() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home.start();
    let id = gateway.api().accepted("s", "x");
    gateway.wait_for_turns(1);
    let next = thread::scope(|scope| {
        let next = scope.spawn(|| home.launch().arg("--replace").start());
        gateway.wait_for_log("the restart waits for the turns in flight: 1", DEADLINE);
        gateway.signal(libc::SIGKILL);
        next.join().unwrap()
    });
    gate.open();
    next.api().finished(&id);

    let home = Home::new();
    let gateway = home.start();
    let hang = home.path().join("hang");
    fs::write(&hang, "").unwrap();
    let when = When::While(&hang);
    let fault = Fault { call: "openat", error: HANG, when, on: "state.lock" };
    let next = fault.into(home.launch().arg("--replace"), &home).spawn();
    eventually("it starts", || (!fault::hits(&home).is_empty()).then_some(()));
    gateway.signal(libc::SIGKILL);
    gateway.wait_for_exit(DEADLINE);
    fs::remove_file(&hang).unwrap();
    assert!(!next.wait_for_end_or("READY=1"), "{}", next.stderr());
    next.signal(libc::SIGINT);
    assert_eq!(next.wait_for_exit(DEADLINE), 0);
}

#[test]
fn a_start_removes_what_one_that_was_killed_while_it_waited_has_left() {
    let home = Home::new();
    drop(home.start());
    let own = std::process::id().cast_signed();
    let place = |pid: i32| home.runtime_dir().join(format!("replace-{pid}.sock"));
    drop(UnixListener::bind(place(own)).unwrap());
    // No process of ours has such a number (proc_sys_kernel(5), pid_max); one of another namespace may.
    let waiting = UnixListener::bind(place(1 << 23)).unwrap();
    let _gateway = home.start();
    eventually("it is gone", || (!place(own).exists()).then_some(()));
    assert!(place(1 << 23).exists(), "somebody waits there");
    waiting.set_nonblocking(true).unwrap();
    assert!(waiting.accept().is_err(), "nor is that one disturbed");
}

#[test]
fn a_planned_end_of_the_old_one_is_no_reason_to_start() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&format!("{}[stop]\ndrain_timeout = \"10ms\"\n", gate.agent()));
    let gateway = home.start();
    gateway.api().accepted("s", "x");
    gateway.wait_for_turns(1);
    let next = home.launch().arg("--replace").spawn();
    eventually("it waits for the turn", || {
        (gateway.status()["restart"]["current"]["stage"] == "pausing").then_some(())
    });
    // Both hold still until the old one has gone.
    next.signal(libc::SIGSTOP);
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    next.signal(libc::SIGCONT);
    next.finish(DEADLINE).assert_code(75);
}

#[test]
fn a_wait_for_turns_ends_with_a_signal_and_with_a_stop_of_the_old_one() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home.start();
    let mut running = gateway.begin("x", false);
    gateway.wait_for_turns(1);
    let next = home.launch().arg("--replace").spawn();
    gateway.wait_for_log("the restart waits for the turns in flight: 1", DEADLINE);
    next.signal(libc::SIGINT);
    assert_eq!(next.wait_for_exit(DEADLINE), 0);
    gate.open();
    running.response().assert_status(200);
    // It finds that nobody is there any more, and goes on.
    gateway.wait_for_log("could not be executed, the old one was: pid ", DEADLINE);
    let gate = Gate::closed(home.path());
    let id = gateway.api().accepted("s", "y");
    gateway.wait_for_turns(1);
    let next = home.launch().arg("--replace").spawn();
    eventually("it waits for the turn", || {
        (gateway.status()["restart"]["current"]["stage"] == "pausing").then_some(())
    });
    gateway.signal(libc::SIGINT);
    let ended = next.finish(DEADLINE).assert_code(75);
    assert!(ended.stderr.contains("does not hand over"), "{ended:?}");
    gate.open();
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    let again = home.start();
    again.api().finished(&id);
}
