//! Waiting for an agent over restarts: what was waited already, what is left, and who is woken.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::journal::record::{Accepted, Retry};
use crate::session::Entry;
use crate::session::time::now;

const HOUR: u64 = 3_600_000;

/// The records of a message in a session of its own whose first attempt failed `ago` milliseconds
/// before now.
fn failed_once(session: &str, ago: u64, retry: Retry) -> (Id, Vec<Record>) {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let (id, at) = (Id::from(NEXT.fetch_add(1, Ordering::SeqCst)), now() - ago);
    let accepted = Accepted {
        id: id.to_string(),
        at: at.into(),
        principal: "owner".to_owned(),
        session: Some(session.to_owned()),
        text: session.to_owned(),
        ..Default::default()
    };
    let records = vec![
        Record::Accepted(Box::new(accepted)),
        Record::step(id, 1, at, Step::Started),
        Record::step(id, 1, at, Step::Retry(Box::new(retry))),
    ];
    (id, records)
}

fn retry(pause: u64, spent: u64, asked: bool) -> Retry {
    let error = "it was away".to_owned();
    Retry { error, failures: 1, spent, pause, asked, ..Retry::default() }
}

/// A hub that starts with these messages.
fn started(messages: Vec<Vec<Record>>, script: Option<&str>) -> House {
    let records = messages.into_iter().flatten().map(|record| record.to_json());
    let records: Vec<(u64, String)> = (1..).zip(records).collect();
    let dir = TempDir::new("hub");
    let config = config(&dir, script);
    House::open(dir, Testing::of(&records), &config)
}

