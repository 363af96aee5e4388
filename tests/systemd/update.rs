//! `update` under a real systemd: a new version is brought, proven, restarted into and watched; one that is no
//! good never runs, or is taken back; and it all goes on whatever becomes of the terminal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use util::programs::{NEWER, VERSION};
use util::{DEADLINE, Manager, Outcome, Process, Sandbox, UNIT, binary, eventually, programs, sys};

/// A gateway as its user has installed it, and what its update brings.
struct Site<'m> {
    manager: &'m Manager,
    program: PathBuf,
    new: PathBuf,
}

/// What moves the new program into the place of the old one.
const MOVE: &str = r#"cp -p "$NEW" "$HERMES_GATEWAY_PROGRAM.new" && mv "$HERMES_GATEWAY_PROGRAM.new" "$HERMES_GATEWAY_PROGRAM""#;

impl<'m> Site<'m> {
    /// Installs and starts it. `script`: what its update runs; `more`: of `[update]`.
    #[track_caller]
    fn start(manager: &'m Manager, script: &str, more: &str) -> Site<'m> {
        let program = manager.home().join(".local/bin/hermes-gateway");
        Site::start_from(manager, program, script, more)
    }

    #[track_caller]
    fn start_from(manager: &'m Manager, program: PathBuf, script: &str, more: &str) -> Site<'m> {
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        if !program.exists() {
            fs::copy(binary(), &program).unwrap();
        }
        let new = manager.home().join("new");
        programs::put_gateway(&new, true);
        let site = Site { manager, program, new };
        site.configure(script, more);
        let install = manager.run(&site.program, &["install"]).assert_code(0);
        let fast = "[Service]\nRestartSec=50ms\nRestartSteps=0\n";
        manager.write_unit(&format!("{UNIT}.d/10-fast.conf"), fast);
        manager.systemctl(&["start", UNIT]).assert_code(0);
        assert_eq!(site.serving(), VERSION, "{}", install.stdout);
        site
    }

    #[track_caller]
    fn configure(&self, script: &str, more: &str) {
        let script = script.replace("$NEW", self.new.to_str().unwrap());
        let config = format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n[restart]\nstart_timeout = \"5s\"\n[update]\n\
             command = [\"sh\", \"-c\", {}]\n{more}",
            json!(script)
        );
        let file = self.manager.home().join(".config/hermes-gateway/default.toml");
        self.manager.write(&file, &config);
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Begins `update`.
    fn begin(&self) -> Process {
        Process::spawn(self.manager.command(&self.program).arg("update"))
    }

    #[track_caller]
    fn update(&self) -> Outcome {
        self.begin().finish(DEADLINE * 3)
    }

    /// The version that the gateway says it has.
    #[track_caller]
    fn serving(&self) -> String {
        let status = self.manager.run(&self.program, &["status", "--json"]);
        let status: Value = serde_json::from_str(&status.stdout).expect("a status");
        assert_eq!(status["state"], "running", "{status}\n{}", self.manager.unit(UNIT).journal());
        status["version"].as_str().unwrap().to_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.manager.home().join(".local/state/hermes-gateway/default").join(name)
    }

    /// What is on record.
    #[track_caller]
    fn record(&self) -> Value {
        let text = fs::read_to_string(self.file("update.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Fails the test unless the program is the old one, runs, and was never restarted since `pid`.
    #[track_caller]
    fn assert_untouched(&self, pid: i32) {
        self.assert_old();
        assert_eq!(self.manager.unit(UNIT).main_pid(), pid);
        assert_eq!(self.record()["stage"], "failed", "{}", self.record());
    }

    #[track_caller]
    fn assert_old(&self) {
        assert!(fs::read(&self.program).unwrap() == fs::read(binary()).unwrap(), "the old program");
        assert_eq!(self.serving(), VERSION);
    }

    fn pid(&self) -> i32 {
        self.manager.unit(UNIT).main_pid()
    }
}

/// Fails the test unless all of these are in what was said.
#[track_caller]
fn assert_said(outcome: &Outcome, words: &[&str]) {
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    for word in words {
        assert!(said.contains(word), "no {word:?} in:\n{said}");
    }
}

#[test]
fn a_good_update_is_brought_proven_restarted_into_and_watched() {
    Sandbox::user().run(|manager| {
        let script = format!("echo bringing it; echo some trouble >&2; {MOVE}");
        let site = Site::start(manager, &script, "trial = \"1s\"\n");
        let kept = site.program.with_extension("previous");
        let before = site.pid();
        let outcome = site.update().assert_code(0);
        let change = format!("default: updated, version {VERSION} → {}", NEWER);
        let is_kept = format!("the version before is kept as {}", kept.display());
        assert_said(&outcome, &[&is_kept, "bringing it\n", "some trouble\n", "watched for 1s"]);
        assert!(outcome.stdout.trim_end().ends_with(&change), "{}", outcome.stdout);
        assert_eq!((&*site.serving(), site.pid()), (NEWER, before), "in place");
        assert_eq!(fs::read(&kept).unwrap(), fs::read(binary()).unwrap());
        let record = site.record();
        assert_eq!(
            (&record["stage"], &record["from"], &record["to"]),
            (&json!("updated"), &json!(VERSION), &json!(NEWER)),
            "{record}"
        );
        assert_eq!(record["output"], "bringing it\nsome trouble\n", "{record}");

        // Once more: there is nothing new, and the gateway is left alone.
        let before = site.pid();
        let outcome = site.update().assert_code(0);
        assert_said(
            &outcome,
            &["default: nothing new: ", &format!("is version {} as before", NEWER)],
        );
        assert_eq!(site.pid(), before);
        // What it was run in is gone.
        let unit = manager.unit("hermes-gateway.update.service");
        unit.wait_for(&[("LoadState", "not-found")]);
    });
}

#[test]
fn a_command_that_fails_or_takes_too_long_changes_nothing() {
    Sandbox::user().run(|manager| {
        let site = Site::start(manager, "echo half; exit 3", "timeout = \"1s\"\n");
        let before = site.pid();
        let outcome = site.update().assert_code(1);
        let as_it_was = "the program and the gateway are as they were";
        let failed = "default: not updated: update.command failed with exit status 3; ";
        assert_said(&outcome, &["half\n", failed, as_it_was]);
        site.assert_untouched(before);
        assert_eq!(site.record()["output"], "half\n");

        // It had changed the program already.
        site.configure(&format!("{MOVE}; exit 4"), "");
        let outcome = site.update().assert_code(1);
        let again = format!("is version {VERSION} again; the gateway was not restarted");
        assert_said(&outcome, &["exit status 4; ", &again]);
        site.assert_untouched(before);

        // What it had begun ends with it.
        site.configure("sleep 1000 & echo $! > ~/pid; sleep 1000", "timeout = \"500ms\"\n");
        let outcome = site.update().assert_code(1);
        assert_said(&outcome, &["update.command did not end within update.timeout, 500ms; "]);
        site.assert_untouched(before);
        let pid = fs::read_to_string(manager.home().join("pid")).unwrap();
        let process = PathBuf::from(format!("/proc/{}", pid.trim()));
        eventually("its child is gone", || (!process.exists()).then_some(()));

        site.configure("exit 0", "");
        let text =
            fs::read_to_string(site.manager.home().join(".config/hermes-gateway/default.toml"));
        let other = text.unwrap().replace("\"sh\"", "\"no-such-program\"");
        manager.write(&manager.home().join(".config/hermes-gateway/default.toml"), &other);
        let outcome = site.update().assert_code(1);
        assert_said(&outcome, &["cannot be run: there is no no-such-program on PATH"]);

        let without = other.replace("command =", "rollback =");
        manager.write(&manager.home().join(".config/hermes-gateway/default.toml"), &without);
        let outcome = site.update().assert_code(78);
        assert_said(&outcome, &["update.command is not set", "default.toml", "[update]"]);
        assert_eq!(site.pid(), before);
    });
}

#[test]
fn a_new_program_that_is_broken_never_runs() {
    Sandbox::user().with_programs().limit(Duration::from_secs(240)).run(|manager| {
        let site = Site::start(manager, MOVE, "");
        let before = site.pid();
        // The ten kinds; the others differ for the proof alone.
        for (kind, words) in &programs::BROKEN[..10] {
            if *kind == "missing" {
                site.configure("rm \"$HERMES_GATEWAY_PROGRAM\"", "");
            } else {
                site.configure(MOVE, "");
                programs::put(kind, &site.new);
            }
            let outcome = site.update();
            let again = format!("is version {VERSION} again; the gateway was not restarted");
            assert_said(
                &outcome,
                &["default: not updated: the new program failed its proof", words, &again],
            );
            assert_eq!(outcome.code(), 1, "{kind}");
            site.assert_untouched(before);
        }
    });
}

#[test]
fn a_new_version_that_dies_in_its_trial_is_rolled_back_once() {
    Sandbox::user().run(|manager| {
        let site = Site::start(manager, MOVE, "trial = \"20s\"\n");
        let update = site.begin();
        update.wait_for_output("it is watched for 20s", DEADLINE);
        let unit = manager.unit(UNIT);
        // Three deaths, each of a version that was ready.
        for _ in 0..3 {
            let pid = unit.main_pid();
            sys::kill(pid, libc::SIGKILL).unwrap();
            eventually("it is back", || (![0, pid].contains(&unit.main_pid())).then_some(()));
            unit.wait_for(&[("ActiveState", "active"), ("SubState", "running")]);
        }
        let outcome = update.finish(DEADLINE).assert_code(1);
        let failed = format!("version {} failed: it died 3 times", NEWER);
        let back = format!("default: rolled back to version {VERSION}: {failed}");
        assert_said(&outcome, &[&failed, &back]);
        site.assert_old();
        let record = site.record();
        assert_eq!(record["stage"], "rolled back", "{record}");
        assert!(record["why"].as_str().unwrap().starts_with("rolled back to version"), "{record}");
        let history = manager.run(&site.program, &["history", "--json"]).assert_code(0).stdout;
        let last: Value = serde_json::from_str(history.lines().last().unwrap()).unwrap();
        let found = ["kind", "verdict", "from", "to"].map(|key| &last[key]);
        assert_eq!(found, ["update", "rolled back", VERSION, NEWER], "{last}");
    });
}

#[test]
fn a_new_version_that_proves_itself_and_does_not_start_is_rolled_back() {
    Sandbox::user().with_programs().run(|manager| {
        let site = Site::start(manager, MOVE, "trial = \"20s\"\n");
        // It proves itself, and exits with status 1 when it is to run.
        programs::put("good", &site.new);
        let outcome = site.update().assert_code(1);
        let back = format!("default: rolled back to version {VERSION}: version 9.9.9 failed: ");
        // How it died is told where the manager shows it at the moment in which it is asked.
        assert_said(&outcome, &[&back]);
        site.assert_old();
    });
}

#[test]
fn a_stop_in_the_trial_is_an_operators_and_no_failure() {
    Sandbox::user().run(|manager| {
        let site = Site::start(manager, MOVE, "trial = \"1h\"\n");
        let update = site.begin();
        update.wait_for_output("it is watched for 1h", DEADLINE);
        manager.run(&site.program, &["stop"]).assert_code(0);
        let outcome = update.finish(DEADLINE).assert_code(0);
        assert_said(&outcome, &["; it was stopped during its trial"]);
        manager.unit(UNIT).assert(&[("ActiveState", "inactive")]);
        // Nobody runs: the next start runs what an update brings.
        site.configure(MOVE, "");
        fs::copy(binary(), &site.new).unwrap();
        let outcome = site.update().assert_code(0);
        let change =
            format!("updated, version {} → {VERSION}: it does not run, and its next start", NEWER);
        assert_said(&outcome, &[&change]);
        manager.unit(UNIT).assert(&[("ActiveState", "inactive")]);
    });
}

#[test]
fn a_stop_while_the_command_runs_is_no_failure() {
    Sandbox::user().run(|manager| {
        let wait = "echo running; mkfifo ~/gate; read x < ~/gate; ";
        let site = Site::start(manager, &format!("{wait}{MOVE}"), "");
        let update = site.begin();
        update.wait_for_output("running", DEADLINE);
        manager.run(&site.program, &["stop"]).assert_code(0);
        fs::write(manager.home().join("gate"), "go\n").unwrap();
        let outcome = update.finish(DEADLINE).assert_code(0);
        assert_said(&outcome, &["it does not run, and its next start runs"]);
        manager.systemctl(&["start", UNIT]).assert_code(0);
        assert_eq!(site.serving(), NEWER);
    });
}

#[test]
fn one_update_at_a_time_and_it_outlives_its_terminal() {
    Sandbox::user().run(|manager| {
        let wait = "echo running; mkfifo ~/gate; read x < ~/gate; echo on; ";
        let site = Site::start(manager, &format!("{wait}{MOVE}"), "trial = \"1s\"\n");
        let first = site.begin();
        first.wait_for_output("running", DEADLINE);
        let updater = site.record()["pid"].as_i64().unwrap();
        let second = site.update().assert_code(75);
        assert_said(&second, &[&format!("an update is under way: pid {updater}")]);
        // The terminal goes.
        sys::kill(-first.pid(), libc::SIGHUP).unwrap();
        assert_eq!(first.wait_for_exit(DEADLINE), 128 + libc::SIGHUP);
        fs::write(manager.home().join("gate"), "go\n").unwrap();
        eventually("the update has ended", || (site.record()["stage"] == "updated").then_some(()));
        assert_eq!(site.serving(), NEWER);
        assert_eq!(site.record()["output"], "running\non\n");
    });
}

#[test]
fn an_updater_that_was_killed_in_the_trial_is_told_of() {
    Sandbox::user().run(|manager| {
        let site = Site::start(manager, MOVE, "trial = \"1h\"\n");
        let update = site.begin();
        update.wait_for_output("it is watched for 1h", DEADLINE);
        let updater = site.record()["pid"].as_i64().unwrap();
        sys::kill(i32::try_from(updater).unwrap(), libc::SIGKILL).unwrap();
        let outcome = update.finish(DEADLINE).assert_code(1);
        assert_said(&outcome, &["the updater was ended before it was done"]);
        assert_eq!(site.record()["stage"], "trial");
        let left = "was left in its step \"trial\"";
        // A start says so, and the next update, which goes its way.
        manager.systemctl(&["restart", UNIT]).assert_code(0);
        manager.unit(UNIT).wait_for_journal(left);
        let back = format!(
            "`cp -p --remove-destination {0}.previous {0}` and a restart",
            site.program.display()
        );
        let outcome = site.update().assert_code(0);
        assert_said(&outcome, &[left, &back, "nothing new"]);
    });
}

#[test]
fn a_program_whose_directory_is_closed_takes_the_operators_way_back() {
    Sandbox::user().run(|manager| {
        let program = manager.home().join("closed/hermes-gateway");
        let script = format!("chmod u+w ~/closed && {MOVE}; chmod u-w ~/closed; exit 7");
        let site = Site::start_from(manager, program, &script, "");
        let closed = manager.home().join("closed");
        fs::copy(&site.program, manager.home().join("old")).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
        let before = site.pid();
        let rollback = "rollback = [\"sh\", \"-c\", \"echo back; chmod u+w ~/closed; \
            cp -p ~/old $HERMES_GATEWAY_PROGRAM.x; mv $HERMES_GATEWAY_PROGRAM.x $HERMES_GATEWAY_PROGRAM; \
            chmod u-w ~/closed\"]\n";
        site.configure(&script, rollback);
        let outcome = site.update().assert_code(1);
        let kept = "no copy of the program can be kept (";
        let again = format!("is version {VERSION} again; the gateway was not restarted");
        assert_said(&outcome, &[kept, "update.rollback is the way back", "back\n", &again]);
        site.assert_untouched(before);

        site.configure(&script, "");
        let outcome = site.update().assert_code(1);
        let none = "and update.rollback is not set: there is no way back";
        assert_said(&outcome, &[kept, none, "its next start runs what is there", "could not be put back"]);
        assert_eq!(site.pid(), before);
    });
}

#[test]
fn a_link_that_the_update_moves_leads_back() {
    Sandbox::user().with_programs().run(|manager| {
        let opt = manager.home().join("opt");
        let version = |name: &str| opt.join(name).join("hermes-gateway");
        fs::create_dir_all(opt.join("1")).unwrap();
        fs::create_dir_all(opt.join("2")).unwrap();
        fs::copy(binary(), version("1")).unwrap();
        let link = manager.home().join(".local/bin/hermes-gateway");
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(version("1"), &link).unwrap();
        let script = "cp -p \"$NEW\" ~/opt/2/hermes-gateway; \
            ln -sfn ~/opt/2/hermes-gateway \"$HERMES_GATEWAY_PROGRAM\"";
        let site = Site::start_from(manager, link.clone(), script, "trial = \"1s\"\n");
        site.update().assert_code(0);
        assert_eq!(
            (site.serving(), fs::read_link(&link).unwrap()),
            (NEWER.to_owned(), version("2"))
        );

        fs::remove_file(&link).unwrap();
        symlink(version("1"), &link).unwrap();
        manager.systemctl(&["restart", UNIT]).assert_code(0);
        programs::put("exit-1", &site.new);
        let outcome = site.update().assert_code(1);
        assert_said(&outcome, &[&format!("{} is version {VERSION} again", link.display())]);
        assert_eq!(
            (site.serving(), fs::read_link(&link).unwrap()),
            (VERSION.to_owned(), version("1"))
        );
    });
}

#[test]
fn an_agent_asks_and_does_not_wait() {
    Sandbox::user().run(|manager| {
        let site = Site::start(manager, MOVE, "trial = \"1s\"\n");
        let file = manager.home().join(".config/hermes-gateway/default.toml");
        let agent = format!(
            "[agent]\ncommand = [\"sh\", \"-c\", {}]\n",
            json!(format!("{} update 2>&1", site.program.display()))
        );
        let text = fs::read_to_string(&file).unwrap();
        manager.write(&file, &format!("{text}{agent}"));
        manager.run(&site.program, &["reload"]).assert_code(0);
        let reply = manager.run(&site.program, &["send", "x"]).assert_code(0).stdout;
        assert!(reply.contains("the update is requested; this command does not wait"), "{reply}");
        eventually("it is updated", || (site.record()["stage"] == "updated").then_some(()));
        assert_eq!(site.serving(), NEWER);
    });
}

#[test]
fn an_operators_message_asks_and_is_told_what_came_of_it() {
    Sandbox::user().with_programs().run(|manager| {
        let site = Site::start(manager, &format!("echo bringing it; {MOVE}"), "trial = \"1s\"\n");
        let send = |text: &str| {
            let outcome = manager.run(&site.program, &["send", "--session", "ops", text]);
            outcome.assert_code(0).stdout
        };
        let told = |words: &str| {
            eventually(words, || {
                let file = fs::read_to_string(site.file("journal")).unwrap_or_default();
                file.lines()
                    .any(|line| line.contains("\"done\"") && line.contains(words))
                    .then_some(())
            });
        };
        // One that cannot begin.
        let file = manager.home().join(".config/hermes-gateway/default.toml");
        let text = fs::read_to_string(&file).unwrap();
        manager.write(&file, "[http]\nlisten = \"127.0.0.1:0\"\n");
        assert!(send("/update").contains("update requested"));
        told("not updated: hermes-gateway: update.command is not set");
        manager.write(&file, &text);

        programs::put("exit-1", &site.new);
        assert!(send("/update").contains("update requested"));
        told("not updated: the new program failed its proof: ");
        told("\\nbringing it");
        site.assert_old();

        programs::put_gateway(&site.new, true);
        assert!(send("/update").contains("update requested"));
        told(&format!("updated, version {VERSION} → {}", NEWER));
        assert_eq!(site.serving(), NEWER);
        let by = site.record()["by"].as_str().unwrap().to_owned();
        assert!(by.contains("message") && by.contains("owner"), "{by}");
    });
}

#[test]
fn the_machines_unit_is_updated_by_root_and_the_commands_run_as_its_user() {
    Sandbox::system().with_programs().run(|manager| {
        let user = manager.user();
        let program = PathBuf::from("/opt/hermes-gateway/hermes-gateway");
        let new = PathBuf::from("/home/tester/new");
        // Only root may write the program's place: the user has a file that root's hook moves there.
        let config = |script: &str| {
            let file = user.home().join(".config/hermes-gateway/default.toml");
            let text = format!(
                "[http]\nlisten = \"127.0.0.1:0\"\n[restart]\nstart_timeout = \"5s\"\n[update]\n\
                 trial = \"1s\"\ncommand = [\"sh\", \"-c\", {}]\n",
                json!(script)
            );
            user.write(&file, &text);
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        };
        config("id -un > ~/who; echo $HOME > ~/home; touch $HERMES_GATEWAY_PROGRAM");
        manager.gateway(&["install", "--system", "--user", "tester", "--now"]).assert_code(0);
        let unit = manager.unit(UNIT);
        let before = unit.main_pid();
        let update = || manager.gateway(&["update", "--system"]);
        let outcome = update().assert_code(1);
        assert_said(&outcome, &["update.command failed with exit status 1", "are as they were"]);
        let read = |name: &str| fs::read_to_string(user.home().join(name)).unwrap();
        assert_eq!((&*read("who"), &*read("home")), ("tester\n", "/home/tester\n"));
        let record = user.home().join(".local/state/hermes-gateway/default/update.json");
        let meta = fs::metadata(&record).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777), (4242, 0o600));
        assert_eq!(unit.main_pid(), before);

        // One that the user may replace, as a directory of theirs.
        let dir = program.parent().unwrap();
        std::os::unix::fs::chown(dir, Some(4242), Some(4242)).unwrap();
        programs::put_gateway(&new, true);
        config(&MOVE.replace("$NEW", new.to_str().unwrap()));
        let outcome = update().assert_code(0);
        assert_said(&outcome, &[&format!("updated, version {VERSION} → {}", NEWER)]);
        unit.assert(&[("ActiveState", "active")]);

        programs::put("exit-78", &new);
        let outcome = update().assert_code(1);
        let again = format!("is version {} again; the gateway was not restarted", NEWER);
        assert_said(&outcome, &["failed its proof", "the configuration is wrong", &again]);

        // Its own user reaches the gateway and not its manager: that is said, and there is no trial.
        let outcome = user.run(&PathBuf::from("/opt/hermes-gateway/hermes-gateway"), &["update"]);
        assert_said(&outcome.assert_code(1), &["failed its proof"]);
    });
}
