//! A signal that nobody planned, whoever sent it: exit 143, and systemd brings the gateway back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::time::{Duration, Instant};

use util::sys::{self, Lease, Pidfd};
use util::{DEADLINE, Sandbox, Service, UNIT, eventually, pause, rounds};

#[test]
fn a_kill_by_its_user_is_external_and_it_comes_back() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let before = service.pid();
        sys::kill(before, libc::SIGTERM).unwrap();
        service.assert_killed(before, 1);
        let stop = service.stops().pop().unwrap();
        assert_eq!(stop["sender"]["pid"], std::process::id(), "{stop}");
        assert_eq!(stop["sender"]["uid"], 4242, "{stop}");
    });
}

#[test]
fn a_kill_by_root_is_external_and_it_comes_back() {
    Sandbox::system().run(|system| {
        let manager = system.user();
        let service = Service::start(&manager);
        let before = service.pid();
        sys::kill(before, libc::SIGTERM).unwrap();
        service.assert_killed(before, 1);
        let stop = service.stops().pop().unwrap();
        assert_eq!(stop["sender"]["uid"], 0, "{stop}");
    });
}

#[test]
fn systemctl_kill_is_external_and_it_comes_back() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let before = service.pid();
        service.systemctl("kill");
        service.assert_killed(before, 1);
        let before = service.pid();
        let main = ["kill", "--kill-who=main", "--signal=TERM", UNIT];
        manager.systemctl(&main).assert_code(0);
        service.assert_killed(before, 2);
        // SIGINT is no Ctrl-C where nobody sits at a terminal.
        let before = service.pid();
        manager.systemctl(&["kill", "--signal=INT", UNIT]).assert_code(0);
        service.assert_killed(before, 3);
    });
}

#[test]
fn without_restart_the_unit_shows_exit_status_143() {
    Sandbox::user().run(|manager| {
        // Without what the unit knows of 143: what is left is what any unit would show.
        let bare = "[Service]\nRestart=no\nSuccessExitStatus=\nRestartForceExitStatus=\n";
        let service = Service::start_with(manager, "", bare);
        sys::kill(service.pid(), libc::SIGTERM).unwrap();
        service.unit().wait_for(&[
            ("ActiveState", "failed"),
            ("Result", "exit-code"),
            ("ExecMainCode", "1"),
            ("ExecMainStatus", "143"),
            ("NRestarts", "0"),
        ]);
    });
}

#[test]
fn no_drop_in_keeps_it_from_coming_back() {
    Sandbox::user().run(|manager| {
        let service = Service::start_with(manager, "", "[Service]\nRestart=no\n");
        let before = service.pid();
        sys::kill(before, libc::SIGTERM).unwrap();
        service.assert_killed(before, 1);
        service.systemctl("stop");
        service.unit().assert(&[("ActiveState", "inactive"), ("Result", "success")]);
    });
}

#[test]
fn with_restart_on_failure_it_comes_back_after_a_kill() {
    Sandbox::user().run(|manager| {
        let service = Service::start_with(manager, "", "[Service]\nRestart=on-failure\n");
        let before = service.pid();
        sys::kill(before, libc::SIGTERM).unwrap();
        service.assert_killed(before, 1);
    });
}

#[test]
fn each_of_many_kills_in_a_row_is_external_and_it_comes_back() {
    let limit = Duration::from_secs(300);
    Sandbox::user().limit(limit).run(|manager| {
        let fast = "[Service]\nRestartSec=1ms\n";
        let service = Service::start_with(manager, "", fast);
        for round in 1..=rounds(30, 100) {
            let before = service.pid();
            sys::kill(before, libc::SIGTERM).unwrap();
            service.wait_for_return(before, u32::try_from(round).unwrap());
            assert_eq!(service.stops().len(), round);
            service.assert_last_stop("external", 143, "the unit is not being stopped");
        }
    });
}

#[test]
fn kill_and_then_stop_never_leaves_it_failed() {
    let limit = Duration::from_secs(300);
    Sandbox::user().limit(limit).run(|manager| {
        let service = Service::install(manager, "", "");
        let mut failed = Vec::new();
        for _ in 0..rounds(5, 50) {
            for delay in [20, 80, 300] {
                service.systemctl("start");
                sys::kill(service.pid(), libc::SIGTERM).unwrap();
                // The case is the delay itself.
                pause(Duration::from_millis(delay));
                service.systemctl("stop");
                let shown = service.unit().show();
                // Result=exit-code is the kill's, where it came to an end before the stop.
                if shown["ActiveState"] != "inactive" {
                    failed.push((delay, shown["ActiveState"].clone(), shown["Result"].clone()));
                    manager.systemctl(&["reset-failed", UNIT]);
                }
            }
        }
        assert!(failed.is_empty(), "{failed:?}\n{}", service.unit().journal());
    });
}

#[test]
fn a_stop_at_every_moment_of_a_kill_never_leaves_it_failed() {
    let limit = Duration::from_secs(400);
    Sandbox::user().limit(limit).run(|manager| {
        // A late return, so that the stop meets the end of the first process and not the second's start.
        let service = Service::install(manager, "", "[Service]\nRestartSec=5s\n");
        let mut failed = Vec::new();
        let moments = rounds(20, 40) as u64;
        for round in 0..rounds(20, 400) as u64 {
            let delay = Duration::from_micros(round % moments * (30_000 / moments));
            service.systemctl("start");
            let pid = service.pid();
            let stop = {
                let began = Instant::now();
                sys::kill(pid, libc::SIGTERM).unwrap();
                // The case is the delay itself.
                pause(delay.saturating_sub(began.elapsed()));
                manager.systemctl(&["stop", UNIT])
            };
            stop.assert_code(0);
            let shown = service.unit().show();
            if shown["ActiveState"] != "inactive" {
                failed.push((delay, shown["ActiveState"].clone(), shown["Result"].clone()));
                manager.systemctl(&["reset-failed", UNIT]);
            }
        }
        assert!(failed.is_empty(), "{failed:?}\n{}", service.unit().journal());
    });
}

