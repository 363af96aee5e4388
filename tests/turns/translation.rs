//! Requests of the Responses API and what becomes of them for an upstream's chat, and back: each case
//! stands in tests/translation/, written by hand. `requests*.json`: a request, and the chat that the
//! upstream must get, or the error. `answers*.json`: what the upstream answers, and the events and the
//! response that a client must get.
//!
//! A case has a `name` and a `request`, or a `body` where it matters how this is written. `before`:
//! requests that come first, each answered with `x`; `$` is the id of the message before, or without such
//! that of its own. In `chat` the stream may be left out, and the model where it is that of the request or
//! `m`; in `events` the number and the response. `agent`: `echo` or `session`, where it is not the upstream
//! without a session.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::util::upstream::{Line, assert_chat};
use crate::util::{Gateway, Home, Upstream};

const REQUESTS: [&str; 4] =
    ["requests.json", "requests_messages.json", "requests_options.json", "requests_tools.json"];

/// The cases in them, so that none is lost.
const REQUEST_COUNT: usize = 678;

fn cases(files: &[&str]) -> Vec<Value> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/translation");
    let read = |file: &&str| -> Vec<Value> {
        serde_json::from_slice(&fs::read(place.join(file)).unwrap()).expect(file)
    };
    let cases: Vec<Value> = files.iter().flat_map(read).collect();
    let names: BTreeSet<&str> = cases.iter().map(|case| case["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), cases.len(), "names are unique");
    cases
}

/// A gateway with its upstream, to which there is one connection.
struct Stage {
    upstream: Upstream,
    gateway: Gateway,
    line: Option<Line>,
}

impl Stage {
    fn new() -> Stage {
        let (upstream, home) = (Upstream::start(), Home::new());
        home.configure(&upstream.config(""));
        Stage { upstream, gateway: home.start(), line: None }
    }

    fn line(&mut self) -> &mut Line {
        self.line.get_or_insert_with(|| self.upstream.accept())
    }

    /// The chat that the upstream gets next.
    #[track_caller]
    fn chat(&mut self) -> Value {
        let chat = self.line().request().json();
        assert_chat(&chat);
        chat
    }
}

#[test]
fn every_request_becomes_its_chat_or_is_refused() {
    let (mut stage, echo) = (Stage::new(), Gateway::start());
    let cases = cases(&REQUESTS);
    for case in &cases {
        let name = case["name"].as_str().unwrap().to_owned();
        // The last one is the case that failed.
        println!("{name}");
        let session = [("X-Hermes-Session-Id", name.as_str())];
        let (api, fields) = match case["agent"].as_str() {
            Some("echo") => (echo.api(), &session[..0]),
            Some("session") => (stage.gateway.api(), &session[..]),
            _ => (stage.gateway.api(), &session[..0]),
        };
        let mut id = String::new();
        for earlier in case["before"].as_array().into_iter().flatten() {
            let body = earlier.to_string().replace('$', &id);
            let mut client = api.begin("POST", "/v1/responses", fields, &body);
            if case["agent"] != "echo" {
                stage.chat();
                stage.line().reply("x");
            }
            id = message_id(&client.response().assert_status(200).json());
        }
        let body = case["body"].as_str().map(str::to_owned);
        let mut body = body.unwrap_or_else(|| case["request"].to_string());
        if !id.is_empty() {
            body = body.replace('$', &id);
        }
        let mut client = api.begin("POST", "/v1/responses", fields, &body);
        if let Some(mut wanted) = case["chat"].as_object().cloned() {
            let usage = json!({ "include_usage": true });
            let model = case["request"]["model"].as_str().filter(|name| *name != "default");
            let model = json!(model.unwrap_or("m"));
            let own = [("model", model), ("stream", json!(true)), ("stream_options", usage)];
            for (name, value) in own {
                wanted.entry(name).or_insert(value);
            }
            assert_eq!(stage.chat(), Value::from(wanted), "{name}");
            stage.line().reply("x");
        }
        let response = client.response();
        assert_eq!(response.field("x-hermes-warning"), case["warning"].as_str(), "{name}");
        let (status, text) = (response.status(), response.text());
        let is_stream = text.starts_with("event: ");
        let mut body = if is_stream { events(&text).1 } else { response.json() };
        if status == 200 {
            let id = if id.is_empty() { message_id(&body) } else { id };
            body = serde_json::from_str(&body.to_string().replace(&id, "$")).unwrap();
        }
        let error = &case["error"];
        if error.is_null() {
            assert_eq!(status, 200, "{name}: {body}");
            for (member, wanted) in case["response"].as_object().into_iter().flatten() {
                assert_eq!(body[member], *wanted, "{name}: {member}");
            }
        } else {
            assert_eq!(json!(status), error["status"], "{name}: {body}");
            for member in ["code", "param"] {
                assert_eq!(body["error"][member], error[member], "{name}: {body}");
            }
            assert!(body["error"]["message"].as_str().unwrap().len() > 10, "{name}: {body}");
        }
    }
    stage.upstream.assert_alone();
    assert_eq!(cases.len(), REQUEST_COUNT);
}

/// The id of the message that a response is.
#[track_caller]
fn message_id(response: &Value) -> String {
    response["id"].as_str().unwrap().strip_prefix("resp_").unwrap().to_owned()
}

/// The events of a stream, with `$` for the message's id and without what all of them have.
#[track_caller]
fn events(text: &str) -> (Vec<Value>, Value) {
    let (mut events, mut last) = (Vec::new(), Value::Null);
    for (at, event) in text.split_terminator("\n\n").enumerate() {
        let (name, data) = event.split_once('\n').expect(event);
        let data = data.strip_prefix("data: ").expect(event);
        let mut data: Value = serde_json::from_str(data).expect(event);
        assert_eq!(name, format!("event: {}", data["type"].as_str().unwrap()));
        let members = data.as_object_mut().unwrap();
        assert_eq!(members.remove("sequence_number"), Some(json!(at)));
        last = members.remove("response").unwrap_or(last);
        events.push(data);
    }
    let id = message_id(&last);
    let all = Value::from(events).to_string().replace(&id, "$");
    (serde_json::from_str(&all).unwrap(), last)
}

/// The same with neighbouring deltas of one item as one.
fn merged(events: &[Value]) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for event in events {
        let same = |last: &&mut Value| {
            let mut a = (**last).clone();
            a["delta"] = event["delta"].clone();
            a == *event && event["delta"].is_string()
        };
        match all.last_mut().filter(same) {
            Some(last) => {
                let whole = format!(
                    "{}{}",
                    last["delta"].as_str().unwrap(),
                    event["delta"].as_str().unwrap()
                );
                last["delta"] = whole.into();
            }
            None => all.push(event.clone()),
        }
    }
    all
}

