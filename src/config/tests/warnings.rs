//! What is taken, and warned of.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::good;
use crate::testing::TempDir;

/// The warnings about this configuration, programs looked for in `path`.
fn warnings(text: &str, path: &OsStr, here: &OsStr) -> Vec<String> {
    good(text, &[]).warnings(path, here)
}

#[test]
fn what_goes_unencrypted_to_other_machines_is_warned_of() {
    let warned = |text: &str| warnings(text, OsStr::new(""), OsStr::new(""));
    let text = "[http]\nlisten = \"0.0.0.0:1\"\n[deliver.x]\nurl = \"http://hook.example/secret\"\n\
                [agent]\nurl = [\"http://localhost\", \"http://10.0.0.1/v1\"]\n";
    let found = warned(text);
    let [listen, hook, agent] = &found[..] else { panic!("{found:?}") };
    for (warning, place, words) in [
        (listen, "/etc/coder.toml:2:1: http.listen is 0.0.0.0:1:", "reverse proxy"),
        (hook, "/etc/coder.toml:4:1: deliver.x.url is at http://hook.example:", "https://"),
        (agent, "/etc/coder.toml:6:1: agent.url is at http://10.0.0.1:", "https://"),
    ] {
        assert!(warning.starts_with(place), "{warning}");
        assert!(warning.contains("not encrypted") && warning.contains(words), "{warning}");
        // A path may be a secret.
        assert!(!warning.contains("/secret"), "{warning}");
    }
    for fine in [
        "",
        "[http]\nlisten = \"[::1]:1\"\n[agent]\nurl = \"http://localhost:1/v1\"\n",
        "[deliver.x]\nurl = \"http://127.0.0.1/\"\n",
    ] {
        assert_eq!(warned(fine), [""; 0], "{fine}");
    }
}

#[test]
fn programs_that_cannot_be_executed_are_warned_of() {
    let dir = TempDir::new("warnings");
    let program = dir.path().join("agent");
    fs::write(&program, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let text =
        format!("[agent]\ncommand = ['{0}']\n[deliver.x]\ncommand = ['{0}']\n", program.display());
    let found = warnings(&text, OsStr::new(""), OsStr::new(""));
    assert_eq!(found.len(), 2, "{found:?}");
    for (warning, place) in found.iter().zip(["2:1: agent.command", "4:1: deliver.x.command"]) {
        assert!(warning.contains(place) && warning.contains("/no/such/interpreter"), "{warning}");
    }
    assert_eq!(warnings("[agent]\ncommand = ['sh']\n", OsStr::new(""), OsStr::new("")), [""; 0]);
}

#[test]
fn a_program_that_only_this_shell_finds_is_named_by_its_path() {
    let dir = TempDir::new("warnings");
    let program = dir.path().join("only-in-this-shell");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let text = "[agent]\ncommand = ['only-in-this-shell']\n";
    let (unit, shell) = (OsStr::new("/usr/bin"), dir.path().as_os_str());
    let found = warnings(text, unit, shell);
    let expected = format!("not on the unit's: write \"{}\"", program.display());
    assert!(found.len() == 1 && found[0].ends_with(&expected), "{found:?}");
    assert_eq!(warnings(text, shell, unit), [""; 0]);
    let found = warnings("[agent]\ncommand = ['nowhere']\n", unit, shell);
    assert!(found[0].ends_with("there is no nowhere on PATH or in /usr/bin"), "{found:?}");
}

#[test]
fn an_interpreter_that_env_looks_for_is_looked_for_on_the_agents_own_path() {
    let dir = TempDir::new("warnings");
    let (program, node) = (dir.path().join("agent"), dir.path().join("my-node"));
    for (file, text) in [(&program, "#!/usr/bin/env my-node\n"), (&node, "#!/bin/sh\n")] {
        fs::write(file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let text = format!("[agent]\ncommand = ['{}']\n", program.display());
    let usual = OsStr::new("/usr/bin");
    let found = warnings(&text, usual, dir.path().as_os_str());
    assert!(found[0].contains("my-node, is not on its PATH"), "{found:?}");
    let with_path = format!("{text}env.PATH = '{}'\n", dir.path().display());
    assert_eq!(warnings(&with_path, usual, usual), [""; 0]);
}
