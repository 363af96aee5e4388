//! The unit file and the commands that act on it, under a real systemd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use util::{DEADLINE, Gateway, Home, Manager, Outcome, Process, Sandbox, binary, sys};

const UNIT: &str = "hermes-gateway.service";

/// The text of an installed unit.
#[track_caller]
fn installed(manager: &Manager, unit: &str) -> String {
    fs::read_to_string(manager.unit_dir().join(unit)).expect("read the unit")
}

/// Fails the test unless the command failed with this status and these words in its message.
#[track_caller]
fn assert_refused(outcome: Outcome, code: i32, words: &[&str]) {
    let outcome = outcome.assert_code(code);
    for word in words {
        assert!(outcome.stderr.contains(word), "no {word:?} in: {}", outcome.stderr);
    }
}

#[track_caller]
fn assert_says(outcome: &Outcome, words: &[&str]) {
    for word in words {
        assert!(
            outcome.stdout.contains(word),
            "no {word:?} in: {}{}",
            outcome.stdout,
            outcome.stderr
        );
    }
}

// ------------------------------------------------------------------ install ----

#[test]
fn install_writes_a_unit_that_systemd_finds_nothing_wrong_with() {
    Sandbox::user().run(|manager| {
        let outcome = manager.gateway(&["install"]).assert_code(0);
        assert_says(&outcome, &["wrote", UNIT, "lingering is on", "next: "]);
        let file = manager.unit_dir().join(UNIT);
        let verify = ["--user", "verify", file.to_str().unwrap()];
        let verified = manager.run(Path::new("systemd-analyze"), &verify).assert_code(0);
        assert_eq!(verified.stderr, "");
        manager.unit(UNIT).assert(&[
            ("LoadState", "loaded"),
            ("UnitFileState", "enabled"),
            ("Restart", "always"),
            ("KillMode", "mixed"),
            ("OOMPolicy", "continue"),
            ("LimitCORE", "0"),
            ("TimeoutStopUSec", "45s"),
            ("TimeoutStartUSec", "1min"),
            ("StartLimitIntervalUSec", "0"),
            ("RestartPreventExitStatus", "78"),
        ]);
        let text = installed(manager, UNIT);
        assert_eq!(manager.version() >= 254, text.contains("RestartSteps="));

        // Once more: nothing to do, and nothing done.
        let before = fs::metadata(&file).unwrap();
        let again = manager.gateway(&["install"]).assert_code(0);
        assert_says(&again, &["unchanged"]);
        assert_eq!(fs::metadata(&file).unwrap().ino(), before.ino());
    });
}

#[test]
fn install_overwrites_nobody_elses_work() {
    Sandbox::user().run(|manager| {
        let file = manager.unit_dir().join(UNIT);
        let foreign = "[Service]\nExecStart=/bin/true\n";
        manager.write_unit(UNIT, foreign);
        assert_refused(manager.gateway(&["install"]), 1, &[UNIT, "not written", "--force"]);
        assert_refused(manager.gateway(&["uninstall"]), 1, &[UNIT, "not written"]);
        assert_eq!(installed(manager, UNIT), foreign);
        let config = manager.home().join(".config/hermes-gateway/default.toml");
        assert!(!config.exists(), "a refusal changes nothing");

        manager.gateway(&["install", "--force"]).assert_code(0);
        let ours = installed(manager, UNIT);
        let edited = ours.replace("WatchdogSec=60s", "WatchdogSec=61s");
        manager.write_unit(UNIT, &edited);
        assert_refused(manager.gateway(&["install"]), 1, &["changed by hand", "drop-in"]);
        assert_eq!(installed(manager, UNIT), edited);

        // A drop-in is the way, and stays.
        let drop_in = format!("{UNIT}.d/own.conf");
        manager.write_unit(&drop_in, "[Service]\nTimeoutStartSec=62s\n");
        manager.gateway(&["install", "--force"]).assert_code(0);
        assert_eq!(installed(manager, UNIT), ours);
        manager.unit(UNIT).assert(&[("TimeoutStartUSec", "1min 2s")]);
        let outcome = manager.gateway(&["uninstall"]).assert_code(0);
        assert_says(&outcome, &["removed", "kept the drop-ins", "kept the configuration"]);
        assert!(manager.unit_dir().join(drop_in).exists() && config.exists());
        assert!(!file.exists());
        manager.unit(UNIT).assert(&[("UnitFileState", "")]);
        manager.gateway(&["uninstall"]).assert_code(0);

        // What is masked, or a symlink to elsewhere, is somebody's decision too.
        symlink("/dev/null", &file).unwrap();
        assert_refused(manager.gateway(&["install", "--force"]), 1, &["masked", "unmask"]);
    });
}

