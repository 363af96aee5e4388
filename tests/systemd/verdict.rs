//! What is said of a stop, and the time that it has: the first reason stays, an inactive unit says nothing
//! old, and a drain outlives the unit's own time-out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::time::Duration;

use util::http::Connection;
use util::{Gate, Manager, Sandbox, Service, UNIT, eventually, pause, script, sys};

/// A turn of this agent that runs.
#[track_caller]
fn begin_turn(service: &Service) -> Connection {
    let key = fs::read_to_string(service.state_dir().join("api.key")).unwrap();
    let authorization = format!("Bearer {}", key.trim());
    let fields = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    let body = br#"{"messages":[{"role":"user","content":"hello"}]}"#;
    let mut connection = Connection::tcp(service.address());
    connection.send(&util::http::request("POST", "/v1/chat/completions", &fields, body));
    service.wait_for_turns(1);
    connection
}

/// Configuration for an agent that waits at a gate, and a drain that takes so long.
fn gated(manager: &Manager, drain: &str) -> (String, Gate) {
    let gate = Gate::closed(&manager.home());
    (format!("{}[stop]\ndrain_timeout = \"{drain}\"\n", gate.agent()), gate)
}

#[track_caller]
fn stop_without_waiting(manager: &Manager) {
    manager.systemctl(&["stop", "--no-block", UNIT]).assert_code(0);
}

#[test]
fn a_kill_with_a_turn_in_flight_keeps_its_first_reason() {
    Sandbox::user().run(|manager| {
        let (config, gate) = gated(manager, "20s");
        let service = Service::start_with(manager, &config, "");
        let mut turn = begin_turn(&service);
        let before = service.pid();
        sys::kill(before, libc::SIGTERM).unwrap();
        // By our own STOPPING=1.
        service.unit().wait_for(&[("ActiveState", "deactivating")]);
        gate.open();
        turn.response().assert_status(200);
        service.assert_killed(before, 1);
        service.assert_last_stop("external", 143, "the unit is not being stopped");
        let journal = service.unit().journal();
        assert!(!journal.contains("without a stop job"), "{journal}");
    });
}

#[test]
fn a_stop_during_the_drain_of_a_kill_changes_the_verdict_and_its_reason() {
    Sandbox::user().run(|manager| {
        let (config, gate) = gated(manager, "20s");
        let service = Service::start_with(manager, &config, "");
        let mut turn = begin_turn(&service);
        sys::kill(service.pid(), libc::SIGTERM).unwrap();
        service.unit().wait_for(&[("ActiveState", "deactivating")]);
        stop_without_waiting(manager);
        eventually("the stop job", || (!service.unit().property("Job").is_empty()).then_some(()));
        gate.open();
        turn.response().assert_status(200);
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        service.assert_stopped(0);
        service.assert_last_stop("planned", 0, "the service manager is stopping the unit");
    });
}

#[test]
fn a_unit_that_ended_does_not_say_that_it_serves() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        assert!(service.unit().property("StatusText").starts_with("Serving on "));
        service.systemctl("stop");
        let text = service.unit().property("StatusText");
        assert!(text.starts_with("Stopped (planned: "), "{text}");
        service.configure("nonsense = 1\n");
        assert_ne!(manager.systemctl(&["start", UNIT]).code(), 0);
        let text = service.unit().property("StatusText");
        assert!(text.starts_with("Failed: the configuration is wrong"), "{text}");
    });
}

#[test]
fn a_drain_that_is_longer_than_the_units_time_is_carried_over_it() {
    Sandbox::user().run(|manager| {
        let (config, gate) = gated(manager, "20s");
        let short = "[Service]\nTimeoutStopSec=3s\n";
        let service = Service::start_with(manager, &config, short);
        service.unit().wait_for_journal("TimeoutStopSec= of the unit is 3 s");
        assert_eq!(service.status()["stop_timeout_seconds"], 3);
        let told = manager.gateway(&["status"]).assert_code(0).stdout;
        assert!(told.contains("TimeoutStopSec= of the unit: 3 s"), "{told}");
        let mut turn = begin_turn(&service);
        stop_without_waiting(manager);
        // The case is the time itself.
        pause(Duration::from_secs(6));
        service.unit().assert(&[("ActiveState", "deactivating"), ("Result", "success")]);
        gate.open();
        turn.response().assert_status(200);
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        service.assert_stopped(0);
        let stop = service.stops().pop().unwrap();
        assert_eq!((&stop["in_flight"], &stop["cut"]), (&1.into(), &0.into()), "{stop}");
    });
}

