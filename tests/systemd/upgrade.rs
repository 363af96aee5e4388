//! `install` by people who upgrade, and who do not always type into the same shell: the unit names what
//! stays over an upgrade, and keeps its state and key.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use util::{DEADLINE, Manager, Outcome, Process, Sandbox, UNIT, binary, eventually};

/// Where a package keeps its versions, and the link that stays.
struct Package {
    link: PathBuf,
    versions: PathBuf,
}

impl Package {
    /// `~/.local/bin/hermes-gateway`, as by hand.
    fn by_hand(manager: &Manager) -> Package {
        let home = manager.home();
        let link = home.join(".local/bin/hermes-gateway");
        Package { link, versions: home.join("opt") }
    }

    /// Homebrew's `bin/`, with relative links into the Cellar.
    fn homebrew(manager: &Manager) -> Package {
        let brew = manager.home().join("homebrew");
        Package {
            link: brew.join("bin/hermes-gateway"),
            versions: brew.join("Cellar/hermes-gateway"),
        }
    }

    fn program(&self, version: &str) -> PathBuf {
        self.versions.join(version).join("bin/hermes-gateway")
    }

    /// Brings this version, points the link at it, and removes the one before.
    #[track_caller]
    fn upgrade(&self, version: &str, before: Option<&str>) {
        let program = self.program(version);
        for path in [&program, &self.link] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::copy(binary(), &program).unwrap();
        let new = self.link.with_extension("new");
        let home = self.link.ancestors().nth(2).unwrap();
        // Relative where it can be, as Homebrew's are.
        match program.strip_prefix(home) {
            Ok(below) => symlink(Path::new("..").join(below), &new).unwrap(),
            Err(_) => symlink(&program, &new).unwrap(),
        }
        fs::rename(&new, &self.link).unwrap();
        if let Some(before) = before {
            fs::remove_dir_all(self.versions.join(before)).unwrap();
        }
    }
}

/// A shell of the user's with these variables instead of the usual ones.
#[track_caller]
fn shell(manager: &Manager, program: &str, args: &[&str], env: &[(&str, &str)]) -> Outcome {
    let path = format!("{0}/.local/bin:{0}/homebrew/bin:/usr/bin:/bin", manager.home().display());
    let mut command = manager.command(Path::new("/usr/bin/env"));
    command.arg("-i").args([format!("PATH={path}"), format!("HOME={}", manager.home().display())]);
    command.args(env.iter().map(|(name, value)| format!("{name}={value}")));
    Process::spawn(command.arg(program).args(args)).finish(DEADLINE)
}

const SESSION: (&str, &str) = ("XDG_RUNTIME_DIR", "/run/user/4242");

/// Installed as `program` says; then an upgrade, and a restart by each of the ways there are.
#[track_caller]
fn survives_upgrades(manager: &Manager, package: &Package, program: &str) {
    package.upgrade("1.0", None);
    shell(manager, program, &["install", "--now"], &[SESSION]).assert_code(0);
    let unit = manager.unit(UNIT);
    assert_eq!(manager.program_of(unit.main_pid()), package.program("1.0"));

    package.upgrade("1.1", Some("1.0"));
    shell(manager, program, &["restart"], &[SESSION]).assert_code(0);
    unit.assert(&[("ActiveState", "active")]);
    assert_eq!(manager.program_of(unit.main_pid()), package.program("1.1"));

    package.upgrade("1.2", Some("1.1"));
    manager.systemctl(&["restart", UNIT]).assert_code(0);
    assert_eq!(manager.program_of(unit.main_pid()), package.program("1.2"));

    // It comes back by itself as well, which is where nobody looks on.
    package.upgrade("1.3", Some("1.2"));
    let before = unit.main_pid();
    util::sys::kill(before, libc::SIGKILL).unwrap();
    eventually("the new version", || {
        let pid = unit.main_pid();
        (pid > 0 && pid != before && manager.program_of(pid) == package.program("1.3"))
            .then_some(())
    });
    unit.wait_for(&[("ActiveState", "active"), ("SubState", "running")]);
    // The unit is what this program would write, from the new version too.
    let again = shell(manager, program, &["install"], &[SESSION]).assert_code(0);
    assert!(again.stdout.contains("unchanged"), "{}", again.stdout);
    let status = shell(manager, program, &["status"], &[SESSION]).assert_code(0);
    assert!(status.stdout.contains("up to date"), "{}", status.stdout);
}

