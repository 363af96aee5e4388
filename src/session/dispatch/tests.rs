//! The dispatch against a model: random arrivals and departures, checked after every step.

use super::*;
use crate::config::OWNER;
use crate::shares::Over;

type Ticket = u64;

const BOUNDS: QueueLimits =
    QueueLimits { turns: 3, queue: 8, queue_per_session: 4, shares: Shares::new(100) };

#[test]
fn one_session_runs_in_order() {
    let mut dispatch = Dispatch::<Ticket, &str>::new(BOUNDS);
    assert_eq!(dispatch.submit(1, OWNER, Some("a")), Ok((0, true)));
    assert_eq!(dispatch.submit(2, OWNER, Some("a")), Ok((1, false)));
    assert_eq!(dispatch.submit(3, OWNER, Some("a")), Ok((2, false)));
    assert_eq!(dispatch.leave(1), [2]);
    assert_eq!(dispatch.leave(2), [3]);
    assert!(dispatch.leave(3).is_empty());
    assert_eq!((dispatch.counts(), dispatch.sessions()), ((0, 0), 0));
}

#[test]
fn places_go_round_the_sessions() {
    let mut dispatch = Dispatch::<Ticket, &str>::new(QueueLimits { turns: 1, ..BOUNDS });
    for (ticket, session) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c")] {
        dispatch.submit(ticket, OWNER, Some(session)).unwrap();
    }
    let mut order = vec![1];
    while let [next] = dispatch.leave(order[order.len() - 1])[..] {
        order.push(next);
    }
    assert_eq!(order, [1, 4, 5, 2, 3]);
}

#[test]
fn what_has_no_session_waits_for_nobody_but_a_place() {
    let mut dispatch = Dispatch::<Ticket, &str>::new(QueueLimits { turns: 1, ..BOUNDS });
    assert_eq!(dispatch.submit(1, OWNER, None), Ok((0, true)));
    assert_eq!(dispatch.submit(2, OWNER, None), Ok((0, false)));
    assert_eq!(dispatch.leave(1), [2]);
}

#[test]
fn queues_are_bounded_and_say_which() {
    let mut dispatch = Dispatch::<Ticket, &str>::new(BOUNDS);
    for ticket in 0..5 {
        dispatch.submit(ticket, OWNER, Some("a")).unwrap();
    }
    assert_eq!(dispatch.submit(5, OWNER, Some("a")), Err(Full::Session));
    assert_eq!(dispatch.submit(6, OWNER, Some("b")), Ok((0, true)));
    for ticket in 7..11 {
        assert!(matches!(dispatch.submit(ticket, OWNER, Some("b")), Ok((_, false))));
    }
    assert_eq!(dispatch.submit(11, OWNER, Some("c")), Ok((0, true)));
    let Err(Full::Queue(reached)) = dispatch.submit(12, OWNER, None) else {
        panic!("there was no room");
    };
    assert_eq!(reached.over, Over::Gateway);
    assert_eq!(reached.message, "The gateway's limits.max_queue (8) is reached; try again later.");
    assert!(dispatch.leave(5).is_empty(), "a refused ticket is not known");
}

#[test]
fn more_places_start_those_who_wait() {
    let mut dispatch = Dispatch::<Ticket, &str>::new(QueueLimits { turns: 1, ..BOUNDS });
    for ticket in 1..4 {
        dispatch.submit(ticket, OWNER, None).unwrap();
    }
    assert_eq!(dispatch.set_limits(BOUNDS), [2, 3]);
}

/// A small generator (xorshift), so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// The plain truth beside the dispatch: every ticket in order of arrival, and whether it runs.
#[derive(Default)]
struct Model(Vec<(Ticket, Option<usize>, bool)>);

impl Model {
    fn start(&mut self, tickets: &[Ticket]) {
        for ticket in tickets {
            let place = self.0.iter().position(|t| t.0 == *ticket).expect("a known ticket");
            let session = self.0[place].1;
            let earlier = |t: &&(Ticket, Option<usize>, bool)| session.is_some() && t.1 == session;
            assert!(self.0[..place].iter().find(earlier).is_none(), "out of order");
            assert!(!self.0[place].2, "started twice");
            self.0[place].2 = true;
        }
    }

    fn check(&self, dispatch: &Dispatch<Ticket, usize>) {
        let running = self.0.iter().filter(|t| t.2).count();
        assert_eq!(dispatch.counts(), (running, self.0.len() - running));
        assert!(running <= BOUNDS.turns);
        // Nobody waits without a reason: all places taken, or somebody of its session before it.
        let idle = self.0.iter().enumerate().filter(|(_, t)| !t.2).any(|(at, t)| {
            running < BOUNDS.turns && !self.0[..at].iter().any(|e| t.1.is_some() && e.1 == t.1)
        });
        assert!(!idle, "a place is free and somebody waits for it");
    }
}

#[test]
fn random_arrivals_and_departures_agree_with_the_model() {
    for seed in 1..=200 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut dispatch = Dispatch::<Ticket, usize>::new(BOUNDS);
        let mut model = Model::default();
        for ticket in 0..400 {
            if random.below(2) == 0 || model.0.is_empty() {
                let session = Some(random.below(5)).filter(|s| *s > 0);
                match dispatch.submit(ticket, OWNER, session) {
                    Ok((position, true)) => {
                        assert_eq!(position, 0);
                        model.0.push((ticket, session, false));
                        model.start(&[ticket]);
                    }
                    Ok((position, false)) => {
                        let before = model.0.iter().filter(|t| t.1.is_some() && t.1 == session);
                        assert_eq!(position, before.count());
                        model.0.push((ticket, session, false));
                    }
                    Err(_) => {}
                }
            } else {
                let (gone, ..) = model.0.remove(random.below(model.0.len()));
                let started = dispatch.leave(gone);
                model.start(&started);
            }
            model.check(&dispatch);
        }
    }
}

