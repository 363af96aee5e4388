//! Stops, restarts and kills under load, with a real systemd: whatever was accepted finishes, or is
//! found again after the start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use util::api::session_path;
use util::sys::{self, Pidfd};
use util::{Api, Caller, DEADLINE, Gate, Manager, Sandbox, Service, eventually, pause, script};

const SESSIONS: usize = 50;

/// What the drop-in gives a stop.
const TIMEOUT_STOP: Duration = Duration::from_secs(30);

const DROP_IN: &str = "[Service]\nTimeoutStopSec=30\n";

fn key(service: &Service) -> String {
    let key = fs::read_to_string(service.state_dir().join("api.key")).expect("a key");
    key.trim().to_owned()
}

fn api(service: &Service) -> Api {
    Api::new(service.address(), &key(service))
}

/// Configuration for an agent that waits at a gate in its first attempt.
fn gated(manager: &Manager, drain: &str) -> (String, Gate) {
    let gate = Gate::closed(&manager.home());
    let text =
        format!("[ $HERMES_ATTEMPT -gt 1 ] || {}; echo attempt $HERMES_ATTEMPT", gate.wait());
    let limits = format!("[limits]\nmax_turns = {SESSIONS}\n");
    let config = format!("{}[stop]\ndrain_timeout = \"{drain}\"\n{limits}", script(&text));
    (config, gate)
}

/// Two messages for each session: one runs, one waits.
#[track_caller]
fn load(service: &Service) -> (Vec<String>, Vec<String>) {
    let api = api(service);
    let send = |text: &str| -> Vec<String> {
        (0..SESSIONS).map(|number| api.accepted(&format!("s{number}"), text)).collect()
    };
    let running = send("runs");
    let waiting = send("waits");
    service.wait_for_turns(SESSIONS as u64);
    (running, waiting)
}

/// Fails the test unless all of these are done, with so many attempts.
#[track_caller]
fn assert_done(service: &Service, ids: &[String], attempts: u64) {
    let api = api(service);
    for id in ids {
        let message = api.finished(id);
        let found = (&message["status"], &message["attempts"]);
        assert_eq!(found, (&"done".into(), &attempts.into()), "{message}");
    }
}

/// `systemctl stop`, and how long it took.
#[track_caller]
fn stop(service: &Service) {
    let began = Instant::now();
    service.systemctl("stop");
    let took = began.elapsed();
    assert!(took < TIMEOUT_STOP, "the stop took {took:?}");
    service.assert_stopped(0);
}

#[test]
fn a_stop_that_cuts_fifty_turns_loses_none() {
    Sandbox::user().run(|manager| {
        let (config, gate) = gated(manager, "200ms");
        let service = Service::start_with(manager, &config, DROP_IN);
        let (running, waiting) = load(&service);
        stop(&service);
        service.systemctl("start");
        service.unit().wait_for(&[("ActiveState", "active")]);
        gate.open();
        // Those that were cut run again, those that waited for the first time.
        assert_done(&service, &running, 2);
        assert_done(&service, &waiting, 1);
    });
}

#[test]
fn a_stop_that_has_the_time_lets_fifty_turns_finish() {
    Sandbox::user().run(|manager| {
        let (config, gate) = gated(manager, "20s");
        let service = Service::start_with(manager, &config, DROP_IN);
        let (running, waiting) = load(&service);
        let began = Instant::now();
        manager.systemctl(&["stop", "--no-block", util::UNIT]).assert_code(0);
        eventually("the drain", || (service.status()["state"] == "draining").then_some(()));
        gate.open();
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        assert!(began.elapsed() < TIMEOUT_STOP, "{:?}", began.elapsed());
        service.assert_stopped(0);
        service.systemctl("start");
        assert_done(&service, &running, 1);
        assert_done(&service, &waiting, 1);
    });
}

