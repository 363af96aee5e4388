//! The API of messages from outside: what is accepted and how it is answered, waiting, errors,
//! idempotency keys, and taking a message back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use util::api::{code_of, id_of};
use util::{Api, Gate, Gateway, Home, eventually, script, sys};

/// A home whose agent notes each turn in a file, and that file.
fn noting() -> (Home, PathBuf) {
    let home = Home::new();
    let file = home.path().join("turns");
    let line = "$HERMES_MESSAGE_ID $HERMES_ATTEMPT";
    home.configure(&script(&format!("echo \"{line}\" >> {}; cat; echo", file.display())));
    (home, file)
}

fn lines(file: &PathBuf) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A gateway whose agent waits at a gate.
#[track_caller]
fn gated(more: &str) -> (Gateway, Gate) {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&format!("{}{more}", gate.agent()));
    (home.start(), gate)
}

fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or("");
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape.starts_with("0000-00-00T00:00:00") && (shape.ends_with('Z') || shape.ends_with("00:00"))
}

fn names(object: &Value) -> Vec<String> {
    let mut names: Vec<String> = object.as_object().unwrap().keys().cloned().collect();
    names.sort_unstable();
    names
}

#[test]
fn an_accepted_message_says_where_it_stands() {
    let (gateway, gate) = gated("");
    let api = gateway.api();
    let mut ids = Vec::new();
    for position in 1..=3 {
        let answer = api.send("work", &format!("m{position}")).assert_status(202).json();
        let wanted = ["created_at", "id", "interrupted", "mode", "position", "session", "status"];
        assert_eq!(names(&answer), wanted, "{answer}");
        assert_eq!(answer["session"], "work", "{answer}");
        assert_eq!(answer["position"], position, "{answer}");
        assert_eq!(answer["mode"], "queue", "{answer}");
        assert_eq!(answer["interrupted"], Value::Null, "{answer}");
        assert!(is_time(&answer["created_at"]), "{answer}");
        let status = answer["status"].as_str().unwrap();
        assert!(status == "queued" || (status == "running" && position == 1), "{answer}");
        ids.push(id_of(&answer));
    }
    assert!(ids.is_sorted(), "{ids:?}");
    api.until(&ids[0], "the first turn", |message| message["status"] == "running");
    let waits = api.message(&ids[2]);
    assert_eq!((&waits["status"], &waits["position"]), (&"queued".into(), &3.into()), "{waits}");
    gate.open();
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(api.reply(id), format!("begun\nm{}", number + 1));
    }
    assert_eq!(api.message(&ids[2])["position"], Value::Null);
}

#[test]
fn a_finished_message_tells_all_of_itself() {
    let gateway = Gateway::start();
    let id = gateway.api().accepted("a b", "hello");
    let message = gateway.api().finished(&id);
    let wanted = [
        "attempts",
        "created_at",
        "deliveries",
        "error",
        "error_status",
        "finished_at",
        "id",
        "position",
        "principal",
        "reply",
        "session",
        "status",
        "waiting",
    ];
    assert_eq!(names(&message), wanted, "{message}");
    assert_eq!(message["id"], id);
    assert_eq!(message["session"], "a b");
    assert_eq!(message["principal"], "owner");
    assert_eq!((&message["reply"], &message["error"]), (&"hello".into(), &Value::Null));
    assert_eq!(message["attempts"], 1);
    assert!(is_time(&message["created_at"]) && is_time(&message["finished_at"]), "{message}");
    assert_eq!(message["deliveries"], json!([]));
}

#[test]
fn who_waits_long_enough_gets_the_reply() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let target = |wait: &str| format!("/v1/sessions/s/messages?wait={wait}");
    let message = api.post(&target("600"), &json!({"text": "now"})).assert_status(200).json();
    assert_eq!((&message["status"], &message["reply"]), (&"done".into(), &"now".into()));
    let id = id_of(&message);
    assert_eq!(api.get(&format!("/v1/messages/{id}?wait=600")).assert_status(200).json(), message);

    let (gateway, gate) = gated("");
    let api = gateway.api();
    let began = Instant::now();
    let answer = api.post(&target("1"), &json!({"text": "later"})).assert_status(202).json();
    assert!(began.elapsed() >= Duration::from_secs(1));
    let id = id_of(&answer);
    let began = Instant::now();
    let message = api.get(&format!("/v1/messages/{id}?wait=1")).assert_status(200).json();
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(message["status"], "running", "{message}");
    api.post(&target("0"), &json!({"text": "no wait"})).assert_status(202);
    let mut waiting = api.begin("GET", &format!("/v1/messages/{id}?wait=60"), &[], "");
    gate.open();
    assert_eq!(waiting.response().assert_status(200).json()["reply"], "begun\nlater");
}

