//! Notices at a crash between any two of their records, and failures that come in numbers.

use super::*;
use crate::config::Target;
use crate::session::RunBefore;
use crate::session::notices::Notice;
use crate::session::restart_record::{Down, Pending, RestartRecord};
use crate::session::restarts::{Requester, RestartKind, RestartRequest};

const NOW: u64 = 1_795_000_000_000;

fn requester(message: &str) -> Requester {
    let (principal, session) = ("owner".to_owned(), Some("s".to_owned()));
    Requester { principal, session, message: message.to_owned(), deliver: None, place: None }
}

fn pending(boot_time: u64) -> Pending {
    Pending {
        kind: RestartKind::Restart,
        by: "a test".to_owned(),
        requesters: vec![requester("1"), requester("2")],
        from: "0.0.1".to_owned(),
        ended: "2026-01-01T00:00:00Z".to_owned(),
        ended_since_boot: boot_time,
    }
}

fn before() -> RunBefore {
    RunBefore { how: "planned: a test".to_owned(), ..RunBefore::default() }
}

/// The replies of all notices, in order.
fn told(house: &House) -> Vec<String> {
    let entries: Vec<Id> = house.hub.lock().table.entries().map(|(id, _)| id).collect();
    let notice = |id: Id| {
        let message = house.message(id);
        let accepted = house.hub.accepted(&message.entry).unwrap();
        (accepted.mode.as_deref() == Some("notice")).then_some(message.reply).flatten()
    };
    entries.into_iter().filter_map(notice).collect()
}

/// A config with two targets, of which none answers.
fn with_targets(config: &mut Config) {
    for name in ["ops", "other"] {
        let target = Target { command: vec!["/bin/false".to_owned()], ..Target::new(name) };
        config.deliver.insert(name.to_owned(), target);
    }
    config.stop.notify = "ops".to_owned();
    config.stop.notify_failures = "ops".to_owned();
}

#[test]
fn a_notice_is_written_once_whatever_record_a_crash_comes_after() {
    let dir = || TempDir::new("hub");
    let clocks = Fake::booted("b", NOW, 7_000);
    let start = |records: &[(u64, String)]| {
        let mut config = Config::default();
        with_targets(&mut config);
        let house = House::by(&clocks, dir(), Testing::of(records), &config);
        let record = RestartRecord {
            pending: Some(pending(5_000)),
            boot: "b".to_owned(),
            ..Default::default()
        };
        house.hub.restart_record.begin(record);
        house.hub.tell_of_run_before(before());
        house
    };
    let whole = start(&[]);
    let texts = told(&whole);
    assert_eq!(texts.len(), 3, "{texts:?}");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(texts[0], format!("back after 2.0 s, version {version} (was 0.0.1)"));
    assert_eq!(texts[0], texts[1]);
    assert!(
        texts[2].starts_with("gateway default ended (restart by a test) and is back after 2.0 s")
    );
    let record = whole.hub.restart_record.get();
    assert_eq!((record.pending, record.recent), (None, vec![7_000]));
    let records = whole.journal.all();
    for length in 0..=records.len() {
        let house = start(&records[..length]);
        assert_eq!(told(&house), texts, "{length}");
        house.hub.open();
        house.until_idle();
        let state = house.hub.lock();
        assert!(state.table.entries().all(|(_, entry)| entry.attempts == 0), "{length}");
    }
}

#[test]
fn a_notice_without_its_end_is_no_message_for_the_agent() {
    let whole = House::new(None);
    let text = "w".to_owned();
    let notice = Notice { to: who("s"), deliver: None, origin: None, about: 7, text };
    whole.hub.write_notice(notice).unwrap();
    whole.until_idle();
    let records = whole.journal.all();
    let end = records.iter().position(|(_, json)| json.contains("(notice)")).unwrap();
    let dir = TempDir::new("hub");
    let config = config(&dir, Some("echo ran"));
    let house = House::open(dir, Testing::of(&records[..=end]), &config);
    let id = house.hub.lock().table.last.unwrap();
    let message = house.wait(id);
    assert!(message.error.unwrap().contains("before it had written this notice"));
    let said = house.hub.text_to_send(id).map_err(|e| e.kind());
    assert_eq!(said, Err(std::io::ErrorKind::InvalidData), "nobody is told");
    assert_eq!(house.log(), [""; 0]);
}

#[test]
fn how_long_nobody_served_is_not_told_over_a_reboot() {
    let clocks = Fake::booted("b", NOW, 7_000);
    for (boot, words) in
        [("b", "back after 2.0 s, "), ("a", "back, nobody can tell after how long, ")]
    {
        let house = House::by(&clocks, TempDir::new("hub"), Testing::new(), &Config::default());
        let (pending, of) = (Some(pending(5_000)), boot.to_owned());
        house.hub.restart_record.begin(RestartRecord { pending, boot: of, ..Default::default() });
        house.hub.tell_of_run_before(before());
        assert!(told(&house)[0].starts_with(words), "{boot}: {:?}", told(&house));
    }
}

