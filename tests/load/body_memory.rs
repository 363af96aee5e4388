//! What a body costs in memory while it is read: no more than four times its bytes, whatever it says,
//! and nothing soon after. One at a time, since each measures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::{alone, util};

use std::time::Duration;

use util::principals::{at_once, memory, reset_peak, until_resident};
use util::{Api, Gateway, Home, full, report};

const MIB: usize = 1 << 20;
/// What the threads of a debug build and the buffers of connections take beside bodies, in kB each.
const CONNECTION: u64 = 64;

/// A body of no more than 1 MiB: between these two as often as there is room for it, with commas.
fn filled(before: &str, unit: &str, after: &str) -> String {
    let count = (MIB - before.len() - after.len()) / (unit.len() + 1);
    format!("{before}{}{after}", vec![unit; count].join(","))
}

/// A body that nests as deep as 1 MiB lets it.
fn nested(before: &str, open: &str, close: &str, after: &str) -> String {
    let count = (MIB - before.len() - after.len() - 1) / (open.len() + close.len());
    format!("{before}{}0{}{after}", open.repeat(count), close.repeat(count))
}

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGE: &str = "/v1/sessions/s/messages";
const HI: &str = r#"{"messages":[{"role":"user","content":"hi"}],"#;

/// Fields that nobody knows.
fn unknown() -> Vec<(&'static str, String)> {
    let field = |unit: &str| filled(&format!("{HI}\"zz\":["), unit, "]}");
    vec![
        (CHAT, field(r#"{"":0}"#)),
        (CHAT, field(r#"{"":{"":0}}"#)),
        (CHAT, field("0")),
        (CHAT, field("[]")),
        (CHAT, field(r#""\u0061""#)),
        (CHAT, field(&format!("{}{}", "[".repeat(90), "]".repeat(90)))),
        (CHAT, filled(&format!("{HI}\"zz\":{{"), r#""":0"#, "}}")),
        (CHAT, filled(HI, r#""a":{}"#, "}")),
        (CHAT, nested(&format!("{HI}\"zz\":"), "[", "]", "}")),
        (CHAT, nested(&format!("{HI}\"zz\":"), r#"{"":"#, "}", "}")),
        (MESSAGE, filled(r#"{"text":"hi","zz":["#, r#"{"":0}"#, "]}")),
        (RESPONSES, filled(r#"{"input":"hi","zz":["#, r#"{"":0}"#, "]}")),
    ]
}

/// What is no object at all, and fields that are known, with something else in them.
fn known() -> Vec<(&'static str, String)> {
    let part = r#"{"messages":[{"role":"user","content":["#;
    vec![
        (CHAT, filled("[", "0", "]")),
        (CHAT, nested("", "[", "]", "")),
        (CHAT, filled(r#"{"messages":["#, "{}", "]}")),
        (CHAT, filled(r#"{"messages":["#, r#"{"role":"user","content":""}"#, "]}")),
        (CHAT, filled(part, "{}", "]}]}")),
        (CHAT, filled(part, r#"{"type":"text","text":""}"#, "]}]}")),
        (CHAT, filled(&format!("{HI}\"tools\":["), r#"{"":0}"#, "]}")),
        (CHAT, filled(&format!("{HI}\"metadata\":{{"), r#""":"""#, "}}")),
        (RESPONSES, filled(r#"{"input":["#, "{}", "]}")),
        (RESPONSES, filled(r#"{"input":["#, r#"{"role":"user","content":""}"#, "]}")),
        (RESPONSES, filled(r#"{"input":"hi","metadata":{"#, r#""":0"#, "}}")),
        (MESSAGE, filled(r#"{"text":"hi","attachments":["#, r#""""#, "]}")),
        (MESSAGE, filled(r#"{"text":"hi","attachments":["#, r#"{"":0}"#, "]}")),
        (MESSAGE, format!(r#"{{"text":"{}"}}"#, r"\u0061".repeat((MIB - 11) / 6))),
    ]
}

/// Sends a body, and says whether the answer is one that says what is wrong, if anything is.
fn send(api: &Api, target: &str, body: &str) -> u16 {
    api.call("POST", target, &[], body).status()
}

/// How often it is measured until it is little enough: pages of the program, which go whenever nobody has asked
/// for a while, come back with a request and are in one measurement, and what a body takes is in each.
const TRIES: usize = 5;

/// What is wrong with what this body takes in each of some tries.
#[track_caller]
fn complaints(gateway: &Gateway, target: &str, body: &str, clients: usize) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..TRIES {
        found = complaints_once(gateway, target, body, clients);
        if found.is_empty() {
            break;
        }
    }
    found
}

/// What is wrong with what this body takes when it is sent so often at once, and with what is left of it ten
/// seconds later.
#[track_caller]
fn complaints_once(gateway: &Gateway, target: &str, body: &str, clients: usize) -> Vec<String> {
    let (api, before) = (gateway.api(), reset_peak(gateway));
    at_once(clients, |_| {
        let status = send(&api, target, body);
        assert!([200, 202, 400, 413, 422, 429, 503].contains(&status), "{status}");
    });
    let peak = memory(gateway, "VmHWM:").saturating_sub(before);
    let came_in = (body.len() * clients / 1024) as u64;
    let most = 4 * came_in + CONNECTION * clients as u64;
    let left = until_resident(gateway, before + 4096, Duration::from_secs(10));
    let what = format!("{clients} × {target} {}…", &body[..70]);
    let mut found = Vec::new();
    if peak > most {
        found.push(format!("{what}: {peak} kB for {came_in} kB"));
    }
    if left > before + 4096 {
        found.push(format!("{what}: {left} kB stay where there were {before}"));
    }
    found
}

/// Each of these bodies, sent so often at once, takes no more than it may.
#[track_caller]
fn are_cheap(bodies: &[(&str, String)], clients: usize) {
    // What is accepted is kept on the disk, and not in memory.
    let gateway = Home::new().start();
    gateway.ask("first");
    let all = bodies.iter().flat_map(|(target, body)| complaints(&gateway, target, body, clients));
    let all: Vec<String> = all.collect();
    report(&format!("{} kB in the end", memory(&gateway, "VmRSS:")));
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn what_nobody_knows_in_a_body_takes_no_more_than_four_times_its_bytes() {
    let _alone = alone();
    are_cheap(&unknown(), 1);
}

#[test]
fn what_is_known_in_a_body_takes_no_more_than_four_times_its_bytes() {
    let _alone = alone();
    are_cheap(&known(), 1);
}

#[test]
fn sixty_such_bodies_at_once_take_no_more_than_four_times_their_bytes_and_give_it_back() {
    let _alone = alone();
    let all = unknown();
    let kinds: &[usize] = if full() { &[0, 1, 2, 5, 8] } else { &[0, 5] };
    are_cheap(&kinds.iter().map(|kind| all[*kind].clone()).collect::<Vec<_>>(), 60);
}

#[test]
fn a_chat_with_fields_that_nobody_knows_is_answered_all_the_same() {
    let _alone = alone();
    let gateway = Home::new().launch().arg("--ephemeral").start();
    for (target, body) in unknown().iter().filter(|(target, _)| *target != MESSAGE) {
        let status = send(&gateway.api(), target, body);
        // What nests too deep may be refused, and nothing else.
        let is_deep = ["[", r#"{"":"#].iter().any(|open| body.contains(&open.repeat(1000)));
        assert!(status == 200 || is_deep && status == 400, "{status}: {}", &body[..80]);
    }
}
