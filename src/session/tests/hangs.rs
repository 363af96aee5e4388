//! Whether the hub moves, as somebody sees it who does not wait.

use std::cell::RefCell;

use super::*;
use crate::session::hang::Probe;
use crate::threads::lock;

fn looks(house: &House, probe: &mut Probe) -> [Option<String>; 2] {
    [(); 2].map(|()| house.hub.hangs(probe, Instant::now()))
}

fn says(looks: [Option<String>; 2], what: &str) {
    for look in looks {
        assert!(look.as_ref().is_some_and(|it| it.contains(what)), "{look:?} instead of {what}");
    }
}

/// One whose threads are not there: nobody else uses it.
fn closed() -> House {
    let dir = TempDir::new("hub");
    let config = config(&dir, None);
    House::closed(dir, Testing::of(&[]), &config)
}

#[test]
fn a_hub_that_works_moves_and_so_does_one_that_has_nothing_to_do() {
    let (house, probe) = (House::new(None), RefCell::default());
    let moves = || house.hub.hangs(&mut probe.borrow_mut(), Instant::now()).is_none();
    for text in ["x", "y", "z"] {
        house.send("a", text);
        house.until("the hub moves", moves);
    }
    house.until_idle();
    house.until("nothing is due", || looks(&house, &mut Probe::default()) == [None, None]);
}

#[test]
fn a_lock_that_is_kept_is_told_from_one_that_changes_hands() {
    let (house, mut probe) = (closed(), Probe::default());
    assert_eq!(looks(&house, &mut probe), [None, None]);
    let held = house.hub.lock();
    says(looks(&house, &mut probe), "the sessions' lock is not given back");
    drop(held);
    let held = house.hub.lock();
    assert_eq!(house.hub.hangs(&mut probe, Instant::now()), None, "somebody else has it");
    says(looks(&house, &mut probe), "not given back");
    drop(held);
    assert_eq!(looks(&house, &mut probe), [None, None]);
}

#[test]
fn what_is_due_and_not_begun_is_no_proof_until_the_dispatcher_moves() {
    let (house, mut probe) = (closed(), Probe::default());
    house.hub.lock().sync_at = Some(Instant::now());
    assert_eq!(looks(&house, &mut probe), [None, None], "it has not begun to work yet");
    house.hub.lock().open = true;
    says(looks(&house, &mut probe), "the dispatcher does not begin what is due");
    house.hub.note_move();
    assert_eq!(house.hub.hangs(&mut probe, Instant::now()), None);
    says(looks(&house, &mut probe), "the dispatcher");
    let mut state = house.hub.lock();
    (state.sync_at, state.mark_at) = (None, None);
    drop(state);
    assert_eq!(looks(&house, &mut probe), [None, None]);
}

#[test]
fn an_attempt_is_late_only_beyond_its_own_time_and_what_ends_it() {
    let (house, mut probe) = (closed(), Probe::default());
    let until = Instant::now();
    lock(&house.hub.attempts).push(("out".to_owned(), until));
    assert_eq!(house.hub.hangs(&mut probe, until + Duration::from_secs(3)), None);
    let late = house.hub.hangs(&mut probe, until + Duration::from_secs(5)).unwrap();
    assert!(late.contains("a delivery to target out does not end"), "{late}");
}
