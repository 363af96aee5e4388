//! Tools, structured answers and pictures before an upstream, over several turns and a restart. What
//! becomes of single requests and answers is in `translation.rs`.

use serde_json::{Value, json};

use crate::util::api::code_of;
use crate::util::http::Response;
use crate::util::upstream::{Line, assert_chat, chunk};
use crate::util::{Api, Gateway, Home, Upstream, principals};

#[track_caller]
fn gateway(upstream: &Upstream) -> Gateway {
    let home = Home::new();
    home.configure(&upstream.config(""));
    home.start()
}

fn tools() -> Value {
    json!([{ "type": "function", "name": "f", "parameters": { "type": "object" } }])
}

fn call_delta(id: &str, arguments: &str) -> Value {
    let function = json!({ "name": "f", "arguments": arguments });
    json!({ "tool_calls": [{ "index": 0, "id": id, "type": "function", "function": function }] })
}

/// Posts this, lets the upstream answer with these deltas, and returns what it was asked with the answer.
#[track_caller]
fn turn(
    (api, line): (&Api, &mut Line),
    (path, fields): (&str, &[(&str, &str)]),
    body: &Value,
    deltas: &[Value],
) -> (Value, Response) {
    let mut client = api.begin("POST", path, fields, &body.to_string());
    let chat = line.request().json();
    assert_chat(&chat);
    let calls = deltas.iter().any(|delta| delta.get("tool_calls").is_some());
    line.deltas(deltas, if calls { "tool_calls" } else { "stop" }, &Value::Null);
    (chat, client.response().assert_status(200))
}

const RESPONSES: (&str, &[(&str, &str)]) = ("/v1/responses", &[]);

/// The upstream's connection; a first turn opens it.
#[track_caller]
fn opened(upstream: &Upstream, api: &Api) -> Line {
    let body = json!({ "input": "first", "store": false }).to_string();
    let mut client = api.begin("POST", "/v1/responses", &[], &body);
    let mut line = upstream.accept();
    line.request();
    line.reply("x");
    client.response().assert_status(200);
    line
}

/// A conversation with a call and its result, as the upstream must get it.
fn conversation(id: &str) -> Value {
    let function = json!({ "name": "f", "arguments": "{\"a\":1}" });
    json!([
        { "role": "user", "content": "q" },
        { "role": "assistant", "content": null,
            "tool_calls": [{ "id": id, "type": "function", "function": function }] },
        { "role": "tool", "tool_call_id": id, "content": "42" },
    ])
}

#[test]
fn a_second_turn_has_the_call_and_its_result_whichever_way_it_names_them() {
    let upstream = Upstream::start();
    let mut gateway = gateway(&upstream);
    let mut line = opened(&upstream, &gateway.api());
    for restarts in [false, true] {
        let asked = json!({ "input": "q", "tools": tools() });
        let deltas = [call_delta("call_1", "{\"a\":1}")];
        let (chat, first) = turn((&gateway.api(), &mut line), RESPONSES, &asked, &deltas);
        assert_eq!(chat["tools"][0]["function"]["name"], "f");
        let first = first.json();
        let call = &first["output"][0];
        assert_eq!((&call["type"], &call["call_id"]), (&json!("function_call"), &json!("call_1")));
        if restarts {
            gateway = gateway.reborn_after(libc::SIGKILL);
            line = opened(&upstream, &gateway.api());
        }
        let result = json!({ "type": "function_call_output", "call_id": "call_1", "output": "42" });
        let user = json!({ "role": "user", "content": "q" });
        let reference = json!({ "type": "item_reference", "id": call["id"] });
        let short = json!({ "id": call["id"] });
        let mut third = Value::Null;
        for second in [
            json!({ "input": [result], "previous_response_id": first["id"] }),
            json!({ "input": [user, call, result] }),
            json!({ "input": [user, reference, result] }),
            json!({ "input": [user, short, result], "store": false }),
        ] {
            let mut second = second.clone();
            second["tools"] = tools();
            let (chat, response) = turn(
                (&gateway.api(), &mut line),
                RESPONSES,
                &second,
                &[json!({ "content": "42!" })],
            );
            assert_eq!(chat["messages"], conversation("call_1"), "{second}");
            let response = response.json();
            assert_eq!(response["output"][0]["content"][0]["text"], "42!");
            if response["previous_response_id"].is_string() {
                third = response;
            }
        }
        // What was said of it goes on from there.
        let asked = json!({ "input": "and", "previous_response_id": third["id"] });
        let (chat, _) =
            turn((&gateway.api(), &mut line), RESPONSES, &asked, &[json!({ "content": "!" })]);
        let mut wanted = conversation("call_1");
        let more = [("assistant", "42!"), ("user", "and")];
        let more = more.map(|(role, text)| json!({ "role": role, "content": text }));
        wanted.as_array_mut().unwrap().extend(more);
        assert_eq!(chat["messages"], wanted);
        // So does what its message is referred to by.
        let said = json!({ "type": "item_reference", "id": third["output"][0]["id"] });
        let asked = json!({ "input": [user, said, user] });
        let (chat, _) =
            turn((&gateway.api(), &mut line), RESPONSES, &asked, &[json!({ "content": "!" })]);
        assert_eq!(chat["messages"][1], json!({ "role": "assistant", "content": "42!" }));
    }
}

