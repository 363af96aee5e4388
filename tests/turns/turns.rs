//! Turns of accepted messages from outside: attempts, kills, retries, order, and the transcript.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use util::api::session_path;
use util::http::Connection;
use util::sys::Lease;
use util::{DEADLINE, Gate, Home, eventually, pause, script};

/// A home whose agent is this script; `NOTES` in it is a file, which is returned.
fn with_notes(text: &str, more: &str) -> (Home, PathBuf) {
    let home = Home::new();
    let notes = home.path().join("notes");
    let text = text.replace("NOTES", &notes.display().to_string());
    home.configure(&format!("{}{more}", script(&text)));
    (home, notes)
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Waits until the file has so many lines.
#[track_caller]
fn wait_for_lines(file: &Path, count: usize) {
    eventually("a line", || (lines(file).len() >= count).then_some(()));
}

/// Notes its attempt and waits at the gate with the first; the second has an answer.
fn second_time_lucky(home: &Home, gate: &Gate) -> (String, PathBuf) {
    let notes = home.path().join("notes");
    let text = format!(
        "echo \"$HERMES_MESSAGE_ID $HERMES_ATTEMPT\" >> {}; [ $HERMES_ATTEMPT -gt 1 ] || {}; \
         printf '%s: attempt %s' \"$(cat)\" $HERMES_ATTEMPT",
        notes.display(),
        gate.wait()
    );
    (script(&text), notes)
}

// -------------------------------------------------------------------- kills ----

/// An operator may restart the gateway as often as it takes: only crashes and kills count.
#[test]
fn stops_that_were_asked_for_wear_no_turn_out() {
    let text = "echo x >> NOTES; [ $HERMES_ATTEMPT -gt 3 ] || exec sleep 600; echo made";
    let more = "[limits]\nmax_attempts = 1\n[stop]\ndrain_timeout = \"10ms\"\n";
    let (home, notes) = with_notes(text, more);
    let mut gateway = home.start();
    let id = gateway.api().accepted("work", "hello");
    for stop in 1..=3 {
        wait_for_lines(&notes, stop);
        gateway = gateway.reborn_after(libc::SIGINT);
    }
    let message = gateway.api().finished(&id);
    assert_eq!((&message["reply"], &message["attempts"]), (&json!("made"), &json!(4)), "{message}");
}

#[test]
fn a_turn_that_a_kill_cut_short_runs_again() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let (config, notes) = second_time_lucky(&home, &gate);
    home.configure(&config);
    let gateway = home.start();
    let id = gateway.api().accepted("work", "hello");
    wait_for_lines(&notes, 1);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let message = gateway.api().finished(&id);
    assert_eq!(message["reply"], "hello: attempt 2", "{message}");
    assert_eq!((&message["status"], &message["attempts"]), (&"done".into(), &2.into()));
    assert_eq!(lines(&notes), [format!("{id} 1"), format!("{id} 2")]);
}

#[test]
fn a_message_that_is_cut_short_too_often_fails_in_words() {
    for most in [1, 2, 3] {
        let limit = format!("[limits]\nmax_attempts = {most}\n");
        let (home, notes) = with_notes("echo $HERMES_ATTEMPT >> NOTES; exec sleep 600", &limit);
        let mut gateway = home.start();
        let id = gateway.api().accepted("work", "x");
        for attempt in 1..=most {
            wait_for_lines(&notes, attempt);
            gateway = gateway.reborn_after(libc::SIGKILL);
        }
        let message = gateway.api().finished(&id);
        assert_eq!((&message["status"], &message["reply"]), (&"failed".into(), &Value::Null));
        assert_eq!(message["attempts"], most, "{message}");
        let words = message["error"].as_str().unwrap();
        assert!(words.split(' ').count() > 3, "{words}");
        assert_eq!(lines(&notes).len(), most);
    }
}

#[test]
fn what_waits_survives_a_kill_in_its_order() {
    let (home, notes) = with_notes("", "");
    let gate = Gate::closed(home.path());
    let text = format!(
        "text=$(cat); [ $HERMES_ATTEMPT -gt 1 ] || [ $text != m0 ] || {}; echo $text >> {}; echo $text",
        gate.wait(),
        notes.display()
    );
    home.configure(&script(&text));
    let gateway = home.start();
    let texts: Vec<String> = (0..8).map(|number| format!("m{number}")).collect();
    let ids: Vec<String> = texts.iter().map(|text| gateway.api().accepted("s", text)).collect();
    gateway.api().until(&ids[0], "the first turn", |message| message["status"] == "running");
    let gateway = gateway.reborn_after(libc::SIGKILL);
    for (id, text) in ids.iter().zip(&texts) {
        assert_eq!(&gateway.api().reply(id), text);
    }
    assert_eq!(lines(&notes), texts);
}

