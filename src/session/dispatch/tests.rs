//! The dispatch against a model: random arrivals and departures, checked after every step.

use std::time::Duration;

use super::*;
use crate::config::OWNER;
use crate::shares::Limit;
use crate::testing::Random;

type TurnId = u64;

/// All that start now.
fn fill<K: Copy + Default + PartialEq>(dispatch: &mut Dispatch<TurnId, K>) -> Vec<TurnId> {
    std::iter::from_fn(|| dispatch.start_next(None)).collect()
}

/// A new turn arrives: how many are before it, and whether it starts.
fn submit<K: Copy + Default + PartialEq>(
    dispatch: &mut Dispatch<TurnId, K>,
    turn: TurnId,
    principal: &str,
    session: Option<K>,
) -> Result<(usize, bool), LimitReached> {
    let before = dispatch.submit(turn, principal, session)?;
    let started = fill(dispatch);
    assert!(started.is_empty() || started == [turn], "{started:?} had waited for nothing");
    Ok((before, !started.is_empty()))
}

/// A turn leaves: who starts.
fn leave<K: Copy + Default + PartialEq>(
    dispatch: &mut Dispatch<TurnId, K>,
    turn: TurnId,
) -> Vec<TurnId> {
    dispatch.leave(turn);
    fill(dispatch)
}

/// The first turn of its session waits for a minute: who starts.
fn postpone(dispatch: &mut Dispatch<TurnId, &str>, turn: TurnId) -> Vec<TurnId> {
    dispatch.postpone(turn, Instant::now() + MINUTE);
    fill(dispatch)
}

/// That minute is over: who starts.
fn wake(dispatch: &mut Dispatch<TurnId, &str>) -> Vec<TurnId> {
    dispatch.wake(Instant::now());
    assert!(fill(dispatch).is_empty(), "it is not over yet");
    dispatch.wake(Instant::now() + MINUTE);
    fill(dispatch)
}

const MINUTE: Duration = Duration::from_secs(60);

const BOUNDS: QueueLimits =
    QueueLimits { turns: 3, queue: 8, queue_per_session: 4, shares: Shares { percent: 100 } };

#[test]
fn one_session_runs_in_order() {
    let mut dispatch = Dispatch::<TurnId, &str>::new(BOUNDS);
    assert_eq!(submit(&mut dispatch, 1, OWNER, Some("a")), Ok((0, true)));
    assert_eq!(submit(&mut dispatch, 2, OWNER, Some("a")), Ok((1, false)));
    assert_eq!(submit(&mut dispatch, 3, OWNER, Some("a")), Ok((2, false)));
    assert_eq!(leave(&mut dispatch, 1), [2]);
    assert_eq!(leave(&mut dispatch, 2), [3]);
    assert!(leave(&mut dispatch, 3).is_empty());
    assert_eq!((dispatch.counts(), dispatch.sessions()), ((0, 0), 0));
}

#[test]
fn places_go_round_the_sessions() {
    let mut dispatch = Dispatch::<TurnId, &str>::new(QueueLimits { turns: 1, ..BOUNDS });
    for (turn, session) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c")] {
        submit(&mut dispatch, turn, OWNER, Some(session)).unwrap();
    }
    let mut order = vec![1];
    while let [next] = leave(&mut dispatch, order[order.len() - 1])[..] {
        order.push(next);
    }
    assert_eq!(order, [1, 4, 5, 2, 3]);
}

#[test]
fn what_has_no_session_waits_for_nobody_but_a_place() {
    let mut dispatch = Dispatch::<TurnId, &str>::new(QueueLimits { turns: 1, ..BOUNDS });
    assert_eq!(submit(&mut dispatch, 1, OWNER, None), Ok((0, true)));
    assert_eq!(submit(&mut dispatch, 2, OWNER, None), Ok((0, false)));
    assert_eq!(leave(&mut dispatch, 1), [2]);
}

#[test]
fn queues_are_bounded_and_say_which() {
    let mut dispatch = Dispatch::<TurnId, &str>::new(BOUNDS);
    for turn in 0..5 {
        submit(&mut dispatch, turn, OWNER, Some("a")).unwrap();
    }
    let full = submit(&mut dispatch, 5, OWNER, Some("a")).unwrap_err();
    assert_eq!(full.over, Limit::Session);
    let words = "This session's limits.max_queue_per_session (4) is reached; try again later.";
    assert_eq!(full.message, words);
    assert_eq!(submit(&mut dispatch, 6, OWNER, Some("b")), Ok((0, true)));
    for turn in 7..11 {
        assert!(matches!(submit(&mut dispatch, turn, OWNER, Some("b")), Ok((_, false))));
    }
    assert_eq!(submit(&mut dispatch, 11, OWNER, Some("c")), Ok((0, true)));
    let reached = submit(&mut dispatch, 12, OWNER, None).unwrap_err();
    assert_eq!(reached.over, Limit::Gateway);
    assert_eq!(reached.message, "The gateway's limits.max_queue (8) is reached; try again later.");
    assert!(leave(&mut dispatch, 5).is_empty(), "a refused turn is not known");
}