#[test]
fn a_wait_that_is_none_is_refused() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let id = api.accepted("s", "x");
    for wait in ["601", "-1", "x", "", "99999999999999999999999", "1,5"] {
        let target = format!("/v1/sessions/s/messages?wait={wait}");
        let answer = api.post(&target, &json!({"text": "x"}));
        assert_eq!(code_of(answer, 400), "bad_request", "{wait:?}");
        let answer = api.get(&format!("/v1/messages/{id}?wait={wait}"));
        assert_eq!(code_of(answer, 400), "bad_request", "{wait:?}");
    }
    // None of those was taken all the same.
    let session = api.get("/v1/sessions/s").assert_status(200).json();
    assert_eq!(session["messages"].as_array().unwrap().len(), 1, "{session}");
}

#[test]
fn a_message_may_do_without_a_session() {
    let home = Home::new();
    home.configure(&script("echo \"[$HERMES_SESSION] ${HERMES_TRANSCRIPT-none}\""));
    let gateway = home.start();
    let api = gateway.api();
    let answer = api.post("/v1/messages", &json!({"text": "x"})).assert_status(202).json();
    assert_eq!(answer["session"], Value::Null, "{answer}");
    let reply = api.reply(&id_of(&answer));
    assert_eq!(reply, "[] /dev/null");
    let body = json!({"text": "x", "session": "in the body"});
    let answer = api.post("/v1/messages", &body).assert_status(202).json();
    assert_eq!(answer["session"], "in the body", "{answer}");
    let reply = api.reply(&id_of(&answer));
    assert!(reply.starts_with("[in the body] /"), "{reply}");
}

#[test]
fn what_is_no_message_is_refused() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let deep = format!("{{\"text\":\"x\",\"y\":{}}}", "[".repeat(100_000));
    for body in [
        "",
        "{",
        "[]",
        "null",
        "7",
        "\"text\"",
        "{}",
        "{\"text\":7}",
        "{\"text\":null}",
        "{\"text\":\"\"}",
        "{\"text\":[\"x\"]}",
        "{\"text\":\"x\"",
        "{\"text\":\"x\"} x",
        "\u{feff}{}",
        "{\"text\":\"x\",\"mode\":\"later\"}",
        "{\"text\":\"x\",\"mode\":1}",
        "{\"text\":\"x\",\"deliver\":7}",
        "{\"text\":\"x\",\"deliver\":[\"out\"]}",
        "{\"text\":\"x\",\"attachments\":\"file\"}",
        "{\"text\":\"x\",\"attachments\":[7]}",
        "{\"text\":\"\\ud800\"}",
        &deep,
    ] {
        for target in ["/v1/sessions/s/messages", "/v1/messages"] {
            let shown = &body[..body.len().min(60)];
            let fields = [("Content-Type", "application/json")];
            let answer = api.call("POST", target, &fields, body);
            // Without a body there is no length, which may be refused first.
            let status = if body.is_empty() && answer.status() == 411 { 411 } else { 400 };
            assert!(!code_of(answer, status).is_empty(), "{shown}");
        }
    }
    let wrong = json!({"text": "x", "session": 7});
    assert_eq!(code_of(api.post("/v1/messages", &wrong), 400), "bad_request");
    let unknown = json!({"text": "x", "deliver": "nowhere"});
    assert_eq!(code_of(api.send_json("s", &unknown), 400), "unknown_target");
    // A URL of the sender's own is a name that is not known, and nothing else.
    let unknown = json!({"text": "x", "deliver": "http://127.0.0.1:1/"});
    assert_eq!(code_of(api.send_json("s", &unknown), 400), "unknown_target");
    let answer = api.call("POST", "/v1/messages", &[("Content-Type", "text/plain")], "{}");
    assert_eq!(answer.status(), 415);
    // So much more than the limit that the gateway reads to its end what it has refused.
    let answer = api.send("s", &"x".repeat(1 << 20));
    assert_eq!(answer.status(), 413);
    assert_eq!(api.get("/v1/sessions").assert_status(200).json()["sessions"], json!([]));
}

