//! `send` for messages that nobody waits for: accepted now, asked after later, by whoever has the id.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use util::{DEADLINE, Gate, Gateway, Home, Outcome, Process, Target, Upstream, script};

/// `send --async` with these arguments, which must be accepted: the id, alone on stdout, and the
/// position that stderr tells; 0 where it is done already.
#[track_caller]
fn send(home: &Home, args: &[&str]) -> (String, usize) {
    let outcome = home.run(&[&["send", "--async"], args].concat()).assert_code(0);
    let id = outcome.stdout.strip_suffix('\n').unwrap_or_default();
    let is_id = id.len() == 26 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    assert!(is_id, "not an id alone: {outcome:?}");
    let place = outcome.stderr.strip_prefix("hermes-gateway: accepted, ").unwrap_or_default();
    let place = place.replace("done", "position 0");
    let place = place.trim_end().strip_prefix("position ").and_then(|place| place.parse().ok());
    (id.to_owned(), place.unwrap_or_else(|| panic!("no acceptance: {outcome:?}")))
}

/// The three ways to one reply: on a connection, in a session, and asked for later.
#[track_caller]
fn three_ways(home: &Home, text: &str) -> [Outcome; 3] {
    let alone = home.run(&["send", text]);
    let in_session = home.run(&["send", "-s", "one", text]);
    let accepted = home.run(&["send", "--async", "--session=two", text]);
    if accepted.code() != 0 {
        return [alone, in_session, accepted];
    }
    let later = home.run(&["send", "--result", accepted.stdout.trim_end(), "-w20"]);
    [alone, in_session, later]
}

#[track_caller]
fn assert_alike(home: &Home, code: i32, word: &str, what: &str) {
    for (way, outcome) in ["alone", "in a session", "later"].iter().zip(three_ways(home, "x")) {
        assert_eq!(outcome.code(), code, "{what}, {way}: {outcome:#?}");
        assert!(outcome.stderr.contains(word), "{what}, {way}: {outcome:#?}");
    }
}

#[test]
fn the_same_failure_exits_alike_whichever_way_it_was_sent() {
    let run = |more: &str, agent: &str| format!("{}{more}\n", script(agent));
    let once = "retry_for = 0\n[limits]\nmax_attempts = 1";
    let missing = "[agent]\ncommand = [\"/no/such/agent\"]\nretry_for = 0\n";
    let away = "[agent]\nurl = \"http://127.0.0.1:1/v1\"\nmodel = \"m\"\nretry_for = 0\n";
    let slow = "turn_timeout = \"50ms\"";
    for (what, config, code, word) in [
        ("exit status 3", run("", "echo why >&2; exit 3"), 1, "why"),
        ("exit status 75", run(once, "echo why >&2; exit 75"), 75, "why"),
        ("a signal", run(once, "kill -9 $$"), 75, "signal 9"),
        ("no program", missing.to_owned(), 75, "/no/such/agent"),
        ("upstream away", away.to_owned(), 75, "127.0.0.1"),
        ("too slow", run(slow, "exec sleep 60"), 1, "turn_timeout"),
        ("nothing said", run("", "exit 0"), 0, "the agent gave an empty reply"),
    ] {
        let home = Home::new();
        home.configure(&config);
        let gateway = home.start();
        // Turns run by then, which is a moment after READY=1: none waits for as long as it may take.
        let first = gateway.api().accepted("first", "x");
        gateway.api().finished(&first);
        assert_alike(&home, code, word, what);
    }
    // Nobody is there at all.
    let home = Home::new();
    assert_alike(&home, 69, "is not running", "no gateway");
    assert_eq!(home.run(&["send", "--result", "01J00000000000000000000000"]).code(), 69);
}

