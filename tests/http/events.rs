//! The stream of a session's events: everything in order, with numbers that hold across restarts,
//! so that who comes back misses nothing and sees nothing twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use util::api::{Event, id_of};
use util::{DEADLINE, Gate, Gateway, Home, Target, script};

/// The records of a session, as `journal dump` shows them: numbers and JSON.
#[track_caller]
fn records(home: &Home, ids: &BTreeSet<String>) -> Vec<(u64, Value)> {
    let dump = home.run(&["journal", "dump"]).assert_code(0).stdout;
    let records = dump.lines().map(|line| {
        // A number somewhere in front of the JSON.
        let (front, _) = line.split_once('{').unwrap_or_else(|| panic!("no record: {line}"));
        let number = front.split_whitespace().last().and_then(|word| word.parse().ok());
        let json = serde_json::from_str(&line[front.len()..]);
        (number.unwrap_or_default(), json.unwrap_or_else(|e| panic!("{e}: {line}")))
    });
    let ours = |record: &Value| record["id"].as_str().is_some_and(|id| ids.contains(id));
    records.filter(|(_, record)| ours(record)).collect()
}

/// What an event and its record have in common.
fn essence(kind: &str, data: &Value) -> (String, Value, Value, Value) {
    let part = |name: &str| data[name].clone();
    (
        kind.to_owned(),
        part("id"),
        part("n"),
        part(if kind == "accepted" { "text" } else { "reply" }),
    )
}

/// Fails the test unless these events are these records, each once and in order.
#[track_caller]
fn assert_same(events: &[Event], records: &[(u64, Value)]) {
    let told: Vec<_> = events.iter().map(|e| (e.id.unwrap(), essence(&e.kind, &e.data))).collect();
    let written: Vec<_> = records
        .iter()
        .map(|(number, record)| (*number, essence(record["t"].as_str().unwrap(), record)))
        .collect();
    assert_eq!(told, written);
}

#[test]
fn a_message_is_told_from_its_acceptance_to_its_delivery() {
    let (home, target) = (Home::new(), Target::start());
    home.configure(&target.config("out", ""));
    let gateway = home.start();
    let api = gateway.api();
    let mut events = api.events("s", None);
    api.reply(&api.accepted("another", "not here"));
    let body = json!({"text": "hello", "deliver": "out"});
    let id = id_of(&api.send_json("s", &body).assert_status(202).json());
    let told = events.records_until("delivered");
    let kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["accepted", "started", "done", "sending", "delivered"]);
    for event in &told {
        assert_eq!(
            (&event.data["t"], &event.data["id"]),
            (&event.kind.clone().into(), &id.clone().into())
        );
        assert!(event.data["at"].is_u64(), "{event:?}");
    }
    assert!(told.is_sorted_by_key(|event| event.id.unwrap()), "{told:?}");
    assert_eq!(told[0].data["text"], "hello");
    assert_eq!(told[2].data["reply"], "hello");
    assert_same(&told, &records(&home, &BTreeSet::from([id])));
}

#[test]
fn a_reply_is_told_while_it_comes() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&script(&format!("printf 'fürst '; {}; printf last", gate.wait())));
    let gateway = home.start();
    let mut events = gateway.api().events("s", None);
    let id = gateway.api().accepted("s", "x");
    let mut reply = String::new();
    let mut piece = |event: &Event| {
        assert_eq!((&event.id, &event.data["id"]), (&None, &id.clone().into()), "{event:?}");
        assert_eq!(event.data["offset"], reply.len(), "{event:?}");
        assert_eq!(event.data["attempt"], 1);
        reply += event.data["text"].as_str().unwrap();
        reply.clone()
    };
    loop {
        let event = events.next_event().unwrap();
        if event.kind == "delta" && piece(&event) == "fürst " {
            break;
        }
        assert_ne!(event.kind, "done");
    }
    gate.open();
    loop {
        let event = events.next_event().unwrap();
        match event.kind.as_str() {
            "delta" => drop(piece(&event)),
            "done" => {
                assert_eq!(event.data["reply"], "fürst last");
                break;
            }
            kind => panic!("{kind}: {event:?}"),
        }
    }
    assert!("fürst last".starts_with(&reply), "{reply}");
}

/// The gateway says that a kill has cut a turn short: a message of its own.
fn note(event: &Event, ids: &mut BTreeSet<String>) {
    if event.data["mode"] == "notice" {
        ids.insert(event.data["id"].as_str().unwrap().to_owned());
    }
}