#[test]
fn what_is_not_there_is_not_found() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let long = "0".repeat(5000);
    for id in
        ["", "x", "01J0000000000000000000000", "01J00000000000000000000000", "..", "%00", &long]
    {
        for (method, more) in [("GET", ""), ("DELETE", ""), ("GET", "?wait=1")] {
            let answer = api.call(method, &format!("/v1/messages/{id}{more}"), &[], "");
            // `/v1/messages/` is a path for POST at best, and some of these are no paths at all.
            assert!(matches!(answer.status(), 400 | 404 | 405), "{method} {id}: {answer:?}");
        }
    }
    for path in [
        "/v1/message",
        "/v1/sessions/s/message",
        "/v1/messages/x/y",
        "/v1/journal",
        "/v1/dead-letters/x",
    ] {
        let status = api.get(path).status();
        assert!(matches!(status, 404 | 405), "{path}: {status}");
    }
    assert_eq!(code_of(api.get("/v1/sessions/nobody"), 404), "not_found");
    for (method, path) in [
        ("PUT", "/v1/messages"),
        ("PATCH", "/v1/sessions"),
        ("POST", "/v1/sessions"),
        ("DELETE", "/v1/sessions"),
        ("PUT", "/v1/sessions/s/messages"),
        ("DELETE", "/v1/dead-letters"),
    ] {
        assert_eq!(api.call(method, path, &[], "").status(), 405, "{method} {path}");
    }
}

#[test]
fn every_route_wants_the_key_and_the_control_socket_none() {
    let gateway = Gateway::start();
    let id = gateway.api().accepted("s", "x");
    let message = format!("/v1/messages/{id}");
    let retry = format!("/v1/dead-letters/{id}/retry");
    let routes = [
        ("POST", "/v1/messages"),
        ("POST", "/v1/sessions/s/messages"),
        ("GET", &message),
        ("DELETE", &message),
        ("GET", "/v1/sessions"),
        ("GET", "/v1/sessions/s"),
        ("DELETE", "/v1/sessions/s"),
        ("GET", "/v1/sessions/s/events"),
        ("GET", "/v1/dead-letters"),
        ("POST", &retry),
        ("POST", "/v1/journal/compact"),
    ];
    let mut wrong = 0;
    for (method, path) in routes {
        for key in ["", "Bearer ", "Bearer 0123456789abcdef0123456789abcdef"] {
            let fields: Vec<(&str, &str)> =
                [("Authorization", key)].into_iter().filter(|(_, key)| !key.is_empty()).collect();
            let body = if method == "POST" { "{\"text\":\"x\"}" } else { "" };
            let fields = [&fields[..], &[("Content-Type", "application/json")]].concat();
            let mut connection = gateway.connect();
            let request = util::http::request(method, path, &fields, body.as_bytes());
            connection.send(&request);
            // Wrong keys are counted: after ten they are told so.
            wrong += usize::from(!key.is_empty());
            let told = if wrong > 10 && !key.is_empty() { 429 } else { 401 };
            assert_eq!(connection.response().status(), told, "{method} {path} with {key:?}");
        }
    }
    let mut control = gateway.control();
    let answer = control.post("/v1/sessions/s/messages?wait=20", &[], "{\"text\":\"y\"}");
    assert_eq!(answer.assert_status(200).json()["principal"], "owner");
    assert_eq!(control.get(&message, &[]).assert_status(200).json()["id"], id);
    // The same principal, and so the same session.
    let session = gateway.api().get("/v1/sessions/s").assert_status(200).json();
    assert_eq!(session["messages"].as_array().unwrap().len(), 2, "{session}");
}

// ------------------------------------------------------------ idempotency keys ----

const REPLAYED: &str = "idempotent-replayed";

#[test]
fn the_same_key_is_the_same_message() {
    let (gateway, gate) = gated("");
    let api = gateway.api();
    let first = api.send_keyed("s", "k", "hi").assert_status(202);
    assert_eq!(first.field(REPLAYED), None);
    let id = id_of(&first.json());
    let again = api.send_keyed("s", "k", "hi").assert_status(202);
    assert_eq!((again.field(REPLAYED), id_of(&again.json())), (Some("true"), id.clone()));
    assert_eq!(code_of(api.send_keyed("s", "k", "ho"), 409), "idempotency_conflict");
    gate.open();
    let message = api.finished(&id);
    let again = api.send_keyed("s", "k", "hi").assert_status(200);
    assert_eq!((again.field(REPLAYED), again.json()), (Some("true"), message));
    assert_eq!(code_of(api.send_keyed("s", "k", "ho"), 409), "idempotency_conflict");
    // For another session it is another message: not this one's reply.
    let elsewhere = api.send_keyed("t", "k", "hi");
    assert!(elsewhere.status() == 409 || id_of(&elsewhere.json()) != id, "{elsewhere:?}");
    let session = api.get("/v1/sessions/s").assert_status(200).json();
    assert_eq!(session["messages"].as_array().unwrap().len(), 1, "{session}");
}

