//! What `install` keeps, which path of the program it writes, and what `uninstall` leaves, under a
//! real systemd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use util::{DEADLINE, Manager, Outcome, Process, Sandbox, Service, UNIT, binary};

#[track_caller]
fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

/// Runs a program as from a shell that has this variable.
#[track_caller]
fn run_with(manager: &Manager, program: &Path, args: &[&str], env: (&str, &str)) -> Outcome {
    let mut command = manager.command(program);
    Process::spawn(command.args(args).env(env.0, env.1)).finish(DEADLINE)
}

/// The command that is printed between back-quotes, after these words.
#[track_caller]
fn printed_command<'t>(text: &'t str, before: &str) -> &'t str {
    let (_, rest) = text.split_once(&format!("{before}`")).unwrap_or_else(|| panic!("{text}"));
    rest.split_once('`').unwrap().0
}

/// Types a printed command, with the gateway's program on PATH.
#[track_caller]
fn type_in(manager: &Manager, line: &str) {
    let path = format!("{}:/usr/bin:/bin", binary().parent().unwrap().display());
    run_with(manager, Path::new("sh"), &["-ec", line], ("PATH", &path)).assert_code(0);
}

fn unit_text(manager: &Manager) -> String {
    fs::read_to_string(manager.unit_dir().join(UNIT)).unwrap()
}

/// A copy of the program, executable.
#[track_caller]
fn copy_to(path: &Path) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(binary(), path).unwrap();
    path.to_owned()
}

// ------------------------------------------------------------------- places ----

#[test]
fn an_install_does_not_put_echo_in_the_place_of_a_configuration_that_is_gone() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let (text, before) = (unit_text(manager), service.pid());
        fs::remove_file(service.config_file()).unwrap();
        let refused = manager.gateway(&["install"]).assert_code(78);
        assert_words(&refused.stderr, &["default.toml", "there is no such file", "restore"]);
        assert!(!service.config_file().exists());
        assert_eq!((unit_text(manager), service.pid()), (text, before));
    });
}

#[test]
fn installed_from_three_shells_the_gateway_keeps_its_places() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let (text, key) = (unit_text(manager), service.state_dir().join("api.key"));
        let secret = fs::read(&key).unwrap();
        let elsewhere = manager.home().join("elsewhere");
        let (kept, other) = (service.state_dir(), elsewhere.join("hermes-gateway/default"));
        for (variable, kept, other) in [
            ("XDG_STATE_HOME", kept, other.clone()),
            ("XDG_CONFIG_HOME", service.config_file(), other.with_extension("toml")),
        ] {
            let shell = |args: &[&str]| {
                run_with(manager, &binary(), args, (variable, elsewhere.to_str().unwrap()))
            };
            let says = [
                "kept: ",
                &format!("stays in {}", kept.display()),
                &format!("this shell has {}", other.display()),
                "`hermes-gateway install --move`",
            ];
            let outcome = shell(&["install"]).assert_code(0);
            assert_words(&outcome.stderr, &says);
            assert_words(
                &outcome.stdout,
                &["unchanged: ", service.config_file().to_str().unwrap()],
            );
            assert_eq!(unit_text(manager), text);
            service.systemctl("restart");
            assert_eq!(fs::read(&key).unwrap(), secret);

            // The other commands look there too, and say so.
            let outcome = shell(&["status"]).assert_code(0);
            assert_words(&outcome.stdout, &["running", "up to date"]);
            assert_words(&outcome.stderr, &says);
            for (command, word) in [
                (&["history"][..], "planned"),
                (&["config"], "127.0.0.1:0"),
                (&["list"], "running"),
                (&["send", "hello"], "hello"),
                (&["restart"], "is ready"),
                (&["stop"], "has stopped"),
                (&["start"], "is ready"),
            ] {
                let outcome = shell(command).assert_code(0);
                assert_words(&outcome.stdout, &[word]);
                let told = ["history", "config"].contains(&command[0]);
                assert_eq!(outcome.stderr.contains("kept: "), told, "{command:?}");
            }
            assert!(!elsewhere.exists(), "nothing is made in the places of that shell");
        }
        // Without another place there is nothing to say.
        let outcome = manager.gateway(&["install"]).assert_code(0);
        assert!(!outcome.stderr.contains("kept"), "{}", outcome.stderr);
    });
}

