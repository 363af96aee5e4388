//! The gateway in a unit that is locked up: it still knows a stop from a kill. A row for each setting. A
//! manager that is older than a setting passes over it, with a warning, and the row holds all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;

use util::{Manager, Sandbox, Service, UNIT, Unit, eventually, script, sys};

/// A setting, the version of systemd that brought it, and the namespace that shows it in force.
struct Setting {
    text: &'static str,
    since: u32,
    namespace: Option<&'static str>,
}

/// Starts the unit anew until systemd knows that it is its child. 257 takes the first process of a pid
/// namespace for a stranger now and then (any program: 4 of 60 starts of one that does nothing), sends it SIGKILL in place of SIGTERM
/// and does not hear of its end.
#[track_caller]
fn ensure_supervised(manager: &Manager, unit: Unit) {
    for _ in 0..30 {
        let stranger = format!("Supervising process {} which is not our child", unit.main_pid());
        if !unit.journal().contains(&stranger) {
            return;
        }
        manager.systemctl(&["stop", UNIT]);
        manager.systemctl(&["reset-failed", UNIT]);
        manager.systemctl(&["start", UNIT]).assert_code(0);
    }
    panic!("systemd takes each of its children for a stranger\n{}", unit.journal());
}

/// The stop, the kill and the restart of a unit with this setting, and a turn in it. Nothing in the unit
/// forgives an exit status of 143, as nothing does in one that was written by hand.
#[track_caller]
fn holds(manager: &Manager, setting: &Setting) {
    let text = setting.text;
    let in_force = setting.namespace.filter(|_| manager.version() >= setting.since);
    let bare = "[Service]\nSuccessExitStatus=\nRestartForceExitStatus=\n";
    let agent = script("cat; sleep 600 & true");
    let service = Service::start_with(manager, &agent, &format!("{bare}{text}\n"));
    let pid = service.pid();
    if let Some(namespace) = in_force {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
        // Where it may not be read, it is another user namespace already.
        let theirs = of(&pid.to_string());
        assert!(
            theirs.is_err() || theirs.unwrap() != of("self").unwrap(),
            "{text} is not in force"
        );
    }
    eventually("it knows its unit", || (service.status()["unit"] == UNIT).then_some(()));
    turn(manager);
    ensure_supervised(manager, service.unit());
    service.systemctl("stop");
    service.assert_stopped(0);
    service.assert_last_stop("planned", 0, "the service manager is stopping the unit");

    service.systemctl("start");
    // SIGINT is no Ctrl-C in a unit.
    for signal in [libc::SIGTERM, libc::SIGINT] {
        ensure_supervised(manager, service.unit());
        let before = service.pid();
        let restarts: u32 = service.unit().property("NRestarts").parse().unwrap();
        sys::kill(before, signal).unwrap();
        service.assert_killed(before, restarts + 1);
        service.assert_last_stop("external", 143, "the unit is not being stopped");
    }

    ensure_supervised(manager, service.unit());
    let before = service.pid();
    service.systemctl("restart");
    service.wait_for_return(before, 0);
    service.assert_last_stop("planned", 0, "the service manager is stopping the unit");
    turn(manager);
    ensure_supervised(manager, service.unit());
    service.systemctl("stop");
    service.assert_inactive(0);
    assert_status_text(service.unit());
}

/// A turn of an agent that leaves a process behind.
#[track_caller]
fn turn(manager: &Manager) {
    let said = manager.gateway(&["send", "hello"]).assert_code(0);
    assert_eq!(said.stdout.trim(), "hello", "{said:?}");
}

#[track_caller]
fn assert_status_text(unit: Unit) {
    let text = unit.property("StatusText");
    assert!(text.starts_with("Stopped (planned: "), "{text}");
}

#[test]
fn it_works_with_protect_control_groups() {
    Sandbox::user().run(|manager| {
        let known = "ProtectControlGroups=yes\nPrivateUsers=yes";
        // 247 cannot set it up without privileges (226/NAMESPACE).
        let text = if manager.version() < 252 { "PrivateUsers=yes" } else { known };
        holds(manager, &Setting { text, since: 252, namespace: Some("mnt") });
    });
}

#[test]
fn it_works_with_strict_protect_control_groups() {
    Sandbox::user().run(|manager| {
        let text = "ProtectControlGroups=strict\nPrivateUsers=yes";
        holds(manager, &Setting { text, since: 257, namespace: Some("cgroup") });
    });
}

