//! `reload`: the command says what came of it, `status` keeps a refusal until the next good one, and
//! nothing reloads what nobody wrote.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;

use util::sys::Lease;
use util::{DEADLINE, Gateway, Home, Outcome, Process};

fn says(word: &str) -> String {
    format!("[agent]\ncommand = [\"echo\", \"{word}\"]\n")
}

/// A gateway that answers with "old", from its file.
fn old() -> (Home, Gateway) {
    let home = Home::new();
    home.configure(&says("old"));
    let gateway = home.start();
    (home, gateway)
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
}

#[track_caller]
fn refused(outcome: Outcome, code: i32, words: &[&str]) {
    has(&outcome.assert_code(code).stderr, words);
}

#[test]
fn reload_returns_when_the_new_configuration_is_in_force_and_says_what_takes_a_restart() {
    let (home, gateway) = old();
    home.configure(&says("new"));
    let outcome = home.run(&["reload"]).assert_code(0);
    has(&outcome.stdout, &["was read again"]);
    assert!(!outcome.stdout.contains("restart"), "{}", outcome.stdout);
    assert_eq!(gateway.ask("x").reply(), "new");
    home.configure(&format!("{}[log]\ntarget = \"syslog\"\n", says("newer")));
    let outcome = home.run(&["reload"]).assert_code(0);
    has(&outcome.stdout, &["log.target has changed", "restart"]);
    assert_eq!(gateway.ask("x").reply(), "newer");
}

#[test]
fn a_refused_reload_returns_every_error_and_status_keeps_it_until_the_next_good_one() {
    let (home, gateway) = old();
    home.configure("[agent]\nmodle = \"echo\"\n[stop]\ndrain_timeout = \"never\"\n");
    let file = home.config_file().display().to_string();
    let words = [&format!("{file}:2:1"), "modle", &format!("{file}:4:"), "never"];
    refused(home.run(&["reload"]), 78, &words);
    assert_eq!(gateway.ask("x").reply(), "old");
    for _ in 0..2 {
        let told = &gateway.status()["reload_error"];
        has(told["message"].as_str().unwrap(), &words);
        assert!(told["time"].as_str().unwrap().starts_with("20"), "{told}");
        has(
            &home.run(&["status"]).assert_code(0).stdout,
            &[&words[..], &["reload  refused"]].concat(),
        );
        let json = home.run(&["status", "--json"]).assert_code(0).stdout;
        has(&json, &["reload_error", "modle"]);
    }
    let told = format!("STATUS=Serving on {}", gateway.address());
    let line = gateway.wait_for_notification(&format!("{told}; "), DEADLINE);
    has(&line, &["reload refused", "modle", "never"]);
    home.configure(&says("new"));
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("was read again", DEADLINE);
    home.run(&["reload"]).assert_code(0);
    assert!(gateway.status()["reload_error"].is_null());
    assert!(!home.run(&["status"]).stdout.contains("refused"));
}

#[test]
fn reload_reports_the_reading_that_began_after_it() {
    let (home, gateway) = old();
    let mut lease = Lease::take(&home.config_file()).unwrap();
    gateway.signal(libc::SIGHUP);
    lease.wait_until_asked(DEADLINE).unwrap();
    // The first reading has the good file open; what the command asks for is the one behind it.
    let new = home.config_file().with_extension("new");
    fs::write(&new, "[agent]\nmodle = \"echo\"\n").unwrap();
    fs::rename(&new, home.config_file()).unwrap();
    let command = Process::spawn(&mut home.command(&["reload"]));
    gateway.control().get("/v1/status", &[]).assert_status(200);
    assert!(command.is_running());
    drop(lease);
    refused(command.finish(DEADLINE), 78, &["modle"]);
}

#[test]
fn a_reload_that_is_under_way_holds_up_no_stop() {
    let (home, gateway) = old();
    let mut lease = Lease::take(&home.config_file()).unwrap();
    let command = Process::spawn(&mut home.command(&["reload"]));
    lease.wait_until_asked(DEADLINE).unwrap();
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
    refused(command.finish(DEADLINE), 1, &["closed the connection"]);
    drop(lease);
}

