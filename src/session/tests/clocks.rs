//! Clocks that are set, and machines that are switched off: what is kept is kept for its time, and
//! no longer.

use super::restart::copy_sessions;
use super::*;
use crate::config::Target;
use crate::journal::record::{Accepted, Timestamp};
use crate::limits::{KEEP_DEAD_LETTERS, KEEP_RESULTS_FOR};
use crate::session::Entry;
use crate::session::clock::{Reading, millis};
use crate::session::states::DeliveryState;
use crate::session::time::{Clocks, SystemClocks};
use std::sync::Mutex;

/// The clocks of a machine that the test sets; those of this machine, in an unknown boot, until then.
#[derive(Clone, Debug, Default)]
pub struct Fake(Arc<Mutex<Option<(String, Reading)>>>);

impl Clocks for Fake {
    fn boot(&self) -> String {
        self.0.lock().unwrap().clone().unwrap_or_default().0
    }

    fn read(&self) -> Reading {
        self.0.lock().unwrap().as_ref().map_or_else(|| SystemClocks.read(), |(_, now)| *now)
    }
}

impl Fake {
    pub fn booted(boot: &str, wall: u64, since_boot: u64) -> Fake {
        Fake(Arc::new(Mutex::new(Some((boot.to_owned(), Reading { wall, since_boot })))))
    }

    /// Somebody sets the wall clock.
    pub fn set(&self, wall: u64) {
        self.0.lock().unwrap().as_mut().unwrap().1.wall = wall;
    }

    pub fn pass(&self, time: u64) {
        let mut set = self.0.lock().unwrap();
        let (_, now) = set.as_mut().unwrap();
        (now.wall, now.since_boot) = (now.wall + time, now.since_boot + time);
    }

    fn reboot(&self) {
        let mut set = self.0.lock().unwrap();
        let (boot, now) = set.as_mut().unwrap();
        (*boot, now.since_boot) = (format!("{boot}'"), 5000);
    }
}

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const NOW: u64 = 1_795_000_000_000;

/// What the wall clock says at first, and what it is set to then.
const STEPS: [(&str, u64, &[u64]); 5] = [
    ("-2 d", NOW, &[NOW - 2 * DAY]),
    ("+2 d", NOW, &[NOW + 2 * DAY]),
    ("+40 d", NOW, &[NOW + 40 * DAY]),
    ("1970 to 2026", 9000, &[NOW]),
    ("+10 y and back", NOW, &[NOW + 3652 * DAY, NOW]),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Running,
    Restarted,
    Rebooted,
}

fn targets(dir: &TempDir) -> Config {
    let mut config = config(dir, None);
    for (name, status) in [("late", 75), ("never", 1)] {
        let command = ["sh", "-c", &format!("exit {status}")].map(str::to_owned).to_vec();
        let target = Target { command, ..Target::new(name) };
        config.deliver.insert(name.to_owned(), target);
    }
    config
}

fn open(clocks: &Fake, dir: TempDir, journal: Testing) -> House {
    let config = targets(&dir);
    let house = House::by(clocks, dir, journal, &config);
    house.hub.write_clock().unwrap();
    house.hub.open();
    house
}

/// The next process, in the same boot.
fn restarted(house: &House, clocks: &Fake) -> House {
    house.until_idle();
    let dir = TempDir::new("hub");
    copy_sessions(house, &dir);
    open(clocks, dir, Testing::of(&house.journal.all()))
}

/// One message of each kind, all over.
struct Kinds {
    keyed: Id,
    plain: Id,
    late: Id,
    dead: Id,
}

impl Kinds {
    fn of(house: &House) -> Kinds {
        let submit = |draft: Draft| match house.hub.submit(draft) {
            Ok(Submitted::New { id, .. }) => id,
            other => panic!("{other:?}"),
        };
        let to = |target: &str| Draft { deliver: Some(target.to_owned()), ..draft("", "text") };
        let keyed = submit(keyed("s", "keyed", 5));
        let kinds = Kinds {
            keyed,
            plain: house.send("s", "plain"),
            late: submit(to("late")),
            dead: submit(to("never")),
        };
        house.wait(kinds.plain);
        house.until("it is given up", || house.counts().dead_letters == 1);
        house.until("it is put off", || {
            house.message(kinds.late).entry.delivery.is_some_and(|way| way.attempts > 0)
        });
        house.until_idle();
        kinds
    }

