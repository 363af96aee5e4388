//! Which turn runs next. Pure: turns and times come in, those that start come out.
//!
//! Within a session one turn runs at a time, in order of arrival. Across sessions up to `max_turns`
//! run at once. A free slot goes to the principal with the fewest turns, in rotation where they
//! are equal, and goes round that principal's sessions: no queue holds up another, however long
//! and in however many sessions. Slots and queue are shared: see [`crate::shares`]. A turn that is
//! postponed to its next attempt gives its slot away and still holds up its session: order holds
//! across attempts. One that is parked does the same in the middle of an attempt.

use std::{collections::VecDeque, time::Instant};

use crate::named::ByName;
use crate::shares::{Limit, LimitReached, Shares};

/// How much may run and wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueLimits {
    pub turns: usize,
    pub queue: usize,
    pub queue_per_session: usize,
    pub shares: Shares,
}

/// What the first turn of a queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Waits,
    Runs,
    /// Until then, or until [`Dispatch::wake`] comes later.
    Postponed(Instant),
    /// Has begun, and needs no slot before [`Dispatch::unpark`].
    Parked,
}

/// Those of one session, or one without a session, in the order of their arrival.
#[derive(Debug)]
struct Queue<T, K> {
    /// `None`: a turn without a session, which has a queue to itself.
    session: Option<K>,
    principal: String,
    head: Head,
    turns: VecDeque<T>,
}

/// A principal.
#[derive(Debug, Default)]
struct PrincipalLoad {
    running: usize,
    waiting: usize,
    parked: usize,
    /// When it last got a slot, by [`Dispatch::started`].
    served: u64,
}

impl PrincipalLoad {
    /// Where a turn counts that does this.
    fn count(&mut self, head: Head) -> &mut usize {
        match head {
            Head::Waits | Head::Postponed(_) => &mut self.waiting,
            Head::Runs => &mut self.running,
            Head::Parked => &mut self.parked,
        }
    }
}

/// The whole state; `T` is a turn's id, never handed in twice, and `K` tells sessions apart. The queues are
/// as many as may run and wait at the most, and are looked through from end to end: a thousand of them
/// take microseconds.
#[derive(Debug, Default)]
pub struct Dispatch<T, K> {
    /// What runs or waits already stays when they change.
    pub limits: QueueLimits,
    /// What comes waits, also where a slot is free.
    pub held: bool,
    /// Those that do not run stand in the order in which they are served.
    queues: Vec<Queue<T, K>>,
    /// Forgotten when there are no queues: a key of the configuration each.
    principals: ByName<PrincipalLoad>,
    /// Turns that have started.
    started: u64,
}

impl<T: Copy + Default + PartialEq, K: Copy + Default + PartialEq> Dispatch<T, K> {
    pub fn new(limits: QueueLimits) -> Dispatch<T, K> {
        Dispatch { limits, ..Dispatch::default() }
    }

    /// A new turn arrives, of this principal. Returns how many of its session are before it, the
    /// running one included.
    ///
    /// # Errors
    /// No room: too many wait in its session, of its principal, or in all.
    pub fn submit(
        &mut self,
        turn: T,
        principal: &str,
        session: Option<K>,
    ) -> Result<usize, LimitReached> {
        let queue = self.queue_of(session).map(|at| &self.queues[at]);
        let before = queue.map_or(0, |queue| queue.turns.len());
        let begun = |queue: &Queue<T, K>| matches!(queue.head, Head::Runs | Head::Parked);
        let waiting = before - usize::from(queue.is_some_and(begun));
        if before > 0 || self.held || !self.may_run(principal, self.counts().0) {
            let held = (self.principals.of(principal).waiting as u64, self.counts().1 as u64);
            let limit = ("limits.max_queue", self.limits.queue as u64);
            self.limits.shares.admit(principal, held, 1, limit)?;
            let most = self.limits.queue_per_session;
            if waiting >= most {
                let (key, held) = ("limits.max_queue_per_session", (waiting as u64, most as u64));
                return Err(Limit::Session.reached(principal, key, held));
            }
        }
        self.restore(turn, principal, session);
        Ok(before)
    }

    /// A turn from before the start comes back, whatever the limits say.
    pub fn restore(&mut self, turn: T, principal: &str, session: Option<K>) {
        self.principals.of(principal).waiting += 1;
        let (principal, turns) = (principal.to_owned(), VecDeque::from([turn]));
        match self.queue_of(session) {
            Some(at) => self.queues[at].turns.push_back(turn),
            None => self.queues.push(Queue { session, principal, head: Head::Waits, turns }),
        }
    }

    /// A turn is done, or does not want to wait any more.
    pub fn leave(&mut self, turn: T) {
        let position = |queue: &Queue<T, K>| queue.turns.iter().position(|t| *t == turn);
        let found = (0..self.queues.len()).find_map(|at| Some((at, position(&self.queues[at])?)));
        let Some((at, position)) = found else { return };
        let mut queue = self.queues.remove(at);
        queue.turns.remove(position);
        let ran = matches!(queue.head, Head::Runs | Head::Parked) && position == 0;
        let head = if position == 0 { queue.head } else { Head::Waits };
        *self.principals.of(&queue.principal).count(head) -= 1;
        if position == 0 {
            queue.head = Head::Waits;
        }
        if !queue.turns.is_empty() {
            // It was served: the others come first now.
            let to = if ran { self.queues.len() } else { at };
            self.queues.insert(to, queue);
        }
        if self.queues.is_empty() {
            self.principals = ByName::default();
        }
    }

