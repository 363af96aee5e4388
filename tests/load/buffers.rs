//! What clients have the gateway hold in memory: bodies that do not end, replies that nobody reads. It
//! stays within `limits.max_buffered`, and one principal leaves room for the others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::{alone, util};

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use util::api::code_of;
use util::principals::memory;
use util::upstream::Upstream;
use util::{Api, Gateway, Home, eventually, http, report, rounds};

const MIB: usize = 1 << 20;

/// A gateway for alice, bob and its owner, with an agent whose reply has as many bytes as its message
/// says, some of which JSON escapes.
#[track_caller]
fn start(more: &str) -> Gateway {
    let home = Home::new();
    let agent = r#"command = ["sh", "-c", "read -r n; yes 'ä\"\\' | head -c $n"]"#;
    let mut text = format!("[agent]\n{agent}\n{more}\n");
    for name in ["alice", "bob"] {
        let path = home.path().join(format!("{name}.key"));
        fs::write(&path, name[..1].repeat(40)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        text += &format!("[keys.{name}]\nfile = {path:?}\nrole = \"operator\"\n");
    }
    home.configure(&text);
    home.start()
}

fn api(gateway: &Gateway, name: &str) -> Api {
    Api::new(gateway.address(), &name[..1].repeat(40))
}

/// What the agent of [`start`] says.
fn said(bytes: usize) -> String {
    let mut text = "ä\"\\\n".repeat(bytes / 5 + 1);
    text.truncate(bytes);
    text.trim_end().to_owned()
}

/// Resident memory in bytes.
fn rss(gateway: &Gateway) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Bob and the owner are served, whatever alice does.
fn others_are_served(gateway: &Gateway) {
    let body = "x".repeat(MIB / 2);
    for other in [api(gateway, "bob"), gateway.api()] {
        let id = other.accepted("theirs", &format!("7\n{body}"));
        assert_eq!(other.reply(&id), said(7));
        other.get("/v1/status").assert_status(200);
    }
}

#[test]
fn bodies_that_stall_before_their_end_hold_a_share_of_the_memory_and_others_are_served() {
    let _alone = alone();
    let gateway = start("[limits]\nmax_buffered = \"16MiB\"");
    let alice = api(&gateway, "alice");
    let before = rss(&gateway);
    let authorization = format!("Bearer {}", "a".repeat(40));
    let fields = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", "application/json"),
        ("Content-Length", &MIB.to_string()),
    ];
    let head = http::request("POST", "/v1/messages", &fields, b"");
    let mut bytes = head.clone();
    bytes.extend(vec![b' '; MIB - 1]);
    let bytes = Arc::new(bytes);
    let stalled: Vec<_> = (0..100)
        .map(|_| {
            let (mut connection, bytes) = (gateway.connect(), Arc::clone(&bytes));
            // One that the gateway does not read from blocks until it is refused.
            thread::spawn(move || {
                connection.offer(&bytes);
                connection
            })
        })
        .collect();
    eventually("some bodies are held", || (rss(&gateway) > before + 6 * MIB).then_some(()));
    others_are_served(&gateway);
    let held = rss(&gateway).saturating_sub(before);
    assert!(held < 24 * MIB, "{held} bytes are held");
    // What finds no room is told whose limit it was.
    let mut refused = gateway.connect();
    refused.send(&head);
    let refused = refused.response();
    assert!(refused.text().contains("alice holds its share of limits.max_buffered"), "{refused:?}");
    assert_eq!(code_of(refused, 429), "share_reached");
    let held = rss(&gateway).saturating_sub(before);
    assert!(held < 24 * MIB, "{held} bytes are held");
    stalled.into_iter().for_each(|thread| drop(thread.join()));
    eventually("alice is served again", || {
        (alice.send("s", &"3".repeat(MIB / 2)).status() == 202).then_some(())
    });
    eventually("memory is given back", || (rss(&gateway) < before + 4 * MIB).then_some(()));
}

