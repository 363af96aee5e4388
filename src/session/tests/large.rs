//! Many messages of others: what one session or message asks for must not grow with them.

use std::fs;
use std::sync::atomic::Ordering;

use super::*;
use crate::journal::record::Accepted;
use crate::limits::LOCK_BATCH;
use crate::session::time::now;

/// The records of answered messages, each in a session of its own of this name and number.
#[derive(Default)]
struct Written(Vec<(u64, String)>);

impl Written {
    fn write(&mut self, record: &Record) {
        self.0.push((self.0.len() as u64 + 1, record.to_json()));
    }

    fn answered(&mut self, session: Option<String>) -> Id {
        let id = Id((u128::from(now()) << 80) + self.0.len() as u128);
        self.write(&Record::Accepted(Box::new(Accepted {
            id: id.to_string(),
            at: now().into(),
            principal: "owner".to_owned(),
            key: session.as_ref().map(|_| format!("{:032x}", id.0)),
            body: session.as_ref().map(|_| "7".to_owned()),
            session,
            ..Accepted::default()
        })));
        self.write(&Record::step(id, 1, now(), Step::Started));
        self.write(&Record::step(id, 1, now(), Step::Done("reply".to_owned(), None)));
        id
    }

    fn house(&self, change: impl Fn(&mut Config)) -> House {
        let dir = TempDir::new("hub");
        let mut config = config(&dir, None);
        change(&mut config);
        House::open(dir, Testing::of(&self.0), &config)
    }
}

/// Of two sessions, one that has little and is asked, and all that others have.
fn crowd(others: usize) -> (House, Vec<Id>) {
    let (mut written, mut mine) = (Written::default(), Vec::new());
    for n in 0..others {
        if n % (others / 4) == 0 {
            mine.push(written.answered(Some("mine".to_owned())));
        }
        written.answered(Some(format!("other {n}")));
    }
    (written.house(|_| {}), mine)
}

#[test]
fn a_replay_reads_the_records_of_its_session_and_few_others() {
    let (house, mine) = crowd(4000);
    let session = who("mine").digest().unwrap();
    let mut told = Vec::new();
    let mut note = |_: u64, record: Record, _| {
        told.push((record.id().map(str::to_owned), record.word()));
        true
    };
    let before = house.journal.scanned.load(Ordering::SeqCst);
    let last = house.hub.records_of(session, 1, &mut |_| Ok(()), &mut note).unwrap();
    assert_eq!(last, house.journal.all().len() as u64);
    let words = ["accepted", "started", "done"];
    let all = mine.iter().flat_map(|id| words.map(|word| (Some(id.to_string()), word)));
    assert_eq!(told, all.skip(1).collect::<Vec<_>>());
    let read = house.journal.scanned.load(Ordering::SeqCst) - before;
    assert!(read < 100, "{read} records were read for {} of 12,012", mine.len() * 3);
}

#[test]
fn a_replay_that_is_stopped_goes_on_where_it_was() {
    let (house, mine) = crowd(8);
    let session = who("mine").digest().unwrap();
    let (mut after, mut told) = (0, 0);
    loop {
        let mut one = 0;
        let mut note = |_: u64, _: Record, _| {
            one += 1;
            false
        };
        after = house.hub.records_of(session, after, &mut |_| Ok(()), &mut note).unwrap();
        if one == 0 {
            break;
        }
        told += one;
    }
    assert_eq!(told, 3 * mine.len());
}

#[test]
fn an_event_stream_is_woken_by_its_own_session_alone() {
    let house = House::new(None);
    let follow = house.hub.follow(who("mine").digest().unwrap()).unwrap();
    house.wait(house.send("other", "hello"));
    assert!(!follow.clear(), "by another session's message");
    house.wait(house.send("mine", "hello"));
    assert!(follow.clear(), "not by its own");
    house.hub.reset(&who("other"), "why").unwrap();
    assert!(!follow.clear(), "by another session's reset");
    house.hub.reset(&who("mine"), "why").unwrap();
    assert!(follow.clear(), "not by its own reset");
    house.hub.drain();
    house.until("the drain is told", || follow.clear());
}

/// The least processor time of some (schedstat, proc(5)): what else the machine does makes it more only.
fn work(mut some: impl FnMut()) -> Duration {
    let spent = || {
        // Only then is it up to date.
        std::thread::yield_now();
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    };
    let once = |_| {
        let before = spent();
        some();
        spent() - before
    };
    (0..5).map(once).min().unwrap()
}

#[test]
fn what_a_session_is_asked_costs_what_it_has_however_much_others_have() {
    let ask = |house: &House| {
        let mine = who("mine");
        work(|| {
            for _ in 0..50 {
                assert_eq!(house.hub.messages_of(&mine).len(), 4);
                assert!(house.hub.session(&mine).is_some());
                house.hub.transcripts.mark_stale(mine.digest().unwrap());
                house.hub.reconcile(mine.digest().unwrap(), &mine, true).unwrap();
            }
        })
    };
    let (few, many) = (ask(&crowd(40).0), ask(&crowd(8000).0));
    assert!(many < few * 4, "{few:?} among few, {many:?} among many");
}

#[test]
fn many_resets_and_many_messages_are_no_work_for_each_pair() {
    let mut written = Written::default();
    for n in 0..5000 {
        let session = format!("session {n}");
        written.answered(Some(session.clone()));
        let principal = "owner".to_owned();
        let (at, transcript_only) = (now().into(), false);
        written.write(&Record::Reset { principal, session, at, transcript_only });
    }
    let house = written.house(|_| {});
    let spent = work(|| assert!(house.hub.compact().is_ok()));
    assert!(spent < Duration::from_millis(750), "a compaction took {spent:?}");
}

#[test]
fn all_that_is_too_much_is_forgotten_at_once_though_the_first_is_about_to_be_read() {
    let mut written = Written::default();
    let ids: Vec<Id> = (0..LOCK_BATCH * 5 / 2).map(|_| written.answered(None)).collect();
    let dir = TempDir::new("hub");
    let mut config = config(&dir, None);
    config.limits.keep_results = 0;
    let house = House::closed(dir, Testing::of(&written.0), &config);
    let held = ids[..LOCK_BATCH + 1].iter().map(|id| house.hub.pin_reply(*id)).collect::<Vec<_>>();
    let kept = || house.hub.lock().table.counts.kept;
    house.hub.compact().unwrap();
    assert_eq!(kept(), held.len() + 1, "what is held, and the newest");
    drop(held);
    house.hub.compact().unwrap();
    assert_eq!(kept(), 1);
}

#[test]
fn a_message_that_two_wait_for_is_held_until_both_have_read_it() {
    let mut written = Written::default();
    let ids = [written.answered(None), written.answered(None)];
    let dir = TempDir::new("hub");
    let mut config = config(&dir, None);
    config.limits.keep_results = 0;
    let house = House::closed(dir, Testing::of(&written.0), &config);
    let (one, two) = (house.hub.pin_reply(ids[0]), house.hub.pin_reply(ids[0]));
    let is_known = || {
        house.hub.compact().unwrap();
        house.hub.message(ids[0]).unwrap().is_some()
    };
    assert!(is_known());
    drop(one);
    assert!(is_known(), "the other has not read it yet");
    drop(two);
    assert!(!is_known());
}
