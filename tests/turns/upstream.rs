//! The agent `upstream` from end to end, against a server that does what the test says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use util::api::code_of;
use util::http::Connection;
use util::upstream::{Line, Tls, chunk};
use util::{DEADLINE, Gateway, Home, Upstream, eventually};

/// A gateway in front of this server, with these further lines in `[agent]`.
#[track_caller]
fn gateway(upstream: &Upstream, more: &str) -> Gateway {
    let home = Home::new();
    home.configure(&upstream.config(more));
    home.start()
}

/// The same, which has to ask the server for the model.
#[track_caller]
fn gateway_without_model(upstream: &Upstream) -> Gateway {
    let home = Home::new();
    home.configure(&upstream.config("").replace("model = ", "# "));
    home.start()
}

/// A client's stream of events.
struct Stream {
    connection: Connection,
    text: String,
}

impl Stream {
    #[track_caller]
    fn of(mut connection: Connection) -> Stream {
        let head = connection.head();
        assert_eq!(head.status, 200, "{head:?}");
        Stream { connection, text: String::new() }
    }

    /// The data of the next event; `None` at the orderly end.
    #[track_caller]
    fn next(&mut self) -> Option<String> {
        while !self.text.contains("\n\n") {
            let chunk = self.connection.chunk()?;
            self.text += std::str::from_utf8(&chunk).unwrap();
        }
        let (event, rest) = self.text.split_once("\n\n").unwrap();
        let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event:?}")).to_owned();
        self.text = rest.to_owned();
        Some(data)
    }

    #[track_caller]
    fn json(&mut self) -> Value {
        let data = self.next().expect("another event");
        serde_json::from_str(&data).unwrap_or_else(|e| panic!("no JSON ({e}): {data}"))
    }

    /// The next piece of the reply.
    #[track_caller]
    fn piece(&mut self) -> String {
        let json = self.json();
        let text = json["choices"][0]["delta"]["content"].as_str();
        text.unwrap_or_else(|| panic!("no piece: {json}")).to_owned()
    }

    /// The error that ends the stream in the place of `[DONE]`.
    #[track_caller]
    fn error(&mut self) -> Value {
        let json = self.json();
        assert!(json["error"]["message"].is_string(), "{json}");
        assert_eq!(self.next(), None);
        json["error"].clone()
    }
}

/// A chat without a session, as a client words it.
#[track_caller]
fn chat(gateway: &Gateway, body: &Value) -> Connection {
    gateway.api().begin("POST", "/v1/chat/completions", &[], &body.to_string())
}

fn hello(stream: bool) -> Value {
    json!({ "model": "default", "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

fn completion(text: &str) -> String {
    json!({
        "id": "chatcmpl-up", "object": "chat.completion", "created": 1, "model": "up/m",
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": text },
            "finish_reason": "length" }],
        "usage": { "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3 },
    })
    .to_string()
}

/// The children of all threads.
fn children(gateway: &Gateway) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).ok();
    let all: Vec<String> = tasks.flatten().filter_map(of).collect();
    all.join(" ").split_whitespace().map(str::to_owned).collect()
}

/// A file that only its owner may read.
fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

// ------------------------------------------------------------------- what goes through ----