#[test]
fn a_restart_that_was_cut_short_is_told_as_what_it_was() {
    let house = House::closed(TempDir::new("hub"), Testing::new(), &Config::default());
    let cut = Pending { ended: String::new(), ended_since_boot: 0, ..pending(0) };
    let left = RestartRecord { pending: Some(cut), ..Default::default() };
    house.hub.restart_record.begin(left);
    house.hub.tell_of_run_before(before());
    assert!(told(&house)[0].ends_with("; the run before ended so: planned: a test"));
    let other = House::closed(TempDir::new("hub"), Testing::new(), &Config::default());
    let left = RestartRecord { pending: Some(pending(1)), ..Default::default() };
    other.hub.restart_record.begin(left);
    other.hub.tell_of_run_before(RunBefore { failed: Some("no".to_owned()), ..before() });
    assert!(
        told(&other)[0].starts_with("the restart did not happen: no; back"),
        "{:?}",
        told(&other)
    );
}

#[test]
fn a_stop_that_was_not_told_yet_is_told_with_the_return_and_not_twice() {
    let mut config = Config::default();
    with_targets(&mut config);
    let house = House::closed(TempDir::new("hub"), Testing::new(), &config);
    let down = house.hub.write_notice(Notice::to_target("ops", "down", "d".to_owned())).unwrap();
    let record = Down { target: "ops".into(), about: "down".into(), words: "at T: W".into() };
    let left = RestartRecord { down: Some(record.clone()), ..Default::default() };
    house.hub.restart_record.begin(left);
    house.hub.tell_of_run_before(before());
    let state = |id| house.message(id).entry.delivery_state().unwrap().word();
    assert_eq!(state(down), "dropped");
    let back = told(&house).pop().unwrap();
    assert!(back.starts_with("gateway default went down at T: W; it is back"), "{back}");
    // A target that has it is told of the return alone.
    let house = House::closed(TempDir::new("hub"), Testing::new(), &config);
    let down = house.hub.write_notice(Notice::to_target("ops", "down", "d".to_owned())).unwrap();
    {
        let mut state = house.hub.lock();
        house.hub.write_step(&mut state, (down, 1), Step::Sending).unwrap();
        house.hub.write_step(&mut state, (down, 1), Step::Delivered).unwrap();
    }
    let left = RestartRecord { down: Some(record), ..Default::default() };
    house.hub.restart_record.begin(left.clone());
    house.hub.tell_of_run_before(before());
    assert!(told(&house).pop().unwrap().starts_with("gateway default is back"));
    assert_eq!(house.message(down).entry.delivery_state().unwrap().word(), "delivered");
    // One that a kill has kept from being written needs no other.
    let house = House::closed(TempDir::new("hub"), Testing::new(), &config);
    house.hub.restart_record.begin(left);
    house.hub.tell_of_run_before(before());
    assert!(told(&house).is_empty() && house.hub.restart_record.get().down.is_none());
}

#[test]
fn a_dead_letter_of_a_notice_is_told_elsewhere_alone() {
    for (notify_failures, told) in [("ops", false), ("other", true), ("", false)] {
        let mut config = Config::default();
        with_targets(&mut config);
        config.stop.notify_failures = notify_failures.to_owned();
        let house = House::closed(TempDir::new("hub"), Testing::new(), &config);
        let notice = Notice::to_target("ops", "x", "x".to_owned());
        let id = house.hub.write_notice(notice).unwrap();
        let mut state = house.hub.lock();
        house.hub.write_step(&mut state, (id, 0), Step::Dead("no".to_owned())).unwrap();
        let due = state.failures.due(Instant::now());
        assert_eq!(due.is_some(), told, "{notify_failures:?}");
    }
}

#[test]
fn failures_in_numbers_are_two_notices_and_the_second_has_their_count() {
    let clocks = Fake::booted("b", NOW, 7_000);
    let dir = TempDir::new("hub");
    let mut config = config(&dir, Some("exit 3"));
    with_targets(&mut config);
    let house = House::by(&clocks, dir, Testing::new(), &config);
    house.hub.open();
    let fail = |session: &str| {
        let id = house.send(session, "x");
        assert_eq!(house.wait(id).entry.turn, TurnState::Failed);
        id
    };
    let first = fail("a");
    house.until("the first notice", || told(&house).len() == 1);
    assert!(told(&house)[0].contains(&format!("the turn of message {first} of owner")));
    let ids: Vec<Id> = (0..13).map(|_| fail("b")).collect();
    // The maintenance thread knows that it is too early; the time is over by the clocks alone.
    clocks.pass(5 * 60_000 + 1);
    house.hub.lock().failures.until = None;
    house.hub.tell_failures();
    house.until("the second notice", || told(&house).len() == 2);
    let second = told(&house).pop().unwrap();
    assert!(second.contains(&format!("the turn of message {} of owner", ids[12])), "{second}");
    assert!(second.ends_with(" (and 12 more since)"), "{second}");
    // Another run keeps the pause, too.
    let id = fail("c");
    house.hub.lock().failures.until = None;
    house.hub.tell_failures();
    assert_eq!(told(&house).len(), 2, "{id}");
    assert!(house.hub.lock().failures.until.is_some());
}

#[test]
fn a_restart_that_did_not_happen_is_forgotten_unless_another_was_asked_for() {
    let house = House::closed(TempDir::new("hub"), Testing::new(), &Config::default());
    let (hub, by) = (&house.hub, "a test".to_owned());
    hub.restart_record.begin(RestartRecord::default());
    hub.request_restart(RestartRequest { kind: RestartKind::Restart, by, requester: None });
    hub.save_restart(false).unwrap();
    hub.forget_restart();
    assert!(hub.restart_record.get().pending.is_some(), "one is under way");
    hub.restarts.fail("no", String::new()).unwrap();
    hub.forget_restart();
    assert!(hub.restart_record.get().pending.is_none());
}
