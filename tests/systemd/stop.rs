//! A stop that was asked for, in every way that systemd has: exit 0, and the unit is `inactive`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::time::Duration;

use util::sys::{Lease, Pidfd};
use util::{DEADLINE, Sandbox, Service, UNIT, pause, rounds};

/// A unit that does nothing, to stand in a relation to the gateway.
const OTHER: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

#[test]
fn a_stop_is_planned_and_a_start_after_it_needs_no_reset_failed() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        service.systemctl("stop");
        service.assert_stopped(0);
        let stop = service.stops().pop().unwrap();
        assert_eq!(stop["signal"], "SIGTERM", "{stop}");
        assert_eq!(stop["in_flight"], 0, "{stop}");
        let failed = manager.systemctl(&["is-failed", UNIT]);
        assert_eq!(failed.stdout, "inactive\n");
        // The command tells the same as the file.
        let told = manager.gateway(&["history", "--json"]).assert_code(0).stdout;
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert!(told.to_string().contains(&stop.to_string()), "{told}");
        // Start again needs no reset-failed.
        service.systemctl("start");
        service.unit().assert(&[("ActiveState", "active")]);
    });
}

#[test]
fn a_stop_by_the_units_own_exec_stop_that_kills_it_is_planned() {
    Sandbox::user().run(|manager| {
        let own = "[Service]\nExecStop=/bin/kill -TERM $MAINPID\n";
        let service = Service::start_with(manager, "", own);
        service.systemctl("stop");
        service.assert_stopped(0);
        service.systemctl("start");
        let before = service.pid();
        service.systemctl("restart");
        service.wait_for_return(before, 0);
        service.assert_last_stop("planned", 0, "stopping the unit");
    });
}

#[test]
fn a_stop_during_a_slow_reload_is_planned() {
    Sandbox::user().run(|manager| {
        let slow = "[Service]\nExecReload=\nExecReload=/bin/sleep 2\n";
        let service = Service::start_with(manager, "", slow);
        let args = ["reload", "--no-block", UNIT];
        manager.systemctl(&args).assert_code(0);
        service.unit().wait_for(&[("ActiveState", "reloading")]);
        service.systemctl("stop");
        // systemd itself calls the control process that it killed a failure; the gateway does not.
        service.unit().assert(&[("ExecMainStatus", "0")]);
        service.assert_last_stop("planned", 0, "stopping the unit");
    });
}

#[test]
fn a_stop_without_waiting_is_planned() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let args = ["stop", "--no-block", UNIT];
        manager.systemctl(&args).assert_code(0);
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        service.assert_stopped(0);
    });
}

#[test]
fn every_kind_of_restart_is_planned() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        for verb in ["restart", "try-restart", "reload-or-restart --force"] {
            let before = service.pid();
            let mut words = verb.split(' ').collect::<Vec<_>>();
            if verb.starts_with("reload") {
                // With an ExecReload this one reloads: the same process goes on.
                words.truncate(1);
            }
            words.push(UNIT);
            manager.systemctl(&words).assert_code(0);
            if verb.starts_with("reload") {
                assert_eq!(service.pid(), before);
                continue;
            }
            service.wait_for_return(before, 0);
            service.assert_last_stop("planned", 0, "stopping the unit");
        }
        assert_eq!(service.stops().len(), 2);
    });
}

#[test]
fn each_of_many_stops_in_a_row_is_planned() {
    let limit = Duration::from_secs(300);
    Sandbox::user().limit(limit).run(|manager| {
        let service = Service::install(manager, "", "");
        for round in 1..=rounds(30, 100) {
            service.systemctl("start");
            service.systemctl("stop");
            service.assert_inactive(0);
            assert_eq!(service.stops().len(), round);
            service.assert_last_stop("planned", 0, "the service manager is stopping the unit");
        }
    });
}

#[test]
fn a_stop_with_idle_connections_open_is_planned_and_waits_for_none() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let address = service.address();
        let mut idle: Vec<_> = (0..20).map(|_| util::http::Connection::tcp(address)).collect();
        for connection in idle.iter_mut().skip(10) {
            connection.get("/health", &[]).assert_status(200);
        }
        service.systemctl("stop");
        service.assert_stopped(0);
        let stop = service.stops().pop().unwrap();
        assert!(stop["drain_ms"].as_u64().unwrap() < 1000, "{stop}");
        for connection in &mut idle {
            connection.assert_closed();
        }
    });
}

#[test]
fn a_stop_by_a_conflicting_unit_is_planned() {
    Sandbox::user().run(|manager| {
        let other = format!("[Unit]\nConflicts={UNIT}\n{OTHER}");
        manager.write_unit("other.service", &other);
        let service = Service::start(manager);
        manager.systemctl(&["start", "other.service"]).assert_code(0);
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        service.assert_stopped(0);
    });
}

