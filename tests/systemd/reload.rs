//! `systemctl reload` of the installed unit: it fails with what is wrong, and a stop that meets it is a
//! stop. And starts that fail: the history and `status` call them that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::Path;

use util::sys::Lease;
use util::{DEADLINE, Process, Sandbox, Service, UNIT, eventually, rounds};

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
}

#[test]
fn a_refused_reload_fails_and_is_said_until_the_next_good_one() {
    Sandbox::user().run(|manager| {
        let service = Service::start_with(manager, "[agent]\ncommand = [\"echo\", \"old\"]\n", "");
        let before = service.pid();
        service.configure("[agent]\nmodle = \"echo\"\n");
        let refused = manager.systemctl(&["reload", UNIT]);
        assert_ne!(refused.code(), 0, "{refused:?}");
        service.unit().wait_for_journal("modle");
        service.unit().assert(&[("ActiveState", "active"), ("SubState", "running")]);
        // The manager is told by the main loop, the log by whoever has read the file.
        let told = || service.unit().property("StatusText");
        eventually("the refusal", || told().contains("reload refused").then_some(()));
        has(&told(), &["Serving on", "reload refused", "modle"]);
        let status = manager.gateway(&["status"]).assert_code(0).stdout;
        has(&status, &["reload  refused", "default.toml:4:1", "modle"]);
        // Nor does a truncated file make an echo of it.
        fs::write(service.config_file(), "").unwrap();
        assert_ne!(manager.systemctl(&["reload", UNIT]).code(), 0);
        assert_eq!(service.status()["agent"], "command");

        service.configure("[agent]\ncommand = []\n");
        service.systemctl("reload");
        let status = manager.gateway(&["status"]).assert_code(0).stdout;
        assert!(!status.contains("refused"), "{status}");
        let told = service.unit().property("StatusText");
        assert!(told.starts_with("Serving on") && !told.contains("refused"), "{told}");
        assert_eq!((service.status()["agent"].as_str(), service.pid()), (Some("echo"), before));
    });
}

#[test]
fn a_stop_during_a_reload_that_is_under_way_is_a_stop() {
    Sandbox::user().run(|manager| {
        for restart in [false, true].repeat(rounds(2, 10)) {
            let service = Service::start(manager);
            let mut lease = Lease::take(&service.config_file()).unwrap();
            manager.systemctl(&["reload", "--no-block", UNIT]).assert_code(0);
            lease.wait_until_asked(DEADLINE).unwrap();
            service.unit().assert(&[("ActiveState", "reloading")]);
            let before = service.pid();
            if restart {
                let verdicts = || service.unit().journal().matches("verdict=planned").count();
                let earlier = verdicts();
                manager.systemctl(&["restart", "--no-block", UNIT]).assert_code(0);
                eventually("its verdict", || (verdicts() > earlier).then_some(()));
                drop(lease);
                service.wait_for_return(before, 0);
                service.systemctl("stop");
            } else {
                service.systemctl("stop");
            }
            service.assert_stopped(0);
        }
    });
}

#[test]
fn a_kill_during_a_reload_that_is_under_way_is_a_kill_and_it_comes_back() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        for (restarts, all) in [(1, false), (2, true)] {
            let mut lease = Lease::take(&service.config_file()).unwrap();
            manager.systemctl(&["reload", "--no-block", UNIT]).assert_code(0);
            lease.wait_until_asked(DEADLINE).unwrap();
            let before = service.pid();
            if all {
                manager.systemctl(&["kill", UNIT]).assert_code(0);
            } else {
                util::sys::kill(before, libc::SIGTERM).unwrap();
            }
            eventually("its end", || (service.stops().len() == restarts).then_some(()));
            drop(lease);
            service.assert_killed(before, u32::try_from(restarts).unwrap());
        }
    });
}

#[test]
fn a_unit_that_was_installed_before_and_sends_sighup_keeps_reloading() {
    Sandbox::user().run(|manager| {
        let older = "[Service]\nExecReload=\nExecReload=/bin/kill -HUP $MAINPID\n";
        let service = Service::start_with(manager, "", older);
        service.configure("[agent]\ncommand = [\"cat\"]\n");
        service.systemctl("reload");
        service.unit().wait_for_journal("the configuration was read again");
        assert_eq!(service.status()["agent"], "command");
    });
}

