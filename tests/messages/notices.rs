//! Notices: sessions whose turns were cut short, and the targets that are told of stops and failures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::time::Duration;

use serde_json::{Value, json};

use util::api::{Event, id_of, session_path};
use util::{DEADLINE, Gate, Gateway, Home, Received, Target, eventually, script};

/// The replies that a target got.
#[track_caller]
fn replies(received: &[Received]) -> Vec<String> {
    let reply = |it: &Received| {
        let body = it.json();
        body["data"]["reply"].as_str().unwrap_or_else(|| panic!("no reply: {body}")).to_owned()
    };
    received.iter().map(reply).collect()
}

/// The ends of messages that a session has had so far, and their beginnings by id.
#[track_caller]
fn records(gateway: &Gateway, session: &str) -> Vec<Event> {
    // Something that ends after all that was there.
    let last = whoami(gateway, session, None);
    let mut events = gateway.api().events(session, Some(0));
    let mut records = Vec::new();
    loop {
        let event = events.next_record();
        if event.data["id"] == last.as_str() {
            return records;
        }
        records.push(event);
    }
}

/// The texts of a session's notices.
#[track_caller]
fn notices(gateway: &Gateway, session: &str) -> Vec<String> {
    let records = records(gateway, session);
    let of = |record: &&Event| record.kind == "accepted" && record.data["mode"] == "notice";
    let ids: Vec<&Value> = records.iter().filter(of).map(|record| &record.data["id"]).collect();
    let end = |id: &Value| {
        let done = records.iter().find(|it| it.kind == "done" && it.data["id"] == *id);
        done.unwrap_or_else(|| panic!("no end of {id}: {records:?}")).data["reply"].clone()
    };
    ids.into_iter().map(|id| end(id).as_str().unwrap().to_owned()).collect()
}

/// Has a turn run in this session, which waits at the gate.
#[track_caller]
fn running(gateway: &Gateway, session: &str) -> String {
    let id = gateway.api().accepted(session, "x");
    gateway.api().until(&id, "its turn", |message| message["status"] == "running");
    id
}

/// A message that no agent answers; its id.
#[track_caller]
fn whoami(gateway: &Gateway, session: &str, deliver: Option<&str>) -> String {
    let body = json!({"text": "/whoami", "deliver": deliver});
    let path = format!("{}/messages", session_path(session));
    id_of(&gateway.api().post(&path, &body).assert_status(200).json())
}

/// Waits until the start has done all that follows READY.
#[track_caller]
fn settled(gateway: Gateway) -> Gateway {
    eventually("the last end with its next start", || {
        gateway.status()["last_stop"]["next"].is_object().then_some(())
    });
    gateway
}

/// What is delivered after all that is on its way to this target.
#[track_caller]
fn mark(gateway: &Gateway, name: &str) {
    let id = whoami(gateway, "mark", Some(name));
    gateway.api().until_delivery(&id, "delivered");
}

#[test]
fn a_session_whose_turn_was_cut_short_is_told_and_no_other() {
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let home = Home::new();
        let gate = Gate::closed(home.path());
        home.configure(&format!("{}[stop]\ndrain_timeout = \"100ms\"\n", gate.agent()));
        let gateway = home.start();
        let id = running(&gateway, "cut");
        whoami(&gateway, "idle", None);
        let gateway = settled(gateway.reborn_after(signal));
        let told = notices(&gateway, "cut");
        assert_eq!(told.len(), 1, "{signal}: {told:?}");
        for words in [&format!("turn of message {id} was interrupted"), "as attempt 2"] {
            assert!(told[0].contains(words), "{signal}: {told:?}");
        }
        assert_eq!(notices(&gateway, "idle"), [""; 0]);
        gate.open();
        assert_eq!(gateway.api().reply(&id), "begun\nx");
        // What is over is not told again.
        let gateway = settled(gateway.reborn_after(signal));
        assert_eq!(notices(&gateway, "cut").len(), 1, "{signal}");
        let sessions = gateway.home().state_dir().join("sessions");
        let files = std::fs::read_dir(sessions).unwrap().filter_map(Result::ok);
        let said: String =
            files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect();
        assert!(said.contains("begun") && !said.contains("interrupted"), "{said}");
    }
}

