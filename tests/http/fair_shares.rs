//! No principal holds more than its share of what all use, as long as others want some: connections, the
//! queue, turns, the journal, results, a target's line, dead letters. Whose limit it was is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};

use util::http::Connection;
use util::principals::{alice_and_bob, api, at_once, first_words, launch, offer, until_quiet};
use util::{Gate, Gateway, Home, Target, eventually, script};

/// What a rejection says of whose limit it was: alice's share of this key of the configuration.
#[track_caller]
fn names_alice(text: &str, key: &str) {
    let is_told = text.contains("alice") && text.contains(key) && text.contains("share_reached");
    assert!(is_told, "no alice, share_reached and {key} in: {text}");
}

/// Opens connections as alice until none is taken any more; what the rejection said, if there was one.
fn fill_connections(
    gateway: &Gateway,
    most: usize,
    line: &str,
) -> (Vec<TcpStream>, Option<(u16, String)>) {
    let mut open = Vec::new();
    for _ in 0..most {
        let Some(mut stream) = offer(gateway, "alice", line, &[], "") else { continue };
        match first_words(&mut stream) {
            Some((200, _)) => open.push(stream),
            Some(rejected) => return (open, Some(rejected)),
            None => {}
        }
    }
    (open, None)
}

/// Bob, the owner and whoever asks for the health find room, on connections of their own.
#[track_caller]
fn others_are_served(gateway: &Gateway) {
    for _ in 0..3 {
        api(gateway, "bob").get("/v1/models").assert_status(200);
        api(gateway, "owner").get("/v1/models").assert_status(200);
        for path in ["/health", "/ready"] {
            Connection::tcp(gateway.address()).get(path, &[]).assert_status(200);
        }
        gateway.status();
    }
}

#[test]
fn event_streams_of_one_principal_leave_connections_to_all_others() {
    let gateway = alice_and_bob("").set("limits.max_connections", "40").start();
    let alice = api(&gateway, "alice");
    alice.reply(&alice.accepted("s", "hi"));
    let (open, rejected) = fill_connections(&gateway, 80, "GET /v1/sessions/s/events");
    others_are_served(&gateway);
    assert!((10..=30).contains(&open.len()), "{} of 40", open.len());
    let (status, text) = rejected.expect("a rejection of what is beyond the share");
    assert_eq!(status, 503, "{text}");
    names_alice(&text, "limits.max_connections");
}

#[test]
fn idle_connections_of_one_principal_make_way_for_its_own_and_for_others() {
    let gateway = alice_and_bob("").set("limits.max_connections", "40").start();
    let (open, rejected) = fill_connections(&gateway, 120, "GET /v1/models");
    assert!(rejected.is_none(), "an idle one of hers goes for a new one: {rejected:?}");
    others_are_served(&gateway);
    // Whatever is left of hers, bob may have his share beside it.
    let bobs: Vec<_> = (0..8)
        .filter_map(|_| {
            let mut stream = offer(&gateway, "bob", "GET /v1/models", &[], "")?;
            (first_words(&mut stream)?.0 == 200).then_some(stream)
        })
        .collect();
    assert_eq!(bobs.len(), 8);
    drop(open);
}

/// A gateway whose turns wait at the gate, with room for a hundred messages.
fn waiting() -> (Gate, Gateway) {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let keys = [("alice", ""), ("bob", "")];
    home.configure(&util::principals::configuration(&home, &keys, &gate.agent()));
    let launch = home.launch().set("limits.max_queue", "100");
    (gate, launch.set("limits.max_queue_per_session", "100").start())
}

#[test]
fn messages_of_one_principal_fill_no_more_than_its_share_of_the_queue() {
    let (gate, gateway) = waiting();
    let alice = api(&gateway, "alice");
    let refused = (0..200).map(|n| alice.send(&format!("s{}", n / 10), "x"));
    let refused: Vec<_> = refused.filter(|answer| answer.status() != 202).collect();
    for other in ["bob", "owner"] {
        for number in 0..10 {
            api(&gateway, other).send(&format!("s{number}"), "x").assert_status(202);
        }
    }
    assert!((120..180).contains(&refused.len()), "{} of 200 refused", refused.len());
    assert_eq!(refused[0].status(), 429);
    names_alice(&refused[0].text(), "limits.max_queue");
    assert!(refused[0].field("retry-after").is_some(), "{:?}", refused[0].head);
    gate.open();
    until_quiet(&gateway);
    alice.send("s", "x").assert_status(202);
}

