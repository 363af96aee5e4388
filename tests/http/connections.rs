//! Connections are shared between those who use the gateway, and what is being answered ends with its key.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use util::api::code_of;
use util::fault::{Fault, When};
use util::http::{Connection, Response, chat, request};
use util::{Api, DEADLINE, Gate, Gateway, Home, eventually, script};

/// With these connections at once, a principal that came first may hold 14.
const MOST: (&str, &str) = ("limits.max_connections", "32");

/// Writes the configuration with keys of these names; a key is the first letter of its name, 40 times.
fn configure(home: &Home, names: &[&str], more: &str) {
    let mut text = String::new();
    for name in names {
        let path = home.path().join(format!("{name}.key"));
        fs::write(&path, name[..1].repeat(40)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        text += &format!("[keys.{name}]\nfile = {path:?}\n");
    }
    home.configure(&(text + more));
}

fn api(gateway: &Gateway, name: &str) -> Api {
    Api::new(gateway.address(), &name[..1].repeat(40))
}

fn bearer(name: &str) -> String {
    format!("Bearer {}", name[..1].repeat(40))
}

/// A connection that has asked for the models with this key and stays, and what it was told.
fn ask(gateway: &Gateway, name: &str) -> (Connection, Response) {
    let mut connection = gateway.connect();
    let told = connection.get("/v1/models", &[("Authorization", &bearer(name))]);
    (connection, told)
}

/// Opens event streams until there is no room for another, and returns what that one was told.
fn fill_with_streams(gateway: &Gateway, name: &str) -> (Vec<Connection>, Response) {
    let mut streams = Vec::new();
    loop {
        assert!(streams.len() < 64, "no end to the streams of {name}");
        let mut stream = api(gateway, name).begin("GET", "/v1/sessions/s/events", &[], "");
        let head = stream.head();
        if head.status != 200 {
            let length: usize = head.field("content-length").unwrap().parse().unwrap();
            assert_eq!(head.field("connection"), Some("close"));
            let body = stream.until_close();
            assert_eq!(body.len(), length);
            return (streams, Response { head, body });
        }
        streams.push(stream);
    }
}

#[test]
fn event_streams_of_one_principal_leave_room_for_all_others() {
    let home = Home::new();
    configure(&home, &["alice", "bob"], "");
    let gateway = home.launch().set(MOST.0, MOST.1).start();
    let (streams, told) = fill_with_streams(&gateway, "alice");
    assert_eq!(streams.len(), 14);
    assert_eq!(told.field("retry-after"), Some("1"));
    let words = told.json()["error"]["message"].to_string();
    assert_eq!(code_of(told, 503), "share_reached");
    assert!(
        words.contains("alice holds its share of limits.max_connections (14 of 32)"),
        "{words}"
    );
    let (_bobs, told) = fill_with_streams(&gateway, "bob");
    assert_eq!(code_of(told, 503), "share_reached");
    let answers = || {
        for path in ["/health", "/ready"] {
            gateway.connect().get(path, &[]).assert_status(200);
        }
        gateway.api().get("/v1/models").assert_status(200);
        assert_eq!(gateway.status()["state"], "serving");
    };
    (0..20).for_each(|_| answers());
    // Also where the owner has taken all that there is, and some of alice's, who held more.
    let mut own = Vec::new();
    let full = loop {
        let mut stream = gateway.api().begin("GET", "/v1/sessions/s/events", &[], "");
        let head = stream.head();
        if head.status != 200 {
            break head.status;
        }
        own.push(stream);
    };
    assert_eq!((full, own.len()), (503, 11));
    for path in ["/health", "/ready"] {
        gateway.connect().get(path, &[]).assert_status(200);
    }
    assert_eq!(gateway.status()["connections"].as_u64().map(|all| all >= 30), Some(true));
    // Its streams go on.
    drop((own, streams));
    eventually("the others find room again", || {
        (ask(&gateway, "alice").1.status() == 200).then_some(())
    });
}

#[test]
fn a_principal_at_its_share_loses_its_own_idle_connections_and_nobody_elses() {
    let home = Home::new();
    configure(&home, &["alice", "bob"], "");
    let gateway = home.launch().set(MOST.0, MOST.1).start();
    let (mut bobs, told) = ask(&gateway, "bob");
    told.assert_status(200);
    let mut first: Vec<Connection> = (0..20)
        .map(|_| {
            let (connection, told) = ask(&gateway, "alice");
            told.assert_status(200);
            connection
        })
        .collect();
    let fields = [("Authorization", bearer("alice")), ("Connection", "close".to_owned())];
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    let again = request("GET", "/v1/models", &fields, b"");
    let kept = first.iter_mut().filter_map(|connection| {
        connection.offer(&again);
        connection.until_close().starts_with(b"HTTP/1.1 200 ").then_some(())
    });
    assert_eq!(kept.count(), 14);
    bobs.get("/v1/models", &[("Authorization", &bearer("bob"))]).assert_status(200);
}

/// Takes the key of alice away.
#[track_caller]
fn take_away(gateway: &Gateway, more: &str) {
    configure(gateway.home(), &["bob"], more);
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("the configuration was read again", DEADLINE);
}

#[test]
fn an_answer_that_is_waited_for_is_not_given_to_a_key_that_was_taken_away() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    configure(&home, &["alice", "bob"], &gate.agent());
    let gateway = home.launch().set("limits.max_turns", "32").start();
    let (alice, bob) = (api(&gateway, "alice"), api(&gateway, "bob"));
    let text = json!({"text": "secret"}).to_string();
    let ask = json!({"input": "secret"}).to_string();
    let session = [("X-Hermes-Session-Id", "t")];
    let id = alice.accepted("s", "secret");
    let found = format!("/v1/messages/{id}?wait=20");
    let waiting = [
        alice.begin("GET", &found, &[], ""),
        alice.begin("POST", "/v1/messages?wait=20", &[], &text),
        alice.begin("POST", "/v1/chat/completions", &[], &chat("secret", false)),
        alice.begin("POST", "/v1/chat/completions", &session, &chat("secret", false)),
        alice.begin("POST", "/v1/responses", &[], &ask),
    ];
    let streamed = [
        alice.begin("POST", "/v1/chat/completions", &[], &chat("secret", true)),
        alice.begin(
            "POST",
            "/v1/chat/completions",
            &[("Idempotency-Key", "k")],
            &chat("secret", true),
        ),
    ];
    let mut other = bob.begin("POST", "/v1/chat/completions", &[], &chat("fine", false));
    let mut streamed = streamed.map(|mut stream| {
        assert_eq!(stream.head().status, 200);
        assert!(String::from_utf8(stream.chunk().unwrap()).unwrap().contains("begun"));
        stream
    });
    gateway.wait_for_turns(8);
    take_away(&gateway, &gate.agent());
    gate.open();
    for mut connection in waiting {
        let told = connection.response();
        assert_eq!(told.field("connection"), Some("close"));
        assert!(!told.text().contains("begun"), "{}", told.text());
        assert_eq!(code_of(told, 401), "invalid_api_key");
    }
    for stream in &mut streamed {
        let rest = String::from_utf8(stream.until_close()).unwrap();
        assert!(!rest.contains("secret") && !rest.contains("[DONE]"), "{rest}");
    }
    assert!(other.response().reply().contains("fine"));
}