#[test]
fn an_item_of_another_principal_is_none() {
    let upstream = Upstream::start();
    let gateway = principals::alice_and_bob(&upstream.config("")).start();
    let mut line = opened(&upstream, &gateway.api());
    let (_, first) = turn(
        (&gateway.api(), &mut line),
        RESPONSES,
        &json!({ "input": "q" }),
        &[json!({ "content": "secret" })],
    );
    let id = first.json()["output"][0]["id"].clone();
    let body = json!({ "input": [{ "type": "item_reference", "id": id }, { "role": "user", "content": "x" }] });
    let foreign = principals::api(&gateway, "alice");
    assert_eq!(code_of(foreign.post("/v1/responses", &body), 404), "item_not_found");
    // What they refer to has a bound together.
    let items = vec![json!({ "type": "item_reference", "id": id }); 3000];
    assert_eq!(
        code_of(gateway.api().post("/v1/responses", &json!({ "input": items })), 413),
        "too_long"
    );
}

/// A stream ends each call before the next one, so that nothing can be added to it later.
#[test]
fn a_call_that_goes_on_after_the_next_has_begun_is_no_success_of_a_stream() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut line = opened(&upstream, &gateway.api());
    let piece = |at: u8, more: Value| json!({ "tool_calls": [{ "index": at, "function": more }] });
    let begins = |arguments: &str| json!({ "name": "f", "arguments": arguments });
    let deltas = [
        piece(0, begins("{\"a\"")),
        piece(1, begins("{}")),
        piece(0, json!({ "arguments": ":1}" })),
    ];
    for stream in [true, false] {
        let asked = json!({ "input": "q", "tools": tools(), "store": false, "stream": stream });
        let (_, answer) = turn((&gateway.api(), &mut line), RESPONSES, &asked, &deltas);
        let text = answer.text();
        if stream {
            assert!(text.contains("event: response.failed") && text.contains("mixes"), "{text}");
            line = opened(&upstream, &gateway.api());
        } else {
            assert_eq!(answer.json()["output"][0]["arguments"], "{\"a\":1}");
        }
    }
}

#[test]
fn a_call_that_is_referred_to_counts_with_its_arguments() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let api = gateway.api();
    let mut line = opened(&upstream, &api);
    let deltas = [call_delta("c", &"x".repeat(400_000))];
    let asked = json!({ "input": "q", "tools": tools() });
    let (_, first) = turn((&api, &mut line), RESPONSES, &asked, &deltas);
    let reference = json!({ "type": "item_reference", "id": first.json()["output"][0]["id"] });
    let refused = api.post("/v1/responses", &json!({ "input": vec![reference; 3] }));
    assert_eq!(code_of(refused, 413), "too_long");
}

#[test]
fn calls_count_against_a_share_of_the_journal() {
    let upstream = Upstream::start();
    let config = upstream.config("[limits]\nmax_journal = \"4MiB\"");
    let gateway = principals::alice_and_bob(&config).start();
    let alice = principals::api(&gateway, "alice");
    let body = json!({ "input": "q", "tools": tools() }).to_string();
    let mut client = alice.begin("POST", "/v1/responses", &[], &body);
    let mut line = upstream.accept();
    line.request();
    let deltas = vec![call_delta("c", &"x".repeat(100_000)); 30];
    line.deltas(&deltas, "tool_calls", &Value::Null);
    let message = client.response().error(502);
    assert!(message.contains("limits.max_journal"), "{message}");
}

