//! Crashes: what is in the journal at any moment is all that the next process needs.

use super::*;
use crate::journal::record::Accepted;

/// A small generator (xorshift), so that a failing seed can be run again.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// Attempts begun and how it ended, of every message in these records.
fn fates(records: &[(u64, String)]) -> BTreeMap<Id, (u32, Option<TurnState>, Option<String>)> {
    let mut fates: BTreeMap<Id, (u32, Option<TurnState>, Option<String>)> = BTreeMap::new();
    for (_, json) in records {
        match Record::parse(json).unwrap() {
            Record::Accepted(accepted) => {
                let Accepted { id, session, .. } = *accepted;
                fates.insert(Id::parse(&id).unwrap(), (0, None, session));
            }
            Record::Step { id, n, step, .. } => {
                let fate = fates.get_mut(&Id::parse(&id).unwrap()).unwrap();
                match step {
                    Step::Started => fate.0 = n,
                    Step::Done(..) => fate.1 = Some(TurnState::Done),
                    Step::Failed(..) => fate.1 = Some(TurnState::Failed),
                    Step::Cancelled(_) => fate.1 = Some(TurnState::Cancelled),
                    _ => {}
                }
            }
            Record::Reset { .. } | Record::Clock { .. } => {}
            Record::AgentSession { .. } | Record::Channel { .. } | Record::Unknown { .. } => {}
        }
    }
    fates
}

/// Starts a hub from these records and holds what it makes of them against what they say.
fn survives(records: &[(u64, String)], dir: TempDir) {
    let before = fates(records);
    let house = House::open(dir, Testing::of(records), &Config::default());
    for (id, (attempts, end, _)) in &before {
        let message = house.wait(*id);
        match end {
            Some(end) => {
                assert_eq!((message.entry.turn, message.entry.attempts), (*end, *attempts));
            }
            // Two attempts are the most, and the crash cut the second one.
            None if *attempts >= 2 => {
                assert_eq!(
                    (message.entry.turn, message.entry.attempts),
                    (TurnState::Failed, 2),
                    "{id}"
                );
                assert!(message.error.unwrap().contains("max_attempts"));
            }
            None => {
                assert_eq!(
                    (message.entry.turn, message.entry.attempts),
                    (TurnState::Done, attempts + 1),
                    "{id}"
                );
            }
        }
    }
    let ends = house.audit();
    let erased = |id: Id| house.hub.lock().table.get(id).is_some_and(|entry| entry.erased);
    let over = |id: &&Id| ends.contains_key(id) || erased(**id);
    assert_eq!(before.keys().filter(over).count(), before.len(), "all that was accepted is over");
    // And the session's transcript has what was answered since its last reset, in order.
    let sessions: BTreeSet<String> = before.values().filter_map(|fate| fate.2.clone()).collect();
    for session in sessions {
        let state = house.hub.lock();
        let digest = who(&session).digest().unwrap();
        let mine = state.table.entries().filter(|(_, entry)| entry.session() == Some(digest));
        let open = before.iter().filter(|(_, fate)| fate.2.as_ref() == Some(&session));
        let ran = open.clone().any(|(_, (attempts, end, _))| end.is_none() && *attempts < 2);
        let said: Vec<Id> = mine
            .filter(|(_, entry)| entry.turn == TurnState::Done)
            .filter(|(_, entry)| !state.table.is_reset(digest, entry.accepted))
            .map(|(id, _)| id)
            .collect();
        drop(state);
        if ran {
            assert_eq!(house.said(&session), said, "{session}");
        }
    }
}

/// Copies the transcripts as they are. A name that is just being replaced may be gone already.
pub fn copy_sessions(house: &House, to: &TempDir) {
    let sessions = to.path().join("sessions");
    fs::create_dir(&sessions).unwrap();
    for file in fs::read_dir(house.dir.path().join("sessions")).into_iter().flatten() {
        let file = file.unwrap();
        let _ = fs::copy(file.path(), sessions.join(file.file_name()));
    }
}

/// Some life: sends, cancels, resets, turns that fail for now.
fn live(seed: u64, script: Option<&str>) -> House {
    let house = House::with(script, |config| {
        (config.limits.max_turns, config.limits.max_queue_per_session) = (2, 100);
    });
    let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
    let mut ids = Vec::new();
    for at in 0..30 {
        let session = ["a", "b", "c", ""][random.below(4)];
        match random.below(12) {
            0 => drop(house.hub.reset(&who(session), "anew")),
            1 if !ids.is_empty() => drop(house.hub.cancel(ids[random.below(ids.len())], "no")),
            2 => {
                let draft = Draft { mode: Busy::Interrupt, ..draft(session, "now") };
                if let Ok(Submitted::New { id, .. }) = house.hub.submit(draft) {
                    ids.push(id);
                }
            }
            3 => ids.push(match house.hub.submit(keyed(session, "k", at)).unwrap() {
                Submitted::New { id, .. } | Submitted::Known(id) => id,
            }),
            _ => ids.push(house.send(session, &format!("{at}"))),
        }
    }
    house
}

#[test]
fn a_crash_after_any_record_loses_nothing_and_repeats_no_end() {
    let house = live(7, None);
    house.until_idle();
    let records = house.journal.all();
    audit(&records);
    for length in 0..=records.len() {
        survives(&records[..length], TempDir::new("hub"));
    }
}