#[test]
fn more_places_start_those_who_wait() {
    let mut dispatch = Dispatch::<TurnId, &str>::new(QueueLimits { turns: 1, ..BOUNDS });
    for turn in 1..4 {
        submit(&mut dispatch, turn, OWNER, None).unwrap();
    }
    dispatch.limits = BOUNDS;
    assert_eq!(fill(&mut dispatch), [2, 3]);
}

/// What a turn does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Waits,
    Runs,
    Parked,
    /// It was parked, and wants a slot again.
    WaitsAgain,
}

/// The plain truth beside the dispatch: every turn in order of arrival, its session, and what it does.
#[derive(Default)]
struct Model(Vec<(TurnId, Option<usize>, Does)>);

impl Model {
    fn start(&mut self, turns: &[TurnId]) {
        for turn in turns {
            let place = self.0.iter().position(|t| t.0 == *turn).expect("a known turn");
            let session = self.0[place].1;
            let earlier = |t: &&(TurnId, Option<usize>, Does)| session.is_some() && t.1 == session;
            assert!(self.0[..place].iter().find(earlier).is_none(), "out of order");
            assert!(matches!(self.0[place].2, Does::Waits | Does::WaitsAgain), "started twice");
            self.0[place].2 = Does::Runs;
        }
    }

    /// One of those that do this.
    fn any(&self, does: Does, random: &mut Random) -> Option<usize> {
        let all = self.0.iter().enumerate().filter(|(_, t)| t.2 == does);
        let all: Vec<usize> = all.map(|(at, _)| at).collect();
        (!all.is_empty()).then(|| all[random.below(all.len())])
    }

    fn check(&self, dispatch: &Dispatch<TurnId, usize>) {
        let count = |does| self.0.iter().filter(|t| t.2 == does).count();
        let (running, parked) = (count(Does::Runs), count(Does::Parked));
        assert_eq!(dispatch.counts(), (running, self.0.len() - running - parked));
        assert!(running <= BOUNDS.turns && parked <= BOUNDS.turns);
        let loads = dispatch.principals.values();
        assert_eq!(loads.map(|load| load.parked).sum::<usize>(), parked);
        // Nobody waits without a reason: all places taken, or somebody of its session before it.
        let waits = |t: &(TurnId, Option<usize>, Does)| !matches!(t.2, Does::Runs | Does::Parked);
        let idle = self.0.iter().enumerate().filter(|(_, t)| waits(t)).any(|(at, t)| {
            running < BOUNDS.turns && !self.0[..at].iter().any(|e| t.1.is_some() && e.1 == t.1)
        });
        assert!(!idle, "a place is free and somebody waits for it");
    }
}

#[test]
fn random_arrivals_and_departures_agree_with_the_model() {
    let mut full = 0;
    for seed in 1..=200 {
        let mut random = Random::new(seed);
        let mut dispatch = Dispatch::<TurnId, usize>::new(BOUNDS);
        let mut model = Model::default();
        for turn in 0..400 {
            match random.below(8) {
                0 => {
                    if let Some(at) = model.any(Does::Runs, &mut random) {
                        let parked = model.0.iter().filter(|t| t.2 == Does::Parked).count();
                        assert_eq!(dispatch.park(model.0[at].0), parked < BOUNDS.turns);
                        full += usize::from(parked == BOUNDS.turns);
                        if parked < BOUNDS.turns {
                            model.0[at].2 = Does::Parked;
                        }
                        model.start(&fill(&mut dispatch));
                    }
                }
                1 => {
                    if let Some(at) = model.any(Does::Parked, &mut random) {
                        model.0[at].2 = Does::WaitsAgain;
                        dispatch.unpark(model.0[at].0);
                        model.start(&fill(&mut dispatch));
                    }
                }
                2 => {
                    // It gives up while it waits to go on, or is to run again.
                    let again = model.any(Does::WaitsAgain, &mut random);
                    let parked = model.0.iter().filter(|t| t.2 == Does::Parked).count();
                    if let Some(at) = again.filter(|_| parked < BOUNDS.turns) {
                        assert!(dispatch.park(model.0[at].0));
                        model.0[at].2 = Does::Parked;
                    } else if let Some(at) = model.any(Does::Parked, &mut random) {
                        dispatch.release(model.0[at].0);
                        model.0[at].2 = Does::Waits;
                    }
                    model.start(&fill(&mut dispatch));
                }
                3..6 => {
                    let session = Some(random.below(5)).filter(|s| *s > 0);
                    match submit(&mut dispatch, turn, OWNER, session) {
                        Ok((position, true)) => {
                            assert_eq!(position, 0);
                            model.0.push((turn, session, Does::Waits));
                            model.start(&[turn]);
                        }
                        Ok((position, false)) => {
                            let before = model.0.iter().filter(|t| t.1.is_some() && t.1 == session);
                            assert_eq!(position, before.count());
                            model.0.push((turn, session, Does::Waits));
                        }
                        Err(_) => {}
                    }
                }
                _ if model.0.is_empty() => {}
                _ => {
                    let (gone, ..) = model.0.remove(random.below(model.0.len()));
                    let started = leave(&mut dispatch, gone);
                    model.start(&started);
                }
            }
            model.check(&dispatch);
        }
    }
    assert!(full > 0, "never were as many parked as may be");
}