    /// The first turn of its session waits until then; one that runs gives its slot away.
    pub fn postpone(&mut self, turn: T, until: Instant) {
        self.turn_head(turn, |_| true, Head::Postponed(until));
    }

    /// One that runs needs no slot for now: it counts neither as running nor as waiting, and still holds up
    /// its session. False, and nothing changes: as many are parked, of its principal or in all, as may run.
    /// One that waits to go on is parked again in any case.
    pub fn park(&mut self, turn: T) -> bool {
        let headed = |queue: &&Queue<T, K>| queue.turns.front() == Some(&turn);
        let Some(queue) = self.queues.iter().find(headed) else { return false };
        let own = self.principals.get(&queue.principal).map_or(0, |load| load.parked as u64);
        let all: usize = self.principals.values().map(|load| load.parked).sum();
        let (held, limits) = ((own, all as u64), self.limits);
        let room = limits.shares.check(&queue.principal, held, 1, limits.turns as u64).is_ok();
        let may = queue.head == Head::Waits || queue.head == Head::Runs && room;
        may && self.turn_head(turn, |_| true, Head::Parked)
    }

    /// A parked one wants a slot again, before those behind it in its session.
    pub fn unpark(&mut self, turn: T) {
        self.turn_head(turn, |head| head == Head::Parked, Head::Waits);
    }

    /// One that runs or is parked gives its slot away and waits for another, before those behind it in its
    /// session.
    pub fn release(&mut self, turn: T) {
        self.turn_head(turn, |head| matches!(head, Head::Runs | Head::Parked), Head::Waits);
    }

    /// Has the first turn of a session do another thing, if it does what `from` says.
    fn turn_head(&mut self, turn: T, from: fn(Head) -> bool, to: Head) -> bool {
        let headed = |queue: &&mut Queue<T, K>| queue.turns.front() == Some(&turn);
        let queue = self.queues.iter_mut().find(headed).filter(|queue| from(queue.head));
        let Some(queue) = queue else { return false };
        let before = std::mem::replace(&mut queue.head, to);
        let load = self.principals.of(&queue.principal);
        *load.count(before) -= 1;
        *load.count(to) += 1;
        true
    }

    /// Those that were postponed until now want to run again.
    pub fn wake(&mut self, now: Instant) {
        for queue in &mut self.queues {
            if matches!(queue.head, Head::Postponed(until) if until <= now) {
                queue.head = Head::Waits;
            }
        }
    }

    /// Those that are postponed, and until when.
    pub fn postponed(&self) -> impl Iterator<Item = (T, Instant)> {
        self.queues.iter().filter_map(|queue| match queue.head {
            Head::Postponed(until) => Some((*queue.turns.front()?, until)),
            Head::Waits | Head::Runs | Head::Parked => None,
        })
    }

    /// How many run and how many wait.
    pub fn counts(&self) -> (usize, usize) {
        let sum = |of: fn(&PrincipalLoad) -> usize| self.principals.values().map(of).sum();
        (sum(|load| load.running), sum(|load| load.waiting))
    }

    /// How many sessions have a turn that runs or waits.
    pub fn sessions(&self) -> usize {
        self.queues.iter().filter(|queue| queue.session.is_some()).count()
    }

    /// The turns of a session in their order; none without a session.
    pub fn turns_of(&self, session: Option<K>) -> impl Iterator<Item = T> {
        let queue = self.queue_of(session).map(|at| &self.queues[at]);
        queue.into_iter().flat_map(|queue| queue.turns.iter().copied())
    }

    /// How many turns of each principal wait.
    pub fn waiting(&self) -> impl Iterator<Item = (&str, u64)> {
        self.principals.iter().map(|(name, load)| (name.as_str(), load.waiting as u64))
    }

    /// Starts the next turn: where some are `wanted`, one of these or what is before it in its session.
    /// `None`: no slot is free, or nobody waits for it. To be called until then after every change.
    pub fn start_next(&mut self, wanted: Option<&[T]>) -> Option<T> {
        let is_wanted = |queue: &Queue<T, K>| {
            wanted.is_none_or(|wanted| queue.turns.iter().any(|turn| wanted.contains(turn)))
        };
        let running = self.counts().0;
        let waits = |queue: &Queue<T, K>| self.is_next(queue, running) && is_wanted(queue);
        let order = |at: &usize| {
            let load = self.principals.get(&self.queues[*at].principal);
            load.map(|load| (load.running, load.served))
        };
        let queues = (0..self.queues.len()).filter(|at| waits(&self.queues[*at]));
        let next = queues.min_by_key(order)?;
        let first = self.queues[next].turns.front().copied()?;
        self.turn_head(first, |_| true, Head::Runs);
        self.started += 1;
        self.principals.of(&self.queues[next].principal).served = self.started;
        Some(first)
    }

    /// Whether there is a turn that could be started, and was not.
    pub fn may_start(&self) -> bool {
        let running = self.counts().0;
        self.queues.iter().any(|queue| self.is_next(queue, running))
    }

    fn is_next(&self, queue: &Queue<T, K>, running: usize) -> bool {
        queue.head == Head::Waits && self.may_run(&queue.principal, running)
    }

    /// Whether there is a slot for one more turn of this principal, where so many run.
    fn may_run(&self, principal: &str, running: usize) -> bool {
        let own = self.principals.get(principal).map_or(0, |load| load.running);
        let (held, limits) = ((own as u64, running as u64), self.limits);
        limits.shares.check(principal, held, 1, limits.turns as u64).is_ok()
    }

    fn queue_of(&self, session: Option<K>) -> Option<usize> {
        let session = session?;
        self.queues.iter().position(|queue| queue.session == Some(session))
    }
}

#[cfg(test)]
mod tests;
