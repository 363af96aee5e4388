//! Requests that an upstream gets as they are, and answers that clients get as they are.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::util::api::code_of;
use crate::util::http::{Connection, request};
use crate::util::upstream::Tls;
use crate::util::{DEADLINE, Gateway, Home, Upstream, principals};

const ALL: &str = "pass = [\"embeddings\", \"completions\", \"audio\", \"images\", \
                   \"moderations\", \"anthropic\"]";

/// A gateway before this server, whose key it has, with these further lines in `[agent]`.
#[track_caller]
fn gateway(upstream: &Upstream, more: &str) -> Gateway {
    let home = Home::new();
    home.configure(&upstream.config(&format!("key_file = {:?}\n{more}", key(&home))));
    home.start()
}

fn key(home: &Home) -> std::path::PathBuf {
    let path = home.path().join("up.key");
    fs::write(&path, "sk-up\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A request with the gateway's key and a body of any kind.
#[track_caller]
fn send(gateway: &Gateway, target: &str, kind: &str, body: &[u8]) -> Connection {
    let key = gateway.authorization();
    let fields = [("Authorization", key.as_str()), ("Content-Type", kind)];
    let mut connection = gateway.connect();
    connection.send(&request("POST", target, &fields, body));
    connection
}

#[test]
fn json_goes_through_with_the_model_of_the_upstream() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "models = { e = \"embed:1\" }");
    let mut client = gateway.api().begin(
        "POST",
        "/v1/embeddings?x=1",
        &[("OpenAI-Beta", "b"), ("X-Other", "o")],
        "{ \"input\" : [\"a@b\", 1.0e3],\"model\":\"e\", \"model\":\"e\",\"odd\":null}",
    );
    let mut line = upstream.accept();
    let asked = line.request();
    assert_eq!((&*asked.method, &*asked.target), ("POST", "/v1/embeddings?x=1"));
    assert_eq!(asked.field("authorization"), Some("Bearer sk-up"));
    assert_eq!(asked.field("content-type"), Some("application/json"));
    assert_eq!((asked.field("openai-beta"), asked.field("x-other")), (Some("b"), None));
    assert!(!format!("{asked:?}").contains(&gateway.home().api_key()));
    assert_eq!(
        String::from_utf8_lossy(&asked.body),
        "{ \"input\" : [\"a@b\", 1.0e3],\"model\":\"embed:1\", \"model\":\"embed:1\",\"odd\":null}"
    );
    line.answer(201, "Content-Type: application/x-odd; a=b\r\n", "{ \"model\" : \"embed:1\" }\n");
    let answer = client.response().assert_status(201);
    assert_eq!(answer.field("content-type"), Some("application/x-odd; a=b"));
    assert_eq!(answer.field("content-length"), Some("24"));
    assert_eq!(answer.text(), "{ \"model\" : \"embed:1\" }\n");
    // A name that is not in the table, no JSON, and none at all.
    let answer = gateway.api().post("/v1/embeddings", &json!({ "model": "secret" }));
    assert_eq!(answer.json()["error"]["code"], "model_not_found");
    gateway.api().call("POST", "/v1/embeddings", &[], "{\"model\":").error(400);
    drop(line);
    let mut client = gateway.api().begin("POST", "/v1/completions", &[], "{\"prompt\":\"p\"}");
    let mut line = upstream.accept();
    let asked = line.request();
    assert_eq!((&*asked.target, &*asked.body), ("/v1/completions", &b"{\"prompt\":\"p\"}"[..]));
    // No content, which has no length.
    line.send("HTTP/1.1 204 No Content\r\n\r\n");
    client.response().assert_status(204);
}

