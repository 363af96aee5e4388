//! A gateway that is looked for from elsewhere: with another runtime directory or none, by root, and
//! after somebody has removed its socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use util::{DEADLINE, Gateway, Home, Outcome, Process, eventually, script, sys};

/// Runs a command of this home's gateway with another environment.
#[track_caller]
fn run(home: &Home, args: &[&str], change: impl FnOnce(&mut Command)) -> Outcome {
    let mut command = home.command(args);
    change(&mut command);
    Process::spawn(&mut command).finish(DEADLINE)
}

#[track_caller]
fn status(outcome: Outcome, code: i32) -> Value {
    serde_json::from_str(&outcome.assert_code(code).stdout).unwrap()
}

/// Fails the test unless its commands tell the truth and a stop works, seen from there.
#[track_caller]
fn assert_found(gateway: &Gateway, change: impl Fn(&mut Command)) {
    let home = gateway.home();
    let told = status(run(home, &["status", "--json"], &change), 0);
    assert_eq!((&told["state"], &told["pid"]), (&"running".into(), &gateway.pid().into()));
    let listed = run(home, &["list", "--json"], &change).assert_code(0);
    assert_eq!(serde_json::from_str::<Value>(&listed.stdout).unwrap()[0]["state"], "running");
    let second = run(home, &["run"], &change).assert_code(69);
    assert!(second.stderr.contains(&format!("pid {}", gateway.pid())), "{}", second.stderr);
    let stopped = run(home, &["stop"], &change).assert_code(0);
    assert!(stopped.stdout.contains("has stopped"), "{}", stopped.stdout);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    let told = status(run(home, &["status", "--json"], &change), 3);
    assert_eq!(told["state"], "stopped");
}

#[test]
fn a_gateway_is_found_from_another_runtime_directory() {
    let gateway = Gateway::start();
    let other = gateway.home().path().join("other");
    fs::create_dir(&other).unwrap();
    assert_found(&gateway, |command| {
        command.env("XDG_RUNTIME_DIR", &other);
    });
    let gateway = Gateway::start();
    assert_found(&gateway, |command| {
        command.env_remove("XDG_RUNTIME_DIR");
    });
}

#[test]
fn a_second_gateway_elsewhere_is_told_which_lock_is_held() {
    let gateway = Gateway::start();
    let home = gateway.home();
    let other = home.path().join("other");
    fs::create_dir(&other).unwrap();
    let launch = home.launch().env("XDG_RUNTIME_DIR", other.to_str().unwrap());
    let second = launch.spawn().finish(DEADLINE).assert_code(69);
    let lock = home.state_dir().join("state.lock");
    let words = format!("pid {} (hermes-gateway) holds {};", gateway.pid(), lock.display());
    assert!(second.stderr.contains(&words), "no {words:?} in {}", second.stderr);
}

