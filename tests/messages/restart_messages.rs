//! `/restart` as a message: durable before it is made, made once, and answered by the run that follows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::collections::BTreeSet;
use std::fs;
use std::thread;

use serde_json::{Value, json};

use util::api::{Api, Event, session_path};
use util::{DEADLINE, Gate, Gateway, Home, Target, eventually};

/// Sends a command, which does not wait for a turn; its id and its answer.
#[track_caller]
fn command(api: &Api, session: &str, word: &str) -> (String, String) {
    let target = format!("{}/messages?wait=20", session_path(session));
    let message = api.post(&target, &json!({"text": word})).assert_status(200).json();
    assert_eq!(message["status"], "done", "{word}: {message}");
    let text = |key: &str| message[key].as_str().unwrap().to_owned();
    (text("id"), text("reply"))
}

/// The texts of so many notices of a session, as they come.
#[track_caller]
fn notices(gateway: &Gateway, session: &str, count: usize) -> Vec<String> {
    let mut events = gateway.api().events(session, Some(0));
    let (mut ids, mut told) = (BTreeSet::new(), Vec::new());
    while told.len() < count {
        let Event { kind, data, .. } = events.next_record();
        let id = data["id"].to_string();
        match kind.as_str() {
            "accepted" if data["mode"] == "notice" => _ = ids.insert(id),
            "done" if ids.contains(&id) => told.push(data["reply"].as_str().unwrap().to_owned()),
            _ => {}
        }
    }
    told
}

/// How many notices a session has in all.
#[track_caller]
fn count(gateway: &Gateway, session: &str) -> usize {
    let (last, _) = command(&gateway.api(), session, "/whoami");
    let mut events = gateway.api().events(session, Some(0));
    let records = std::iter::from_fn(|| Some(events.next_record()));
    let records = records.take_while(|event| event.data["id"] != last.as_str());
    records.filter(|event| event.data["mode"] == "notice").count()
}

/// Waits until the gateway has restarted in place so many times.
#[track_caller]
fn restarts(gateway: &Gateway, count: usize) {
    eventually("the restart", || {
        let stops = gateway.home().run(&["history", "--json"]).stdout;
        let stops = stops.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let back = stops.filter(|it| it["verdict"] == "restart" && it["next"].is_object());
        (back.count() == count).then_some(())
    });
}