#[test]
fn a_stream_is_passed_on_chunk_by_chunk() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    let mut asked = hello(true);
    asked["temperature"] = json!(0.5);
    asked["user"] = json!("me");
    asked["tools"] = json!([{ "type": "function", "function": { "name": "f" } }]);
    asked["stream_options"] = json!({ "include_usage": true });
    asked["messages"] = json!([
        { "role": "system", "content": "be brief" }, { "role": "user", "content": "a@b" },
        { "role": "assistant", "content": "c" }, { "role": "user", "content": "hi" },
    ]);
    let client = chat(&gateway, &asked);
    let mut line = upstream.accept();
    let request = line.request();
    assert_eq!((&*request.method, &*request.target), ("POST", "/v1/chat/completions"));
    assert_eq!(request.field("host"), Some(upstream.address().to_string().as_str()));
    assert_eq!(request.field("authorization"), None);
    // Nothing that would have to be unpacked, and nothing of the client's.
    assert_eq!(request.field("accept-encoding"), None);
    assert!(!format!("{request:?}").contains(&gateway.home().api_key()));
    asked["model"] = json!("m");
    assert_eq!(request.json(), asked);
    line.begin();
    line.event(&chunk(&json!({ "role": "assistant", "content": "" }), None));
    let mut stream = Stream::of(client);
    let first = stream.json();
    assert_eq!((&first["id"], &first["model"]), (&json!("chatcmpl-up"), &json!("default")));
    for text in ["one", " two\n", "ä\u{1f980}"] {
        line.piece(text);
        assert_eq!(stream.piece(), text);
    }
    let call = json!({ "tool_calls": [{ "index": 0, "id": "x", "function": { "name": "f" } }] });
    line.event(&chunk(&call, None));
    assert_eq!(stream.json()["choices"][0]["delta"], call);
    line.event(&chunk(&json!({}), Some("tool_calls")));
    assert_eq!(stream.json()["choices"][0]["finish_reason"], "tool_calls");
    line.event(r#"{"choices":[],"usage":{"total_tokens":7}}"#);
    assert_eq!(stream.json()["usage"]["total_tokens"], 7);
    line.event("[DONE]");
    line.send("0\r\n\r\n");
    assert_eq!(stream.next().as_deref(), Some("[DONE]"));
    assert_eq!(stream.next(), None);
}

#[test]
fn a_whole_completion_is_passed_on_as_it_is() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    let mut client = chat(&gateway, &hello(false));
    let mut line = upstream.accept();
    let request = line.request().json();
    assert_eq!((&request["stream"], request.get("stream_options")), (&json!(false), None));
    line.answer(200, "Content-Type: application/json\r\n", &completion("whole"));
    let answer = client.response().assert_status(200).json();
    let mut wanted: Value = serde_json::from_str(&completion("whole")).unwrap();
    wanted["model"] = json!("default");
    assert_eq!(answer, wanted);
}

#[test]
fn connections_are_used_again() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    let mut client = chat(&gateway, &hello(false));
    let mut line = upstream.accept();
    line.request();
    line.answer(200, "", &completion("0"));
    client.response().reply();
    for n in 1..5 {
        let mut stream = chat(&gateway, &hello(true));
        line.request();
        line.reply(&n.to_string());
        let body = stream.response().assert_status(200).text();
        assert!(body.contains(&format!("\"{n}\"")) && body.ends_with("data: [DONE]\n\n"), "{body}");
    }
    // An error that was read whole is no reason to part.
    let mut client = chat(&gateway, &hello(false));
    line.request();
    line.answer(404, "", "{}");
    client.response().assert_status(404);
    let mut client = chat(&gateway, &hello(false));
    line.request();
    line.answer(200, "Connection: close\r\n", &completion("x"));
    client.response().reply();
    upstream.assert_alone();
    line.assert_gone();
    let mut client = chat(&gateway, &hello(false));
    let mut line = upstream.accept();
    line.request();
    line.answer(200, "", &completion("x"));
    client.response().reply();
}

#[test]
fn a_kept_connection_that_has_died_costs_nothing() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    for dies_at_request in [false, true] {
        let mut client = chat(&gateway, &hello(false));
        let mut line = upstream.accept();
        line.request();
        line.answer(200, "", &completion("x"));
        client.response().reply();
        let mut client = if dies_at_request {
            let client = chat(&gateway, &hello(false));
            line.request();
            drop(line);
            client
        } else {
            drop(line);
            chat(&gateway, &hello(false))
        };
        let mut line = upstream.accept();
        line.request();
        line.answer(200, "Connection: close\r\n", &completion("y"));
        assert_eq!(client.response().reply(), "y");
        upstream.assert_alone();
    }
}

#[test]
fn one_dead_connection_makes_the_others_suspect() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    let mut busy: Vec<(Connection, Line)> = Vec::new();
    for _ in 0..2 {
        let client = chat(&gateway, &hello(false));
        let mut line = upstream.accept();
        line.request();
        busy.push((client, line));
    }
    for (client, line) in &mut busy {
        line.answer(200, "", &completion("x"));
        client.response().reply();
    }
    let mut client = chat(&gateway, &hello(false));
    // The newest is taken; it dies with the request, and the other one is not tried any more.
    let (_, mut newest) = busy.pop().unwrap();
    newest.request();
    drop(newest);
    let mut line = upstream.accept();
    line.request();
    line.answer(200, "", &completion("y"));
    assert_eq!(client.response().reply(), "y");
    busy.pop().unwrap().1.assert_gone();
}