    /// Nothing lost, nothing doubled: also after a compaction.
    fn are_whole(&self, house: &House, said: &[Id], cell: &str) {
        house.until_idle();
        house.hub.compact().unwrap();
        let again = house.hub.submit(keyed("s", "keyed", 5));
        assert_eq!(again, Ok(Submitted::Known(self.keyed)), "{cell}: a second turn");
        for id in [self.keyed, self.plain, self.late, self.dead] {
            let message = house.hub.message(id).unwrap();
            let message = message.unwrap_or_else(|| panic!("{cell}: {id} is lost"));
            assert_eq!(
                (message.entry.turn, message.entry.attempts),
                (TurnState::Done, 1),
                "{cell}"
            );
            assert!(message.reply.is_some(), "{cell}");
        }
        let counts = house.counts();
        assert_eq!((counts.outbox, counts.dead_letters), (1, 1), "{cell}: {counts:?}");
        let is_dead = |entry: &Entry| entry.delivery_state() == Some(DeliveryState::Dead);
        let (dead, _) = house.hub.list(&|_, entry| is_dead(entry), None, 9).unwrap();
        assert_eq!(dead.iter().map(|m| m.id).collect::<Vec<_>>(), [self.dead], "{cell}");
        assert_eq!(house.said("s"), said, "{cell}");
    }
}

fn is_known(house: &House, id: Id) -> bool {
    house.hub.compact().unwrap();
    house.hub.message(id).unwrap().is_some()
}

/// One row and column of the table.
fn survive(step: (&str, u64, &[u64]), then: Then) {
    let (name, first, walls) = step;
    let cell = format!("{name}, {then:?}");
    let clocks = Fake::booted("boot", first, HOUR);
    let mut house = open(&clocks, TempDir::new("hub"), Testing::new());
    let kinds = Kinds::of(&house);
    let mut said = vec![kinds.keyed, kinds.plain];
    for wall in walls {
        clocks.pass(MINUTE);
        clocks.set(*wall);
        if then == Then::Rebooted {
            clocks.reboot();
        }
        if then != Then::Running {
            house = restarted(&house, &clocks);
        }
        kinds.are_whole(&house, &said, &cell);
        // What is written with that clock must not be in anybody's way either.
        said.push(house.send("s", "between"));
        house.wait(*said.last().unwrap());
    }
    kinds.are_whole(&house, &said, &cell);
    // And what is kept is kept for its time.
    house.send("", "the newest, which is always known");
    clocks.pass(millis(KEEP_RESULTS_FOR) - HOUR);
    if then != Then::Rebooted {
        assert!(is_known(&house, kinds.keyed), "{cell}: the keyed one goes too early");
    }
    clocks.pass(HOUR);
    house.until_idle();
    let all = [kinds.keyed, kinds.plain].into_iter().chain(said);
    let left: Vec<Id> = all.filter(|id| is_known(&house, *id)).collect();
    assert_eq!(left, [], "{cell}: expiry is blocked");
    let again = house.hub.submit(keyed("s", "keyed", 5));
    assert!(matches!(again, Ok(Submitted::New { .. })), "{cell}: {again:?}");
    assert!(is_known(&house, kinds.dead) && is_known(&house, kinds.late), "{cell}");
    // The undelivered one is found too old at the next try.
    house = restarted(&house, &clocks);
    house.until("it is given up", || house.counts().outbox == 0);
    assert!(is_known(&house, kinds.dead) && is_known(&house, kinds.late), "{cell}");
    clocks.pass(millis(KEEP_DEAD_LETTERS));
    assert!(!is_known(&house, kinds.dead) && !is_known(&house, kinds.late), "{cell}");
}

