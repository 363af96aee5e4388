//! What operators see of channels, and who may send what to them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use util::api::code_of;
use util::journal::line;
use util::principals::{api, configuration};
use util::{Gateway, Home};

const KEYS: &[(&str, &str)] = &[
    ("alice", "targets = [\"office\"]"),
    ("olga", "role = \"operator\""),
    ("watch", "role = \"operator\"\nroutes = [\"messages\", \"status\"]"),
];

/// A channel whose adapter only waits.
const OFFICE: &str = "[channel.office]\ncommand = [\"cat\"]\nallow = [\"42\"]\n\
                      groups = [\"#ops\"]\nas = { 7 = \"owner\" }\n";

/// What the journal says was said on channels, and by clients: principal, session, text.
const SAID: [(&str, &str, &str); 6] = [
    ("office:42", "office:42", "one"),
    ("office:43", "office:43", "two"),
    ("office:#ops", "office:#ops:1", "three"),
    ("office:42", "office:#ops:1", "four"),
    ("alice", "office:42", "hers"),
    ("officers:1", "officers:1", "elsewhere"),
];

fn id(number: usize) -> String {
    format!("01KAAAAAAA{number:016}")
}

/// A gateway with these messages in its journal, each with a reply.
fn gateway() -> Gateway {
    let home = Home::new();
    home.configure(&configuration(&home, KEYS, OFFICE));
    let home = home.start().end(15);
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let at = u64::try_from(at.as_millis()).unwrap();
    let header = r#"{"format":"hermes-gateway journal","version":2,"base":1,"kept":0}"#;
    let mut journal = line(0, header);
    for (number, (principal, session, text)) in SAID.into_iter().enumerate() {
        let id = id(number);
        let accepted = json!({ "t": "accepted", "id": id, "at": at, "age": 1,
            "principal": principal, "session": session, "text": text });
        let started = json!({ "t": "started", "id": id, "n": 1, "at": at, "age": 1 });
        let done = json!({ "t": "done", "id": id, "n": 1, "at": at, "age": 1,
            "reply": format!("re: {text}\u{1b}") });
        for (step, record) in [accepted, started, done].iter().enumerate() {
            journal += &line(3 * number as u64 + step as u64 + 1, &record.to_string());
        }
    }
    fs::write(home.state_dir().join("journal"), journal).unwrap();
    home.start()
}

#[track_caller]
fn of(page: &Value, name: &str, member: &str) -> Vec<String> {
    let all = page[name].as_array().unwrap_or_else(|| panic!("no {name}: {page}"));
    all.iter().map(|one| one[member].as_str().unwrap().to_owned()).collect()
}

#[test]
fn operators_and_nobody_else_read_what_was_said_on_a_channel() {
    let gateway = gateway();
    for name in ["owner", "olga"] {
        let operator = api(&gateway, name);
        let get = |path: &str| operator.get(path).assert_status(200).json();
        let listed = |query: &str| of(&get(&format!("/v1/messages{query}")), "messages", "id");
        assert_eq!(listed("?principal=office"), [3, 2, 1, 0].map(id));
        assert_eq!(listed("?principal=office%3A42"), [3, 0].map(id));
        assert_eq!(listed("?principal=office&session=office%3A%23ops%3A1"), [3, 2].map(id));
        assert_eq!(listed(""), [""; 0], "their own are apart");
        assert_eq!(listed("?principal=alice"), [""; 0], "a client's are its own");
        assert_eq!(get(&format!("/v1/messages/{}", id(1)))["reply"], "re: two\u{1b}");
        let page = get("/v1/sessions?principal=office&limit=2");
        assert_eq!(of(&page, "sessions", "principal"), ["office:#ops", "office:42"]);
        let next = page["next"].as_str().unwrap().replace(' ', "+").replace('#', "%23");
        let page = get(&format!("/v1/sessions?principal=office&after={next}"));
        assert_eq!(of(&page, "sessions", "session"), ["office:42", "office:43"]);
        assert_eq!(page["next"], Value::Null);
        let page = get("/v1/sessions?principal=office%3A42");
        assert_eq!(of(&page, "sessions", "session"), ["office:#ops:1", "office:42"]);
        let session = get("/v1/sessions/office:%23ops:1?principal=office%3A42");
        assert_eq!(of(&session, "messages", "id"), [id(3)]);
        let path = "/v1/sessions/office:42/events?after=0&follow=false&principal=office:42";
        let events = operator.get(path).assert_status(200);
        let text = String::from_utf8_lossy(&events.body).into_owned();
        assert!(text.contains("re: one") && !text.contains("hers"), "{text}");
    }
    let alice = api(&gateway, "alice");
    let refused = |path: &str, status, code: &str| {
        assert_eq!(code_of(alice.get(path), status), code, "{path}");
    };
    for list in ["/v1/messages", "/v1/sessions", "/v1/sessions/office:42"] {
        refused(&format!("{list}?principal=office:42"), 403, "principal_not_allowed");
    }
    refused(&format!("/v1/messages/{}", id(0)), 404, "not_found");
    // An operator whose key does not open the scope.
    let watch = api(&gateway, "watch");
    assert_eq!(code_of(watch.get("/v1/messages?principal=office"), 403), "principal_not_allowed");
    assert_eq!(code_of(watch.get(&format!("/v1/messages/{}", id(0))), 404), "not_found");
    // Nor does an operator see a session of a client by this way.
    let olga = api(&gateway, "olga");
    let path = "/v1/sessions/office:42?principal=alice";
    assert_eq!(code_of(olga.get(path), 404), "not_found");
    let path = "/v1/sessions/office:42?principal=office:42";
    assert_eq!(olga.delete(path).assert_status(200).json()["session"], "office:42");
    assert_eq!(code_of(olga.get(path), 404), "not_found");
    assert_eq!(alice.get("/v1/sessions/office:42").assert_status(200).json()["principal"], "alice");
}

