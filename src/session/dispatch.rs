//! Which turn runs next. Pure: turns and times come in, those that start come out.
//!
//! Within a session one turn runs at a time, in order of arrival. Across sessions up to `max_turns`
//! run at once. A free slot goes to the principal with the fewest turns, in rotation where they
//! are equal, and goes round that principal's sessions: no queue holds up another, however long
//! and in however many sessions. Slots and queue are shared: see [`crate::shares`]. A turn that is
//! postponed to its next attempt gives its slot away and still holds up its session: order holds
//! across attempts.

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
    /// When it last got a slot, by [`Dispatch::started`].
    served: u64,
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
        let waiting = before - usize::from(queue.is_some_and(|queue| queue.head == Head::Runs));
        if before > 0 || self.held || !self.may_run(principal) {
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
        self.count(principal, 0, 1);
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
        let ran = queue.head == Head::Runs && position == 0;
        self.count(&queue.principal, -isize::from(ran), -isize::from(!ran));
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
        let headed = |queue: &&mut Queue<T, K>| queue.turns.front() == Some(&turn);
        let Some(queue) = self.queues.iter_mut().find(headed) else { return };
        let ran = std::mem::replace(&mut queue.head, Head::Postponed(until)) == Head::Runs;
        let principal = queue.principal.clone();
        self.count(&principal, -isize::from(ran), isize::from(ran));
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
            Head::Waits | Head::Runs => None,
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
        let waits = |queue: &Queue<T, K>| self.is_next(queue) && is_wanted(queue);
        let order = |at: &usize| {
            let load = self.principals.get(&self.queues[*at].principal);
            load.map(|load| (load.running, load.served))
        };
        let queues = (0..self.queues.len()).filter(|at| waits(&self.queues[*at]));
        let next = queues.min_by_key(order)?;
        let queue = &mut self.queues[next];
        queue.head = Head::Runs;
        let (first, principal) = (queue.turns.front().copied(), queue.principal.clone());
        self.count(&principal, 1, -1);
        self.started += 1;
        self.principals.of(&principal).served = self.started;
        first
    }

    /// Whether there is a turn that could be started, and was not.
    pub fn may_start(&self) -> bool {
        self.queues.iter().any(|queue| self.is_next(queue))
    }

    fn is_next(&self, queue: &Queue<T, K>) -> bool {
        queue.head == Head::Waits && self.may_run(&queue.principal)
    }

    /// Whether there is a slot for one more turn of this principal.
    fn may_run(&self, principal: &str) -> bool {
        let own = self.principals.get(principal).map_or(0, |load| load.running);
        let (held, limits) = ((own as u64, self.counts().0 as u64), self.limits);
        limits.shares.check(principal, held, 1, limits.turns as u64).is_ok()
    }

    /// So many more of a principal run and wait.
    fn count(&mut self, principal: &str, running: isize, waiting: isize) {
        let load = self.principals.of(principal);
        load.running = load.running.saturating_add_signed(running);
        load.waiting = load.waiting.saturating_add_signed(waiting);
    }

    fn queue_of(&self, session: Option<K>) -> Option<usize> {
        let session = session?;
        self.queues.iter().position(|queue| queue.session == Some(session))
    }
}

#[cfg(test)]
mod tests;