#[test]
fn a_kill_during_the_start_is_external() {
    Sandbox::user().run(|manager| {
        let service = Service::install(manager, "", "");
        let mut lease = Lease::take(&service.config_file()).unwrap();
        let args = ["start", "--no-block", UNIT];
        manager.systemctl(&args).assert_code(0);
        lease.wait_until_asked(DEADLINE).unwrap();
        let before = service.pid();
        let first = Pidfd::open(before).unwrap();
        sys::kill(before, libc::SIGTERM).unwrap();
        assert!(first.wait(DEADLINE).unwrap());
        drop(lease);
        service.wait_for_return(before, 1);
        service.unit().wait_for_journal("verdict=external");
        service.unit().wait_for_journal("Exiting with code 143 (");
    });
}

#[test]
fn a_kill_during_a_reload_is_external() {
    Sandbox::user().run(|manager| {
        let slow = "[Service]\nExecReload=\nExecReload=/bin/sleep 2\n";
        let service = Service::start_with(manager, "", slow);
        for (round, by_systemctl) in [(1, false), (2, true)] {
            let before = service.pid();
            let args = ["reload", "--no-block", UNIT];
            manager.systemctl(&args).assert_code(0);
            service.unit().wait_for(&[("ActiveState", "reloading")]);
            if by_systemctl {
                let main = ["kill", "--kill-who=main", UNIT];
                manager.systemctl(&main).assert_code(0);
            } else {
                sys::kill(before, libc::SIGTERM).unwrap();
            }
            service.assert_killed(before, round);
        }
    });
}

#[test]
fn the_end_of_runtime_max_sec_is_external_and_it_comes_back() {
    Sandbox::user().run(|manager| {
        let service = Service::start_with(manager, "", "[Service]\nRuntimeMaxSec=1\n");
        let before = service.pid();
        let first = Pidfd::open(before).unwrap();
        assert!(first.wait(DEADLINE).unwrap());
        service.unit().wait_for(&[("ActiveState", "active")]);
        assert_ne!(service.pid(), before);
        service.assert_last_stop("external", 143, "without a stop job");
        let restarts: u32 = service.unit().property("NRestarts").parse().unwrap();
        assert!(restarts >= 1, "{restarts}");
    });
}

#[test]
fn sigkill_is_recorded_as_an_unclean_exit_and_it_comes_back() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let before = service.pid();
        sys::kill(before, libc::SIGKILL).unwrap();
        service.wait_for_return(before, 1);
        // Written when READY=1 was said already.
        let stop = eventually("the entry", || service.stops().pop());
        assert_eq!(stop["verdict"], "unclean exit", "{stop}");
        assert_eq!(stop["pid"], before, "{stop}");
        assert_eq!(stop["rebooted"], false, "{stop}");
        service.systemctl("stop");
        service.assert_stopped(1);
    });
}

#[test]
fn a_gateway_that_hangs_is_replaced() {
    Sandbox::user().run(|manager| {
        let service = Service::start_with(manager, "", "[Service]\nWatchdogSec=1\n");
        let before = service.pid();
        // It says that it lives more than once before it hangs.
        let alive = || service.unit().property("WatchdogTimestampMonotonic");
        let first = alive();
        eventually("a sign of life", || (alive() != first).then_some(()));
        sys::kill(before, libc::SIGSTOP).unwrap();
        service.unit().wait_for(&[("NRestarts", "1"), ("ActiveState", "active")]);
        assert_ne!(service.pid(), before);
        service.unit().wait_for_journal("Watchdog timeout");
        let stop = eventually("the entry", || service.stops().pop());
        assert_eq!(stop["verdict"], "unclean exit", "{stop}");
    });
}

#[test]
fn the_watchdogs_own_sigterm_is_no_stop() {
    Sandbox::user().run(|manager| {
        // It does not know of the watchdog, and so never says that it lives.
        let deaf = "[Service]\nWatchdogSec=1\nWatchdogSignal=SIGTERM\n\
                    UnsetEnvironment=WATCHDOG_USEC WATCHDOG_PID\n";
        let service = Service::start_with(manager, "", deaf);
        let before = service.pid();
        let gateway = Pidfd::open(before).unwrap();
        assert!(gateway.wait(DEADLINE).unwrap());
        service.unit().wait_for(&[("ActiveState", "active"), ("NRestarts", "1")]);
        service.assert_last_stop("external", 143, "without a stop job");
    });
}

#[test]
fn a_forged_sender_convinces_nobody() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let before = service.pid();
        let uid = sys::uid();
        sys::forge_signal(before, libc::SIGTERM, libc::SI_QUEUE, manager.pid(), uid).unwrap();
        service.assert_killed(before, 1);
        // Where nobody can be asked, the sender would decide: a forged one does not.
        let before = service.pid();
        let gateway = Pidfd::open(before).unwrap();
        let boss = manager.pid();
        sys::kill(boss, libc::SIGSTOP).unwrap();
        sys::forge_signal(before, libc::SIGTERM, libc::SI_QUEUE, boss, uid).unwrap();
        let ended = gateway.wait(DEADLINE);
        sys::kill(boss, libc::SIGCONT).unwrap();
        assert!(ended.unwrap());
        service.assert_killed(before, 2);
        service.assert_last_stop("external", 143, "guess");
    });
}