#[test]
fn what_the_upstream_refuses_exits_alike_whichever_way_it_was_sent() {
    for (status, code) in [(429, 75), (503, 75), (404, 1), (500, 1)] {
        let upstream = Upstream::start();
        let home = Home::new();
        home.configure(&upstream.config("retry_for = 0"));
        let _gateway = home.start();
        let server = thread::spawn(move || {
            for _ in 0..3 {
                let mut line = upstream.accept();
                line.request();
                let body = r#"{"error":{"message":"not now","type":"x","code":"own"}}"#;
                line.answer(status, "Connection: close\r\n", body);
            }
        });
        assert_alike(&home, code, "not now", &format!("status {status}"));
        server.join().unwrap();
    }
}

#[test]
fn a_full_queue_exits_alike_whichever_way_it_was_sent() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&format!("{}[limits]\nmax_turns = 1\nmax_queue = 1\n", gate.agent()));
    let gateway = home.start();
    send(&home, &["-sa", "runs"]);
    gateway.wait_for_turns(1);
    send(&home, &["-sb", "waits"]);
    assert_alike(&home, 75, "limits.max_queue (1)", "a full queue");
}

#[test]
fn the_id_goes_from_one_command_to_the_other() {
    let gateway = Gateway::start();
    let ours = gateway.home().command(&[]);
    let line = "exec \"$0\" send --wait=20 --result \"$(\"$0\" send --async hi)\"";
    let mut command = Command::new("sh");
    command.args(["-c", line]).arg(ours.get_program()).env_clear();
    command.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert_eq!(Process::spawn(&mut command).finish(DEADLINE).assert_code(0).stdout, "hi\n");
}

#[test]
fn an_unknown_option_is_sent_to_nobody() {
    let gateway = Gateway::start();
    let home = gateway.home();
    for args in [&["send", "--asnyc"][..], &["send", "--asnyc", "x"], &["send", "x", "-z"]] {
        let outcome = home.run(args).assert_code(64);
        assert!(
            outcome.stdout.is_empty() && outcome.stderr.contains("unknown option"),
            "{outcome:?}"
        );
    }
    assert_eq!(home.run(&["send", "--", "--asnyc"]).assert_code(0).stdout, "--asnyc\n");
}

#[test]
fn a_message_is_accepted_and_its_reply_fetched() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home.start();
    let (first, position) = send(&home, &["--session", "work", "long job"]);
    assert_eq!(position, 1);
    let (second, position) = send(&home, &["--session", "work", "another"]);
    assert_eq!(position, 2);
    let outcome = home.run(&["send", "--result", &first]);
    assert_eq!((outcome.code(), outcome.stdout.as_str()), (75, ""), "{outcome:?}");
    assert!(!outcome.stderr.is_empty());
    let began = Instant::now();
    assert_eq!(home.run(&["send", "--result", &first, "--wait", "1"]).code(), 75);
    assert!(began.elapsed() >= Duration::from_secs(1));
    let waits = Process::spawn(&mut home.command(&["send", "--result", &second, "--wait", "60"]));
    gate.open();
    assert_eq!(waits.finish(DEADLINE).assert_code(0).stdout, "begun\nanother\n");
    // However often, and however often the gateway dies.
    let gateway = gateway.reborn_after(libc::SIGKILL);
    for _ in 0..2 {
        let outcome = home.run(&["send", "--result", &first]).assert_code(0);
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("begun\nlong job\n", ""));
    }
    assert_eq!(gateway.api().message(&first)["session"], "work");
}

#[test]
fn a_gateway_that_is_killed_over_it_loses_no_message() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let text =
        format!("[ $HERMES_ATTEMPT -gt 1 ] || {}; echo attempt $HERMES_ATTEMPT", gate.wait());
    home.configure(&script(&text));
    let gateway = home.start();
    let (id, _) = send(&home, &["--session", "work", "long job"]);
    gateway.api().until(&id, "its turn", |message| message["status"] == "running");
    let home = gateway.end(libc::SIGKILL);
    // Nobody is there to be asked.
    let outcome = home.run(&["send", "--result", &id]);
    assert!(outcome.code() != 0 && !outcome.stderr.is_empty(), "{outcome:?}");
    let outcome = home.run(&["send", "--async", "x"]);
    assert!(outcome.code() != 0 && outcome.stdout.is_empty(), "{outcome:?}");
    let _gateway = home.start();
    let outcome = home.run(&["send", "--result", &id, "--wait", "20"]).assert_code(0);
    assert_eq!(outcome.stdout, "attempt 2\n");
}