/// An agent that is not born yet when the gateway dies has a copy of all descriptors still, that of
/// the lock too: for as long as its exec takes, here as long as this test likes.
#[test]
fn a_start_waits_for_an_agent_that_a_dead_gateway_was_about_to_have() {
    let home = Home::new();
    let program = home.path().join("agent");
    fs::copy("/bin/cat", &program).unwrap();
    home.configure(&format!("[agent]\ncommand = [{:?}]\n", program.display().to_string()));
    let gateway = home.start();
    let mut lease = Lease::take(&program).unwrap();
    let id = gateway.api().accepted("s", "x");
    lease.wait_until_asked(DEADLINE).unwrap();
    let home = gateway.end(libc::SIGKILL);
    let process = home.launch().spawn();
    pause(Duration::from_millis(100));
    drop(lease);
    process.wait_for_notification("READY=1", DEADLINE);
    let mut control = Connection::unix(&home.control_socket());
    let message = control.get(&format!("/v1/messages/{id}?wait=20"), &[]).assert_status(200).json();
    assert_eq!((&message["status"], &message["attempts"]), (&"done".into(), &2.into()));
}

#[test]
fn a_turn_that_the_end_of_a_drain_cut_runs_again() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let (config, notes) = second_time_lucky(&home, &gate);
    home.configure(&format!("{config}[stop]\ndrain_timeout = \"200ms\"\n"));
    let gateway = home.start();
    let id = gateway.api().accepted("work", "x");
    let waiting = gateway.api().accepted("work", "y");
    wait_for_lines(&notes, 1);
    let began = Instant::now();
    let gateway = gateway.reborn_after(libc::SIGTERM);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(gateway.api().reply(&id), "x: attempt 2");
    gate.open();
    assert_eq!(gateway.api().reply(&waiting), "y: attempt 1");
}

#[test]
fn what_waits_when_a_drain_begins_runs_after_the_start() {
    let (home, notes) = with_notes("", "");
    let gate = Gate::closed(home.path());
    home.configure(&script(&format!(
        "text=$(cat); echo $text >> {}; {}; echo $text",
        notes.display(),
        gate.wait()
    )));
    let gateway = home.start();
    let api = gateway.api();
    let [first, second] = ["a", "b"].map(|text| api.accepted("s", text));
    wait_for_lines(&notes, 1);
    gateway.signal(libc::SIGTERM);
    eventually("the drain", || (gateway.status()["state"] == "draining").then_some(()));
    gate.open();
    gateway.wait_for_exit(DEADLINE);
    let gateway = home.start();
    // The running one had its time; the other may have begun in the drain or after it, but once.
    assert_eq!(gateway.api().finished(&first)["attempts"], 1);
    assert_eq!(gateway.api().finished(&second)["attempts"], 1);
    assert_eq!(lines(&notes), ["a", "b"]);
}

#[test]
fn an_ephemeral_gateway_keeps_nothing() {
    let home = Home::new();
    let gateway = home.launch().arg("--ephemeral").start();
    let id = gateway.api().accepted("s", "x");
    assert_eq!(gateway.api().reply(&id), "x");
    assert!(!home.state_dir().join("journal").exists());
    let transcripts = home.runtime_dir().join("ephemeral/sessions");
    let count = || fs::read_dir(&transcripts).map_or(0, Iterator::count);
    assert!(count() > 0 && !home.state_dir().join("sessions").exists());
    let home = gateway.end(libc::SIGKILL);
    let gateway = home.launch().arg("--ephemeral").start();
    gateway.api().get(&format!("/v1/messages/{id}")).assert_status(404);
    assert_eq!(count(), 0, "the transcripts of a run that was killed");
    gateway.api().reply(&gateway.api().accepted("s", "x"));
    assert!(count() > 0);
    gateway.end(libc::SIGTERM);
    assert!(!transcripts.exists(), "the transcripts of a run that ended");
}

// ------------------------------------------------------------------ failures ----

#[test]
fn a_temporary_failure_is_tried_again_after_a_while() {
    let text = "echo $HERMES_ATTEMPT >> NOTES; [ $HERMES_ATTEMPT -gt 1 ] || { echo why >&2; exit 75; }; cat";
    let (home, notes) = with_notes(text, "");
    let gateway = home.start();
    let began = Instant::now();
    let id = gateway.api().accepted("s", "x");
    let message =
        gateway.api().until(&id, "the rest", |m| m["attempts"] == 1 && m["status"] == "queued");
    assert!(message["reply"].is_null(), "{message}");
    let message = gateway.api().finished(&id);
    let took = began.elapsed();
    assert_eq!(
        (&message["status"], &message["attempts"]),
        (&"done".into(), &2.into()),
        "{message}"
    );
    assert_eq!(message["error"], Value::Null, "{message}");
    // About a second, and some chance in it.
    assert!(took > Duration::from_millis(400) && took < Duration::from_secs(8), "{took:?}");
    assert_eq!(lines(&notes), ["1", "2"]);
}

#[test]
fn each_further_pause_is_longer() {
    let text = "date +%s.%N >> NOTES; exit 75";
    let (home, notes) = with_notes(text, "");
    let gateway = home.start();
    let id = gateway.api().accepted("s", "x");
    wait_for_lines(&notes, 3);
    gateway.api().delete(&format!("/v1/messages/{id}")).assert_status(200);
    let times: Vec<f64> = lines(&notes).iter().map(|line| line.parse().unwrap()).collect();
    let (first, second) = (times[1] - times[0], times[2] - times[1]);
    assert!(first > 0.4 && first < 2.5 && second > 0.8 && second < 5.0, "{first} {second}");
}

