//! What hangs: a gateway that does not move is restarted within its `WatchdogSec=`, and a stop that is stuck
//! ends before systemd would end it by SIGKILL, and says where it was stuck. By places in the debug build
//! that hang for as long as a file exists.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use util::http::Connection;
use util::{DEADLINE, Gate, Manager, Sandbox, Service, UNIT, eventually, sys};

const WATCHDOG: Duration = Duration::from_secs(2);
/// What a restart may take beyond that.
const RESTART: Duration = Duration::from_secs(5);
/// What an attempt of a delivery may take beyond its own time.
const ATTEMPT_MARGIN: Duration = Duration::from_secs(4);

/// The faults, each for as long as a file of its name exists.
struct Faults(PathBuf);

impl Faults {
    /// With the line of a unit that makes them known.
    fn new(manager: &Manager, names: &[&str]) -> (Faults, String) {
        let faults = Faults(manager.home().join("faults"));
        fs::create_dir(&faults.0).unwrap();
        let all: Vec<String> =
            names.iter().map(|name| format!("{name}@{}", faults.0.join(name).display())).collect();
        let line = format!("Environment=HERMES_GATEWAY_FAULT={}\n", all.join(","));
        (faults, line)
    }

    fn begin(&self, name: &str) {
        fs::write(self.0.join(name), "").unwrap();
    }

    fn end(&self, name: &str) {
        fs::remove_file(self.0.join(name)).unwrap();
    }
}

/// A message on the control socket; its id.
#[track_caller]
fn accepted(service: &Service, text: &str) -> String {
    let mut control = service.control();
    let body = json!({"text": text}).to_string();
    let answer = control.post("/v1/sessions/s/messages", &[], &body).assert_status(202).json();
    answer["id"].as_str().unwrap().to_owned()
}

/// One that is sent, and of which nobody knows whether it is accepted.
fn offered(service: &Service, body: &Value) -> Connection {
    let mut control = service.control();
    let fields = [("Content-Type", "application/json")];
    let text = body.to_string();
    let target = "/v1/sessions/other/messages";
    control.send(&util::http::request("POST", target, &fields, text.as_bytes()));
    control
}

#[track_caller]
fn assert_answered(service: &Service, id: &str) {
    let target = format!("/v1/messages/{id}");
    eventually("the reply", || {
        let message = service.control().get(&target, &[]).json();
        (message["status"] == "done").then_some(())
    });
}

#[test]
fn each_hang_is_restarted_in_time_and_what_was_accepted_is_answered() {
    let limit = Duration::from_secs(300);
    Sandbox::user().limit(limit).run(|manager| {
        let closed = || Gate::closed(&manager.home());
        let mut gate = Some(closed());
        let target = "[deliver.t]\ncommand = [\"true\"]\ntimeout = \"1s\"\n";
        let config =
            format!("{}[limits]\nmax_attempts = 20\n{target}", gate.as_ref().unwrap().agent());
        let names =
            ["accept", "dispatch", "maintenance", "journal-write", "journal-sync", "delivery"];
        let (faults, line) = Faults::new(manager, &names);
        let unit = format!("[Service]\nWatchdogSec={}\n{line}", WATCHDOG.as_secs());
        let service = Service::start_with(manager, &config, &unit);
        for (round, name) in names.into_iter().enumerate() {
            let text = format!("message {round}");
            let id = accepted(&service, &text);
            service.wait_for_turns(1);
            let before = service.pid();
            let address = service.address();
            faults.begin(name);
            let began = Instant::now();
            let mut open = Vec::new();
            match name {
                "accept" => open.push(Connection::tcp(address)),
                "delivery" => {
                    drop(gate.take());
                    open.push(offered(&service, &json!({"text": text, "deliver": "t"})));
                }
                // The second is what is due while the first holds the dispatcher up.
                _ => (0..2).for_each(|_| open.push(offered(&service, &json!({"text": text})))),
            }
            eventually("another process", || (service.unit().main_pid() != before).then_some(()));
            let own = Duration::from_secs(1) + ATTEMPT_MARGIN;
            let late = if name == "delivery" { own } else { Duration::ZERO };
            let took = began.elapsed();
            println!("{name}: another process after {took:?}");
            assert!(took < WATCHDOG + RESTART + late, "{name}: {took:?}");
            faults.end(name);
            service.wait_for_return(before, u32::try_from(round).unwrap() + 1);
            let hung = match name {
                "accept" => "Watchdog timeout",
                "dispatch" => "the gateway hangs: the sessions' lock is not given back",
                "maintenance" => "the gateway hangs: the dispatcher does not begin what is due",
                "delivery" => "the gateway hangs: a delivery to target t does not end in its time",
                "journal-write" => "a write to the journal)",
                _ => "a sync of the journal)",
            };
            service.unit().wait_for_journal(hung);
            drop(gate.take());
            assert_answered(&service, &id);
            eventually("all is done and delivered", || {
                let journal = &service.status()["journal"];
                ["queued", "running", "outbox"].iter().all(|key| journal[key] == 0).then_some(())
            });
            gate = Some(closed());
        }
        manager.gateway(&["journal", "check"]).assert_code(0);
        service.systemctl("stop");
        service.assert_stopped(u32::try_from(names.len()).unwrap());
    });
}