fn record(home: &Home) -> Value {
    let text = fs::read_to_string(home.state_dir().join("restart.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

#[test]
fn whoever_asks_is_told_when_the_gateway_is_back() {
    let (home, target) = (Home::new(), Target::start());
    home.configure(&target.config("out", ""));
    let gateway = home.start();
    let pid = gateway.pid();
    let body = json!({"text": "/restart", "deliver": "out"});
    let path = format!("{}/messages?wait=20", session_path("s"));
    let message = gateway.api().post(&path, &body).assert_status(200).json();
    let reply = message["reply"].as_str().unwrap();
    assert!(reply.starts_with("restart requested: "), "{message}");
    restarts(&gateway, 1);
    let told = notices(&gateway, "s", 1);
    assert!(told[0].starts_with("back after 0."), "{told:?}");
    assert!(told[0].ends_with(&format!("version {}", env!("CARGO_PKG_VERSION"))), "{told:?}");
    // The answer went where replies go, and so does the notice.
    let received = target.wait_for(2);
    assert_eq!(received[1].json()["data"]["reply"], told[0].as_str());
    assert_eq!(gateway.status()["pid"], pid);
    let status = gateway.status()["restart"]["last"].clone();
    let by = format!("message {} of owner", message["id"].as_str().unwrap());
    assert_eq!((&status["kind"], &status["by"]), (&json!("restart"), &json!(by)), "{status}");
    let shown = gateway.home().run(&["status"]).assert_code(0).stdout;
    assert!(shown.contains("nobody served for ") && shown.contains(&by), "{shown}");
    // Once, whatever comes after.
    let gateway = gateway.reborn_after(libc::SIGKILL);
    assert_eq!(count(&gateway, "s"), 1);
    assert_eq!(record(gateway.home())["pending"], Value::Null);
}

#[test]
fn a_hundred_requests_at_once_are_one_restart() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let words: Vec<String> = thread::scope(|scope| {
        let ask = |number: usize| {
            let api = &api;
            scope.spawn(move || {
                let target =
                    format!("{}/messages?wait=20", session_path(&format!("s{}", number % 5)));
                // One that comes while nobody serves is sent again, and one whose command was cut short
                // is another message.
                let mut cuts = 0;
                eventually("an answer", || {
                    let key = format!("k{number}-{cuts}");
                    let body = json!({"text": "/restart"});
                    let answer = std::panic::catch_unwind(|| {
                        api.call("POST", &target, &[("Idempotency-Key", &key)], &body.to_string())
                    });
                    let answer = answer.ok().filter(|answer| answer.status() == 200)?.json();
                    cuts += usize::from(answer["status"] == "failed");
                    answer["reply"].as_str().map(str::to_owned)
                })
            })
        };
        let asked: Vec<_> = (0..100).map(ask).collect();
        asked.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let begun = words.iter().filter(|reply| reply.starts_with("restart requested")).count();
    assert_eq!(begun, 1, "{words:?}");
    let others = ["a restart is under way", "restarted 0 s ago, not again", "restarted "];
    let known = |reply: &&String| others.iter().any(|words| reply.starts_with(words));
    assert_eq!(words.iter().filter(known).count(), 99, "{words:?}");
    restarts(&gateway, 1);
    // One that comes late, too.
    let (_, reply) = command(&api, "late", "/restart");
    assert!(reply.starts_with("restarted ") && reply.ends_with(" s ago, not again."), "{reply}");
    restarts(&gateway, 1);
}

#[test]
fn those_who_ask_meanwhile_join() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home.start();
    let api = gateway.api();
    let id = api.accepted("busy", "x");
    api.until(&id, "its turn", |message| message["status"] == "running");
    let (first, _) = command(&api, "a", "/restart");
    let (_, reply) = command(&api, "b", "/restart");
    let by = format!("a restart is under way, asked for by message {first} of owner");
    assert!(reply.starts_with(&by), "{reply}");
    let current = gateway.status()["restart"]["current"].clone();
    assert!(current["stage"].is_string() && current["by"].is_string(), "{current}");
    let shown = gateway.home().run(&["status"]).assert_code(0).stdout;
    assert!(shown.contains("restart under way since "), "{shown}");
    gate.open();
    restarts(&gateway, 1);
    for session in ["a", "b"] {
        assert!(notices(&gateway, session, 1)[0].starts_with("back after "));
    }
    assert_eq!(gateway.api().reply(&id), "begun\nx");
}

#[test]
fn a_request_survives_a_kill_and_is_told_of_and_not_made_again() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home.start();
    let api = gateway.api();
    // The restart waits for this one.
    let id = api.accepted("busy", "x");
    api.until(&id, "its turn", |message| message["status"] == "running");
    command(&api, "s", "/restart");
    assert_eq!(record(gateway.home())["pending"]["requesters"][0]["session"], "s");
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let told = notices(&gateway, "s", 1);
    assert!(told[0].contains("the run before ended so: unclean exit"), "{told:?}");
    eventually("its end", || record(gateway.home())["pending"].is_null().then_some(()));
    gate.open();
    assert_eq!(gateway.api().reply(&id), "begun\nx");
    assert_eq!(gateway.status()["restart"]["current"], Value::Null);
    let verdicts = gateway.home().run(&["history", "--json"]).stdout;
    assert!(!verdicts.contains("\"verdict\":\"restart\""), "{verdicts}");
}

#[test]
fn a_request_without_its_end_is_not_made_by_the_next_run() {
    let gateway = Gateway::start();
    let (id, _) = command(&gateway.api(), "s", "/restart");
    restarts(&gateway, 1);
    let home = gateway.end(libc::SIGKILL);
    // As a crash leaves it that comes between the message and its end.
    let journal = home.state_dir().join("journal");
    let text = fs::read(&journal).unwrap();
    let line = text.split(|byte| *byte == b'\n').position(|line| {
        let line = String::from_utf8_lossy(line);
        line.contains(&id) && line.contains("\"accepted\"")
    });
    let kept = text.split_inclusive(|byte| *byte == b'\n').take(line.unwrap() + 1);
    let kept: Vec<u8> = kept.flatten().copied().collect();
    fs::write(&journal, kept).unwrap();
    let gateway = home.start();
    let message = gateway.api().finished(&id);
    assert_eq!(message["status"], "failed", "{message}");
    assert!(message["error"].as_str().unwrap().contains("send it again"), "{message}");
    restarts(&gateway, 1);
}

#[test]
fn a_storm_is_refused_and_the_control_socket_answers() {
    let gateway = Gateway::start();
    let since_boot = fs::read_to_string("/proc/uptime").unwrap();
    let now: u64 = since_boot.split('.').next().unwrap().parse().unwrap();
    let home = gateway.end(libc::SIGINT);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let recent = [60, 50, 40, 30, 20].map(|ago| now.saturating_sub(ago) * 1000);
    let record = json!({"recent": recent, "boot": boot.trim()});
    fs::write(home.state_dir().join("restart.json"), record.to_string()).unwrap();
    let gateway = home.start();
    let (_, reply) = command(&gateway.api(), "s", "/restart");
    for words in ["not restarted: 5 restarts", "in the last 120 s", "hermes-gateway restart"] {
        assert!(reply.contains(words), "{reply}");
    }
    assert_eq!(gateway.status()["restart"], Value::Null);
    // An operator at the machine may.
    gateway.signal(libc::SIGUSR1);
    restarts(&gateway, 1);
}

#[test]
fn only_operators_may_ask() {
    let home = Home::new();
    let gateway = home.launch().set("session.operators", "[]").start();
    for word in ["/restart", "/update"] {
        let (_, reply) = command(&gateway.api(), "s", word);
        assert!(reply.starts_with(&format!("{word} is for operators")), "{reply}");
    }
    assert_eq!(gateway.status()["restart"], Value::Null);
    // Without a session it is a text like any other.
    let answer = gateway.api().post("/v1/messages", &json!({"text": "/restart"})).json();
    assert_eq!(gateway.api().reply(answer["id"].as_str().unwrap()), "/restart");
    gateway.signal(libc::SIGINT);
    gateway.wait_for_exit(DEADLINE);
}

#[test]
fn a_restart_that_does_not_happen_is_told() {
    let gateway = Home::new().launch().arg("--ephemeral").start();
    let (_, reply) = command(&gateway.api(), "s", "/restart");
    assert!(reply.starts_with("restart requested"), "{reply}");
    let told = notices(&gateway, "s", 1);
    assert!(told[0].starts_with("the restart did not happen: "), "{told:?}");
    let failed = gateway.status()["restart"]["failed"].clone();
    assert!(failed["why"].as_str().unwrap().contains("--ephemeral"), "{failed}");
    let shown = gateway.home().run(&["status"]).assert_code(0).stdout;
    assert!(shown.contains("did not happen "), "{shown}");
}

#[test]
fn a_restart_after_which_nobody_could_be_told_is_refused() {
    let home = Home::new();
    // A directory in its place stands for a disk that is full: root may write all.
    fs::create_dir_all(home.state_dir().join("restart.json/x")).unwrap();
    let gateway = home.start();
    let (_, reply) = command(&gateway.api(), "s", "/restart");
    assert!(reply.starts_with("restart requested"), "{reply}");
    let told = notices(&gateway, "s", 1);
    assert!(told[0].contains("did not happen: who asked for it cannot be kept"), "{told:?}");
    // An operator at the machine sees what becomes of it.
    gateway.signal(libc::SIGUSR1);
    restarts(&gateway, 1);
}