#[test]
fn a_new_gateway_gets_a_configuration_and_a_port_of_its_own() {
    Sandbox::user().run(|manager| {
        let config =
            |name: &str| manager.home().join(format!(".config/hermes-gateway/{name}.toml"));
        for (name, port) in [("default", 8642), ("coder", 8643), ("third", 8644)] {
            let outcome = manager.gateway(&["-p", name, "install"]).assert_code(0);
            assert_says(&outcome, &[&format!("127.0.0.1:{port}")]);
            let text = fs::read_to_string(config(name)).unwrap();
            assert!(text.contains(&format!("\nlisten = \"127.0.0.1:{port}\"")), "{text}");
            let meta = fs::metadata(config(name)).unwrap();
            assert_eq!(meta.mode() & 0o777, 0o600);
            manager.gateway(&["-p", name, "config", "check"]).assert_code(0);
        }
        // By the name of a symlink, and in the words of the older gateway.
        let alias = manager.home().join("alias");
        symlink(binary(), &alias).unwrap();
        manager.run(&alias, &["gateway", "install"]).assert_code(0);
        let text = installed(manager, "hermes-gateway-alias.service");
        // Nothing else on PATH leads to the program: an upgrade moves the link, not the file.
        assert!(text.contains(&format!("\nExecStart={} -p alias run\n", alias.display())));

        // One that is there is never touched; a wrong one refuses the install.
        fs::write(config("own"), "[stop]\ndrain_timeout = \"10s\"\n").unwrap();
        manager.gateway(&["-p", "own", "install"]).assert_code(0);
        assert!(installed(manager, "hermes-gateway-own.service").contains("TimeoutStopSec=25s"));
        fs::write(config("wrong"), "[stop]\ndrain_timeoutt = \"10s\"\n").unwrap();
        let outcome = manager.gateway(&["-p", "wrong", "install"]);
        assert_refused(outcome, 78, &["wrong.toml:2", "drain_timeout"]);
        assert!(!manager.unit_dir().join("hermes-gateway-wrong.service").exists());
        let given = manager.gateway(&["--set", "stop.drain_timeout=1s", "install"]);
        assert_refused(given, 64, &["default.toml"]);
    });
}

#[test]
fn install_works_in_a_shell_without_the_sessions_variables() {
    Sandbox::user().run(|manager| {
        let bare = |args: &[&str], variables: &[(&str, &str)]| {
            let mut command = manager.command(&binary());
            command
                .args(args)
                .env_remove("XDG_RUNTIME_DIR")
                .env_remove("DBUS_SESSION_BUS_ADDRESS")
                .envs(variables.iter().copied());
            Process::spawn(&mut command).finish(DEADLINE)
        };
        bare(&["install"], &[]).assert_code(0);
        manager.unit(UNIT).assert(&[("UnitFileState", "enabled")]);
        // `su` without `-` leaves the caller's.
        bare(&["uninstall"], &[("XDG_RUNTIME_DIR", "/run/user/0")]).assert_code(0);
        manager.unit(UNIT).assert(&[("LoadState", "not-found")]);

        // Where the manager does not look, it must not be said that all is well.
        let elsewhere = manager.home().join("elsewhere");
        let elsewhere = elsewhere.to_str().unwrap();
        let outcome = bare(&["install"], &[("XDG_CONFIG_HOME", elsewhere)]);
        assert_refused(outcome, 1, &["does not look there", "XDG_CONFIG_HOME"]);
        // Other places for the files alone are passed on to the daemon.
        bare(&["install"], &[("XDG_STATE_HOME", elsewhere)]).assert_code(0);
        let text = installed(manager, UNIT);
        let line = format!("\nEnvironment=XDG_STATE_HOME={elsewhere}\n");
        assert!(text.contains(&line), "{text}");
    });
}