#[test]
fn what_hangs_for_less_than_half_of_the_watchdogs_time_is_said_and_is_no_reason_for_a_restart() {
    Sandbox::user().run(|manager| {
        let names = ["dispatch", "journal-sync"];
        let (faults, line) = Faults::new(manager, &names);
        let service =
            Service::start_with(manager, "", &format!("[Service]\nWatchdogSec=20\n{line}"));
        let before = service.pid();
        for name in names {
            faults.begin(name);
            let mut posted = offered(&service, &json!({"text": name}));
            let said = eventually("/ready says it", || {
                let answer = service.control().get("/ready", &[]);
                let text = answer.text();
                let of =
                    if name == "dispatch" { "lock is not given back" } else { "a sync of the" };
                (answer.status() == 503 && text.contains(of)).then_some(text)
            });
            assert!(said.contains("degraded"), "{said}");
            if name == "dispatch" {
                let text = service.unit().property("StatusText");
                assert!(text.contains("; hangs: the sessions' lock"), "{text}");
            }
            faults.end(name);
            posted.response().assert_status(202);
            eventually("/ready is 200", || {
                (service.control().get("/ready", &[]).status() == 200).then_some(())
            });
        }
        service.unit().wait_for_journal("all moves again");
        assert_eq!(service.pid(), before);
        service.unit().assert(&[("NRestarts", "0")]);
        service.systemctl("stop");
        service.assert_stopped(0);
    });
}

/// Fails the test unless the stop was ended by the gateway itself, which said where it was stuck.
#[track_caller]
fn assert_ended(service: &Service, status: &str, words: &str) {
    let expected = [("ActiveState", "inactive"), ("Result", "success"), ("ExecMainCode", "1")];
    service.unit().wait_for(&expected);
    service.unit().assert(&[("ExecMainStatus", status)]);
    service.unit().wait_for_journal(&format!("The stop is stuck in {words}"));
    service.unit().wait_for_journal(&format!("Exiting with code {status} (the stop was stuck in"));
    let stop = service.stops().pop().unwrap();
    assert_eq!(stop["exit"].to_string(), status, "{stop}");
    assert!(stop["reason"].as_str().unwrap().contains(&format!("stuck in {words}")), "{stop}");
    assert!(!service.state_dir().join("run.json").exists());
    let journal = service.unit().journal();
    assert!(!journal.contains("timed out. Killing"), "{journal}");
}

#[test]
fn a_stop_that_is_stuck_in_any_of_its_parts_ends_in_the_units_time() {
    Sandbox::user().limit(Duration::from_secs(200)).run(|manager| {
        let cases = [
            ("stop-question", "143", "the question to the service manager"),
            ("stop-abort", "0", "the end of aborted turns"),
            ("stop-clean-up", "0", "the clean-up"),
            ("stop-record", "0", "the record in the history"),
            ("stop-exit", "0", "the exit"),
        ];
        let names = cases.map(|(name, ..)| name);
        let (faults, line) = Faults::new(manager, &names);
        let gate = Gate::closed(&manager.home());
        let config = format!("{}[stop]\ndrain_timeout = \"60s\"\n", gate.agent());
        // A manager that gives no more time than this.
        let time = Duration::from_secs(8);
        let unit = format!(
            "[Service]\nType=simple\nNotifyAccess=none\nFileDescriptorStoreMax=0\nWatchdogSec=0\n\
             TimeoutStopSec={}\n{line}",
            time.as_secs()
        );
        let service = Service::install(manager, &config, &unit);
        // `Type=simple`: the manager does not wait until it serves.
        let start = |service: &Service| {
            service.systemctl("start");
            eventually("it serves", || {
                let socket =
                    format!("/run/user/{}/hermes-gateway/default/control.sock", sys::uid());
                let mut control = Connection::try_unix(Path::new(&socket), DEADLINE).ok()?;
                (control.get("/ready", &[]).status() == 200).then_some(())
            });
        };
        for (name, status, words) in cases {
            start(&service);
            if name == "stop-abort" {
                accepted(&service, "hello");
                service.wait_for_turns(1);
            }
            faults.begin(name);
            let began = Instant::now();
            service.systemctl("stop");
            println!("{name}: stopped after {:?}", began.elapsed());
            assert!(began.elapsed() < time, "{name}: {:?}", began.elapsed());
            faults.end(name);
            assert_ended(&service, status, words);
        }
        // Where nothing hangs a stop is as before.
        gate.open();
        start(&service);
        service.systemctl("stop");
        service.assert_stopped(0);
        let journal = service.unit().journal();
        assert_eq!(journal.matches("The stop is stuck").count(), cases.len(), "{journal}");
    });
}

#[test]
fn a_stuck_stop_has_the_time_that_was_asked_for_and_a_kill_comes_back() {
    Sandbox::user().run(|manager| {
        let (faults, line) = Faults::new(manager, &["stop-clean-up"]);
        let config = "[stop]\ndrain_timeout = \"1s\"\n";
        let unit = format!("[Service]\nTimeoutStopSec=3\n{line}");
        let service = Service::start_with(manager, config, &unit);
        service.unit().wait_for_journal("TimeoutStopSec= of the unit is 3 s");
        faults.begin("stop-clean-up");
        let before = service.pid();
        sys::kill(before, libc::SIGTERM).unwrap();
        service.wait_for_return(before, 1);
        service.assert_last_stop("external", 143, "stuck in the clean-up");
        let args = ["stop", UNIT];
        manager.systemctl(&args).assert_code(0);
        assert_ended(&service, "0", "the clean-up");
    });
}