/// An upstream may read a body as JSON whatever it is declared as, and with it a model that is not listed.
#[test]
fn what_is_neither_json_nor_a_form_is_refused() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, ALL);
    let body = br#"{"model":"secret"}"#;
    let form = "multipart/form-data; boundary=x";
    for path in ["/v1/embeddings", "/v1/moderations", "/anthropic/v1/messages"] {
        for kind in [form, "text/plain", "application/vnd.api+json", "application/json5"] {
            let refused = send(&gateway, path, kind, body).response();
            assert_eq!(code_of(refused, 415), "not_json", "{path} {kind}");
        }
    }
    for path in ["/v1/audio/speech", "/v1/images/generations"] {
        send(&gateway, path, "text/plain", body).response().assert_status(415);
        send(&gateway, path, "Application/JSON ; x=y", b"{").response().assert_status(400);
    }
    let mut client = gateway.connect();
    let key = gateway.authorization();
    client.send(&request("POST", "/v1/moderations", &[("Authorization", &key)], body));
    client.response().assert_status(415);
    upstream.assert_alone();
}

#[test]
fn the_upstream_tells_the_idempotency_keys_of_principals_apart() {
    let upstream = Upstream::start();
    let home = Home::new();
    let keys = [("alice", "routes = [\"chat\"]"), ("bob", "routes = [\"chat\"]")];
    home.configure(&principals::configuration(&home, &keys, &upstream.config("")));
    let gateway = home.start();
    let passed = |name: &str, key: &str| {
        let api = principals::api(&gateway, name);
        let fields = [("Idempotency-Key", key)];
        let mut client = api.begin("POST", "/v1/embeddings", &fields, "{}");
        let mut line = upstream.accept();
        let asked = line.request();
        // Whether one that is kept is free again by the next request is not told.
        line.answer(200, "Connection: close\r\n", "{}");
        client.response().assert_status(200);
        asked.field("idempotency-key").unwrap().to_owned()
    };
    let first = passed("alice", "k");
    assert_eq!(passed("alice", "k"), first);
    assert!(passed("alice", "l") != first && passed("bob", "k") != first);
    assert!(first.len() == 32 && !first.contains('k'), "{first}");
}

#[test]
fn an_answer_keeps_the_fields_that_tell_how_to_read_it() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    let mut client = gateway.api().begin("POST", "/v1/embeddings", &[], "{}");
    let mut line = upstream.accept();
    assert_eq!(line.request().field("accept-encoding"), None);
    let fields = "Content-Type: audio/mpeg\r\nContent-Encoding: gzip\r\nSet-Cookie: a=b\r\n\
                  Content-Disposition: attachment; filename=\"a.mp3\"\r\n";
    line.answer(200, fields, "coded");
    let answer = client.response().assert_status(200);
    for (name, value) in [
        ("content-type", Some("audio/mpeg")),
        ("content-encoding", Some("gzip")),
        ("content-disposition", Some("attachment; filename=\"a.mp3\"")),
        ("set-cookie", None),
    ] {
        assert_eq!(answer.field(name), value, "{name}");
    }
    assert_eq!(answer.text(), "coded");
}

#[test]
fn bytes_of_any_kind_go_both_ways_unchanged() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, ALL);
    let body: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let kind = "multipart/form-data; boundary=\"x@y\"";
    let mut client = send(&gateway, "/v1/audio/transcriptions", kind, &body);
    let mut line = upstream.accept();
    let asked = line.request();
    assert_eq!(asked.target, "/v1/audio/transcriptions");
    assert_eq!(asked.field("content-type"), Some(kind));
    assert!(asked.body == body);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: 300000\r\n\r\n";
    line.send(head);
    line.send_bytes(&body);
    let answer = client.response().assert_status(200);
    assert_eq!(answer.field("content-type"), Some("audio/mpeg"));
    assert!(answer.body == body);
    for path in ["/v1/images/edits", "/v1/audio/translations"] {
        drop(line);
        let mut client = send(&gateway, path, "Multipart/Form-Data;boundary=y", &body);
        line = upstream.accept();
        let asked = line.request();
        assert_eq!(asked.target, path);
        line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n493e0\r\n");
        line.send_bytes(&asked.body);
        line.send("\r\n0\r\n\r\n");
        assert!(client.response().assert_status(200).body == body, "{path}");
    }
}

