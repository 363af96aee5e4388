//! Lists of messages, dead letters and sessions: what is asked for, page by page.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use serde_json::{Value, json};

use util::api::{code_of, id_of};
use util::principals::{api, configuration};
use util::{Api, Gateway, Home, Target, script};

/// A gateway whose agent fails for a text that begins with `bad`, with keys of alice and bob, and a target
/// that takes nothing.
fn gateway() -> (Gateway, Target) {
    let (home, target) = (Home::new(), Target::answering(|_, _| 410.into()));
    let agent = script("text=$(cat); case $text in bad*) exit 3;; esac; echo $text");
    let more = format!("{agent}{}", target.config("out", ""));
    let keys = [("alice", "targets = [\"out\"]"), ("bob", "sessions = [\"his\"]")];
    home.configure(&configuration(&home, &keys, &more));
    (home.start(), target)
}

#[track_caller]
fn ids(page: &Value, name: &str, member: &str) -> Vec<String> {
    let listed = page[name].as_array().unwrap_or_else(|| panic!("no {name}: {page}"));
    listed.iter().map(|one| one[member].as_str().unwrap().to_owned()).collect()
}

/// The ids of the messages on this one page.
#[track_caller]
fn listed(api: &Api, query: &str) -> Vec<String> {
    let page = api.get(&format!("/v1/messages{query}")).assert_status(200).json();
    assert_eq!((&page["has_more"], &page["next"]), (&false.into(), &Value::Null), "{page}");
    ids(&page, "messages", "id")
}

/// All that a list has, by pages of two.
#[track_caller]
fn by_pages(api: &Api, list: &str, name: &str, member: &str) -> Vec<String> {
    let (mut all, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let page = api.get(&format!("{list}?{query}")).assert_status(200).json();
        let mut found = ids(&page, name, member);
        assert!(!found.is_empty() && found.len() <= 2, "{page}");
        all.append(&mut found);
        if page["has_more"] == false {
            assert_eq!(page["next"], Value::Null);
            return all;
        }
        assert_eq!(page["next"].as_str(), all.last().map(String::as_str), "{page}");
        query = format!("after={}&limit=2", page["next"].as_str().unwrap().replace(' ', "+"));
    }
}

#[test]
fn messages_are_listed_by_session_status_and_time_newest_first() {
    let (gateway, _target) = gateway();
    let alice = api(&gateway, "alice");
    let sent = [("a b", "one"), ("t", "bad"), ("a b", "bad too"), ("a b", "two"), ("t", "three")];
    let mut sent = sent.map(|(session, text)| {
        let id = alice.accepted(session, text);
        alice.finished(&id);
        id
    });
    sent.reverse();
    let [three, two, bad_too, bad, one] = sent.clone();
    assert_eq!(listed(&alice, ""), sent);
    assert_eq!(listed(&alice, "?session=a%20b"), [two.clone(), bad_too.clone(), one.clone()]);
    assert_eq!(listed(&alice, "?status=failed"), [bad_too.clone(), bad]);
    assert_eq!(listed(&alice, "?status=failed&session=a+b"), [bad_too.as_str()]);
    assert_eq!(listed(&alice, "?status=queued"), [""; 0]);
    assert_eq!(listed(&alice, &format!("?after={bad_too}&status=done")), [one]);
    let at = alice.message(&two)["created_at"].as_str().unwrap().to_owned();
    let since = listed(&alice, &format!("?since={at}"));
    assert!(since.starts_with(&[three, two]) && since.len() < 5, "{at}: {since:?}");
    assert_eq!(listed(&alice, "?since=2999-01-01T00:00:00Z"), [""; 0]);
    assert_eq!(by_pages(&alice, "/v1/messages", "messages", "id"), sent);
    // What belongs to others is in no list.
    assert_eq!(listed(&api(&gateway, "bob"), ""), [""; 0]);
    assert_eq!(listed(&gateway.api(), "?session=t"), [""; 0]);
}

#[test]
fn dead_letters_and_sessions_have_pages_too() {
    let (gateway, _target) = gateway();
    let alice = api(&gateway, "alice");
    let sessions = ["a", "b c", "d/e", "f\\g", "ü"];
    let mut letters = sessions.map(|session| {
        // One of them cannot be in a path.
        let body = json!({ "text": "x", "session": session, "deliver": "out" });
        id_of(&alice.post("/v1/messages", &body).assert_status(202).json())
    });
    letters.iter().for_each(|id| drop(alice.until_delivery(id, "dead")));
    letters.reverse();
    assert_eq!(by_pages(&alice, "/v1/dead-letters", "dead_letters", "id"), letters);
    assert_eq!(by_pages(&alice, "/v1/sessions", "sessions", "session"), sessions);
    alice.delete(&format!("/v1/dead-letters/{}", letters[0])).assert_status(200);
    assert_eq!(by_pages(&alice, "/v1/dead-letters", "dead_letters", "id"), letters[1..]);
}

#[test]
fn what_a_list_cannot_be_asked_for_is_refused() {
    let (gateway, _target) = gateway();
    let bob = api(&gateway, "bob");
    for (path, param) in [
        ("/v1/messages?status=broken", "status"),
        ("/v1/messages?since=yesterday", "since"),
        ("/v1/messages?since=2026-11-29", "since"),
        ("/v1/messages?after=1", "after"),
        ("/v1/messages?limit=0", "limit"),
        ("/v1/dead-letters?limit=1001", "limit"),
        ("/v1/sessions?limit=ten", "limit"),
        ("/v1/sessions?after=%f", "after"),
        ("/v1/messages?session=%FF", "session"),
    ] {
        let told = bob.get(path).assert_status(400).json();
        assert_eq!(told["error"]["param"], param, "{path}: {told}");
    }
    for path in [
        "/v1/messages?wait=1",
        "/v1/messages?limit=1&limit=1",
        "/v1/messages?&limit=1",
        "/v1/dead-letters?session=his",
        "/v1/sessions?AFTER=x",
    ] {
        assert_eq!(code_of(bob.get(path), 400), "bad_request", "{path}");
    }
    assert_eq!(code_of(bob.get("/v1/messages?session=hers"), 403), "session_not_allowed");
    assert_eq!(code_of(bob.get("/v1/messages?session="), 400), "bad_session");
}
