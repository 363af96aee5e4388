//! The audit of `tests/storm.rs` can fail: books that are doctored do not pass it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::collections::BTreeSet;

use util::ledger::{Accepted, Delivery, Finish, Last, Ledger, read_lines, reply_to};

/// Two sessions of three messages each, all of them done at once, every second one delivered.
fn books() -> Ledger {
    let mut ledger = Ledger { kills: 1, ..Ledger::default() };
    let mut agents = String::new();
    for session in ["a", "b"] {
        for number in 0..3 {
            let (id, text) = (format!("id-{session}{number}"), format!("{session}{number}"));
            for step in ["begin", "end"] {
                agents += &format!("{step} {session} {id} 1 77 {text}\n");
            }
            let deliver = number % 2 == 0;
            if deliver {
                ledger.deliveries.push(delivery(&id, &text));
            }
            let finish = Finish { id: id.clone(), attempts: 1, agents_at: agents.len() as u64 };
            ledger.finishes.push(finish);
            ledger.keys.insert(format!("key-{text}"), BTreeSet::from([id.clone()]));
            let last = Last {
                status: "done".into(),
                reply: reply_to(&text),
                attempts: 1,
                delivery: deliver.then(|| "delivered".to_owned()),
            };
            ledger.last.insert(id.clone(), last);
            ledger.accepted.push(Accepted { session: session.into(), id, text, deliver });
        }
    }
    ledger.lines = read_lines(&agents).unwrap();
    ledger
}

fn delivery(webhook_id: &str, text: &str) -> Delivery {
    Delivery { webhook_id: webhook_id.into(), text: text.into(), body: format!("{{{text}}}") }
}

/// Exactly one complaint, and it says this.
#[track_caller]
fn finds(doctor: impl FnOnce(&mut Ledger), complaint: &str) {
    let mut ledger = books();
    doctor(&mut ledger);
    let wrong = ledger.audit();
    assert!(wrong.len() == 1 && wrong[0].contains(complaint), "{complaint}: {wrong:#?}");
}

#[test]
fn a_ledger_without_faults_passes() {
    assert_eq!(books().audit(), [""; 0]);
    assert_eq!((books().dispatched(), books().duplicates()), (6, 0));
}

#[test]
fn a_cut_attempt_and_a_repeated_delivery_are_no_fault() {
    let mut ledger = books();
    // A gateway died over the first message and left an agent with nothing to read.
    let mut cut = ledger.lines[0].clone();
    (cut.gateway, cut.text) = (1, String::new());
    for line in &mut ledger.lines[..2] {
        line.attempt = 2;
    }
    ledger.lines.insert(0, cut);
    ledger.finishes[0].attempts = 2;
    ledger.last.get_mut("id-a0").unwrap().attempts = 2;
    ledger.deliveries.push(delivery("id-a0", "a0"));
    assert_eq!(ledger.audit(), [""; 0]);
    assert_eq!(ledger.duplicates(), 1);
}

#[test]
fn a_lost_message_is_found() {
    finds(
        |ledger| {
            ledger.last.get_mut("id-a1").unwrap().status = "queued".into();
        },
        "not done: id-a1",
    );
    let mut ledger = books();
    ledger.last.remove("id-b1");
    let wrong = ledger.audit();
    assert!(wrong.iter().any(|line| line.starts_with("lost: id-b1")), "{wrong:?}");
}

#[test]
fn a_wrong_reply_is_found() {
    finds(|ledger| ledger.last.get_mut("id-a1").unwrap().reply = "re b1".into(), "not done: id-a1");
}

#[test]
fn a_swapped_order_is_found() {
    finds(
        |ledger| {
            // Two messages of one session, each with its two lines.
            let later: Vec<_> = ledger.lines.drain(..2).collect();
            ledger.lines.splice(2..2, later);
        },
        "order: a accepted id-a0 as number 1 of 3; begun was id-a1",
    );
    finds(
        |ledger| ledger.deliveries.swap(0, 1),
        "order: a accepted a0 as number 1 of 2; delivered was a2",
    );
}

