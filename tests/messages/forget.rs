//! What is forgotten is gone: after a reset through every route, on the disk and over a restart; and
//! what sessions keep on the disk is bounded, for all and for each principal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use util::api::{code_of, id_of, session_path};
use util::{Answer, Api, Gate, Gateway, Home, Target, eventually, rounds, script};

/// Stands in every text, reply and error that is to be forgotten.
const SECRET: &str = "xyzzy-plugh";

/// The files below a directory that have this text.
fn found(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(self::found(&path, text));
        } else if String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).contains(text) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[track_caller]
fn until_gone(home: &Home) {
    eventually("a disk without what was said", || {
        found(&home.state_dir(), SECRET).is_empty().then_some(())
    });
}

/// An agent that repeats its message, fails where that says so, and notes each turn in `turns`.
fn noting(home: &Home) -> String {
    let turns = home.path().join("turns");
    script(&format!(
        "m=$(cat); echo x >> {}; case $m in fail*) echo \"$m\" >&2; exit 3;; esac; printf %s \"$m\"",
        turns.display()
    ))
}

fn turns(home: &Home) -> usize {
    fs::read_to_string(home.path().join("turns")).unwrap_or_default().lines().count()
}

#[test]
fn what_a_session_said_is_unreadable_once_it_is_reset_and_then_gone_from_the_disk() {
    let home = Home::new();
    let target = Target::answering(|_, _| Answer::from(400));
    home.configure(&format!("{}{}", noting(&home), target.config("out", "")));
    let gateway = home.start();
    let api = gateway.api();
    let said = format!("remember {SECRET}");
    let plain = api.accepted("s", &said);
    let keyed = id_of(&api.send_keyed("s", "k", &said).assert_status(202).json());
    let failed = api.accepted("s", &format!("fail {SECRET}"));
    let dead = api.deliver("s", &said, "out");
    let in_session = [("X-Hermes-Session-Id", "s"), ("Idempotency-Key", "r")];
    let body = json!({"input": said, "metadata": {"x": SECRET}}).to_string();
    let response = api.call("POST", "/v1/responses", &in_session, &body).assert_status(200).json();
    let response = response["id"].as_str().unwrap().to_owned();
    let chat = body;
    let body = json!({"text": "x", "attachments": [format!("file:{SECRET}")]});
    let attached = id_of(&api.send_json("s", &body).assert_status(202).json());
    let ids = [&plain, &keyed, &failed, &dead, &attached];
    ids.iter().for_each(|id| drop(api.finished(id)));
    api.until_delivery(&dead, "dead");
    let other = api.accepted("t", "stays");
    api.reply(&other);
    let ran = turns(&home);

    assert_eq!(api.delete("/v1/sessions/s").assert_status(200).json()["cancelled"], 0);
    for id in ids {
        let path = format!("/v1/messages/{id}");
        assert_eq!(code_of(api.get(&path), 410), "session_reset");
        assert_eq!(code_of(api.get(&format!("{path}?wait=1")), 410), "session_reset");
        assert_eq!(code_of(api.delete(&path), 410), "session_reset");
        let retry = api.post(&format!("{path}/retry"), &json!({}));
        assert_eq!(code_of(retry, 410), "session_reset");
    }
    let stored = format!("/v1/responses/{response}");
    assert_eq!(code_of(api.get(&stored), 410), "session_reset");
    assert_eq!(code_of(api.delete(&stored), 410), "session_reset");
    let next = json!({"input": "x", "previous_response_id": response});
    assert_eq!(code_of(api.post("/v1/responses", &next), 404), "previous_response_not_found");
    assert_eq!(code_of(api.send_keyed("s", "k", &said), 410), "session_reset");
    assert_eq!(code_of(api.send_keyed("s", "k", "another"), 410), "session_reset");
    let again = api.call("POST", "/v1/responses", &in_session, &chat);
    assert!(matches!(again.status(), 409 | 410), "{}", again.text());
    for list in ["/v1/messages?status=failed", "/v1/dead-letters", "/v1/sessions", "/v1/status"] {
        let listed = api.get(list).assert_status(200).text();
        assert!(!listed.contains(SECRET) && !ids.iter().any(|id| listed.contains(*id)), "{listed}");
    }
    assert_eq!(code_of(api.get("/v1/sessions/s"), 404), "not_found");
    for event in api.events("s", Some(0)).records_until("reset") {
        assert!(!event.data.to_string().contains(SECRET), "{event:?}");
    }
    let dump = home.run(&["journal", "dump"]).assert_code(0).stdout;
    assert!(!dump.contains(SECRET) && dump.contains("stays"), "{dump}");
    until_gone(&home);

    let gateway = gateway.reborn_after(libc::SIGKILL);
    let api = gateway.api();
    assert_eq!(code_of(api.get(&format!("/v1/messages/{keyed}")), 410), "session_reset");
    assert_eq!(code_of(api.get(&format!("/v1/messages/{plain}")), 404), "not_found");
    assert_eq!(code_of(api.send_keyed("s", "k", &said), 410), "session_reset");
    assert_eq!(api.message(&other)["reply"], "stays");
    assert_eq!(turns(&home), ran, "a repeat became a second turn");
    // It goes on, and knows nothing.
    assert_eq!(api.reply(&api.accepted("s", "anew")), "anew");
    drop(gateway.end(libc::SIGTERM));
    assert!(found(&home.state_dir(), SECRET).is_empty());
    home.run(&["journal", "check"]).assert_code(0);
}

