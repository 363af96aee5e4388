//! What is forgotten: sessions that were idle for too long or for which there is no room, and what an
//! older gateway has left of one that was reset.

use super::*;
use crate::config::Config;
use crate::limits::{ERASED_AT_ONCE, ERASED_BYTES};
use crate::shares::Limit;
use crate::sys::fs::private_dir;

const HOUR: u64 = 3_600_000;

#[track_caller]
fn house(clocks: &Fake, script: Option<&str>, change: impl Fn(&mut Config)) -> House {
    let dir = TempDir::new("hub");
    let mut config = config(&dir, script);
    change(&mut config);
    let house = House::by(clocks, dir, Testing::new(), &config);
    house.hub.open();
    house.until("the sessions are counted", || house.hub.busy() == 0);
    house
}

fn has_transcript(house: &House, session: &str) -> bool {
    house.hub.transcripts.find(who(session).digest().unwrap()).is_some()
}

#[test]
fn a_session_that_is_idle_for_longer_than_it_is_kept_is_forgotten() {
    let clocks = Fake::booted("a", 1_795_000_000_000, 5000);
    let script = format!("case $m in wait) {GATE};; esac; printf %s \"$m\"");
    let house = house(&clocks, Some(&script), |config| {
        config.session.keep = Duration::from_millis(2 * HOUR);
        config.limits.max_turns = 2;
    });
    let old = house.send("old", "secret");
    house.wait(old);
    let waits = house.send("busy", "wait");
    house.until_logged(2);
    clocks.pass(HOUR);
    let young = house.send("young", "x");
    house.wait(young);
    house.hub.forget_idle();
    assert!(has_transcript(&house, "old"), "not before its time");
    clocks.pass(HOUR);
    house.hub.forget_idle();
    assert!(!has_transcript(&house, "old") && has_transcript(&house, "young"));
    assert!(has_transcript(&house, "busy"), "what runs is not idle");
    assert!(house.message(old).entry.erased && !house.message(young).entry.erased);
    house.open_gate();
    assert_eq!(house.wait(waits).reply.as_deref(), Some("wait"));
    house.hub.forget_idle();
    assert!(has_transcript(&house, "busy"), "it was used just now");
    // A start knows when each was used, and no clock that is set changes that.
    house.until_idle();
    let dir = TempDir::new("hub");
    restart::copy_sessions(&house, &dir);
    clocks.set(1_995_000_000_000);
    let mut config = Config::default();
    config.session.keep = Duration::from_millis(2 * HOUR);
    let next = House::by(&clocks, dir, Testing::of(&house.journal.all()), &config);
    Arc::clone(&next.hub).count_sessions();
    assert!(has_transcript(&next, "young") && has_transcript(&next, "busy"));
    clocks.pass(2 * HOUR);
    next.hub.forget_idle();
    assert!(!has_transcript(&next, "young"));
}

#[test]
fn what_had_to_go_for_others_does_not_come_back_and_its_results_stay() {
    let house = House::with(None, |config| config.limits.max_transcripts = 1 << 20);
    let first = house.send("first", "x");
    house.wait(first);
    house.until_idle();
    house.hub.make_room(&who("other"), Limit::Gateway);
    assert!(!has_transcript(&house, "first"));
    assert_eq!(house.message(first).reply.as_deref(), Some("x"));
    let again = house.send("first", "y");
    house.wait(again);
    assert_eq!(house.said("first"), [again], "what was said came back");
    house.hub.compact().unwrap();
    assert_eq!(house.message(first).reply.as_deref(), Some("x"));
    house.audit();
}

