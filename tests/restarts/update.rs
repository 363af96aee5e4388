//! `update` without a service manager: the proof is all, nothing is watched, and it outlives its terminal all
//! the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use util::programs::{NEWER, VERSION};
use util::{DEADLINE, Home, Outcome, Process, binary, eventually, programs, sys};

/// What moves the new program into the place of the old one.
const MOVE: &str = r#"cp -p "$NEW" "$HERMES_GATEWAY_PROGRAM.new" && mv "$HERMES_GATEWAY_PROGRAM.new" "$HERMES_GATEWAY_PROGRAM""#;

/// A home with a program of its own, and what its update brings.
struct Site {
    home: Home,
    program: PathBuf,
    new: PathBuf,
}

impl Site {
    #[track_caller]
    fn new(script: &str) -> Site {
        let home = Home::new();
        let [program, new] = ["h/hermes-gateway", "h/new"].map(|name| home.path().join(name));
        fs::copy(binary(), &program).unwrap();
        programs::put_gateway(&new, true);
        let site = Site { home, program, new };
        site.configure(script);
        site
    }

    fn configure(&self, script: &str) {
        let script = script.replace("$NEW", self.new.to_str().unwrap());
        let command = json!(["sh", "-c", script]);
        let head = "[http]\nlisten = \"127.0.0.1:0\"\n[restart]\nstart_timeout = \"5s\"\n";
        self.home.configure(&format!("{head}[update]\ncommand = {command}\n"));
        let file = self.home.config_file();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn begin(&self) -> Process {
        Process::spawn(&mut self.home.command_of(&self.program, &["update"]))
    }

    #[track_caller]
    fn update(&self) -> Outcome {
        self.begin().finish(DEADLINE)
    }

    #[track_caller]
    fn record(&self) -> Value {
        let text = fs::read_to_string(self.home.state_dir().join("update.json"));
        serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default()
    }

    #[track_caller]
    fn assert_old(&self) {
        assert!(fs::read(&self.program).unwrap() == fs::read(binary()).unwrap(), "the old program");
    }
}

#[track_caller]
fn assert_said(outcome: &Outcome, words: &[&str]) {
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    for word in words {
        assert!(said.contains(word), "no {word:?} in:\n{said}");
    }
}

#[test]
fn a_gateway_that_does_not_run_is_updated_for_its_next_start() {
    let site = Site::new(MOVE);
    let outcome = site.update().assert_code(0);
    let newer = NEWER;
    let change =
        format!("updated, version {VERSION} → {newer}: it does not run, and its next start");
    assert_said(&outcome, &[&change]);
    let version = Process::spawn(&mut site.home.command_of(&site.program, &["version"]));
    assert_eq!(version.finish(DEADLINE).stdout, format!("hermes-gateway {newer}\n"));
    // Nothing is new then.
    let outcome = site.update().assert_code(0);
    assert_said(&outcome, &["nothing new: "]);
    // What is broken goes back.
    programs::put("exit-78", &site.new);
    let outcome = site.update().assert_code(1);
    let again = format!("is version {newer} again; the gateway was not restarted");
    assert_said(&outcome, &["it exited with status 78 before it was ready", &again]);
    let version = Process::spawn(&mut site.home.command_of(&site.program, &["version"]));
    assert_eq!(version.finish(DEADLINE).stdout, format!("hermes-gateway {newer}\n"));
}

#[test]
fn a_gateway_in_the_foreground_restarts_into_the_new_version() {
    let site = Site::new(MOVE);
    let gateway = site.home.launch().program(&site.program).start();
    let outcome = site.update().assert_code(0);
    let change = format!("updated, version {VERSION} → {}; no service manager", NEWER);
    assert_said(&outcome, &[&change, "the proof that it can start is all there is"]);
    let status: Value = serde_json::from_str(&site.home.run(&["status", "--json"]).stdout).unwrap();
    assert_eq!((&status["version"], &status["pid"]), (&json!(NEWER), &json!(gateway.pid())));
}

#[test]
fn a_broken_program_leaves_a_gateway_in_the_foreground_as_it_is() {
    let site = Site::new(MOVE);
    let gateway = site.home.launch().program(&site.program).start();
    for kind in ["empty", "exit-1", "ready-crash", "no-handover"] {
        programs::put(kind, &site.new);
        let outcome = site.update().assert_code(1);
        let again = format!("is version {VERSION} again; the gateway was not restarted");
        assert_said(&outcome, &["the new program failed its proof", &again]);
        site.assert_old();
        assert_eq!(site.record()["stage"], "failed");
    }
    let history = site.home.run(&["history", "--json"]).assert_code(0).stdout;
    assert_eq!(history.matches("\"kind\":\"update\"").count(), 4, "{history}");
    let last: Value = serde_json::from_str(history.lines().last().unwrap()).unwrap();
    assert_eq!((&last["verdict"], &last["from"]), (&json!("failed update"), &json!(VERSION)));
    let history = site.home.run(&["history"]).assert_code(0).stdout;
    assert!(history.contains("failed update") && history.contains("not updated: "), "{history}");
    let status: Value = serde_json::from_str(&site.home.run(&["status", "--json"]).stdout).unwrap();
    assert_eq!((&status["version"], &status["pid"]), (&json!(VERSION), &json!(gateway.pid())));
    assert_eq!(status["last_stop"], Value::Null, "no run has ended");
}

#[test]
fn an_update_outlives_its_terminal_and_its_process_group() {
    let wait = "echo running; mkfifo ~/gate; read x < ~/gate; echo on; ";
    let site = Site::new(&format!("{wait}{MOVE}"));
    let first = site.begin();
    first.wait_for_output("running", DEADLINE);
    let second = site.update().assert_code(75);
    let updater = site.record()["pid"].as_i64().unwrap();
    assert_said(&second, &[&format!("an update is under way: pid {updater}")]);
    for signal in [libc::SIGHUP, libc::SIGINT] {
        let _ = sys::kill(-first.pid(), signal);
    }
    assert_eq!(first.wait_for_exit(DEADLINE), 128 + libc::SIGHUP);
    fs::write(site.home.path().join("h/gate"), "go\n").unwrap();
    eventually("the update has ended", || (site.record()["stage"] == "updated").then_some(()));
}

#[test]
fn an_operators_message_updates_a_gateway_in_the_foreground() {
    let site = Site::new(&format!("echo bringing it; {MOVE}"));
    let gateway = site.home.launch().program(&site.program).start();
    let told = |words: &str| {
        eventually(words, || {
            let journal = site.home.journal_text();
            let mut lines = journal.lines().filter(|line| line.contains("\"done\""));
            lines.any(|line| line.contains(words)).then_some(())
        });
    };
    let ask = || {
        let outcome = site.home.run(&["send", "--session", "ops", "/update"]).assert_code(0);
        assert!(outcome.stdout.contains("update requested"), "{}", outcome.stdout);
    };
    programs::put("crash", &site.new);
    ask();
    told("it was ended by signal 11 before it was ready");
    programs::put_gateway(&site.new, true);
    ask();
    // The updater ends with the process that it has had restarted: the next one knows what came of it.
    told(&format!("updated, version {VERSION} → {NEWER}"));
    assert_eq!(site.record()["stage"], "updated");
    let status: Value = serde_json::from_str(&site.home.run(&["status", "--json"]).stdout).unwrap();
    assert_eq!((&status["version"], &status["pid"]), (&json!(NEWER), &json!(gateway.pid())));
}

#[test]
fn what_an_updater_that_was_killed_has_left_unproven_is_not_kept_as_the_version_before() {
    // What is run is said, too.
    let site = Site::new(&format!("{MOVE}; echo mo''ved; exec sleep 20"));
    programs::put("exit-1", &site.new);
    let _gateway = site.home.launch().program(&site.program).start();
    let begin = || Process::spawn(&mut site.home.command_of(&binary(), &["update"]));
    for _ in 0..2 {
        let first = begin();
        first.wait_for_output("moved", DEADLINE);
        let updater = i32::try_from(site.record()["pid"].as_i64().unwrap()).unwrap();
        sys::kill(updater, libc::SIGKILL).unwrap();
        first.finish(DEADLINE).assert_code(1);
    }
    site.configure("exit 1");
    let outcome = begin().finish(DEADLINE).assert_code(1);
    assert_said(&outcome, &["was left in its step \"command\"", "failed with exit status 1"]);
    site.assert_old();
    let kept = site.program.with_extension("previous");
    assert!(fs::read(kept).unwrap() == fs::read(binary()).unwrap(), "the copy");
}