#[test]
fn what_follows_a_drain_is_carried_over_the_units_time_too() {
    Sandbox::user().run(|manager| {
        // It takes SIGKILL, three seconds after SIGTERM.
        let stubborn = script("trap '' TERM; while :; do sleep 1; done");
        let config = format!("{stubborn}[stop]\ndrain_timeout = \"1s\"\n");
        let service = Service::start_with(manager, &config, "[Service]\nTimeoutStopSec=2s\n");
        service.unit().wait_for_journal("TimeoutStopSec= of the unit is 2 s");
        let _turn = begin_turn(&service);
        service.systemctl("stop");
        service.assert_stopped(0);
        let stop = service.stops().pop().unwrap();
        assert_eq!((&stop["in_flight"], &stop["cut"]), (&1.into(), &1.into()), "{stop}");
        assert!(stop["drain_ms"].as_u64().unwrap() > 2000, "{stop}");
        // A second signal ends the drain, and what follows takes as long.
        service.configure(&format!("{stubborn}[stop]\ndrain_timeout = \"1h\"\n"));
        service.systemctl("start");
        service.unit().wait_for_journal("a stop may take 3615 s");
        let _turn = begin_turn(&service);
        let pid = service.pid();
        stop_without_waiting(manager);
        eventually("the drain", || (service.status()["state"] == "draining").then_some(()));
        sys::kill(pid, libc::SIGTERM).unwrap();
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        service.assert_stopped(0);
    });
}

#[test]
fn after_a_kill_the_drain_outlives_the_units_time_as_well() {
    Sandbox::user().run(|manager| {
        let (config, gate) = gated(manager, "20s");
        let service = Service::start_with(manager, &config, "[Service]\nTimeoutStopSec=1s\n");
        service.unit().wait_for_journal("TimeoutStopSec= of the unit is 1 s");
        let mut turn = begin_turn(&service);
        let before = service.pid();
        sys::kill(before, libc::SIGTERM).unwrap();
        // The case is the time itself.
        pause(Duration::from_secs(3));
        gate.open();
        turn.response().assert_status(200);
        service.assert_killed(before, 1);
    });
}

#[test]
fn the_units_time_is_read_again_at_a_reload_and_at_a_stop() {
    Sandbox::user().run(|manager| {
        let (config, gate) = gated(manager, "20s");
        let service = Service::start_with(manager, &config, "");
        service.unit().wait_for_journal("which TimeoutStopSec= of the unit allows");
        assert_eq!(service.status()["stop_timeout_seconds"], 35);
        let case = format!("{UNIT}.d/30-time.conf");
        manager.write_unit(&case, "[Service]\nTimeoutStopSec=36s\n");
        service.configure(&config.replace("20s", "30s"));
        service.systemctl("reload");
        eventually("the new time", || {
            (service.status()["stop_timeout_seconds"] == 36).then_some(())
        });
        service.unit().wait_for_journal("TimeoutStopSec= of the unit is 36 s");
        service.configure(&config);
        service.systemctl("reload");
        eventually("it fits again", || {
            let fits = "which TimeoutStopSec= of the unit allows";
            (service.unit().journal().matches(fits).count() == 2).then_some(())
        });
        // `systemctl edit` tells the manager and not the gateway.
        manager.write_unit(&case, "[Service]\nTimeoutStopSec=2s\n");
        let mut turn = begin_turn(&service);
        stop_without_waiting(manager);
        // The case is the time itself.
        pause(Duration::from_secs(4));
        gate.open();
        turn.response().assert_status(200);
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        service.assert_stopped(0);
    });
}

#[test]
fn where_no_time_can_be_asked_for_the_drain_is_cut_to_fit() {
    Sandbox::user().run(|manager| {
        let (config, _gate) = gated(manager, "60s");
        // The store would have the manager listen, too.
        let simple = "[Service]\nType=simple\nNotifyAccess=none\nWatchdogSec=0\nTimeoutStopSec=9s\n\
            FileDescriptorStoreMax=0\n";
        let service = Service::start_with(manager, &config, simple);
        service.unit().wait_for_journal("the gateway shortens the drain");
        let _turn = begin_turn(&service);
        service.systemctl("stop");
        service.assert_stopped(0);
        let stop = service.stops().pop().unwrap();
        assert_eq!((&stop["in_flight"], &stop["cut"]), (&1.into(), &1.into()), "{stop}");
    });
}
