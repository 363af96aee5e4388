//! A reload that is refused, interrupted, or finds an emptied configuration: `systemctl` and `status`
//! must say so, and no work may go to another agent than the configured one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;

use serde_json::Value;
use util::sys::Lease;
use util::{Caller, DEADLINE, Gate, Home, Manager, Outcome, Process, Sandbox, Service, UNIT};
use util::{eventually, script};

const MISTAKE: &str = "[stop]\ndrain_timeoutt = \"10s\"\n";

#[track_caller]
fn reload(manager: &Manager) -> Outcome {
    manager.systemctl(&["reload", UNIT])
}

/// The status for people must (not) have these words, and the gateway must run.
#[track_caller]
fn status(manager: &Manager) -> String {
    manager.gateway(&["status"]).assert_code(0).stdout
}

/// Sends a message to the session "work"; its id.
#[track_caller]
fn send(service: &Service, text: &str) -> String {
    let body = serde_json::json!({ "text": text }).to_string();
    let answer = service.control().post("/v1/sessions/work/messages", &[], &body);
    answer.assert_status(202).json()["id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn ended(id: &str) -> Value {
    eventually("the message's end", || {
        let socket = "/run/user/4242/hermes-gateway/default/control.sock";
        let mut control = Caller::unix(socket.as_ref()).ok()?;
        let answer = control.try_ask("GET", &format!("/v1/messages/{id}"), &[], "");
        Some(answer.ok()?.json()).filter(util::api::is_finished)
    })
}

#[test]
fn a_refused_reload_fails_and_stands_in_the_status_until_a_good_one() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let pid = service.pid();
        service.systemctl("reload");
        assert!(!status(manager).contains("refused"), "{}", status(manager));

        service.configure(MISTAKE);
        assert_ne!(reload(manager).code(), 0, "systemctl says that all is well");
        service.unit().assert(&[("ActiveState", "active"), ("SubState", "running")]);
        let outcome = manager.gateway(&["reload"]);
        assert_ne!(outcome.code(), 0);
        for word in ["default.toml", "drain_timeoutt"] {
            assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
            let text = status(manager);
            assert!(text.contains(word), "{word}: {text}");
            let json = manager.gateway(&["status", "--json"]).assert_code(0).stdout;
            assert!(json.contains(word), "{word}: {json}");
        }

        // Another mistake takes the place of the first.
        service.configure("[agent]\ncommandd = [\"cat\"]\n");
        assert_ne!(reload(manager).code(), 0);
        let text = status(manager);
        assert!(text.contains("commandd") && !text.contains("drain_timeoutt"), "{text}");

        service.configure("[stop]\ndrain_timeout = \"10s\"\n");
        service.systemctl("reload");
        let text = status(manager);
        assert!(!text.contains("commandd") && !text.contains("refused"), "{text}");
        manager.gateway(&["reload"]).assert_code(0);
        assert_eq!(service.pid(), pid);
        service.unit().assert(&[("NRestarts", "0")]);
        service.systemctl("stop");
        service.assert_stopped(0);
    });
}

#[test]
fn a_signal_that_is_refused_stands_in_the_status_too() {
    let home = Home::new();
    home.configure("");
    let gateway = home.start();
    home.configure(MISTAKE);
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("drain_timeoutt", DEADLINE);
    eventually("the refusal in the status", || {
        let text = home.run(&["status"]).assert_code(0).stdout;
        text.contains("drain_timeoutt").then_some(())
    });
    home.configure("[stop]\ndrain_timeout = \"11s\"\n");
    home.run(&["reload"]).assert_code(0);
    let text = home.run(&["status"]).assert_code(0).stdout;
    assert!(!text.contains("drain_timeoutt"), "{text}");
    // Where none runs there is nothing to reload, and that is no success.
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    let outcome = home.run(&["reload"]);
    assert_ne!(outcome.code(), 0);
    assert!(!outcome.stderr.trim().is_empty());
}

#[test]
fn a_restart_checks_the_configuration_and_leaves_the_good_process_running() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let pid = service.pid();
        for wrong in [MISTAKE, "[keys.alice]\nfile = \"/nonexistent/alice.key\"\n"] {
            service.configure(wrong);
            let outcome = manager.gateway(&["restart"]).assert_code(78);
            assert!(outcome.stderr.contains("default.toml"), "{}", outcome.stderr);
            assert_eq!(service.pid(), pid, "{}", outcome.stderr);
            service.unit().assert(&[("ActiveState", "active"), ("NRestarts", "0")]);
        }
        // Emptied, it would run as another gateway: that is a mistake as well.
        fs::write(service.config_file(), "").unwrap();
        let outcome = manager.gateway(&["restart"]).assert_code(78);
        assert_eq!(service.pid(), pid, "{}", outcome.stderr);
        service.configure("");
        manager.gateway(&["restart"]).assert_code(0);
        assert_ne!(service.pid(), pid);
    });
}

