//! What is forgotten is gone: a reset makes text and replies unreadable at once through every route and soon
//! on disk; sessions that nobody uses go, and no principal's fill the disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use util::api::{id_of, session_path};
use util::http::{Response, chat};
use util::principals::{alice_and_bob, api, files_of, files_with, launch, until_quiet};
use util::{Api, Gate, Gateway, Home, Target, eventually, full, pause, rounds, script};

/// What was said, and what the agent made of it.
const SAID: &str = "MY-PIN-IS-4711";
const REPLY: &str = "1174-SI-NIP-YM";

/// An agent that says something else than it was told, and counts its turns.
fn agent(home: &Home) -> (String, PathBuf) {
    let turns = home.path().join("turns");
    (script(&format!("echo turn >> {}; rev", turns.display())), turns)
}

fn turns(file: &PathBuf) -> usize {
    fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

/// Neither is in the answer, whatever its status.
#[track_caller]
fn tells_nothing(what: &str, answer: &Response) {
    let text = answer.text();
    let is_told = text.contains(SAID) || text.contains(REPLY);
    assert!(!is_told, "{what}: {} {text}", answer.status());
}

/// A message and a chat in the session, each under a key, and a response: what they are known by.
struct Said {
    id: String,
    response: String,
}

fn in_session<'a>(key: &'a str, session: &'a str) -> [(&'static str, &'a str); 2] {
    [("Idempotency-Key", key), ("X-Hermes-Session-Id", session)]
}

#[track_caller]
fn say(api: &Api, session: &str) -> Said {
    let id = id_of(&api.send_keyed(session, "message", SAID).assert_status(202).json());
    assert_eq!(api.reply(&id).trim(), REPLY);
    let body = chat(SAID, false);
    let answer = api.call("POST", "/v1/chat/completions", &in_session("chat", session), &body);
    assert_eq!(answer.reply().trim(), REPLY);
    let body = json!({ "input": SAID, "model": "default" }).to_string();
    let answer = api.call("POST", "/v1/responses", &in_session("response", session), &body);
    let response = answer.assert_status(200).json()["id"].as_str().unwrap().to_owned();
    api.get(&format!("/v1/responses/{response}")).assert_status(200);
    Said { id, response }
}

/// Every route that told of it says nothing of it any more.
#[track_caller]
fn is_unreadable(gateway: &Gateway, api: &Api, session: &str, said: &Said) {
    let Said { id, response } = said;
    for path in [
        format!("/v1/messages/{id}"),
        format!("/v1/messages/{id}?wait=1"),
        format!("/v1/responses/{response}"),
        session_path(session),
        "/v1/sessions".to_owned(),
        "/v1/messages?status=failed".to_owned(),
        "/v1/dead-letters".to_owned(),
    ] {
        tells_nothing(&path, &api.get(&path));
    }
    let gone = api.get(&format!("/v1/messages/{id}"));
    assert!([404, 410].contains(&gone.status()), "{} {}", gone.status(), gone.text());
    assert_eq!(api.get(&format!("/v1/responses/{response}")).status() / 100, 4);
    for path in [format!("/v1/messages/{id}/retry"), format!("/v1/dead-letters/{id}/retry")] {
        let answer = api.call("POST", &path, &[], "");
        tells_nothing(&path, &answer);
        assert_eq!(answer.status() / 100, 4, "{path}: {}", answer.text());
    }
    let next = json!({ "input": "next", "previous_response_id": response });
    let answer = api.post("/v1/responses", &next);
    tells_nothing("previous_response_id", &answer);
    assert_eq!(answer.status() / 100, 4, "{}", answer.text());
    for command in [&["journal"][..], &["journal", "dump"], &["status"], &["history"]] {
        let told = gateway.home().run(command);
        let all = format!("{}{}", told.stdout, told.stderr);
        // What lies on the disk until the compaction has gone over it is the dump's to show.
        let is_told = command != ["journal", "dump"] && (all.contains(SAID) || all.contains(REPLY));
        assert!(!is_told, "{command:?}: {all}");
    }
}