#[test]
fn a_step_of_the_clock_while_it_runs_loses_doubles_and_blocks_nothing() {
    STEPS.into_iter().for_each(|step| survive(step, Then::Running));
}

#[test]
fn a_step_of_the_clock_over_a_restart_loses_doubles_and_blocks_nothing() {
    STEPS.into_iter().for_each(|step| survive(step, Then::Restarted));
}

#[test]
fn a_step_of_the_clock_over_a_reboot_loses_doubles_and_blocks_nothing() {
    STEPS.into_iter().for_each(|step| survive(step, Then::Rebooted));
}

/// No battery for its clock: each boot begins in 1970, and the network sets it after a while.
#[test]
fn a_board_without_a_clock_loses_and_doubles_nothing_however_often_it_boots() {
    let clocks = Fake::booted("boot", 9000, 5000);
    let mut house = open(&clocks, TempDir::new("hub"), Testing::new());
    let kinds = Kinds::of(&house);
    let mut said = vec![kinds.keyed, kinds.plain];
    for round in 0..6 {
        clocks.set(NOW + round * HOUR);
        said.push(house.send("s", "set"));
        house.wait(*said.last().unwrap());
        clocks.reboot();
        // Every other time the network was there first.
        clocks.set(if round % 2 == 0 { 9000 } else { NOW + (round + 2) * 400 * DAY });
        house = restarted(&house, &clocks);
        kinds.are_whole(&house, &said, &format!("round {round}"));
        clocks.pass(MINUTE);
    }
}

#[test]
fn a_machine_that_is_off_every_night_forgets_after_its_time() {
    let clocks = Fake::booted("boot", NOW, HOUR);
    let mut house = open(&clocks, TempDir::new("hub"), Testing::new());
    let kinds = Kinds::of(&house);
    let mut nights = 0;
    let month = millis(KEEP_DEAD_LETTERS) / DAY;
    while is_known(&house, kinds.dead) {
        assert!(nights <= month, "it is never forgotten");
        assert_eq!(is_known(&house, kinds.keyed), nights == 0, "night {nights}");
        // Undelivered, and off most of the time: a day of being on has not passed before long.
        let late = house.message(kinds.late).entry.delivery.and_then(|way| way.state);
        let wanted =
            if nights <= 2 { Some(DeliveryState::Pending) } else { Some(DeliveryState::Dead) };
        assert_eq!(late, wanted, "night {nights}");
        clocks.pass(9 * HOUR);
        house.send("", "of the day");
        house.until_idle();
        clocks.pass(14 * HOUR);
        clocks.reboot();
        house = restarted(&house, &clocks);
        clocks.pass(HOUR);
        house.until_idle();
        nights += 1;
    }
    assert_eq!(nights, month);
}

#[test]
fn a_quiet_week_between_two_reboots_counts_in_full() {
    let clocks = Fake::booted("boot", NOW, HOUR);
    let mut house = open(&clocks, TempDir::new("hub"), Testing::new());
    let kinds = Kinds::of(&house);
    for _ in 0..4 {
        for _ in 0..4 * 7 {
            clocks.pass(6 * HOUR);
            // As its keeper does every minute.
            house.hub.write_clock().unwrap();
        }
        clocks.reboot();
        house = restarted(&house, &clocks);
    }
    house.send("", "the newest");
    clocks.pass(DAY);
    assert!(is_known(&house, kinds.dead));
    clocks.pass(DAY);
    assert!(!is_known(&house, kinds.dead), "30 days have passed");
}

#[test]
fn starts_alone_do_not_make_a_journal_grow() {
    let clocks = Fake::booted("boot", NOW, HOUR);
    let mut house = open(&clocks, TempDir::new("hub"), Testing::new());
    for _ in 0..20 {
        clocks.pass(MINUTE);
        house = restarted(&house, &clocks);
    }
    assert_eq!(house.hub.journal_size().1, 1, "{:?}", house.journal.all());
    for _ in 0..5 {
        clocks.reboot();
        house = restarted(&house, &clocks);
    }
    assert_eq!(house.journal.all().len(), 6);
    house.hub.compact().unwrap();
    let left = house.journal.all();
    assert!(left.len() == 1 && left[0].1.contains("boot'''''"), "{left:?}");
    assert_eq!(restarted(&house, &clocks).journal.all(), left);
}

