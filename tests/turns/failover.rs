//! Several upstreams: which one is asked, and when the next one is.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::util::http::{Connection, Response};
use crate::util::upstream::Line;
use crate::util::{DEADLINE, Gateway, Home, Upstream};

fn base(upstream: &Upstream) -> String {
    format!("\"http://{}/v1\"", upstream.address())
}

/// A gateway before these servers, in this order.
#[track_caller]
fn before(upstreams: &[&Upstream]) -> Gateway {
    let home = Home::new();
    home.configure(&configuration(upstreams));
    home.start()
}

fn configuration(upstreams: &[&Upstream]) -> String {
    let all: Vec<String> = upstreams.iter().map(|it| base(it)).collect();
    format!("[agent]\nurl = [{}]\nmodel = \"m\"\nretry_for = \"0s\"\n", all.join(", "))
}

fn completion(text: &str) -> String {
    json!({ "object": "chat.completion", "choices": [
        { "index": 0, "message": { "role": "assistant", "content": text } },
    ] })
    .to_string()
}

#[track_caller]
fn ask(gateway: &Gateway, stream: bool) -> Connection {
    gateway.begin("hi", stream)
}

fn named(answer: &Response) -> Option<&str> {
    answer.field("x-hermes-upstream")
}

#[track_caller]
fn assert_from(answer: &Response, upstream: &Upstream) {
    assert_eq!(named(answer), Some(upstream.address().to_string().as_str()), "{answer:?}");
}

#[test]
fn the_next_upstream_answers_where_one_fails_and_is_asked_first_for_a_while() {
    for how in ["429", "500", "503", "cut"] {
        for stream in [false, true] {
            let (one, two) = (Upstream::start(), Upstream::start());
            let gateway = before(&[&one, &two]);
            let mut client = ask(&gateway, stream);
            let mut line = one.accept();
            let asked = line.request();
            match how.parse() {
                Ok(status) => line.answer(status, "Retry-After: 9\r\n", "{\"error\":\"no\"}"),
                // Not even a whole head.
                Err(_) => line.send("HTTP/1.1 200 OK\r\nContent-"),
            }
            drop(line);
            let mut line = two.accept();
            assert_eq!(line.request().json(), asked.json(), "{how}");
            if stream {
                line.reply("two");
            } else {
                line.answer(200, "", &completion("two"));
            }
            let answer = client.response().assert_status(200);
            assert_from(&answer, &two);
            assert!(answer.text().contains("\"two\""), "{how}: {}", answer.text());
            gateway.wait_for_log(&format!("upstream {} failed", one.address()), DEADLINE);
            gateway.wait_for_log(&format!("upstream {} answered", two.address()), DEADLINE);
            let mut client = ask(&gateway, false);
            line.request();
            line.answer(200, "", &completion("again"));
            assert_from(&client.response().assert_status(200), &two);
            one.assert_alone();
        }
    }
}

#[test]
fn an_upstream_that_refuses_connections_is_passed_by() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let two = Upstream::start();
    let home = Home::new();
    let url = format!("\"http://{}/v1\"", closed.local_addr().unwrap());
    drop(closed);
    home.configure(&format!("[agent]\nurl = [{url}, {}]\nmodel = \"m\"\n", base(&two)));
    let gateway = home.start();
    let mut client = ask(&gateway, false);
    let mut line = two.accept();
    line.request();
    line.answer(200, "", &completion("two"));
    let answer = client.response();
    assert_from(&answer, &two);
    assert_eq!(answer.reply(), "two");
}

#[test]
fn the_first_one_is_asked_where_all_are_well() {
    let (one, two) = (Upstream::start(), Upstream::start());
    let gateway = before(&[&one, &two]);
    let mut line: Option<Line> = None;
    for _ in 0..3 {
        let mut client = ask(&gateway, false);
        let line = line.get_or_insert_with(|| one.accept());
        line.request();
        line.answer(200, "", &completion("one"));
        assert_from(&client.response().assert_status(200), &one);
    }
    two.assert_alone();
}

