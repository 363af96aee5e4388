//! The queue of one target: what is sent next, and when. Pure: times come in.
//!
//! For one sender a target. It hands in [`Event::Due`] and does what the [`Act`] says, with the record
//! of it on disk first: after `Send` it makes the attempt and hands in what came of it; after `Expire`
//! it writes the dead letter and hands in `Expired`; after `Wait` it sleeps until then or until
//! something is queued. Others hand in `Queue`, `Revived` and `Dropped` under the same lock.
//!
//! The order of the queue is never left: a head that was put off holds up those behind it until it is
//! due, delivered or dead. Other targets have queues of their own.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Instant;

#[derive(Debug, Default)]
pub struct Outbox {
    state: State,
    queue: VecDeque<Entry>,
    /// Oldest first.
    dead: Vec<u128>,
}

/// A reply that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: u128,
    /// Begun so far.
    pub attempts: u32,
    /// From here on no attempt begins.
    pub expires: Instant,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing is under way; the head, if there is one, is due.
    #[default]
    Idle,
    /// The head is under way.
    Sending,
    /// The head was put off.
    Resting { until: Instant },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Queue(Entry),
    /// The sender asks, at this time.
    Due(Instant),
    Delivered,
    Deferred {
        not_before: Instant,
    },
    Refused,
    Expired,
    /// A dead letter goes to the end of the queue, with a new life.
    Revived {
        id: u128,
        expires: Instant,
    },
    /// A dead letter is forgotten.
    Dropped(u128),
    /// The process has begun anew: what was under way may have arrived, and is sent again.
    Restart,
}

/// What follows from an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Ask again, with the time.
    Ask,
    Send {
        id: u128,
        attempt: u32,
    },
    /// Too old: make a dead letter of it.
    Expire {
        id: u128,
    },
    /// Nothing before then; `None`: before something is queued.
    Wait {
        until: Option<Instant>,
    },
    /// It cannot happen now, or names what is not here. Nothing has changed.
    Impossible,
}

impl Outbox {
    pub fn state(&self) -> State {
        self.state
    }

