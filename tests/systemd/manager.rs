//! When the manager cannot be asked, or only on detours: the sender decides, and the log says that
//! it was a guess.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use util::sys::{self, Pidfd};
use util::{DEADLINE, Gate, Manager, Sandbox, Service, eventually};

/// Two questions of 2 s each, and a second for the exit on a loaded machine.
const LONGEST_EXIT: Duration = Duration::from_secs(5);

/// A manager that hangs for as long as this lives.
struct Hung(i32);

impl Hung {
    fn make(manager: &Manager) -> Hung {
        let pid = manager.pid();
        sys::kill(pid, libc::SIGSTOP).unwrap();
        Hung(pid)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = sys::kill(self.0, libc::SIGCONT);
    }
}

#[test]
fn a_kill_while_the_manager_hangs_ends_in_time() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let before = service.pid();
        let gateway = Pidfd::open(before).unwrap();
        let hung = Hung::make(manager);
        let began = Instant::now();
        gateway.signal(libc::SIGTERM).unwrap();
        assert!(gateway.wait(DEADLINE).unwrap());
        let took = began.elapsed();
        assert!(took < LONGEST_EXIT, "{took:?}");
        drop(hung);
        service.assert_killed(before, 1);
        service.assert_last_stop("external", 143, "a guess");
    });
}

#[test]
fn a_stop_whose_manager_hangs_right_after_is_planned() {
    Sandbox::user().run(|manager| {
        // Its systemctl waits at a gate, so that the manager hangs before it is asked.
        let bin = manager.home().join("bin");
        let (gate, asked) = (Gate::closed(&manager.home()), bin.join("asked"));
        let wrapper = format!(
            "#!/bin/sh\ntouch {}\n{}\nexec /usr/bin/systemctl \"$@\"\n",
            asked.display(),
            gate.wait()
        );
        manager.write(&bin.join("systemctl"), &wrapper);
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(bin.join("systemctl"), executable).unwrap();
        let path = format!("[Service]\nEnvironment=PATH={}:/usr/bin:/bin\n", bin.display());
        let service = Service::start_with(manager, "", &path);
        let gateway = Pidfd::open(service.pid()).unwrap();
        let args = ["stop", "--no-block", util::UNIT];
        manager.systemctl(&args).assert_code(0);
        // Its SIGTERM is on the way when the manager says so; the start had asked already.
        service.unit().wait_for(&[("ActiveState", "deactivating")]);
        eventually("the question", || asked.exists().then_some(()));
        let hung = Hung::make(manager);
        let began = Instant::now();
        gate.open();
        assert!(gateway.wait(DEADLINE).unwrap());
        let took = began.elapsed();
        assert!(took < LONGEST_EXIT, "{took:?}");
        drop(hung);
        service.unit().wait_for(&[("ActiveState", "inactive")]);
        service.assert_stopped(0);
        service.assert_last_stop("planned", 0, "a guess");
    });
}

#[test]
fn a_manager_that_comes_back_in_time_is_believed() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let before = service.pid();
        let gateway = Pidfd::open(before).unwrap();
        let hung = Hung::make(manager);
        gateway.signal(libc::SIGTERM).unwrap();
        // The first question is open as soon as a systemctl runs.
        eventually("the question", || {
            let children = format!("/proc/{before}/task");
            let tasks = fs::read_dir(children).ok()?;
            tasks
                .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
                .any(|pids| !pids.trim().is_empty())
                .then_some(())
        });
        drop(hung);
        assert!(gateway.wait(DEADLINE).unwrap());
        service.assert_killed(before, 1);
        service.assert_last_stop("external", 143, "the unit is not being stopped");
    });
}

#[test]
fn a_kill_after_the_manager_reexecuted_itself_is_external() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        for round in 1..=5 {
            let before = service.pid();
            let gateway = Pidfd::open(before).unwrap();
            manager.systemctl(&["daemon-reexec"]).assert_code(0);
            gateway.signal(libc::SIGTERM).unwrap();
            assert!(gateway.wait(DEADLINE).unwrap());
            service.assert_killed(before, round);
        }
        manager.systemctl(&["daemon-reexec"]).assert_code(0);
        service.systemctl("stop");
        service.assert_stopped(5);
        for stop in service.stops() {
            let reason = stop["reason"].as_str().unwrap();
            assert!(!reason.contains("guess"), "{stop}");
        }
    });
}

#[test]
fn systemctl_is_found_without_a_path() {
    Sandbox::user().run(|manager| {
        let poor = "[Service]\nEnvironment=PATH=/nonexistent\n\
                    UnsetEnvironment=XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS\n";
        let service = Service::start_with(manager, "", poor);
        let before = service.pid();
        sys::kill(before, libc::SIGTERM).unwrap();
        service.assert_killed(before, 1);
        service.assert_last_stop("external", 143, "the unit is not being stopped");
        service.systemctl("stop");
        service.assert_stopped(1);
        service.assert_last_stop("planned", 0, "the service manager is stopping the unit");
    });
}

#[test]
fn without_systemctl_a_stop_is_not_called_planned() {
    Sandbox::user().run(|manager| {
        let hidden =
            "[Service]\nPrivateUsers=yes\nInaccessiblePaths=-/bin/systemctl -/usr/bin/systemctl\n";
        let service = Service::start_with(manager, "", hidden);
        let before = service.pid();
        sys::kill(before, libc::SIGTERM).unwrap();
        service.assert_killed(before, 1);
        service.assert_last_stop("external", 143, "a guess");
        service.systemctl("stop");
        service.assert_stopped(1);
        service.assert_last_stop("planned", 0, "a guess");
    });
}