#[test]
fn a_target_is_told_of_a_stop_and_of_the_return() {
    let (home, target) = (Home::named("my-coder"), Target::start());
    home.configure(&format!("[stop]\nnotify = \"ops\"\n{}", target.config("ops", "")));
    let home = home.start().end(libc::SIGINT);
    // It was sent before the process ended.
    let down = replies(&target.received());
    assert_eq!(down.len(), 1, "{down:?}");
    for words in ["gateway my-coder goes down at 20", "planned, SIGINT from ", " uid "] {
        assert!(down[0].contains(words), "{down:?}");
    }
    let gateway = home.start();
    let back = replies(&target.wait_for(2)).pop().unwrap();
    assert!(back.starts_with("gateway my-coder is back after "), "{back}");
    assert!(back.ends_with(&format!("version {}", env!("CARGO_PKG_VERSION"))), "{back}");
    // A stop that follows at once is counted, and told with the next one.
    let gateway = gateway.reborn_after(libc::SIGINT);
    mark(&gateway, "ops");
    assert_eq!(target.received().len(), 3, "{:?}", replies(&target.received()));
}

#[test]
fn what_could_not_be_sent_before_the_stop_is_one_notice_with_the_return() {
    let home = Home::new();
    let target = Target::answering(|number, _| if number == 1 { 500.into() } else { 204.into() });
    home.configure(&format!("[stop]\nnotify = \"ops\"\n{}", target.config("ops", "")));
    let home = home.start().end(libc::SIGINT);
    let down = replies(&target.received()).remove(0);
    let gateway = home.start();
    let told = replies(&target.wait_for(2)).pop().unwrap();
    assert!(
        told.contains("went down at 20") && told.contains("it is back after "),
        "{down} {told}"
    );
    mark(&gateway, "ops");
    assert_eq!(target.received().len(), 3, "{:?}", replies(&target.received()));
    assert_eq!(gateway.status()["journal"]["outbox"], 0);
    assert_eq!(gateway.status()["journal"]["dead_letters"], 0);
}

