//! `send` for messages that nobody waits for: accepted now, asked after later, by whoever has the id.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod util;

use std::time::{Duration, Instant};

use util::{DEADLINE, Gate, Gateway, Home, Process, Target, script};

/// The id and the position in `accepted ID, position N`; 0 in `accepted ID, done`.
#[track_caller]
fn accepted(printed: &str) -> (String, usize) {
    let words = printed.strip_prefix("accepted ").and_then(|rest| rest.strip_suffix('\n'));
    let position = words.map(|words| words.replace(", done", ", position 0"));
    let parts = position.as_deref().and_then(|words| words.split_once(", position "));
    let (id, position) = parts.unwrap_or_else(|| panic!("no acceptance: {printed:?}"));
    assert!(id.len() == 26 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{printed:?}");
    (id.to_owned(), position.parse().unwrap())
}

/// `send --async` with these arguments, which must be accepted.
#[track_caller]
fn send(home: &Home, args: &[&str]) -> (String, usize) {
    let outcome = home.run(&[&["send", "--async"], args].concat()).assert_code(0);
    assert_eq!(outcome.stderr, "");
    accepted(&outcome.stdout)
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
