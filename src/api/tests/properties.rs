//! What must hold for any bytes at all in the place of a JSON body: asked by the fuzzer (tests/fuzz), and
//! here of what it found worth keeping.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use serde_json::Value;

use crate::agent::{Context, Report};
use crate::api::auth::Authenticated;
use crate::api::error::bad;
use crate::api::responses::{self, EchoedFields, Output, ResponsesEncoder};
use crate::api::turn::ParseOptions;
use crate::api::{chat_completions, messages};
use crate::config::{Busy, ClientKey};
use crate::json::member;

/// Each reader takes or refuses them, in words; what it takes reads back as it was.
pub fn json(bytes: &[u8]) {
    for bits in 0..8 {
        let is = |bit: u8| bits & bit != 0;
        let options =
            ParseOptions { in_session: is(1), durable: is(2), upstream: is(4), stores: is(1) };
        match chat_completions::parse(bytes, options) {
            Ok((ask, encoder)) => {
                assert!(ask.text.len() <= bytes.len(), "text from nowhere");
                assert!(!encoder.include_usage || ask.stream);
                if let Some(context) = ask.context {
                    sound(&context, bytes.len());
                }
            }
            Err(problem) => refused(problem.0.status, &problem.0.message),
        }
    }
    for bits in 0..4 {
        let is = |bit: u8| bits & bit != 0;
        let options =
            ParseOptions { in_session: is(1), durable: is(1), upstream: is(2), stores: is(1) };
        responses(bytes, options);
    }
    let owner = Authenticated(Arc::new(ClientKey::new("owner")));
    match messages::parse(bytes, (None, None), &owner, Busy::Queue) {
        Ok(draft) => assert!(!draft.text.is_empty() && draft.text.len() <= bytes.len()),
        Err(problem) => refused(problem.0.status, &problem.0.message),
    }
}

/// These as the items of a response's input.
pub fn input(bytes: &[u8]) {
    let body =
        [b"{\"tools\":[{\"type\":\"function\",\"name\":\"f\"}],\"input\":[", bytes, b"]}"].concat();
    for upstream in [false, true] {
        let plain = ParseOptions { in_session: false, durable: false, upstream, stores: false };
        responses(&body, plain);
    }
}

/// A response's request becomes a chat that its upstream can read, and its input reads back as items.
pub fn responses(bytes: &[u8], options: ParseOptions) {
    let call = || r#"{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}"#.into();
    let mut lookup = |id: &str| match id {
        "msg_0" => Ok(Output::Said("said".to_owned())),
        "fc_0_0" => Ok(Output::Call(call())),
        _ => Err(bad("unknown")),
    };
    let (ask, about) = match responses::parse(bytes, options, &mut lookup) {
        Ok(parsed) => parsed,
        Err(problem) => return refused(problem.0.status, &problem.0.message),
    };
    let context = ask.context.unwrap();
    sound(&context, bytes.len());
    // A stored response can be told from its context alone.
    assert_eq!(EchoedFields::parse(&context).as_ref(), Some(&about), "{context}");
    let read = |json: &str| -> Value {
        serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"))
    };
    let chat = read(&context);
    let whole = read(
        &ResponsesEncoder::new(about, 0).done("0", &Report::default(), true).replace('\0', ""),
    );
    assert_eq!(whole["output"][0]["id"], "msg_0");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let tools = list(&chat["options"]["tools"]);
    assert!(tools.is_empty() || options.takes_all());
    assert_eq!(list(&whole["tools"]).len(), tools.len());
    let mut parts = 0;
    for message in list(&chat["messages"]) {
        let calls = list(&message["tool_calls"]);
        assert!(calls.is_empty() || message["role"] == "assistant", "{message}");
        assert!(message["content"].is_string() || !calls.is_empty() || message["role"] == "user");
        for call in &calls {
            assert!(call["id"].is_string() && call["function"]["arguments"].is_string(), "{call}");
        }
        parts += calls.len() + usize::from(!message["content"].is_null());
    }
    let messages = member(&context, "messages").unwrap_or_default();
    let all = responses::items(messages, "0");
    assert_eq!(all.len(), parts, "{context}");
    for (id, item) in all {
        assert_eq!(read(&item)["id"], id);
    }
}

fn refused(status: u16, words: &str) {
    assert!((400..500).contains(&status) && !words.is_empty(), "{status} {words}");
    assert!(words.len() < 1000, "{words}");
}

fn sound(json: &str, size: usize) {
    // A byte takes six in the longest escape, and the fields that are ours some more.
    assert!(json.len() <= 6 * size + 500, "{} bytes of {size}", json.len());
    let context = Context::parse(json);
    assert!(!context.model.is_empty() || json.contains("\"model\":\"\""));
    let _ = (context.lines(), crate::agent::context::instructions(&context.messages));
}

#[test]
fn what_the_fuzzer_kept_holds() {
    let seeds = include_str!("../../../tests/fuzz/seeds/json");
    for line in seeds.lines() {
        let digits = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..line.len()).step_by(2).map(digits).collect();
        json(&bytes);
    }
    assert!(seeds.lines().count() > 10);
}

#[test]
fn what_the_fuzzer_kept_of_responses_holds() {
    for line in include_str!("../../../tests/fuzz/seeds/responses").lines() {
        let digits = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..line.len()).step_by(2).map(digits).collect();
        input(&bytes);
    }
    assert!(include_str!("../../../tests/fuzz/seeds/responses").lines().count() > 10);
}