#[test]
fn what_is_left_of_a_pause_is_waited_for_after_a_restart() {
    let (due, records) = failed_once("due", HOUR, retry(HOUR, 0, true));
    let (later, more) = failed_once("later", HOUR / 2, retry(HOUR, 0, true));
    let house = started(vec![records, more], None);
    assert_eq!(
        (house.wait(due).entry.turn, house.message(due).entry.attempts),
        (TurnState::Done, 2)
    );
    let message = house.message(later);
    assert_eq!(
        (message.entry.turn, message.entry.attempts, message.position),
        (TurnState::Backoff, 1, Some(1))
    );
    let waiting = message.waiting.unwrap();
    let left = waiting.next.unwrap() - Instant::now();
    let hour = Duration::from_millis(HOUR);
    assert!(left > hour / 2 - Duration::from_secs(60) && left <= hour / 2, "{left:?}");
    assert_eq!(waiting.reason, "it was away");
    let waiting = house.hub.waiting_turns(&house.hub.lock()).unwrap();
    assert!(waiting.starts_with(r#"{"turns":1,"reason":"it was away","next"#), "{waiting}");
    // Order holds meanwhile, and nothing is at work.
    let behind = house.send("later", "x");
    assert_eq!((house.turn(behind), house.hub.busy()), (TurnState::Queued, 0));
    house.hub.cancel(later, "enough").unwrap();
    assert_eq!(house.wait(behind).entry.turn, TurnState::Done);
    house.audit();
}

#[test]
fn retry_for_counts_what_earlier_runs_have_waited_and_not_the_time_between_them() {
    let (over, records) = failed_once("over", 0, retry(0, HOUR, false));
    let (down, more) = failed_once("down", 10 * HOUR, retry(0, 0, false));
    let house = started(vec![records, more], Some("exit 75"));
    let message = house.wait(over);
    assert_eq!((message.entry.turn, message.entry.attempts), (TurnState::Failed, 2));
    assert!(message.error.unwrap().contains("agent.retry_for is over"));
    house.until("another attempt", || house.message(down).entry.attempts == 2);
    house.until("it waits again", || house.turn(down) == TurnState::Backoff);
    let text = down.to_string();
    let again = |json: &str| json.contains(&text) && json.contains(r#""failures":2"#);
    assert!(house.journal.all().iter().any(|(_, json)| again(json)));
}

#[test]
fn an_agent_that_is_back_is_asked_for_all_that_wait_but_not_before_a_retry_after() {
    let (first, records) = failed_once("first", 0, retry(0, 0, false));
    let (other, more) = failed_once("other", 0, retry(HOUR, 0, false));
    let (asked, most) = failed_once("asked", 0, retry(HOUR, 0, true));
    let house = started(vec![records, more, most], None);
    assert_eq!(house.wait(first).entry.turn, TurnState::Done);
    assert_eq!(house.wait(other).entry.turn, TurnState::Done);
    assert_eq!(house.turn(asked), TurnState::Backoff);
}

#[test]
fn a_failed_turn_runs_again_behind_what_waits_and_only_then() {
    let house = House::new(Some(r#"case $m in bad*) [ -e "$GATE" ] || exit 3;; esac; echo "$m""#));
    let [bad, good] = ["bad", "good"].map(|text| house.send("s", text));
    assert_eq!(
        (house.wait(bad).entry.turn, house.wait(good).entry.turn),
        (TurnState::Failed, TurnState::Done)
    );
    assert_eq!(house.hub.retry(good), Err(Refusal::TooLate));
    assert_eq!(house.hub.retry(Id::from(1)), Err(Refusal::Unknown));
    house.open_gate();
    let sees = |who: &Owner| who.session.as_deref() == Some("s");
    let failed = |entry: &Entry| entry.turn == TurnState::Failed && sees(&entry.owner);
    let (listed, more) = house.hub.list(&|_, entry| failed(entry), None, 1).unwrap();
    assert_eq!((listed.len(), listed[0].id, more), (1, bad, None));
    let (listed, more) = house.hub.list(&|_, _| true, None, 1).unwrap();
    assert_eq!((listed[0].id, more), (good, Some(good)));
    assert_eq!(house.hub.list(&|_, _| true, more, 1).unwrap().0[0].id, bad);
    house.hub.retry(bad).unwrap();
    let message = house.wait(bad);
    assert_eq!((message.entry.turn, message.entry.attempts), (TurnState::Done, 1));
    assert_eq!(house.said("s"), [bad, good]);
    assert_eq!(house.hub.retry(bad), Err(Refusal::TooLate));
    // What a reset has forgotten does not come back.
    fs::remove_file(house.dir.path().join("GATE")).unwrap();
    let again = house.send("s", "bad again");
    house.wait(again);
    house.hub.reset(&who("s"), "anew").unwrap();
    assert_eq!(house.hub.retry(again), Err(Refusal::TooLate));
    house.audit();
}

#[test]
fn a_failed_turn_is_said_to_run_again_when_that_is_durable() {
    let script = format!("[ \"$m\" != bad ] || exit 3; {GATE}");
    let house = House::with(Some(&script), |config| config.limits.max_turns = 1);
    let bad = house.send("s", "bad");
    house.wait(bad);
    house.send("t", "holds the only place");
    house.until_logged(2);
    house.hub.retry(bad).unwrap();
    let durable = house.journal.durable();
    assert!(durable.iter().any(|(_, json)| json.contains("requeued")));
    assert_eq!(house.turn(bad), TurnState::Queued);
    house.open_gate();
    assert_eq!(house.wait(bad).entry.turn, TurnState::Failed);
    house.audit();
}

#[test]
fn only_what_waits_is_withdrawn() {
    let house = House::new(Some(GATE));
    let [runs, waits] = ["1", "2"].map(|text| house.send("s", text));
    house.until_logged(1);
    assert_eq!(house.hub.withdraw(runs, "no"), Err(Refusal::TooLate));
    assert_eq!(house.hub.withdraw(waits, "no"), Ok(()));
    let text = waits.to_string();
    let durable = house.journal.durable();
    assert!(durable.iter().any(|(_, json)| json.contains(&text) && json.contains("cancelled")));
    house.open_gate();
    assert_eq!(
        (house.wait(runs).entry.turn, house.turn(waits)),
        (TurnState::Done, TurnState::Cancelled)
    );
    assert_eq!(house.hub.withdraw(runs, "no"), Err(Refusal::TooLate));
    house.audit();
}

#[test]
fn crashes_of_an_agent_count_only_in_a_row() {
    let script = r#"case $HERMES_ATTEMPT in 1|3) kill -9 $$;; 2) exit 75;; esac; echo done"#;
    let house = House::new(Some(script));
    let id = house.send("s", "x");
    assert_eq!((house.wait(id).entry.turn, house.message(id).entry.attempts), (TurnState::Done, 4));
    house.audit();
}

#[test]
fn a_failed_turn_that_runs_again_stays_behind_what_waits_over_a_restart() {
    let (bad, mut records) = failed_once("s", HOUR, retry(0, 0, false));
    let (asked, more) = failed_once("s", 0, retry(HOUR, 0, true));
    records.pop();
    let step = |n, step| Record::step(bad, n, now(), step);
    records.push(step(1, Step::Failed("why".to_owned(), None)));
    records.extend(more);
    records.push(step(0, Step::Requeued));
    let house = started(vec![records], None);
    let other = house.send("other", "x");
    house.wait(other);
    assert_eq!(house.turn(asked), TurnState::Backoff, "it waits for what its upstream has asked");
    assert_eq!((house.message(asked).position, house.message(bad).position), (Some(1), Some(2)));
    house.hub.cancel(asked, "enough").unwrap();
    assert_eq!(house.wait(bad).entry.turn, TurnState::Done);
    house.audit();
}

#[test]
fn failed_turns_that_run_again_are_bounded_as_new_ones_are() {
    let house = House::with(Some(&format!(r#"[ "$m" = bad ] && exit 3; {GATE}"#)), |config| {
        (config.limits.max_turns, config.limits.max_queue) = (1, 1);
    });
    let bad = ["1", "2", "3"].map(|session| {
        let id = house.send(session, "bad");
        house.wait(id);
        id
    });
    let runs = house.send("4", "x");
    house.hub.retry(bad[0]).unwrap();
    for id in &bad[1..] {
        assert!(house.hub.retry(*id).is_err(), "the queue is full");
        assert_eq!(house.turn(*id), TurnState::Failed);
    }
    assert_eq!(house.hub.lock().dispatch.counts(), (1, 1));
    house.open_gate();
    assert_eq!(
        (house.wait(runs).entry.turn, house.wait(bad[0]).entry.turn),
        (TurnState::Done, TurnState::Failed)
    );
    house.hub.retry(bad[1]).unwrap();
    house.wait(bad[1]);
    house.audit();
}

#[test]
fn those_who_are_hurried_stay_spread_however_many_are_answered_meanwhile() {
    let waiting = (0..20).map(|n| failed_once(&n.to_string(), 0, retry(HOUR, 0, false)).1);
    let house = started(waiting.collect(), None);
    let mut state = house.hub.lock();
    state.retry_soon();
    let postponed =
        |state: &crate::session::hub::State| state.dispatch.postponed().collect::<Vec<_>>();
    let hurried = postponed(&state);
    assert_eq!(hurried.len(), 20);
    (0..20).for_each(|_| state.retry_soon());
    assert_eq!(postponed(&state), hurried);
}