#[test]
fn who_waits_for_a_turn_is_told_at_once_that_its_session_was_reset() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let text = format!("trap '' TERM; echo {SECRET}; {}; cat", gate.wait());
    home.configure(&script(&text));
    let gateway = home.start();
    let api = gateway.api();
    let mut events = api.events("s", None);
    let id = api.accepted("s", "x");
    api.until(&id, "its turn", |message| message["status"] == "running");
    let mut waiting = api.begin("GET", &format!("/v1/messages/{id}?wait=60"), &[], "");
    let in_session = [("X-Hermes-Session-Id", "s"), ("Idempotency-Key", "c")];
    let chat = util::http::chat("y", false);
    let mut chat = api.begin("POST", "/v1/chat/completions", &in_session, &chat);
    api.until(&id, "a chat behind it", |_| api.get(&session_path("s")).json()["queued"] == 1);
    assert_eq!(api.delete("/v1/sessions/s").assert_status(200).json()["cancelled"], 2);
    assert_eq!(code_of(waiting.response(), 410), "session_reset");
    assert_eq!(code_of(chat.response(), 410), "session_reset");
    events.records_until("reset");
    // What the agent still says in spite of its SIGTERM nobody reads.
    gate.open();
    let next = api.accepted("s", "z");
    api.finished(&next);
    assert!(found(&home.state_dir().join("sessions"), "\"x\"").is_empty());
    until_gone_or_next(&home, &id);
}

/// The text of a message may stay in the reply of another that has it too.
#[track_caller]
fn until_gone_or_next(home: &Home, id: &str) {
    eventually("a journal without the reset message", || {
        let dump = home.run(&["journal", "dump"]).assert_code(0).stdout;
        let told = dump.lines().filter(|line| line.contains(id)).any(|line| line.contains(SECRET));
        (!told).then_some(())
    });
}

#[test]
fn a_reply_of_a_session_that_was_reset_is_delivered_no_more() {
    let home = Home::new();
    let target = Target::answering(|number, _| if number < 2 { 503 } else { 204 }.into());
    home.configure(&target.config("out", ""));
    let gateway = home.start();
    let api = gateway.api();
    let id = api.deliver("s", SECRET, "out");
    target.wait_for(1);
    let behind = api.deliver("t", "next", "out");
    api.delete("/v1/sessions/s").assert_status(200);
    api.until_delivery(&behind, "delivered");
    let texts: Vec<Value> = target.received().iter().skip(1).map(|got| got.json()).collect();
    assert!(texts.iter().all(|json| json["message_id"] != id.as_str()), "{texts:?}");
    assert_eq!(gateway.status()["journal"]["outbox"], 0);
    until_gone(&home);
    home.run(&["journal", "check"]).assert_code(0);
}