#[test]
fn bytes_of_any_kind_go_through_curl() {
    let upstream = Upstream::start();
    let tls = Tls::before(&upstream);
    let home = Home::new();
    home.configure(&format!(
        "[agent]\nurl = \"https://localhost:{}/v1?v=1\"\nkey_file = {:?}\n{ALL}\n\
         env = {{ CURL_CA_BUNDLE = {:?} }}\n",
        tls.port,
        key(&home),
        tls.certificate
    ));
    let gateway = home.start();
    let body: Vec<u8> =
        b"@/etc/passwd\0".iter().copied().chain((0..=255).cycle().take(200_000)).collect();
    let mut client =
        send(&gateway, "/v1/audio/transcriptions?w=2", "multipart/form-data; boundary=x", &body);
    let mut line = upstream.accept();
    let asked = line.request();
    assert_eq!(asked.target, "/v1/audio/transcriptions?w=2&v=1");
    assert_eq!(asked.field("content-type"), Some("multipart/form-data; boundary=x"));
    assert_eq!(asked.field("authorization"), Some("Bearer sk-up"));
    assert!(asked.body == body, "{} bytes", asked.body.len());
    line.send("HTTP/1.1 200 OK\r\nContent-Length: 200013\r\n\r\n");
    line.send_bytes(&body);
    assert!(client.response().assert_status(200).body == body);
    // It is never taken for curl's name of a file.
    let mut client = send(&gateway, "/v1/audio/x", "multipart/form-data", b"@x");
    let mut line = upstream.accept();
    assert_eq!(line.request().body, b"@x");
    line.answer(200, "", "ok");
    assert_eq!(client.response().assert_status(200).text(), "ok");
}

#[test]
fn a_stream_is_passed_on_as_it_comes() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    let mut client = gateway.api().begin("POST", "/v1/completions", &[], "{\"stream\":true}");
    let mut line = upstream.accept();
    line.request();
    line.begin();
    line.event("{\"one\":1}");
    let head = client.head();
    assert_eq!(head.field("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(client.chunk().unwrap(), b"data: {\"one\":1}\n\n");
    line.send("5\r\n: odd\r\n");
    assert_eq!(client.chunk().unwrap(), b": odd");
    line.send("0\r\n\r\n");
    assert_eq!(client.chunk(), None);
}

#[test]
fn a_stop_waits_for_what_is_passed_on() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    let mut client = gateway.api().begin("POST", "/v1/completions", &[], "{\"stream\":true}");
    let mut line = upstream.accept();
    line.request();
    line.begin();
    line.event("1");
    client.head();
    assert_eq!(client.chunk().unwrap(), b"data: 1\n\n");
    gateway.signal(libc::SIGINT);
    gateway.wait_for_notification("STOPPING=1", DEADLINE);
    line.event("2");
    assert_eq!(client.chunk().unwrap(), b"data: 2\n\n");
    line.send("0\r\n\r\n");
    assert_eq!(client.chunk(), None);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
}

#[test]
fn an_answer_that_breaks_off_does_not_look_whole() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    for (begin, more) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", "2"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none", "two"),
    ] {
        let mut client = gateway.api().begin("POST", "/v1/completions", &[], "{}");
        let mut line = upstream.accept();
        line.request();
        line.send(begin);
        client.head();
        assert_eq!(client.chunk().unwrap(), b"one");
        line.send(more);
        drop(line);
        let rest = client.until_close();
        assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "{rest:?}");
    }
    // Before there was anything of the body.
    let mut client = gateway.api().begin("POST", "/v1/completions", &[], "{}");
    let mut line = upstream.accept();
    line.request();
    line.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    drop(line);
    assert!(client.response().error(503).contains("broke off"));
}

#[test]
fn a_client_that_leaves_ends_its_request() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    for begun in [false, true] {
        let mut client = gateway.api().begin("POST", "/v1/completions", &[], "{}");
        let mut line = upstream.accept();
        line.request();
        if begun {
            line.begin();
            line.event("1");
            client.head();
        }
        drop(client);
        line.assert_gone();
    }
}