#[test]
fn paths_with_strange_characters_reach_the_daemon() {
    Sandbox::user().run(|manager| {
        let dir = manager.home().join("50% of $HOME {unit}");
        fs::create_dir(&dir).unwrap();
        let program = dir.join("hermes-gateway");
        fs::copy(binary(), &program).unwrap();
        let state = manager.home().join("\"s\\t a%h't$e");
        let mut command = manager.command(&program);
        command.args(["install", "--now"]).env("XDG_STATE_HOME", &state);
        Process::spawn(&mut command).finish(DEADLINE).assert_code(0);
        let pid = manager.unit(UNIT).main_pid();
        assert_eq!(manager.program_of(pid), program);
        assert!(state.join("hermes-gateway/default/api.key").exists());
        let file = manager.unit_dir().join(UNIT);
        let verify = ["--user", "verify", file.to_str().unwrap()];
        let verified = manager.run(Path::new("systemd-analyze"), &verify).assert_code(0);
        assert_eq!(verified.stderr, "");
    });
}

#[test]
fn without_a_manager_the_ways_on_are_named() {
    let home = Home::new();
    let outcome = home.run(&["install"]);
    assert_refused(outcome, 1, &["enable-linger", "--system", "run"]);
    assert!(!home.config_file().exists());
    assert_refused(home.run(&["start"]), 1, &["not installed", "install"]);
    assert_refused(home.run(&["restart"]), 1, &["not installed", "install"]);
    assert_refused(home.run(&["logs"]), 1, &["not installed", "standard error"]);
    assert_says(&home.run(&["stop"]).assert_code(0), &["is not running"]);
    assert_says(&home.run(&["uninstall"]).assert_code(0), &["nothing to remove"]);
}

#[test]
fn a_unit_of_the_machine_runs_no_program_that_others_could_replace() {
    Sandbox::system().run(|manager| {
        let args = ["install", "--system", "--user", "tester"];
        let copy = |dir: &str| {
            let program = Path::new(dir).join("hermes-gateway");
            fs::create_dir_all(dir).unwrap();
            fs::copy(binary(), &program).unwrap();
            program
        };
        let refused = |program: &Path, part: &str, words: &[&str]| {
            let outcome = manager.run(program, &args).assert_code(1);
            let words = [words, &[part, "others could replace", "/usr/local/bin"]].concat();
            assert_refused(outcome, 1, &words);
            assert!(!manager.unit_dir().join(UNIT).exists(), "{part}");
        };
        // A directory above it, its own, the file, and a link in a directory that anybody may write.
        let program = copy("/srv/open/deep/bin");
        chmod("/srv/open", 0o777);
        refused(&program, "/srv/open ", &["777", "chmod go-w"]);
        chmod("/srv/open", 0o755);
        chmod("/srv/open/deep/bin", 0o1777);
        refused(&program, "/srv/open/deep/bin ", &["1777"]);
        chmod("/srv/open/deep/bin", 0o755);
        chmod(program.to_str().unwrap(), 0o757);
        refused(&program, "/srv/open/deep/bin/hermes-gateway ", &["757"]);
        chmod(program.to_str().unwrap(), 0o755);
        chown("/srv/open/deep", Some(4343), None).unwrap();
        refused(&program, "/srv/open/deep ", &["uid 4343", "chown"]);
        chmod("/srv/open", 0o700);
        let closed = manager.run(&program, &args);
        assert_refused(closed, 1, &["tester may not reach /srv/open/deep/bin", "/usr/local/bin"]);
        chmod("/srv/open", 0o755);
        // The target user's is that user's own affair.
        chown("/srv/open/deep", Some(4242), None).unwrap();
        manager.run(&program, &args).assert_code(0);
    });
}