#[test]
fn a_stop_while_exec_reload_runs_leaves_the_unit_inactive() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        for verb in ["stop", "stop", "stop", "restart"] {
            // Whoever reads the configuration waits until the lease is given up.
            let mut lease = Lease::take(&service.config_file()).unwrap();
            let mut reload = manager.command("systemctl".as_ref());
            let reload = Process::spawn(reload.args(["--user", "reload", UNIT]));
            lease.wait_until_asked(DEADLINE).unwrap();
            service.unit().wait_for(&[("ActiveState", "reloading")]);
            let mut stop = manager.command("systemctl".as_ref());
            let stop = Process::spawn(stop.args(["--user", verb, UNIT]));
            service.unit().wait_for_journal("Shutdown context");
            if verb == "stop" {
                // It takes no notice of the disk that does not answer.
                stop.finish(DEADLINE).assert_code(0);
                service.assert_inactive(0);
                drop(lease);
            } else {
                drop(lease);
                stop.finish(DEADLINE).assert_code(0);
                service.unit().assert(&[("ActiveState", "active"), ("Result", "success")]);
            }
            // What became of the reload is nobody's failure.
            reload.finish(DEADLINE);
            service.assert_last_stop("planned", 0, "");
            assert_eq!(manager.systemctl(&["is-failed", UNIT]).code(), 1);
            service.systemctl("start");
        }
    });
}

/// What makes a configuration say nothing any more.
const EMPTIED: [fn(&std::path::Path); 3] = [
    |file| fs::write(file, "").unwrap(),
    |file| fs::write(file, "\n  \n").unwrap(),
    |file| fs::remove_file(file).unwrap(),
];

#[test]
fn queued_work_is_never_answered_by_echo_because_the_configuration_was_emptied() {
    Sandbox::user().run(|manager| {
        let gate = Gate::closed(&manager.home());
        let agent = script(&format!("{}; echo \"the agent: $(cat)\"", gate.wait()));
        let service = Service::start_with(manager, &agent, "");
        let pid = service.pid();
        let (first, second) = (send(&service, "one"), send(&service, "two"));
        service.wait_for_turns(1);
        for empty in EMPTIED {
            empty(&service.config_file());
            let outcome = manager.gateway(&["reload"]);
            assert_ne!(outcome.code(), 0, "{}", outcome.stdout);
            assert!(outcome.stderr.contains("default.toml"), "{}", outcome.stderr);
            assert_ne!(reload(manager).code(), 0);
            assert!(status(manager).contains("default.toml"), "{}", status(manager));
            manager.gateway(&["restart"]).assert_code(78);
        }
        assert_eq!(service.pid(), pid);
        gate.open();
        assert_eq!(ended(&first)["reply"], "the agent: one");
        assert_eq!(ended(&second)["reply"], "the agent: two");
    });
}

#[test]
fn queued_work_waits_where_a_start_finds_the_configuration_emptied() {
    Sandbox::user().run(|manager| {
        let gate = Gate::closed(&manager.home());
        let agent = script(&format!("{}; echo \"the agent: $(cat)\"", gate.wait()));
        let service =
            Service::start_with(manager, &format!("{agent}[stop]\ndrain_timeout = \"10ms\"\n"), "");
        let id = send(&service, "one");
        service.wait_for_turns(1);
        service.systemctl("stop");
        gate.open();
        for empty in EMPTIED {
            empty(&service.config_file());
            assert_ne!(manager.gateway(&["start"]).code(), 0);
            service.unit().wait_for(&[("ActiveState", "failed"), ("ExecMainStatus", "78")]);
            let outcome = manager.gateway(&["status"]);
            assert!(outcome.stdout.contains("78"), "{}", outcome.stdout);
        }
        service.configure(&script("echo \"the agent: $(cat)\""));
        manager.gateway(&["start"]).assert_code(0);
        assert_eq!(ended(&id)["reply"], "the agent: one");
    });
}

#[test]
fn in_the_foreground_too_an_emptied_configuration_is_refused() {
    let home = Home::new();
    home.configure(&script("echo \"the agent: $(cat)\""));
    let gateway = home.start();
    for empty in EMPTIED {
        empty(&home.config_file());
        assert_ne!(home.run(&["reload"]).code(), 0);
        assert_eq!(gateway.ask("hi").reply(), "the agent: hi");
    }
    // What never had a file may have none: the defaults are what it runs with.
    let bare = Home::new();
    let gateway = bare.start();
    bare.run(&["reload"]).assert_code(0);
    assert_eq!(gateway.ask("hi").reply(), "hi");
}
