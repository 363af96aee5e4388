//! A stop while agents work: whole answers within the drain, and nothing left behind after it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::time::Duration;

use util::http::Connection;
use util::sys::{self, Pidfd};
use util::{DEADLINE, Gate, Manager, Sandbox, Service, eventually};

const TURNS: u64 = 20;

/// Twenty turns of this agent, begun and running.
#[track_caller]
fn begin_turns(service: &Service) -> Vec<Connection> {
    let key = fs::read_to_string(service.state_dir().join("api.key")).unwrap();
    let authorization = format!("Bearer {}", key.trim());
    let address = service.address();
    let turns = (0..TURNS).map(|number| {
        let body = format!(
            r#"{{"stream":{},"messages":[{{"role":"user","content":"turn {number}"}}]}}"#,
            number % 2 == 0
        );
        let fields =
            [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        let mut connection = Connection::tcp(address);
        let request = util::http::request("POST", "/v1/chat/completions", &fields, body.as_bytes());
        connection.send(&request);
        connection
    });
    let turns = turns.collect();
    service.wait_for_turns(TURNS);
    turns
}

/// Configuration for an agent that waits at a gate.
fn gated(manager: &Manager, drain: &str) -> (String, Gate) {
    let gate = Gate::closed(&manager.home());
    let agent = gate.agent();
    let config = format!("{agent}[stop]\ndrain_timeout = \"{drain}\"\n[limits]\nmax_turns = 20\n");
    (config, gate)
}

#[test]
fn a_stop_lets_twenty_turns_finish() {
    Sandbox::user().run(|manager| {
        let (config, gate) = gated(manager, "60s");
        let service = Service::start_with(manager, &config, "[Service]\nTimeoutStopSec=90\n");
        let turns = begin_turns(&service);
        let args = ["stop", "--no-block", util::UNIT];
        manager.systemctl(&args).assert_code(0);
        eventually("the drain", || (service.status()["state"] == "draining").then_some(()));
        service.unit().wait_for(&[("ActiveState", "deactivating")]);
        let text = service.unit().property("StatusText");
        assert!(text.contains("turns in flight 20"), "{text}");
        gate.open();
        for (number, mut turn) in turns.into_iter().enumerate() {
            let response = turn.response().assert_status(200);
            let text = response.text();
            assert!(text.contains(&format!("turn {number}")), "{text}");
            if number % 2 == 0 {
                assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
            }
        }
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        service.assert_stopped(0);
        let stop = service.stops().pop().unwrap();
        assert_eq!((&stop["in_flight"], &stop["cut"]), (&20.into(), &0.into()), "{stop}");
    });
}

#[test]
fn a_drain_that_takes_too_long_cuts_the_turns() {
    Sandbox::user().run(|manager| {
        let (config, _gate) = gated(manager, "200ms");
        let service = Service::start_with(manager, &config, "");
        let agents = {
            let turns = begin_turns(&service);
            // A turn has its place before its process.
            let agents = eventually("twenty processes", || {
                Some(service.processes()).filter(|pids| pids.len() > 20)
            });
            service.systemctl("stop");
            for mut turn in turns {
                // Either an answer that says why, or a stream that says so at its end.
                let response = turn.response();
                let text = response.text();
                assert!(text.contains("stopping"), "{}: {text}", response.status());
            }
            agents
        };
        service.assert_stopped(0);
        let stop = service.stops().pop().unwrap();
        assert_eq!((&stop["in_flight"], &stop["cut"]), (&20.into(), &20.into()), "{stop}");
        for pid in agents {
            assert!(sys::kill(pid, 0).is_err(), "{pid} is left");
        }
    });
}

#[test]
fn a_drain_longer_than_the_unit_allows_is_no_failure() {
    Sandbox::user().run(|manager| {
        // Agents that ignore SIGTERM: the drain, their SIGKILL, and the exit fit the stop's time.
        let config = "[agent]\ncommand = [\"sh\", \"-c\", \"trap '' TERM; echo up; sleep 600; sleep 600\"]\n\
                      [stop]\ndrain_timeout = \"100ms\"\n[limits]\nmax_turns = 20\n";
        let service = Service::start_with(manager, config, "[Service]\nTimeoutStopSec=10\n");
        let turns = begin_turns(&service);
        service.systemctl("stop");
        service.assert_stopped(0);
        drop(turns);
    });
}

#[test]
fn a_stop_after_a_kill_that_drains_is_a_stop() {
    Sandbox::user().run(|manager| {
        let (config, gate) = gated(manager, "60s");
        let service = Service::start_with(manager, &config, "");
        let turns = begin_turns(&service);
        let gateway = Pidfd::open(service.pid()).unwrap();
        gateway.signal(libc::SIGTERM).unwrap();
        service.unit().wait_for_journal("verdict=external");
        assert!(!gateway.wait(Duration::ZERO).unwrap());
        // To systemd it is on its way down already: the stop sends no signal, and waits.
        let args = ["stop", "--no-block", util::UNIT];
        manager.systemctl(&args).assert_code(0);
        gate.open();
        for mut turn in turns {
            turn.response().assert_status(200);
        }
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        service.assert_stopped(0);
    });
}

#[test]
fn a_kill_drains_too_and_comes_back() {
    Sandbox::user().run(|manager| {
        let (config, gate) = gated(manager, "60s");
        let service = Service::start_with(manager, &config, "");
        let before = service.pid();
        let turns = begin_turns(&service);
        sys::kill(before, libc::SIGTERM).unwrap();
        eventually("the drain", || (service.status()["state"] == "draining").then_some(()));
        gate.open();
        for mut turn in turns {
            turn.response().assert_status(200);
        }
        assert!(
            Pidfd::open(before).is_err() || Pidfd::open(before).unwrap().wait(DEADLINE).unwrap()
        );
        service.assert_killed(before, 1);
        let stop = service.stops().pop().unwrap();
        assert_eq!((&stop["in_flight"], &stop["cut"]), (&20.into(), &0.into()), "{stop}");
    });
}

#[test]
fn a_turn_that_asks_for_the_restart_and_waits_for_it_ends_within_the_drain() {
    Sandbox::user().run(|manager| {
        let script = format!("systemctl --user restart {}; echo asked; cat", util::UNIT);
        let config = format!(
            "[agent]\ncommand = [\"sh\", \"-c\", {script:?}]\npass_env = [\"XDG_RUNTIME_DIR\"]\n\
             [stop]\ndrain_timeout = \"60s\"\n"
        );
        let service = Service::start_with(manager, &config, "[Service]\nTimeoutStopSec=90\n");
        let before = service.pid();
        let sent = manager.gateway(&["send", "-s", "s", "--async", "restart"]).assert_code(0);
        let mut words = sent.stdout.split(|c: char| !c.is_ascii_alphanumeric());
        let id = words.find(|word| word.len() == 26).unwrap().to_owned();
        service.unit().wait_for_journal("a turn waits for this stop");
        eventually("the restart", || (service.unit().main_pid() > 0).then_some(()));
        eventually("another process", || (service.unit().main_pid() != before).then_some(()));
        service.unit().wait_for(&[("ActiveState", "active")]);
        let after = service.pid();
        let shown = manager.gateway(&["send", "--result", &id, "--wait", "20"]).assert_code(0);
        assert!(shown.stdout.contains("asked"), "{}", shown.stdout);
        let stop = service.stops().pop().unwrap();
        assert_eq!((&stop["verdict"], &stop["cut"]), (&"planned".into(), &0.into()), "{stop}");
        assert!(stop["drain_ms"].as_u64().unwrap() < 30_000, "{stop}");
        assert_eq!((service.pid(), service.stops().len()), (after, 1), "it was restarted once");
    });
}