/// What a stream of chunks says, as the data of its events.
fn events_of(connection: &mut http::Connection) -> Vec<Value> {
    connection.head();
    let mut bytes = Vec::new();
    while let Some(chunk) = connection.chunk() {
        bytes.extend(chunk);
    }
    let text = String::from_utf8(bytes).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[test]
fn long_replies_are_whole_by_every_route_and_not_held_in_memory_when_nobody_reads_them() {
    let _alone = alone();
    let gateway = start("");
    let alice = api(&gateway, "alice");
    let size = rounds(2_000_000, 8_000_000);
    let reply = said(size);
    let is_whole = |text: &Value| assert!(text.as_str() == Some(&reply), "the reply differs");
    let id = alice.accepted("s", &size.to_string());
    let message = format!("/v1/messages/{id}");
    is_whole(&alice.get(&format!("{message}?wait=60")).assert_status(200).json()["reply"]);
    let keyed = |target: &str, body: &Value| {
        let fields = [("Idempotency-Key", target)];
        alice.begin("POST", target, &fields, &body.to_string())
    };
    let chat = |stream: bool| {
        let body: Value = serde_json::from_str(&http::chat(&size.to_string(), stream)).unwrap();
        let fields = [("Idempotency-Key", if stream { "stream" } else { "whole" })];
        alice.begin("POST", "/v1/chat/completions", &fields, &body.to_string())
    };
    let respond = || keyed("/v1/responses", &json!({"input": size.to_string(), "stream": true}));
    let follow = || alice.begin("GET", "/v1/sessions/s/events", &[("Last-Event-ID", "0")], "");
    let mut response = String::new();
    // The first runs a turn, the second finds its reply.
    for _ in 0..2 {
        is_whole(&chat(false).response().json()["choices"][0]["message"]["content"]);
        let pieces = events_of(&mut chat(true));
        let pieces = pieces.iter().map(|event| &event["choices"][0]["delta"]["content"]);
        is_whole(&pieces.filter_map(Value::as_str).collect::<String>().into());
        let events = events_of(&mut respond());
        let deltas = events.iter().filter_map(|event| event["delta"].as_str());
        is_whole(&deltas.collect::<String>().into());
        let [.., text, part, item, last] = &events[..] else { panic!("few events") };
        is_whole(&text["text"]);
        is_whole(&part["part"]["text"]);
        is_whole(&item["item"]["content"][0]["text"]);
        is_whole(&last["response"]["output"][0]["content"][0]["text"]);
        response = format!("/v1/responses/{}", last["response"]["id"].as_str().unwrap());
    }
    is_whole(&alice.get(&response).json()["output"][0]["content"][0]["text"]);
    let (mut events, mut bytes) = (follow(), Vec::new());
    events.head();
    while !(bytes.len() > reply.len() && bytes.ends_with(b"\n\n")) {
        bytes.extend(events.chunk().unwrap());
    }
    let (_, done) = std::str::from_utf8(&bytes).unwrap().split_once("event: done\n").unwrap();
    let (_, done) = done.split_once("data: ").unwrap();
    is_whole(&serde_json::from_str::<Value>(done).unwrap()["reply"]);
    drop(events);
    eventually("memory is given back", || (rss(&gateway) < 12 * MIB).then_some(()));

    let before = rss(&gateway);
    let mut unread = Vec::new();
    for _ in 0..6 {
        unread.push(alice.begin("GET", &message, &[], ""));
        unread.push(alice.begin("GET", &format!("{message}?wait=1"), &[], ""));
        unread.push(alice.begin("GET", &response, &[], ""));
        unread.extend([chat(false), chat(true), respond(), follow()]);
    }
    unread.iter_mut().for_each(|connection| drop(connection.head()));
    others_are_served(&gateway);
    let held = rss(&gateway).saturating_sub(before);
    assert!(held < 12 * MIB, "{held} bytes are held");
}

/// Has so many clients make this request, one after the other, all of which stay, and waits until a
/// connection takes no more memory than it may.
#[track_caller]
fn assert_idle(gateway: &Gateway, (method, target, body): (&str, &str, &str)) {
    const MANY: u64 = 200;
    // A debug build's frames are larger.
    const MOST: u64 = if cfg!(debug_assertions) { 28 } else { 20 };
    let api = gateway.api();
    let ask = || {
        let mut connection = api.begin(method, target, &[], body);
        connection.response().assert_status(200);
        connection
    };
    // What the first request takes is no connection's.
    drop(ask());
    // Stacks and heap: how much of the program is in memory is another thing.
    let taken = || memory(gateway, "RssAnon:");
    let before = taken();
    let connections: Vec<_> = (0..MANY).map(|_| ask()).collect();
    let each = || taken().saturating_sub(before) / MANY;
    let after = each();
    eventually("idle connections take little", || (each() <= MOST).then_some(()));
    report(&format!("{method} {target}: {after} kB each, and {} when idle", each()));
    drop(connections);
}

#[test]
fn an_idle_connection_keeps_little_of_what_its_requests_have_taken() {
    let _alone = alone();
    let long = http::chat(&"x".repeat(MIB - 1000), false);
    let message = json!({ "text": "hello" }).to_string();
    for request in [
        ("GET", "/health", ""),
        ("POST", "/v1/chat/completions", &http::chat("hello", false)),
        ("POST", "/v1/chat/completions", &http::chat("hello", true)),
        ("POST", "/v1/chat/completions", &long),
        ("POST", "/v1/messages?wait=60", &message),
    ] {
        assert_idle(&Home::new().start(), request);
    }
}

#[test]
fn an_idle_connection_keeps_little_of_a_chat_with_an_upstream() {
    let _alone = alone();
    let upstream = Upstream::start();
    let home = Home::new();
    home.configure(&upstream.config(""));
    thread::spawn(move || {
        loop {
            let mut line = upstream.accept();
            while line.next_request().is_some() {
                line.reply("hello");
            }
        }
    });
    let gateway = home.start();
    assert_idle(&gateway, ("POST", "/v1/chat/completions", &http::chat("hello", true)));
}

#[test]
fn a_body_that_takes_a_large_part_of_the_memory_must_come_quickly() {
    let _alone = alone();
    let gateway = start("[limits]\nmax_buffered = \"1MiB\"\nbody_timeout = \"4s\"");
    let authorization = format!("Bearer {}", "a".repeat(40));
    let length = (MIB / 3).to_string();
    let fields = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", "application/json"),
        ("Content-Length", &length),
    ];
    let mut connection = gateway.connect();
    // By the least rate that all have, these 16 KiB would give it 20 s.
    connection.set_read_limit(Duration::from_secs(12));
    connection.send(&http::request("POST", "/v1/messages", &fields, b""));
    connection.send(&[b' '; 16 << 10]);
    connection.response().assert_status(408);
}
