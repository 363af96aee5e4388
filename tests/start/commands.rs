//! Commands under a user's hands: what they print to a terminal and to a pipe, and the log that they
//! lead to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use serde_json::json;

use util::{DEADLINE, Gate, Gateway, Home, Process, binary, script, sys};

/// What a command prints on a terminal, until it has printed `last` or ended.
#[track_caller]
fn on_a_terminal(command: &mut Command, last: &str) -> String {
    let (mut ours, theirs) = sys::terminal().expect("a terminal");
    let errors = theirs.try_clone().expect("another descriptor");
    command.stdin(Stdio::null()).stdout(theirs).stderr(errors);
    let mut child = command.spawn().expect("start it");
    // The command holds the terminal's other end, which must go with the child.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, pieces) = channel();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = ours.read(&mut bytes) {
            if sender.send(bytes[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let (deadline, mut said) = (Instant::now() + DEADLINE, Vec::new());
    loop {
        match pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(piece) => said.extend(piece),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("{:?}", String::from_utf8_lossy(&said)),
        }
        if !last.is_empty() && String::from_utf8_lossy(&said).contains(last) {
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    String::from_utf8(said).unwrap().replace("\r\n", "\n")
}

#[track_caller]
fn assert_fits(text: &str) {
    let wide = text.lines().find(|line| line.chars().count() > 80);
    assert!(wide.is_none() && !text.is_empty(), "{wide:?} in\n{text}");
}

/// A home with sessions that wait and fail, and with runs that ended.
fn busy() -> Gateway {
    let home = Home::named("my-coder");
    let gate = Gate::closed(home.path());
    let text = format!(
        "read -r text; case $text in wait) {};; *) echo the model is not there and will not be \
         there for a long time to come, so ask again another day >&2; exit 3;; esac",
        gate.wait()
    );
    home.configure(&format!("{}[limits]\nmax_turns = 8\n", script(&text)));
    let mut gateway = home.start();
    for session in ["work", "telegram:12345"] {
        let failed = gateway.api().accepted(session, "fail\n");
        gateway.api().finished(&failed);
    }
    for signal in [libc::SIGKILL, libc::SIGINT, libc::SIGTERM] {
        gateway = gateway.reborn_after(signal);
    }
    let waits = gateway.api().accepted("work", "wait\n");
    gateway.api().until(&waits, "its turn", |message| message["status"] == "running");
    // It stays closed to the end.
    std::mem::forget(gate);
    gateway
}

#[test]
fn what_commands_print_fits_a_terminal() {
    let gateway = busy();
    let home = gateway.home();
    for args in [&["status"][..], &["history"], &["journal"], &["list"], &["--help"]] {
        let said = on_a_terminal(&mut home.command(args), "");
        assert_fits(&said);
        // A program that reads has a fact a line, as long as it is.
        let piped = home.run(args).stdout;
        let words = |text: &str| text.split_whitespace().count();
        assert_eq!(words(&said), words(&piped), "{args:?}\n{said}\n{piped}");
    }
    let piped = home.run(&["journal"]).stdout;
    assert!(piped.contains("and will not be there for a long time to come, so ask"), "{piped}");
}

#[test]
fn the_greeting_is_for_a_terminal_and_its_commands_work_from_any_directory() {
    let home = Home::new();
    let run = ["run", "--set", "http.listen=127.0.0.1:0"];
    // A build directory, with a blank in it, and a relative path to it.
    let dir = home.path().join("h/a b");
    fs::create_dir(&dir).unwrap();
    symlink(binary(), dir.join("hermes-gateway")).unwrap();
    let mut command = Command::new("a b/hermes-gateway");
    let ours = home.command(&[]);
    let variables = || ours.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.args(run).env_clear().envs(variables()).current_dir(home.path().join("h"));
    let said = on_a_terminal(&mut command, "Ctrl-C stops it.");
    let line = said.lines().find(|line| line.contains("send \"hello\""));
    let line = line.unwrap_or_else(|| panic!("no command to try: {said}"));
    let program = dir.join("hermes-gateway");
    assert!(line.contains(&format!("'{}' send", program.display())), "{line}");
    // By a name on PATH it stays that name.
    let mut command = Command::new("hermes-gateway");
    let path = format!("{}:/usr/bin:/bin", dir.display());
    command.args(run).env_clear().envs(variables()).env("PATH", path);
    let said = on_a_terminal(&mut command, "Ctrl-C stops it.");
    assert!(said.contains("\n  hermes-gateway send \"hello\"\n"), "{said}");
    // Nobody reads it elsewhere.
    let mut command = home.command(&run);
    let gateway = Process::spawn(&mut command);
    gateway.wait_for_log("serves on", DEADLINE);
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.finish(DEADLINE).assert_code(0).stdout, "");
}

#[test]
fn a_turn_leaves_a_line_without_what_was_said() {
    let home = Home::new();
    home.configure(&script("read -r text; [ $text = good ] || exit 3; printf %s \"$text\""));
    let gateway = home.start();
    let api = gateway.api();
    let done = api.accepted("a \"b\"", "good\n");
    assert_eq!(api.reply(&done), "good");
    let failed = api.accepted("s", "secret\n");
    api.finished(&failed);
    gateway.wait_for_log(&format!("turn {failed} "), DEADLINE);
    let log = gateway.stderr();
    let line = |id: &str| -> Vec<String> {
        let lines = log.lines().filter(|line| line.contains(&format!("turn {id} ")));
        lines.map(str::to_owned).collect()
    };
    let (done, failed) = (line(&done), line(&failed));
    assert_eq!((done.len(), failed.len()), (1, 1), "{log}");
    let has = |line: &str, words: &[&str]| {
        assert!(words.iter().all(|word| line.contains(word)), "{words:?}: {line}");
    };
    has(&done[0], &["INFO", "(session \"a \\\"b\\\"\", attempt 1, ", " ms, 4 bytes) is done"]);
    has(&failed[0], &["WARN", "(session \"s\", attempt 1, ", "0 bytes) failed: ", "status 3"]);
    // One that is not written down too.
    assert_eq!(gateway.ask("good\n").reply(), "good");
    let line = gateway.wait_for_log("(session none, attempt 1, ", DEADLINE);
    assert!(line.contains(" ms, 4 bytes) is done"), "{line}");
    let log = gateway.stderr();
    assert!(!log.contains("good") && !log.contains("secret"), "{log}");
}

#[test]
fn an_echo_that_is_not_written_down_leaves_a_line_for_debugging_only() {
    let line = "(session none, attempt 1, ";
    let gateway = Gateway::start();
    assert_eq!(gateway.ask("x").reply(), "x");
    let id = gateway.api().accepted("s", "x");
    gateway.wait_for_log(&format!("turn {id} (session \"s\""), DEADLINE);
    assert!(!gateway.stderr().contains(line), "{}", gateway.stderr());
    let gateway = Home::new().launch().set("log.level", "debug").start();
    assert_eq!(gateway.ask("x").reply(), "x");
    gateway.wait_for_log(line, DEADLINE);
}

#[test]
fn there_is_no_journal_before_the_first_run() {
    let home = Home::new();
    for args in [&["journal"][..], &["journal", "check"], &["journal", "dump"]] {
        let outcome = home.run(args).assert_code(1);
        assert!(outcome.stderr.contains("there is no journal at"), "{outcome:?}");
        assert!(outcome.stderr.contains("unless it runs with --ephemeral"), "{outcome:?}");
    }
    for action in ["compact", "repair"] {
        let outcome = home.run(&["journal", action]).assert_code(1);
        assert!(outcome.stderr.contains("there is no journal at"), "{outcome:?}");
    }
    assert!(!home.state_dir().join("journal").exists(), "looking made one");
    let outcome = home.run(&["--config", "", "config"]).assert_code(64);
    assert!(outcome.stderr.contains("--config takes a file"), "{outcome:?}");
}

#[test]
fn the_log_of_a_unit_is_cut_as_asked_for() {
    let home = Home::new();
    let (units, bin) = (home.path().join("c/systemd/user"), home.path().join("h/bin"));
    for dir in [&units, &bin] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(units.join("hermes-gateway.service"), "").unwrap();
    fs::write(bin.join("journalctl"), "#!/bin/sh\necho \"$@\"\n").unwrap();
    fs::set_permissions(bin.join("journalctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let logs = |args: &[&str]| {
        let mut command = home.command(&[&["logs"], args].concat());
        Process::spawn(command.env("PATH", &path)).finish(DEADLINE).assert_code(0).stdout
    };
    let unit = "--user --unit hermes-gateway.service";
    assert_eq!(logs(&["-n3", "--since", "1 h ago"]), format!("{unit} -n3 --since=1 h ago\n"));
    assert_eq!(logs(&["-f", "--lines", "5"]), format!("{unit} -n5 -f\n"));
    assert_eq!(logs(&[]), format!("{unit}\n"));
}

#[test]
fn the_log_of_a_gateway_in_the_foreground_is_found() {
    let home = Home::new();
    let outcome = home.run(&["logs"]).assert_code(1);
    assert!(outcome.stderr.contains("look where it was started"), "{outcome:?}");
    let log = home.path().join("h/gateway.log");
    // Through a shell, as users write their logs to files.
    let line = format!("exec \"$0\" \"$@\" 2> {}", log.display());
    let process = home.launch().through(&["sh", "-c", &line]).spawn();
    process.wait_for_notification("READY=1", DEADLINE);
    let outcome = home.run(&["logs"]).assert_code(1);
    let wanted = format!("that of pid {} is {}", process.pid(), log.display());
    assert!(outcome.stderr.contains(&wanted), "{outcome:?}");
    drop(File::open(log).unwrap());
    let listed = json!(home.run(&["history", "-n1"]).assert_code(0).stdout);
    assert_eq!(listed, "");
}