#[test]
fn a_deleted_response_is_gone_from_the_disk() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let response = api.post("/v1/responses", &json!({"input": SECRET})).assert_status(200).json();
    let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
    assert!(!found(&gateway.home().state_dir(), SECRET).is_empty());
    api.delete(&path).assert_status(200);
    until_gone(gateway.home());
}

// --------------------------------------------------------- what sessions keep ----

/// A gateway with the keys of two principals, and their APIs.
#[track_caller]
fn with_two(more: &str) -> (Gateway, [Api; 2]) {
    let home = Home::new();
    let mut text = more.to_owned();
    for name in ["alice", "bob"] {
        let path = home.path().join(format!("{name}.key"));
        fs::write(&path, name[..1].repeat(40)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        text += &format!("[keys.{name}]\nfile = {path:?}\n");
    }
    home.configure(&text);
    let gateway = home.start();
    let apis = ["a", "b"].map(|letter| Api::new(gateway.address(), &letter.repeat(40)));
    (gateway, apis)
}

/// What a directory's files take, in pages.
fn pages(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files.map(|file| file.metadata().map_or(0, |meta| meta.len().div_ceil(4096))).sum()
}

fn sessions(api: &Api) -> usize {
    api.get("/v1/sessions").assert_status(200).json()["sessions"].as_array().unwrap().len()
}

#[test]
fn sessions_take_no_more_of_the_disk_than_they_may_and_no_principal_takes_it_all() {
    let (gateway, [alice, bob]) = with_two("[limits]\nmax_transcripts = \"1MiB\"\nmax_turns = 2\n");
    let dir = gateway.home().state_dir().join("sessions");
    let old = bob.accepted("first", "b");
    bob.reply(&old);
    for at in 0..rounds(150, 20_000) {
        let id = alice.accepted(&format!("s{at}"), "x");
        if at % 10 == 0 {
            alice.reply(&id);
        }
    }
    alice.reply(&alice.accepted("last", "x"));
    eventually("no more than the cap", || (pages(&dir) <= 256).then_some(()));
    assert_eq!(bob.get("/v1/sessions/first").assert_status(200).json()["session"], "first");
    alice.get("/v1/sessions/last").assert_status(200);
    for at in 0..20 {
        bob.reply(&bob.accepted(&format!("s{at}"), "x"));
    }
    assert_eq!(bob.get("/v1/sessions/first").assert_status(200).json()["session"], "first");
    assert!(pages(&dir) <= 256, "{}", pages(&dir));
    // What was there is counted again by the next process.
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let alice = Api::new(gateway.address(), &"a".repeat(40));
    for at in 0..150 {
        alice.reply(&alice.accepted(&format!("t{at}"), "x"));
    }
    eventually("no more than the cap", || (pages(&dir) <= 256).then_some(()));
    let bob = Api::new(gateway.address(), &"b".repeat(40));
    assert!(sessions(&bob) >= 21, "{}", sessions(&bob));
}

#[test]
fn where_no_session_is_idle_a_new_one_is_refused_and_told_whose_limit_it_was() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let text = "[limits]\nmax_transcripts = \"1MiB\"\nmax_turns = 1\n";
    let (gateway, [alice, bob]) = with_two(&format!("{}{text}", gate.agent()));
    let mut ids = Vec::new();
    let refused = (0..200).find_map(|at| {
        let answer = alice.send(&format!("s{at}"), "x");
        if answer.status() == 202 {
            ids.push(id_of(&answer.json()));
            return None;
        }
        Some(answer)
    });
    let refused = refused.expect("a limit");
    let words = refused.text();
    assert!(words.contains("alice holds its share of limits.max_transcripts"), "{words}");
    assert_eq!(code_of(refused, 507), "share_reached");
    assert!((40..128).contains(&ids.len()), "{}", ids.len());
    // A session that is there goes on, and others begin.
    ids.push(alice.accepted("s0", "x"));
    let others = [bob.accepted("b", "x"), gateway.api().accepted("o", "x")];
    gate.open();
    ids.iter().for_each(|id| drop(alice.reply(id)));
    bob.reply(&others[0]);
    gateway.api().reply(&others[1]);
    alice.reply(&alice.accepted("new", "x"));
}
