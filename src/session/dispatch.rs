//! Who runs next. Pure: tickets come in, the tickets that may start come out.
//!
//! Within a session one turn runs at a time, in order of arrival. Across sessions up to `max_turns`
//! run at once, and free places go round the sessions that wait, so that a long queue in one of
//! them holds up no other.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

/// One turn that wants to run. The numbers are the caller's and never used twice.
pub type Ticket = u64;

/// How much may run and wait.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub turns: usize,
    pub queue: usize,
    pub queue_per_session: usize,
}

/// What became of a ticket that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It runs now.
    Runs,
    /// It waits; so many of its session are before it, the running one included.
    Waits { position: usize },
    /// No room: too many wait in its session, or in all.
    Refused(Full),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Session,
    Gateway,
}

/// A session that has tickets.
#[derive(Debug, Default)]
struct Line {
    running: Option<Ticket>,
    waiting: VecDeque<Ticket>,
}

/// Which line a ticket stands in. One without a session has a line to itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Session(String),
    Alone(Ticket),
}

/// The whole state.
#[derive(Debug)]
pub struct Dispatch {
    bounds: Bounds,
    lines: BTreeMap<Key, Line>,
    keys: BTreeMap<Ticket, Key>,
    /// Lines that have somebody waiting and nobody running, in the order of their turn.
    ready: VecDeque<Key>,
    running: usize,
    waiting: usize,
}

impl Dispatch {
    pub fn new(bounds: Bounds) -> Dispatch {
        Dispatch {
            bounds,
            lines: BTreeMap::new(),
            keys: BTreeMap::new(),
            ready: VecDeque::new(),
            running: 0,
            waiting: 0,
        }
    }

    /// Changes the bounds. What runs or waits already stays; returns who may start now.
    pub fn rebound(&mut self, bounds: Bounds) -> Vec<Ticket> {
        self.bounds = bounds;
        self.fill()
    }

    /// A new ticket arrives.
    pub fn submit(&mut self, ticket: Ticket, session: Option<&str>) -> Admission {
        let key = session.map_or(Key::Alone(ticket), |s| Key::Session(s.to_owned()));
        let (taken, before) = match self.lines.get(&key) {
            None => (false, 0),
            Some(line) => (line.running.is_some(), line.waiting.len()),
        };
        if !taken && before == 0 && self.running < self.bounds.turns {
            self.lines.entry(key.clone()).or_default().running = Some(ticket);
            self.keys.insert(ticket, key);
            self.running += 1;
            return Admission::Runs;
        }
        if self.waiting >= self.bounds.queue {
            return Admission::Refused(Full::Gateway);
        }
        if before >= self.bounds.queue_per_session {
            return Admission::Refused(Full::Session);
        }
        self.lines
            .entry(key.clone())
            .or_default()
            .waiting
            .push_back(ticket);
        self.keys.insert(ticket, key.clone());
        self.waiting += 1;
        if !taken && before == 0 {
            self.ready.push_back(key);
        }
        Admission::Waits {
            position: before + usize::from(taken),
        }
    }

    /// A ticket is done, or does not want to wait any more. Returns who may start now.
    pub fn leave(&mut self, ticket: Ticket) -> Vec<Ticket> {
        let Some(key) = self.keys.remove(&ticket) else {
            return Vec::new();
        };
        let Some(line) = self.lines.get_mut(&key) else {
            return Vec::new();
        };
        if line.running == Some(ticket) {
            line.running = None;
            self.running -= 1;
            if !line.waiting.is_empty() {
                self.ready.push_back(key.clone());
            }
        } else {
            line.waiting.retain(|waiting| *waiting != ticket);
            self.waiting -= 1;
            if line.waiting.is_empty() && line.running.is_none() {
                self.ready.retain(|ready| *ready != key);
            }
        }
        if line.running.is_none() && line.waiting.is_empty() {
            self.lines.remove(&key);
        }
        self.fill()
    }

    /// How many run and how many wait.
    pub fn counts(&self) -> (usize, usize) {
        (self.running, self.waiting)
    }

    /// How many sessions have a turn that runs or waits.
    pub fn sessions(&self) -> usize {
        self.lines
            .keys()
            .filter(|key| matches!(key, Key::Session(_)))
            .count()
    }

    /// Gives free places to the lines whose turn it is.
    fn fill(&mut self) -> Vec<Ticket> {
        let mut started = Vec::new();
        while self.running < self.bounds.turns {
            let Some(key) = self.ready.pop_front() else {
                break;
            };
            let Some(line) = self.lines.get_mut(&key) else {
                continue;
            };
            let Some(ticket) = line.waiting.pop_front() else {
                continue;
            };
            line.running = Some(ticket);
            self.running += 1;
            self.waiting -= 1;
            started.push(ticket);
        }
        started
    }
}

#[cfg(test)]
mod tests;