#[test]
fn the_command_prints_the_sessions_of_a_channel_and_what_was_said() {
    let gateway = gateway();
    let home = gateway.home();
    let sessions = home.run(&["channel", "sessions", "office"]).assert_code(0).stdout;
    let first: Vec<&str> = sessions.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(first, ["SESSION", "office:#ops:1", "office:#ops:1", "office:42", "office:43"]);
    let said = home.run(&["channel", "read", "office:42"]).assert_code(0).stdout;
    let said: Vec<&str> = said.lines().map(|line| &line[line.find("  ").unwrap() + 2..]).collect();
    assert_eq!(said, ["office:42: one", "agent: re: one\\u{1b}"]);
    home.run(&["channel", "read", "office:nobody"]).assert_code(0);
    for (words, said) in [
        (&["channel", "pair", "K7M2ABCD"][..], "There is no such pairing code"),
        (&["channel", "restart", "nowhere"], "There is no such channel"),
        (&["channel", "unpair", "office", "42"], "There is no such"),
        (&["channel", "read", "nonsense"], "there is no channel \"nonsense\""),
        (&["channel", "sessions", "nonsense"], "there is no channel \"nonsense\""),
    ] {
        let outcome = home.run(words).assert_code(1);
        assert!(outcome.stderr.contains(said), "{words:?}: {}", outcome.stderr);
    }
}

#[test]
fn channels_are_for_operators() {
    let gateway = gateway();
    let (alice, olga) = (api(&gateway, "alice"), api(&gateway, "olga"));
    assert!(olga.get("/v1/channels").assert_status(200).json()["channels"].is_array());
    let code = json!({ "code": "K7M2ABCD" });
    assert_eq!(code_of(olga.post("/v1/channels/pair", &code), 404), "not_found");
    assert_eq!(code_of(olga.post("/v1/channels/pair", &json!({})), 400), "bad_request");
    for client in ["alice", "watch"] {
        let client = api(&gateway, client);
        assert_eq!(code_of(client.get("/v1/channels"), 403), "route_not_allowed");
        assert_eq!(code_of(client.post("/v1/channels/pair", &code), 403), "route_not_allowed");
    }
    let none = json!({ "id": "42" });
    assert_eq!(code_of(alice.post("/v1/channels/office/unpair", &none), 403), "route_not_allowed");
    assert_eq!(code_of(olga.post("/v1/channels/nowhere/unpair", &none), 404), "not_found");
    assert_eq!(code_of(olga.post("/v1/channels/nowhere/restart", &json!({})), 404), "not_found");
}

#[test]
fn a_reply_goes_to_who_is_on_a_list_of_a_channel_that_the_key_may_name() {
    let gateway = gateway();
    let send = |name: &str, more: Value| {
        let mut body = json!({ "text": "hi" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api(&gateway, name).post("/v1/messages", &body)
    };
    for to in ["42", "#ops", "7"] {
        send("alice", json!({ "deliver": "office", "to": to })).assert_status(202);
    }
    for (name, more, status, code) in [
        ("alice", json!({ "deliver": "office", "to": "43" }), 403, "target_not_allowed"),
        ("alice", json!({ "deliver": "office", "to": "" }), 403, "target_not_allowed"),
        // It has no home.
        ("alice", json!({ "deliver": "office" }), 400, "unknown_target"),
        ("alice", json!({ "deliver": "officers" }), 403, "target_not_allowed"),
        ("owner", json!({ "deliver": "officers" }), 400, "unknown_target"),
        ("owner", json!({ "to": "42" }), 400, "bad_request"),
        ("owner", json!({ "deliver": "office", "to": 42 }), 400, "bad_request"),
    ] {
        assert_eq!(code_of(send(name, more.clone()), status), code, "{more}");
    }
    let to = ["send", "--async", "--deliver", "office", "--to", "42", "hi"];
    gateway.home().run(&to).assert_code(0);
}
