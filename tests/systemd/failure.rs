//! What goes wrong at a start, as systemd sees it: what an administrator must repair stays down,
//! what passes is tried again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use util::{Sandbox, Service, UNIT, sys};

#[test]
fn a_wrong_configuration_is_not_tried_again() {
    Sandbox::user().run(|manager| {
        let service = Service::install(manager, "", "");
        service.configure("[agent]\nmodle = \"x\"\n");
        assert_ne!(manager.systemctl(&["start", UNIT]).code(), 0);
        let down = [
            ("ActiveState", "failed"),
            ("Result", "exit-code"),
            ("ExecMainStatus", "78"),
            ("NRestarts", "0"),
        ];
        service.unit().assert(&down);
        for word in ["default.toml:4:1", "modle", "model"] {
            service.unit().wait_for_journal(word);
        }
        // Repaired, it starts.
        service.configure("");
        service.systemctl("start");
        // A configuration that went wrong while it ran shows at the next start only.
        service.configure("[agent]\nmodle = 1\n");
        sys::kill(service.pid(), libc::SIGTERM).unwrap();
        service.unit().wait_for(&[
            ("ActiveState", "failed"),
            ("ExecMainStatus", "78"),
            ("NRestarts", "1"),
        ]);
    });
}

#[test]
fn a_key_that_others_can_read_is_not_served_with() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        service.systemctl("stop");
        let key = service.state_dir().join("api.key");
        fs::set_permissions(key, fs::Permissions::from_mode(0o640)).unwrap();
        assert_ne!(manager.systemctl(&["start", UNIT]).code(), 0);
        service.unit().assert(&[
            ("ActiveState", "failed"),
            ("ExecMainStatus", "78"),
            ("NRestarts", "0"),
        ]);
    });
}

#[test]
fn a_port_that_is_taken_is_waited_for() {
    Sandbox::user().run(|manager| {
        let service = Service::install(manager, "", "");
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let text = format!("[http]\nlisten = \"{address}\"\n");
        manager.write(&service.config_file(), &text);
        assert_ne!(manager.systemctl(&["start", UNIT]).code(), 0);
        service.unit().wait_for(&[("NRestarts", "2")]);
        service.unit().wait_for_journal("status=69");
        let named = format!("{address} is taken by pid {}", std::process::id());
        service.unit().wait_for_journal(&named);
        drop(holder);
        service.unit().wait_for(&[("ActiveState", "active")]);
        assert_eq!(service.address(), address);
    });
}