// ------------------------------------------------------------------------- what fails ----

#[test]
fn errors_keep_their_status_and_their_words() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    let openai = r#"{"error":{"message":"as said","type":"t","param":"p","code":"c"}}"#;
    let mut line: Option<Line> = None;
    for (status, fields, body, message) in [
        (400, "", openai, "as said"),
        (401, "", r#"{"error":"no key"}"#, "no key"),
        (404, "", r#"{"message":"no model"}"#, "no model"),
        (429, "Retry-After: 17\r\n", openai, "as said"),
        (500, "", "<html>\u{1b}[2J\noops", "<html>\\u{1b}[2J / oops"),
        (503, "Retry-After: 1\r\n", "", "it did not say why"),
    ] {
        for stream in [true, false] {
            let mut client = chat(&gateway, &hello(stream));
            let at = line.get_or_insert_with(|| upstream.accept());
            at.request();
            at.answer(status, fields, body);
            let answer = client.response();
            let after = fields.split(": ").nth(1).map(str::trim);
            assert_eq!(answer.field("retry-after"), after, "{status}");
            let error = answer.assert_status(status).json()["error"].clone();
            assert_eq!(error["message"], message);
            if body == openai {
                let wanted: Value = serde_json::from_str(openai).unwrap();
                assert_eq!(error, wanted["error"]);
            }
        }
    }
    upstream.assert_alone();
}

#[test]
fn redirects_are_not_followed() {
    let (upstream, other) = (Upstream::start(), Upstream::start());
    let gateway = gateway(&upstream, "");
    let mut client = chat(&gateway, &hello(true));
    let mut line = upstream.accept();
    line.request();
    line.answer(307, &format!("Location: http://{}/\r\n", other.address()), "");
    assert!(client.response().error(502).contains("redirects"));
    other.assert_alone();
}

#[test]
fn a_refused_connection_is_an_error_that_says_so() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    // It hangs up before it says anything: twice may happen, three times is a failure.
    for (failures, status) in [(2, 200), (3, 503)] {
        let mut client = chat(&gateway, &hello(false));
        for _ in 0..failures {
            upstream.accept().request();
        }
        if status == 200 {
            let mut line = upstream.accept();
            line.request();
            line.answer(200, "Connection: close\r\n", &completion("x"));
            client.response().reply();
        } else {
            assert_eq!(code_of(client.response(), 503), "agent_unavailable");
        }
        upstream.assert_alone();
    }
    let home = Home::new();
    home.configure("[agent]\nurl = \"http://127.0.0.1:1/v1\"\nmodel = \"m\"\n");
    let words = home.start().ask("x").error(503);
    assert!(words.contains("127.0.0.1:1") && words.contains("refused"), "{words}");
}