#[test]
fn a_parked_turn_gives_its_place_away_and_comes_before_its_session() {
    let mut dispatch = Dispatch::<TurnId, &str>::new(QueueLimits { turns: 1, ..BOUNDS });
    for (turn, session) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
        submit(&mut dispatch, turn, OWNER, Some(session)).unwrap();
    }
    assert!(dispatch.park(1));
    assert_eq!((fill(&mut dispatch), dispatch.counts()), (vec![3], (1, 2)));
    // It takes no room in its session's queue.
    for turn in 10..13 {
        submit(&mut dispatch, turn, OWNER, Some("a")).unwrap();
    }
    let full = submit(&mut dispatch, 13, OWNER, Some("a")).unwrap_err();
    assert_eq!(full.over, Limit::Session);
    for turn in 10..13 {
        leave(&mut dispatch, turn);
    }
    assert!(!dispatch.park(3), "one is parked, and one may run");
    assert!(!dispatch.park(1) && !dispatch.park(2), "it is parked, and the other is not the first");
    dispatch.unpark(1);
    assert!(fill(&mut dispatch).is_empty(), "3 has the place");
    assert_eq!(dispatch.counts(), (1, 3));
    assert_eq!(leave(&mut dispatch, 3), [1], "a has waited for longer than the second of b");
    dispatch.unpark(1);
    assert!(dispatch.park(1));
    assert_eq!(fill(&mut dispatch), [4]);
    // One that leaves while it is parked makes room for the next of its session.
    assert!(leave(&mut dispatch, 1).is_empty());
    assert_eq!(leave(&mut dispatch, 4), [2]);
    dispatch.release(2);
    assert_eq!(dispatch.counts(), (0, 1));
    assert_eq!(fill(&mut dispatch), [2], "one that was released runs again");
    leave(&mut dispatch, 2);
    assert!(dispatch.principals.is_empty());
}

#[test]
fn nobody_parks_all_that_may_be() {
    let mut dispatch = Dispatch::<TurnId, u64>::new(QueueLimits { turns: 16, ..SHARED });
    let mut parks = |principal: &str, from: u64| {
        let mut parked = |turn: &u64| {
            submit(&mut dispatch, *turn, principal, None).unwrap();
            dispatch.park(*turn)
        };
        (from..from + 16).take_while(|turn| parked(turn)).count()
    };
    assert_eq!([parks("a", 0), parks("b", 100)], [7, 4]);
}

#[test]
fn a_turn_that_rests_holds_up_its_session_and_nobody_else() {
    let mut dispatch = Dispatch::<TurnId, &str>::new(QueueLimits { turns: 1, ..BOUNDS });
    for (turn, session) in [(1, "a"), (2, "a"), (3, "b")] {
        submit(&mut dispatch, turn, OWNER, Some(session)).unwrap();
    }
    assert_eq!(postpone(&mut dispatch, 1), [3]);
    assert_eq!(dispatch.counts(), (1, 2));
    assert!(leave(&mut dispatch, 3).is_empty(), "2 is behind 1, and 1 rests");
    assert_eq!(wake(&mut dispatch), [1]);
    assert_eq!(leave(&mut dispatch, 1), [2]);
    // One that leaves while it rests makes room for the next of its session.
    assert!(postpone(&mut dispatch, 2).is_empty());
    submit(&mut dispatch, 4, OWNER, Some("a")).unwrap();
    assert_eq!(leave(&mut dispatch, 2), [4]);
}