#[test]
fn errors_are_passed_on_with_their_wait() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    for (status, after) in [(400, None), (401, None), (429, Some("77")), (503, Some("8"))] {
        let mut client = gateway.api().begin("POST", "/v1/embeddings", &[], "{}");
        let mut line = upstream.accept();
        line.request();
        let field = after.map_or(String::new(), |after| format!("Retry-After: {after}\r\n"));
        line.answer(status, &field, "<own words>");
        let answer = client.response().assert_status(status);
        assert_eq!((answer.field("retry-after"), &*answer.text()), (after, "<own words>"));
    }
    let mut client = gateway.api().begin("POST", "/v1/embeddings", &[], "{}");
    let mut line = upstream.accept();
    line.request();
    line.answer(307, "Location: http://127.0.0.1:1/\r\n", "");
    assert!(client.response().error(502).contains("redirects"));
}

#[test]
fn limits_hold_in_both_directions() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "[limits]\nmax_body = \"64KiB\"\nmax_reply = \"64KiB\"");
    let long = vec![b'x'; 70_000];
    send(&gateway, "/v1/embeddings", "application/json", &long).response().assert_status(413);
    upstream.assert_alone();
    let mut client = gateway.api().begin("POST", "/v1/embeddings", &[], "{}");
    let mut line = upstream.accept();
    line.request();
    line.send("HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\nx");
    assert!(client.response().error(502).contains("limits.max_reply"));
    drop(line);
    let mut client = gateway.api().begin("POST", "/v1/embeddings", &[], "{}");
    let mut line = upstream.accept();
    line.request();
    line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
    client.head();
    assert_eq!(client.chunk().unwrap(), b"x");
    line.send("11170\r\n");
    line.send_bytes(&long);
    line.send("\r\n0\r\n\r\n");
    let sent = client.until_close();
    assert!(sent.len() < 68_000 && !sent.ends_with(b"0\r\n\r\n"), "{} bytes", sent.len());
}

#[test]
fn what_is_not_to_be_passed_is_refused_with_a_reason() {
    let upstream = Upstream::start();
    let home = Home::new();
    let config = upstream.config("");
    let keys = [("alice", "routes = [\"messages\"]"), ("bob", "routes = [\"chat\"]")];
    home.configure(&principals::configuration(&home, &keys, &config));
    let gateway = home.start();
    let api = principals::api(&gateway, "bob");
    for (target, why) in [
        ("/v1/audio/speech", "audio"),
        ("/v1/images/generations", "images"),
        ("/v1/moderations", "moderations"),
        ("/anthropic/v1/messages", "anthropic"),
        ("/v1/responses/resp_1/cancel", "agent.api"),
    ] {
        let words = api.post(target, &json!({})).error(404);
        assert!(words.contains(why), "{target}: {words}");
    }
    for target in ["a%2Fb", "%3Fx", "a%20b", "/a", "a//b", "a//"] {
        let target = format!("/v1/audio/{target}");
        assert_eq!(code_of(api.post(&target, &json!({})), 404), "not_found", "{target}");
    }
    assert_eq!(code_of(api.post("/v1/embeddings/x", &json!({})), 404), "not_found");
    for segment in ["..", "%2e%2E", ".", "a%2F.%2e"] {
        let target = format!("/v1/audio/{segment}/embeddings");
        assert!(api.post(&target, &json!({})).error(400).contains(".. segments"), "{target}");
    }
    let deep = "[".repeat(101) + &"]".repeat(101);
    assert!(api.call("POST", "/v1/embeddings", &[], &deep).error(400).contains("101 levels"));
    api.get("/v1/embeddings").assert_status(405);
    let mut client = api.begin("HEAD", "/v1/embeddings", &[], "");
    assert_eq!(client.head().status, 405);
    let session = [("X-Hermes-Session-Id", "s")];
    let words = api.call("POST", "/v1/embeddings", &session, "{}").error(400);
    assert!(words.contains("X-Hermes-Session-Id"), "{words}");
    let coded = [("Content-Encoding", "gzip")];
    api.call("POST", "/v1/embeddings", &coded, "{}").assert_status(415);
    let alice = principals::api(&gateway, "alice");
    let refused = alice.post("/v1/embeddings", &json!({}));
    assert_eq!(code_of(refused, 403), "route_not_allowed");
    let key = "Bearer nobody";
    let mut client = gateway.connect();
    client.post("/v1/embeddings", &[("Authorization", key)], "{}").assert_status(401);
    upstream.assert_alone();
    let words = Gateway::start().api().post("/v1/embeddings", &json!({})).error(404);
    assert!(words.contains("no upstream"), "{words}");
}

