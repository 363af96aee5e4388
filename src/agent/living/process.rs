//! One living process, as its turns and its thread share it.

use std::fmt;
use std::io::{self, PipeReader, PipeWriter};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::{Directory, Inbox, Protocol};
use crate::agent::Outcome;
use crate::named::ByName;
use crate::subprocess::{LineBuffer, write_some};
use crate::sys::fd::EventFd;
use crate::threads::lock;

/// Told that the end of a process begins (`true`) and is over: work that a stop waits for.
pub type Work = Arc<OnceLock<Box<dyn Fn(bool) + Send + Sync>>>;

/// Bytes of answers that may wait for a process to read: of each some hundred.
const MAX_ANSWERS: usize = 1 << 20;

/// Empty directories that are kept: one for each turn that runs at once, usually.
const MAX_DIRECTORIES: usize = 16;

/// For whom a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The answer to a request of ours: one line.
    Request(u64),
    /// What belongs to a session, or to a turn, by the name that the protocol has for it.
    Session(String),
}

/// Tokens of input, of output, and in all.
type Usage = [u64; 3];

/// How far a process has come.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// It has not answered the greeting yet.
    Starting,
    Ready,
    /// It is being ended: how its turns end. `true`: it has time to end by itself.
    Ending(Outcome, bool),
    Ended(Outcome),
}

/// A living process.
pub struct Process {
    /// Whose it is: [`crate::agent::Turn::process`].
    pub(super) whose: String,
    pub(super) protocol: &'static dyn Protocol,
    pub(super) state: Mutex<State>,
    /// Wakes its thread.
    pub(super) wake: EventFd,
    /// Bits for what it can do, of its protocol.
    pub features: AtomicU32,
    requests: AtomicU64,
    /// How often it was complained of.
    pub(super) complaints: AtomicU32,
    /// What it has begun to say. Whoever holds this reads.
    pub(super) partial: Mutex<LineBuffer>,
    /// Bytes of a line, and of lines that may wait for one turn.
    pub(super) max_line: usize,
    max_waiting: usize,
    work: Work,
}

#[derive(Debug)]
pub(super) struct State {
    pub phase: Phase,
    /// 0 until it is there.
    pub pid: i32,
    pub began: Instant,
    pub stdin: Option<Arc<PipeWriter>>,
    /// `None` also once it has closed it.
    pub stdout: Option<Arc<PipeReader>>,
    /// It has printed a line since it was ready.
    pub heard: bool,
    /// A turn reads, and the process's thread does not.
    pub direct: bool,
    /// What its stdin has not taken yet: a prompt and some answers of each of its turns at most.
    pub outbox: Vec<u8>,
    /// Bytes of answers since the outbox was empty.
    answers: usize,
    inboxes: Vec<(Address, Arc<Inbox>)>,
    /// The sessions that it has in memory, each with what its turns have used so far, where that is known.
    sessions: ByName<Option<Usage>>,
    /// Empty ones, for turns without a session.
    pub directories: Vec<Directory>,
    /// Turns that run, and how many there were.
    pub turns: usize,
    pub served: u64,
    /// Since when it has no turn.
    pub idle_since: Instant,
    /// It ends once no turn runs.
    pub retiring: bool,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("whose", &self.whose).finish_non_exhaustive()
    }
}