#[test]
fn what_breaks_off_is_never_taken_for_the_whole() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    type Break = fn(&mut Line);
    let breaks: [(&str, Break); 6] = [
        ("cut", |line| line.send("20\r\ndata: {")),
        ("an end without [DONE]", |line| line.send("0\r\n\r\n")),
        ("no JSON", |line| line.event("{\"choices\":")),
        ("an error", |line| line.event(r#"{"error":{"message":"overloaded","code":503}}"#)),
        ("bad framing", |line| line.send("zz\r\n")),
        ("no object", |line| line.event("[1]")),
    ];
    for (what, then) in breaks {
        let client = chat(&gateway, &hello(true));
        let mut line = upstream.accept();
        line.request();
        line.begin();
        line.piece("begun");
        let mut stream = Stream::of(client);
        assert_eq!(stream.piece(), "begun", "{what}");
        then(&mut line);
        drop(line);
        let error = stream.error();
        assert_eq!(error["message"] == "overloaded", what == "an error", "{error}");
        // It is not asked again once it has begun.
        upstream.assert_alone();
    }
    // An orderly end after a finish_reason is one.
    let client = chat(&gateway, &hello(true));
    let mut line = upstream.accept();
    line.request();
    line.begin();
    line.event(&chunk(&json!({ "content": "x" }), Some("stop")));
    line.send("0\r\n\r\n");
    let mut stream = Stream::of(client);
    assert_eq!(stream.piece(), "x");
    assert_eq!(stream.next().as_deref(), Some("[DONE]"));
    // A whole completion that is cut short, or that is none.
    for body in [
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ] {
        let mut client = chat(&gateway, &hello(false));
        line.request();
        line.send(body);
        drop(line);
        client.response().error(503);
        line = {
            let mut client = chat(&gateway, &hello(false));
            let mut line = upstream.accept();
            line.request();
            line.answer(200, "", &completion("x"));
            client.response().reply();
            line
        };
    }
}

#[test]
fn a_reply_has_its_bound() {
    let upstream = Upstream::start();
    let home = Home::new();
    home.configure(&format!("{}[limits]\nmax_reply = 1024\n", upstream.config("")));
    let gateway = home.start();
    let mut client = chat(&gateway, &hello(false));
    let mut line = upstream.accept();
    line.request();
    line.answer(200, "", &completion(&"x".repeat(2000)));
    assert!(client.response().error(502).contains("limits.max_reply"));
    line.assert_gone();
    let client = chat(&gateway, &hello(true));
    let mut line = upstream.accept();
    line.request();
    line.begin();
    line.piece(&"x".repeat(1024));
    line.piece("x");
    let mut stream = Stream::of(client);
    assert_eq!(stream.piece().len(), 1024);
    assert!(stream.error()["message"].as_str().unwrap().contains("limits.max_reply"));
    line.assert_gone();
}

#[test]
fn a_client_that_goes_away_takes_its_request_along() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    // Before the head, in the stream, and while the answer is collected.
    for step in 0..3 {
        let client = chat(&gateway, &hello(step != 2));
        let mut line = upstream.accept();
        line.request();
        if step == 1 {
            line.begin();
            line.piece("begun");
            let mut stream = Stream::of(client);
            assert_eq!(stream.piece(), "begun");
            drop(stream);
        } else {
            drop(client);
        }
        line.assert_gone();
    }
    gateway.wait_for_turns(0);
}

#[test]
fn a_turn_has_its_deadline() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "turn_timeout = \"300ms\"");
    let mut client = chat(&gateway, &hello(false));
    let mut line = upstream.accept();
    line.request();
    assert_eq!(code_of(client.response(), 504), "turn_timeout");
    line.assert_gone();
}

#[test]
fn a_stop_lets_turns_finish_until_its_time_is_over() {
    let upstream = Upstream::start();
    let draining = gateway(&upstream, "");
    let client = chat(&draining, &hello(true));
    let mut line = upstream.accept();
    line.request();
    line.begin();
    line.piece("a");
    let mut stream = Stream::of(client);
    assert_eq!(stream.piece(), "a");
    draining.signal(libc::SIGINT);
    draining.wait_for_notification("STOPPING=1", DEADLINE);
    line.piece("b");
    assert_eq!(stream.piece(), "b");
    line.end();
    assert_eq!(stream.json()["choices"][0]["finish_reason"], "stop");
    assert_eq!(stream.next().as_deref(), Some("[DONE]"));
    assert_eq!(draining.wait_for_exit(DEADLINE), 0);

    let cut = gateway(&upstream, "");
    let client = chat(&cut, &hello(true));
    let mut line = upstream.accept();
    line.request();
    line.begin();
    line.piece("a");
    let mut stream = Stream::of(client);
    assert_eq!(stream.piece(), "a");
    cut.signal(libc::SIGINT);
    cut.wait_for_notification("STOPPING=1", DEADLINE);
    cut.signal(libc::SIGINT);
    assert_eq!(stream.error()["code"], "gateway_stopping");
    line.assert_gone();
}

// ------------------------------------------------------------------------- sessions ----

