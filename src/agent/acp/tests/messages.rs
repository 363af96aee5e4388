//! What messages are read as, and how they are written.

use std::path::Path;

use serde_json::{Value, json};

use crate::agent::acp::requests::{cancel, close, error, initialize, list, open, permit, prompt};
use crate::agent::acp::updates::{Calls, Shown, difference, shown};
use crate::agent::acp::wire::{
    Features, Message, Refusal, Route, UNKNOWN_METHOD, option, read, route,
};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn lines_go_to_whom_they_are_for() {
    let session = |id: &'static str, request| Some(Route::Session(id.into(), request));
    for (line, wanted) in [
        (r#"{"jsonrpc":"2.0","id":7,"result":null}"#, Some(Route::Request(7))),
        (r#"{"id":"7","result":{}}"#, Some(Route::Request(7))),
        (r#"{"id":"unawaited","result":{}}"#, Some(Route::Nobody)),
        (r#"{"error":{"code":-32700,"message":"m"}}"#, Some(Route::Nobody)),
        (r#"{"method":"session/update","params":{"sessionId":"s"}}"#, session("s", None)),
        (r#"{"method":"session\/update","params":{"sessionId":"s"}}"#, session("s", None)),
        (
            r#"{"method":"session\/request_permission","id":1,"params":{"sessionId":"s"}}"#,
            session("s", Some("1")),
        ),
        (
            r#"{"method":"session/request_permission","id":0,"params":{"sessionId":"s"}}"#,
            session("s", Some("0")),
        ),
        (
            r#"{"method":"session/request_permission","id":"a b","params":{"sessionId":1}}"#,
            session("", Some("\"a b\"")),
        ),
        (r#"{"method":"fs/read_text_file","id":3}"#, Some(Route::Unknown("3"))),
        (r#"{"method":"x","params":[]}"#, Some(Route::Notification)),
        (r#"{"method":"x","id":{"a":1}}"#, Some(Route::Notification)),
        (r#"{"id":[1],"result":{}}"#, None),
        ("[]", None),
        ("{}", None),
        ("Loading model...", None),
        ("", None),
    ] {
        assert_eq!(route(line), wanted, "{line}");
    }
}

#[test]
fn the_answer_to_initialize_says_what_the_agent_can_do() {
    let read = |result: &str| Features::read(&format!(r#"{{"id":0,"result":{result}}}"#));
    assert_eq!(read(r#"{"protocolVersion":1}"#), Ok(Features(Features::READY)));
    let all = read(
        r#"{"protocolVersion":1,"agentCapabilities":{"loadSession":true,"promptCapabilities":{"image":true},
        "sessionCapabilities":{"list":{},"resume":{},"close":{}}},"authMethods":[{"id":"x"}]}"#,
    );
    assert_eq!(all, Ok(Features(63)));
    let none = read(
        r#"{"protocolVersion":1,"agentCapabilities":{"loadSession":false,"promptCapabilities":null,
        "sessionCapabilities":{"list":null}}}"#,
    );
    assert_eq!(none, Ok(Features(Features::READY)));
    assert!(read(r#"{"protocolVersion":2}"#).unwrap_err().contains("version 2"));
    assert!(read("null").unwrap_err().contains("version"));
    let refused = Features::read(r#"{"id":0,"error":{"code":-32603,"message":"no config"}}"#);
    assert!(refused.unwrap_err().ends_with("error -32603: no config"));
}

#[test]
fn errors_tell_a_status_where_a_member_has_it() {
    let refusal = |error: &str| match read(&format!(r#"{{"id":1,"error":{error}}}"#)) {
        Ok(Message::Answer(Err(refusal))) => refusal,
        other => panic!("{other:?}"),
    };
    for (error, code, status, message) in [
        (r#"{"code":401,"message":"no key"}"#, 401, Some(401), "no key"),
        (
            r#"{"code":-32603,"message":"m","data":{"status":429}}"#,
            -32603,
            Some(429),
            "m: {\"status\":429}",
        ),
        (
            r#"{"code":-32603,"message":"m","data":{"message":"d","codex_error_info":{"x":{"http_status_code":500}}}}"#,
            -32603,
            Some(500),
            "m: d",
        ),
        (
            r#"{"code":-32603,"message":"m","data":"exit status 127"}"#,
            -32603,
            None,
            "m: exit status 127",
        ),
        (
            r#"{"code":-32603,"message":"m","data":{"message":"unexpected status 401 Unauthorized: no","codex_error_info":"other"}}"#,
            -32603,
            Some(401),
            "m: unexpected status 401 Unauthorized: no",
        ),
        (
            r#"{"code":-32603,"message":"last status: 429 Too"}"#,
            -32603,
            Some(429),
            "last status: 429 Too",
        ),
        (
            r#"{"code":-32603,"message":"m","data":{"status":"500","code":7}}"#,
            -32603,
            None,
            "m: {\"status\":\"500\",\"code\":7}",
        ),
        (r#"{"code":"x","data":"m"}"#, 0, None, "m"),
        ("7", 0, None, ""),
    ] {
        let wanted = Refusal { code, message: message.to_owned(), status };
        assert_eq!(refusal(error), wanted, "{error}");
    }
}

#[test]
fn what_has_another_type_is_as_good_as_absent() {
    let line = r#"{"method":7,"id":1,"result":[1]}"#;
    let Ok(Message::Answer(Ok(answer))) = read(line) else { panic!() };
    assert_eq!((answer.session_id.get(), answer.stop_reason.get()), ("", ""));
    for (content, text) in [
        (r#"{"type":"text","text":"a\ud83d"}"#, "a\u{fffd}"),
        (r#"{"type":"text","text":7}"#, ""),
        (r#"{"type":"image","text":"x"}"#, ""),
        ("[]", ""),
    ] {
        let line = format!(
            r#"{{"method":"session/update","params":{{"update":{{"sessionUpdate":"agent_message_chunk","title":7,"content":{content}}}}}}}"#
        );
        let Ok(Message::Update(update)) = read(&line) else { panic!() };
        assert_eq!(update.text(), text, "{content}");
    }
    let strange = r#"{"method":"session/update","params":[1,{"update":2}]}"#;
    assert!(matches!(read(strange), Ok(Message::Update(update)) if update.text().is_empty()));
    assert!(read("{\"id\":1,").is_err());
}

#[test]
fn options_are_chosen_by_their_kind() {
    let options = r#"[{"optionId":"always","name":"a","kind":"allow_always"},{"kind":"allow_once","optionId":7},
        {"kind":"reject_once"},{"kind":"reject_once","optionId":"no"}]"#;
    assert_eq!(option(options, "allow_once"), Some("7"));
    assert_eq!(option(options, "reject_once"), Some("\"no\""));
    assert_eq!(option("{}", "allow_once"), None);
    let chosen = json(&permit("\"x\"", option(options, "reject_once")));
    let wanted = json!({ "jsonrpc": "2.0", "id": "x",
        "result": { "outcome": { "outcome": "selected", "optionId": "no" } } });
    assert_eq!(chosen, wanted);
    assert_eq!(
        json(&permit("0", None))["result"],
        json!({ "outcome": { "outcome": "cancelled" } })
    );
}

#[test]
fn requests_are_as_the_protocol_has_them() {
    let greeting = json(&initialize());
    assert_eq!((&greeting["id"], &greeting["params"]["protocolVersion"]), (&0.into(), &1.into()));
    assert_eq!(greeting["params"]["clientCapabilities"]["fs"]["readTextFile"], false);
    let cwd = Path::new("/a \"b\"");
    let wanted = json!({ "jsonrpc": "2.0", "id": 3, "method": "session/load",
        "params": { "sessionId": "s", "cwd": "/a \"b\"", "mcpServers": [] } });
    assert_eq!(json(&open(3, "session/load", Some("s"), cwd)), wanted);
    let new = json(&open(3, "session/new", None, cwd));
    assert_eq!(new["params"], json!({ "cwd": "/a \"b\"", "mcpServers": [] }));
    let prompt = json(&prompt(4, "s", r#"{"type":"text","text":"t"}"#, r#"{"attempt":1}"#));
    assert_eq!(prompt["params"]["_meta"]["hermes"]["attempt"], 1);
    assert_eq!(json(&cancel("s")).get("id"), None);
    assert_eq!(json(&close("s"))["id"], "unawaited");
    assert_eq!(json(&list(5, cwd, Some("c")))["params"]["cursor"], "c");
    assert_eq!(json(&error("1", UNKNOWN_METHOD, "no"))["error"]["code"], -32601);
}

fn event(update: &str, calls: &mut Calls) -> Shown {
    let line = format!(r#"{{"method":"session/update","params":{{"update":{update}}}}}"#);
    let Ok(Message::Update(update)) = read(&line) else { panic!("{line}") };
    shown(&update, calls)
}

#[test]
fn tool_calls_and_plans_are_shown_on_a_line_each() {
    let mut calls = Calls::default();
    let call = r#"{"sessionUpdate":"tool_call","toolCallId":"c","title":"run\n\u001b[1m ls","kind":"execute",
        "status":"pending","rawInput":{"command":"ls"}}"#;
    let Shown::Event("tool", shown) = event(call, &mut calls) else { panic!() };
    let wanted =
        json!({ "id": "c", "title": "run \\u{1b}[1m ls", "kind": "execute", "status": "pending" });
    assert_eq!(json(&shown), wanted);
    let more =
        r#"{"sessionUpdate":"tool_call_update","toolCallId":"c","content":[{"type":"content"}]}"#;
    assert_eq!(event(more, &mut calls), Shown::Event("tool", String::new()));
    let plan = r#"{"sessionUpdate":"plan","entries":[{"content":"a","status":"pending","priority":"high","x":1},{}]}"#;
    let Shown::Event("plan", shown) = event(plan, &mut calls) else { panic!() };
    let first = json!({ "content": "a", "status": "pending", "priority": "high" });
    assert_eq!(json(&shown), json!({ "entries": [first, {}] }));
    for (kind, wanted) in [
        ("agent_message_chunk", Shown::Text),
        ("agent_thought_chunk", Shown::Aside),
        ("usage_update", Shown::Nothing),
        ("", Shown::Nothing),
    ] {
        assert_eq!(event(&format!(r#"{{"sessionUpdate":"{kind}"}}"#), &mut calls), wanted);
    }
}

#[test]
fn a_permission_is_about_its_call_as_it_was_told_before() {
    let mut calls = Calls::default();
    let call = r#"{"sessionUpdate":"tool_call","toolCallId":"c","title":"ls","kind":"execute","rawInput":{
        "command":"ls"}}"#;
    event(call, &mut calls);
    let ask = |call: &str, calls: &mut Calls| {
        let line = format!(
            r#"{{"method":"session/request_permission","id":1,"params":{{"toolCall":{call},"options":[]}}}}"#
        );
        let Ok(Message::Permission(_, call, _)) = read(&line) else { panic!("{line}") };
        calls.question(&call)
    };
    let question = ask(r#"{"toolCallId":"c"}"#, &mut calls);
    assert_eq!((&*question.title, &*question.kind), ("ls", "execute"));
    assert_eq!(json(&question.input), json!({ "command": "ls" }));
    assert!(!question.input.contains('\n'));
    let own = ask(r#"{"toolCallId":"c","title":"rm","content":[1]}"#, &mut calls);
    assert_eq!((&*own.title, &*own.input), ("rm", &*question.input));
    let other = ask(r#"{"toolCallId":"d","content":[1]}"#, &mut calls);
    assert_eq!((&*other.title, &*other.kind, &*other.input), ("a tool", "", "[1]"));
    let long = ask(&format!(r#"{{"rawInput":"{}"}}"#, "x".repeat(100_000)), &mut calls);
    assert!(long.input.len() < 9000, "{}", long.input.len());
    assert!(json(&long.input).as_str().unwrap().ends_with("xx… (91810 more bytes)"));
}

#[test]
fn usage_is_told_of_a_session_or_of_a_prompt() {
    let tokens = |result: &str| {
        let line = format!(r#"{{"id":1,"result":{result}}}"#);
        let Ok(Message::Answer(Ok(answer))) = read(&line) else { panic!("{line}") };
        answer.tokens()
    };
    let usage = r#"{"usage":{"inputTokens":5,"outputTokens":2,"totalTokens":9}}"#;
    assert_eq!(tokens(usage), Some(([5, 2, 9], true)));
    assert_eq!(tokens(r#"{"usage":{"inputTokens":5,"outputTokens":2}}"#), Some(([5, 2, 7], true)));
    let quota = r#"{"_meta":{"quota":{"token_count":{"input_tokens":3,"output_tokens":1}}},"usage":{"inputTokens":5,"outputTokens":2}}"#;
    assert_eq!(tokens(quota), Some(([3, 1, 4], false)));
    assert_eq!(tokens(r#"{"usage":{"inputTokens":-5,"outputTokens":2}}"#), None);
    assert_eq!(tokens(r#"{"usage":null}"#), None);
    assert_eq!(difference([1, 2, 3], [4, 4, 4]), Some([3, 2, 1]));
    assert_eq!(difference([1, 2, 3], [4, 1, 4]), None);
}