#[test]
fn a_large_session_is_erased_at_once_for_who_reads_and_bit_by_bit_in_the_book() {
    let house = House::with(None, |config| {
        (config.limits.max_queue, config.limits.max_queue_per_session) = (10_000, 10_000);
        config.limits.max_turns = 0;
    });
    let count = ERASED_AT_ONCE * 2 + 10;
    let texts = (0..count).map(|at| house.hub.submit(keyed("s", "x", at as Digest)));
    let ids: Vec<Id> = texts
        .map(|submitted| match submitted {
            Ok(Submitted::New { id, .. }) => id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(house.hub.reset(&who("s"), "anew"), Ok(count));
    for id in [ids[0], ids[count - 1]] {
        assert!(house.message(id).entry.erased);
        assert_eq!(house.hub.retry(id), Err(Refusal::TooLate));
    }
    assert_eq!(house.hub.submit(keyed("s", "x", 3)), Err(Refusal::Erased));
    house.hub.compact().unwrap();
    let (journal, cap) = (house.hub.journal_size().0, (ERASED_BYTES + 6) * count as u64 + 1000);
    assert!(journal <= cap, "{journal}");
    // What is left says the same to the next process, and no more is left by its compaction.
    let next =
        House::open(TempDir::new("hub"), Testing::of(&house.journal.all()), &Config::default());
    assert_eq!(next.hub.submit(keyed("s", "x", 3)), Err(Refusal::Erased));
    assert!(!next.hub.lock().table.must_erase, "it was done already");
    let before = next.journal.all().len();
    next.hub.compact().unwrap();
    assert!(next.journal.all().len() <= before);
    next.audit();
}

/// Of what is erased meanwhile, some records are behind those that a compaction decides on, or it has
/// decided on the first ones already.
#[test]
fn what_is_reset_or_deleted_during_a_compaction_leaves_a_journal_that_can_be_read() {
    for (runs, from) in [(true, "accepted"), (false, "started")] {
        for deletes in [false, true] {
            let house = House::new(runs.then_some(GATE));
            let id = house.send("s", "secret");
            let other = house.send("t", "x");
            if runs {
                house.until_logged(2);
            } else {
                house.wait(other);
                house.wait(id);
                house.until_idle();
            }
            let hub = Arc::clone(&house.hub);
            let hook = move || match deletes {
                true => hub.delete(id, "no").unwrap(),
                false => _ = hub.reset(&who("s"), "anew").unwrap(),
            };
            *house.journal.on_rewrite.lock().unwrap() = Some((from, Box::new(hook)));
            house.hub.compact().unwrap();
            assert!(house.journal.on_rewrite.lock().unwrap().is_none());
            // After a crash it is over, and not another turn.
            let records = house.journal.all();
            let next =
                House::closed(TempDir::new("hub"), Testing::of(&records), &Config::default());
            let state = next.hub.lock();
            assert!(state.table.get(id).is_none_or(|entry| entry.turn.is_over()), "{records:?}");
            drop(state);
            house.open_gate();
            house.until_idle();
            // The next one erases it.
            house.hub.compact().unwrap();
            assert!(!house.journal.all().iter().any(|(_, json)| json.contains("secret")));
            read_back(&house.journal);
        }
    }
}

#[test]
fn a_journal_of_a_gateway_that_delivered_after_a_reset_is_read() {
    let first = House::new(None);
    let draft = Draft { deliver: Some("out".to_owned()), ..draft("s", "x") };
    let Ok(Submitted::New { id, .. }) = first.hub.submit(draft) else { panic!("not taken") };
    first.wait(id);
    first.until_idle();
    let mut records: Vec<(u64, String)> =
        first.journal.all().into_iter().filter(|(_, json)| !json.contains("\"dead\"")).collect();
    let mut number = records.last().unwrap().0 + 10;
    let (principal, session) = ("owner".to_owned(), "s".to_owned());
    let reset = Record::Reset { principal, session, at: 0.into(), transcript_only: false };
    let steps = [Step::Sending, Step::Delivered].map(|step| Record::step(id, 1, 0, step));
    for record in [reset].into_iter().chain(steps) {
        number += 1;
        records.push((number, record.to_json()));
    }
    let next = House::open(TempDir::new("hub"), Testing::of(&records), &Config::default());
    assert!(next.message(id).entry.erased);
    assert_eq!(next.counts().outbox, 0);
}

#[test]
fn files_of_what_a_repair_cut_off_stay_as_long_as_the_old_journal() {
    let house = House::closed(TempDir::new("hub"), Testing::new(), &Config::default());
    let dir = house.dir.path().join("attachments");
    private_dir(&dir).unwrap();
    let (file, old) =
        (dir.join(format!("{}.1.png", Id(7))), house.dir.path().join("journal.damaged-99"));
    [&file, &old].iter().for_each(|path| fs::write(path, "x").unwrap());
    house.hub.sweep_attachments();
    assert!(file.exists());
    fs::remove_file(old).unwrap();
    house.hub.sweep_attachments();
    assert!(!file.exists());
}