#[test]
fn it_works_with_private_control_groups() {
    Sandbox::user().run(|manager| {
        let text = "ProtectControlGroups=private\nPrivateUsers=yes";
        holds(manager, &Setting { text, since: 257, namespace: Some("cgroup") });
    });
}

#[test]
fn it_works_with_private_pids() {
    Sandbox::user().run(|manager| {
        let text = "PrivatePIDs=yes\nPrivateUsers=yes";
        holds(manager, &Setting { text, since: 257, namespace: Some("pid") });
    });
}

#[test]
fn it_works_with_private_users() {
    Sandbox::user().run(|manager| {
        holds(manager, &Setting { text: "PrivateUsers=yes", since: 0, namespace: Some("user") });
    });
}

#[test]
fn it_works_with_protect_system_strict() {
    Sandbox::user().run(|manager| {
        let text = "ProtectSystem=strict\nReadWritePaths=%h %t\nPrivateUsers=yes";
        holds(manager, &Setting { text, since: 0, namespace: Some("mnt") });
    });
}

#[test]
fn it_works_with_no_new_privileges() {
    Sandbox::user().run(|manager| {
        holds(manager, &Setting { text: "NoNewPrivileges=yes", since: 0, namespace: None });
    });
}

/// A system unit with this setting, that runs as this user, started.
#[track_caller]
fn start_for_the_machine<'a>(manager: &'a Manager, user: &str, text: &str) -> Unit<'a> {
    let owner = if user == "root" { manager } else { &manager.user() };
    let config = owner.home().join(".config/hermes-gateway/default.toml");
    owner.write(&config, "[http]\nlisten = \"127.0.0.1:0\"\n");
    manager.gateway(&["install", "--system", "--user", user]).assert_code(0);
    let fast = format!("[Service]\nRestartSec=50ms\nRestartSteps=0\n{text}\n");
    manager.write_unit(&format!("{UNIT}.d/10-case.conf"), &fast);
    manager.systemctl(&["start", UNIT]).assert_code(0);
    manager.unit(UNIT)
}

/// The stop, the kill and the restart of such a unit, where nothing forgives an exit status of 143.
#[track_caller]
fn holds_for_the_machine(manager: &Manager, user: &str, text: &str) {
    let bare = format!("{text}\nSuccessExitStatus=\nRestartForceExitStatus=");
    let unit = start_for_the_machine(manager, user, &bare);
    ensure_supervised(manager, unit);
    sys::kill(unit.main_pid(), libc::SIGTERM).unwrap();
    unit.wait_for(&[("ActiveState", "active"), ("NRestarts", "1")]);
    unit.wait_for_journal("the unit is not being stopped");
    ensure_supervised(manager, unit);
    manager.systemctl(&["restart", UNIT]).assert_code(0);
    ensure_supervised(manager, unit);
    manager.systemctl(&["stop", UNIT]).assert_code(0);
    unit.assert(&[("ActiveState", "inactive"), ("Result", "success")]);
    unit.wait_for_journal("verdict=planned");
    let journal = unit.journal();
    assert_eq!(journal.matches("Exiting with code 143").count(), 1, "{journal}");
}

#[test]
fn a_unit_of_the_machine_works_with_strict_protect_control_groups() {
    Sandbox::system().run(|manager| {
        holds_for_the_machine(manager, "tester", "ProtectControlGroups=strict");
    });
}

#[test]
fn a_unit_of_root_works_with_private_protect_control_groups() {
    Sandbox::system().run(|manager| {
        holds_for_the_machine(manager, "root", "ProtectControlGroups=private");
    });
}

#[test]
fn a_unit_of_the_machine_works_with_private_pids() {
    Sandbox::system().run(|manager| {
        holds_for_the_machine(manager, "tester", "PrivatePIDs=yes");
    });
}

/// What cannot be helped: root's systemctl knows only the manager's own socket.
#[test]
fn private_pids_for_root_is_a_guess_that_the_installed_unit_forgives() {
    Sandbox::system().run(|manager| {
        let unit = start_for_the_machine(manager, "root", "PrivatePIDs=yes");
        ensure_supervised(manager, unit);
        manager.systemctl(&["stop", UNIT]).assert_code(0);
        unit.assert(&[("ActiveState", "inactive"), ("Result", "success")]);
        // Before there was such a setting, nothing is hidden.
        let is_hidden = manager.version() >= 257;
        unit.wait_for_journal(if is_hidden { "the verdict is a guess" } else { "verdict=planned" });
    });
}
