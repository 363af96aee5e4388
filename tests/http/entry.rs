//! What is wrong with a request is told at the door, by its real reason; and what the agent says to itself is
//! not for clients.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::path::Path;
use std::process::Command;

use serde_json::json;

use util::api::{code_of, id_of};
use util::http::{Connection, Response, chat};
use util::principals::{api, at_once, launch};
use util::{Api, DEADLINE, Gateway, Home, Process, Target, script};

const CHAT: &str = "/v1/chat/completions";

fn ephemeral(config: &str) -> Gateway {
    let home = Home::new();
    home.configure(config);
    home.launch().arg("--ephemeral").start()
}

fn post(api: &Api, target: &str, fields: &[(&str, &str)], body: &str) -> Response {
    api.call("POST", target, fields, body)
}

/// The answer has this status, and an error in whose message each of these words stands.
#[track_caller]
fn says(answer: Response, status: u16, words: &[&str]) {
    let text = answer.error(status);
    let lower = text.to_lowercase();
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "no {word:?} in {text:?}");
    }
}

// ------------------------------------------------------------------ header fields ----

#[test]
fn a_header_field_of_ours_that_comes_twice_is_refused() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let body = chat("hi", false);
    for name in ["X-Hermes-Session-Id", "Idempotency-Key"] {
        for (first, second) in [("one", "two"), ("one", "one")] {
            let answer = post(&api, CHAT, &[(name, first), (name, second)], &body);
            says(answer, 400, &[name]);
        }
    }
    let target = "/v1/sessions/s/messages";
    let keys = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    says(post(&api, target, &keys, r#"{"text":"hi"}"#), 400, &["Idempotency-Key"]);
    api.finished(&api.accepted("s", "hi"));
    let last = [("Last-Event-ID", "1"), ("Last-Event-ID", "2")];
    says(api.call("GET", "/v1/sessions/s/events", &last, ""), 400, &["Last-Event-ID"]);
    let more = gateway.authorization();
    let answer = post(&api, CHAT, &[("Authorization", &more)], &body);
    assert_eq!(answer.status(), 400, "{}", answer.text());
    // What is none of ours may come as often as it likes.
    post(&api, CHAT, &[("X-Other", "a"), ("X-Other", "b")], &body).assert_status(200);
}

#[test]
fn a_compressed_body_is_refused_by_the_name_of_the_field_that_says_so() {
    let gateway = Gateway::start();
    for target in [CHAT, "/v1/responses", "/v1/messages", "/v1/sessions/s/messages"] {
        let fields = [("Content-Encoding", "gzip")];
        says(post(&gateway.api(), target, &fields, "\u{1f}x"), 415, &["Content-Encoding"]);
    }
    let fields = [("Content-Encoding", "identity")];
    post(&gateway.api(), CHAT, &fields, &chat("hi", false)).assert_status(200);
}

#[test]
fn known_and_unknown_paths_answer_alike_without_a_key() {
    let gateway = Gateway::start();
    let nobody = Api::new(gateway.address(), "");
    for method in ["GET", "POST", "DELETE", "PUT", "PATCH"] {
        let told = |path: &str| {
            let mut connection = Connection::tcp(gateway.address());
            let fields = [("Content-Type", "application/json")];
            connection.send(&util::http::request(method, path, &fields, b""));
            let answer = connection.response();
            (answer.status(), answer.text())
        };
        let unknown = told("/v1/nothing");
        assert_eq!(unknown.0, 401, "{method}: {}", unknown.1);
        for path in
            ["/nothing", "/", CHAT, "/v1/models", "/v1/status", "/v1/sessions/a", "/v1/messages"]
        {
            assert_eq!(told(path), unknown, "{method} {path}");
        }
    }
    nobody.get("/health").assert_status(200);
}

// ----------------------------------------------------------------------- sessions ----

#[test]
fn a_slash_in_a_session_may_be_encoded() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let target = "/v1/sessions/a%2Fb/messages";
    let id = id_of(&post(&api, target, &[], r#"{"text":"hi"}"#).assert_status(202).json());
    assert_eq!(api.finished(&id)["session"], "a/b");
    for path in ["/v1/sessions/a%2Fb", "/v1/sessions/a%2fb", "/v1/sessions/a/b"] {
        assert_eq!(api.get(path).assert_status(200).json()["session"], "a/b", "{path}");
    }
    // The name of a route is a session's like any other.
    let target = "/v1/sessions/a%2Fmessages/messages";
    let id = id_of(&post(&api, target, &[], r#"{"text":"hi"}"#).assert_status(202).json());
    assert_eq!(api.finished(&id)["session"], "a/messages");
    api.delete("/v1/sessions/a%2Fb").assert_status(200);
}

#[test]
fn dots_as_a_session_behave_alike_in_a_body_a_field_and_a_path() {
    let gateway = Gateway::start();
    let api = gateway.api();
    for session in [".", "..", "a/../b", "a/./b"] {
        let body = json!({ "text": "hi", "session": session });
        let in_body = api.post("/v1/messages", &body).status();
        let in_path = api.send(session, "hi").status();
        let encoded = session.replace('.', "%2E").replace('/', "%2F");
        let target = format!("/v1/sessions/{encoded}/messages");
        let in_encoded = post(&api, &target, &[], r#"{"text":"hi"}"#).status();
        let fields = [("X-Hermes-Session-Id", session), ("Idempotency-Key", session)];
        let in_field = post(&api, CHAT, &fields, &chat("hi", false)).status();
        let is_taken = |status: u16| status / 100 == 2;
        let all = [in_body, in_path, in_encoded, in_field];
        assert!(all.iter().all(|one| is_taken(*one) == is_taken(in_body)), "{session}: {all:?}");
    }
}

#[test]
fn a_list_of_sessions_says_that_there_are_more_and_goes_on() {
    let gateway = ephemeral("");
    let api = gateway.api();
    const COUNT: usize = 1203;
    at_once(3, |part| {
        for number in 0..COUNT / 3 {
            api.finished(&api.accepted(&format!("s{part}-{number}"), "x"));
        }
    });
    let first = api.get("/v1/sessions").assert_status(200).json();
    assert_eq!(first["has_more"], true, "{} of them", first["sessions"].as_array().unwrap().len());
    let mut names = Vec::new();
    let mut target = "/v1/sessions".to_owned();
    loop {
        let page = api.get(&target).assert_status(200).json();
        let listed = page["sessions"].as_array().unwrap();
        names.extend(listed.iter().map(|one| one["session"].as_str().unwrap().to_owned()));
        if page["has_more"] == false {
            break;
        }
        assert!(!listed.is_empty() && names.len() <= COUNT, "{} names", names.len());
        target = format!("/v1/sessions?after={}", names.last().unwrap());
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), COUNT);
}

#[test]
fn control_characters_in_a_session_are_refused_by_their_name() {
    let gateway = Gateway::start();
    let api = gateway.api();
    for character in ['\u{0}', '\n', '\u{1b}', '\u{7f}'] {
        let session = format!("a{character}b");
        says(api.send(&session, "hi"), 400, &["control"]);
        let body = json!({ "text": "hi", "session": session });
        says(api.post("/v1/messages", &body), 400, &["session", "control"]);
    }
}

// ------------------------------------------------------------------------- bodies ----

#[test]
fn what_cannot_be_handed_to_the_agent_is_rejected_before_its_turn() {
    let gateway = ephemeral("[agent]\ncommand = [\"cat\"]\n");
    let api = gateway.api();
    let with_system = |system: &str| {
        json!({ "messages": [{ "role": "system", "content": system },
                             { "role": "user", "content": "hi" }] })
    };
    for (system, statuses) in [
        ("a\u{0}b".to_owned(), &[400][..]),
        ("x".repeat(200_000), &[413]),
        ("x".repeat(131_072), &[400, 413]),
    ] {
        let what = format!("{} bytes", system.len());
        let answer = api.post(CHAT, &with_system(&system));
        assert!(
            statuses.contains(&answer.status()),
            "{what}: {} {}",
            answer.status(),
            answer.text()
        );
        assert!(answer.field("retry-after").is_none(), "{what}");
        let body = json!({ "input": "hi", "instructions": system });
        let answer = api.post("/v1/responses", &body);
        assert!(
            statuses.contains(&answer.status()),
            "{what}: {} {}",
            answer.status(),
            answer.text()
        );
    }
    assert_eq!(api.post(CHAT, &with_system("be brief")).reply(), "hi");
    let attachments = json!({ "text": "hi", "attachments": ["a\u{0}b"] });
    assert_eq!(api.post("/v1/messages", &attachments).status(), 400);
}

#[test]
fn what_is_wrong_with_a_body_is_told_by_its_real_reason() {
    let gateway = ephemeral("");
    let api = gateway.api();
    let user = |content: &str| format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#);
    says(post(&api, CHAT, &[], &user("[]")), 400, &["content", "empty"]);
    says(post(&api, CHAT, &[], &user(r#""\ud83d""#)), 400, &["surrogate"]);
    says(post(&api, "/v1/messages", &[], r#"{"text":"\ud83d"}"#), 400, &["surrogate"]);
    // Where nobody looks at it, a number may be as large as it likes; nowhere is it "no JSON".
    for field in ["temperature", "n", "max_tokens", "stream"] {
        let body =
            format!("{}\"{field}\":1e400}}", r#"{"messages":[{"role":"user","content":"hi"}],"#);
        let answer = post(&api, CHAT, &[], &body);
        let text = answer.text();
        let is_told = text.contains("out of range") || text.contains(field);
        assert!(answer.status() == 200 || answer.status() == 400 && is_told, "{field}: {text}");
    }
    let empty = r#"{"input":[{"role":"user","content":[]}]}"#;
    says(post(&api, "/v1/responses", &[], empty), 400, &["content", "empty"]);
}

#[test]
fn metadata_that_nests_too_deep_is_refused_before_it_is_stored() {
    let gateway = Gateway::start();
    let api = gateway.api();
    for depth in [16, 100, 120, 124, 125, 126, 127] {
        let metadata = format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        let body = format!(r#"{{"input":"hi","metadata":{metadata}}}"#);
        let answer = post(&api, "/v1/responses", &[], &body);
        if answer.status() == 400 {
            let text = answer.error(400);
            assert!(text.contains("metadata") || text.contains("nested"), "{text}");
            continue;
        }
        // What was taken can be read and deleted.
        let id = answer.assert_status(200).json()["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/responses/{id}");
        assert_eq!(api.get(&path).status(), 200, "{depth} deep");
        assert_eq!(api.delete(&path).status(), 200, "{depth} deep");
        assert!(depth < 125, "{depth} deep is more than can be read back");
    }
}

// ----------------------------------------------------------- what the agent says ----

/// An agent that fails as programs in Python do, after it has said something.
fn failing() -> String {
    script(
        "echo said before; echo 'Traceback (most recent call last):' >&2; \
         echo '  File \"/srv/secret/agent.py\", line 3, in <module>' >&2; \
         echo '    raise ValueError(path)' >&2; echo 'ValueError: no such model' >&2; exit 1",
    )
}

#[test]
fn a_traceback_reaches_a_client_as_its_last_line_with_what_the_agent_said_before() {
    let gateway = ephemeral(&failing());
    let api = gateway.api();
    let id = api.accepted("s", "hi");
    let chat = post(&api, CHAT, &[], &chat("hi", false)).error(502);
    let response = api.post("/v1/responses", &json!({ "input": "hi" })).error(502);
    let message = api.finished(&id);
    for text in [&chat, &response, &message["error"].to_string()] {
        assert!(text.contains("ValueError: no such model"), "{text}");
        assert!(text.contains("said before"), "{text}");
        for inner in ["Traceback", "/srv/secret", "agent.py", "raise ValueError"] {
            assert!(!text.contains(inner), "{inner} in {text}");
        }
    }
}

#[test]
fn without_a_key_nobody_learns_what_the_agent_is() {
    let home = Home::new();
    let program = home.path().join("secret-agent");
    std::os::unix::fs::symlink("/bin/cat", &program).unwrap();
    home.configure(&format!("[agent]\ncommand = [\"{}\"]\n", program.display()));
    let gateway = home.start();
    assert_eq!(gateway.ask("hi").reply(), "hi");
    // Room for two connections, and not for what a turn needs.
    let is_free = |fd: &u32| !Path::new(&format!("/proc/{}/fd/{fd}", gateway.pid())).exists();
    let fourth = (0..).filter(is_free).nth(3).unwrap();
    let limit = format!("--nofile={}:20000", fourth + 1);
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &gateway.pid().to_string(), &limit]);
    Process::spawn(&mut prlimit).finish(DEADLINE).assert_code(0);
    gateway.api().accepted("s", "hi");
    let ready = |api: &Api| api.get("/ready");
    let nobody = Api::new(gateway.address(), "");
    let told = util::eventually("it is degraded", || {
        Some(ready(&nobody)).filter(|answer| answer.status() == 503).map(|answer| answer.text())
    });
    assert!(!told.contains("secret-agent"), "{told}");
    assert!(!told.contains("/tmp"), "{told}");
    // The operator is told.
    let status = gateway.status().to_string();
    assert!(status.contains("degraded"), "{status}");
}

// ------------------------------------------------------------------------ targets ----

#[test]
fn a_key_names_the_targets_that_its_section_lists() {
    let target = Target::start();
    let config = target.config("hook", "") + &target.config("other", "");
    let keys = [("alice", ""), ("bob", "targets = [\"hook\"]"), ("carol", "role = \"operator\"")];
    let gateway = launch(&keys, &config).start();
    let send = |name: &str, target: &str| {
        api(&gateway, name).send_json("s", &json!({ "text": "hi", "deliver": target }))
    };
    for (name, target) in [("alice", "hook"), ("alice", "other"), ("bob", "other")] {
        let answer = send(name, target);
        assert_eq!(answer.status(), 403, "{name}, {target}: {}", answer.text());
        assert!(answer.text().contains("target"), "{}", answer.text());
    }
    for (name, target) in [("bob", "hook"), ("carol", "other"), ("owner", "other")] {
        send(name, target).assert_status(202);
    }
    // A name that nobody has tells a user no more than one that it may not use.
    let code = code_of(send("alice", "hook"), 403);
    assert_eq!(code_of(send("alice", "nowhere"), 403), code);
    target.wait_for(3);
}

#[test]
fn a_restart_of_a_kind_that_there_is_not_is_refused() {
    let gateway = Gateway::start();
    for query in
        ["kind=other", "kind=replace", "kind=replace&pid=x", "kind=update&pid=1", "pid=1", "x=1"]
    {
        gateway.control().post(&format!("/v1/restart?{query}"), &[], "").error(400);
    }
}
