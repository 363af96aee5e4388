//! What `install`, `config check` and the unit's status warn of, under a real systemd: its manager looks
//! for programs in other places than a shell.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use util::{DEADLINE, Manager, Outcome, Process, Sandbox, UNIT, binary};

/// Runs the gateway's program from a shell that has this directory on its PATH, too.
#[track_caller]
fn with_path(manager: &Manager, dir: &str, args: &[&str]) -> Outcome {
    let path = format!("{dir}:{}", env::var("PATH").unwrap_or_default());
    let mut command = manager.command(&binary());
    Process::spawn(command.args(args).env("PATH", path)).finish(DEADLINE)
}

#[test]
fn a_program_that_only_the_shell_finds_is_warned_of_by_all_and_installed_all_the_same() {
    Sandbox::user().run(|manager| {
        let dir = manager.home().join(".cargo/bin");
        let (program, dir) = (dir.join("my-agent"), dir.display().to_string());
        manager.write(&program, "#!/bin/sh\necho hello\n");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let config = manager.home().join(".config/hermes-gateway/default.toml");
        let text = "[http]\nlisten = \"127.0.0.1:0\"\n[agent]\ncommand = [\"my-agent\"]\n";
        manager.write(&config, text);
        let place = format!("{}:4:1: agent.command", config.display());
        let warning = format!(
            "hermes-gateway: warning: {place} is on this shell's PATH, but not on the unit's: write \
             {program:?}\n"
        );
        let check = with_path(manager, &dir, &["config", "check"]).assert_code(0);
        assert_eq!(check.stderr, "", "there is no unit that would look elsewhere");

        let outcome = with_path(manager, &dir, &["install"]).assert_code(0);
        // Behind what it says of a program in a build directory.
        assert!(outcome.stderr.ends_with(&warning), "{}", outcome.stderr);
        let check = with_path(manager, &dir, &["config", "check"]).assert_code(0);
        assert_eq!(check.stderr, warning);

        manager.gateway(&["start"]).assert_code(0);
        let unit = manager.unit(UNIT);
        let status = unit.property("StatusText");
        let said = format!("{place} cannot be executed: there is no my-agent on PATH or in /usr/bin");
        assert!(status.starts_with("Serving on 127.0.0.1:"), "{status}");
        assert!(status.ends_with(&format!("; warnings: 1; {said}")), "{status}");
        unit.wait_for_journal(&said);

        // As the warning says.
        manager.write(&config, &text.replace("my-agent", program.to_str().unwrap()));
        let outcome = with_path(manager, &dir, &["install"]).assert_code(0);
        assert!(!outcome.stderr.contains("agent.command"), "{}", outcome.stderr);
        // Or by a PATH of the unit's own.
        manager.write(&config, text);
        manager.write_unit(
            &format!("{UNIT}.d/path.conf"),
            &format!("[Service]\nEnvironment=\"PATH={dir}:/usr/bin\"\n"),
        );
        assert_eq!(manager.gateway(&["config", "check"]).assert_code(0).stderr, "");
        manager.systemctl(&["restart", UNIT]).assert_code(0);
        let status = unit.property("StatusText");
        assert!(status.starts_with("Serving on") && !status.contains("warning"), "{status}");
    });
}

#[test]
fn install_refuses_what_a_start_would_refuse_and_changes_nothing() {
    Sandbox::user().run(|manager| {
        let config = manager.home().join(".config/hermes-gateway/default.toml");
        for (text, words) in [
            ("[http]\nkey_file = \"/no/such/key\"\n", "/no/such/key cannot be used"),
            ("[keys.alice]\nfile = \"/no/such/key\"\n", "default.toml:2:1: keys.alice.file"),
            ("[session]\noperators = [\"alice\"]\n", "default.toml:2:1: session.operators"),
        ] {
            manager.write(&config, text);
            let outcome = manager.gateway(&["install"]).assert_code(78);
            assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
            assert!(!manager.unit_dir().join(UNIT).exists());
        }
        // The sandbox's root is an overlay over two file systems: that makes no file a container's secret.
        let key = manager.home().join("key");
        manager.write(&key, &"k".repeat(40));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        manager.write(&config, &format!("[keys.alice]\nfile = {key:?}\n"));
        let outcome = manager.gateway(&["config", "check"]).assert_code(78);
        assert!(outcome.stderr.contains("is open to other users (mode 644)"), "{}", outcome.stderr);
    });
}
