//! A journal that refuses or breaks at its N-th call: what was acknowledged is there and finishes,
//! and nothing hangs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::config::Target;
use crate::session::commands::Command;
use crate::session::delivery_queue::DeliveryQueues;
use crate::session::reply::MAX_RECENT_RECORD;

/// A target that takes everything.
fn target() -> Target {
    let command = vec!["true".to_owned()];
    Target { command, ..Target::new("out") }
}

/// A text that is too long to be handed on from one step of its message to the next.
fn read_back_text(begin: &str) -> String {
    format!("{begin}{}", "x".repeat(MAX_RECENT_RECORD))
}

/// What senders were told.
fn senders(house: &House) -> Vec<Id> {
    let told: Mutex<Vec<Id>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for session in ["a", "b", ""] {
            let (told, house) = (&told, house);
            scope.spawn(move || {
                for at in 0..3 {
                    let mut draft = draft(session, &format!("{session}{at}"));
                    draft.deliver = (at == 1).then(|| "out".to_owned());
                    match house.hub.submit(draft) {
                        Ok(Submitted::New { id, .. }) => {
                            let durable = house.journal.durable();
                            let text = id.to_string();
                            let there = durable
                                .iter()
                                .any(|(_, json)| json.contains(&text) && json.contains("accepted"));
                            assert!(there, "{id} was acknowledged and is not durable");
                            told.lock().unwrap().push(id);
                        }
                        Ok(Submitted::Known(id)) => panic!("{id} has no key"),
                        Err(Refusal::Journal(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    told.into_inner().unwrap()
}

/// Carries one plan out.
fn with(fault: Fault) {
    let dir = TempDir::new("hub");
    let mut config = config(&dir, None);
    config.limits.max_turns = 2;
    config.deliver.insert("out".to_owned(), target());
    let house = House::open(dir, Testing::failing(fault), &config);
    let told = senders(&house);
    let sticky = matches!(fault, Fault::Broken(_) | Fault::Sync(_));
    if !sticky {
        assert!(!house.hub.is_broken());
        for id in &told {
            assert_eq!(house.wait(*id).entry.turn, TurnState::Done, "{fault:?}");
        }
        house.until("all is delivered", || house.counts().outbox == 0);
        let ends = house.audit();
        assert!(told.iter().all(|id| ends[id] == TurnState::Done), "{fault:?}");
        // What was refused left nothing that could wake up later.
        assert_eq!(ends.len(), house.counts().kept, "{fault:?}");
        assert_eq!(house.counts().kept, told.len(), "{fault:?}");
        return;
    }
    house.until("all is done, or it is known to be broken", || {
        let counts = house.counts();
        house.hub.is_broken() || counts.queued + counts.running + counts.outbox == 0
    });
    if house.hub.is_broken() {
        poll(&mut [Interest::read(house.quiet.as_fd())], Some(PATIENCE)).unwrap();
        assert!(house.quiet.clear(), "the main thread is told");
        assert!(house.hub.submit(draft("a", "late")).is_err());
    }
    house.hub.drain();
    house.hub.abort.notify();
    house.until_idle();
    // What a power cut leaves is enough for the next process.
    let durable = house.journal.durable();
    audit(&durable);
    let next = House::open(TempDir::new("hub"), Testing::of(&durable), &config);
    for id in &told {
        assert_eq!(next.wait(*id).entry.turn, TurnState::Done, "{fault:?}");
    }
    next.until("all is delivered", || next.counts().outbox == 0);
    next.audit();
}

fn sweep(faults: &[Fault]) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let take = || usize::try_from(next.fetch_add(1, Ordering::SeqCst)).unwrap();
                while let Some(fault) = faults.get(take()) {
                    with(*fault);
                }
            });
        }
    });
}

#[test]
fn an_append_that_has_no_room_costs_nothing_that_was_acknowledged() {
    sweep(&(1..=36).map(|n| Fault::Full(n, 0)).collect::<Vec<_>>());
}

#[test]
fn appends_that_the_disk_refuses_cost_nothing_that_was_acknowledged() {
    sweep(&(1..=36).map(|n| Fault::Unavailable(n, n % 4)).collect::<Vec<_>>());
}

#[test]
fn a_journal_that_breaks_keeps_what_was_acknowledged() {
    sweep(&(1..=36).map(Fault::Broken).collect::<Vec<_>>());
}

#[test]
fn a_sync_that_fails_keeps_what_was_acknowledged() {
    sweep(&(1..=30).map(Fault::Sync).collect::<Vec<_>>());
}

/// The answer to a command is two records; where the second is refused it gets its end all the same.
#[test]
fn an_answer_that_cannot_be_written_is_a_turn() {
    let house =
        House::open(TempDir::new("hub"), Testing::failing(Fault::Full(2, 0)), &Config::default());
    let Ok(Submitted::New { id, .. }) = house.hub.command(Command::Help, draft("s", "/help"))
    else {
        panic!("it was not taken");
    };
    let over = house.hub.wait(id, house.client.0.as_fd(), Duration::from_secs(3)).unwrap();
    assert!(over, "nobody begins it: {:?}", house.turn(id));
    house.audit();
}

#[test]
fn a_command_is_answered_without_a_turn() {
    let house = House::new(None);
    let answered = house.hub.command(Command::Help, keyed("s", "/help", 3)).unwrap();
    let Submitted::New { id, position: 0, interrupted: None } = answered else {
        panic!("{answered:?}");
    };
    let message = house.message(id);
    assert_eq!((message.entry.turn, message.entry.attempts), (TurnState::Done, 0));
    assert!(message.reply.is_some_and(|reply| reply.contains("/whoami")));
    let again = house.hub.command(Command::Help, keyed("s", "/help", 3));
    assert_eq!(again, Ok(Submitted::Known(id)));
    let next = house.send("s", "x");
    house.wait(next);
    assert_eq!(house.said("s"), [next]);
    house.audit();
}

/// An end that cannot be read for the moment is not what a target is told of.
fn not_delivered_unread(end: Step) {
    let dir = TempDir::new("hub");
    let mut config = config(&dir, None);
    config.deliver.insert("out".to_owned(), target());
    let id = Id::after(None, [0; 10]);
    let at = crate::session::time::now();
    let accepted = crate::journal::record::Accepted {
        id: id.to_string(),
        at: at.into(),
        principal: "owner".to_owned(),
        text: "text".to_owned(),
        deliver: Some("out".to_owned()),
        ..Default::default()
    };
    let end = Record::step(id, 1, at, end);
    let word = if end.word() == "done" { "\"done\"" } else { "\"failed\"" };
    let accepted = Record::Accepted(Box::new(accepted));
    let records = [accepted, Record::step(id, 1, at, Step::Started), end];
    let records: Vec<(u64, String)> = (1..).zip(records.map(|record| record.to_json())).collect();
    let house = House::closed(dir, Testing::of(&records), &config);
    *house.journal.unreadable.lock().unwrap() = Some((word, std::io::ErrorKind::Other));
    house.hub.open();
    let sent = |word: &str| {
        let text = id.to_string();
        house.journal.all().iter().any(|(_, json)| json.contains(word) && json.contains(&text))
    };
    house.until("it is put off", || {
        let later = Instant::now() + Duration::from_secs(1);
        house.hub.lock().deliveries.next_due(Instant::now()).is_some_and(|due| due > later)
    });
    assert!(!sent("\"sending\""), "something else than the reply was sent");
}

#[test]
fn a_reply_that_cannot_be_read_is_not_delivered() {
    not_delivered_unread(Step::Done("text".to_owned(), None));
}

#[test]
fn a_failure_that_cannot_be_read_is_not_delivered() {
    not_delivered_unread(Step::Failed("why".to_owned(), None));
}

/// What its own steps have just written is not read again.
#[test]
fn a_message_is_run_answered_and_delivered_without_a_look_into_the_journal() {
    let dir = TempDir::new("hub");
    let mut config = config(&dir, None);
    config.deliver.insert("out".to_owned(), target());
    let house = House::open(dir, Testing::new(), &config);
    *house.journal.unreadable.lock().unwrap() = Some(("text", std::io::ErrorKind::Other));
    let draft = Draft { deliver: Some("out".to_owned()), ..draft("s", "text") };
    let Ok(Submitted::New { id, .. }) = house.hub.submit(draft) else { panic!("not taken") };
    house.until("it is delivered", || {
        let state = house.hub.lock();
        let delivery = state.table.get(id).unwrap().delivery_state();
        delivery == Some(super::super::states::DeliveryState::Delivered)
    });
    assert_eq!(house.said("s"), [id]);
}

/// A place of the disk that cannot be read keeps no place of a turn from others, and nothing is lost
/// where it can be read again.
#[test]
fn a_message_that_cannot_be_read_for_a_while_waits_without_a_place() {
    let dir = TempDir::new("hub");
    let mut config = config(&dir, None);
    config.limits.max_turns = 1;
    let house = House::closed(dir, Testing::new(), &config);
    let bad = Some((r#""text":"first""#, std::io::ErrorKind::Other));
    *house.journal.unreadable.lock().unwrap() = bad;
    let (first, second) = (house.send("s", "first"), house.send("t", "second"));
    house.hub.open();
    assert_eq!(house.wait(second).entry.turn, TurnState::Done);
    assert!(!house.message(first).entry.turn.is_over());
    *house.journal.unreadable.lock().unwrap() = None;
    let first = house.wait(first);
    assert_eq!((first.entry.turn, first.reply.as_deref()), (TurnState::Done, Some("first")));
}

/// Damage in a record costs the message that it belongs to, and holds up no other.
#[test]
fn a_damaged_reply_becomes_a_dead_letter_and_the_next_is_sent() {
    let dir = TempDir::new("hub");
    let mut config = config(&dir, None);
    config.deliver.insert("out".to_owned(), target());
    let house = House::open(dir, Testing::new(), &config);
    let damaged = Some((r#""reply":"first"#, std::io::ErrorKind::InvalidData));
    *house.journal.unreadable.lock().unwrap() = damaged;
    let send = |text: &str| {
        let draft = Draft { deliver: Some("out".to_owned()), ..draft("s", text) };
        let Ok(Submitted::New { id, .. }) = house.hub.submit(draft) else { panic!("not taken") };
        id
    };
    let (first, second) = (send(&read_back_text("first")), send("second"));
    house.wait(first);
    house.wait(second);
    house.until("both are over", || house.counts().outbox == 0);
    let delivery = |id| house.message(id).entry.delivery.unwrap();
    assert_eq!(delivery(second).state, Some(super::super::states::DeliveryState::Delivered));
    assert_eq!(delivery(first).state, Some(super::super::states::DeliveryState::Dead));
    assert!(house.message(first).delivery_error.unwrap().contains("cannot be read back"));
    assert!(house.message(first).error.unwrap().contains("cannot be read"));
}

#[test]
fn what_builds_upon_a_damaged_message_fails_in_words() {
    let house = House::new(None);
    let first = house.send("", &read_back_text("first"));
    house.wait(first);
    let damaged = Some((r#""reply":"first"#, std::io::ErrorKind::InvalidData));
    *house.journal.unreadable.lock().unwrap() = damaged;
    let context = Some(format!(r#"{{"previous":"{first}"}}"#));
    let next = Draft { context, ..draft("", "next") };
    let Ok(Submitted::New { id, .. }) = house.hub.submit(next) else { panic!("not taken") };
    let next = house.wait(id);
    assert_eq!(next.entry.turn, TurnState::Failed);
    assert!(next.error.unwrap().contains("builds upon is not known any more, or damaged"));
}

/// `journal retry` of a letter that is older than its target's `expire`.
#[test]
fn a_revived_letter_is_tried_again_however_old_it_is() {
    let dir = TempDir::new("hub");
    let mut config = config(&dir, None);
    config.deliver.insert("out".to_owned(), target());
    let id = Id::after(None, [0; 10]);
    let (old, two_days) = (1_795_000_000_000, 48 * 3_600_000);
    let old = crate::journal::record::Timestamp { at: old, age: 1, off: 0 };
    let accepted = crate::journal::record::Accepted {
        id: id.to_string(),
        at: old,
        principal: "owner".to_owned(),
        text: "x".to_owned(),
        deliver: Some("out".to_owned()),
        ..Default::default()
    };
    let records = [
        Record::Clock { boot: "a".to_owned(), since_boot: 1, at: old },
        Record::Accepted(Box::new(accepted)),
        Record::step(id, 1, old, Step::Started),
        Record::step(id, 1, old, Step::Done("x".to_owned(), None)),
        Record::step(id, 1, old, Step::Sending),
        Record::step(id, 1, old, Step::Dead("refused".to_owned())),
    ];
    let records: Vec<(u64, String)> = (1..).zip(records.map(|record| record.to_json())).collect();
    let clocks = Fake::booted("a", old.at, two_days);
    let house = House::by(&clocks, dir, Testing::of(&records), &config);
    house.hub.open();
    house.hub.revive(id).unwrap();
    house.until("it was sent or given up", || house.counts().outbox == 0);
    // The keeper may have forgotten the message by now: it ended two days ago.
    let last = house.journal.all().pop().unwrap().1;
    assert!(last.contains("delivered"), "{last}");
}

/// A sender that finds nothing more stops a moment later; what comes in between has another sender.
#[test]
fn a_target_never_has_two_senders() {
    let (now, mut deliveries) = (Instant::now(), DeliveryQueues::default());
    deliveries.push("a", "owner", Id::from(1));
    assert_eq!(deliveries.take_due(now), ["a"]);
    deliveries.advance("a", Id::from(1), None);
    assert_eq!(deliveries.next("a", now), None, "the first sender is about to stop");
    deliveries.push("a", "owner", Id::from(2));
    let second = deliveries.take_due(now);
    deliveries.release("a", None);
    let third = deliveries.take_due(now);
    assert_eq!(second.len() + third.len(), 1, "message 2 is sent twice at once");
}
