//! Who runs next. Pure: tickets and times come in, the tickets that start come out.
//!
//! Within a session one turn runs at a time, in order of arrival. Across sessions up to `max_turns`
//! run at once. A free place goes to the principal with the fewest turns, in rotation where they
//! are equal, and goes round that principal's sessions: no queue holds up another, however long
//! and in however many sessions. Places and queue are shared: see [`crate::shares`]. A turn that is
//! postponed to its next attempt gives its place away and still holds up its session: order holds
//! across attempts.

use std::collections::VecDeque;
use std::time::Instant;

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

/// What the first ticket of a line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Waits,
    Runs,
    /// Until then, or until [`Dispatch::wake`] comes later.
    Postponed(Instant),
}

/// Those of one session, or one without a session, in the order of their arrival.
#[derive(Debug)]
struct Line<T, K> {
    /// `None`: a ticket without a session, which has a line to itself.
    session: Option<K>,
    principal: String,
    head: Head,
    tickets: VecDeque<T>,
}

/// A principal.
#[derive(Debug, Default)]
struct PrincipalLoad {
    running: usize,
    waiting: usize,
    /// When it last got a place, by [`Dispatch::started`].
    served: u64,
}

/// The whole state; `T` is a ticket, never handed in twice, and `K` tells sessions apart. The lines are
/// as many as may run and wait at the most, and are looked through from end to end: a thousand of them
/// take microseconds.
#[derive(Debug, Default)]
pub struct Dispatch<T, K> {
    limits: QueueLimits,
    /// Those that do not run stand in the order of their turn.
    lines: Vec<Line<T, K>>,
    /// Forgotten when there are no lines: a key of the configuration each.
    principals: ByName<PrincipalLoad>,
    /// Turns that have started.
    started: u64,
}

impl<T: Copy + Default + PartialEq, K: Copy + Default + PartialEq> Dispatch<T, K> {
    pub fn new(limits: QueueLimits) -> Dispatch<T, K> {
        Dispatch { limits, ..Dispatch::default() }
    }

    /// Changes the limits. What runs or waits already stays.
    pub fn set_limits(&mut self, limits: QueueLimits) {
        self.limits = limits;
    }

    /// A new ticket arrives, of this principal. Returns how many of its session are before it, the
    /// running one included.
    ///
    /// # Errors
    /// No room: too many wait in its session, of its principal, or in all.
    pub fn submit(
        &mut self,
        ticket: T,
        principal: &str,
        session: Option<K>,
    ) -> Result<usize, LimitReached> {
        let line = self.line_of(session).map(|at| &self.lines[at]);
        let before = line.map_or(0, |line| line.tickets.len());
        let waiting = before - usize::from(line.is_some_and(|line| line.head == Head::Runs));
        if before > 0 || !self.may_run(principal) {
            let held = (self.principals.of(principal).waiting as u64, self.counts().1 as u64);
            let limit = ("limits.max_queue", self.limits.queue as u64);
            self.limits.shares.admit(principal, held, 1, limit)?;
            let most = self.limits.queue_per_session;
            if waiting >= most {
                let (key, held) = ("limits.max_queue_per_session", (waiting as u64, most as u64));
                return Err(Limit::Session.reached(principal, key, held));
            }
        }
        self.restore(ticket, principal, session);
        Ok(before)
    }

    /// A ticket from before the start comes back, whatever the limits say.
    pub fn restore(&mut self, ticket: T, principal: &str, session: Option<K>) {
        self.count(principal, 0, 1);
        let (principal, tickets) = (principal.to_owned(), VecDeque::from([ticket]));
        match self.line_of(session) {
            Some(at) => self.lines[at].tickets.push_back(ticket),
            None => self.lines.push(Line { session, principal, head: Head::Waits, tickets }),
        }
    }

