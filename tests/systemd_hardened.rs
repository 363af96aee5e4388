//! The gateway in a unit that is locked up: it still knows a stop from a kill. A row for each setting; one
//! that the manager of this machine does not know is left out, and says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod util;

use std::fs;

use util::{Manager, Sandbox, Service, Unit, eventually, report, script, sys};

/// A setting, the version of systemd that brought it, and the namespace that shows it in force.
struct Setting {
    text: &'static str,
    since: u32,
    namespace: Option<&'static str>,
}

/// The stop, the kill and the restart of a unit with this setting, and a turn in it. Nothing in the unit
/// forgives an exit status of 143, as nothing does in one that was written by hand.
#[track_caller]
fn holds(manager: &Manager, setting: &Setting) {
    let version = manager.version();
    if version < setting.since {
        return report(&format!(
            "SKIPPED: systemd {version} has no {} for a user unit",
            setting.text
        ));
    }
    let text = setting.text;
    let bare = "[Service]\nSuccessExitStatus=\nRestartForceExitStatus=\n";
    let agent = script("cat; sleep 600 & true");
    let service = Service::start_with(manager, &agent, &format!("{bare}{text}\n"));
    let pid = service.pid();
    if let Some(namespace) = setting.namespace {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
        // Where it may not be read, it is another user namespace already.
        let theirs = of(&pid.to_string());
        assert!(
            theirs.is_err() || theirs.unwrap() != of("self").unwrap(),
            "{text} is not in force"
        );
    }
    eventually("it knows its unit", || (service.status()["unit"] == util::UNIT).then_some(()));
    turn(manager);
    service.systemctl("stop");
    service.assert_stopped(0);
    service.assert_last_stop("planned", 0, "the service manager is stopping the unit");

    service.systemctl("start");
    let before = service.pid();
    sys::kill(before, libc::SIGTERM).unwrap();
    service.assert_killed(before, 1);
    service.assert_last_stop("external", 143, "the unit is not being stopped");
    // A kill of its namespace's first process may take its time; SIGINT is no Ctrl-C in a unit.
    let before = service.pid();
    sys::kill(before, libc::SIGINT).unwrap();
    service.assert_killed(before, 2);

    let before = service.pid();
    service.systemctl("restart");
    service.wait_for_return(before, 0);
    service.assert_last_stop("planned", 0, "the service manager is stopping the unit");
    turn(manager);
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
fn protect_control_groups() {
    Sandbox::user().run(|manager| {
        let text = "ProtectControlGroups=yes\nPrivateUsers=yes";
        // 247 cannot set it up without privileges (226/NAMESPACE).
        holds(manager, &Setting { text, since: 252, namespace: Some("mnt") });
    });
}

#[test]
fn protect_control_groups_strict() {
    Sandbox::user().run(|manager| {
        let text = "ProtectControlGroups=strict\nPrivateUsers=yes";
        holds(manager, &Setting { text, since: 257, namespace: Some("cgroup") });
    });
}

#[test]
fn protect_control_groups_private() {
    Sandbox::user().run(|manager| {
        let text = "ProtectControlGroups=private\nPrivateUsers=yes";
        holds(manager, &Setting { text, since: 257, namespace: Some("cgroup") });
    });
}

#[test]
fn private_pids() {
    Sandbox::user().run(|manager| {
        let text = "PrivatePIDs=yes\nPrivateUsers=yes";
        holds(manager, &Setting { text, since: 257, namespace: Some("pid") });
    });
}

#[test]
fn private_users() {
    Sandbox::user().run(|manager| {
        holds(manager, &Setting { text: "PrivateUsers=yes", since: 0, namespace: Some("user") });
    });
}

#[test]
fn protect_system_strict() {
    Sandbox::user().run(|manager| {
        let text = "ProtectSystem=strict\nReadWritePaths=%h %t\nPrivateUsers=yes";
        holds(manager, &Setting { text, since: 0, namespace: Some("mnt") });
    });
}

#[test]
fn no_new_privileges() {
    Sandbox::user().run(|manager| {
        holds(manager, &Setting { text: "NoNewPrivileges=yes", since: 0, namespace: None });
    });
}