#[test]
fn starts_that_fail_are_failed_starts_with_their_exit_status_and_reason() {
    Sandbox::user().run(|manager| {
        // A late return, so that the stop meets the failed start and not the next.
        let service = Service::start_with(manager, "", "[Service]\nRestartSec=30s\n");
        service.systemctl("stop");
        let config = fs::read_to_string(service.config_file()).unwrap();
        let journal = service.state_dir().join("journal");
        let whole = fs::read(&journal).unwrap();
        let damaged = [&b"00000000"[..], &whole[8..]].concat();
        let wrong = "[http]\nlissten = \"x\"\n";
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let (port, is_taken) =
            (format!("[http]\nlisten = \"{address}\"\n"), format!("{address} is taken"));
        let cases = [
            (wrong, &whole, 78, "lissten", "config check"),
            ("", &whole, 78, "it is empty", "config check"),
            (config.as_str(), &damaged, 78, "/journal", "journal check"),
            (port.as_str(), &whole, 69, is_taken.as_str(), "logs"),
        ];
        for (text, bytes, code, reason, way) in cases {
            fs::write(service.config_file(), text).unwrap();
            fs::write(&journal, bytes).unwrap();
            let outcome = manager.gateway(&["start"]);
            // Where systemd tries again, it may have begun to by the time that it is asked.
            assert!(outcome.code() == code || (code == 69 && outcome.code() == 1), "{outcome:?}");
            has(&outcome.stderr, &[reason, way]);
            manager.systemctl(&["stop", UNIT]);
            service.assert_last_stop("failed start", code.into(), reason);
            let status = manager.gateway(&["status"]).stdout;
            has(&status, &["last stop", "failed start", reason, &format!("exit {code}")]);
        }
        fs::write(service.config_file(), config).unwrap();
        fs::write(&journal, &whole).unwrap();
        manager.systemctl(&["reset-failed", UNIT]);
        service.systemctl("start");
        let history = manager.gateway(&["history"]).assert_code(0).stdout;
        assert!(!history.contains("unclean exit"), "{history}");
        assert!(!service.unit().journal().contains("unclean exit"));
    });
}

#[test]
fn status_says_who_wrote_a_unit_and_how_it_really_ended() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let status = || manager.gateway(&["status"]).stdout;
        has(&status(), &["up to date"]);
        let file = manager.unit_dir().join(UNIT);
        let ours = fs::read_to_string(&file).unwrap();
        manager.write_unit(UNIT, &ours.replace("WatchdogSec=60s", "WatchdogSec=61s"));
        has(&status(), &["changed by hand", "--force"]);
        let own = format!("[Service]\nExecStart={} run\nType=notify\n", util::binary().display());
        manager.write_unit(UNIT, &own);
        has(&status(), &["not written by hermes-gateway"]);
        assert!(!status().contains("`install` updates it"), "{}", status());

        let drop_in = |text: &str| manager.write_unit(&format!("{UNIT}.d/20-case.conf"), text);
        drop_in("[Service]\nExecStopPost=/bin/false\n");
        let stopped = manager.gateway(&["stop"]);
        has(&stopped.stderr, &["exit status 0, but another command", "ExecStopPost="]);
        has(&status(), &["failed", "another command of its unit failed"]);
        has(&manager.gateway(&["stop"]).stdout, &["another command of its unit failed"]);
        drop_in("[Service]\nRestart=no\n");
        service.systemctl("start");
        manager.systemctl(&["kill", "--signal=SIGABRT", UNIT]).assert_code(0);
        service.unit().wait_for(&[("ActiveState", "failed")]);
        has(&status(), &["killed by SIGABRT (signal 6)"]);
        assert!(!status().contains("exit status 6"), "{}", status());
    });
}

#[test]
fn draining_since_is_when_the_drain_began() {
    Sandbox::user().run(|manager| {
        let gate = manager.home().join("gate");
        let script = format!("while ! [ -e {} ]; do sleep 0.1; done", gate.display());
        let service = Service::start_with(manager, &util::script(&script), "");
        let before = service.status();
        let mut send = manager.command(&util::binary());
        let send = Process::spawn(send.args(["send", "x"]));
        service.wait_for_turns(1);
        manager.systemctl(&["stop", "--no-block", UNIT]).assert_code(0);
        service.unit().wait_for_journal("Shutdown context");
        let during = service.status();
        assert_eq!(
            (&before["state_since"], &during["since"]),
            (&before["since"], &before["since"])
        );
        assert_eq!(during["state"], "draining", "{during}");
        let since = during["state_since"].as_str().unwrap();
        assert!(since > during["since"].as_str().unwrap(), "{during}");
        let json = manager.gateway(&["status", "--json"]).assert_code(0).stdout;
        let told: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(told["since"], since, "{told}");
        fs::write(&gate, "").unwrap();
        send.finish(DEADLINE).assert_code(0);
        assert!(Path::new(&gate).exists());
    });
}
