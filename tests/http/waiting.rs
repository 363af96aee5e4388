//! Clients that wait while attempts fail: each gets its answer in time, in the upstream's words, and
//! none that is told to try again finds its message done twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use util::api::{code_of, id_of, session_path};
use util::http::{Connection, Response, chat};
use util::upstream::Line;
use util::{Gateway, Home, Outage, Upstream, script};

const SESSION: (&str, &str) = ("X-Hermes-Session-Id", "s");

fn gateway(config: &str) -> Gateway {
    let home = Home::new();
    home.configure(config);
    home.start()
}

/// A chat in a session, with this idempotency key.
fn ask(gateway: &Gateway, text: &str, key: Option<&str>) -> Connection {
    let mut fields = vec![SESSION];
    fields.extend(key.map(|key| ("Idempotency-Key", key)));
    gateway.api().begin("POST", "/v1/chat/completions", &fields, &chat(text, false))
}

/// The messages of the session with what became of them.
#[track_caller]
fn statuses(gateway: &Gateway) -> Vec<String> {
    let session = gateway.api().get(&session_path("s")).assert_status(200).json();
    let messages = session["messages"].as_array().unwrap().clone();
    messages.iter().map(|message| message["status"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn retry_after(response: &Response) -> u64 {
    let after = response.field("retry-after").unwrap_or_else(|| panic!("none in {response:?}"));
    after.parse().unwrap()
}

#[test]
fn a_client_without_a_key_is_told_to_try_again_once_its_message_is_cancelled() {
    let mut outage = Outage::begun();
    let gateway = gateway(&outage.config("answer_within = \"2s\""));
    let began = Instant::now();
    let answer = ask(&gateway, "x", None).response();
    let took = began.elapsed();
    assert!((1..=30).contains(&retry_after(&answer)), "{answer:?}");
    assert!(answer.error(503).contains("refused"));
    assert!(took < Duration::from_secs(10), "{took:?}");
    // What it was told is durable.
    let gateway = gateway.reborn_after(libc::SIGKILL);
    assert_eq!(statuses(&gateway), ["cancelled"]);
    outage.end();
    let answer = ask(&gateway, "again", None).response();
    assert_eq!(answer.reply(), "re again");
    assert_eq!(outage.heard(), ["again"]);
}

#[test]
fn a_client_gets_its_reply_when_the_agent_is_back_in_time() {
    let mut outage = Outage::begun();
    let gateway = gateway(&outage.config(""));
    let mut client = ask(&gateway, "x", None);
    let id = util::eventually("its message", || {
        let session = gateway.api().get(&session_path("s")).json();
        session["messages"][0]["id"].as_str().map(str::to_owned)
    });
    gateway.api().until(&id, "a third attempt", |m| m["attempts"].as_u64() >= Some(3));
    outage.end();
    assert_eq!(client.response().reply(), "re x");
    assert_eq!(outage.heard(), ["x"]);
}

#[test]
fn a_message_with_a_key_goes_on_and_the_key_finds_its_reply() {
    let mut outage = Outage::begun();
    let gateway = gateway(&outage.config("answer_within = \"0s\""));
    for _ in 0..2 {
        let answer = ask(&gateway, "x", Some("k")).response();
        retry_after(&answer);
        assert!(answer.error(503).contains("goes on"));
        assert!(["queued", "running"].contains(&&*statuses(&gateway)[0]));
    }
    outage.end();
    let messages = gateway.api().get(&session_path("s")).json();
    let id = id_of(&messages["messages"][0]);
    gateway.api().finished(&id);
    let answer = ask(&gateway, "x", Some("k")).response();
    assert_eq!(answer.field("idempotent-replayed"), Some("true"));
    assert_eq!(answer.reply(), "re x");
    assert_eq!(outage.heard(), ["x"]);
}

#[test]
fn a_client_behind_a_message_that_fails_does_not_hang_either() {
    let outage = Outage::begun();
    let gateway = gateway(&outage.config("answer_within = \"1s\""));
    let first = gateway.api().accepted("s", "first");
    let mut clients = [ask(&gateway, "second", None), ask(&gateway, "third", Some("k"))];
    for client in &mut clients {
        let answer = client.response();
        retry_after(&answer);
        assert!(answer.error(503).contains("refused"));
    }
    let mut statuses = statuses(&gateway);
    // Whichever came first.
    statuses[1..].sort();
    assert_eq!(statuses[1..], ["cancelled", "queued"]);
    assert_ne!(gateway.api().message(&first)["status"], "cancelled");
}

#[test]
fn a_stream_that_has_not_begun_is_answered_with_an_error_and_a_status() {
    let outage = Outage::begun();
    let gateway = gateway(&outage.config("answer_within = \"1s\""));
    for (target, body) in [
        ("/v1/chat/completions", chat("x", true)),
        ("/v1/responses", json!({"input": "x", "model": "m", "stream": true}).to_string()),
    ] {
        let answer = gateway.api().call("POST", target, &[SESSION], &body);
        retry_after(&answer);
        assert!(answer.error(503).contains("refused"));
    }
    assert_eq!(statuses(&gateway), ["cancelled", "cancelled"]);
}

#[test]
fn a_stream_that_breaks_off_ends_with_an_error_and_its_message() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream.config(""));
    let body = chat("x", true);
    let mut client = gateway.api().begin("POST", "/v1/chat/completions", &[SESSION], &body);
    let mut line = upstream.accept();
    line.request();
    line.begin();
    line.piece("half");
    assert_eq!(client.head().status, 200);
    drop(line);
    let mut text = String::new();
    while let Some(chunk) = client.chunk() {
        text += &String::from_utf8(chunk).unwrap();
    }
    assert!(text.contains("half") && text.contains("in the middle of its reply"), "{text}");
    assert_eq!(statuses(&gateway), ["cancelled"]);
}

#[test]
fn the_upstreams_words_reach_session_chats_and_responses() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream.config("answer_within = \"0s\""));
    let openai = r#"{"error":{"message":"as said","type":"t","param":"p","code":"c"}}"#;
    let wanted: Value = serde_json::from_str(openai).unwrap();
    let mut line: Option<Line> = None;
    for (status, fields) in [
        (400, ""),
        (401, ""),
        (404, ""),
        (429, "Retry-After: 17\r\n"),
        (500, ""),
        (503, "Retry-After: 1\r\n"),
    ] {
        for stream in [false, true] {
            let response = json!({"input": "x", "model": "m", "stream": stream}).to_string();
            for (target, fields_of, body) in [
                ("/v1/chat/completions", &[SESSION][..], chat("x", stream)),
                ("/v1/responses", &[], response),
            ] {
                let mut client = gateway.api().begin("POST", target, fields_of, &body);
                // The first refusal of stream_options is no attempt of its own.
                for _ in 0..if status == 400 { 2 } else { 1 } {
                    let at = line.get_or_insert_with(|| upstream.accept());
                    at.request();
                    at.answer(status, fields, openai);
                }
                let answer = client.response();
                let after = fields.split(": ").nth(1).map(str::trim);
                if after.is_some() || status < 429 {
                    assert_eq!(answer.field("retry-after"), after, "{status} {target}");
                } else {
                    retry_after(&answer);
                }
                assert_eq!(answer.assert_status(status).json(), wanted, "{status} {target}");
            }
        }
    }
}