#[test]
fn the_input_of_a_response_is_listed() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let api = gateway.api();
    let mut line = opened(&upstream, &api);
    let image = json!({ "type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low" });
    let asked = json!({ "tools": tools(), "instructions": "i", "input": [
        { "role": "developer", "content": "d" },
        { "role": "user", "content": [{ "type": "input_text", "text": "q" }, image] },
        { "role": "assistant", "content": "let me see" },
        { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "c", "output": "42" },
    ] });
    let (chat, response) = turn((&api, &mut line), RESPONSES, &asked, &[json!({ "content": "!" })]);
    assert_eq!(
        chat["messages"][2]["content"][1],
        json!({ "type": "image_url",
        "image_url": { "url": "data:image/png;base64,AAAA", "detail": "low" } })
    );
    let id = response.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/responses/{id}/input_items");
    let list = api.get(&format!("{path}?order=asc")).assert_status(200).json();
    let inner = id.strip_prefix("resp_").unwrap();
    let text = |kind: &str, text: &str| json!({ "type": kind, "text": text });
    let mut said = text("output_text", "let me see");
    said["annotations"] = json!([]);
    let message = |at: usize, role: &str, content: Value| {
        json!({ "id": format!("in_{inner}_{at}"), "type": "message", "status": "completed",
            "role": role, "content": content })
    };
    assert_eq!(
        list["data"],
        json!([
            message(0, "developer", json!([text("input_text", "d")])),
            message(1, "user", json!([text("input_text", "q"), image])),
            message(2, "assistant", json!([said])),
            { "id": format!("in_{inner}_3"), "type": "function_call", "status": "completed",
                "call_id": "c", "name": "f", "arguments": "{}" },
            { "id": format!("in_{inner}_4"), "type": "function_call_output", "status": "completed",
                "call_id": "c", "output": "42" },
        ])
    );
    assert_eq!((&list["object"], &list["has_more"]), (&json!("list"), &json!(false)));
    // The newest first, in pages.
    let mut path_of_page = format!("{path}?limit=2");
    let mut seen = Vec::new();
    loop {
        let page = api.get(&path_of_page).assert_status(200).json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|item| item["id"].clone()));
        assert_eq!(seen.last(), Some(&page["last_id"]));
        if page["has_more"] == false {
            break;
        }
        path_of_page = format!("{path}?limit=2&after={}", page["last_id"].as_str().unwrap());
    }
    let wanted: Vec<Value> = (0..5).rev().map(|at| json!(format!("in_{inner}_{at}"))).collect();
    assert_eq!(seen, wanted);
    let some = "limit=1&include=a&include[]=b&include%5B%5D=c&order=desc";
    assert_eq!(api.get(&format!("{path}?{some}")).json()["data"][0]["id"], wanted[0]);
    for wrong in ["limit=0", "limit=101", "order=up", "after=in_x", "x=1", "limit=1&limit=1"] {
        api.get(&format!("{path}?{wrong}")).error(400);
    }
    assert_eq!(code_of(api.get("/v1/responses/resp_x/input_items"), 404), "not_found");
    let (_, plain) = turn(
        (&api, &mut line),
        RESPONSES,
        &json!({ "input": "only" }),
        &[json!({ "content": "!" })],
    );
    let id = plain.json()["id"].as_str().unwrap().to_owned();
    let list = api.get(&format!("/v1/responses/{id}/input_items")).json();
    assert_eq!(list["data"][0]["content"], json!([text("input_text", "only")]));
}