#[test]
fn a_restart_and_a_stop_of_a_unit_that_it_is_part_of_are_planned() {
    Sandbox::user().run(|manager| {
        manager.write_unit("other.service", OTHER);
        manager.systemctl(&["start", "other.service"]).assert_code(0);
        let service = Service::start_with(manager, "", "[Unit]\nPartOf=other.service\n");
        let before = service.pid();
        manager.systemctl(&["restart", "other.service"]).assert_code(0);
        service.unit().wait_for(&[("Job", ""), ("ActiveState", "active")]);
        service.wait_for_return(before, 0);
        service.assert_last_stop("planned", 0, "");
        manager.systemctl(&["stop", "other.service"]).assert_code(0);
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        service.assert_stopped(0);
        assert_eq!(service.stops().len(), 2);
    });
}

#[test]
fn a_stop_during_the_start_is_planned() {
    Sandbox::user().run(|manager| {
        let service = Service::install(manager, "", "");
        let mut lease = Lease::take(&service.config_file()).unwrap();
        let args = ["start", "--no-block", UNIT];
        manager.systemctl(&args).assert_code(0);
        lease.wait_until_asked(DEADLINE).unwrap();
        service.unit().assert(&[("ActiveState", "activating")]);
        service.systemctl("stop");
        service.assert_inactive(0);
        service.unit().wait_for_journal("verdict=planned");
        service.unit().wait_for_journal("Exiting with code 0 (");
    });
}

#[test]
fn a_stop_at_every_moment_of_a_start_leaves_it_inactive() {
    Sandbox::user().run(|manager| {
        let service = Service::install(manager, "", "");
        for round in 0..rounds(30, 300) {
            let args = ["start", "--no-block", UNIT];
            manager.systemctl(&args).assert_code(0);
            // The case is the delay itself.
            pause(Duration::from_micros((round as u64 % 30) * 300));
            service.systemctl("stop");
            service.unit().assert(&[("ActiveState", "inactive"), ("Result", "success")]);
        }
    });
}

#[test]
fn a_restart_during_the_start_is_planned() {
    Sandbox::user().run(|manager| {
        let service = Service::install(manager, "", "");
        let mut lease = Lease::take(&service.config_file()).unwrap();
        let args = ["start", "--no-block", UNIT];
        manager.systemctl(&args).assert_code(0);
        lease.wait_until_asked(DEADLINE).unwrap();
        let before = service.pid();
        let first = Pidfd::open(before).unwrap();
        let args = ["restart", "--no-block", UNIT];
        manager.systemctl(&args).assert_code(0);
        assert!(first.wait(DEADLINE).unwrap());
        drop(lease);
        service.wait_for_return(before, 0);
        service.unit().wait_for_journal("verdict=planned");
        let journal = service.unit().journal();
        assert!(!journal.contains("Exiting with code 143"), "{journal}");
    });
}

#[test]
fn a_start_that_takes_too_long_is_no_planned_stop() {
    Sandbox::user().run(|manager| {
        // It stays as it ended, so that what systemd says of it can be looked at.
        let drop_in = "[Service]\nTimeoutStartSec=1\nRestart=no\nRestartForceExitStatus=\n";
        let service = Service::install(manager, "", drop_in);
        let lease = Lease::take(&service.config_file()).unwrap();
        assert_ne!(manager.systemctl(&["start", UNIT]).code(), 0);
        drop(lease);
        service.unit().assert(&[
            ("ActiveState", "failed"),
            ("Result", "timeout"),
            ("ExecMainStatus", "143"),
        ]);
        service.unit().wait_for_journal("ran out of time");
    });
}

#[test]
fn the_end_of_the_user_manager_is_a_planned_stop() {
    Sandbox::system().run(|system| {
        let manager = system.user();
        let own = "user@4242.service";
        for how in ["exit", "stop"] {
            let service = Service::start(&manager);
            let gateway = Pidfd::open(service.pid()).unwrap();
            match how {
                "exit" => manager.systemctl(&["exit"]).assert_code(0),
                _ => system.systemctl(&["stop", own]).assert_code(0),
            };
            assert!(gateway.wait(DEADLINE).unwrap());
            system.unit(own).wait_for(&[("ActiveState", "inactive"), ("Result", "success")]);
            service.assert_last_stop("planned", 0, "");
            let last = service.stops().pop().unwrap();
            assert!(!last["reason"].as_str().unwrap().contains("guess"), "{how}: {last}");
            // The next manager starts it as at boot, and its history has no other entry.
            system.systemctl(&["start", own]).assert_code(0);
            service.unit().wait_for(&[("ActiveState", "active")]);
            let expected = if how == "exit" { 1 } else { 2 };
            assert_eq!(service.stops().len(), expected, "{:?}", service.stops());
        }
    });
}
