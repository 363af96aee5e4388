//! The gateway as a unit of a real systemd user manager.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod util;

use util::{Sandbox, sys};

const UNIT: &str = "hermes-gateway.service";

#[test]
fn systemctl_stop_leaves_it_inactive() {
    Sandbox::user().run(|manager| {
        manager.gateway(&["install", "--now"]).assert_code(0);
        let unit = manager.unit(UNIT);
        unit.assert(&[("ActiveState", "active")]);
        manager.systemctl(&["stop", UNIT]).assert_code(0);
        unit.assert(&[
            ("ActiveState", "inactive"),
            ("Result", "success"),
            ("ExecMainStatus", "0"),
            ("NRestarts", "0"),
        ]);
    });
}

#[test]
fn a_kill_brings_it_back() {
    Sandbox::user().run(|manager| {
        manager.gateway(&["install", "--now"]).assert_code(0);
        let unit = manager.unit(UNIT);
        sys::kill(unit.main_pid(), libc::SIGTERM).unwrap();
        unit.wait_for(&[("ActiveState", "active"), ("NRestarts", "1")]);
        assert!(
            unit.journal().contains("Exiting with code 143"),
            "{}",
            unit.journal()
        );
    });
}