    /// A ticket is done, or does not want to wait any more.
    pub fn leave(&mut self, ticket: T) {
        let place = |line: &Line<T, K>| line.tickets.iter().position(|t| *t == ticket);
        let found = (0..self.lines.len()).find_map(|at| Some((at, place(&self.lines[at])?)));
        let Some((at, place)) = found else { return };
        let mut line = self.lines.remove(at);
        line.tickets.remove(place);
        let ran = line.head == Head::Runs && place == 0;
        self.count(&line.principal, -isize::from(ran), -isize::from(!ran));
        if place == 0 {
            line.head = Head::Waits;
        }
        if !line.tickets.is_empty() {
            // It had its turn: the others come first now.
            let to = if ran { self.lines.len() } else { at };
            self.lines.insert(to, line);
        }
        if self.lines.is_empty() {
            self.principals = ByName::default();
        }
    }

    /// The first ticket of its session waits until then; one that runs gives its place away.
    pub fn postpone(&mut self, ticket: T, until: Instant) {
        let headed = |line: &&mut Line<T, K>| line.tickets.front() == Some(&ticket);
        let Some(line) = self.lines.iter_mut().find(headed) else { return };
        let ran = std::mem::replace(&mut line.head, Head::Postponed(until)) == Head::Runs;
        let principal = line.principal.clone();
        self.count(&principal, -isize::from(ran), isize::from(ran));
    }

    /// Those that were postponed until now want to run again.
    pub fn wake(&mut self, now: Instant) {
        for line in &mut self.lines {
            if matches!(line.head, Head::Postponed(until) if until <= now) {
                line.head = Head::Waits;
            }
        }
    }

    /// Those that are postponed, and until when.
    pub fn postponed(&self) -> impl Iterator<Item = (T, Instant)> {
        self.lines.iter().filter_map(|line| match line.head {
            Head::Postponed(until) => Some((*line.tickets.front()?, until)),
            Head::Waits | Head::Runs => None,
        })
    }

    /// How many run and how many wait.
    pub fn counts(&self) -> (usize, usize) {
        let add = |(running, waiting), principal: &PrincipalLoad| {
            (running + principal.running, waiting + principal.waiting)
        };
        self.principals.values().fold((0, 0), add)
    }

    /// How many sessions have a turn that runs or waits.
    pub fn sessions(&self) -> usize {
        self.lines.iter().filter(|line| line.session.is_some()).count()
    }

    /// The tickets of a session in their order.
    pub fn turns_of(&self, session: K) -> impl Iterator<Item = T> {
        let line = self.line_of(Some(session)).map(|at| &self.lines[at]);
        line.into_iter().flat_map(|line| line.tickets.iter().copied())
    }

    /// How many tickets of each principal wait.
    pub fn waiting(&self) -> impl Iterator<Item = (&str, u64)> {
        self.principals.iter().map(|(name, load)| (name.as_str(), load.waiting as u64))
    }

    /// Starts the ticket whose turn it is. `None`: no place is free, or nobody waits for it. To be
    /// called until then after every change.
    pub fn start_next(&mut self) -> Option<T> {
        let waits = |line: &Line<T, K>| line.head == Head::Waits && self.may_run(&line.principal);
        let order = |at: &usize| {
            let load = self.principals.get(&self.lines[*at].principal);
            load.map(|load| (load.running, load.served))
        };
        let lines = (0..self.lines.len()).filter(|at| waits(&self.lines[*at]));
        let next = lines.min_by_key(order)?;
        let line = &mut self.lines[next];
        line.head = Head::Runs;
        let (first, principal) = (line.tickets.front().copied(), line.principal.clone());
        self.count(&principal, 1, -1);
        self.started += 1;
        self.principals.of(&principal).served = self.started;
        first
    }

    /// Whether there is a place for one more turn of this principal.
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

    fn line_of(&self, session: Option<K>) -> Option<usize> {
        let session = session?;
        self.lines.iter().position(|line| line.session == Some(session))
    }
}

#[cfg(test)]
mod tests;
