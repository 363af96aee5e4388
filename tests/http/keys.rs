//! Who may come in, and to what: several keys with their scopes, wrong ones, web pages. Each rule
//! comes from what went wrong in gateways like this one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::json;

use util::api::code_of;
use util::{Api, DEADLINE, Gateway, Home, Target, script};

/// A key of one letter.
fn key(letter: &str) -> String {
    letter.repeat(40)
}

fn write_key(home: &Home, name: &str, key: &str) -> String {
    let path = home.path().join(format!("{name}.key"));
    fs::write(&path, key).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A gateway with keys of these principals, each with more lines of its section.
#[track_caller]
fn with_keys(keys: &[(&str, &str)]) -> (Gateway, String) {
    let home = Home::new();
    let mut text = String::new();
    for (name, more) in keys {
        let file = write_key(&home, name, &key(&name[..1]));
        text += &format!("[keys.{name}]\nfile = \"{file}\"\n{more}\n");
    }
    home.configure(&text);
    (home.start(), text)
}

fn api(gateway: &Gateway, name: &str) -> Api {
    Api::new(gateway.address(), &key(&name[..1]))
}

#[test]
fn what_belongs_to_one_principal_is_not_there_for_another() {
    let (gateway, _) = with_keys(&[("alice", ""), ("bob", ""), ("carol", "role = \"operator\"")]);
    let (alice, bob, carol) =
        (api(&gateway, "alice"), api(&gateway, "bob"), api(&gateway, "carol"));
    let id = alice.accepted("s", "secret");
    assert_eq!(alice.reply(&id), "secret");
    let response =
        alice.post("/v1/responses", &json!({"input": "secret"})).assert_status(200).json();
    let response = response["id"].as_str().unwrap();
    for other in [&bob, &carol, &gateway.api()] {
        assert_eq!(code_of(other.get(&format!("/v1/messages/{id}")), 404), "not_found");
        assert_eq!(code_of(other.delete(&format!("/v1/messages/{id}")), 404), "not_found");
        assert_eq!(code_of(other.get("/v1/sessions/s"), 404), "not_found");
        assert_eq!(other.get("/v1/sessions").json()["sessions"], json!([]));
        assert_eq!(code_of(other.get(&format!("/v1/responses/{response}")), 404), "not_found");
        let next = json!({"input": "x", "previous_response_id": response});
        let code = code_of(other.post("/v1/responses", &next), 404);
        assert_eq!(code, "previous_response_not_found");
    }
    // The same session key is another session, and the same idempotency key another message.
    let first = alice.send_keyed("t", "k", "x").assert_status(202).json();
    let second = bob.send_keyed("t", "k", "x").assert_status(202).json();
    assert_ne!(first["id"], second["id"]);
    assert_eq!(alice.message(first["id"].as_str().unwrap())["principal"], "alice");
}

#[test]
fn the_summary_of_the_journal_names_principals_where_there_are_several() {
    let agent = script("case $(cat) in hold) exec sleep 60;; esac; echo why >&2; exit 1");
    let (gateway, _) = with_keys(&[("alice", &agent)]);
    let summary = || gateway.home().run(&["journal"]).assert_code(0).stdout;
    let own = gateway.api().accepted("s", "hold");
    assert!(!summary().contains("principal"), "{}", summary());
    let alice = api(&gateway, "alice");
    let failed = alice.accepted("t", "x");
    alice.finished(&failed);
    // Behind it, as far as alice's share of the turns goes.
    let held = alice.accepted("s", "hold");
    let all = summary();
    for begin in
        [format!("{own}  owner "), format!("{held}  alice "), format!("{failed} of alice  failed,")]
    {
        assert!(all.lines().any(|line| line.starts_with(&begin)), "{begin}: {all}");
    }
}

#[test]
fn a_role_opens_its_routes_and_no_others() {
    let narrow = "role = \"operator\"\nroutes = [\"chat\"]";
    let (gateway, _) =
        with_keys(&[("alice", ""), ("carol", "role = \"operator\""), ("dora", narrow)]);
    let (alice, carol, dora) =
        (api(&gateway, "alice"), api(&gateway, "carol"), api(&gateway, "dora"));
    let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
    for one in [&alice, &carol, &dora] {
        assert_eq!(one.post("/v1/chat/completions", &chat).reply(), "hi");
        one.get("/v1/models").assert_status(200);
    }
    for one in [&alice, &dora] {
        assert_eq!(code_of(one.get("/v1/status"), 403), "route_not_allowed");
        assert_eq!(code_of(one.post("/v1/journal/compact", &json!({})), 403), "route_not_allowed");
    }
    alice.get("/v1/sessions").assert_status(200);
    assert_eq!(code_of(dora.get("/v1/sessions"), 403), "route_not_allowed");
    carol.get("/v1/status").assert_status(200);
    carol.post("/v1/journal/compact", &json!({})).assert_status(200);
    // Commands in messages are for operators.
    let says = |api: &Api, word: &str| {
        let said = api.send("s", word).assert_status(200).json();
        said["reply"].as_str().unwrap().to_owned()
    };
    assert_eq!(says(&carol, "/whoami"), "You are carol, an operator of this gateway.");
    assert_eq!(says(&alice, "/whoami"), "You are alice.");
    let refused = says(&alice, "/status");
    assert!(refused.contains("is for operators"), "{refused}");
}

#[test]
fn a_key_may_be_bound_to_sessions() {
    let (gateway, _) = with_keys(&[("alice", "sessions = [\"one\", \"team-*\"]")]);
    let alice = api(&gateway, "alice");
    for session in ["one", "team-", "team-a/b"] {
        alice.accepted(session, "x");
    }
    let in_session = |session: &str| {
        let fields = [("X-Hermes-Session-Id", session)];
        alice.call("POST", "/v1/chat/completions", &fields, &util::http::chat("x", false))
    };
    in_session("team-x").assert_status(200);
    for session in ["two", "one-", "team"] {
        assert_eq!(code_of(alice.send(session, "x"), 403), "session_not_allowed");
        assert_eq!(code_of(in_session(session), 403), "session_not_allowed");
        let path = format!("/v1/sessions/{session}");
        assert_eq!(code_of(alice.get(&path), 403), "session_not_allowed");
        assert_eq!(code_of(alice.delete(&path), 403), "session_not_allowed");
        assert_eq!(code_of(alice.get(&format!("{path}/events")), 403), "session_not_allowed");
        let body = json!({"text": "x", "session": session});
        assert_eq!(code_of(alice.post("/v1/messages", &body), 403), "session_not_allowed");
    }
    alice.post("/v1/messages", &json!({"text": "x"})).assert_status(202);
}

/// GHSA-m8wm-r5vq-qjpg: a secret is swapped at once, and a wrong one changes nothing.
#[test]
fn a_reload_takes_up_other_keys() {
    let (gateway, text) = with_keys(&[("alice", ""), ("bob", "")]);
    let (old, bob) = (api(&gateway, "alice"), api(&gateway, "bob"));
    let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
    let works = |api: &Api| api.post("/v1/chat/completions", &chat).status() == 200;
    assert!(works(&old) && works(&bob));
    // GHSA-xh72-v6v9-mwhc: an empty secret is an error, never "no check".
    write_key(gateway.home(), "alice", "");
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("the key has 0 characters", DEADLINE);
    assert!(works(&old));
    write_key(gateway.home(), "alice", &key("z"));
    let own = gateway.home().api_key();
    write_key(gateway.home(), "owner", &key("w"));
    let path = gateway.home().state_dir().join("api.key");
    fs::copy(gateway.home().path().join("owner.key"), &path).unwrap();
    let without_bob = text.split("[keys.bob]").next().unwrap();
    gateway.home().configure(without_bob);
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("the configuration was read again", DEADLINE);
    for dead in [&old, &bob, &Api::new(gateway.address(), &own)] {
        assert_eq!(code_of(dead.post("/v1/chat/completions", &chat), 401), "invalid_api_key");
    }
    for letter in ["z", "w"] {
        assert!(works(&Api::new(gateway.address(), &key(letter))));
    }
}

/// GHSA-m8wm-r5vq-qjpg: what is open already is no way around that.
#[test]
fn an_open_connection_does_not_outlive_its_key() {
    let (gateway, text) = with_keys(&[("alice", ""), ("bob", "")]);
    let (alice, bob) = (api(&gateway, "alice"), api(&gateway, "bob"));
    let bearer = format!("Bearer {}", key("a"));
    let fields = [("Authorization", bearer.as_str())];
    let mut kept = gateway.connect();
    kept.get("/v1/models", &fields).assert_status(200);
    let mut ended = alice.events("s", None);
    let mut narrowed = bob.events("s", None);
    // Less than the comments on a stream that goes on.
    let limit = Duration::from_secs(10);
    ended.set_read_limit(limit);
    narrowed.set_read_limit(limit);
    let id = bob.accepted("s", "x");
    assert_eq!(narrowed.next_record().data["id"], *id);
    write_key(gateway.home(), "alice", &key("z"));
    gateway.home().configure(&format!("{text}sessions = [\"other\"]\n"));
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("the configuration was read again", DEADLINE);
    assert_eq!(code_of(kept.get("/v1/models", &fields), 401), "invalid_api_key");
    assert_eq!(ended.next_event(), None);
    // The rest of what had happened before, and the end.
    while narrowed.next_event().is_some() {}
    assert_eq!(code_of(bob.get("/v1/sessions/s"), 403), "session_not_allowed");
    assert_eq!(code_of(bob.get(&format!("/v1/messages/{id}")), 404), "not_found");
}

/// GHSA-xh72-v6v9-mwhc: a secret that is none keeps it from starting, never from checking.
#[test]
fn a_key_that_is_no_secret_is_an_error_at_the_start() {
    let home = Home::new();
    let file = write_key(&home, "alice", &key("a"));
    home.configure(&format!("[keys.alice]\nfile = \"{file}\"\n"));
    home.start().end(libc::SIGINT);
    let own = home.api_key();
    for (text, mode, why) in [
        ("", 0o600, "the key has 0 characters"),
        (&*key("a"), 0o644, "is open to other users (mode 644)"),
        (&own, 0o600, "default.toml:2:1: keys.alice has the gateway's own key ("),
    ] {
        write_key(&home, "alice", text);
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let Err(refused) = home.launch().try_start() else { panic!("{why}") };
        assert_eq!(refused.code(), 78, "{refused:?}");
        assert!(refused.stderr.contains(why), "{refused:?}");
        assert!(!refused.stderr.contains(&own), "{refused:?}");
    }
}

/// CVE-2026-53821: who somebody is and what he may do is the server's word.
#[test]
fn a_request_cannot_say_who_it_is_from() {
    let (gateway, _) = with_keys(&[("alice", "")]);
    let alice = api(&gateway, "alice");
    let claims = [
        ("X-Hermes-Principal", "owner"),
        ("X-Hermes-Role", "operator"),
        ("X-Forwarded-User", "owner"),
        ("Content-Type", "application/json"),
    ];
    assert_eq!(code_of(alice.call("GET", "/v1/status", &claims, ""), 403), "route_not_allowed");
    let told = alice.call("POST", "/v1/messages", &claims, r#"{"text":"x"}"#).assert_status(202);
    let id = util::api::id_of(&told.json());
    assert_eq!(alice.message(&id)["principal"], "alice");
    let body = json!({"text": "x", "principal": "owner"});
    assert_eq!(code_of(alice.post("/v1/messages", &body), 400), "bad_request");
    let said = json!({"user": "owner", "input": "x"});
    let said = alice.post("/v1/responses", &said).assert_status(200).json();
    let path = format!("/v1/responses/{}", said["id"].as_str().unwrap());
    assert_eq!(code_of(gateway.api().get(&path), 404), "not_found");
    alice.get(&path).assert_status(200);
}

/// CVE-2026-28478: the head alone decides; no byte of a body is waited for.
#[test]
fn a_body_is_not_read_before_its_key() {
    let gateway = Gateway::start();
    for more in [("Expect", "100-continue"), ("X-A", "b")] {
        let fields = [
            ("Authorization", "Bearer nobody"),
            ("Content-Type", "application/json"),
            ("Content-Length", "1000000"),
            more,
        ];
        let mut connection = gateway.connect();
        connection.send(&util::http::request("POST", "/v1/chat/completions", &fields, b""));
        // No 100 before it.
        let refused = connection.response();
        assert_eq!(refused.field("connection"), Some("close"));
        assert_eq!(code_of(refused, 401), "invalid_api_key");
    }
}

/// GHSA-6rmx-gvvg-vh6j, GHSA-5m9r-p9g7-679c: guesses are slowed down, and lock nobody out.
#[test]
fn wrong_keys_are_counted_and_right_ones_come_in() {
    let gateway = Gateway::start();
    let wrong = Api::new(gateway.address(), &key("x"));
    let statuses: Vec<u16> = (0..20).map(|_| wrong.get("/v1/models").status()).collect();
    assert_eq!(statuses[..10], [401; 10]);
    assert_eq!(statuses[10..], [429; 10]);
    // CVE-2026-35656: an address that a request names for itself is not looked at.
    for field in ["X-Forwarded-For", "Forwarded", "X-Real-IP"] {
        let elsewhere = wrong.call("GET", "/v1/models", &[(field, "192.0.2.1")], "");
        assert_eq!(code_of(elsewhere, 429), "too_many_failures", "{field}");
    }
    let told = wrong.get("/v1/models");
    assert_eq!(told.field("connection"), Some("close"));
    let after: u64 = told.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    assert_eq!(code_of(told, 429), "too_many_failures");
    gateway.api().get("/v1/models").assert_status(200);
    assert_eq!(
        gateway.stderr().matches("too many requests with a wrong key from 127.0.0.1").count(),
        1
    );
    assert!(!gateway.stderr().contains("xxxx"), "{}", gateway.stderr());
}

/// CVE-2026-22812: closed for every path, the unknown ones too; and no key in a URL.
#[test]
fn every_path_is_closed_without_a_key() {
    let gateway = Gateway::start();
    let nobody = Api::new(gateway.address(), "");
    for path in ["/", "/v1", "/v1/models", "/v1/status", "/v1/responses/x", "/nothing", "/admin"] {
        let response = nobody.get(path);
        assert_eq!(response.field("www-authenticate"), Some("Bearer"), "{path}");
        assert_eq!(code_of(response, 401), "invalid_api_key", "{path}");
    }
    let own = gateway.home().api_key();
    for name in ["key", "api_key", "token", "ACCESS_TOKEN"] {
        for path in ["/v1/models", "/health", "/nothing"] {
            let response = gateway.api().get(&format!("{path}?a=b&{name}={own}"));
            assert_eq!(code_of(response, 400), "key_in_url", "{path} {name}");
        }
    }
    assert!(!gateway.stderr().contains(&own), "{}", gateway.stderr());
}

#[test]
fn pages_come_in_where_their_origin_is_named() {
    let home = Home::new();
    home.configure("[http]\nallowed_origins = [\"https://chat.example.org\"]\n");
    let gateway = home.start();
    let api = gateway.api();
    let page = [("Origin", "https://chat.example.org")];
    let read = api.call("GET", "/v1/models", &page, "").assert_status(200);
    assert_eq!(read.field("access-control-allow-origin"), Some("https://chat.example.org"));
    assert_eq!(read.field("vary"), Some("Origin"));
    let streamed = util::http::chat("x", true);
    let mut stream = api.begin("POST", "/v1/chat/completions", &page, &streamed);
    assert_eq!(
        stream.head().field("access-control-allow-origin"),
        Some("https://chat.example.org")
    );
    // What is asked before a request needs no key, and gives nothing away.
    let nobody = Api::new(gateway.address(), "");
    let asks = [page[0], ("Access-Control-Request-Method", "POST")];
    let told = nobody.call("OPTIONS", "/v1/chat/completions", &asks, "").assert_status(204);
    let methods = "GET, HEAD, POST, DELETE";
    assert_eq!(told.field("access-control-allow-methods"), Some(methods));
    // The clients that there are send more fields than anybody could list (X-Stainless-…).
    assert_eq!(told.field("access-control-allow-headers"), Some("Authorization, *"));
    // The page still needs a key, and learns so.
    let refused = nobody.call("GET", "/v1/models", &page, "").assert_status(401);
    assert_eq!(refused.field("access-control-allow-origin"), Some("https://chat.example.org"));
    // Nor does it learn less of a body that is refused while it is read.
    let long = [page[0], ("Content-Length", "99999999"), ("Content-Type", "application/json")];
    let refused = api.call("POST", "/v1/messages", &long, "").assert_status(413);
    assert_eq!(refused.field("access-control-allow-origin"), Some("https://chat.example.org"));
    // No other page; and no fields for who is none.
    for foreign in ["http://chat.example.org", "https://chat.example.org.evil.example", "null"] {
        for method in ["GET", "OPTIONS"] {
            let response = api.call(method, "/v1/models", &[("Origin", foreign)], "");
            assert_eq!(response.field("access-control-allow-origin"), None, "{foreign}");
            assert_eq!(code_of(response, 403), "foreign_origin", "{foreign}");
        }
    }
    assert_eq!(api.get("/v1/models").field("access-control-allow-origin"), None);
}

#[test]
fn without_a_key_known_and_unknown_paths_answer_alike() {
    let gateway = Gateway::start();
    let nobody = Api::new(gateway.address(), "");
    let alike = |told: &util::http::Response| {
        let fields = told.head.fields.iter().filter(|(name, _)| name != "date");
        (told.status(), fields.cloned().collect::<Vec<_>>(), told.text())
    };
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        let unknown = nobody.call(method, "/nothing", &[], "");
        for path in ["/v1/models", "/v1/chat/completions", "/v1/sessions/s/events", "/v1/reload"] {
            let known = nobody.call(method, path, &[], "");
            assert_eq!(alike(&known), alike(&unknown), "{method} {path}");
        }
    }
    let told = nobody.call("OPTIONS", "*", &[], "").assert_status(204);
    assert_eq!(told.field("allow"), Some("GET, HEAD, POST, DELETE"));
    assert_eq!(told.field("access-control-allow-methods"), None);
    let wrong = gateway.api().call("PUT", "/v1/models", &[], "");
    assert_eq!(wrong.field("allow"), Some("GET, HEAD"));
    assert_eq!(code_of(wrong, 405), "method_not_allowed");
    for field in
        ["x-content-type-options", "content-security-policy", "cross-origin-resource-policy"]
    {
        assert!(nobody.get("/health").field(field).is_some(), "{field}");
    }
}

#[test]
fn a_key_names_only_the_targets_of_its_list() {
    let (target, home) = (Target::start(), Home::new());
    let mut text = target.config("chat", "") + "\n" + &target.config("ops", "") + "\n";
    let more = [("alice", ""), ("bob", "targets = [\"chat\"]"), ("carol", "role = \"operator\"")];
    for (name, more) in more {
        let file = write_key(&home, name, &key(&name[..1]));
        text += &format!("[keys.{name}]\nfile = \"{file}\"\n{more}\n");
    }
    home.configure(&text);
    let gateway = home.start();
    let send =
        |api: &Api, target: &str| api.send_json("s", &json!({"text": "x", "deliver": target}));
    let (alice, bob, carol) =
        (api(&gateway, "alice"), api(&gateway, "bob"), api(&gateway, "carol"));
    // What a user may not name it does not learn about either.
    for (who, target) in [(&alice, "chat"), (&alice, "none"), (&bob, "ops"), (&bob, "none")] {
        assert_eq!(code_of(send(who, target), 403), "target_not_allowed", "{target}");
    }
    let error = send(&bob, "ops").json();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("\"ops\"") && message.contains("keys.bob.targets"), "{message}");
    assert!(message.ends_with("may: [\"chat\"]."), "{message}");
    for (who, target) in [(&bob, "chat"), (&carol, "ops"), (&gateway.api(), "chat")] {
        send(who, target).assert_status(202);
    }
    assert_eq!(code_of(send(&carol, "none"), 400), "unknown_target");
}