#[test]
fn install_move_changes_the_places_and_says_what_stays_in_the_old_ones() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let secret = fs::read(service.state_dir().join("api.key")).unwrap();
        let elsewhere = manager.home().join("else where");
        let shell = |variable, args: &[&str]| {
            run_with(manager, &binary(), args, (variable, elsewhere.to_str().unwrap()))
        };
        let outcome = shell("XDG_STATE_HOME", &["install", "--move"]).assert_code(0);
        let old = service.state_dir();
        assert_words(
            &outcome.stdout,
            &["the old state (key, journal, history) stays", old.to_str().unwrap()],
        );
        let line = format!("Environment=\"XDG_STATE_HOME={}\"\n", elsewhere.display());
        assert_words(&unit_text(manager), &[&line]);
        type_in(manager, printed_command(&outcome.stdout, "before it runs again: "));
        let moved = elsewhere.join("hermes-gateway/default");
        assert_eq!(fs::read(moved.join("api.key")).unwrap(), secret);
        assert!(moved.join("run.json").exists() && !old.exists(), "it runs there");
        // What was moved is kept, like what was not.
        assert_words(&manager.gateway(&["install"]).assert_code(0).stderr, &["kept", "else where"]);
        assert_words(&unit_text(manager), &[&line]);

        // A configuration that is left behind would be echo.
        let before = unit_text(manager);
        let outcome = shell("XDG_CONFIG_HOME", &["install", "--move"]).assert_code(1);
        assert_words(&outcome.stderr, &["copy it first"]);
        assert_eq!(unit_text(manager), before);
        type_in(manager, printed_command(&outcome.stderr, "copy it first: "));
        let outcome = shell("XDG_CONFIG_HOME", &["install", "--move"]).assert_code(0);
        assert_words(&outcome.stdout, &["the old configuration stays"]);
        let line = format!("Environment=\"XDG_CONFIG_HOME={}\"\n", elsewhere.display());
        assert_words(&unit_text(manager), &[&line]);
        fs::remove_file(service.config_file()).unwrap();
        manager.gateway(&["restart"]).assert_code(0);
        assert_words(&manager.gateway(&["status"]).assert_code(0).stdout, &["up to date"]);
    });
}

// ------------------------------------------------------------------ program ----

#[test]
fn an_upgrade_behind_a_link_is_what_the_next_restart_runs() {
    Sandbox::user().run(|manager| {
        let home = manager.home();
        let link = home.join(".local/bin/hermes-gateway");
        let version = |number: &str| home.join("opt").join(number).join("bin/hermes-gateway");
        let first = copy_to(&version("1.0"));
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink("../../opt/1.0/bin/hermes-gateway", &link).unwrap();
        let path = format!("{}:/usr/bin:/bin", link.parent().unwrap().display());
        let by_name =
            |program: &Path, args: &[&str]| run_with(manager, program, args, ("PATH", &path));
        let service = Service::install(manager, "", "");
        // By its name, by the link's path, and by the file while the link is on PATH.
        let line = format!("\nExecStart={} -p default run\n", link.display());
        for program in [Path::new("hermes-gateway"), &link, &first] {
            manager.gateway(&["uninstall"]).assert_code(0);
            let outcome = by_name(program, &["install"]).assert_code(0);
            assert_words(&unit_text(manager), &[&line]);
            assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
        }
        // Once written it stays, and nobody calls it out of date, from wherever.
        let outcome = manager.run(&first, &["install"]).assert_code(0);
        assert_words(&outcome.stdout, &["unchanged"]);
        manager.gateway(&["start"]).assert_code(0);
        assert_words(&manager.run(&first, &["status"]).stdout, &["up to date"]);
        assert_eq!(manager.program_of(service.pid()), first);

        let second = copy_to(&version("2.0"));
        fs::remove_file(&link).unwrap();
        symlink("../../opt/2.0/bin/hermes-gateway", &link).unwrap();
        fs::remove_dir_all(home.join("opt/1.0")).unwrap();
        service.systemctl("restart");
        service.unit().assert(&[("ActiveState", "active")]);
        assert_eq!(manager.program_of(service.pid()), second);
        for program in [Path::new("hermes-gateway"), &second] {
            assert_words(&by_name(program, &["status"]).stdout, &["up to date"]);
        }

        // A link that others could turn elsewhere is not followed.
        let dir = link.parent().unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        by_name(&link, &["uninstall"]).assert_code(0);
        by_name(&link, &["install"]).assert_code(0);
        let line = format!("\nExecStart={} -p default run\n", second.display());
        assert_words(&unit_text(manager), &[&line]);
    });
}