#[test]
fn after_a_reset_no_route_tells_what_was_said() {
    let home = Home::new();
    home.configure(&agent(&home).0);
    let gateway = home.start();
    let api = gateway.api();
    let said = say(&api, "r1");
    api.delete("/v1/sessions/r1").assert_status(200);
    is_unreadable(&gateway, &api, "r1", &said);
    // Nor does a replay of the session's events, from its start.
    let id = api.accepted("r1", "afterwards");
    api.finished(&id);
    for last in [Some(0), Some(1), None] {
        let mut events = api.events("r1", last);
        if last.is_none() {
            api.accepted("r1", "more");
        }
        for event in events.records_until("done") {
            let text = event.data.to_string();
            assert!(!text.contains(SAID) && !text.contains(REPLY), "{last:?}: {text}");
        }
    }
    assert_eq!(api.finished(&id)["reply"].as_str().map(str::trim), Some("sdrawretfa"));
}

#[test]
fn after_a_reset_what_was_said_is_nowhere_below_the_state_directory() {
    let home = Home::new();
    home.configure(&agent(&home).0);
    let gateway = home.start();
    let api = gateway.api();
    let said = say(&api, "r1");
    let other = api.accepted("other", "stays");
    api.finished(&other);
    let texts = [SAID, REPLY];
    assert!(!files_with(&home.state_dir(), &texts).is_empty(), "it was written");
    api.delete("/v1/sessions/r1").assert_status(200);
    // Nobody asks for a compaction.
    eventually("it is in no file any more", || {
        files_with(&home.state_dir(), &texts).is_empty().then_some(())
    });
    is_unreadable(&gateway, &api, "r1", &said);
    assert_eq!(api.reply(&other).trim(), "syats");
    // And stays away over a restart.
    let gateway = gateway.reborn_after(libc::SIGKILL);
    is_unreadable(&gateway, &gateway.api(), "r1", &said);
    assert!(files_with(&home.state_dir(), &texts).is_empty());
    assert_eq!(gateway.api().reply(&other).trim(), "syats");
}

#[test]
fn a_repeat_under_a_key_whose_message_was_reset_is_gone_and_begins_no_turn() {
    let home = Home::new();
    let (agent, file) = agent(&home);
    home.configure(&agent);
    let mut gateway = home.start();
    say(&gateway.api(), "r1");
    gateway.api().delete("/v1/sessions/r1").assert_status(200);
    for round in ["at once", "after a compaction", "after a kill"] {
        let api = gateway.api();
        let answers = [
            api.send_keyed("r1", "message", SAID),
            api.call("POST", "/v1/chat/completions", &in_session("chat", "r1"), &chat(SAID, false)),
            api.call(
                "POST",
                "/v1/responses",
                &in_session("response", "r1"),
                &json!({ "input": SAID, "model": "default" }).to_string(),
            ),
        ];
        for answer in answers {
            assert_eq!(answer.status(), 410, "{round}: {}", answer.text());
            tells_nothing(round, &answer);
        }
        assert_eq!(turns(&file), 3, "{round}");
        api.post("/v1/journal/compact", &json!({})).assert_status(200);
        if round == "after a compaction" {
            gateway = gateway.reborn_after(libc::SIGKILL);
        }
    }
}

#[test]
fn a_reset_that_was_answered_outlives_a_kill() {
    let home = Home::new();
    home.configure(&agent(&home).0);
    let gateway = home.start();
    let said = say(&gateway.api(), "r1");
    gateway.api().delete("/v1/sessions/r1").assert_status(200);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    is_unreadable(&gateway, &gateway.api(), "r1", &said);
    let api = gateway.api();
    assert_eq!(api.send_keyed("r1", "message", SAID).status(), 410);
    eventually("it is in no file any more", || {
        files_with(&home.state_dir(), &[SAID, REPLY]).is_empty().then_some(())
    });
}

#[test]
fn a_reset_reaches_streams_and_waits_that_are_open() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home.start();
    let api = gateway.api();
    let id = api.accepted("r1", SAID);
    let mut events = api.events("r1", None);
    let mut wait = api.begin("GET", &format!("/v1/messages/{id}?wait=20"), &[], "");
    gateway.wait_for_turns(1);
    api.delete("/v1/sessions/r1").assert_status(200);
    let told = events.records_until("reset");
    assert!(told.iter().all(|event| event.kind != "done"), "{told:?}");
    let answer = wait.response();
    tells_nothing("?wait", &answer);
    assert!([200, 404, 410].contains(&answer.status()), "{}", answer.text());
    gate.open();
}