#[test]
fn the_rest_of_a_long_reply_is_not_sent_for_a_key_that_was_taken_away() {
    let agent = script("head -c 24000000 /dev/zero | tr '\\0' x; echo; echo the-end");
    let home = Home::new();
    configure(&home, &["alice", "bob"], &agent);
    // More than the system takes for a client that does not read.
    let gateway = home.launch().set("limits.max_reply", "32MiB").start();
    let alice = api(&gateway, "alice");
    let id = alice.accepted("s", "x");
    assert!(alice.reply(&id).ends_with("the-end"));
    // Nobody reads: they wait for their clients in the middle.
    let streamed = chat("x", true);
    let mut readers = [
        alice.begin("GET", &format!("/v1/messages/{id}"), &[], ""),
        alice.begin("POST", "/v1/chat/completions", &[], &chat("x", false)),
        alice.begin("POST", "/v1/chat/completions", &[], &streamed),
        alice.begin(
            "GET",
            "/v1/sessions/s/events",
            &[("Last-Event-ID", "0"), ("Connection", "close")],
            "",
        ),
    ];
    let heads = readers.each_mut().map(|reader| reader.head().status);
    assert_eq!(heads, [200; 4]);
    take_away(&gateway, &agent);
    for (number, reader) in readers.iter_mut().enumerate() {
        reader.set_read_limit(DEADLINE);
        let rest = reader.until_close();
        let (last, end) = (&rest[rest.len().saturating_sub(2000)..], b"the-end");
        assert!(!last.windows(end.len()).any(|part| part == end), "{number}: {} bytes", rest.len());
    }
}

#[test]
fn ready_names_programs_and_files_only_to_keys_that_open_the_status() {
    let home = Home::new();
    configure(&home, &["alice"], &script("cat"));
    let marker = home.path().join("no-descriptors");
    let when = When::While(&marker);
    let fault = Fault { call: "openat", error: libc::EMFILE, when, on: "sessions/" };
    let gateway = fault.into(home.launch(), &home).start();
    fs::write(&marker, "").unwrap();
    api(&gateway, "alice").accepted("s", "x");
    let told = eventually("it is degraded", || {
        let told = gateway.api().get("/ready");
        (told.status() == 503).then_some(told)
    });
    let why = told.json()["reason"].as_str().unwrap().to_owned();
    assert_eq!(gateway.status()["degraded"].as_str(), Some(why.as_str()));
    let nobody = Api::new(gateway.address(), "");
    for other in [&nobody, &api(&gateway, "alice"), &api(&gateway, "x")] {
        let told = other.get("/ready").assert_status(503);
        assert!(!told.text().contains(&why) && told.json()["status"] == "degraded", "{told:?}");
    }
}