/// A message with a key and its end, as an older gateway wrote them.
fn without_ages(id: Id, at: u64, key: Digest) -> Vec<Record> {
    let at = Timestamp { at, age: 0, off: 0 };
    let accepted = Accepted {
        id: id.to_string(),
        at,
        principal: "owner".to_owned(),
        text: "text".to_owned(),
        key: Some(format!("{key:032x}")),
        body: Some(format!("{:032x}", 4)),
        ..Default::default()
    };
    let done = Step::Done("x".to_owned(), None);
    vec![
        Record::Accepted(Box::new(accepted)),
        Record::step(id, 1, at, Step::Started),
        Record::step(id, 1, at, done),
    ]
}

#[test]
fn what_an_older_gateway_wrote_is_kept_for_its_time_from_now_on() {
    let records = [(1, NOW - 40 * DAY), (2, NOW + 40 * DAY)];
    let records = records.iter().flat_map(|(id, at)| without_ages(Id::from(*id), *at, 5));
    let records: Vec<(u64, String)> = (1..).zip(records.map(|record| record.to_json())).collect();
    let clocks = Fake::booted("boot", NOW, 100 * DAY);
    let mut house = open(&clocks, TempDir::new("hub"), Testing::of(&records));
    for _ in 0..23 {
        house.send("", "newer");
        house = restarted(&house, &clocks);
        assert!(is_known(&house, Id::from(1)) && is_known(&house, Id::from(2)));
        clocks.pass(HOUR);
    }
    clocks.pass(HOUR);
    assert!(!is_known(&house, Id::from(1)) && !is_known(&house, Id::from(2)));
}

#[test]
fn ids_grow_and_do_not_run_out_when_the_clock_goes_ten_years_ahead_and_back() {
    let house = House::new(None);
    let ahead = Id(u128::from(NOW + 3652 * DAY) << 80);
    house.hub.lock().last_id = Some(ahead);
    let ids: Vec<Id> = (0..200).map(|_| house.hub.lock().next_id().unwrap()).collect();
    assert!(ids.iter().is_sorted() && ids[0] > ahead);
    let last = ids.last().unwrap();
    assert!(last.0 - ahead.0 < 200 << 64, "the ids of millennia are used up");
    assert_eq!(Id::parse(&last.to_string()), Some(*last));
}

#[test]
fn what_a_newer_gateway_wrote_survives_a_compaction_and_is_counted() {
    let first = House::new(None);
    let id = first.send("s", "text");
    first.wait(id);
    first.until_idle();
    let mut records = first.journal.all();
    let before = read_back(&first.journal).counts.bytes;
    let of_it = format!(r#"{{"t":"seen","id":"{id}","who":[1]}}"#);
    let unknown = [r#"{"t":"weather","deg":7}"#.to_owned(), of_it.clone()];
    records.extend((records.len() as u64 + 1..).zip(unknown));
    let house = House::open(TempDir::new("hub"), Testing::of(&records), &Config::default());
    assert_eq!(house.hub.lock().table.counts.bytes, before + of_it.len() as u64 + RECORD_OVERHEAD);
    house.hub.compact().unwrap();
    assert_eq!(house.journal.all(), records);
    // The one goes with its message, the other never.
    house.send("", "newer");
    house.until_idle();
    house.hub.delete(id, "gone").unwrap();
    house.hub.compact().unwrap();
    let left: Vec<String> = house.journal.all().into_iter().map(|(_, json)| json).collect();
    assert!(left.iter().any(|json| json.contains("weather")), "{left:?}");
    assert!(!left.iter().any(|json| json.contains("seen")), "{left:?}");
}
