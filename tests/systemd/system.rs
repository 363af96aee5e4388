//! As a system unit: the same promises under the system's manager.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::Path;

use serde_json::Value;
use util::sys;
use util::{Manager, Sandbox, UNIT, Unit};

/// Installed to run as `tester`, started.
#[track_caller]
fn start(manager: &Manager, drop_in: &str) {
    let user = manager.user();
    let config = user.home().join(".config/hermes-gateway/default.toml");
    user.write(&config, "[http]\nlisten = \"127.0.0.1:0\"\n");
    let install = ["install", "--system", "--user", "tester"];
    manager.gateway(&install).assert_code(0);
    let fast = format!("[Service]\nRestartSec=50ms\nRestartSteps=0\n{drop_in}");
    manager.write_unit(&format!("{UNIT}.d/10-fast.conf"), &fast);
    manager.systemctl(&["start", UNIT]).assert_code(0);
}

#[track_caller]
fn assert_last_stop(unit: &Unit, verdict: &str, exit: i64, reason: &str) {
    let file = "/home/tester/.local/state/hermes-gateway/default/history.jsonl";
    let text = fs::read_to_string(file).unwrap();
    let stop: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let said = stop["reason"].as_str().unwrap();
    assert!(
        stop["verdict"] == verdict && stop["exit"] == exit && said.contains(reason),
        "expected {verdict}, {exit}, {reason:?}: {stop}\n{}",
        unit.journal()
    );
}

#[test]
fn stops_of_a_system_unit_are_planned_and_kills_are_not() {
    Sandbox::system().run(|manager| {
        start(manager, "");
        let unit = manager.unit(UNIT);
        let before = unit.main_pid();
        sys::kill(before, libc::SIGTERM).unwrap();
        unit.wait_for(&[("ActiveState", "active"), ("NRestarts", "1")]);
        assert_ne!(unit.main_pid(), before);
        assert_last_stop(&unit, "external", 143, "the unit is not being stopped");

        manager.systemctl(&["kill", UNIT]).assert_code(0);
        unit.wait_for(&[("ActiveState", "active"), ("NRestarts", "2")]);
        assert_last_stop(&unit, "external", 143, "the unit is not being stopped");

        manager.systemctl(&["restart", UNIT]).assert_code(0);
        assert_last_stop(&unit, "planned", 0, "the service manager is stopping the unit");

        manager.systemctl(&["stop", UNIT]).assert_code(0);
        unit.assert(&[
            ("ActiveState", "inactive"),
            ("Result", "success"),
            ("ExecMainStatus", "0"),
            ("NRestarts", "0"),
        ]);
        assert_last_stop(&unit, "planned", 0, "the service manager is stopping the unit");
    });
}

#[test]
fn it_outlives_its_users_logout() {
    Sandbox::system().run(|manager| {
        start(manager, "");
        // The runtime directory of a user goes at logout: nothing of ours may be in it.
        assert!(!Path::new("/run/user/4242/hermes-gateway").exists());
        let run = Path::new("/home/tester/.local/state/hermes-gateway/default/run");
        assert!(run.join("control.sock").exists());
        let status = manager.user().gateway(&["status", "--json"]);
        status.assert_code(0);
    });
}

#[test]
fn without_systemctl_a_stop_is_not_called_planned() {
    Sandbox::system().run(|manager| {
        start(manager, "InaccessiblePaths=-/bin/systemctl -/usr/bin/systemctl\n");
        let unit = manager.unit(UNIT);
        sys::kill(unit.main_pid(), libc::SIGTERM).unwrap();
        unit.wait_for(&[("ActiveState", "active"), ("NRestarts", "1")]);
        assert_last_stop(&unit, "external", 143, "a guess");
        manager.systemctl(&["stop", UNIT]).assert_code(0);
        unit.assert(&[("ActiveState", "inactive"), ("Result", "success")]);
        assert_last_stop(&unit, "planned", 0, "a guess");
    });
}
