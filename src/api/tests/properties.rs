//! What must hold for any bytes at all in the place of a JSON body: asked by the fuzzer (tests/fuzz), and
//! here of what it found worth keeping.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use crate::agent::Context;
use crate::api::auth::Authenticated;
use crate::api::turn::ParseOptions;
use crate::api::{chat_completions, messages, responses_api};
use crate::config::{Busy, ClientKey};

/// Each reader takes or refuses them, in words; what it takes reads back as it was.
pub fn json(bytes: &[u8]) {
    for bits in 0..8 {
        let is = |bit: u8| bits & bit != 0;
        let options = ParseOptions { in_session: is(1), durable: is(2), upstream: is(4) };
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
    match responses_api::parse(bytes) {
        Ok((ask, about)) => {
            let context = ask.context.unwrap();
            sound(&context, bytes.len());
            // A stored response can be told from its context alone.
            assert_eq!(
                responses_api::EchoedFields::parse(&context).as_ref(),
                Some(&about),
                "{context}"
            );
        }
        Err(problem) => refused(problem.0.status, &problem.0.message),
    }
    let owner = Authenticated(Arc::new(ClientKey::new("owner")));
    match messages::parse(bytes, None, &owner, Busy::Queue) {
        Ok(draft) => assert!(!draft.text.is_empty() && draft.text.len() <= bytes.len()),
        Err(problem) => refused(problem.0.status, &problem.0.message),
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