    pub fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.queue.iter()
    }

    pub fn dead(&self) -> &[u128] {
        &self.dead
    }

    pub fn on(&mut self, event: Event) -> Act {
        match (self.state, event) {
            (State::Idle | State::Sending | State::Resting { .. }, Event::Queue(entry)) => {
                if self.knows(entry.id) {
                    return Act::Impossible;
                }
                self.queue.push_back(entry);
                Act::Ask
            }
            (State::Idle, Event::Due(now)) => self.begin(now, now),
            (State::Resting { until }, Event::Due(now)) => self.begin(now, until),
            (State::Sending, Event::Due(_)) => Act::Impossible,
            (State::Sending, Event::Delivered) => self.leave(false),
            (State::Sending, Event::Refused) => self.leave(true),
            (State::Sending, Event::Deferred { not_before }) => {
                self.state = State::Resting { until: not_before };
                Act::Ask
            }
            (State::Idle | State::Resting { .. }, Event::Expired) => self.leave(true),
            (State::Sending, Event::Expired)
            | (
                State::Idle | State::Resting { .. },
                Event::Delivered | Event::Deferred { .. } | Event::Refused,
            ) => Act::Impossible,
            (
                State::Idle | State::Sending | State::Resting { .. },
                Event::Revived { id, expires },
            ) => {
                if !self.bury(id) {
                    return Act::Impossible;
                }
                self.queue.push_back(Entry { id, attempts: 0, expires });
                Act::Ask
            }
            (State::Idle | State::Sending | State::Resting { .. }, Event::Dropped(id)) => {
                if self.bury(id) { Act::Ask } else { Act::Impossible }
            }
            (State::Idle | State::Sending | State::Resting { .. }, Event::Restart) => {
                self.state = State::Idle;
                Act::Ask
            }
        }
    }

    /// Begins an attempt at the head, which is due at `due`.
    fn begin(&mut self, now: Instant, due: Instant) -> Act {
        match self.queue.front_mut() {
            None => Act::Wait { until: None },
            Some(head) if now >= head.expires => Act::Expire { id: head.id },
            Some(head) if now < due => Act::Wait { until: Some(due.min(head.expires)) },
            Some(head) => {
                head.attempts = head.attempts.saturating_add(1);
                self.state = State::Sending;
                Act::Send { id: head.id, attempt: head.attempts }
            }
        }
    }

    /// The head leaves the queue.
    fn leave(&mut self, dead: bool) -> Act {
        let Some(head) = self.queue.pop_front() else {
            return Act::Impossible;
        };
        self.state = State::Idle;
        if dead {
            self.dead.push(head.id);
        }
        Act::Ask
    }

    /// Takes a dead letter away, if there is one of that id.
    fn bury(&mut self, id: u128) -> bool {
        let at = self.dead.iter().position(|dead| *dead == id);
        at.map(|at| self.dead.remove(at)).is_some()
    }

    fn knows(&self, id: u128) -> bool {
        self.dead.contains(&id) || self.queue.iter().any(|entry| entry.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    fn entry(id: u128, expires: Instant) -> Entry {
        Entry { id, attempts: 0, expires }
    }

    #[test]
    fn a_head_that_is_put_off_holds_up_what_is_behind_it() {
        let mut outbox = Outbox::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(outbox.on(Event::Due(at(0))), Act::Wait { until: None });
        outbox.on(Event::Queue(entry(1, at(100))));
        outbox.on(Event::Queue(entry(2, at(1000))));
        assert_eq!(outbox.on(Event::Queue(entry(2, at(1000)))), Act::Impossible);
        assert_eq!(outbox.on(Event::Due(at(0))), Act::Send { id: 1, attempt: 1 });
        assert_eq!(outbox.on(Event::Due(at(0))), Act::Impossible);
        outbox.on(Event::Deferred { not_before: at(10) });
        assert_eq!(outbox.on(Event::Due(at(9))), Act::Wait { until: Some(at(10)) });
        assert_eq!(outbox.on(Event::Due(at(10))), Act::Send { id: 1, attempt: 2 });
        outbox.on(Event::Deferred { not_before: at(200) });
        assert_eq!(outbox.on(Event::Due(at(11))), Act::Wait { until: Some(at(100)) });
        assert_eq!(outbox.on(Event::Due(at(100))), Act::Expire { id: 1 });
        outbox.on(Event::Expired);
        assert_eq!(outbox.on(Event::Due(at(100))), Act::Send { id: 2, attempt: 1 });
        outbox.on(Event::Restart);
        assert_eq!(outbox.on(Event::Due(at(100))), Act::Send { id: 2, attempt: 2 });
        assert_eq!(outbox.on(Event::Refused), Act::Ask);
        assert_eq!(outbox.dead(), [1, 2]);
        outbox.on(Event::Dropped(2));
        outbox.on(Event::Revived { id: 1, expires: at(999) });
        assert_eq!(outbox.on(Event::Due(at(100))), Act::Send { id: 1, attempt: 1 });
        assert_eq!(outbox.on(Event::Delivered), Act::Ask);
        assert!(outbox.dead().is_empty() && outbox.waiting().next().is_none());
    }

    /// xorshift64: the same numbers on every run.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, end: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % end
        }
    }

    /// Where a reply is, as somebody sees it who only keeps the ends.
    #[derive(Default)]
    struct Model {
        /// Not yet delivered or dead, in order of queueing.
        order: Vec<u128>,
        dead: BTreeSet<u128>,
        gone: BTreeSet<u128>,
        attempts: BTreeMap<u128, u32>,
        expires: BTreeMap<u128, Instant>,
        not_before: Option<Instant>,
        sending: bool,
    }

    impl Model {
        fn ends(&mut self, dead: bool) {
            let id = self.order.remove(0);
            if dead {
                self.dead.insert(id)
            } else {
                self.gone.insert(id)
            };
            (self.sending, self.not_before) = (false, None);
        }

        /// What must come of a question at `now`.
        fn answer(&mut self, now: Instant) -> Act {
            let Some(&id) = self.order.first() else { return Act::Wait { until: None } };
            if self.sending {
                return Act::Impossible;
            }
            let expires = self.expires[&id];
            if expires <= now {
                return Act::Expire { id };
            }
            if let Some(until) = self.not_before.filter(|until| *until > now) {
                return Act::Wait { until: Some(until.min(expires)) };
            }
            self.sending = true;
            let attempts = self.attempts.entry(id).or_default();
            *attempts += 1;
            Act::Send { id, attempt: *attempts }
        }
    }

    #[test]
    fn any_events_in_any_order_agree_with_a_model() {
        let (start, mut now) = (Instant::now(), Instant::now());
        let mut chance = Chance(0x9E37_79B9_7F4A_7C15);
        let (mut outbox, mut model, mut queued) = (Outbox::default(), Model::default(), 0);
        for _ in 0..20_000 {
            let step = Duration::from_millis(chance.below(400));
            let some = u128::from(chance.below(queued.max(1)));
            let live = now + Duration::from_secs(chance.below(20));
            match chance.below(16) {
                0..2 => {
                    let id = u128::from(queued);
                    queued += 1;
                    assert_eq!(outbox.on(Event::Queue(entry(id, live))), Act::Ask);
                    model.order.push(id);
                    model.expires.insert(id, live);
                }
                2 => {
                    let known = model.order.contains(&some) || model.dead.contains(&some);
                    if known {
                        assert_eq!(outbox.on(Event::Queue(entry(some, live))), Act::Impossible);
                    }
                }
                3..9 => {
                    now += step;
                    let act = outbox.on(Event::Due(now));
                    assert_eq!(act, model.answer(now));
                    if let Act::Expire { .. } = act {
                        assert_eq!(outbox.on(Event::Expired), Act::Ask);
                        model.ends(true);
                    }
                }
                9..12 if model.sending => {
                    let (event, dead) = match chance.below(3) {
                        0 => (Event::Delivered, Some(false)),
                        1 => (Event::Refused, Some(true)),
                        _ => (Event::Deferred { not_before: now + step * 8 }, None),
                    };
                    assert_eq!(outbox.on(event), Act::Ask);
                    match dead {
                        Some(dead) => model.ends(dead),
                        None => (model.sending, model.not_before) = (false, Some(now + step * 8)),
                    }
                }
                9..12 => {
                    for event in
                        [Event::Delivered, Event::Refused, Event::Deferred { not_before: now }]
                    {
                        assert_eq!(outbox.on(event), Act::Impossible);
                    }
                }
                12 => {
                    let act = outbox.on(Event::Revived { id: some, expires: live });
                    assert_eq!(act == Act::Ask, model.dead.remove(&some));
                    if act == Act::Ask {
                        model.order.push(some);
                        model.attempts.remove(&some);
                        model.expires.insert(some, live);
                    }
                }
                13 => {
                    let dropped = outbox.on(Event::Dropped(some)) == Act::Ask;
                    assert_eq!(dropped, model.dead.remove(&some));
                }
                14 if chance.below(8) == 0 => {
                    assert_eq!(outbox.on(Event::Restart), Act::Ask);
                    (model.sending, model.not_before) = (false, None);
                }
                _ if model.sending => assert_eq!(outbox.on(Event::Expired), Act::Impossible),
                _ => {}
            }
            let waiting: Vec<u128> = outbox.waiting().map(|entry| entry.id).collect();
            assert_eq!(waiting, model.order);
            assert_eq!(outbox.state() == State::Sending, model.sending);
            assert_eq!(outbox.dead().iter().copied().collect::<BTreeSet<_>>(), model.dead);
            if model.order.len() + model.dead.len() > 40 {
                (outbox, model) = (Outbox::default(), Model::default());
            }
        }
        assert!(now > start);
    }
}