#[test]
fn a_session_is_told_what_was_said_in_it() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "max_history = 200");
    let api = gateway.api();
    let mut line: Option<Line> = None;
    for (text, messages) in [
        ("one", "user:one"),
        ("two", "user:one|assistant:ONE|user:two"),
        ("three", "user:one|assistant:ONE|user:two|assistant:TWO|user:three"),
        // Two turns are 2 × 70 bytes.
        ("four", "user:two|assistant:TWO|user:three|assistant:THREE|user:four"),
    ] {
        let id = api.accepted("s", text);
        let at = line.get_or_insert_with(|| upstream.accept());
        let request = at.request();
        assert_eq!(request.messages(), messages);
        assert_eq!(request.json()["stream_options"], json!({ "include_usage": true }));
        at.reply(&text.to_uppercase());
        assert_eq!(api.reply(&id), text.to_uppercase());
    }
    // What the client lays down comes first, what it repeats does not count, and what it wants of
    // the model goes along.
    let body = json!({
        "model": "default", "temperature": 0, "messages": [
            { "role": "user", "content": "old" }, { "role": "system", "content": "brief" },
            { "role": "user", "content": "five" },
        ],
    });
    let session = [("X-Hermes-Session-Id", "t")];
    let mut client = api.begin("POST", "/v1/chat/completions", &session, &body.to_string());
    let at = line.as_mut().unwrap();
    let request = at.request();
    assert_eq!(request.messages(), "system:brief|user:five");
    assert_eq!(request.json()["temperature"], 0);
    at.begin();
    at.event(&chunk(&json!({ "content": "FIVE" }), Some("length")));
    at.event(r#"{"choices":[],"usage":{"total_tokens":7}}"#);
    at.event("[DONE]");
    at.send("0\r\n\r\n");
    let answer = client.response().assert_status(200).json();
    assert_eq!(answer["choices"][0]["message"]["content"], "FIVE");
    assert_eq!(
        (&answer["choices"][0]["finish_reason"], &answer["usage"]["total_tokens"]),
        (&json!("length"), &json!(7))
    );
}

#[test]
fn a_durable_message_is_tried_again_where_that_may_help() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "retry_for = \"100ms\"");
    let api = gateway.api();
    let id = api.accepted("s", "x");
    let mut line = upstream.accept();
    line.request();
    line.begin();
    line.piece("half");
    drop(line);
    let mut line = upstream.accept();
    line.request();
    line.reply("whole");
    assert_eq!(api.reply(&id), "whole");
    assert_eq!(api.message(&id)["attempts"], 2);
    for (status, attempts) in [(503, 2), (400, 1)] {
        let id = api.accepted("s", "x");
        // The first refusal of stream_options is no attempt of its own.
        let requests = if status == 400 { 2 } else { attempts };
        for _ in 0..requests {
            line.request();
            line.answer(status, "", r#"{"error":"said so"}"#);
        }
        let message = api.finished(&id);
        assert_eq!(
            (&message["status"], &message["attempts"]),
            (&json!("failed"), &json!(attempts))
        );
        assert!(message["error"].as_str().unwrap().contains("said so"), "{message}");
    }
    upstream.assert_alone();
}

#[test]
fn a_server_that_does_not_know_stream_options_is_asked_without() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    let api = gateway.api();
    let id = api.accepted("s", "x");
    let mut line = upstream.accept();
    assert!(line.request().json().get("stream_options").is_some());
    line.answer(400, "", r#"{"error":{"message":"stream_options: unknown"}}"#);
    assert!(line.request().json().get("stream_options").is_none());
    line.reply("y");
    assert_eq!(api.reply(&id), "y");
    // And it is remembered.
    let id = api.accepted("s", "x");
    assert!(line.request().json().get("stream_options").is_none());
    line.reply("z");
    assert_eq!(api.reply(&id), "z");
}

#[test]
fn a_turn_that_calls_tools_and_was_given_none_fails() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    let id = gateway.api().accepted("s", "x");
    let mut line = upstream.accept();
    line.request();
    line.begin();
    line.event(&chunk(&json!({ "tool_calls": [{ "index": 0 }] }), Some("tool_calls")));
    line.event("[DONE]");
    line.send("0\r\n\r\n");
    let message = gateway.api().finished(&id);
    assert_eq!(message["status"], "failed");
    assert!(message["error"].as_str().unwrap().contains("tools"), "{message}");
}

// --------------------------------------------------------------------------- models ----