#[test]
fn a_turn_that_takes_too_long_is_the_same_error_with_and_without_a_session() {
    let gateway = gateway(&format!("{}turn_timeout = \"200ms\"\n", script("exec sleep 600")));
    for fields in [&[][..], &[SESSION]] {
        let chat = chat("x", false);
        let answer = gateway.api().begin("POST", "/v1/chat/completions", fields, &chat).response();
        assert_eq!(code_of(answer, 504), "turn_timeout", "{fields:?}");
    }
}

#[test]
fn a_key_finds_the_upstreams_error_after_a_restart() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream.config(""));
    let mut client = ask(&gateway, "x", Some("k"));
    let mut line = upstream.accept();
    line.request();
    line.answer(403, "", r#"{"error":{"message":"no money","code":"quota"}}"#);
    assert_eq!(code_of(client.response(), 403), "quota");
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let answer = ask(&gateway, "x", Some("k")).response();
    assert_eq!(answer.field("idempotent-replayed"), Some("true"));
    assert_eq!(code_of(answer, 403), "quota");
    upstream.assert_alone();
}

#[test]
fn a_client_that_has_closed_its_own_side_still_gets_its_answer() {
    let outage = Outage::begun();
    let gateway = gateway(&outage.config(""));
    let target = format!("{}/messages?wait=60", session_path("s"));
    let mut client = gateway.api().begin("POST", &target, &[], r#"{"text":"x"}"#);
    client.finish_sending();
    let id = id_of(&client.response().assert_status(202).json());
    let target = format!("/v1/messages/{id}?wait=60");
    let mut client = gateway.api().begin("GET", &target, &[], "");
    client.finish_sending();
    assert_eq!(client.response().assert_status(200).json()["id"], *id);
    // One that is gone altogether has left its message behind.
    let target = format!("{}/messages?wait=60", session_path("gone"));
    drop(gateway.api().begin("POST", &target, &[], r#"{"text":"x"}"#));
    util::eventually("its message", || {
        let session = gateway.api().get(&session_path("gone"));
        (session.status() == 200).then_some(())
    });
}