#[test]
fn one_that_has_failed_is_asked_where_the_others_fail_too() {
    let (one, two) = (Upstream::start(), Upstream::start());
    let gateway = before(&[&one, &two]);
    let mut client = ask(&gateway, false);
    let mut first = one.accept();
    first.request();
    first.answer(503, "", "{}");
    let mut second = two.accept();
    second.request();
    second.answer(200, "", &completion("two"));
    client.response().assert_status(200);
    let mut client = ask(&gateway, false);
    second.request();
    second.answer(503, "", "{}");
    first.request();
    first.answer(200, "", &completion("one"));
    assert_from(&client.response().assert_status(200), &one);
    // It has answered, and the other one has failed since.
    let mut client = ask(&gateway, false);
    first.request();
    first.answer(200, "", &completion("one"));
    assert_from(&client.response().assert_status(200), &one);
}

#[test]
fn what_an_upstream_has_begun_to_answer_goes_to_no_other() {
    let (one, two) = (Upstream::start(), Upstream::start());
    let gateway = before(&[&one, &two]);
    for (status, begins) in [
        (400, "HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\n{}"),
        (401, "HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n{}"),
        (503, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}"),
        (502, "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"error\":{}}"),
    ] {
        let mut client = ask(&gateway, false);
        let mut line = one.accept();
        line.request();
        line.send(begins);
        drop(line);
        client.response().assert_status(status);
    }
    let mut client = ask(&gateway, true);
    let mut line = one.accept();
    line.request();
    line.begin();
    line.piece("half");
    drop(line);
    let text = client.response().assert_status(200).text();
    assert!(text.contains("half") && text.contains("broke off"), "{text}");
    two.assert_alone();
}