#[test]
fn a_message_that_never_ran_is_found() {
    let mut ledger = books();
    ledger.lines.drain(4..6);
    let wrong = ledger.audit();
    assert!(wrong.iter().any(|line| line.contains("which nobody ran")), "{wrong:?}");
    assert!(wrong.iter().any(|line| line.starts_with("order: a")), "{wrong:?}");
}

#[test]
fn a_second_dispatch_after_an_acknowledged_completion_is_found() {
    finds(
        |ledger| {
            let mut again = ledger.lines[0].clone();
            (again.at, again.attempt, again.gateway) = (1_000_000, 2, 78);
            ledger.lines.push(again);
        },
        "begun again after its completion",
    );
    // The same attempt, once more.
    let mut ledger = books();
    let mut again = ledger.lines[0].clone();
    (again.at, again.gateway) = (1_000_000, 78);
    ledger.lines.push(again);
    let wrong = ledger.audit();
    assert!(wrong.iter().any(|line| line.contains("was begun twice")), "{wrong:?}");
    assert!(wrong.iter().any(|line| line.contains("after its completion")), "{wrong:?}");
}

#[test]
fn a_completion_that_is_forgotten_is_found() {
    finds(
        |ledger| {
            // Told as done with attempt 1; in the end it was attempt 2 that nobody saw begin.
            ledger.last.get_mut("id-b2").unwrap().attempts = 2;
        },
        "was done with attempt 1 and then",
    );
}

#[test]
fn an_attempt_that_was_begun_twice_is_found() {
    let mut ledger = books();
    ledger.finishes.clear();
    let mut again = ledger.lines[0].clone();
    again.gateway = 78;
    ledger.lines.insert(1, again);
    let wrong = ledger.audit();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0].contains("attempt 1 of id-a0 was begun twice"), "{wrong:?}");
}

#[test]
fn a_key_with_two_messages_is_found() {
    finds(
        |ledger| {
            ledger.keys.get_mut("key-a1").unwrap().insert("id-x".into());
        },
        "key key-a1 was answered with",
    );
    finds(
        |ledger| {
            ledger.keys.insert("key-new".into(), BTreeSet::from(["id-a1".into()]));
        },
        "belongs to two keys",
    );
}

#[test]
fn two_turns_at_once_in_a_session_are_found() {
    finds(|ledger| ledger.lines.swap(1, 2), "two turns at once");
}

#[test]
fn a_message_in_strange_hands_is_found() {
    let invents = |ledger: &mut Ledger| {
        let mut strange = ledger.lines[0].clone();
        (strange.id, strange.session) = ("id-x".into(), "c".into());
        ledger.lines.push(strange);
    };
    finds(invents, "invented");
    finds(|ledger| ledger.lines[0].text = "b1".into(), "mixed up");
    finds(|ledger| ledger.lines[0].text = String::new(), "mixed up");
}

#[test]
fn what_is_wrong_with_deliveries_is_found() {
    finds(
        |ledger| {
            ledger.kills = 0;
            ledger.deliveries.push(delivery("id-a0", "a0"));
        },
        "1 duplicates after 0 kills",
    );
    finds(|ledger| ledger.deliveries.push(delivery("id-new", "a0")), "a repeat that differs");
    finds(
        |ledger| {
            let mut repeat = delivery("id-a0", "a0");
            repeat.body = "{other}".into();
            ledger.deliveries.push(repeat);
        },
        "a repeat that differs",
    );
    finds(|ledger| ledger.deliveries.push(delivery("id-a1", "a1")), "nobody wanted the delivery");
    finds(|ledger| drop(ledger.deliveries.pop()), "delivered was nothing there");
    finds(
        |ledger| ledger.last.get_mut("id-a0").unwrap().delivery = Some("dead".into()),
        "not delivered: id-a0",
    );
    let mut ledger = books();
    ledger.deliveries[1].webhook_id = "id-a0".into();
    let wrong = ledger.audit();
    assert!(wrong.iter().any(|line| line.contains("one id for two deliveries")), "{wrong:?}");
}

#[test]
fn a_torn_line_is_no_line() {
    assert!(read_lines("begin a id 1 77 x\nbeg").is_err());
    assert!(read_lines("begin a id 1 77\n").is_err());
    assert_eq!(read_lines("end a id 12 77 \n").unwrap()[0].attempt, 12);
}