#[test]
fn a_reload_during_the_start_waits_for_its_end() {
    let home = Home::new();
    home.configure(&says("old"));
    let mut lease = Lease::take(&home.config_file()).unwrap();
    let process = home.launch().spawn();
    lease.wait_until_asked(DEADLINE).unwrap();
    let command = Process::spawn(&mut home.command(&["reload"]));
    let new = home.config_file().with_extension("new");
    fs::write(&new, says("new")).unwrap();
    fs::rename(&new, home.config_file()).unwrap();
    drop(lease);
    command.finish(DEADLINE).assert_code(0);
    process.wait_for_log("the configuration was read again", DEADLINE);
}

#[test]
fn a_stop_that_meets_the_units_reload_command_is_no_failure_of_it() {
    let (home, _gateway) = old();
    let mut lease = Lease::take(&home.config_file()).unwrap();
    let command = Process::spawn(home.command(&["reload"]).env("MAINPID", "1"));
    lease.wait_until_asked(DEADLINE).unwrap();
    command.signal(libc::SIGTERM);
    assert_eq!(command.wait_for_exit(DEADLINE), 0);
    // From a shell it did not do what it says.
    let command = Process::spawn(&mut home.command(&["reload"]));
    command.signal(libc::SIGTERM);
    assert_eq!(command.wait_for_exit(DEADLINE), 128 + libc::SIGTERM);
    drop(lease);
}

#[test]
fn without_a_gateway_reload_says_so() {
    let home = Home::new();
    refused(home.run(&["reload"]), 69, &["is not running", "start"]);
    refused(home.run(&["reload", "--json"]), 64, &["--json"]);
}

#[test]
fn nobody_reloads_over_tcp() {
    let (_home, gateway) = old();
    let key = gateway.authorization();
    let answer = gateway.connect().post("/v1/reload", &[("Authorization", &key)], "");
    answer.assert_status(404);
}

// ------------------------------------------------------ an empty configuration ----

#[test]
fn an_empty_or_missing_file_does_not_put_echo_in_the_place_of_an_agent() {
    let (home, gateway) = old();
    let file = home.config_file().display().to_string();
    home.configure("");
    refused(home.run(&["reload"]), 78, &[&file, "it is empty", "restore", "command = []"]);
    home.configure("# all of it\n\n[agent]\n");
    refused(home.run(&["reload"]), 78, &[&file, "it is empty"]);
    fs::remove_file(home.config_file()).unwrap();
    refused(home.run(&["reload"]), 78, &[&file, "there is no such file"]);
    assert_eq!(gateway.ask("x").reply(), "old");
    has(&gateway.status()["reload_error"].to_string(), &["there is no such file"]);
    // One that has lost its agent alone.
    home.configure("[stop]\ndrain_timeout = \"5s\"\n");
    refused(home.run(&["reload"]), 78, &[&file, "it names no agent", "command = []"]);
    assert_eq!(gateway.ask("x").reply(), "old");
    // Who means echo says so.
    home.configure("[agent]\ncommand = []\n");
    home.run(&["reload"]).assert_code(0);
    assert_eq!(gateway.ask("x").reply(), "x");
}

#[test]
fn a_file_that_came_with_a_reload_is_not_to_go_either() {
    let home = Home::new();
    let gateway = home.start();
    assert_eq!(gateway.ask("x").reply(), "x", "without any file it is echo");
    home.run(&["reload"]).assert_code(0);
    home.configure(&says("old"));
    home.run(&["reload"]).assert_code(0);
    home.configure("");
    refused(home.run(&["reload"]), 78, &["it is empty"]);
    assert_eq!(gateway.ask("x").reply(), "old");
}

#[test]
fn where_a_unit_is_installed_an_empty_or_missing_file_is_refused_before_the_start() {
    let home = Home::new();
    let unit = home.path().join("c/systemd/user/hermes-gateway.service");
    fs::create_dir_all(unit.parent().unwrap()).unwrap();
    fs::write(&unit, "[Service]\nExecStart=/x\n").unwrap();
    for words in [&["run"][..], &["config", "check"]] {
        refused(home.run(words), 78, &["default.toml", "no such file", "restore"]);
    }
    home.configure("# nothing\n");
    refused(home.run(&["run"]), 78, &["default.toml", "empty"]);
    let given = ["--config", "empty.toml", "-p", "other", "config", "check"];
    fs::write(home.path().join("h/empty.toml"), "").unwrap();
    refused(home.run(&given), 78, &["empty.toml", "empty"]);
    // What the command line says is no silence; and what no unit runs may do without a file.
    home.launch().set("agent.command", "[]").start();
    assert_eq!(Home::new().start().ask("x").reply(), "x");
}