#[track_caller]
fn listed(gateway: &Gateway) -> Vec<String> {
    let list = gateway.api().get("/v1/models").assert_status(200).json();
    let names = list["data"].as_array().unwrap().iter();
    names.map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_model_is_asked_for_by_its_configured_name() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "models = { fast = \"qwen2.5:3b\", \"a/b\" = \"c\" }");
    assert_eq!(listed(&gateway), ["default", "a/b", "fast"]);
    let ask = |model: &str| {
        let mut body = hello(false);
        body["model"] = json!(model);
        chat(&gateway, &body)
    };
    let mut line: Option<Line> = None;
    for (said, meant) in [("fast", "qwen2.5:3b"), ("a/b", "c"), ("default", "m")] {
        let mut client = ask(said);
        let at = line.get_or_insert_with(|| upstream.accept());
        assert_eq!(at.request().json()["model"], meant);
        at.answer(200, "", &completion("x"));
        assert_eq!(client.response().json()["model"], said);
    }
    for unknown in ["m", "qwen2.5:3b", "gpt\n"] {
        assert_eq!(code_of(ask(unknown).response(), 404), "model_not_found");
    }
    upstream.assert_alone();
}

#[test]
fn without_a_configured_model_the_upstreams_models_are_listed_and_used() {
    let upstream = Upstream::start();
    let gateway = gateway_without_model(&upstream);
    let mut client = chat(&gateway, &hello(false));
    let mut line = upstream.accept();
    let request = line.request();
    assert_eq!((&*request.method, &*request.target), ("GET", "/v1/models"));
    line.answer(
        200,
        "",
        r#"{"object":"list","data":[{"id":"first"},{"id":"default"},{"id":"z"}]}"#,
    );
    assert_eq!(line.request().json()["model"], "first");
    line.answer(200, "", &completion("x"));
    client.response().reply();
    // The list is remembered, and any name passes.
    assert_eq!(listed(&gateway), ["default", "first", "z"]);
    let mut body = hello(false);
    body["model"] = json!("other");
    let mut client = chat(&gateway, &body);
    assert_eq!(line.request().json()["model"], "other");
    line.answer(200, "", &completion("x"));
    assert_eq!(client.response().json()["model"], "other");
    upstream.assert_alone();
}

#[test]
fn a_server_that_lists_no_models_is_asked_for_the_default() {
    let upstream = Upstream::start();
    let gateway = gateway_without_model(&upstream);
    let mut client = chat(&gateway, &hello(false));
    let mut line = upstream.accept();
    line.request();
    line.answer(404, "", "no");
    assert_eq!(line.request().json()["model"], "default");
    line.answer(200, "", &completion("x"));
    client.response().reply();
}

// ----------------------------------------------------------------------------- keys ----