#[test]
fn a_target_that_hangs_does_not_hold_a_stop_up() {
    let home = Home::new();
    let target = Target::answering(|_, _| {
        util::pause(3 * DEADLINE);
        204.into()
    });
    home.configure(&format!("[stop]\nnotify = \"ops\"\n{}", target.config("ops", "")));
    let gateway = home.start();
    let began = std::time::Instant::now();
    gateway.end(libc::SIGINT);
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

#[test]
fn a_crash_is_told_only_where_it_cut_work_short_and_not_again_and_again() {
    let (home, target) = (Home::new(), Target::start());
    let gate = Gate::closed(home.path());
    let ops = target.config("ops", "");
    home.configure(&format!(
        "[stop]\nnotify = \"ops\"\n{ops}{}\n[limits]\nmax_attempts = 9\n",
        gate.agent()
    ));
    let gateway = home.start();
    let gateway = settled(gateway.reborn_after(libc::SIGKILL));
    mark(&gateway, "ops");
    assert_eq!(target.received().len(), 1, "{:?}", replies(&target.received()));
    let id = running(&gateway, "s");
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let told = replies(&target.wait_for(2)).pop().unwrap();
    for words in ["gateway default ended (unclean exit: ", "is back", "1 turn interrupted"] {
        assert!(told.contains(words), "{told}");
    }
    // A kill might repeat what is on its way.
    eventually("the delivery", || (gateway.status()["journal"]["outbox"] == 0).then_some(()));
    gateway.api().until(&id, "its turn", |message| message["status"] == "running");
    let gateway = settled(gateway.reborn_after(libc::SIGKILL));
    mark(&gateway, "ops");
    assert_eq!(target.received().len(), 3, "{:?}", replies(&target.received()));
    assert_eq!(notices(&gateway, "s").len(), 2, "sessions are told each time");
}

#[test]
fn a_target_is_told_of_failed_turns_and_dead_letters() {
    let home = Home::new();
    let (target, refuses) = (Target::start(), Target::answering(|_, _| 410.into()));
    let targets = [target.config("ops", ""), refuses.config("gone", "")].concat();
    let agent = script("read -r text; [ \"$text\" != bad ] || exit 3; echo good");
    home.configure(&format!("[stop]\nnotify_failures = \"ops\"\n{targets}{agent}"));
    let gateway = home.start();
    let api = gateway.api();
    let id = api.accepted("s", "bad\n");
    let told = replies(&target.wait_for(1)).remove(0);
    for words in
        [&format!("the turn of message {id} of owner (session \"s\") failed: "), "status 3"]
    {
        assert!(told.contains(words), "{told}");
    }
    // The next ones are told of later, in one notice.
    api.finished(&api.accepted("s", "bad\n"));
    let id = api.deliver("s", "good\n", "gone");
    api.until_delivery(&id, "dead");
    mark(&gateway, "ops");
    assert_eq!(target.received().len(), 2, "{:?}", replies(&target.received()));
    // Nor by the next run, before the time.
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let id = gateway.api().accepted("s", "bad\n");
    gateway.api().finished(&id);
    mark(&gateway, "ops");
    assert_eq!(target.received().len(), 3, "{:?}", replies(&target.received()));
}

#[test]
fn a_dead_letter_is_told_of() {
    let home = Home::new();
    let (target, refuses) = (Target::start(), Target::answering(|_, _| 410.into()));
    let targets = [target.config("ops", ""), refuses.config("gone", "")].concat();
    home.configure(&format!("[stop]\nnotify_failures = \"ops\"\n{targets}"));
    let gateway = home.start();
    let id = gateway.api().deliver("s", "x", "gone");
    let told = replies(&target.wait_for(1)).remove(0);
    let words = format!(
        "the reply of message {id} of owner (session \"s\") to target gone is a dead letter: "
    );
    assert!(told.contains(&words) && told.contains("410"), "{told}");
}

#[test]
fn a_notice_that_fails_is_not_told_of_where_it_failed() {
    let home = Home::new();
    let target = Target::answering(|_, _| 410.into());
    let agent = script("exit 3");
    home.configure(&format!(
        "[stop]\nnotify_failures = \"ops\"\n{}{agent}",
        target.config("ops", "")
    ));
    let gateway = home.start();
    gateway.api().finished(&gateway.api().accepted("s", "x"));
    target.wait_for(1);
    eventually("the dead letter", || {
        (gateway.status()["journal"]["dead_letters"] == 1).then_some(())
    });
    let gateway = gateway.reborn_after(libc::SIGINT);
    assert_eq!((gateway.status()["journal"]["dead_letters"]).clone(), json!(1));
    assert_eq!(target.received().len(), 1);
}

#[test]
fn the_history_says_how_long_nobody_served() {
    let home = Home::new();
    let gateway = settled(home.start().reborn_after(libc::SIGINT));
    let home = settled(gateway.reborn_after(libc::SIGKILL)).end(libc::SIGINT);
    let stops = home.run(&["history", "--json"]).assert_code(0).stdout;
    let stops: Vec<Value> = stops.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(stops.len(), 3, "{stops:?}");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        (&stops[0]["version"], &stops[0]["next"]["version"]),
        (&json!(version), &json!(version))
    );
    assert!(stops[0]["next"]["away_ms"].is_u64() && stops[0]["verdict"] == "planned", "{stops:?}");
    // Nobody saw when that one ended.
    assert_eq!(
        (&stops[1]["verdict"], &stops[1]["next"]["away_ms"]),
        (&json!("unclean exit"), &Value::Null)
    );
    assert!(stops[1]["next"]["time"].is_string(), "{stops:?}");
    assert_eq!(stops[2]["next"], Value::Null);
    let table = home.run(&["history"]).assert_code(0).stdout;
    assert_eq!(table.matches("nobody served for ").count(), 1, "{table}");
}