#[test]
fn chats_of_one_principal_fill_no_more_than_its_share_of_the_queue() {
    let (gate, gateway) = waiting();
    let chat = util::http::chat("x", false);
    let mut chats: Vec<_> = (0..150)
        .filter_map(|_| offer(&gateway, "alice", "POST /v1/chat/completions", &[], &chat))
        .collect();
    // Those beyond the limit are answered at once: then all that may wait do.
    let has_answer = |chat: &&TcpStream| {
        chat.set_nonblocking(true).unwrap();
        let is_there = chat.peek(&mut [0]).is_ok();
        chat.set_nonblocking(false).unwrap();
        is_there
    };
    eventually("what is beyond the limit is answered", || {
        (chats.iter().filter(has_answer).count() >= 40).then_some(())
    });
    let told = chats.iter_mut().filter(|chat| has_answer(&&**chat)).filter_map(first_words);
    let told: Vec<_> = told.collect();
    assert!(told.iter().all(|(status, _)| *status == 429), "{told:?}");
    let mut bobs = offer(&gateway, "bob", "POST /v1/chat/completions", &[], &chat).unwrap();
    api(&gateway, "bob").send("s", "x").assert_status(202);
    api(&gateway, "owner").send("s", "x").assert_status(202);
    names_alice(&told[0].1, "limits.max_queue");
    gate.open();
    assert_eq!(first_words(&mut bobs).unwrap().0, 200);
}

#[test]
fn a_principal_with_many_sessions_that_wait_takes_its_turns_in_turns_with_others() {
    let home = Home::new();
    let (order, gate) = (home.path().join("order"), Gate::closed(home.path()));
    let agent = format!("{}; echo $HERMES_PRINCIPAL >> {}; cat", gate.wait(), order.display());
    let keys = [("alice", ""), ("bob", "")];
    home.configure(&util::principals::configuration(&home, &keys, &script(&agent)));
    let gateway = home.launch().set("limits.max_turns", "2").start();
    for number in 0..200 {
        api(&gateway, "alice").accepted(&format!("s{number}"), "x");
    }
    for other in ["bob", "owner"] {
        for number in 0..3 {
            api(&gateway, other).accepted(&format!("s{number}"), "x");
        }
    }
    gate.open();
    until_quiet(&gateway);
    let order = fs::read_to_string(&order).unwrap();
    for other in ["bob", "owner"] {
        let last =
            order.lines().collect::<Vec<_>>().iter().rposition(|line| *line == other).unwrap();
        assert!(last < 20, "{other} waits for {last} turns: {order}");
    }
}

#[test]
fn keyed_messages_of_one_principal_fill_no_more_than_its_share_of_the_journal() {
    let gateway = alice_and_bob("").set("limits.max_journal", "4MiB").start();
    let alice = api(&gateway, "alice");
    let text = "x".repeat(60_000);
    let mut refused = None;
    for number in 0..200 {
        let answer = alice.send_keyed("s", &format!("k{number}"), &text);
        if answer.status() == 507 {
            refused = Some(answer.text());
            break;
        }
        // What waits for a moment is not the journal's.
        until_quiet(&gateway);
    }
    let refused = refused.expect("her share of the journal has an end");
    for other in ["bob", "owner"] {
        for number in 0..3 {
            let answer = api(&gateway, other).send_keyed("s", &format!("k{number}"), &text);
            answer.assert_status(202);
        }
    }
    names_alice(&refused, "limits.max_journal");
    Connection::tcp(gateway.address()).get("/health", &[]).assert_status(200);
}

#[test]
fn replies_of_one_principal_count_against_its_share_of_the_journal() {
    let agent = script("head -c 4000000 /dev/zero | tr '\\0' x");
    let gateway = alice_and_bob(&agent)
        .set("limits.max_journal", "16MiB")
        .set("limits.max_turns", "1")
        .start();
    let alice = api(&gateway, "alice");
    let mut taken = 0;
    for number in 0..12 {
        taken += usize::from(alice.send_keyed("s", &format!("k{number}"), "x").status() == 202);
        until_quiet(&gateway);
    }
    let size = gateway.home().journal_text().len();
    assert!(taken < 5 && size <= 20 << 20, "{taken} messages, {size} bytes of 16 MiB");
    let bob = api(&gateway, "bob");
    assert_eq!(bob.reply(&bob.accepted("s", "x")).len(), 4_000_000);
}

#[test]
fn results_of_one_principal_push_out_its_own_first() {
    let gateway = alice_and_bob("").set("limits.keep_results", "100").start();
    let store = |name: &str| {
        let answer = api(&gateway, name).post("/v1/responses", &json!({ "input": name }));
        answer.assert_status(200).json()["id"].as_str().unwrap().to_owned()
    };
    let kept = [("bob", store("bob")), ("owner", store("owner"))];
    at_once(4, |_| (0..100).for_each(|_| drop(store("alice"))));
    let last = store("alice");
    for (name, id) in kept.iter().map(|(name, id)| (*name, id)).chain([("alice", &last)]) {
        let answer = api(&gateway, name).get(&format!("/v1/responses/{id}"));
        assert_eq!(answer.status(), 200, "{name}'s response: {}", answer.text());
    }
}