#[test]
fn every_answer_becomes_its_events_and_its_response() {
    let mut stage = Stage::new();
    let cases = cases(&["answers.json", "answers_more.json"]);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        for (stored, stream) in [(false, true), (false, false), (true, true), (true, false)] {
            let mut request = case["request"].clone();
            if request.is_null() {
                request = json!({ "input": "hi", "tools": [{ "type": "function", "name": "f" }] });
            }
            (request["store"], request["stream"]) = (stored.into(), stream.into());
            let api = stage.gateway.api();
            let mut client = api.begin("POST", "/v1/responses", &[], &request.to_string());
            stage.chat();
            let finish = case["finish"].as_str().unwrap();
            stage.line().deltas(case["deltas"].as_array().unwrap(), finish, &case["usage"]);
            let response = client.response();
            if let Some(error) = case["error"].as_str() {
                let text = response.text();
                assert!(
                    text.contains(error) && !text.contains("response.completed"),
                    "{name}: {text}"
                );
                continue;
            }
            let response = response.assert_status(200);
            let mut last = if stream {
                let (events, last) = events(&response.text());
                let wanted = case["events"].as_array().unwrap();
                if stored {
                    assert_eq!(merged(&events), merged(wanted), "{name}");
                } else {
                    assert_eq!(Value::from(events), case["events"], "{name}");
                }
                last
            } else {
                response.json()
            };
            let id = last["id"].as_str().unwrap().to_owned();
            if stored {
                let found = api.get(&format!("/v1/responses/{id}")).assert_status(200).json();
                assert_eq!(found, last, "{name}");
            }
            let text = last.to_string().replace(id.strip_prefix("resp_").unwrap(), "$");
            last = serde_json::from_str(&text).unwrap();
            for (member, wanted) in case["response"].as_object().unwrap() {
                assert_eq!(last[member], *wanted, "{name}: {member}");
            }
            assert!(last["output"].is_array() && case["response"]["output"].is_array());
        }
    }
    assert!(cases.len() >= 54, "{}", cases.len());
}