#[test]
fn a_turn_that_rests_holds_up_its_session_and_nobody_else() {
    let mut dispatch = Dispatch::<Ticket, &str>::new(QueueLimits { turns: 1, ..BOUNDS });
    for (ticket, session) in [(1, "a"), (2, "a"), (3, "b")] {
        dispatch.submit(ticket, OWNER, Some(session)).unwrap();
    }
    assert_eq!(dispatch.postpone(1), [3]);
    assert_eq!(dispatch.counts(), (1, 2));
    assert!(dispatch.leave(3).is_empty(), "2 is behind 1, and 1 rests");
    assert_eq!(dispatch.wake(1), [1]);
    assert_eq!(dispatch.leave(1), [2]);
    // One that leaves while it rests makes room for the next of its session.
    assert!(dispatch.postpone(2).is_empty());
    dispatch.submit(4, OWNER, Some("a")).unwrap();
    assert_eq!(dispatch.leave(2), [4]);
}

#[test]
fn what_comes_back_from_before_the_start_keeps_its_order() {
    let mut dispatch = Dispatch::<Ticket, &str>::new(QueueLimits { turns: 2, queue: 1, ..BOUNDS });
    for (ticket, session) in [(1, "a"), (2, "a"), (3, "b"), (4, "c")] {
        dispatch.restore(ticket, OWNER, Some(session));
    }
    assert_eq!(dispatch.counts(), (0, 4));
    assert_eq!(dispatch.fill(), [1, 3]);
    assert_eq!(dispatch.tickets("a").collect::<Vec<_>>(), [1, 2]);
    assert_eq!(dispatch.leave(1), [4], "c has waited for longer than the second of a");
}

#[test]
fn what_rested_before_a_start_holds_up_its_session_alone() {
    let mut dispatch = Dispatch::<Ticket, &str>::new(BOUNDS);
    for (ticket, session) in [(1, "a"), (2, "a"), (3, "b")] {
        dispatch.restore(ticket, OWNER, Some(session));
    }
    assert_eq!(dispatch.postpone(1), [3]);
    assert!(dispatch.postpone(2).is_empty());
    assert_eq!(dispatch.counts(), (1, 2));
    assert_eq!(dispatch.wake(1), [1]);
    assert_eq!(dispatch.leave(1), [2], "only the first of a session can rest");
}

/// Those that start when each that runs leaves at once, in the order in which they start.
fn drained(dispatch: &mut Dispatch<Ticket, u64>, running: Ticket) -> Vec<Ticket> {
    let mut order = vec![running];
    let mut at = 0;
    while at < order.len() {
        order.extend(dispatch.leave(order[at]));
        at += 1;
    }
    order
}

const SHARED: QueueLimits =
    QueueLimits { turns: 1, queue: 1600, queue_per_session: 32, shares: Shares::new(50) };

#[test]
fn a_principal_with_a_thousand_sessions_does_not_hold_up_one_with_one() {
    let mut dispatch = Dispatch::<Ticket, u64>::new(SHARED);
    for ticket in 0..500 {
        dispatch.submit(ticket, "a", Some(ticket)).unwrap();
    }
    dispatch.submit(1000, "b", Some(1000)).unwrap();
    dispatch.submit(1001, "b", Some(1000)).unwrap();
    dispatch.submit(2000, "c", None).unwrap();
    let order = drained(&mut dispatch, 0);
    assert_eq!(order[..7], [0, 1000, 2000, 1, 1001, 2, 3], "principals in rotation, then sessions");
    assert_eq!(order.len(), 503);
    assert!(dispatch.principals.is_empty());
}

#[test]
fn a_free_place_goes_to_the_principal_with_the_fewest_turns() {
    let mut dispatch = Dispatch::<Ticket, u64>::new(QueueLimits { turns: 16, ..SHARED });
    let runs = |admission| admission == Ok((0, true));
    let a = (0..20).filter(|ticket| runs(dispatch.submit(*ticket, "a", None))).count();
    let b = (20..40).filter(|ticket| runs(dispatch.submit(*ticket, "b", None))).count();
    let owner = (40..60).filter(|ticket| runs(dispatch.submit(*ticket, OWNER, None))).count();
    assert_eq!((a, b, owner), (7, 4, 5), "nobody has all, and the owner what is left");
    assert_eq!(dispatch.leave(0), [45], "what a had goes to the owner, which is bound by nothing");
    dispatch.leave(45);
    assert_eq!(dispatch.counts().0, 16);
}

#[test]
fn a_principal_fills_its_share_of_the_queue_and_no_more() {
    let mut dispatch = Dispatch::<Ticket, u64>::new(SHARED);
    let mut taken = |principal: &str, from: u64| {
        let took = |ticket: &u64| {
            let admission = dispatch.submit(*ticket, principal, Some(*ticket));
            if let Err(full) = &admission {
                let Full::Queue(reached) = full else { panic!("{full:?}") };
                assert_eq!(reached.over, Over::Principal);
                let words = format!("{principal} holds its share of limits.max_queue (");
                assert!(reached.message.starts_with(&words), "{}", reached.message);
            }
            matches!(admission, Ok((_, false)))
        };
        (from..from + 2000).take_while(took).count()
    };
    assert_eq!(taken("a", 0), 0, "the first one runs");
    assert_eq!([taken("a", 10_000), taken("b", 20_000)], [750, 375]);
}