#[test]
fn a_removed_control_socket_is_made_again() {
    let gateway = Gateway::start();
    let home = gateway.home();
    fs::remove_file(home.control_socket()).unwrap();
    gateway.wait_for_log("was removed: it is made again", DEADLINE);
    assert_eq!(gateway.status()["state"], "serving");

    // With all that is around it.
    fs::remove_dir_all(home.path().join("r")).unwrap();
    eventually("the socket is back", || home.control_socket().exists().then_some(()));
    assert_eq!(fs::metadata(home.runtime_dir()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_found(&gateway, |_| ());
    assert!(!home.control_socket().exists());
}

/// Both have the name and the runtime directory in common, whose lock went with it.
#[test]
fn who_comes_first_after_the_runtime_directory_was_removed_has_the_socket_alone() {
    let first = Gateway::start();
    let home = first.home();
    let second =
        || home.launch().env("XDG_STATE_HOME", home.path().join("other").to_str().unwrap());
    fs::remove_dir_all(home.runtime_dir()).unwrap();
    first.wait_for_log("was removed: it is made again", DEADLINE);
    let refused = second().spawn().finish(DEADLINE).assert_code(69);
    assert!(refused.stderr.contains(&format!("pid {}", first.pid())), "{}", refused.stderr);

    // So that it comes too late.
    first.signal(libc::SIGSTOP);
    fs::remove_dir_all(home.runtime_dir()).unwrap();
    let second = second().start();
    first.signal(libc::SIGCONT);
    first.wait_for_log("another gateway", DEADLINE);
    assert!(!second.stderr().contains("was removed"), "{}", second.stderr());
    let told = status(home.run(&["status", "--json"]), 0);
    assert_eq!(told["pid"], second.pid());
}

#[test]
fn a_stop_reaches_a_gateway_whose_runtime_directory_was_just_removed() {
    let gateway = Gateway::start();
    fs::remove_dir_all(gateway.home().path().join("r")).unwrap();
    gateway.home().run(&["stop"]).assert_code(0);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
}

/// What the locks say of their holder is lost: that they are held is not.
#[test]
fn a_stop_of_a_gateway_that_cannot_be_seen_is_no_success() {
    let gateway = Gateway::start();
    let home = gateway.home();
    for lock in [home.runtime_dir().join("lock"), home.state_dir().join("state.lock")] {
        fs::OpenOptions::new().write(true).truncate(true).open(lock).unwrap();
    }
    let refused = home.run(&["stop"]).assert_code(1);
    let words = "runs, but its process cannot be seen from here";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    assert_eq!(refused.stdout, "");
    assert_eq!(gateway.status()["state"], "serving");
}

/// As `sudo` with HOME kept has it: root's eyes on another user's files.
#[test]
fn root_is_told_whose_gateway_it_is_and_never_that_none_runs() {
    if sys::uid() != 0 {
        return util::skip("needs root");
    }
    let home = Home::new();
    for dir in ["", "h", "c", "s", "r"] {
        chown(home.path().join(dir), Some(4243), Some(4243)).unwrap();
    }
    // cargo's own directory may be root's alone.
    let program = home.path().join("hermes-gateway");
    fs::copy(util::binary(), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let user = ["setpriv", "--reuid=4243", "--regid=4243", "--clear-groups", "--"];
    let gateway = home.launch().program(&program).through(&user).spawn();
    gateway.wait_for_log("serves on", DEADLINE);

    let as_root = |command: &mut Command| {
        command.env("XDG_RUNTIME_DIR", "/run/user/0").env("SUDO_USER", "nobody");
    };
    let told = status(run(&home, &["status", "--json"], as_root), 4);
    assert_eq!(told["state"], "unknown");
    let note = told["note"].as_str().unwrap();
    assert!(note.contains("belongs to #4243") && note.contains("sudo -u '#4243'"), "{note}");
    let listed = run(&home, &["list", "--json"], as_root).assert_code(0);
    assert_eq!(serde_json::from_str::<Value>(&listed.stdout).unwrap()[0]["state"], "unknown");
    for verb in ["stop", "restart", "start", "logs", "install"] {
        let refused = run(&home, &[verb], as_root).assert_code(69);
        let words = format!("sudo -u '#4243' hermes-gateway {verb}");
        assert!(refused.stderr.contains(&words), "{}", refused.stderr);
    }
    assert!(gateway.is_running());
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    let stopped = run(&home, &["stop"], as_root).assert_code(0);
    assert!(stopped.stdout.contains("is not running"), "{}", stopped.stdout);
}

/// It would wait for its own turn, for the whole drain.
#[test]
fn an_agent_that_stops_its_own_gateway_in_the_foreground_replies_and_it_is_stopped() {
    let home = Home::new();
    let agent = script(&format!("{} stop && echo so be it", util::binary().display()));
    home.configure(&format!(
        "{agent}pass_env = [\"XDG_STATE_HOME\", \"XDG_RUNTIME_DIR\"]\n\
         [stop]\ndrain_timeout = \"100s\"\n"
    ));
    let gateway = home.start();
    let began = Instant::now();
    let reply = gateway.ask("go").assert_status(200).reply();
    assert!(reply.contains("inside the gateway\nso be it"), "{reply}");
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    assert!(began.elapsed() < DEADLINE);
    let history = fs::read_to_string(home.state_dir().join("history.jsonl")).unwrap();
    let stop: Value = serde_json::from_str(history.lines().last().unwrap()).unwrap();
    assert_eq!((&stop["reason"], &stop["cut"]), (&"a stop that was announced".into(), &0.into()));
}

#[test]
fn a_gateway_in_another_pid_namespace_is_found_by_its_socket() {
    if sys::uid() != 0 {
        return util::skip("needs root");
    }
    let home = Home::new();
    let through = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"];
    let gateway = home.launch().through(&through).start();
    let pid = gateway.children()[0];
    assert_ne!(gateway.status()["pid"], pid);
    assert_eq!(status(home.run(&["status", "--json"]), 0)["pid"], pid);
    let stopped = home.run(&["stop"]).assert_code(0);
    assert!(stopped.stdout.contains(&format!("pid {pid}")), "{}", stopped.stdout);
    let process = format!("/proc/{pid}");
    eventually("it is reaped", || (!Path::new(&process).exists()).then_some(()));
}