impl Process {
    /// One that is to be started. `max_line`: bytes of a line; `max_waiting`: of those that may wait for a turn.
    ///
    /// # Errors
    /// No descriptor.
    pub(super) fn new(
        whose: &str,
        protocol: &'static dyn Protocol,
        (max_line, max_waiting): (usize, usize),
        work: Work,
    ) -> io::Result<Arc<Process>> {
        let now = Instant::now();
        let state = State {
            phase: Phase::Starting,
            pid: 0,
            began: now,
            stdin: None,
            stdout: None,
            heard: false,
            direct: false,
            outbox: Vec::new(),
            answers: 0,
            inboxes: Vec::new(),
            sessions: ByName::default(),
            directories: Vec::new(),
            turns: 0,
            served: 0,
            idle_since: now,
            retiring: false,
        };
        Ok(Arc::new(Process {
            whose: whose.to_owned(),
            protocol,
            state: Mutex::new(state),
            wake: EventFd::new()?,
            features: AtomicU32::new(0),
            // The first one is for the greeting.
            requests: AtomicU64::new(1),
            complaints: AtomicU32::new(0),
            partial: Mutex::default(),
            max_line,
            max_waiting,
            work,
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The number of a request that is about to be made; from 1.
    pub fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives it a line. What its pipe does not take at once is written later; to a process that has
    /// ended nothing is, which its turns are told of otherwise.
    pub fn send(&self, mut line: String) {
        line.push('\n');
        let mut state = self.lock();
        let Some(stdin) = state.stdin.clone() else { return };
        let direct = state.outbox.is_empty().then(|| write_some(&stdin, line.as_bytes()));
        let written = direct.unwrap_or(0);
        if written < line.len() {
            state.outbox.extend_from_slice(&line.as_bytes()[written..]);
            self.wake.notify();
        }
    }

    /// The same for what the agent has asked for. Ends a process that takes none of it: that would grow for ever.
    pub fn answer(&self, line: String) {
        let mut state = self.lock();
        // Beside them a long prompt may wait.
        state.answers = if state.outbox.is_empty() { 0 } else { state.answers + line.len() };
        let too_much = state.answers > MAX_ANSWERS;
        drop(state);
        if too_much {
            let words = "the agent was ended: it does not read what it is answered";
            self.end(Outcome::Crashed(words.to_owned()), false);
        } else {
            self.send(line);
        }
    }

    /// Ends the turn of this address for good.
    pub(super) fn fail_turn(&self, address: &Address, outcome: &Outcome) {
        let state = self.lock();
        let inbox = state.inboxes.iter().find(|(known, _)| known == address);
        inbox.into_iter().for_each(|(_, inbox)| inbox.end(outcome.clone()));
    }

    /// Has lines of this address come to an inbox, until it is closed.
    pub fn open(&self, address: Address, inbox: &Arc<Inbox>) {
        // What was said in a session before is none of this turn's reply.
        if let Address::Session(_) = address {
            self.read();
        }
        let mut state = self.lock();
        if let Phase::Ending(outcome, _) | Phase::Ended(outcome) = &state.phase {
            inbox.end(outcome.clone());
        }
        state.inboxes.push((address, Arc::clone(inbox)));
    }

    pub fn close(&self, address: &Address) {
        self.lock().inboxes.retain(|(known, _)| known != address);
    }

    /// Hands a line to whom it is for. False where nobody waits for it.
    pub fn deliver(&self, address: &Address, line: &str) -> bool {
        let inbox = {
            let mut state = self.lock();
            let Some(at) = state.inboxes.iter().position(|(known, _)| known == address) else {
                return false;
            };
            match address {
                Address::Request(_) => state.inboxes.remove(at).1,
                Address::Session(_) => Arc::clone(&state.inboxes[at].1),
            }
        };
        inbox.push(line.to_owned(), self.max_waiting)
    }

    /// It has answered the greeting.
    pub fn set_ready(&self) {
        let mut state = self.lock();
        if let Phase::Starting = state.phase {
            state.phase = Phase::Ready;
        }
    }

    /// Ends it: its turns end with this outcome. `politely`: it may take a moment to end by itself.
    pub fn end(&self, outcome: Outcome, politely: bool) {
        let mut state = self.lock();
        if let Phase::Starting | Phase::Ready = state.phase {
            state.end(Phase::Ending(outcome, politely));
            // Before its last turn is over: a stop finds no moment in which nothing is at work.
            self.tell_work(true);
            self.wake.notify();
        }
    }

    /// Ends it where it has had no turn for so long.
    pub(super) fn retire_idle(&self, timeout: Duration) {
        let mut state = self.lock();
        state.retiring |= state.idle_for(Instant::now()).is_some_and(|idle| idle >= timeout);
        let retires = state.retiring && state.turns == 0;
        drop(state);
        if retires {
            self.end(Outcome::Released("the agent's process was idle".to_owned()), true);
        }
    }

    /// Tells who waits for work that the end of this process begins, or is over.
    pub(super) fn tell_work(&self, begins: bool) {
        self.work.get().iter().for_each(|work| work(begins));
    }

    /// Whether it has this session in memory.
    pub fn has_session(&self, id: &str) -> bool {
        self.lock().sessions.get(id).is_some()
    }

    /// It has one, whose turns have used this so far.
    pub fn add_session(&self, id: &str, used: Option<Usage>) {
        self.lock().sessions.insert(id.to_owned(), used);
    }

    /// What the turns of a session have used so far, as [`Process::add_session`] was told.
    pub fn used(&self, id: &str) -> Option<Usage> {
        *self.lock().sessions.get(id)?
    }

    pub fn remove_session(&self, id: &str) {
        self.lock().sessions.remove(id);
    }

    pub(super) fn sessions(&self) -> usize {
        self.lock().sessions.names().len()
    }

    /// An empty directory that an earlier turn has left.
    pub fn take_directory(&self) -> Option<Directory> {
        self.lock().directories.pop()
    }

    /// Keeps an empty one for later turns, until the process ends.
    pub fn keep_directory(&self, directory: Directory) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Ready) && state.directories.len() < MAX_DIRECTORIES {
            state.directories.push(directory);
        }
    }

    /// Takes a place for a turn with this session of the agent's; false where it takes no more.
    pub(super) fn enter(&self, session: Option<&str>, max_sessions: usize) -> bool {
        let known = session.is_some_and(|id| self.has_session(id));
        if !known && self.sessions() >= max_sessions {
            self.retire();
        }
        let mut state = self.lock();
        let may = !state.retiring && matches!(state.phase, Phase::Starting | Phase::Ready);
        state.turns += usize::from(may);
        may
    }

    /// A turn is over.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.turns -= 1;
        state.served += 1;
        state.idle_since = Instant::now();
        let retires = state.retiring && state.turns == 0;
        drop(state);
        if retires {
            self.retire();
        }
    }

    /// It takes no new turn, and ends once it has none.
    pub fn retire(&self) {
        let mut state = self.lock();
        state.retiring = true;
        let idle = state.turns == 0;
        drop(state);
        if idle {
            self.end(Outcome::Released("the agent's process was ended".to_owned()), true);
        }
    }

    /// Whether its place is about to come free.
    pub(super) fn is_ending(&self) -> bool {
        !matches!(self.lock().phase, Phase::Starting | Phase::Ready)
    }

    /// It is ready, or will never be.
    pub(super) fn is_settled(&self) -> bool {
        !matches!(self.lock().phase, Phase::Starting)
    }

    /// How its turns end, once it is being ended.
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.lock().phase {
            Phase::Starting | Phase::Ready => None,
            Phase::Ending(outcome, _) | Phase::Ended(outcome) => Some(outcome.clone()),
        }
    }
}

impl State {
    /// Goes on to the last phases, and tells its turns.
    pub fn end(&mut self, phase: Phase) {
        if let Phase::Ending(outcome, _) | Phase::Ended(outcome) = &phase {
            self.inboxes.iter().for_each(|(_, inbox)| inbox.end(outcome.clone()));
        }
        self.phase = phase;
    }

    /// Writes what the pipe takes of what waits for it.
    pub fn flush(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        let written = write_some(stdin, &self.outbox);
        self.outbox.drain(..written);
        if self.outbox.is_empty() {
            // A prompt may have been long.
            self.outbox = Vec::new();
        }
    }

    /// Since when it has had no turn and could be ended for another's sake.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        let may = self.turns == 0 && matches!(self.phase, Phase::Starting | Phase::Ready);
        may.then(|| now.saturating_duration_since(self.idle_since))
    }
}
