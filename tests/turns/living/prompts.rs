//! Prompts and what comes of them: text, tools, ends, errors, usage, cancels.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use super::{
    assert_no_violation, command, got, home, log, noted, say, started, until_ended, until_got,
    until_prompted,
};
use crate::util::DEADLINE;
use crate::util::api::Event;

#[test]
fn text_streams_as_it_comes() {
    let home = home("", "");
    let gateway = home.start();
    let mut chat = gateway.begin("wait", true);
    assert_eq!(chat.head().status, 200);
    let mut events = String::new();
    while !events.contains("waiting") {
        events += &String::from_utf8(chat.chunk().unwrap()).unwrap();
    }
    // The agent is told when the client goes.
    drop(chat);
    until_got(&home, "session/cancel", 1);
    assert_eq!(say(&gateway, "s", "many 3"), "0 1 2 ");
    assert_eq!(say(&gateway, "s", "pieces"), "pieces üpieces ü");
    assert_eq!(say(&gateway, "s", "stop end_turn"), "half");
    assert_no_violation(&home);
}

#[test]
fn a_long_prompt_and_a_long_reply_pass() {
    let home = home("", "");
    let gateway = home.start();
    let long = format!("{}\ncount", "ü".repeat(200_000));
    assert_eq!(say(&gateway, "s", &long), "200006");
    assert_eq!(gateway.ask(&long).reply(), "200006");
    assert_eq!(say(&gateway, "s", "long 1000000").len(), 1_000_000 + "\n\nlong".len() - 2);
}

#[test]
fn tools_and_plans_are_events_and_part_the_text() {
    let home = home("", "");
    let gateway = home.start();
    let mut events = gateway.api().events("s", None);
    let id = gateway.api().accepted("s", "tool");
    let mut seen: Vec<Event> = Vec::new();
    while !seen.iter().any(|event| event.kind == "done") {
        let event = events.next_event().expect("an event");
        if event.data["text"].as_str().is_some_and(|text| text.ends_with("after")) {
            fs::write(home.path().join("go"), "").unwrap();
        }
        if ["delta", "tool", "plan", "done"].contains(&event.kind.as_str()) {
            seen.push(event);
        }
    }
    assert_eq!(gateway.api().reply(&id), "before\n\nafter");
    let at = |kind: &str| seen.iter().position(|event| event.kind == kind).unwrap();
    let tools: Vec<&Event> = seen.iter().filter(|event| event.kind == "tool").collect();
    assert!(at("delta") < at("plan") && at("plan") < at("tool"), "{seen:?}");
    assert_eq!(seen[seen.len() - 2].kind, "delta", "{seen:?}");
    assert_eq!(tools.len(), 2, "{tools:?}");
    assert_eq!((&tools[0].data["id"], &tools[1].data["id"]), (&json!("t1"), &json!("t1")));
    assert_eq!(tools[1].data["status"], "completed");
    let title = tools[0].data["title"].as_str().unwrap();
    assert!(title.starts_with("look") && !title.contains('\x1b'), "{title:?}");
    assert!(seen.iter().all(|event| event.id.is_none() == (event.kind != "done")), "{seen:?}");
}

#[test]
fn how_a_turn_stops_says_what_becomes_of_its_message() {
    let home = home("", "");
    let gateway = home.start();
    let long = gateway.ask("stop max_tokens").assert_status(200).json();
    assert_eq!(long["choices"][0]["finish_reason"], "length", "{long}");
    assert_eq!(long["choices"][0]["message"]["content"], "half");
    assert_eq!(gateway.ask("stop something_new").reply(), "half");
    let api = gateway.api();
    let refused = api.finished(&api.accepted("s", "stop refusal"));
    assert_eq!(refused["status"], "failed", "{refused}");
    assert_eq!(refused["attempts"], 1, "{refused}");
    assert_eq!(say(&gateway, "s", "on"), "on");
}