#[test]
fn a_reset_takes_undelivered_replies_and_dead_letters_with_it() {
    let refusing =
        Target::answering(
            |_, received| {
                if received.target.contains("dead") { 400.into() } else { 503.into() }
            },
        );
    let home = Home::new();
    let config = refusing.config("waits", "");
    let dead = refusing.config("dead", "").replace("/hook", "/dead");
    home.configure(&format!("{}{config}{dead}", agent(&home).0));
    let gateway = home.start();
    let api = gateway.api();
    let ids = [api.deliver("r1", SAID, "waits"), api.deliver("r1", SAID, "dead")];
    api.until_delivery(&ids[1], "dead");
    refusing.wait_for(2);
    api.delete("/v1/sessions/r1").assert_status(200);
    let letters = api.get("/v1/dead-letters").assert_status(200);
    tells_nothing("dead letters", &letters);
    assert_eq!(letters.json()["dead_letters"], json!([]));
    eventually("nothing is to be delivered", || {
        (gateway.status()["journal"]["outbox"] == 0).then_some(())
    });
    for id in &ids {
        assert_eq!(
            api.call("POST", &format!("/v1/dead-letters/{id}/retry"), &[], "").status() / 100,
            4
        );
    }
    let letters = gateway.home().run(&["journal"]);
    assert!(!letters.stdout.contains(&ids[1]), "{}", letters.stdout);
    eventually("it is in no file any more", || {
        files_with(&home.state_dir(), &[SAID, REPLY]).is_empty().then_some(())
    });
}

#[test]
fn a_reset_of_one_principal_touches_no_session_of_another_with_the_same_key() {
    let gateway = alice_and_bob("").start();
    let (alice, bob) = (api(&gateway, "alice"), api(&gateway, "bob"));
    let [hers, his] = [&alice, &bob].map(|api| api.accepted("s", SAID));
    assert_eq!((alice.reply(&hers), bob.reply(&his)), (SAID.to_owned(), SAID.to_owned()));
    alice.delete("/v1/sessions/s").assert_status(200);
    assert_ne!(alice.get(&format!("/v1/messages/{hers}")).status(), 200);
    assert_eq!(bob.reply(&his), SAID);
    bob.get("/v1/sessions/s").assert_status(200);
}

#[test]
fn sessions_that_nobody_uses_are_forgotten_after_a_while_and_others_are_not() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let text = format!("{}; cat", gate.wait());
    home.configure(&script(&format!("case $HERMES_SESSION in busy) {text};; *) cat;; esac")));
    let gateway = home.launch().set("session.keep", "1m").start();
    let api = gateway.api();
    let busy = api.accepted("busy", "hi");
    let waits = api.accepted("busy", "and again");
    for number in 0..10 {
        api.finished(&api.accepted(&format!("idle{number}"), SAID));
    }
    let sessions = home.state_dir().join("sessions");
    let is_gone = || {
        let listed = api.get("/v1/sessions").text();
        files_with(&sessions, &[SAID]).is_empty() && !listed.contains("idle")
    };
    assert!(!is_gone(), "it is too early");
    // The shortest time that may be configured is a minute.
    let deadline = Instant::now() + Duration::from_secs(if full() { 120 } else { 0 });
    while full() && !is_gone() {
        assert!(Instant::now() < deadline, "the idle ones stay");
        pause(Duration::from_millis(100));
    }
    gate.open();
    assert_eq!((api.reply(&busy).as_str(), api.reply(&waits).as_str()), ("hi", "and again"));
    // A session that was forgotten begins anew.
    api.finished(&api.accepted("idle0", "anew"));
}

/// What the transcripts of all sessions take on the disk.
fn on_disk(gateway: &Gateway) -> (usize, u64) {
    files_of(&gateway.home().state_dir().join("sessions"))
}

