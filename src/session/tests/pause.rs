//! A pause: what runs goes on, nothing else begins, and it can be undone.

use super::*;
use crate::config::Target;

/// A hub with one slot, an agent that waits for the gate, and a target that takes everything.
fn gated() -> House {
    House::with(Some(GATE), |config| {
        config.limits.max_turns = 1;
        let target = Target { command: vec!["/bin/cat".to_owned()], ..Target::new("out") };
        config.deliver.insert("out".to_owned(), target);
    })
}

#[test]
fn what_runs_goes_on_and_nothing_else_begins_until_it_is_over() {
    let house = gated();
    let to_target = Draft { deliver: Some("out".to_owned()), ..draft("a", "first") };
    let Ok(Submitted::New { id: first, .. }) = house.hub.submit(to_target) else { panic!() };
    let before = house.send("b", "before");
    house.until_logged(1);
    house.hub.pause();
    let during = house.send("c", "during");
    house.quiet.clear();
    house.open_gate();
    assert_eq!(house.wait(first).entry.turn, TurnState::Done);
    let told = poll(&mut [Interest::read(house.quiet.as_fd())], Some(PATIENCE)).unwrap();
    assert_eq!(told, 1, "nobody says that all is quiet");
    house.until_idle();
    // Maintenance looks at everything that has come due.
    for _ in 0..3 {
        house.hub.maintenance_wakeup.notify_all();
        poll(&mut [], Some(Duration::from_millis(30))).unwrap();
    }
    assert_eq!((house.turn(before), house.turn(during)), (TurnState::Queued, TurnState::Queued));
    let delivery = house.message(first).entry.delivery.unwrap();
    assert_eq!((delivery.attempts, house.counts().outbox), (0, 1), "no delivery begins");
    house.hub.resume();
    for id in [before, during] {
        assert_eq!(house.wait(id).entry.turn, TurnState::Done);
    }
    house.until("it is delivered", || house.counts().outbox == 0);
    house.audit();
}

/// A restart closes the journal, which may hang in the disk until the restart is given up.
#[test]
fn what_runs_again_after_a_release_is_not_released_by_a_late_close() {
    let house = gated();
    house.hub.pause();
    house.hub.release();
    house.hub.resume();
    let id = house.send("a", "x");
    house.until_logged(1);
    house.hub.close(true);
    assert_eq!(house.turn(id), TurnState::Running);
    house.open_gate();
    assert_eq!(house.wait(id).entry.attempts, 1);
    house.audit();
}

#[test]
fn a_delivery_that_is_due_does_not_keep_maintenance_busy() {
    let house = gated();
    house.open_gate();
    house.hub.pause();
    let to_target = Draft { deliver: Some("out".to_owned()), ..draft("a", "first") };
    let Ok(Submitted::New { id, .. }) = house.hub.submit(to_target) else { panic!() };
    drop(house.hub.attend(id));
    assert_eq!(house.wait(id).entry.turn, TurnState::Done, "who waits on a chat has its turn");
    house.until_idle();
    let state = house.hub.lock();
    let now = Instant::now();
    assert!(state.deliveries.next_due(now).is_some_and(|due| due <= now), "it is due");
    // The last records are synced and marked within 50 ms each.
    let round = Duration::from_secs(60);
    assert!(house.hub.next_due(&state, now, round) > now, "and nobody looks for it");
}

#[test]
fn the_queue_has_its_bound_during_a_pause_too() {
    let house = House::with(None, |config| {
        config.limits.max_turns = 8;
        config.limits.max_queue = 4;
    });
    house.send("first", "x");
    house.until_idle();
    house.hub.pause();
    let taken = (0..20).filter(|n| house.hub.submit(draft(&n.to_string(), "x")).is_ok());
    let taken = taken.count();
    assert!((4..=5).contains(&taken), "{taken}");
    house.hub.resume();
    house.until("all have run", || house.counts().queued + house.counts().running == 0);
}

#[test]
fn who_waits_on_a_chat_has_its_turn_with_those_before_it_in_its_session() {
    let house = gated();
    let first = house.send("a", "first");
    let [before, other, chat] = ["s", "t", "s"].map(|session| house.send(session, "x"));
    let attended = house.hub.attend(chat);
    house.until_logged(1);
    house.hub.pause();
    house.open_gate();
    for id in [first, before, chat] {
        assert_eq!(house.wait(id).entry.turn, TurnState::Done);
    }
    drop(attended);
    house.until_idle();
    assert_eq!(house.turn(other), TurnState::Queued);
    // One that nobody waits for any more stays, too.
    let left = house.send("u", "x");
    assert_eq!(house.turn(left), TurnState::Queued);
    let attended = house.hub.attend(left);
    assert_eq!(house.wait(left).entry.turn, TurnState::Done, "also one that came in the pause");
    drop(attended);
}

#[test]
fn waits_end_when_the_restart_comes_and_not_before() {
    let house = gated();
    house.open_gate();
    house.hub.pause();
    let id = house.send("a", "x");
    let (hub, (client, _other)) = (Arc::clone(&house.hub), UnixStream::pair().unwrap());
    let wait = std::thread::spawn(move || hub.wait(id, client.as_fd(), PATIENCE).unwrap());
    house.until("it waits", || house.hub.waiting() == 1);
    assert!(!wait.is_finished() && house.hub.busy() == 0);
    let begun = Instant::now();
    house.hub.release();
    assert!(!wait.join().unwrap(), "it has not run");
    assert!(begun.elapsed() < PATIENCE / 2, "nobody told it: {:?}", begun.elapsed());
    assert_eq!(house.hub.waiting(), 0);
    house.hub.resume();
    assert_eq!(house.wait(id).entry.turn, TurnState::Done, "a wait lasts again after that");
}
