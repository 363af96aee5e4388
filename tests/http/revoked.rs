//! A key that a reload removes gets nothing more, whatever it waits for; and limits count what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::thread;

use serde_json::json;

use util::http::{Connection, chat};
use util::principals::{alice_and_bob, api, configuration};
use util::{DEADLINE, Gate, Gateway, Home, Launch, Upstream, script, skip, sys};

const CHAT: &str = "/v1/chat/completions";
const SECRET: &str = "the-second-piece";

/// Takes alice's key out of the configuration, and returns when the reload has done it.
#[track_caller]
fn revoke(gateway: &Gateway, agent: &str) {
    let home = gateway.home();
    home.configure(&configuration(home, &[("bob", "")], agent));
    home.run(&["reload"]).assert_code(0);
    assert_eq!(api(gateway, "alice").get("/v1/models").status(), 401);
}

/// A gateway whose agent says one piece, waits, and says a second.
fn in_two_pieces() -> (Gate, String, Gateway) {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let agent = script(&format!("echo first; {}; echo {SECRET}", gate.wait()));
    home.configure(&configuration(&home, &[("alice", ""), ("bob", "")], &agent));
    let gateway = home.launch().set("limits.max_turns", "16").start();
    (gate, agent, gateway)
}

/// Whoever asks so has the connection ended behind the answer.
const LAST: (&str, &str) = ("Connection", "close");

/// All that still comes on a connection.
fn rest(connection: &mut Connection) -> String {
    String::from_utf8_lossy(&connection.until_close()).into_owned()
}

#[test]
fn a_revoked_key_gets_no_reply_that_it_waits_for() {
    let (gate, agent, gateway) = in_two_pieces();
    let alice = api(&gateway, "alice");
    let id = alice.accepted("s", "hi");
    gateway.wait_for_turns(1);
    let session = [("X-Hermes-Session-Id", "t"), LAST];
    let input = json!({ "input": "hi" }).to_string();
    let mut waits = [
        alice.begin("GET", &format!("/v1/messages/{id}?wait=15"), &[LAST], ""),
        alice.begin("POST", "/v1/sessions/u/messages?wait=15", &[LAST], r#"{"text":"hi"}"#),
        alice.begin("POST", CHAT, &[LAST], &chat("hi", false)),
        alice.begin("POST", CHAT, &session, &chat("hi", false)),
    ];
    let mut response = api(&gateway, "alice").begin("POST", "/v1/responses", &[LAST], &input);
    gateway.wait_for_turns(5);
    revoke(&gateway, &agent);
    gate.open();
    for (number, wait) in waits.iter_mut().chain([&mut response]).enumerate() {
        // Whether it is answered or just ended: the reply is not in it.
        let told = rest(wait);
        assert!(!told.contains(SECRET) && !told.contains("first"), "{number}: {told}");
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 401 "), "{number}: {told}");
    }
}

#[test]
fn a_revoked_key_gets_no_further_piece_of_a_stream() {
    let (gate, agent, gateway) = in_two_pieces();
    let alice = api(&gateway, "alice");
    let session = [("X-Hermes-Session-Id", "s"), LAST];
    let input = json!({ "input": "hi", "stream": true }).to_string();
    let mut streams = [
        alice.begin("POST", CHAT, &[LAST], &chat("hi", true)),
        alice.begin("POST", CHAT, &session, &chat("hi", true)),
        alice.begin("POST", "/v1/responses", &[LAST], &input),
    ];
    for stream in &mut streams {
        assert_eq!(stream.head().status, 200);
        let mut text = String::new();
        while !text.contains("first") {
            text += &String::from_utf8_lossy(&stream.chunk().expect("the first piece"));
        }
    }
    let mut events = alice.events("s", None);
    revoke(&gateway, &agent);
    gate.open();
    for (number, stream) in streams.iter_mut().enumerate() {
        let told = rest(stream);
        assert!(!told.contains(SECRET), "{number}: {told}");
    }
    events.set_read_limit(DEADLINE);
    while let Some(event) = events.next_event() {
        assert!(!event.data.to_string().contains(SECRET), "{event:?}");
    }
}

#[test]
fn other_keys_are_not_disturbed_by_a_reload_that_removes_one() {
    let (gate, agent, gateway) = in_two_pieces();
    let bob = api(&gateway, "bob");
    let mut whole = bob.begin("POST", CHAT, &[], &chat("hi", false));
    let mut owners = api(&gateway, "owner").begin("POST", CHAT, &[], &chat("hi", false));
    gateway.wait_for_turns(2);
    revoke(&gateway, &agent);
    gate.open();
    for connection in [&mut whole, &mut owners] {
        assert_eq!(connection.response().reply().trim(), format!("first\n{SECRET}"));
    }
}

// ----------------------------------------------------------------- what limits count ----

/// Answers each chat with tool calls of so many bytes in all.
fn calling_tools(upstream: Upstream, bytes: usize) {
    thread::spawn(move || {
        loop {
            let mut line = upstream.accept();
            let Some(asked) = line.next_request() else { continue };
            let arguments = "x".repeat(64 << 10);
            if asked.json()["stream"] == true {
                line.begin();
                for _ in 0..bytes / arguments.len() {
                    let call = json!({ "index": 0, "function": { "arguments": arguments } });
                    line.event(&util::upstream::chunk(&json!({ "tool_calls": [call] }), None));
                }
                line.end();
            } else {
                let function = json!({ "name": "f", "arguments": arguments.repeat(bytes >> 16) });
                let call = json!({ "id": "1", "type": "function", "function": function });
                let message = json!({ "role": "assistant", "content": null, "tool_calls": [call] });
                let choice =
                    json!({ "index": 0, "message": message, "finish_reason": "tool_calls" });
                let body = json!({ "id": "x", "object": "chat.completion", "choices": [choice] });
                line.answer(200, "Content-Type: application/json\r\n", &body.to_string());
            }
        }
    });
}

#[test]
fn tool_calls_count_against_the_longest_reply() {
    let upstream = Upstream::start();
    let home = Home::new();
    home.configure(&upstream.config(""));
    let gateway = home.launch().set("limits.max_reply", "1MiB").start();
    calling_tools(upstream, 8 << 20);
    for stream in [true, false] {
        let mut body: serde_json::Value = serde_json::from_str(&chat("hi", stream)).unwrap();
        body["tools"] = json!([{ "type": "function", "function": { "name": "f" } }]);
        let mut connection = gateway.api().begin("POST", CHAT, &[], &body.to_string());
        let head = connection.head();
        let mut told = 0;
        let mut last = String::new();
        if head.field("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = connection.chunk() {
                told += chunk.len();
                last = String::from_utf8_lossy(&chunk).into_owned();
            }
        } else {
            let length = head.field("content-length").and_then(|length| length.parse().ok());
            told = length.expect("a length");
        }
        assert!(told <= 2 << 20, "stream {stream}: {told} bytes of a reply of 1 MiB at most");
        assert!(head.status >= 500 || last.contains("error"), "stream {stream}: {head:?} {last}");
    }
}