#[test]
fn responses_are_passed_to_an_upstream_that_has_them() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "api = \"responses\"");
    for (method, target) in [
        ("POST", "/v1/responses"),
        ("GET", "/v1/responses/resp_1?include=x"),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("POST", "/v1/responses/input_tokens"),
    ] {
        let body =
            if target == "/v1/responses" { "{\"input\":1,\"model\":\"default\"}" } else { "" };
        // Some clients declare a type in any case.
        let fields = [("Content-Type", "application/json")];
        let mut client = gateway.api().begin(method, target, &fields, body);
        let mut line = upstream.accept();
        let asked = line.request();
        assert_eq!((&*asked.method, &*asked.target), (method, target));
        assert_eq!(String::from_utf8_lossy(&asked.body), body.replace("default", "m"));
        line.answer(200, "Content-Type: application/json\r\n", "{\"own\":1}");
        assert_eq!(client.response().assert_status(200).text(), "{\"own\":1}");
    }
    // Chats remain chats.
    let mut client = gateway.begin("hi", false);
    let mut line = upstream.accept();
    assert_eq!(line.request().target, "/v1/chat/completions");
    line.answer(200, "", r#"{"choices":[{"message":{"content":"x"}}]}"#);
    assert_eq!(client.response().reply(), "x");
}

#[test]
fn the_api_of_another_make_gets_its_own_field_for_the_key() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, ALL);
    for path in ["/v1/messages", "/v1/messages/count_tokens"] {
        let fields = [("anthropic-version", "2023-06-01"), ("anthropic-beta", "b")];
        let target = format!("/anthropic{path}");
        let mut client = gateway.api().begin("POST", &target, &fields, "{\"model\":\"default\"}");
        let mut line = upstream.accept();
        let asked = line.request();
        assert_eq!((&*asked.target, &*asked.body), (path, &b"{\"model\":\"m\"}"[..]));
        assert_eq!((asked.field("x-api-key"), asked.field("authorization")), (Some("sk-up"), None));
        assert_eq!(asked.field("anthropic-version"), Some("2023-06-01"));
        assert_eq!(asked.field("anthropic-beta"), Some("b"));
        line.answer(200, "", "{}");
        client.response().assert_status(200);
    }
}

#[test]
fn the_next_upstream_answers_here_too() {
    let (one, two) = (Upstream::start(), Upstream::start());
    let home = Home::new();
    home.configure(&format!(
        "[agent]\nurl = [\"http://{}/v1\", {{ url = \"http://{}/v1\", models = {{ e = \"two\" }} }}]\n\
         models = {{ e = \"one\" }}\n",
        one.address(),
        two.address()
    ));
    let gateway = home.start();
    let mut client = gateway.api().begin("POST", "/v1/embeddings", &[], "{\"model\":\"e\"}");
    let mut first = one.accept();
    assert_eq!(first.request().json()["model"], "one");
    first.answer(500, "", "one");
    let mut second = two.accept();
    assert_eq!(second.request().json()["model"], "two");
    second.answer(200, "", "two");
    let answer = client.response().assert_status(200);
    assert_eq!(answer.field("x-hermes-upstream"), Some(two.address().to_string().as_str()));
    assert_eq!(answer.text(), "two");
    drop((first, second));
    // What the last one says counts where all fail, as it is.
    let mut client = gateway.api().begin("POST", "/v1/embeddings", &[], "{\"model\":\"e\"}");
    let mut second = two.accept();
    second.request();
    second.answer(503, "", "two");
    let mut first = one.accept();
    first.request();
    first.answer(429, "Retry-After: 5\r\n", "one");
    let answer = client.response().assert_status(429);
    assert_eq!((answer.field("retry-after"), &*answer.text()), (Some("5"), "one"));
    gateway.wait_for_log("failed", DEADLINE);
}
