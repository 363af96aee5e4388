//! A restart in place as a unit: for systemd nothing happens, and its stop comes first at any moment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::time::Duration;

use serde_json::json;

use util::random::Random;
use util::{Gate, Sandbox, Service, TempDir, UNIT, eventually, pause, rounds};

#[test]
fn the_unit_stays_as_it_is_and_its_stop_is_a_stop() {
    Sandbox::user().run(|manager| {
        // A unit that would not be started again after an exit of 75.
        let service =
            Service::start_with(manager, "", "[Service]\nRestart=no\nRestartForceExitStatus=\n");
        let (pid, invocation) = (service.pid(), service.unit().property("InvocationID"));
        for round in 1..=rounds(3, 20) {
            let said = manager.gateway(&["restart", "--graceful"]).assert_code(0).stdout;
            assert!(said.contains(&format!("restarted in place: pid {pid}, version ")), "{said}");
            service.unit().assert(&[
                ("ActiveState", "active"),
                ("SubState", "running"),
                ("NRestarts", "0"),
                ("MainPID", &pid.to_string()),
                ("InvocationID", &invocation),
            ]);
            let mut stops = service.stops();
            // What the next run adds is a line of its own.
            stops.dedup_by(|later, earlier| later["run"] == earlier["run"]);
            assert_eq!((stops.len(), &stops[round - 1]["verdict"]), (round, &json!("restart")));
        }
        eventually("its own word", || {
            service.unit().property("StatusText").starts_with("Serving on ").then_some(())
        });
        assert_eq!(service.status()["unit"], UNIT);
        // A reload by its manager still reaches it.
        service.systemctl("reload");
        service.systemctl("stop");
        service.assert_stopped(0);
    });
}

#[test]
fn a_kill_after_it_is_a_kill() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        manager.gateway(&["restart", "--graceful"]).assert_code(0);
        let before = service.pid();
        util::sys::kill(before, libc::SIGTERM).unwrap();
        service.assert_killed(before, 1);
        manager.gateway(&["restart", "--graceful"]).assert_code(0);
        assert_ne!(service.pid(), before);
    });
}

#[test]
fn a_stop_at_any_moment_of_it_is_a_stop() {
    Sandbox::user().run(|manager| {
        let mut random = Random::new(11);
        for _ in 0..rounds(8, 60) {
            let service = Service::start(manager);
            util::sys::kill(service.pid(), libc::SIGUSR1).unwrap();
            pause(Duration::from_micros(random.below(150_000) as u64));
            service.systemctl("stop");
            service.assert_stopped(0);
        }
    });
}

#[test]
fn a_stop_while_it_waits_for_a_turn_is_a_stop_and_the_turn_has_its_time() {
    Sandbox::user().run(|manager| {
        let dir = TempDir::with_mode("", 0o755);
        let gate = Gate::closed(dir.path());
        let service = Service::start_with(manager, &gate.agent(), "");
        let mut control = service.control();
        control.post("/v1/messages", &[], r#"{"text":"x"}"#).assert_status(202);
        service.wait_for_turns(1);
        util::sys::kill(service.pid(), libc::SIGUSR1).unwrap();
        service.unit().wait_for_journal("the restart waits for the turns in flight: 1");
        manager.systemctl(&["stop", "--no-block", UNIT]).assert_code(0);
        service.unit().wait_for_journal("no restart: the gateway is being stopped");
        gate.open();
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        service.assert_stopped(0);
        assert_eq!(service.stops().last().unwrap()["cut"], 0);
    });
}