#[test]
fn who_comes_back_misses_nothing_and_sees_nothing_twice() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let text = format!(
        "text=$(cat); [ $text != wait ] || [ $HERMES_ATTEMPT -gt 1 ] || {}; echo $text",
        gate.wait()
    );
    home.configure(&script(&text));
    let mut gateway = home.start();
    let mut told: Vec<Event> = Vec::new();
    let mut ids = BTreeSet::new();
    // From the beginning, although nothing has happened yet.
    let mut last = 0;
    for round in 0..4 {
        let api = gateway.api();
        ids.insert(api.accepted("s", &format!("m{round}")));
        let waits = api.accepted("s", "wait");
        ids.insert(waits.clone());
        api.until(&waits, "its turn", |message| message["status"] == "running");
        api.reply(&api.accepted("noise", "x"));
        let mut events = api.events("s", Some(last));
        // Up to the first attempt of what waits now, and then the gateway dies.
        loop {
            let event = events.next_record();
            let begun = event.kind == "started" && event.data["id"] == waits;
            note(&event, &mut ids);
            last = event.id.unwrap();
            told.push(event);
            if begun {
                break;
            }
        }
        gateway = gateway.reborn_after(libc::SIGKILL);
        gateway.api().reply(&waits);
    }
    let end = gateway.api().accepted("s", "end");
    ids.insert(end.clone());
    let mut events = gateway.api().events("s", Some(last));
    loop {
        let event = events.next_record();
        let over = event.kind == "done" && event.data["id"] == end;
        note(&event, &mut ids);
        told.push(event);
        if over {
            break;
        }
    }
    assert_same(&told, &records(&home, &ids));
    // And all at once, for who knows nothing yet.
    let mut events = gateway.api().events("s", Some(0));
    let again: Vec<Event> = told.iter().map(|_| events.next_record()).collect();
    assert_eq!(again, told);
    // From the middle.
    let middle = told.len() / 2;
    let mut events = gateway.api().events("s", told[middle - 1].id);
    assert_eq!(events.next_record(), told[middle]);
}

#[test]
fn without_last_event_id_a_stream_has_only_new_events() {
    let gateway = Gateway::start();
    let api = gateway.api();
    api.reply(&api.accepted("s", "before"));
    let mut events = api.events("s", None);
    let id = api.accepted("s", "after");
    let event = events.next_record();
    assert_eq!((event.kind.as_str(), &event.data["id"]), ("accepted", &id.into()));
}

#[test]
fn failures_retries_and_resets_are_told() {
    let home = Home::new();
    let agent = script("read -r how; echo words >&2; exit $how");
    home.configure(&(agent + "retry_for = \"100ms\"\n"));
    let gateway = home.start();
    let api = gateway.api();
    let mut events = api.events("s", None);
    let kinds =
        |events: &[Event]| -> Vec<String> { events.iter().map(|e| e.kind.clone()).collect() };
    api.accepted("s", "3\n");
    let told = events.records_until("failed");
    assert_eq!(kinds(&told), ["accepted", "started", "failed"]);
    assert!(told[2].data["error"].as_str().unwrap().contains("words"), "{told:?}");
    api.accepted("s", "75\n");
    let told = events.records_until("failed");
    assert_eq!(kinds(&told), ["accepted", "started", "retry", "started", "failed"]);
    assert_eq!((&told[1].data["n"], &told[3].data["n"]), (&1.into(), &2.into()));
    api.delete("/v1/sessions/s").assert_status(200);
    let told = events.records_until("reset");
    assert_eq!(told.last().unwrap().data["session"], "s");
}

#[test]
fn nothing_secret_is_told() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let mut events = api.events("s", None);
    api.send_keyed("s", "my-secret-key", "x").assert_status(202);
    for event in events.records_until("done") {
        let data = event.data.to_string();
        assert!(event.data.get("key").is_none() && event.data.get("body").is_none(), "{data}");
        assert!(!data.contains("my-secret-key") && !data.contains(&gateway.home().api_key()));
    }
    let dump = gateway.home().run(&["journal", "dump"]).assert_code(0).stdout;
    assert!(!dump.contains("my-secret-key"), "{dump}");
}

#[test]
fn a_stream_ends_with_the_gateway() {
    let gateway = Gateway::start();
    let mut events = gateway.api().events("s", None);
    let id = gateway.api().accepted("s", "x");
    assert_eq!(events.records_until("done").last().unwrap().data["id"], id);
    gateway.signal(libc::SIGTERM);
    assert_eq!(events.next_event(), None);
    gateway.wait_for_exit(DEADLINE);
}