fn chmod(path: &str, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_unit_of_the_machine_runs_as_the_user_that_was_named() {
    Sandbox::system().run(|manager| {
        let refused = manager.gateway(&["install", "--system"]);
        assert_refused(refused, 1, &["--user"]);
        let refused = manager.gateway(&["install", "--system", "--user", "nobody-here"]);
        assert_refused(refused, 1, &["no user \"nobody-here\""]);
        let user = manager.user();
        let refused = user.gateway(&["install", "--system", "--user", "tester"]);
        assert_refused(refused, 1, &["root"]);

        let args = ["install", "--system", "--user", "tester"];
        manager.gateway(&args).assert_code(0);
        let text = installed(manager, UNIT);
        assert!(text.contains("\nUser=tester\n") && text.contains("multi-user.target"));
        let file = manager.unit_dir().join(UNIT);
        let verify = ["verify", file.to_str().unwrap()];
        let verified = manager.run(Path::new("systemd-analyze"), &verify).assert_code(0);
        assert_eq!(verified.stderr, "");
        manager.unit(UNIT).assert(&[("UnitFileState", "enabled")]);
        let dir = user.home().join(".config/hermes-gateway");
        for path in [dir.join("default.toml"), dir] {
            assert_eq!(fs::metadata(&path).unwrap().uid(), 4242, "{}", path.display());
        }
        assert_says(&manager.gateway(&args).assert_code(0), &["unchanged"]);

        // A link that the user has laid leads root nowhere.
        let trap = user.home().join(".config/hermes-gateway/trap.toml");
        symlink("/etc/trap", &trap).unwrap();
        let mut trapped = vec!["-p", "trap"];
        trapped.extend(args);
        manager.gateway(&trapped);
        assert!(!Path::new("/etc/trap").exists());

        let mut sudo = manager.command(&binary());
        sudo.args(["-p", "byname", "install", "--system"]).env("SUDO_USER", "tester");
        Process::spawn(&mut sudo).finish(DEADLINE).assert_code(0);
        assert!(installed(manager, "hermes-gateway-byname.service").contains("\nUser=tester\n"));

        let outcome = manager.gateway(&["start", "--system"]).assert_code(0);
        let pid = manager.unit(UNIT).main_pid();
        assert_says(&outcome, &[&format!("is ready: pid {pid}")]);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("\nUid:\t4242\t"), "{status}");
        assert_refused(user.gateway(&["stop", "--system"]), 1, &["sudo"]);
        let outcome = manager.gateway(&["stop"]).assert_code(0);
        assert_says(&outcome, &["has stopped"]);
        manager.unit(UNIT).assert(&[("ActiveState", "inactive"), ("ExecMainStatus", "0")]);
        manager.gateway(&["uninstall", "--system"]).assert_code(0);
        assert!(!file.exists());
    });
}

// ----------------------------------------------------- start, stop, restart ----

#[test]
fn start_stop_and_restart_say_what_came_of_it() {
    Sandbox::user().run(|manager| {
        manager.gateway(&["install"]).assert_code(0);
        let unit = manager.unit(UNIT);
        let outcome = manager.gateway(&["start"]).assert_code(0);
        let first = unit.main_pid();
        assert_says(&outcome, &[&format!("is ready: pid {first}")]);
        unit.assert(&[("ActiveState", "active")]);
        assert_says(&manager.gateway(&["start"]).assert_code(0), &["runs already"]);
        let outcome = manager.gateway(&["restart"]).assert_code(0);
        let second = unit.main_pid();
        assert_ne!(first, second);
        assert_says(&outcome, &[&format!("is ready: pid {second}")]);
        assert_says(&manager.gateway(&["stop"]).assert_code(0), &["has stopped"]);
        unit.assert(&[("ActiveState", "inactive"), ("Result", "success")]);
        assert_says(&manager.gateway(&["stop"]).assert_code(0), &["is not running"]);
        manager.gateway(&["restart"]).assert_code(0);
        let outcome = manager.gateway(&["uninstall"]).assert_code(0);
        assert_says(&outcome, &["has stopped", "removed", "kept the state"]);
        unit.assert(&[("LoadState", "not-found"), ("ActiveState", "inactive")]);
    });
}