#[test]
fn a_key_makes_sending_twice_safe() {
    let gateway = Gateway::start();
    let home = gateway.home();
    let (first, _) = send(home, &["--session", "s", "--idempotency-key", "k", "x"]);
    let (again, _) = send(home, &["--session", "s", "--idempotency-key", "k", "x"]);
    assert_eq!(first, again);
    let outcome = home.run(&["send", "--async", "--session", "s", "--idempotency-key", "k", "y"]);
    assert!(outcome.code() != 0 && outcome.stdout.is_empty(), "{outcome:?}");
    let (other, _) = send(home, &["--session", "s", "--idempotency-key", "l", "x"]);
    assert_ne!(first, other);
}

#[test]
fn the_target_and_the_mode_go_along() {
    let (home, target) = (Home::new(), Target::start());
    let gate = Gate::closed(home.path());
    home.configure(&format!("{}{}", gate.agent(), target.config("out", "")));
    let gateway = home.start();
    let (first, _) = send(&home, &["--session", "s", "a"]);
    gateway.api().until(&first, "its turn", |message| message["status"] == "running");
    let args = ["--session", "s", "--deliver", "out", "--mode", "interrupt", "b"];
    let (second, _) = send(&home, &args);
    assert_eq!(gateway.api().finished(&first)["status"], "cancelled");
    gate.open();
    gateway.api().until_delivery(&second, "delivered");
    assert_eq!(target.received().len(), 1);
    let outcome = home.run(&["send", "--result", &first]);
    assert!(!matches!(outcome.code(), 0 | 75), "{outcome:?}");
    assert!(
        outcome.stderr.contains("cancelled") || outcome.stderr.contains("interrupt"),
        "{outcome:?}"
    );
    let outcome = home.run(&["send", "--async", "--deliver", "nowhere", "x"]);
    assert!(outcome.code() != 0 && outcome.stderr.contains("nowhere"), "{outcome:?}");
}

#[test]
fn a_failure_is_told_in_words() {
    let home = Home::new();
    home.configure(&script("echo in words >&2; exit 3"));
    let _gateway = home.start();
    let (id, _) = send(&home, &["x"]);
    let outcome = home.run(&["send", "--result", &id, "--wait", "20"]);
    assert!(!matches!(outcome.code(), 0 | 75), "{outcome:?}");
    assert!(outcome.stdout.is_empty() && outcome.stderr.contains("in words"), "{outcome:?}");
}

#[test]
fn a_mode_that_there_is_not_is_wrong_usage_before_anybody_is_asked() {
    let home = Home::new();
    for args in [&["send", "--mode", "foo", "x"][..], &["send", "-s", "s", "--mode=foo", "x"]] {
        let outcome = home.run(args).assert_code(64);
        for word in ["--mode", "queue", "interrupt", "\"foo\""] {
            assert!(outcome.stderr.contains(word), "{outcome:?}");
        }
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let gateway = Gateway::start();
    let home = gateway.home();
    let unknown = home.run(&["send", "--result", "01J00000000000000000000000"]);
    assert!(!matches!(unknown.code(), 0 | 75), "{unknown:?}");
    for args in [
        &["send", "--result"][..],
        &["send", "--result", "nonsense"],
        &["send", "--result", "01J00000000000000000000000", "--wait", "soon"],
        &["send", "--async", "--mode", "later", "x"],
        &["send", "--async", "--wait", "1", "x"],
        &["send", "--async", ""],
    ] {
        let outcome = home.run(args);
        assert!(!matches!(outcome.code(), 0 | 75), "{args:?}: {outcome:?}");
        assert!(outcome.stdout.is_empty() && !outcome.stderr.is_empty(), "{args:?}: {outcome:?}");
    }
    let sessions = gateway.api().get("/v1/sessions").assert_status(200).json();
    assert_eq!(sessions["sessions"], serde_json::json!([]));
}