#[test]
fn transcripts_of_many_sessions_stay_within_their_cap_and_each_principal_within_its_share() {
    let (count, cap) = (rounds(1000, 16_000), rounds(1 << 20, 4 << 20));
    let gateway = alice_and_bob("").set("limits.max_transcripts", &format!("{cap}B")).start();
    let text = "x".repeat(1000);
    // What bob has said first must not go for what alice says.
    let bob = api(&gateway, "bob");
    let kept: Vec<_> = (0..10)
        .map(|number| bob.finished(&bob.accepted(&format!("kept{number}"), &text))["id"].clone())
        .collect();
    util::principals::at_once(4, |part| {
        for number in 0..count / 4 {
            let session = format!("s{part}-{number}");
            let answer = api(&gateway, "alice").send(&session, &text).assert_status(202).json();
            api(&gateway, "alice").finished(&id_of(&answer));
        }
    });
    for number in 0..count / 4 {
        bob.finished(&bob.accepted(&format!("s{number}"), &text));
    }
    until_quiet(&gateway);
    let (files, bytes) = eventually("all of it is within the cap", || {
        let (files, bytes) = on_disk(&gateway);
        (bytes <= cap as u64).then_some((files, bytes))
    });
    assert!(bytes > cap as u64 / 4, "no more goes than must: {files} files, {bytes} bytes");
    let used = gateway.status();
    let of = |name: &str| {
        let all = used["principals"].as_array().cloned().unwrap_or_default();
        let one: Value = all.into_iter().find(|one| one["name"] == name).unwrap_or_default();
        one["transcript_bytes"].as_u64().unwrap_or_else(|| panic!("{name}: {used}"))
    };
    assert!(of("alice") <= cap as u64 * 2 / 3 && of("bob") >= cap as u64 / 8, "{used}");
    assert_eq!(kept.len(), 10);
}

#[test]
fn where_no_session_is_idle_a_message_that_has_no_room_is_refused_and_nothing_queued_is_lost() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let agent = format!(
        "read word; case $word in wait*) {};; esac; head -c 60000 /dev/zero | tr '\\0' x",
        gate.wait()
    );
    let keys = [("alice", ""), ("bob", "")];
    home.configure(&util::principals::configuration(&home, &keys, &script(&agent)));
    let launch = home.launch().set("limits.max_transcripts", "1MiB");
    let gateway = launch.set("limits.max_turns", "100").start();
    let alice = api(&gateway, "alice");
    let (mut waits, mut refused) = (Vec::new(), None);
    'full: for number in 0..30 {
        // A session with something that runs or waits is not idle; one with nothing makes way.
        for text in ["x\n", "wait\n", "wait, too\n"] {
            let answer = alice.send(&format!("s{number}"), text);
            if answer.status() == 507 {
                refused = Some(answer.text());
                break 'full;
            }
            let id = id_of(&answer.assert_status(202).json());
            if text == "x\n" {
                alice.finished(&id);
            } else {
                waits.push(id);
            }
        }
    }
    let refused = refused.unwrap_or_else(|| {
        let status = gateway.status();
        panic!("her share has no end: {:?}, {} wait, {status}", on_disk(&gateway), waits.len())
    });
    let is_told = refused.contains("limits.max_transcripts") && refused.contains("alice");
    assert!(is_told && refused.contains("share_reached"), "{refused}");
    for other in ["bob", "owner"] {
        api(&gateway, other).finished(&api(&gateway, other).accepted("s", "x\n"));
    }
    gate.open();
    for id in &waits {
        assert_eq!(alice.finished(id)["status"], "done");
    }
    until_quiet(&gateway);
    eventually("all of it is within the cap", || (on_disk(&gateway).1 <= 1 << 20).then_some(()));
    eventually("there is room again", || (alice.send("new", "x\n").status() == 202).then_some(()));
}

#[test]
fn many_sessions_take_few_files_after_they_were_reset() {
    let gateway = launch(&[], "").start();
    let api = gateway.api();
    for number in 0..200 {
        api.finished(&api.accepted(&format!("s{number}"), "x"));
    }
    for number in 0..200 {
        api.delete(&format!("/v1/sessions/s{number}")).assert_status(200);
    }
    eventually("their files are gone", || (on_disk(&gateway).0 <= 4).then_some(()));
    api.post("/v1/journal/compact", &json!({})).assert_status(200);
    eventually("no session is listed", || {
        (api.get("/v1/sessions").json()["sessions"] == json!([])).then_some(())
    });
}
