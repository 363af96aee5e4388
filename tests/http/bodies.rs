//! What bodies cost and what is said of those that are not taken: memory stays in proportion to what
//! came in, whatever it says, and an error names the real reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use util::api::code_of;
use util::principals::{memory, reset_peak};
use util::upstream::chunk;
use util::{Api, DEADLINE, Gateway, Home, Upstream, rounds, script};

const MIB: usize = 1 << 20;

/// What a process has computed so far.
#[track_caller]
fn cpu_time(gateway: &Gateway) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    let after = stat.rsplit(") ").next().unwrap();
    let ticks: Vec<u64> = after.split(' ').skip(11).take(2).map(|n| n.parse().unwrap()).collect();
    Duration::from_millis(10 * (ticks[0] + ticks[1]))
}

/// A body of just below 1 MiB: `begin`, `piece` as often as it fits with commas, `end`.
fn filled(begin: &str, piece: &str, end: &str) -> String {
    let count = (MIB - 1024 - begin.len() - end.len()) / (piece.len() + 1);
    let mut body = begin.to_owned();
    for _ in 0..count {
        body += piece;
        body.push(',');
    }
    body.pop();
    body + end
}

fn bombs() -> Vec<(&'static str, String)> {
    let user = r#""messages":[{"role":"user","content":"hi"}],"#;
    let two = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"hi"}],"#;
    let deep = (MIB - 2048) / 2;
    vec![
        ("/v1/chat/completions", filled(&format!("{{{user}\"zz\":["), r#"{"":0}"#, "]}")),
        ("/v1/chat/completions", filled(&format!("{two}\"zz\":["), r#"{"":0}"#, "]}")),
        ("/v1/chat/completions", filled(&format!("{{{user}"), r#""":{"":0}"#, "}")),
        ("/v1/chat/completions", filled("{\"messages\":[", "0", "]}")),
        ("/v1/chat/completions", filled(&format!("{{{user}\"zz\":["), "\"\"", "]}")),
        (
            "/v1/chat/completions",
            filled("{\"messages\":[", r#"{"role":"user","content":""}"#, "]}"),
        ),
        (
            "/v1/chat/completions",
            filled(
                "{\"messages\":[{\"role\":\"user\",\"content\":[",
                r#"{"type":"text","text":""}"#,
                "]}]}",
            ),
        ),
        (
            "/v1/chat/completions",
            format!("{{{user}\"zz\":{}{}}}", "[".repeat(deep), "]".repeat(deep)),
        ),
        ("/v1/responses", filled("{\"input\":\"hi\",\"metadata\":{\"a\":[", r#"{"":0}"#, "]}}")),
        ("/v1/responses", filled("{\"input\":[", r#"{"role":"user","content":"a"}"#, "]}")),
        ("/v1/responses", filled("{\"input\":\"hi\",\"zz\":{\"a\":[", r#"{"":0}"#, "]}}")),
        ("/v1/messages", format!("{{\"text\":\"{}\"}}", "\\\"".repeat(deep))),
        ("/v1/messages", filled("{\"text\":\"hi\",\"attachments\":[", "0", "]}")),
        ("/v1/messages", filled("{\"text\":\"hi\",", r#""zz":{"":0}"#, "}")),
        ("/v1/messages", filled("[", "0", "]")),
    ]
}

/// A gateway that has answered something: what is made once only is not of the bodies.
#[track_caller]
fn warm(config: &str) -> (Gateway, Api) {
    let home = Home::new();
    home.configure(config);
    let gateway = home.start();
    let api = gateway.api();
    api.send("warm", "up");
    api.post("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "a"}]}));
    (gateway, api)
}

#[test]
fn a_body_takes_no_more_than_four_times_its_size_whatever_it_says() {
    for (path, body) in bombs() {
        let (gateway, api) = warm("");
        // A part of the peak of the start may have been given back by now.
        let before = reset_peak(&gateway);
        let status = api.call("POST", path, &[], &body).status();
        assert!(status < 500, "{path} {status} {body:.60}");
        // The kernel counts what is resident for each processor, and adds up now and then only.
        let taken = memory(&gateway, "VmHWM:").saturating_sub(before) * 1024;
        let times = taken as f64 / body.len() as f64;
        util::report(&format!("{times:.1} times for {path} {status} {body:.70}"));
        assert!(times <= 4.0, "{times:.1} times for {path} {body:.80}");
    }
}

#[test]
fn many_bodies_at_once_take_no_more_each_than_one() {
    let (gateway, api) = warm("");
    let before = reset_peak(&gateway);
    let bodies: Vec<(&str, String)> = bombs().into_iter().cycle().take(rounds(30, 60)).collect();
    let sum: usize = bodies.iter().map(|(_, body)| body.len()).sum();
    std::thread::scope(|scope| {
        for (path, body) in &bodies {
            let api = api.clone();
            scope.spawn(move || {
                let mut client = api.begin("POST", path, &[], body);
                // All of them together are 60 MiB for a debug build on a busy machine.
                client.set_read_limit(6 * DEADLINE);
                assert!(client.response().status() < 500);
            });
        }
    });
    let taken = memory(&gateway, "VmHWM:").saturating_sub(before) * 1024;
    assert!(taken <= 4 * sum as u64, "{taken} bytes for {sum}");
}

#[test]
fn what_the_gateway_does_not_read_itself_reaches_the_upstream_as_it_came() {
    let upstream = Upstream::start();
    let home = Home::new();
    home.configure(&upstream.config(""));
    let gateway = home.start();
    let body = r#"{"messages":[{"role":"user","content":"a\u0062","x":[1.0,1e400]}],"zz":
        {"big":123456789012345678901234567890,"half":"\ud83d"},"":7,"stream":false}"#;
    let mut client = gateway.api().begin("POST", "/v1/chat/completions", &[], body);
    let mut line = upstream.accept();
    let asked = String::from_utf8(line.request().body).unwrap();
    for part in [
        r#""content":"a\u0062","x":[1.0,1e400]"#,
        "123456789012345678901234567890",
        "\\ud83d",
        r#""":7"#,
    ] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    line.answer(
        200,
        "",
        r#"{"model":"up","choices":[{"message":{"content":"fine"}}],"":8,"x":1.50}"#,
    );
    let answer = client.response().assert_status(200).text();
    assert!(answer.contains(r#""model":"default""#) && answer.contains("1.50"), "{answer}");
    assert!(answer.contains(r#""":8"#), "{answer}");
}

#[test]
fn an_error_names_the_real_reason() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let chat = |content: &str| format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#);
    let deep = |deep: usize| format!("{}1{}", "[".repeat(deep), "]".repeat(deep));
    for (path, body, word) in [
        ("/v1/chat/completions", chat("[]"), "empty list"),
        ("/v1/responses", r#"{"input":[{"role":"user","content":[]}]}"#.into(), "empty list"),
        ("/v1/chat/completions", chat(r#""\ud83d""#), "surrogate"),
        ("/v1/messages", r#"{"text":"\ud83d"}"#.into(), "surrogate"),
        ("/v1/messages", r#"{"text":1e400}"#.into(), "must be text"),
        ("/v1/chat/completions", r#"{"messages":1e400}"#.into(), "list of messages"),
        ("/v1/messages", r#"{"text":"a","session":"a\u0007b"}"#.into(), "U+0007"),
        ("/v1/messages", r#"{"text":"a","text":"b"}"#.into(), "duplicate field"),
        ("/v1/messages", format!(r#"{{"text":"a","session":{}}}"#, deep(125)), "126 levels"),
        ("/v1/messages", format!(r#"{{"text":"a","session":{}}}"#, deep(50_000)), "50001 levels"),
    ] {
        let error = api.call("POST", path, &[], &body).error(400);
        assert!(error.contains(word), "{body:.80}: {error}");
        assert!(!error.contains("not JSON"), "{body:.80}: {error}");
    }
    let fields = [("Content-Encoding", "gzip")];
    let error = api.call("POST", "/v1/messages", &fields, "\u{1f}\u{8b}").error(415);
    assert!(error.contains("Content-Encoding: gzip"), "{error}");
    let plain = [("Content-Encoding", "identity")];
    api.call("POST", "/v1/messages", &plain, r#"{"text":"a"}"#).assert_status(202);
}

#[test]
fn instructions_that_a_program_cannot_be_given_are_rejected_before_they_are_accepted() {
    let home = Home::new();
    home.configure(&script("cat"));
    let gateway = home.start();
    let api = gateway.api();
    let chat = |told: &str| json!({"messages": [{"role": "system", "content": told}, {"role": "user", "content": "a"}]});
    let input = |told: &str| json!({"input": "a", "instructions": told});
    let long = "x".repeat(130_000);
    for (path, body) in [
        ("/v1/chat/completions", &chat as &dyn Fn(&str) -> Value),
        ("/v1/responses", &input as &dyn Fn(&str) -> Value),
    ] {
        assert!(api.post(path, &body("a\0b")).error(400).contains("U+0000"));
        assert_eq!(code_of(api.post(path, &body(&long)), 413), "too_long");
        api.post(path, &body("brief")).assert_status(200);
    }
    assert_eq!(gateway.status()["turns"]["waiting"], 0);
}

#[test]
fn metadata_are_rejected_where_they_could_not_be_read_again() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let nested = |deep: usize| {
        let nested = "{\"a\":".repeat(deep);
        format!(r#"{{"input":"hi","metadata":{nested}1{}}}"#, "}".repeat(deep))
    };
    for deep in [100, 125, 127, 5000] {
        let error = api.call("POST", "/v1/responses", &[], &nested(deep)).error(400);
        assert!(error.contains("levels deep"), "{error}");
    }
    let made = api.call("POST", "/v1/responses", &[], &nested(99)).assert_status(200).text();
    let id = made.split('"').nth(3).unwrap().to_owned();
    let path = format!("/v1/responses/{id}");
    assert!(api.get(&path).assert_status(200).text().contains(&"{\"a\":".repeat(99)));
    api.delete(&path).assert_status(200);
    api.get(&path).assert_status(404);
}

#[test]
fn a_reply_s_bound_counts_all_that_a_model_says() {
    let upstream = Upstream::start();
    let home = Home::new();
    home.configure(&format!("{}[limits]\nmax_reply = 4096\n", upstream.config("")));
    let gateway = home.start();
    let call = |text: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]});
    let plain = json!({"content": "x"});
    let wide = json!({"content": "x", "zz": ["y".repeat(50)]});
    for (delta, wanted) in [
        (call(&"x".repeat(100)), true),
        (call("x"), true),
        (json!({"reasoning_content": "x".repeat(100)}), true),
        (wide, true),
        // What is around the text does not count.
        (plain, false),
    ] {
        let body = json!({"messages": [{"role": "user", "content": "a"}], "stream": true});
        let fields = [("Connection", "close")];
        let (api, path) = (gateway.api(), "/v1/chat/completions");
        let mut client = api.begin("POST", path, &fields, &body.to_string());
        let mut line = upstream.accept();
        line.request();
        line.begin();
        let event = format!("data: {}\n\n", chunk(&delta, None));
        line.send(&format!("{:x}\r\n{event}\r\n", event.len()).repeat(150));
        line.end();
        let seen = String::from_utf8(client.until_close()).unwrap();
        assert_eq!(seen.contains("limits.max_reply"), wanted, "{delta}: {seen:.2000}");
    }
}

#[test]
fn a_list_of_many_models_is_read_in_linear_time_and_has_a_bound() {
    let upstream = Upstream::start();
    let home = Home::new();
    home.configure(&upstream.config("").replace("model = ", "# "));
    let gateway = home.start();
    let ids: Vec<String> = (0..50_000).map(|n| format!(r#"{{"id":"m{n}"}}"#)).collect();
    let list = format!(r#"{{"data":[{{"id":"m0"}},{{"id":"default"}},{}]}}"#, ids.join(","));
    let mut client = gateway.api().begin("GET", "/v1/models", &[], "");
    let mut line = upstream.accept();
    line.request();
    line.answer(200, "", &list);
    let cpu = cpu_time(&gateway);
    let models = client.response().json();
    let models: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(models[..3], ["default", "m0", "m1"]);
    assert_eq!(models.len(), 2000);
    for _ in 0..5 {
        gateway.api().get("/v1/models").assert_status(200);
    }
    let spent = cpu_time(&gateway) - cpu;
    assert!(spent <= Duration::from_secs(1), "{spent:?}");
}