#[test]
fn the_key_goes_to_the_server_and_nowhere_else() {
    let upstream = Upstream::start();
    let home = Home::new();
    let file = home.path().join("key");
    private(&file, "sk-first\n");
    home.configure(&upstream.config(&format!("key_file = {file:?}")));
    let gateway = home.launch().set("log.level", "trace").start();
    let mut client = chat(&gateway, &hello(false));
    let mut line = upstream.accept();
    assert_eq!(line.request().field("authorization"), Some("Bearer sk-first"));
    line.answer(401, "", r#"{"error":"wrong key"}"#);
    client.response().assert_status(401);
    private(&file, "sk-second\n");
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("read again", DEADLINE);
    let mut client = chat(&gateway, &hello(false));
    // What was kept under the old configuration is not used under the new one.
    let mut line = upstream.accept();
    assert_eq!(line.request().field("authorization"), Some("Bearer sk-second"));
    line.answer(200, "", &completion("x"));
    client.response().reply();
    let shown = home.run(&["config"]);
    for said in [gateway.stderr(), gateway.stdout(), format!("{shown:?}")] {
        assert!(!said.contains("sk-"), "{said}");
    }
    assert!(!gateway.stderr().contains("not encrypted"));
}

#[test]
fn a_key_in_clear_text_is_worth_a_word() {
    let home = Home::new();
    let file = home.path().join("key");
    private(&file, "sk-secret\n");
    home.configure(&format!("[agent]\nurl = \"http://192.0.2.1/v1\"\nkey_file = {file:?}\n"));
    let gateway = home.start();
    let line = gateway.wait_for_log("not encrypted", DEADLINE);
    assert!(line.contains("http://192.0.2.1") && !line.contains("sk-"), "{line}");
}

// ---------------------------------------------------------------------------- https ----

#[test]
fn https_goes_through_curl() {
    let upstream = Upstream::start();
    let tls = Tls::before(&upstream);
    let home = Home::new();
    let file = home.path().join("key");
    private(&file, "sk-secret\n");
    let url = format!("https://localhost:{}/v1", tls.port);
    home.configure(&format!(
        "[agent]\nurl = \"{url}\"\nmodel = \"m\"\nkey_file = {file:?}\n\
         env = {{ CURL_CA_BUNDLE = {:?} }}\n",
        tls.certificate
    ));
    let gateway = home.start();
    let mut asked = hello(true);
    let long = "@\u{e4}\"\\\n".repeat(40_000);
    asked["messages"][0]["content"] = json!(long);
    let client = chat(&gateway, &asked);
    let mut line = upstream.accept();
    let request = line.request();
    assert_eq!(request.field("authorization"), Some("Bearer sk-secret"));
    assert_eq!(
        (&*request.target, request.field("accept-encoding")),
        ("/v1/chat/completions", None)
    );
    assert!(request.json()["messages"][0]["content"] == long.as_str());
    let curl = eventually("curl", || children(&gateway).pop());
    let read = |file: &str| fs::read(format!("/proc/{curl}/{file}")).unwrap();
    let seen = [read("cmdline"), read("environ")].concat();
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("--config") && !seen.contains("sk-") && !seen.contains("v1"), "{seen}");
    line.begin();
    line.piece("one");
    let mut stream = Stream::of(client);
    assert_eq!(stream.piece(), "one");
    line.piece("two");
    assert_eq!(stream.piece(), "two");
    line.end();
    stream.json();
    assert_eq!(stream.next().as_deref(), Some("[DONE]"));
    // Errors are the same.
    let mut client = chat(&gateway, &hello(false));
    let mut line = upstream.accept();
    line.request();
    line.answer(429, "Retry-After: 3\r\n", r#"{"error":"slow"}"#);
    let answer = client.response().assert_status(429);
    assert_eq!(answer.field("retry-after"), Some("3"));
    // What is cut short, and who goes away.
    let client = chat(&gateway, &hello(true));
    let mut line = upstream.accept();
    line.request();
    line.begin();
    line.piece("begun");
    let mut stream = Stream::of(client);
    assert_eq!(stream.piece(), "begun");
    drop(line);
    stream.error();
    let client = chat(&gateway, &hello(true));
    let mut line = upstream.accept();
    line.request();
    drop(client);
    line.assert_gone();
    eventually("curl has ended", || children(&gateway).is_empty().then_some(()));
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let upstream = Upstream::start();
    let tls = Tls::before(&upstream);
    let home = Home::new();
    let url = format!("https://localhost:{}/v1", tls.port);
    home.configure(&format!("[agent]\nurl = \"{url}\"\nmodel = \"m\"\n"));
    let words = home.start().ask("x").error(503);
    assert!(words.contains("exit status 60") && words.contains("certificate"), "{words}");
    upstream.assert_alone();
}

// ---------------------------------------------------------------------- in a row ----

#[test]
fn a_gateway_can_be_the_upstream_of_another() {
    let behind = Gateway::start();
    let home = Home::new();
    let file = home.path().join("key");
    private(&file, &behind.home().api_key());
    home.configure(&format!(
        "[agent]\nurl = \"http://{}/v1\"\nkey_file = {file:?}\n",
        behind.address()
    ));
    let front = home.start();
    assert_eq!(listed(&front), ["default"]);
    assert_eq!(front.ask("hällo").reply(), "hällo");
    let mut stream = Stream::of(chat(&front, &hello(true)));
    let mut text = String::new();
    while let Some(data) = stream.next().filter(|data| data != "[DONE]") {
        let chunk: Value = serde_json::from_str(&data).unwrap();
        text += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
    }
    assert_eq!(text, "hi");
    let id = front.api().accepted("s", "durable");
    assert_eq!(front.api().reply(&id), "durable");
}