#[test]
fn a_directory_of_releases_is_followed_by_its_current_link() {
    Sandbox::user().run(|manager| {
        let app = manager.home().join("app");
        copy_to(&app.join("releases/1/hermes-gateway"));
        symlink("releases/1", app.join("current")).unwrap();
        let called_by = app.join("current/hermes-gateway");
        manager.run(&called_by, &["install"]).assert_code(0);
        let line = format!("\nExecStart={} -p default run\n", called_by.display());
        assert_words(&unit_text(manager), &[&line]);
    });
}

#[test]
fn a_program_in_a_build_directory_gets_a_warning() {
    Sandbox::user().run(|manager| {
        let home = manager.home();
        fs::create_dir_all(home.join("checkout/.git")).unwrap();
        for (place, warned) in [
            ("project/target/release", true),
            ("checkout/out", true),
            (".local/bin", false),
            (".cargo/bin", false),
        ] {
            let program = copy_to(&home.join(place).join("hermes-gateway"));
            let outcome = manager.run(&program, &["install"]).assert_code(0);
            assert_eq!(outcome.stderr.contains("`cargo clean`"), warned, "{}", outcome.stderr);
            assert_eq!(outcome.stderr.contains("copy it to ~/.local/bin"), warned, "{place}");
            let line = format!("\nExecStart={} -p default run\n", program.display());
            assert_words(&unit_text(manager), &[&line]);
        }
    });
}

// --------------------------------------------------------------- foreground ----

#[test]
fn install_beside_a_gateway_in_the_foreground_says_so() {
    Sandbox::user().run(|manager| {
        let foreground = Process::spawn(manager.command(&binary()).args(["run"]));
        foreground.wait_for_log("serves on", DEADLINE);
        let pid = format!("pid {}", foreground.pid());
        let words = ["already running", &pid, "`hermes-gateway stop` ends it"];
        let outcome = manager.gateway(&["install", "--now"]).assert_code(69);
        assert_words(&outcome.stderr, &words);
        assert!(!manager.unit_dir().join(UNIT).exists(), "a refusal changes nothing");
        assert_words(&manager.gateway(&["install"]).assert_code(0).stderr, &words);
        assert_words(&manager.gateway(&["uninstall"]).assert_code(0).stdout, &words);
        manager.gateway(&["stop"]).assert_code(0);
        assert_eq!(foreground.wait_for_exit(DEADLINE), 0);
        // As its unit it is nothing to warn of.
        Service::start(manager);
        let outcome = manager.gateway(&["install"]).assert_code(0);
        assert!(!outcome.stderr.contains("already running"), "{}", outcome.stderr);
    });
}

// ---------------------------------------------------------------- uninstall ----

#[test]
fn uninstall_names_all_that_stays_and_how_to_remove_it() {
    Sandbox::user().run(|manager| {
        let service = Service::start(manager);
        let drop_ins = manager.unit_dir().join(format!("{UNIT}.d"));
        let runtime = PathBuf::from("/run/user/4242/hermes-gateway/default");
        let places = [service.config_file(), service.state_dir(), runtime, drop_ins];
        let outcome = manager.gateway(&["uninstall"]).assert_code(0);
        for place in &places {
            assert!(place.exists(), "{}", place.display());
            assert_words(&outcome.stdout, &[&format!(": {}\n", place.display())]);
        }
        assert_words(&outcome.stdout, &["`loginctl disable-linger tester`"]);
        // Asked again, it says it again.
        let again = manager.gateway(&["uninstall"]).assert_code(0);
        assert_words(&again.stdout, &["nothing to remove", "kept the configuration"]);
        let line = printed_command(&outcome.stdout, "to remove all of these: ");
        assert_eq!(printed_command(&again.stdout, "to remove all of these: "), line);
        type_in(manager, line);
        for place in places {
            assert!(!place.exists(), "{}", place.display());
        }
        let outcome = manager.gateway(&["uninstall"]).assert_code(0);
        assert!(!outcome.stdout.contains("kept"), "{}", outcome.stdout);
    });
}
