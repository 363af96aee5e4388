//! Who runs next. Pure: tickets come in, the tickets that may start come out.
//!
//! Within a session one turn runs at a time, in order of arrival. Across sessions up to `max_turns`
//! run at once, and free places go round the sessions that wait, so that a long queue in one of
//! them holds up no other. A turn that rests until its next attempt gives its place away and still
//! holds up its session: order holds across attempts.

use std::collections::VecDeque;

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

/// What the first ticket of a line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Waits,
    Runs,
    /// Until [`Dispatch::wake`].
    Rests,
}

/// Those of one session, or one without a session, in the order of their arrival.
#[derive(Debug)]
struct Line<T, K> {
    /// `None`: a ticket without a session, which has a line to itself.
    session: Option<K>,
    head: Head,
    tickets: VecDeque<T>,
}

/// The whole state; `T` is a ticket, never handed in twice, and `K` tells sessions apart. The lines are as many as may run and wait at the most,
/// and are looked through from end to end: a thousand of them take microseconds.
#[derive(Debug)]
pub struct Dispatch<T, K> {
    bounds: Bounds,
    /// Those that do not run stand in the order of their turn.
    lines: Vec<Line<T, K>>,
    running: usize,
    waiting: usize,
}

impl<T: Copy + PartialEq, K: Copy + PartialEq> Dispatch<T, K> {
    pub fn new(bounds: Bounds) -> Dispatch<T, K> {
        Dispatch { bounds, lines: Vec::new(), running: 0, waiting: 0 }
    }

    /// Changes the bounds. What runs or waits already stays; returns who may start now.
    pub fn rebound(&mut self, bounds: Bounds) -> Vec<T> {
        self.bounds = bounds;
        self.fill()
    }

    /// A new ticket arrives.
    pub fn submit(&mut self, ticket: T, session: Option<K>) -> Admission {
        let line = self.line_of(session);
        let (before, waiting) = line.map_or((0, 0), |at| {
            let line = &self.lines[at];
            (line.tickets.len(), line.tickets.len() - usize::from(line.head == Head::Runs))
        });
        let runs = before == 0 && self.running < self.bounds.turns;
        if !runs && self.waiting >= self.bounds.queue {
            return Admission::Refused(Full::Gateway);
        }
        if !runs && waiting >= self.bounds.queue_per_session {
            return Admission::Refused(Full::Session);
        }
        self.append(ticket, session, if runs { Head::Runs } else { Head::Waits });
        if runs {
            self.running += 1;
            return Admission::Runs;
        }
        self.waiting += 1;
        Admission::Waits { position: before }
    }

    /// A ticket from before the start comes back, whatever the bounds say. It starts with the next
    /// [`Dispatch::fill`].
    pub fn restore(&mut self, ticket: T, session: Option<K>) {
        self.append(ticket, session, Head::Waits);
        self.waiting += 1;
    }

    /// A ticket is done, or does not want to wait any more. Returns who may start now.
    pub fn leave(&mut self, ticket: T) -> Vec<T> {
        let place = |line: &Line<T, K>| line.tickets.iter().position(|t| *t == ticket);
        let found = (0..self.lines.len()).find_map(|at| Some((at, place(&self.lines[at])?)));
        let Some((at, place)) = found else {
            return Vec::new();
        };
        let mut line = self.lines.remove(at);
        line.tickets.remove(place);
        let ran = line.head == Head::Runs && place == 0;
        if ran {
            self.running -= 1;
        } else {
            self.waiting -= 1;
        }
        if place == 0 {
            line.head = Head::Waits;
        }
        match (line.tickets.is_empty(), ran) {
            (true, _) => {}
            // It had its turn: the others come first now.
            (false, true) => self.lines.push(line),
            (false, false) => self.lines.insert(at, line),
        }
        self.fill()
    }

    /// A running ticket gives its place away and stays the first of its session. Returns who may
    /// start now.
    pub fn rest(&mut self, ticket: T) -> Vec<T> {
        if let Some(line) = self.headed_by(ticket).filter(|line| line.head == Head::Runs) {
            line.head = Head::Rests;
            self.running -= 1;
            self.waiting += 1;
        }
        self.fill()
    }

    /// A ticket that was restored, the first of its session, rests until [`Dispatch::wake`].
    pub fn hold(&mut self, ticket: T) {
        if let Some(line) = self.headed_by(ticket).filter(|line| line.head == Head::Waits) {
            line.head = Head::Rests;
        }
    }

    /// A resting ticket wants to run again. Returns who may start now.
    pub fn wake(&mut self, ticket: T) -> Vec<T> {
        if let Some(line) = self.headed_by(ticket).filter(|line| line.head == Head::Rests) {
            line.head = Head::Waits;
        }
        self.fill()
    }

    /// How many run and how many wait.
    pub fn counts(&self) -> (usize, usize) {
        (self.running, self.waiting)
    }

    /// How many sessions have a turn that runs or waits.
    pub fn sessions(&self) -> usize {
        self.lines.iter().filter(|line| line.session.is_some()).count()
    }

    /// The tickets of a session in their order.
    pub fn tickets(&self, session: K) -> impl Iterator<Item = T> {
        let line = self.line_of(Some(session)).map(|at| &self.lines[at]);
        line.into_iter().flat_map(|line| line.tickets.iter().copied())
    }

    /// Gives free places to the lines whose turn it is.
    pub fn fill(&mut self) -> Vec<T> {
        let mut started = Vec::new();
        while self.running < self.bounds.turns {
            let Some(line) = self.lines.iter_mut().find(|line| line.head == Head::Waits) else {
                break;
            };
            let Some(ticket) = line.tickets.front() else {
                break;
            };
            started.push(*ticket);
            line.head = Head::Runs;
            self.running += 1;
            self.waiting -= 1;
        }
        started
    }

    fn append(&mut self, ticket: T, session: Option<K>, head: Head) {
        match self.line_of(session) {
            Some(at) => self.lines[at].tickets.push_back(ticket),
            None => self.lines.push(Line { session, head, tickets: VecDeque::from([ticket]) }),
        }
    }

    fn line_of(&self, session: Option<K>) -> Option<usize> {
        let session = session?;
        self.lines.iter().position(|line| line.session == Some(session))
    }

    fn headed_by(&mut self, ticket: T) -> Option<&mut Line<T, K>> {
        self.lines.iter_mut().find(|line| line.tickets.front() == Some(&ticket))
    }
}

#[cfg(test)]
mod tests;