#[test]
fn half_of_a_surrogate_pair_is_shown_as_such_or_refused() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let api = gateway.api();
    for member in ["call_id", "name", "arguments"] {
        let item = r#"{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}"#;
        let (_, rest) = item.split_once(&format!("\"{member}\":\"")).unwrap();
        let half = item.replace(rest, &format!("\\ud83d{rest}"));
        let body = format!(r#"{{"input":[{half}]}}"#);
        let error = api.call("POST", "/v1/responses", &[], &body).assert_status(400).json();
        assert_eq!(error["error"]["param"], format!("input[0].{member}"), "{error}");
    }
    let mut line = opened(&upstream, &api);
    for stored in [false, true] {
        let body = json!({ "input": "q", "tools": tools(), "store": stored }).to_string();
        let mut client = api.begin("POST", "/v1/responses", &[], &body);
        line.request();
        line.begin();
        let call = |piece: &str| {
            let call = json!({ "content": "piece", "tool_calls": [{ "index": 0, "id": "c",
                "function": { "name": "f", "arguments": "piece" } }] });
            chunk(&call, None).replace("piece", piece)
        };
        line.event(&call(r#"{\"a\":\"\ud83d\ude00\ud83d"#));
        line.event(&call(r#"\ude00\"}"#));
        line.end();
        let output = client.response().assert_status(200).json()["output"].clone();
        let read = "{\"a\":\"\u{1f600}\u{fffd}\u{fffd}\"}";
        assert_eq!(output[0]["content"][0]["text"], read);
        assert_eq!(output[1]["arguments"], read);
    }
}

#[test]
fn a_message_shows_the_calls_of_its_reply() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let api = gateway.api();
    let mut line = opened(&upstream, &api);
    let asked = json!({ "input": "q", "tools": tools() });
    let (_, response) = turn((&api, &mut line), RESPONSES, &asked, &[call_delta("c", "{}")]);
    let id = response.json()["id"].as_str().unwrap().replace("resp_", "");
    let message = api.get(&format!("/v1/messages/{id}")).assert_status(200).json();
    let function = json!({ "name": "f", "arguments": "{}" });
    assert_eq!(message["reply"], "");
    assert_eq!(
        message["tool_calls"],
        json!([{ "id": "c", "type": "function", "function": function }])
    );
}

/// A chat with an idempotency key is durable, and has its tools and the form of its answer all the same.
#[test]
fn a_durable_chat_calls_tools() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let api = gateway.api();
    let mut line = opened(&upstream, &api);
    let chat = |stream: bool| {
        json!({ "model": "default", "stream": stream, "parallel_tool_calls": false,
            "messages": [{ "role": "user", "content": "q" }], "tool_choice": "required",
            "response_format": { "type": "json_object" },
            "tools": [{ "type": "function", "function": { "name": "f" } }] })
    };
    let call =
        json!({ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } });
    for (stream, key) in [(false, "a"), (true, "b")] {
        let fields = [("Idempotency-Key", key)];
        let path = ("/v1/chat/completions", &fields[..]);
        let (asked, answer) =
            turn((&api, &mut line), path, &chat(stream), &[call_delta("c", "{}")]);
        for name in ["tools", "tool_choice", "parallel_tool_calls", "response_format"] {
            assert_eq!(asked[name], chat(stream)[name], "{name}");
        }
        let again = api.call("POST", path.0, &fields, &chat(stream).to_string());
        assert_eq!(again.field("idempotent-replayed"), Some("true"));
        for answer in [answer, again] {
            if stream {
                let text = answer.text();
                let mut indexed = call.clone();
                indexed["index"] = json!(0);
                let delta = json!({ "tool_calls": [indexed] });
                let chunks = text.lines().filter_map(|line| line.strip_prefix("data: {"));
                let chunks: Vec<Value> =
                    chunks.map(|it| serde_json::from_str(&format!("{{{it}")).unwrap()).collect();
                assert!(chunks.iter().any(|it| it["choices"][0]["delta"] == delta), "{text}");
                assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
            } else {
                let choice = answer.json()["choices"][0].clone();
                let wanted = json!({ "role": "assistant", "content": null, "tool_calls": [call] });
                assert_eq!(choice["message"], wanted);
                assert_eq!(choice["finish_reason"], "tool_calls");
            }
        }
    }
    let mut body = chat(false);
    body["logprobs"] = json!(true);
    let refused =
        api.call("POST", "/v1/chat/completions", &[("Idempotency-Key", "c")], &body.to_string());
    assert_eq!(code_of(refused, 400), "unsupported_parameter");
}

#[test]
fn a_chat_that_cannot_have_its_tools_says_so_or_is_refused() {
    let (upstream, echo) = (Upstream::start(), Gateway::start());
    let gateway = gateway(&upstream);
    let mut line = opened(&upstream, &gateway.api());
    let plain = json!({ "messages": [{ "role": "user", "content": "q" }] });
    let session = [("X-Hermes-Session-Id", "s")];
    let with = |name: &str, value: Value| {
        let mut body = plain.clone();
        body[name] = value;
        body
    };
    let tool = json!([{ "type": "function", "function": { "name": "f" } }]);
    let with_tools = with("tools", tool);
    let answer = echo.api().post("/v1/chat/completions", &with_tools).assert_status(200);
    let warning = answer.field("x-hermes-warning").unwrap();
    assert_eq!(warning, "tools ignored: only an agent that is an upstream takes it");
    let path = ("/v1/chat/completions", &session[..]);
    let (asked, answer) =
        turn((&gateway.api(), &mut line), path, &with_tools, &[json!({ "content": "x" })]);
    assert!(asked["tools"].is_null());
    assert_eq!(answer.field("x-hermes-warning"), Some("tools ignored: a session is text"));
    let choice = json!({ "type": "function", "function": { "name": "f" } });
    for (name, value) in [
        ("tool_choice", json!("required")),
        ("tool_choice", choice),
        ("function_call", json!({ "name": "f" })),
        ("response_format", json!({ "type": "json_object" })),
        ("logprobs", json!(true)),
        ("top_logprobs", json!(3)),
        ("n", json!(2)),
    ] {
        let body = with(name, value);
        for (api, fields) in [(echo.api(), &session[..0]), (gateway.api(), &session[..])] {
            let answer = api.call("POST", "/v1/chat/completions", fields, &body.to_string());
            let error = answer.assert_status(400).json()["error"].clone();
            assert_eq!(error["param"], name, "{error}");
        }
    }
    // Forms that ask for nothing else are fine.
    let text = with("response_format", json!({ "type": "text" }));
    let answer = echo.api().post("/v1/chat/completions", &text).assert_status(200);
    assert_eq!(answer.field("x-hermes-warning"), None);
}

#[test]
fn pictures_and_files_of_a_chat_go_to_the_upstream_unchanged() {
    let (upstream, echo) = (Upstream::start(), Gateway::start());
    let gateway = gateway(&upstream);
    let mut line = opened(&upstream, &gateway.api());
    let parts = json!([
        { "type": "text", "text": "q" },
        { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } },
        { "type": "file", "file": { "filename": "a", "file_data": "data:,x" } },
        { "type": "input_audio", "input_audio": { "data": "AAAA", "format": "wav" } },
    ]);
    let body = json!({ "messages": [{ "role": "user", "content": parts }] });
    for key in [None, Some(("Idempotency-Key", "k"))] {
        let fields: Vec<_> = key.into_iter().collect();
        let mut client =
            gateway.api().begin("POST", "/v1/chat/completions", &fields, &body.to_string());
        assert_eq!(line.request().json()["messages"], body["messages"]);
        if key.is_some() {
            line.reply("x");
        } else {
            let message = json!({ "role": "assistant", "content": "x" });
            let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
            line.answer(200, "", &json!({ "choices": [choice] }).to_string());
        }
        assert_eq!(client.response().reply(), "x");
    }
    let session = [("X-Hermes-Session-Id", "s")];
    for fields in [&session[..0], &session[..]] {
        let answer = echo.api().call("POST", "/v1/chat/completions", fields, &body.to_string());
        let error = answer.assert_status(400).json()["error"].clone();
        assert_eq!(error["code"], "unsupported_content");
        assert_eq!(error["param"], "messages[0].content[1]");
    }
    // One that is not whole is nobody's.
    let body = json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] });
    assert_eq!(
        code_of(gateway.api().post("/v1/chat/completions", &body), 400),
        "unsupported_content"
    );
}

