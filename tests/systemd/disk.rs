//! A disk that is frozen under a unit: the manager gets the status of the stop's verdict at once, and the
//! unit is where it should be as soon as the disk answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use util::{Disk, Sandbox, TempDir, UNIT, eventually};

/// The sandbox has few devices of its own.
fn make_loop_devices() -> bool {
    let make = |name: String, kind: &str, (major, minor): (u32, u32)| {
        let (major, minor) = (major.to_string(), minor.to_string());
        let path = format!("/dev/{name}");
        Command::new("mknod")
            .args([&path, kind, &major, &minor])
            .status()
            .is_ok_and(|s| s.success())
    };
    make("loop-control".to_owned(), "c", (10, 237))
        && (0..64).all(|number| make(format!("loop{number}"), "b", (7, number)))
        && File::open("/dev/loop-control").is_ok()
}

#[test]
fn a_stop_on_a_frozen_disk_gives_the_manager_its_status_at_once() {
    Sandbox::system().run(|manager| {
        if !make_loop_devices() || !Path::new("/sbin/mkfs.ext4").exists() {
            return util::skip("needs a kernel with loop devices, and the package e2fsprogs");
        }
        let dir = TempDir::new("");
        let state = Path::new("/home/tester/.local/state");
        let user = manager.user();
        user.write(&state.join("made"), "");
        let disk = Disk::new("ext4", dir.path(), state);
        let owner = fs::metadata("/home/tester").unwrap();
        chown(state, Some(std::os::unix::fs::MetadataExt::uid(&owner)), None).unwrap();

        let config = user.home().join(".config/hermes-gateway/default.toml");
        user.write(&config, "[http]\nlisten = \"127.0.0.1:0\"\n");
        manager.gateway(&["install", "--system", "--user", "tester"]).assert_code(0);
        manager.systemctl(&["start", UNIT]).assert_code(0);
        let unit = manager.unit(UNIT);
        // What a start writes behind READY=1: a thread of the gateway's that hangs in it cannot end.
        eventually("the start has written all", || {
            let text = util::journal_text(&state.join("hermes-gateway/default/journal"));
            let marked = text.lines().last().is_some_and(|line| line.contains("\"mark\""));
            let tasks = fs::read_dir(format!("/proc/{}/task", unit.main_pid())).unwrap();
            let mut names =
                tasks.flatten().map(|task| fs::read_to_string(task.path().join("comm")));
            (marked && !names.any(|name| name.is_ok_and(|name| name == "start\n"))).then_some(())
        });
        let frozen = disk.freeze();
        let began = Instant::now();
        thread::scope(|scope| {
            let stop = scope.spawn(|| manager.systemctl(&["stop", UNIT]).assert_code(0));
            unit.wait_for(&[("ExecMainCode", "1"), ("ExecMainStatus", "0")]);
            assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
            drop(frozen);
            stop.join().unwrap();
        });
        unit.assert(&[("ActiveState", "inactive"), ("Result", "success")]);
        manager.systemctl(&["start", UNIT]).assert_code(0);
        manager.systemctl(&["stop", UNIT]).assert_code(0);
    });
}