#[test]
fn where_all_fail_the_last_answer_counts_with_the_longest_wait() {
    let (one, two) = (Upstream::start(), Upstream::start());
    let gateway = before(&[&one, &two]);
    let mut client = ask(&gateway, false);
    let mut first = one.accept();
    first.request();
    first.answer(429, "Retry-After: 7\r\n", r#"{"error":{"message":"one"}}"#);
    let mut second = two.accept();
    second.request();
    second.answer(503, "Retry-After: 3\r\n", r#"{"error":{"message":"two"}}"#);
    let answer = client.response();
    assert_eq!((answer.field("retry-after"), named(&answer)), (Some("7"), None));
    assert_eq!(answer.error(503), "two");
    // What one says is more than that another says nothing. An absurd wait is not waited.
    let mut client = ask(&gateway, false);
    first.request();
    first.answer(429, "Retry-After: 99999999\r\n", r#"{"error":{"message":"one"}}"#);
    second.request();
    drop(second);
    two.accept().request();
    let answer = client.response();
    assert_eq!(answer.field("retry-after"), Some("3600"));
    assert_eq!(answer.error(429), "one");
}

#[test]
fn each_upstream_gets_its_own_key_and_model_and_no_other() {
    let all = [Upstream::start(), Upstream::start(), Upstream::start(), Upstream::start()];
    let home = Home::new();
    let file = |name: &str| {
        let path = home.path().join(name);
        fs::write(&path, format!("sk-{name}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let url = |at: usize| base(&all[at]);
    home.configure(&format!(
        "[agent]\nkey_file = {:?}\nmodel = \"common\"\nmodels = {{ fast = \"quick\" }}\nurl = [\n\
         {},\n{{ url = {}, key_file = {:?}, model = \"own\" }},\n\
         {{ url = {}, key_file = \"\", models = {{ fast = \"quicker\" }} }},\n\
         {{ url = {}, models = {{ other = \"x\" }} }},\n]\n",
        file("common"),
        url(0),
        url(1),
        file("own"),
        url(2),
        url(3),
    ));
    let gateway = home.start();
    let keys = [Some("Bearer sk-common"), Some("Bearer sk-own"), None, Some("Bearer sk-common")];
    let mut lines: [Option<Line>; 4] = Default::default();
    for (alias, models) in [
        ("default", [Some("common"), Some("own"), Some("common"), Some("common")]),
        ("fast", [Some("quick"), Some("quick"), Some("quicker"), None]),
        ("other", [None, None, None, Some("x")]),
    ] {
        let body = json!({ "model": alias, "messages": [{ "role": "user", "content": "hi" }] });
        let body = body.to_string();
        let mut client = gateway.api().begin("POST", "/v1/chat/completions", &[], &body);
        for (at, model) in models.iter().enumerate().filter(|(_, model)| model.is_some()) {
            let line = lines[at].get_or_insert_with(|| all[at].accept());
            let asked = line.request();
            assert_eq!(asked.json()["model"].as_str(), *model, "{alias} {at}");
            assert_eq!(asked.field("authorization"), keys[at], "{alias} {at}");
            line.answer(503, "", "{}");
        }
        client.response().assert_status(503);
    }
    let body = r#"{"model":"none","messages":[{"role":"user","content":"hi"}]}"#;
    let answer = gateway.api().call("POST", "/v1/chat/completions", &[], body);
    assert!(answer.error(404).contains("none"));
    let shown = home.run(&["config"]).assert_code(0).stdout;
    assert!(shown.contains("key_file = \"\", models = { \"fast\" = \"quicker\" } }"), "{shown}");
    assert!(!shown.contains("sk-"), "{shown}");
    let told: Vec<Value> = all.iter().map(|it| format!("http://{}", it.address()).into()).collect();
    assert_eq!(gateway.status()["upstreams"], Value::from(told));
}

#[test]
fn one_that_is_silent_for_a_whole_turn_is_asked_last() {
    let (one, two) = (Upstream::start(), Upstream::start());
    let home = Home::new();
    home.configure(&format!("{}turn_timeout = \"1s\"\n", configuration(&[&one, &two])));
    let gateway = home.start();
    let mut client = ask(&gateway, false);
    let mut silent = one.accept();
    silent.request();
    client.response().assert_status(504);
    two.assert_alone();
    let mut client = ask(&gateway, false);
    let mut line = two.accept();
    line.request();
    line.answer(200, "", &completion("two"));
    assert_from(&client.response().assert_status(200), &two);
    one.assert_alone();
}

#[test]
fn a_client_that_leaves_ends_the_search() {
    let (one, two) = (Upstream::start(), Upstream::start());
    let gateway = before(&[&one, &two]);
    let client = ask(&gateway, false);
    let mut line = one.accept();
    line.request();
    drop(client);
    line.assert_gone();
    gateway.wait_for_log("the client went away", DEADLINE);
    two.assert_alone();
}

#[test]
fn a_durable_message_goes_to_the_next_one_too() {
    let (one, two) = (Upstream::start(), Upstream::start());
    let gateway = before(&[&one, &two]);
    for stream in [false, true] {
        let body = crate::util::http::chat("hi", stream);
        let fields = [("X-Hermes-Session-Id", "s")];
        let mut client = gateway.api().begin("POST", "/v1/chat/completions", &fields, &body);
        if !stream {
            let mut line = one.accept();
            line.request();
            line.answer(500, "", "{}");
        }
        let mut line = two.accept();
        line.request();
        line.reply("two");
        let answer = client.response().assert_status(200);
        assert!(answer.text().contains("two"), "{}", answer.text());
        assert_from(&answer, &two);
        line.send("");
        drop(line);
    }
}

#[test]
fn the_models_are_those_of_the_first_that_lists_them() {
    let (one, two) = (Upstream::start(), Upstream::start());
    let gateway = before(&[&one, &two]);
    let mut client = gateway.api().begin("GET", "/v1/models", &[], "");
    let mut line = one.accept();
    assert_eq!(line.request().target, "/v1/models");
    drop(line);
    let mut line = two.accept();
    line.request();
    line.answer(200, "", r#"{"data":[{"id":"b"}]}"#);
    let list = client.response().assert_status(200).json();
    let ids: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["default", "b"]);
}

#[test]
fn a_reload_puts_other_servers_in_their_place() {
    let (one, two) = (Upstream::start(), Upstream::start());
    let gateway = before(&[&one]);
    let mut client = ask(&gateway, false);
    let mut line = one.accept();
    line.request();
    line.answer(200, "", &completion("one"));
    let answer = client.response();
    // There is nothing to tell of one alone.
    assert_eq!(named(&answer), None);
    assert_eq!(answer.reply(), "one");
    gateway.home().configure(&configuration(&[&two, &one]));
    gateway.home().run(&["reload"]).assert_code(0);
    let mut client = ask(&gateway, false);
    let mut line = two.accept();
    line.request();
    line.answer(200, "", &completion("two"));
    assert_from(&client.response().assert_status(200), &two);
}