// ------------------------------------------------------------------------- the agent ----

/// A user that nobody else is.
const UID: u32 = 64_321;

/// A start as that user.
fn as_user(home: &Home) -> Launch {
    let mut places = vec![home.path().to_owned()];
    while let Some(place) = places.pop() {
        chown(&place, Some(UID), Some(UID)).unwrap();
        if place.is_dir() {
            places.extend(fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    let script = format!(
        "chown {UID} \"$NOTIFY_SOCKET\"; \
         exec setpriv --reuid={UID} --regid={UID} --clear-groups \"$@\""
    );
    home.launch().through(&["sh", "-c", &script, "sh"])
}

#[test]
fn an_agent_of_the_same_user_cannot_read_the_environment_of_the_gateway() {
    if sys::uid() != 0 {
        return skip("it takes root to be another user");
    }
    let home = Home::new();
    home.configure(&script(
        "cat /proc/$PPID/environ /proc/$PPID/mem 2>&1 | tr '\\0' ' '; ls /proc/$PPID/fd 2>&1; true",
    ));
    let gateway = as_user(&home).env("MY_SECRET", "hidden-away").start();
    let told = gateway.ask("hi").reply();
    assert!(!told.contains("hidden-away"), "{told}");
    assert!(!told.contains("NOTIFY_SOCKET"), "{told}");
    assert_eq!(told.matches("Permission denied").count(), 3, "{told}");
    // What it has itself is still read: commands find the process, and a stop works.
    let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().nth(4) == Some("0"), "a core would have all that: {core}");
    gateway.signal(libc::SIGINT);
    gateway.into_process().finish(DEADLINE).assert_code(0);
}

#[test]
fn an_agent_that_setpriv_makes_another_user_works_and_cannot_read_the_keys() {
    if sys::uid() != 0 {
        return skip("it takes root to be another user");
    }
    let home = Home::new();
    let key = home.state_dir().join("api.key");
    let words = format!("id -u; cat; cat {} 2>&1; true", key.display());
    let ids = [format!("--reuid={UID}"), format!("--regid={UID}")];
    let command = json!(["setpriv", ids[0], ids[1], "--clear-groups", "sh", "-c", words]);
    home.configure(&format!("[agent]\ncommand = {command}\n"));
    let gateway = home.start();
    let told = gateway.ask("hi").reply();
    assert!(told.starts_with(&format!("{UID}\nhi")), "{told}");
    assert!(told.contains("Permission denied") && !told.contains(&home.api_key()), "{told}");
}

#[test]
fn the_history_is_not_appended_through_a_symlink() {
    let home = Home::new();
    let victim = home.path().join("victim");
    fs::write(&victim, "mine\n").unwrap();
    home.start().end(libc::SIGINT);
    let history = home.state_dir().join("history.jsonl");
    fs::remove_file(&history).unwrap();
    symlink(&victim, &history).unwrap();
    if let Ok(gateway) = home.launch().try_start() {
        gateway.end(libc::SIGINT);
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine\n");
}

#[test]
fn an_unknown_mode_of_send_is_wrong_usage() {
    let gateway = alice_and_bob("").start();
    let outcome = gateway.home().run(&["send", "--mode", "foo", "hi"]).assert_code(64);
    assert!(outcome.stderr.contains("mode"), "{}", outcome.stderr);
}
