//! Tickets: what a page shows in a URL in the place of a key is good for one stream of events.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use serde_json::json;

use util::api::code_of;
use util::http::Response;
use util::principals::{api, configuration};
use util::{Api, Gateway, Home};

const PAGE: &str = "https://chat.example.org";

/// A gateway for pages of two origins, with keys of alice and bob.
fn for_pages() -> Gateway {
    let home = Home::new();
    let pages = format!("[http]\nallowed_origins = [\"{PAGE}\", \"https://other.example\"]\n");
    let keys = [("alice", ""), ("bob", "sessions = [\"his\"]")];
    home.configure(&configuration(&home, &keys, &pages));
    home.launch().set("log.level", "trace").start()
}

/// A ticket for this session's events.
#[track_caller]
fn ticket(api: &Api, session: &str, fields: &[(&str, &str)]) -> String {
    let body = json!({ "session": session }).to_string();
    let told = api.call("POST", "/v1/tickets", fields, &body).assert_status(200).json();
    assert!(told["expires_at"].as_str().unwrap().ends_with('Z'), "{told}");
    told["ticket"].as_str().unwrap().to_owned()
}

/// The status of the answer to this ticket, which is the only thing that is shown.
#[track_caller]
fn opens(gateway: &Gateway, path: &str, ticket: &str, fields: &[(&str, &str)]) -> u16 {
    let nobody = Api::new(gateway.address(), "");
    nobody.begin("GET", &format!("{path}?ticket={ticket}"), fields, "").head().status
}

#[test]
fn a_ticket_opens_one_stream_of_its_session_and_nothing_else() {
    let gateway = for_pages();
    let alice = api(&gateway, "alice");
    alice.reply(&alice.accepted("a b/ü", "hello"));
    let shown = ticket(&alice, "a b/ü", &[]);
    let events = "/v1/sessions/a%20b/%C3%BC/events";
    let nobody = Api::new(gateway.address(), "");
    // Other routes do not even look at it.
    for path in ["/v1/sessions/a%20b/%C3%BC", "/v1/messages", "/v1/models", "/nothing"] {
        assert_eq!(opens(&gateway, path, &shown, &[]), 401, "{path}");
    }
    let mut stream = nobody.begin("GET", &format!("{events}?after=0&ticket={shown}"), &[], "");
    assert_eq!(stream.head().status, 200);
    let mut told = String::new();
    while !told.contains("event: done") {
        told += &String::from_utf8(stream.chunk().expect("the events from the first on")).unwrap();
    }
    assert!(told.contains("hello"), "{told}");
    let refused = nobody.get(&format!("{events}?ticket={shown}"));
    assert_eq!(refused.field("www-authenticate"), Some("Bearer"));
    assert!(!refused.text().contains(&shown), "{}", refused.text());
    assert_eq!(code_of(refused, 401), "invalid_api_key");
    let others = ticket(&alice, "s", &[]);
    assert_eq!(opens(&gateway, events, &others, &[]), 401, "a ticket of another session");
    assert_eq!(opens(&gateway, "/v1/sessions/s/events", &others, &[]), 401, "it was shown once");
    let log = gateway.stderr();
    assert!(!log.contains(&shown) && !log.contains(&others), "{log}");
}

#[test]
fn a_ticket_is_bound_to_the_page_that_asked_for_it() {
    let gateway = for_pages();
    let alice = api(&gateway, "alice");
    let (page, other) = ([("Origin", PAGE)], [("Origin", "https://other.example")]);
    let same = [("Origin", "http://localhost")];
    for (asks, comes, status) in [
        (&page[..], &page[..], 200),
        (&[], &[], 200),
        // A browser names no origin in a GET of the same one.
        (&same, &[], 200),
        (&page, &other, 401),
        (&page, &[], 401),
        (&[], &page, 401),
    ] {
        let shown = ticket(&alice, "s", asks);
        let told = opens(&gateway, "/v1/sessions/s/events", &shown, comes);
        assert_eq!(told, status, "{asks:?} {comes:?}");
    }
}

#[test]
fn a_ticket_is_revoked_with_its_key() {
    let gateway = for_pages();
    let (alice, bob) = (api(&gateway, "alice"), api(&gateway, "bob"));
    let [first, second] = [ticket(&alice, "his", &[]), ticket(&bob, "his", &[])];
    let home = gateway.home();
    home.configure(&configuration(home, &[("bob", "sessions = [\"his\"]")], ""));
    home.run(&["reload"]).assert_code(0);
    assert_eq!(opens(&gateway, "/v1/sessions/his/events", &first, &[]), 401);
    assert_eq!(opens(&gateway, "/v1/sessions/his/events", &second, &[]), 200);
}

#[test]
fn a_ticket_is_given_only_for_a_session_that_the_key_may_use() {
    let gateway = for_pages();
    let bob = api(&gateway, "bob");
    let ask = |body: &str| -> Response { bob.call("POST", "/v1/tickets", &[], body) };
    assert_eq!(code_of(ask(r#"{"session":"hers"}"#), 403), "session_not_allowed");
    assert_eq!(code_of(ask(r#"{"session":"a\nb"}"#), 400), "bad_session");
    for body in ["{}", r#"{"session":1}"#, r#"{"session":"his","for":"ever"}"#] {
        assert_eq!(code_of(ask(body), 400), "bad_request", "{body}");
    }
    let nobody = Api::new(gateway.address(), "");
    assert_eq!(nobody.post("/v1/tickets", &json!({ "session": "his" })).status(), 401);
    for query in ["after=x", "tiket=x", "ticket=%zz", "after=1&after=1"] {
        let answer = bob.get(&format!("/v1/sessions/his/events?{query}"));
        assert_eq!(code_of(answer, 400), "bad_request", "{query}");
    }
}