#[test]
fn exit_status_75_and_a_signal_are_temporary_failures() {
    let text =
        "read -r how; case $how in 75) echo in words >&2; exit 75;; kill) kill -KILL $$;; esac";
    let (home, _) = with_notes(text, "retry_for = \"100ms\"\n[limits]\nmax_attempts = 2\n");
    let gateway = home.start();
    let api = gateway.api();
    let ids = ["75\n", "kill\n"].map(|text| api.accepted(text.trim(), text));
    for (id, words) in ids.iter().zip(["in words", "signal 9"]) {
        let message = api.finished(id);
        assert_eq!((&message["status"], &message["attempts"]), (&"failed".into(), &2.into()));
        let error = message["error"].as_str().unwrap();
        assert!(error.contains(words), "{error}");
    }
    let home = Home::new();
    home.configure("[agent]\ncommand = [\"/nonexistent/agent\"]\nretry_for = \"100ms\"\n");
    let gateway = home.start();
    let id = gateway.api().accepted("s", "x");
    let message = gateway.api().finished(&id);
    assert_eq!((&message["status"], &message["attempts"]), (&"failed".into(), &2.into()));
    assert!(message["error"].as_str().unwrap().contains("/nonexistent/agent"), "{message}");
}

#[test]
fn a_permanent_failure_is_answered_at_once() {
    let (home, notes) = with_notes("echo $HERMES_ATTEMPT >> NOTES; echo why >&2; exit 3", "");
    let gateway = home.start();
    let target = format!("{}/messages?wait=20", session_path("s"));
    let message = gateway.api().post(&target, &json!({"text": "x"})).assert_status(200).json();
    assert_eq!((&message["status"], &message["attempts"]), (&"failed".into(), &1.into()));
    assert_eq!(message["reply"], Value::Null, "{message}");
    let error = message["error"].as_str().unwrap();
    assert!(error.contains("exit status 3") && error.contains("why"), "{error}");
    assert_eq!(lines(&notes), ["1"]);
}

#[test]
fn a_turn_that_takes_too_long_fails() {
    let home = Home::new();
    home.configure(&format!("{}turn_timeout = \"300ms\"\n", script("exec sleep 600")));
    let gateway = home.start();
    let id = gateway.api().accepted("s", "x");
    let next = gateway.api().accepted("s", "y");
    let message = gateway.api().finished(&id);
    assert_eq!(message["status"], "failed", "{message}");
    assert!(message["error"].as_str().unwrap().contains("turn_timeout"), "{message}");
    gateway.api().finished(&next);
}

#[test]
fn order_holds_across_retries() {
    let text = "text=$(cat); echo $text $HERMES_ATTEMPT >> NOTES; [ $text != a ] || [ $HERMES_ATTEMPT = 3 ] || exit 75";
    let (home, notes) = with_notes(text, "[limits]\nmax_attempts = 3\n");
    let gateway = home.start();
    let api = gateway.api();
    let ids = ["a", "b", "c"].map(|text| api.accepted("s", text));
    // Another session does not wait for this one.
    let other = api.accepted("t", "other");
    assert_eq!(api.finished(&other)["status"], "done");
    assert_ne!(api.message(&ids[0])["status"], "done");
    for id in &ids {
        assert_eq!(api.finished(id)["status"], "done");
    }
    let lines: Vec<String> = lines(&notes).into_iter().filter(|line| line != "other 1").collect();
    assert_eq!(lines, ["a 1", "a 2", "a 3", "b 1", "c 1"]);
}

#[test]
fn a_kill_between_two_attempts_keeps_count() {
    let text = "echo $HERMES_ATTEMPT >> NOTES; kill -KILL $$";
    let (home, notes) = with_notes(text, "[limits]\nmax_attempts = 2\n");
    let gateway = home.start();
    let id = gateway.api().accepted("s", "x");
    gateway.api().until(&id, "the rest", |m| m["attempts"] == 1 && m["status"] == "queued");
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let message = gateway.api().finished(&id);
    assert_eq!((&message["status"], &message["attempts"]), (&"failed".into(), &2.into()));
    assert_eq!(lines(&notes), ["1", "2"]);
}

#[test]
fn nothing_runs_beside_an_agent_that_takes_its_time_to_end() {
    let text = "read -r text; case $text in stays) trap '' TERM; echo $$ > NOTES.new; mv NOTES.new NOTES; \
                while :; do sleep 0.1; done;; esac; \
                if kill -0 $(cat NOTES) 2>/dev/null; then echo beside; else echo behind; fi";
    let (home, notes) = with_notes(text, "");
    let gateway = home.start();
    let api = gateway.api();
    let [first, second] = ["stays\n", "looks\n"].map(|text| api.accepted("s", text));
    wait_for_lines(&notes, 1);
    let message = api.delete(&format!("/v1/messages/{first}")).assert_status(200).json();
    assert_eq!(message["status"], "cancelled", "{message}");
    assert_eq!(api.reply(&second), "behind");
}
