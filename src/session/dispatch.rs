//! Who runs next. Pure: tickets come in, the tickets that may start come out.
//!
//! Within a session one turn runs at a time, in order of arrival. Across sessions up to `max_turns`
//! run at once, and free places go round the sessions that wait, so that a long queue in one of
//! them holds up no other.
#![forbid(unsafe_code)]

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

/// Those of one session, or one without a session, in the order of their arrival.
#[derive(Debug)]
struct Line {
    /// `None`: a ticket without a session, which has a line to itself.
    session: Option<String>,
    /// The first one runs, or is the next to run.
    running: bool,
    tickets: Vec<Ticket>,
}

/// The whole state. The lines are as many as may run and wait at the most, and are looked through
/// from end to end: a thousand of them take microseconds.
#[derive(Debug)]
pub struct Dispatch {
    bounds: Bounds,
    /// Those that do not run stand in the order of their turn.
    lines: Vec<Line>,
    running: usize,
    waiting: usize,
}

impl Dispatch {
    pub fn new(bounds: Bounds) -> Dispatch {
        Dispatch { bounds, lines: Vec::new(), running: 0, waiting: 0 }
    }

    /// Changes the bounds. What runs or waits already stays; returns who may start now.
    pub fn rebound(&mut self, bounds: Bounds) -> Vec<Ticket> {
        self.bounds = bounds;
        self.fill()
    }

    /// A new ticket arrives.
    pub fn submit(&mut self, ticket: Ticket, session: Option<&str>) -> Admission {
        let same = |line: &&mut Line| session.is_some() && line.session.as_deref() == session;
        let line = self.lines.iter_mut().find(same);
        let before = line.as_ref().map_or(0, |line| line.tickets.len());
        let waiting = line.as_ref().map_or(0, |line| before - usize::from(line.running));
        let runs = before == 0 && self.running < self.bounds.turns;
        if !runs && self.waiting >= self.bounds.queue {
            return Admission::Refused(Full::Gateway);
        }
        if !runs && waiting >= self.bounds.queue_per_session {
            return Admission::Refused(Full::Session);
        }
        match line {
            Some(line) => line.tickets.push(ticket),
            None => self.lines.push(Line {
                session: session.map(str::to_owned),
                running: runs,
                tickets: vec![ticket],
            }),
        }
        if runs {
            self.running += 1;
            return Admission::Runs;
        }
        self.waiting += 1;
        Admission::Waits { position: before }
    }

    /// A ticket is done, or does not want to wait any more. Returns who may start now.
    pub fn leave(&mut self, ticket: Ticket) -> Vec<Ticket> {
        let place = |line: &Line| line.tickets.iter().position(|t| *t == ticket);
        let found = (0..self.lines.len()).find_map(|at| Some((at, place(&self.lines[at])?)));
        let Some((at, place)) = found else {
            return Vec::new();
        };
        let mut line = self.lines.remove(at);
        line.tickets.remove(place);
        let ran = line.running && place == 0;
        if ran {
            line.running = false;
            self.running -= 1;
        } else {
            self.waiting -= 1;
        }
        match (line.tickets.is_empty(), ran) {
            (true, _) => {}
            // It had its turn: the others come first now.
            (false, true) => self.lines.push(line),
            (false, false) => self.lines.insert(at, line),
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

    /// Gives free places to the lines whose turn it is.
    fn fill(&mut self) -> Vec<Ticket> {
        let mut started = Vec::new();
        while self.running < self.bounds.turns {
            let Some(line) = self.lines.iter_mut().find(|line| !line.running) else {
                break;
            };
            let Some(ticket) = line.tickets.first() else {
                break;
            };
            started.push(*ticket);
            line.running = true;
            self.running += 1;
            self.waiting -= 1;
        }
        started
    }
}

#[cfg(test)]
mod tests;