#[test]
fn what_comes_back_from_before_the_start_keeps_its_order() {
    let mut dispatch = Dispatch::<TurnId, &str>::new(QueueLimits { turns: 2, queue: 1, ..BOUNDS });
    for (turn, session) in [(1, "a"), (2, "a"), (3, "b"), (4, "c")] {
        dispatch.restore(turn, OWNER, Some(session));
    }
    assert_eq!(dispatch.counts(), (0, 4));
    assert_eq!(fill(&mut dispatch), [1, 3]);
    assert_eq!(dispatch.turns_of(Some("a")).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(leave(&mut dispatch, 1), [4], "c has waited for longer than the second of a");
}

#[test]
fn what_rested_before_a_start_holds_up_its_session_alone() {
    let mut dispatch = Dispatch::<TurnId, &str>::new(BOUNDS);
    for (turn, session) in [(1, "a"), (2, "a"), (3, "b")] {
        dispatch.restore(turn, OWNER, Some(session));
    }
    assert_eq!(postpone(&mut dispatch, 1), [3]);
    assert!(postpone(&mut dispatch, 2).is_empty());
    assert_eq!(dispatch.counts(), (1, 2));
    assert_eq!(wake(&mut dispatch), [1]);
    assert_eq!(leave(&mut dispatch, 1), [2], "only the first of a session can rest");
}

/// Those that start when each that runs leaves at once, in the order in which they start.
fn drained(dispatch: &mut Dispatch<TurnId, u64>, running: TurnId) -> Vec<TurnId> {
    let mut order = vec![running];
    let mut at = 0;
    while at < order.len() {
        order.extend(leave(dispatch, order[at]));
        at += 1;
    }
    order
}

const SHARED: QueueLimits =
    QueueLimits { turns: 1, queue: 1600, queue_per_session: 32, shares: Shares { percent: 50 } };

#[test]
fn a_principal_with_a_thousand_sessions_does_not_hold_up_one_with_one() {
    let mut dispatch = Dispatch::<TurnId, u64>::new(SHARED);
    for turn in 0..500 {
        submit(&mut dispatch, turn, "a", Some(turn)).unwrap();
    }
    submit(&mut dispatch, 1000, "b", Some(1000)).unwrap();
    submit(&mut dispatch, 1001, "b", Some(1000)).unwrap();
    submit(&mut dispatch, 2000, "c", None).unwrap();
    let order = drained(&mut dispatch, 0);
    assert_eq!(order[..7], [0, 1000, 2000, 1, 1001, 2, 3], "principals in rotation, then sessions");
    assert_eq!(order.len(), 503);
    assert!(dispatch.principals.is_empty());
}

#[test]
fn a_free_place_goes_to_the_principal_with_the_fewest_turns() {
    let mut dispatch = Dispatch::<TurnId, u64>::new(QueueLimits { turns: 16, ..SHARED });
    let runs = |admission| admission == Ok((0, true));
    let a = (0..20).filter(|turn| runs(submit(&mut dispatch, *turn, "a", None))).count();
    let b = (20..40).filter(|turn| runs(submit(&mut dispatch, *turn, "b", None))).count();
    let owner = (40..60).filter(|turn| runs(submit(&mut dispatch, *turn, OWNER, None))).count();
    assert_eq!((a, b, owner), (7, 4, 5), "nobody has all, and the owner what is left");
    assert_eq!(
        leave(&mut dispatch, 0),
        [45],
        "what a had goes to the owner, which is bound by nothing"
    );
    leave(&mut dispatch, 45);
    assert_eq!(dispatch.counts().0, 16);
}

#[test]
fn a_principal_fills_its_share_of_the_queue_and_no_more() {
    let mut dispatch = Dispatch::<TurnId, u64>::new(SHARED);
    let mut taken = |principal: &str, from: u64| {
        let took = |turn: &u64| {
            let admission = submit(&mut dispatch, *turn, principal, Some(*turn));
            if let Err(reached) = &admission {
                assert_eq!(reached.over, Limit::Principal);
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

/// On a channel each person is a principal. With the cube of their number this takes minutes.
#[test]
fn many_who_wait_are_served_within_seconds() {
    const MANY: u64 = 1500;
    let mut dispatch = Dispatch::<TurnId, u64>::new(QueueLimits { queue: 10_000, ..BOUNDS });
    let begun = Instant::now();
    for turn in 0..MANY {
        dispatch.restore(turn, &turn.to_string(), Some(turn));
    }
    let mut running = VecDeque::from(fill(&mut dispatch));
    let mut served = 0;
    while let Some(turn) = running.pop_front() {
        served += 1;
        running.extend(leave(&mut dispatch, turn));
    }
    assert_eq!(served, MANY);
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(20), "{taken:?}");
}
