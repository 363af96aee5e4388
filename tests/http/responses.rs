//! The Responses API, and what agents are told beside the text of their turn. Clients that others
//! wrote are in `tests/clients`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use util::api::code_of;
use util::{Api, DEADLINE, Gate, Gateway, Home, eventually, script};

/// Prints the text, the instructions, and what was said before.
const TELLER: &str = r#"printf 'text=%s told=%s' "$(cat)" "$HERMES_INSTRUCTIONS"
    ! [ -s "$HERMES_TRANSCRIPT" ] || { echo; cat "$HERMES_TRANSCRIPT"; }"#;

#[track_caller]
fn teller(more: &str) -> Gateway {
    let home = Home::new();
    home.configure(&format!("{}{more}", script(TELLER)));
    home.start()
}

#[track_caller]
fn create(api: &Api, body: &Value) -> Value {
    api.post("/v1/responses", body).assert_status(200).json()
}

fn text_of(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{response}"))
}

fn id_of(response: &Value) -> String {
    response["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_response_and_what_builds_upon_it() {
    let gateway = teller("");
    let api = gateway.api();
    let first = create(&api, &json!({"input": "one", "instructions": "be kind", "model": "m"}));
    assert_eq!(
        text_of(&first),
        "text=one told=be kind\n{\"role\":\"system\",\"content\":\"be kind\"}"
    );
    assert_eq!((&first["status"], &first["model"]), (&json!("completed"), &json!("m")));
    assert!(first.get("usage").is_none(), "usage was invented: {first}");

    let second = create(
        &api,
        &json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "two"}]}],
                "previous_response_id": first["id"], "metadata": {"a": "b"}}),
    );
    // Instructions hold for one response only.
    let said = text_of(&second);
    assert!(
        said.starts_with("text=two told=\n{\"role\":\"user\",\"content\":\"one\"}\n"),
        "{said}"
    );
    assert!(said.contains("{\"role\":\"assistant\",\"content\":\"text=one"), "{said}");

    let third = create(&api, &json!({"input": "three", "previous_response_id": second["id"]}));
    let said = text_of(&third);
    assert!(said.contains("\"one\"") && said.contains("\"two\""), "{said}");
    assert!(said.find("\"one\"") < said.find("\"two\""), "{said}");

    // After a kill all is as it was.
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let api = gateway.api();
    let found = api.get(&format!("/v1/responses/{}", id_of(&second))).assert_status(200).json();
    assert_eq!(found, second);
    let fourth = create(&api, &json!({"input": "four", "previous_response_id": third["id"]}));
    assert!(text_of(&fourth).contains("\"one\""), "{fourth}");

    // What was deleted is gone, over a restart before the compaction and one after it, and nothing
    // builds upon it.
    let path = format!("/v1/responses/{}", id_of(&second));
    let deleted = api.delete(&path).assert_status(200).json();
    assert_eq!(deleted, json!({"id": second["id"], "object": "response", "deleted": true}));
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let api = gateway.api();
    assert_eq!(code_of(api.get(&path), 404), "not_found");
    api.post("/v1/journal/compact", &json!({})).assert_status(200);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let api = gateway.api();
    assert_eq!(code_of(api.get(&path), 404), "not_found");
    assert_eq!(code_of(api.delete(&path), 404), "not_found");
    for previous in [&second["id"], &third["id"], &json!("resp_x"), &json!("msg_1")] {
        let body = json!({"input": "five", "previous_response_id": previous});
        assert_eq!(
            code_of(api.post("/v1/responses", &body), 404),
            "previous_response_not_found",
            "{previous}"
        );
    }
    let journal = gateway.home().journal_text();
    let record = format!("\"id\":\"{}\"", &id_of(&second)[5..]);
    assert!(!journal.contains(&record), "{journal}");
}

#[test]
fn what_is_not_stored_is_nowhere() {
    let gateway = teller("");
    let api = gateway.api();
    let first = create(&api, &json!({"input": "one"}));
    let body = json!({"input": "secret", "store": false, "previous_response_id": first["id"]});
    let second = create(&api, &body);
    assert!(text_of(&second).contains("\"one\""), "{second}");
    assert_eq!(second["store"], false);
    assert_eq!(code_of(api.get(&format!("/v1/responses/{}", id_of(&second))), 404), "not_found");
    let journal = gateway.home().journal_text();
    assert!(journal.contains("one") && !journal.contains("secret"), "{journal}");
    // With a session it is written down, and cannot be asked for all the same.
    let body = json!({"input": "three", "store": false}).to_string();
    let fields = [("X-Hermes-Session-Id", "s")];
    let third = api.call("POST", "/v1/responses", &fields, &body).assert_status(200).json();
    assert_eq!(code_of(api.get(&format!("/v1/responses/{}", id_of(&third))), 404), "not_found");
    // A message that is no response.
    let id = api.accepted("s", "four");
    assert_eq!(code_of(api.get(&format!("/v1/responses/resp_{id}")), 404), "not_found");
}