#[test]
fn a_restart_that_cuts_fifty_turns_loses_none() {
    Sandbox::user().run(|manager| {
        let (config, gate) = gated(manager, "200ms");
        let service = Service::start_with(manager, &config, DROP_IN);
        let before = service.pid();
        let (running, waiting) = load(&service);
        let began = Instant::now();
        service.systemctl("restart");
        assert!(began.elapsed() < TIMEOUT_STOP, "{:?}", began.elapsed());
        service.wait_for_return(before, 0);
        gate.open();
        assert_done(&service, &running, 2);
        assert_done(&service, &waiting, 1);
    });
}

#[test]
fn a_kill_of_the_main_process_brings_the_turns_back() {
    Sandbox::user().run(|manager| {
        let (config, gate) = gated(manager, "20s");
        let service = Service::start_with(manager, &config, DROP_IN);
        let before = service.pid();
        let (running, waiting) = load(&service);
        let agents = service.processes().into_iter().filter_map(|pid| Pidfd::open(pid).ok());
        let agents: Vec<Pidfd> = agents.collect();
        assert!(agents.len() > SESSIONS, "{}", agents.len());
        sys::kill(before, libc::SIGKILL).unwrap();
        service.wait_for_return(before, 1);
        // systemd ends what a dead gateway leaves behind.
        assert!(agents.iter().all(|agent| agent.wait(DEADLINE).unwrap()));
        assert_done(&service, &running, 2);
        gate.open();
        assert_done(&service, &waiting, 1);
    });
}

#[test]
fn restarts_under_traffic_lose_nothing_that_was_accepted() {
    Sandbox::user().run(|manager| {
        let config = format!(
            "{}[stop]\ndrain_timeout = \"20s\"\n",
            script("read -r x; sleep 0.02; echo $x")
        );
        let service = Service::start_with(manager, &config, DROP_IN);
        let authorization = format!("Bearer {}", key(&service));
        let (over, address) = (AtomicBool::new(false), Mutex::new(service.address()));
        let client = |number: usize| {
            let mut accepted = Vec::new();
            let mut caller = None;
            let target = format!("{}/messages", session_path(&format!("s{number}")));
            while !over.load(Ordering::SeqCst) {
                let key = format!("k{number}-{}", accepted.len());
                let open = || Caller::tcp(*address.lock().unwrap(), &authorization).ok();
                caller = caller.or_else(open);
                let Some(open) = &mut caller else {
                    pause(Duration::from_millis(5));
                    continue;
                };
                let fields = [("Idempotency-Key", key.as_str())];
                match open.ask("POST", &target, &fields, "{\"text\":\"x\\n\"}") {
                    Err(_) => caller = None,
                    Ok(answer) if matches!(answer.status(), 200 | 202) => {
                        accepted.push(answer.json()["id"].as_str().unwrap().to_owned());
                    }
                    Ok(answer) => {
                        assert!(matches!(answer.status(), 429 | 503), "{answer:?}");
                        pause(Duration::from_millis(20));
                    }
                }
            }
            accepted
        };
        let accepted: Vec<String> = thread::scope(|scope| {
            let client = &client;
            let clients: Vec<_> =
                (0..SESSIONS).map(|number| scope.spawn(move || client(number))).collect();
            for _ in 0..4 {
                // In full swing: what is accepted grows.
                let before = service.status()["journal"]["last"].as_u64().unwrap();
                eventually("traffic", || {
                    (service.status()["journal"]["last"].as_u64()? > before + 200).then_some(())
                });
                let began = Instant::now();
                service.systemctl("restart");
                assert!(began.elapsed() < TIMEOUT_STOP, "{:?}", began.elapsed());
                service.unit().assert(&[("ActiveState", "active")]);
                *address.lock().unwrap() = service.address();
            }
            over.store(true, Ordering::SeqCst);
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        assert!(accepted.len() > SESSIONS);
        let api = api(&service);
        for id in &accepted {
            let message: Value = api.finished(id);
            // A turn takes no time: each stop waited for those that ran.
            let found = (&message["status"], &message["attempts"]);
            assert_eq!(found, (&"done".into(), &1.into()), "{message}");
        }
        service.unit().assert(&[("NRestarts", "0")]);
    });
}