const OPERATORS: [(&str, &str); 2] =
    [("alice", "role = \"operator\""), ("bob", "role = \"operator\"")];

#[test]
fn deliveries_of_one_principal_hold_up_no_other_that_goes_to_the_same_target() {
    let is_open = Arc::new((Mutex::new(false), Condvar::new()));
    let door = Arc::clone(&is_open);
    let target = Target::answering(move |_, _| {
        let open = door.0.lock().unwrap();
        drop(door.1.wait_while(open, |open| !*open).unwrap());
        204.into()
    });
    let gateway = launch(&OPERATORS, &target.config("hook", "")).start();
    let ids: Vec<_> = (0..150)
        .map(|n| api(&gateway, "alice").deliver(&format!("s{n}"), "alice's", "hook"))
        .collect();
    ids.iter().for_each(|id| drop(api(&gateway, "alice").finished(id)));
    target.wait_for(1);
    for other in ["bob", "owner"] {
        api(&gateway, other).reply(&api(&gateway, other).deliver("s", other, "hook"));
    }
    *is_open.0.lock().unwrap() = true;
    is_open.1.notify_all();
    let received = target.wait_for(152);
    for other in ["bob", "owner"] {
        let is_others = |body: &Vec<u8>| String::from_utf8_lossy(body).contains(other);
        let at = received.iter().position(|received| is_others(&received.body)).unwrap();
        assert!(at < 10, "{other}'s is the {at}th delivery");
    }
}

#[test]
fn dead_letters_of_one_principal_hide_none_of_another() {
    let target = Target::answering(|_, _| 400.into());
    let launch = launch(&OPERATORS, &target.config("hook", ""));
    let gateway = launch.set("limits.max_queue", "2000").start();
    let letters = |name: &str| {
        let listed = api(&gateway, name).get("/v1/dead-letters").assert_status(200).text();
        listed.matches("\"message_id\"").count().max(listed.matches("\"target\"").count())
    };
    let alice = api(&gateway, "alice");
    let id = alice.deliver("s", "hers", "hook");
    alice.finished(&id);
    eventually("her dead letter", || (letters("alice") == 1).then_some(()));
    at_once(8, |number| {
        for _ in 0..130 {
            api(&gateway, "bob").deliver(&format!("s{number}"), "his", "hook");
            // No more of his than may wait in a session.
            until_taken(&gateway, number);
        }
    });
    target.wait_for(1041);
    until_quiet(&gateway);
    alice.finished(&alice.deliver("s", "hers", "hook"));
    target.wait_for(1042);
    until_quiet(&gateway);
    eventually("both of her dead letters", || (letters("alice") == 2).then_some(()));
    let retried = alice.call("POST", &format!("/v1/dead-letters/{id}/retry"), &[], "");
    assert!(retried.status() < 300, "{} {}", retried.status(), retried.text());
}

/// Waits until bob's session has room again.
fn until_taken(gateway: &Gateway, number: usize) {
    eventually("room in the session", || {
        let told = api(gateway, "bob").get(&format!("/v1/sessions/s{number}")).json();
        told["queued"].as_u64().is_none_or(|queued| queued < 20).then_some(())
    });
}

#[test]
fn what_each_principal_uses_is_in_the_status() {
    let (gate, gateway) = waiting();
    let stream = api(&gateway, "alice");
    for number in 0..5 {
        stream.accepted(&format!("s{number}"), "x");
    }
    let _events = stream.events("s0", None);
    api(&gateway, "bob").accepted("s", "x");
    let of = |status: &Value, name: &str| {
        let all = status["principals"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["name"] == name).unwrap_or_default()
    };
    let status = gateway.status();
    let alices = of(&status, "alice");
    assert_eq!(alices["connections"], 1, "{status}");
    assert!(alices["journal_bytes"].as_u64().is_some_and(|bytes| bytes > 100), "{status}");
    // Four turns run at once; whoever runs does not wait.
    let waits = |name: &str| of(&status, name)["queued"].as_u64().unwrap_or(99);
    assert!((1..=5).contains(&waits("alice")) && waits("bob") <= 1, "{status}");
    let shown = gateway.home().run(&["status"]).assert_code(0).stdout;
    assert!(shown.contains("alice") && shown.contains("bob"), "{shown}");
    gate.open();
}