#[test]
fn a_start_that_fails_says_why() {
    Sandbox::user().run(|manager| {
        let outcome = manager.gateway(&["install", "--now"]).assert_code(0);
        assert_says(&outcome, &["is ready: pid"]);
        let config = manager.home().join(".config/hermes-gateway/default.toml");
        let good = fs::read_to_string(&config).unwrap();
        fs::write(&config, "[http]\nlissten = \"x\"\n").unwrap();
        manager.gateway(&["stop"]).assert_code(0);
        let outcome = manager.gateway(&["start"]);
        assert_refused(outcome, 78, &["did not become ready", "exit status 78", "lissten"]);
        manager.unit(UNIT).assert(&[("ActiveState", "failed")]);
        let outcome = manager.gateway(&["stop"]).assert_code(0);
        assert_says(&outcome, &["is not running", "exit status 78"]);

        // Repaired, it starts without a word about the failure.
        fs::write(&config, &good).unwrap();
        manager.gateway(&["start"]).assert_code(0);
        manager.gateway(&["stop"]).assert_code(0);

        // A port that somebody else holds: systemd goes on trying, and is said to.
        let port = std::net::TcpListener::bind("127.0.0.1:8642").unwrap();
        let outcome = manager.gateway(&["start"]);
        assert_refused(outcome, 69, &["exit status 69", "tries again", "8642"]);
        drop(port);
        manager.unit(UNIT).wait_for(&[("ActiveState", "active")]);
    });
}

#[test]
fn stop_reaches_a_gateway_in_the_foreground() {
    let gateway = Gateway::start();
    let home = gateway.home().clone();
    let outcome = home.run(&["stop"]).assert_code(0);
    assert_says(&outcome, &["has stopped", &format!("pid {}", gateway.pid())]);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    assert!(!home.runtime_dir().join("planned-stop").exists());
    assert_says(&home.run(&["stop"]).assert_code(0), &["is not running"]);
}

#[test]
fn stop_does_not_take_a_kill_for_its_own_success() {
    let gateway = Gateway::start();
    let home = gateway.home().clone();
    // Held, so that the stop is under way when the kill comes.
    gateway.signal(libc::SIGSTOP);
    let stop = Process::spawn(&mut home.command(&["stop"]));
    let marker = home.runtime_dir().join("planned-stop");
    let began = std::time::Instant::now();
    while !marker.exists() {
        assert!(began.elapsed() < DEADLINE && stop.is_running());
        std::thread::yield_now();
    }
    sys::kill(gateway.pid(), libc::SIGKILL).unwrap();
    assert_refused(stop.finish(DEADLINE), 1, &["no record"]);
}

#[test]
fn stop_ends_the_one_in_the_foreground_that_keeps_the_unit_from_starting() {
    Sandbox::user().run(|manager| {
        manager.gateway(&["install"]).assert_code(0);
        let foreground = Process::spawn(manager.command(&binary()).arg("run"));
        foreground.wait_for_log("127.0.0.1:8642", DEADLINE);
        let outcome = manager.gateway(&["start"]);
        assert_refused(outcome, 69, &["already running"]);
        manager.unit(UNIT).assert(&[("ActiveState", "inactive")]);
        // Who asks systemd itself gets a unit that tries and tries.
        manager.systemctl(&["start", "--no-block", UNIT]).assert_code(0);
        manager.unit(UNIT).wait_for(&[("SubState", "auto-restart")]);
        manager.gateway(&["stop"]).assert_code(0);
        assert_eq!(foreground.wait_for_exit(DEADLINE), 0);
        manager.unit(UNIT).assert(&[("ActiveState", "inactive")]);
    });
}

#[test]
fn logs_of_a_unit_come_from_the_journal() {
    Sandbox::user().run(|manager| {
        manager.gateway(&["install", "--now"]).assert_code(0);
        manager.gateway(&["stop"]).assert_code(0);
        let outcome = manager.gateway(&["logs"]).assert_code(0);
        assert_says(&outcome, &["Exiting with code 0"]);
    });
}