#[test]
fn crashes_in_the_middle_of_turns_lose_nothing() {
    for seed in 1..=6 {
        let house = live(seed, Some(r#"sleep 0.0$(($$ % 3)); printf %s "$m""#));
        let mut random = Random(seed + 77);
        let wanted = 20 + random.below(60) as u64;
        house.until("it is time to crash", || {
            house.hub.journal_size().1 >= wanted || house.hub.busy() == 0
        });
        // Everything stands still: no record is written now, and no turn noted.
        let dir = TempDir::new("hub");
        let records = {
            let _still = house.hub.lock();
            copy_sessions(&house, &dir);
            house.journal.all()
        };
        survives(&records, dir);
    }
}

#[test]
fn attempts_are_counted_over_crashes() {
    let first = House::new(Some(GATE));
    let (id, next) = (first.send("s", "cuts"), first.send("s", "next"));
    first.until_logged(1);
    let second = House::open(
        TempDir::new("hub"),
        Testing::of(&first.journal.all()),
        &config(&first.dir, Some(GATE)),
    );
    first.until_logged(2);
    assert_eq!(second.turn(id), TurnState::Running);
    let third = House::open(
        TempDir::new("hub"),
        Testing::of(&second.journal.all()),
        &config(&first.dir, None),
    );
    let message = third.wait(id);
    assert_eq!((message.entry.turn, message.entry.attempts), (TurnState::Failed, 2));
    assert!(message.error.unwrap().contains("in the middle of the turn 2 times"));
    let message = third.wait(next);
    assert_eq!((message.entry.turn, message.entry.attempts), (TurnState::Done, 1));
    assert_eq!(first.log(), ["cuts 1", "cuts 2"]);
    third.audit();
}

#[test]
fn a_key_holds_over_a_crash() {
    let first = House::new(Some(GATE));
    let Ok(Submitted::New { id, .. }) = first.hub.submit(keyed("s", "text", 5)) else {
        panic!("it was not taken");
    };
    let records = first.journal.durable();
    let next = House::closed(TempDir::new("hub"), Testing::of(&records), &Config::default());
    assert_eq!(next.hub.submit(keyed("s", "text", 5)), Ok(Submitted::Known(id)));
    assert_eq!(next.hub.submit(keyed("s", "other", 5)), Err(Refusal::Conflict));
    next.hub.open();
    next.wait(id);
    assert_eq!(next.audit().len(), 1);
}

#[test]
fn what_came_before_a_start_goes_first_and_is_not_refused() {
    let first = House::with(Some(GATE), |config| config.limits.max_queue = 100);
    let ids: Vec<Id> = (0..10).map(|at| first.send("s", &format!("old{at}"))).collect();
    let records = first.journal.durable();
    let mut config = config(&first.dir, None);
    (config.limits.max_queue, config.limits.max_queue_per_session) = (1, 1);
    let next = House::closed(TempDir::new("hub"), Testing::of(&records), &config);
    assert!(next.hub.submit(draft("s", "new")).is_err(), "the queue is full");
    next.hub.open();
    for id in ids {
        assert_eq!(next.wait(id).entry.turn, TurnState::Done);
    }
    next.until_idle();
    let new = next.send("s", "new");
    next.wait(new);
    next.audit();
}

/// The transcript of a session that was reset goes a moment after the record of that: a crash in
/// between leaves the file.
#[test]
fn a_crash_in_the_middle_of_a_reset_does_not_bring_back_what_was_said() {
    let first = House::new(None);
    let old = first.send("s", "secret");
    first.wait(old);
    first.until_idle();
    let dir = TempDir::new("hub");
    copy_sessions(&first, &dir);
    let mut records = first.journal.all();
    let (principal, session) = ("owner".to_owned(), "s".to_owned());
    let reset = Record::Reset { principal, session, at: 0.into(), transcript_only: false };
    records.push((first.hub.journal_size().1 + 1, reset.to_json()));
    let next = House::open(dir, Testing::of(&records), &Config::default());
    let new = next.send("s", "new");
    next.wait(new);
    assert_eq!(next.said("s"), [new], "the agent sees what was to be forgotten");
}

/// What a killed process has left of a turn ends first; a reload meanwhile changes nothing about that.
#[test]
fn nothing_runs_before_the_hub_is_open() {
    let first = House::new(Some(GATE));
    let old = first.send("s", "old");
    let records = first.journal.durable();
    let config = config(&first.dir, None);
    let next = House::closed(TempDir::new("hub"), Testing::of(&records), &config);
    next.hub.reload(settings(&config).0);
    let new = next.send("t", "new");
    assert_eq!(
        (next.turn(old), next.turn(new), next.hub.busy()),
        (TurnState::Queued, TurnState::Queued, 0)
    );
    next.hub.open();
    assert_eq!(
        (next.wait(old).entry.turn, next.wait(new).entry.turn),
        (TurnState::Done, TurnState::Done)
    );
    let started = next.journal.all().into_iter().filter(|(_, json)| json.contains("started"));
    let order: Vec<bool> =
        started.map(|(_, json)| json.contains(&old.to_string())).skip(1).collect();
    assert_eq!(order, [true, false], "those of earlier runs go first");
}

#[test]
fn a_failed_turn_that_runs_again_is_said_once() {
    let house = House::new(None);
    let id = house.send("s", "x");
    house.wait(id);
    // It was killed after it had written the transcript, and before its end was recorded.
    let records: Vec<(u64, String)> =
        house.journal.all().into_iter().filter(|(_, json)| !json.contains("done")).collect();
    let dir = TempDir::new("hub");
    copy_sessions(&house, &dir);
    let mut config = Config::default();
    config.limits.max_attempts = 1;
    let house = House::open(dir, Testing::of(&records), &config);
    assert_eq!(house.wait(id).entry.turn, TurnState::Failed);
    house.hub.retry(id).unwrap();
    assert_eq!(house.wait(id).entry.turn, TurnState::Done);
    assert_eq!(house.said("s"), [id]);
    house.audit();
}