#[test]
fn in_a_session_its_transcript_is_the_conversation() {
    let gateway = teller("");
    let api = gateway.api();
    let fields = [("X-Hermes-Session-Id", "s")];
    let ask = |body: &Value| {
        let response = api.call("POST", "/v1/responses", &fields, &body.to_string());
        response.assert_status(200).json()
    };
    let first = ask(&json!({"input": "one", "instructions": "be kind"}));
    assert_eq!(text_of(&first), "text=one told=be kind");
    let second = ask(&json!({"input": "two", "previous_response_id": first["id"]}));
    let said = text_of(&second);
    assert_eq!(said.matches("\"one\"").count(), 1, "{said}");
    let chat = json!({"messages": [{"role": "developer", "content": "be brief"},
        {"role": "user", "content": "ancient"}, {"role": "user", "content": "three"}]});
    let reply = api.call("POST", "/v1/chat/completions", &fields, &chat.to_string()).reply();
    assert!(reply.starts_with("text=three told=be brief\n"), "{reply}");
    assert!(reply.contains("\"two\"") && !reply.contains("ancient"), "{reply}");
    let other = create(&api, &json!({"input": "x"}));
    let body = json!({"input": "y", "previous_response_id": other["id"]}).to_string();
    assert_eq!(code_of(api.call("POST", "/v1/responses", &fields, &body), 400), "bad_request");
}

#[test]
fn a_chat_hands_on_what_was_said_before_for_as_long_as_its_turn_lasts() {
    let gateway = teller("");
    let api = gateway.api();
    let chat = json!({"messages": [{"role": "system", "content": "s"},
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}]});
    let said = "text=c told=s\n{\"role\":\"system\",\"content\":\"s\"}\n\
                {\"role\":\"user\",\"content\":\"a\"}\n{\"role\":\"assistant\",\"content\":\"b\"}";
    assert_eq!(api.post("/v1/chat/completions", &chat).reply(), said);
    let fields = [("Idempotency-Key", "k")];
    let keyed = || api.call("POST", "/v1/chat/completions", &fields, &chat.to_string());
    assert_eq!(keyed().reply(), said);
    assert_eq!(keyed().field("idempotent-replayed"), Some("true"));
    let dir = gateway.home().state_dir().join("sessions");
    let left: Vec<_> = fs::read_dir(dir).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let long = "x".repeat(130_000);
    let chat = json!({"messages": [{"role": "system", "content": long},
        {"role": "user", "content": "a"}]});
    let error = api.post("/v1/chat/completions", &chat).error(413);
    assert!(error.contains("system messages have 130000 bytes"), "{error}");
}