#[test]
fn a_key_has_up_to_255_visible_bytes() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let (longest, too_long) = ("k".repeat(255), "k".repeat(256));
    for key in ["!", "~{}\"\\", &longest] {
        api.send_keyed("s", key, key).assert_status(202);
    }
    for key in ["", "a b", "ü", &too_long] {
        assert!(code_of(api.send_keyed("s", key, "x"), 400).starts_with("bad_"), "{key:?}");
    }
    let body = "{\"text\":\"x\"}";
    let twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    let answer = api.call("POST", "/v1/sessions/s/messages", &twice, body);
    assert_eq!(answer.status(), 400, "{answer:?}");
}

#[test]
fn a_key_outlives_the_gateway_with_its_reply() {
    let (home, file) = noting();
    let mut gateway = home.start();
    let id = id_of(&gateway.api().send_keyed("s", "k", "hi").assert_status(202).json());
    let message = gateway.api().finished(&id);
    for signal in [libc::SIGKILL, libc::SIGINT] {
        gateway = gateway.reborn_after(signal);
        let again = gateway.api().send_keyed("s", "k", "hi").assert_status(200);
        assert_eq!((again.field(REPLAYED), again.json()), (Some("true"), message.clone()));
        let conflict = gateway.api().send_keyed("s", "k", "ho");
        assert_eq!(code_of(conflict, 409), "idempotency_conflict");
    }
    assert_eq!(lines(&file), [format!("{id} 1")]);
}

#[test]
fn many_at_once_with_one_key_are_one_turn() {
    let (home, file) = noting();
    let gateway = home.start();
    let api = gateway.api();
    let post = |api: Api| {
        let body = json!({"text": "together"}).to_string();
        let target = "/v1/sessions/s/messages?wait=20";
        api.call("POST", target, &[("Idempotency-Key", "k")], &body).assert_status(200).json()
    };
    let answers: Vec<Value> = thread::scope(|scope| {
        let posts: Vec<_> = (0..16).map(|_| scope.spawn(|| post(api.clone()))).collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    });
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    assert_eq!(lines(&file), [format!("{} 1", id_of(&answers[0]))]);
}

#[test]
fn chat_completions_take_keys_too() {
    let (home, file) = noting();
    let gateway = home.start();
    let ask = |gateway: &Gateway, text: &str| {
        let fields = [("Idempotency-Key", "chat")];
        gateway.api().call("POST", "/v1/chat/completions", &fields, &util::http::chat(text, false))
    };
    let first = ask(&gateway, "hello");
    assert_eq!(first.field(REPLAYED), None);
    assert_eq!(first.reply(), "hello");
    let again = ask(&gateway, "hello");
    assert_eq!(again.field(REPLAYED), Some("true"));
    assert_eq!(again.reply(), "hello");
    assert_eq!(code_of(ask(&gateway, "other"), 409), "idempotency_conflict");
    let gateway = gateway.reborn_after(libc::SIGKILL);
    assert_eq!(ask(&gateway, "hello").reply(), "hello");
    assert_eq!(code_of(ask(&gateway, "other"), 409), "idempotency_conflict");
    assert_eq!(lines(&file).len(), 1);
}

// ------------------------------------------------------------- taking it back ----

#[test]
fn a_message_can_be_taken_back_while_it_waits_and_while_it_runs() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let pid = home.path().join("pid");
    let text = format!("echo $$ > {0}.new; mv {0}.new {0}; {1}; cat", pid.display(), gate.wait());
    home.configure(&script(&text));
    let gateway = home.start();
    let api = gateway.api();
    let ids: Vec<String> = ["a", "b", "c"].map(|text| api.accepted("s", text)).into();
    let agent: i32 = eventually("a pid", || fs::read_to_string(&pid).ok()?.trim().parse().ok());

    let message = api.delete(&format!("/v1/messages/{}", ids[1])).assert_status(200).json();
    assert_eq!((&message["status"], &message["attempts"]), (&"cancelled".into(), &0.into()));
    let message = api.delete(&format!("/v1/messages/{}", ids[0])).assert_status(200).json();
    assert_eq!((&message["status"], &message["reply"]), (&"cancelled".into(), &Value::Null));
    assert!(message["error"].is_string(), "{message}");
    assert!(sys::kill(agent, 0).is_err(), "the agent is still there");
    for id in &ids[..2] {
        assert_eq!(code_of(api.delete(&format!("/v1/messages/{id}")), 409), "already_finished");
    }
    gate.open();
    assert_eq!(api.reply(&ids[2]), "c");
    let answer = api.delete(&format!("/v1/messages/{}", ids[2]));
    assert_eq!(code_of(answer, 409), "already_finished");
    // It stays so.
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let api = gateway.api();
    assert_eq!(api.message(&ids[0])["status"], "cancelled");
    assert_eq!(api.message(&ids[1])["status"], "cancelled");
}