/// What an upstream sends in the middle of a call ends the stream like any other failure.
#[test]
fn a_call_that_breaks_off_is_a_failure_and_calls_have_their_bound() {
    let upstream = Upstream::start();
    let home = Home::new();
    home.configure(&format!(
        "{}retry_for = \"100ms\"\n[limits]\nmax_reply = 4096\n",
        upstream.config("")
    ));
    let gateway = home.start();
    let api = gateway.api();
    let body =
        json!({ "input": "q", "tools": tools(), "store": false, "stream": true }).to_string();
    for long in [false, true] {
        let mut client = api.begin("POST", "/v1/responses", &[], &body);
        let mut line = upstream.accept();
        line.request();
        line.begin();
        line.event(&chunk(&call_delta("c", "{\"a"), None));
        if long {
            line.event(&chunk(&call_delta("c", &"x".repeat(5000)), None));
        }
        drop(line);
        let text = client.response().assert_status(200).text();
        assert!(text.contains("response.function_call_arguments.delta"), "{text}");
        assert!(
            !text.contains("arguments.done") && text.contains("event: response.failed"),
            "{text}"
        );
        assert_eq!(text.contains("limits.max_reply"), long, "{text}");
    }
    let gateway = self::gateway(&upstream);
    let api = gateway.api();
    let many: Vec<Value> =
        (0..129).map(|at| json!({ "index": at, "function": { "name": "f" } })).collect();
    let mut client = api.begin("POST", "/v1/responses", &[], &body);
    let mut line = upstream.accept();
    line.request();
    line.begin();
    for piece in many {
        line.event(&chunk(&json!({ "tool_calls": [piece] }), None));
    }
    let text = client.response().assert_status(200).text();
    assert!(text.contains("more than 128 tools"), "{text}");
}