#[test]
fn usage_is_what_the_agent_says() {
    let home = Home::new();
    // The log has not as many lines of a turn.
    let usage = r#"seq 2000 >&2; echo 'hermes-usage: {"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}' >&2; cat"#;
    home.configure(&script(usage));
    let gateway = home.start();
    let api = gateway.api();
    let chat = util::http::chat("hi", false);
    let whole = json!({"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8});
    for fields in [&[][..], &[("Idempotency-Key", "k")], &[("Idempotency-Key", "k")]] {
        let reply = api.call("POST", "/v1/chat/completions", fields, &chat).json();
        assert_eq!(reply["usage"], whole, "{fields:?}");
    }
    let response = create(&api, &json!({"input": "hi"}));
    let named = json!({"input_tokens": 3, "output_tokens": 5, "total_tokens": 8,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0}});
    assert_eq!(response["usage"], named);
    let found = api.get(&format!("/v1/responses/{}", id_of(&response))).json();
    assert_eq!(found["usage"], named);
    let streamed = |options: &str| {
        let body =
            format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],"stream":true{options}}}"#);
        let text = api.call("POST", "/v1/chat/completions", &[], &body).text();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        text.matches("\"usage\":{").count()
    };
    assert_eq!(streamed(""), 0);
    assert_eq!(streamed(r#","stream_options":{"include_usage":true}"#), 1);
    assert!(!gateway.stderr().contains("hermes-usage"), "{}", gateway.stderr());
}

#[test]
fn what_cannot_be_done_is_refused_in_words() {
    let gateway = Gateway::start();
    let api = gateway.api();
    for (body, word) in [
        (json!({}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": 1}), "input"),
        (json!({"input": [{"role": "tool", "content": "x"}]}), "role"),
        (json!({"input": [{"role": "user"}]}), "content"),
        (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), "input_image"),
        (json!({"input": "x", "background": true}), "background"),
        (json!({"input": "x", "conversation": "c"}), "conversation"),
        (json!({"input": "x", "store": "no"}), "store"),
        (json!({"input": "x", "metadata": []}), "metadata"),
        (json!({"input": "x", "instructions": 1}), "instructions"),
    ] {
        let error = api.post("/v1/responses", &body).error(400);
        assert!(error.contains(word), "{body}: {error}");
    }
    assert_eq!(api.get("/v1/models/default").assert_status(200).json()["id"], "default");
    assert_eq!(code_of(api.get("/v1/models/none"), 404), "model_not_found");
}

#[test]
fn a_stream_that_fails_says_so() {
    let home = Home::new();
    home.configure(&script("printf half; exec 1>&-; exit 1"));
    let gateway = home.start();
    let body = json!({"input": "x", "stream": true, "store": false}).to_string();
    let text = gateway.api().call("POST", "/v1/responses", &[], &body).text();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names[names.len() - 2..], ["error", "response.failed"], "{text}");
    assert!(!text.contains("response.completed"), "{text}");
}

#[test]
fn a_response_that_is_deleted_while_it_runs_ends_with_that_reason() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&script(&format!("printf half; {}", gate.wait())));
    let gateway = home.start();
    let api = gateway.api();
    for stream in [true, false] {
        let body = json!({"input": "x", "stream": stream}).to_string();
        let mut reader = api.begin("POST", "/v1/responses", &[], &body);
        gateway.wait_for_turns(1);
        let mut text = String::new();
        if stream {
            // Before its first chunk it would be an error with a status.
            assert_eq!(reader.head().status, 200);
            while !text.contains("half") {
                text += &String::from_utf8(reader.chunk().unwrap()).unwrap();
            }
        }
        let path = eventually("a response that runs", || {
            let dump = home.run(&["journal", "dump"]).assert_code(0).stdout;
            let started = dump.lines().rfind(|line| line.contains(r#""t":"started""#))?;
            let (_, id) = started.split_once(r#""id":""#)?;
            let path = format!("/v1/responses/resp_{}", id.split_once('"')?.0);
            // The one before it is deleted.
            (api.get(&path).status() == 200).then_some(path)
        });
        api.delete(&path).assert_status(200);
        if stream {
            while let Some(chunk) = reader.chunk() {
                text += &String::from_utf8(chunk).unwrap();
            }
            assert!(text.contains(r#""code":"response_deleted""#), "{text}");
            assert!(
                text.contains("event: response.failed") && !text.contains("stopping"),
                "{text}"
            );
        } else {
            assert_eq!(code_of(reader.response(), 410), "response_deleted");
        }
        assert_eq!(code_of(api.get(&path), 404), "not_found");
        gateway.wait_for_log("attempt 1, ", DEADLINE);
    }
    assert!(!gateway.stderr().contains("attempt 0"), "{}", gateway.stderr());
}

/// What nothing comes from is kept alive: before a place is free, and while the agent thinks.
#[test]
fn silent_streams_say_that_they_are_still_there() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let agent = script(&format!("{}; cat", gate.wait()));
    home.configure(&format!("{agent}[limits]\nmax_turns = 1\n"));
    let gateway = home.start();
    let api = gateway.api();
    let durable = [("X-Hermes-Session-Id", "s")];
    let body = util::http::chat("x", true);
    let runs = api.begin("POST", "/v1/chat/completions", &[], &body);
    gateway.wait_for_turns(1);
    let waits = api.begin("POST", "/v1/chat/completions", &[], &body);
    let waits_too = api.begin("POST", "/v1/chat/completions", &durable, &body);
    let mut all = [runs, waits, waits_too];
    for connection in &mut all {
        connection.set_read_limit(Duration::from_secs(40));
        assert_eq!(connection.head().status, 200);
        assert_eq!(connection.chunk().unwrap(), b": still here\n\n");
    }
    gate.open();
    for connection in &mut all {
        let mut text = String::new();
        while let Some(chunk) = connection.chunk() {
            text += &String::from_utf8(chunk).unwrap();
        }
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    }
}