#[test]
fn an_upgrade_behind_a_link_in_local_bin_is_what_the_next_start_runs() {
    Sandbox::user().run(|manager| {
        let package = Package::by_hand(manager);
        let program = package.link.to_str().unwrap().to_owned();
        survives_upgrades(manager, &package, &program);
    });
}

#[test]
fn an_upgrade_by_homebrew_is_what_the_next_start_runs() {
    Sandbox::user().run(|manager| {
        let package = Package::homebrew(manager);
        let program = package.link.to_str().unwrap().to_owned();
        survives_upgrades(manager, &package, &program);
    });
}

#[test]
fn an_upgrade_of_what_was_found_on_the_path_is_what_the_next_start_runs() {
    Sandbox::user().run(|manager| {
        survives_upgrades(manager, &Package::by_hand(manager), "hermes-gateway");
    });
}

/// What must not change, whoever installs again.
#[derive(Debug, PartialEq)]
struct Kept {
    key: String,
    environment: String,
    reply: serde_json::Value,
}

/// What is kept below this state directory, and what the gateway knows of a message.
#[track_caller]
fn kept(manager: &Manager, state: &Path, id: &str) -> Kept {
    let key = fs::read_to_string(state.join("hermes-gateway/default/api.key")).unwrap();
    let unit = manager.unit(UNIT);
    unit.assert(&[("ActiveState", "active")]);
    let answer = shell(manager, "hermes-gateway", &["send", "--result", id], &[SESSION]);
    Kept {
        key,
        environment: unit.property("Environment"),
        reply: answer.assert_code(0).stdout.into(),
    }
}

/// Installs from a first shell, then from others with another `XDG_STATE_HOME` or without the session's
/// variables: the state stays where it is, and the places are told.
#[track_caller]
fn installed_from_every_shell(manager: &Manager, first: &[(&str, &str)], state: &Path) {
    Package::by_hand(manager).upgrade("1.0", None);
    let install = |env: &[(&str, &str)], more: &[&str]| {
        shell(manager, "hermes-gateway", &[&["install"], more].concat(), env)
    };
    install(&[&[SESSION], first].concat(), &["--now"]).assert_code(0);
    let args = ["send", "--session", "work", "--async", "hello"];
    let sent = shell(manager, "hermes-gateway", &args, &[SESSION]).assert_code(0);
    let said = format!("{}{}", sent.stdout, sent.stderr);
    let is_id = |word: &&str| word.len() == 26 && word.bytes().all(|b| b.is_ascii_alphanumeric());
    let id = said.split(|c: char| !c.is_ascii_alphanumeric()).find(is_id).unwrap().to_owned();
    let wait = ["send", "--result", &id, "--wait", "20"];
    shell(manager, "hermes-gateway", &wait, &[SESSION]).assert_code(0);
    let before = kept(manager, state, &id);

    let elsewhere = manager.home().join("elsewhere");
    let other = ("XDG_STATE_HOME", elsewhere.to_str().unwrap());
    for env in [&[SESSION][..], &[SESSION, other], &[], &[other]] {
        let outcome = install(env, &[]).assert_code(0);
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        manager.systemctl(&["restart", UNIT]).assert_code(0);
        assert_eq!(kept(manager, state, &id), before, "after `install` with {env:?}: {said}");
        let named = env.iter().find(|(name, _)| *name == "XDG_STATE_HOME").map(|(_, to)| *to);
        let differs = named.map_or(!first.is_empty(), |to| !state.starts_with(to));
        if differs {
            let place = state.to_str().unwrap();
            assert!(said.contains(place) && said.contains("--move"), "{env:?}: {said}");
        }
    }
    assert!(!elsewhere.exists(), "nothing was asked to be there");

    // Who wants it elsewhere says so, and gets a gateway that runs there.
    install(&[SESSION, other], &["--move"]).assert_code(0);
    manager.systemctl(&["restart", UNIT]).assert_code(0);
    let environment = manager.unit(UNIT).property("Environment");
    assert!(environment.contains(&format!("XDG_STATE_HOME={}", other.1)), "{environment}");
    assert!(elsewhere.join("hermes-gateway/default/api.key").exists());
}

#[test]
fn an_install_from_three_shells_keeps_state_and_key() {
    Sandbox::user().run(|manager| {
        let state = manager.home().join(".local/state");
        installed_from_every_shell(manager, &[], &state);
    });
}

#[test]
fn an_install_from_three_shells_keeps_a_state_directory_that_the_first_has_named() {
    Sandbox::user().run(|manager| {
        let state = manager.home().join("data");
        let named = state.to_str().unwrap().to_owned();
        installed_from_every_shell(manager, &[("XDG_STATE_HOME", &named)], &state);
    });
}