/// A status in the code, in the data, deeper in the data, and none.
#[test]
fn errors_of_the_agent_are_temporary_or_not_as_an_upstreams_are() {
    let home = home("", "");
    let gateway = home.start();
    for (error, status, code) in [
        (r#"{"code":401,"message":"no key"}"#, 401, -1),
        (r#"{"code":-32603,"message":"Internal error","data":{"status":429}}"#, 429, -1),
        (
            r#"{"code":-32603,"message":"Internal error","data":{"a":{"b":{"http_status_code":500}}}}"#,
            500,
            -1,
        ),
        (r#"{"code":-32000,"message":"Authentication required"}"#, 502, -32000),
        (r#"{"code":-32602,"message":"Invalid params"}"#, 502, -32602),
        (r#"{"code":-32603,"message":"Internal error"}"#, 503, -32603),
    ] {
        let answer = gateway.ask(&format!("error {error}"));
        assert_eq!(answer.status(), status, "{error}: {answer:?}");
        let words = answer.error(status);
        assert!(code == -1 || words.contains(&code.to_string()), "{words}");
    }
    // In a session a temporary one is waited out, and any other fails.
    let api = gateway.api();
    let failed = api.finished(&api.accepted("s", r#"error {"code":401,"message":"no key"}"#));
    assert_eq!((&failed["status"], &failed["attempts"]), (&json!("failed"), &json!(1)), "{failed}");
    assert!(failed["error"].as_str().unwrap().contains("no key"), "{failed}");
    let waits = api.accepted("t", r#"error {"code":429,"message":"later"}"#);
    api.until(&waits, "a retry", |message| message["waiting"].is_object());
    api.delete(&format!("/v1/messages/{waits}")).assert_status(200);
    assert_eq!(say(&gateway, "t", "on"), "on");
}

#[test]
fn usage_is_a_turns_own() {
    for modes in ["", "cumulative"] {
        let home = home(modes, "");
        let gateway = home.start();
        for _ in 0..3 {
            let id = gateway.api().accepted("s", "usage");
            let message = gateway.api().finished(&id);
            assert_eq!(message["usage"]["total_tokens"], 15, "{modes}: {message}");
            assert_eq!(message["usage"]["prompt_tokens"], 10, "{modes}: {message}");
        }
        let id = gateway.api().accepted("s", "without");
        assert!(gateway.api().finished(&id)["usage"].is_null());
    }
}

#[test]
fn a_cancelled_turn_ends_and_the_next_one_works() {
    for modes in ["", "broken-cancel"] {
        let home = home(modes, "");
        let gateway = home.start();
        let api = gateway.api();
        say(&gateway, "s", "remember 7");
        let id = api.accepted("s", "wait");
        until_prompted(&home, "wait", 1);
        api.delete(&format!("/v1/messages/{id}")).assert_status(200);
        until_got(&home, "session/cancel", 1);
        assert_eq!(api.finished(&id)["status"], "cancelled");
        assert_eq!(say(&gateway, "s", "what number"), "7", "{modes}");
        // Another session's turn may run meanwhile: the process stays where the agent has answered.
        assert!(!modes.is_empty() || started(&home).len() == 1);
        assert_no_violation(&home);
    }
}

#[test]
fn an_agent_that_answers_no_cancel_is_ended() {
    let home = home("", "");
    let gateway = home.start();
    let api = gateway.api();
    say(&gateway, "s", "remember 7");
    let id = api.accepted("s", "deaf");
    until_prompted(&home, "deaf", 1);
    let began = Instant::now();
    api.delete(&format!("/v1/messages/{id}")).assert_status(200);
    assert_eq!(api.finished(&id)["status"], "cancelled");
    until_ended(started(&home)[0]);
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    gateway.wait_for_log("does not answer", DEADLINE);
    assert_eq!(say(&gateway, "s", "what number"), "7");
    assert_eq!(started(&home).len(), 2);
}

/// The others' turns run again, which costs them no attempt.
#[test]
fn a_turn_that_was_ended_for_anothers_sake_costs_no_attempt() {
    let home = home("", "[limits]\nmax_attempts = 1\n");
    let gateway = home.start();
    let api = gateway.api();
    let deaf = api.accepted("a", "deaf");
    until_prompted(&home, "deaf", 1);
    let innocent = api.accepted("b", "wait");
    until_prompted(&home, "wait", 1);
    api.delete(&format!("/v1/messages/{deaf}")).assert_status(200);
    // It is prompted again in another process.
    let pid = started(&home)[0];
    let again = |entry: &Value| {
        entry["got"]["params"]["prompt"][0]["text"] == "wait" && entry["pid"] != pid
    };
    noted(&home, "the other turn again", again);
    assert_eq!(api.message(&innocent)["status"], "running");
    api.delete(&format!("/v1/messages/{innocent}")).assert_status(200);
    assert_eq!(api.finished(&innocent)["status"], "cancelled");
}

#[test]
fn a_turn_that_takes_too_long_is_cancelled() {
    let home = home("", "turn_timeout = \"3s\"\n");
    let gateway = home.start();
    let api = gateway.api();
    let message = api.finished(&api.accepted("s", "wait"));
    assert_eq!(message["status"], "failed", "{message}");
    assert!(message["error"].as_str().unwrap().contains("turn_timeout"), "{message}");
    until_got(&home, "session/cancel", 1);
    assert_eq!(say(&gateway, "s", "history"), "1");
    assert_eq!(started(&home).len(), 1);
    gateway.ask("wait").error(504);
}

#[test]
fn a_message_that_interrupts_cancels_the_turn() {
    let home = home("", "[session]\nbusy = \"interrupt\"\n");
    let gateway = home.start();
    let id = gateway.api().accepted("s", "wait");
    until_prompted(&home, "wait", 1);
    assert_eq!(say(&gateway, "s", "history"), "1");
    assert_eq!(gateway.api().message(&id)["status"], "cancelled");
    let id = gateway.api().accepted("t", "wait");
    until_prompted(&home, "wait", 2);
    command(&gateway.api(), "t", "/stop");
    assert_eq!(gateway.api().finished(&id)["status"], "cancelled");
    assert_eq!(got(&home, "session/cancel").len(), 2);
    // Never two prompts at once in a session, and never a cancel without a prompt.
    assert_no_violation(&home);
}

#[test]
fn system_messages_go_in_front_of_the_first_prompt_and_files_are_linked() {
    let home = home("", "");
    let gateway = home.start();
    let body = json!({"model": "default", "messages": [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "blocks"}]});
    let reply = gateway.api().post("/v1/chat/completions", &body).reply();
    let blocks: Value = serde_json::from_str(&reply).unwrap();
    let text = blocks[0]["text"].as_str().unwrap();
    assert!(text.starts_with("be brief\n") && text.ends_with("\nblocks"), "{text:?}");
    // The prompt is the only message of its session.
    let prompts = log(&home);
    let count = prompts.iter().filter(|it| it["got"]["method"] == "session/prompt").count();
    assert_eq!(count, 1);
}
