//! Which process a turn has: who shares one, how many there are, and who waits for one.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use super::process::{Process, Work};
use super::status::{ProcessStatus, status};
use super::{Directory, LivingTurn, Protocol, thread};
use crate::agent::{Outcome, Reply, Turn};
use crate::cancel::{Cancel, CancelReason};
use crate::config;
use crate::limits::KEEP_ALIVE;
use crate::named::ByName;
use crate::subprocess::{Children, Deaths};
use crate::sys::fd::EventFd;
use crate::sys::gather::Gather;
use crate::sys::poll::Interest;
use crate::sys::process::is_shortage;
use crate::threads::lock;

/// How long a turn waits for a process of others to have no turn; then one is given no new ones, so that
/// its place comes free.
const PLACE_AFTER: Duration = Duration::from_secs(2);

/// The living processes of an agent.
pub struct Living {
    config: config::Agent,
    protocol: &'static dyn Protocol,
    children: Arc<Children>,
    max_line: usize,
    max_reply: usize,
    data: PathBuf,
    state: Mutex<State>,
    work: Work,
    /// Those with another configuration, as long as their processes end.
    before: Mutex<Vec<Weak<Living>>>,
}

#[derive(Default)]
struct State {
    processes: Vec<Arc<Process>>,
    /// Turns that wait for a process or its readiness, in the order in which they came.
    waiting: Vec<Waiting>,
    tickets: u64,
    /// Processes end as soon as they have no turn.
    closing: bool,
    /// Starts that failed, by whose they were.
    deaths: ByName<Deaths>,
}

struct Waiting {
    number: u64,
    since: Instant,
    event: Arc<EventFd>,
    /// It has a process, which is not ready.
    placed: bool,
}

/// A turn's place in a process.
struct Lease<'a> {
    living: &'a Living,
    process: Arc<Process>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.process.leave();
        self.living.notify();
    }
}

/// A turn that waits; dropping it ends the wait.
struct Ticket<'a> {
    living: &'a Living,
    number: u64,
    event: Arc<EventFd>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.living.lock().waiting.retain(|waiting| waiting.number != self.number);
        self.living.notify();
    }
}

impl fmt::Debug for Living {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Living").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

impl Living {
    /// `data`: where sessions get directories of their own. `max_line` and `max_reply`: bytes.
    pub fn new(
        config: &config::Agent,
        protocol: &'static dyn Protocol,
        children: &Arc<Children>,
        (max_line, max_reply): (usize, usize),
        data: PathBuf,
    ) -> Arc<Living> {
        Arc::new(Living {
            config: config.clone(),
            protocol,
            children: Arc::clone(children),
            max_line,
            max_reply,
            data,
            state: Mutex::default(),
            work: Work::default(),
            before: Mutex::default(),
        })
    }

    /// Whether it can go on where `other` is configured now.
    pub fn is_like(&self, other: &Living) -> bool {
        self.config == other.config
            && (self.max_line, self.max_reply) == (other.max_line, other.max_reply)
    }

    /// Has this told of processes that end.
    pub fn set_work(&self, work: Box<dyn Fn(bool) + Send + Sync>) {
        let _ = self.work.set(work);
    }

    /// Runs a turn in a process of its principal's.
    pub fn run(
        self: &Arc<Self>,
        turn: &Turn<'_>,
        reply: &RefCell<&mut dyn Reply>,
        cancel: Cancel<'_>,
    ) -> Outcome {
        let began = Instant::now();
        let lease = match self.acquire(turn, &cancel) {
            Ok(lease) => lease,
            Err(outcome) => return outcome,
        };
        // Its time begins with its process.
        let cancel = Cancel { deadline: cancel.deadline + began.elapsed(), ..cancel };
        let (config, data) = (&self.config, &*self.data);
        let living_turn = LivingTurn { config, data, turn, reply, cancel };
        self.protocol.run(&lease.process, &living_turn)
    }

    /// Starts the operators' process, where that is wanted.
    pub fn preload(self: &Arc<Self>) {
        let mut state = self.lock();
        if self.config.preload
            && !state.closing
            && state.processes.len() < self.config.processes
            && self.check_starts(&state, "").is_ok()
            && state.processes.iter().all(|process| !process.whose.is_empty())
            && let Err(e) = self.create(&mut state, "", 0)
        {
            log::warn!("the agent is not started now: {e}");
        }
    }

    /// Has each process end that has no turn, the others after theirs, and those to come; or lets them stay
    /// again. Does not wait for anything.
    pub fn set_closing(self: &Arc<Self>, closing: bool) {
        let mut state = self.lock();
        state.closing = closing;
        if closing {
            state.processes.iter().for_each(|process| process.retire());
        }
        drop(state);
        self.preload();
    }

    /// Goes on where `old` had another configuration: its processes end after their turns.
    pub fn replace(&self, old: &Arc<Living>) {
        old.set_closing(true);
        let mut before = lock(&self.before);
        before.push(Arc::downgrade(old));
        before.extend(lock(&old.before).iter().cloned());
        before.retain(|it| it.strong_count() > 0);
    }

    /// A session is over.
    pub fn forget(&self, session: &str) {
        if self.config.directory.is_none() {
            Directory::forget(&self.data, session);
        }
    }

    /// Removes what an earlier run has left: before the first turn.
    pub fn clean(&self) {
        Directory::remove_temporary(&self.data);
    }

    #[cfg(test)]
    pub(super) fn retiring(&self) -> Vec<String> {
        let state = self.lock();
        let retiring = state.processes.iter().filter(|process| process.lock().retiring);
        retiring.map(|process| process.whose.clone()).gather()
    }

    pub fn processes(&self) -> Vec<ProcessStatus> {
        let mut processes = self.lock().processes.clone();
        let before = lock(&self.before).clone();
        for old in before.iter().filter_map(Weak::upgrade) {
            processes.extend(old.lock().processes.iter().cloned());
        }
        processes.iter().map(|it| status(it)).gather()
    }

    /// Why it does not start, where it did not time and again.
    pub fn trouble(&self) -> Option<String> {
        let state = self.lock();
        let why = state.deaths.values().find_map(Deaths::trouble)?;
        Some(format!("the agent does not start: {why}"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Has all that wait look again.
    fn notify(&self) {
        self.lock().waiting.iter().for_each(|waiting| waiting.event.notify());
    }

    /// A place in a process that is ready, which may be waited for.
    fn acquire<'a>(
        self: &'a Arc<Self>,
        turn: &Turn<'_>,
        cancel: &Cancel<'_>,
    ) -> Result<Lease<'a>, Outcome> {
        let whose = if self.config.share { "" } else { turn.process };
        let (mut ticket, mut lease): (Option<Ticket<'_>>, Option<Lease<'_>>) = (None, None);
        let mut silent_since = Instant::now();
        loop {
            if lease.is_none() {
                let number = ticket.as_ref().map(|ticket| ticket.number);
                let place = self.place(&mut self.lock(), (whose, turn), number)?;
                lease = place.map(|process| Lease { living: self, process });
                if let (true, Some(number)) = (lease.is_some(), number) {
                    self.set_placed(number);
                }
            }
            if let Some(lease) = lease.take_if(|lease| lease.process.is_settled()) {
                return match lease.process.outcome() {
                    Some(outcome) => Err(outcome),
                    None => Ok(lease),
                };
            }
            let Some(ticket) = &ticket else {
                // Once more behind this: what it waits for may have come meanwhile.
                ticket = Some(self.ticket(lease.is_some()).map_err(|e| short(&e))?);
                continue;
            };
            let event = [Interest::read(ticket.event.as_fd())];
            // The first of those that wait looks at how long it has.
            let until = Instant::now() + PLACE_AFTER;
            let (_, ended) = cancel.wait(event, until).map_err(|e| short(&e))?;
            ticket.event.clear();
            let silent = silent_since.elapsed() >= KEEP_ALIVE;
            if silent {
                silent_since = Instant::now();
            }
            let gone = silent && cancel.idle.is_some_and(|idle| idle().is_err());
            match ended.or(gone.then_some(CancelReason::ClientGone)) {
                // Nothing was done for it yet.
                Some(CancelReason::TimedOut) if lease.is_none() => {
                    let words = "no process of the agent's came free within agent.turn_timeout";
                    return Err(Outcome::Temporary(words.to_owned()));
                }
                Some(reason) => return Err(Outcome::Ended(reason)),
                None => {}
            }
        }
    }

    fn ticket(&self, placed: bool) -> io::Result<Ticket<'_>> {
        let event = Arc::new(EventFd::new()?);
        let mut state = self.lock();
        state.tickets += 1;
        let (number, since) = (state.tickets, Instant::now());
        state.waiting.push(Waiting { number, since, event: Arc::clone(&event), placed });
        Ok(Ticket { living: self, number, event })
    }

    /// A turn that waits has its process: the next one looks for another.
    fn set_placed(&self, number: u64) {
        let mut state = self.lock();
        let mine = state.waiting.iter_mut().find(|waiting| waiting.number == number);
        mine.into_iter().for_each(|waiting| waiting.placed = true);
        drop(state);
        self.notify();
    }

    /// A process for a turn, where there is a place; `ticket`: the turn waits by this.
    fn place(
        self: &Arc<Self>,
        state: &mut State,
        (whose, turn): (&str, &Turn<'_>),
        ticket: Option<u64>,
    ) -> Result<Option<Arc<Process>>, Outcome> {
        let session = turn.agent_session.map(|session| session.id.as_str());
        for process in state.processes.iter().filter(|process| process.whose == whose) {
            if process.enter(session, self.config.max_sessions) {
                return Ok(Some(Arc::clone(process)));
            }
        }
        let first = state.waiting.iter().find(|waiting| !waiting.placed);
        if first.is_some_and(|first| Some(first.number) != ticket) {
            return Ok(None);
        }
        let waited = first.is_some_and(|first| first.since.elapsed() >= PLACE_AFTER);
        if state.processes.len() < self.config.processes {
            self.check_starts(state, whose)?;
            return self.create(state, whose, 1).map(Some).map_err(|e| short(&e));
        }
        if state.processes.iter().any(|process| process.is_ending()) {
            return Ok(None);
        }
        let now = Instant::now();
        let idle = state.processes.iter().filter_map(|it| Some((it.lock().idle_for(now)?, it)));
        if let Some((_, process)) = idle.max_by_key(|(idle, _)| *idle) {
            process.retire();
        } else if waited && !state.processes.iter().any(|process| process.lock().retiring) {
            // In the order of their starts, so that each has its time.
            let oldest = state.processes.iter().min_by_key(|process| process.lock().began);
            oldest.into_iter().for_each(|process| process.retire());
        }
        Ok(None)
    }

    /// Whether one may be started now, after others of the same that failed.
    fn check_starts(&self, state: &State, whose: &str) -> Result<(), Outcome> {
        let why = state.deaths.get(whose).and_then(Deaths::pausing);
        why.map_or(Ok(()), |why| Err(Outcome::Temporary(why.to_owned())))
    }

    /// Starts one for so many turns.
    fn create(
        self: &Arc<Self>,
        state: &mut State,
        whose: &str,
        turns: usize,
    ) -> io::Result<Arc<Process>> {
        let most = (self.max_line, self.max_line.saturating_add(self.max_reply));
        let process = Process::new(whose, self.protocol, most, Arc::clone(&self.work))?;
        {
            let mut own = process.lock();
            (own.turns, own.retiring) = (turns, state.closing);
        }
        thread::start(Arc::clone(self) as Arc<dyn thread::Owner>, &process)?;
        state.processes.push(Arc::clone(&process));
        Ok(process)
    }
}

impl thread::Owner for Living {
    fn config(&self) -> &config::Agent {
        &self.config
    }

    fn children(&self) -> &Arc<Children> {
        &self.children
    }

    fn notify(&self) {
        Living::notify(self);
    }

    fn started(&self, process: &Process) {
        self.lock().deaths.remove(&process.whose);
        Living::notify(self);
    }

    fn ended(&self, process: &Arc<Process>, died: Option<String>) {
        let mut state = self.lock();
        state.processes.retain(|it| !Arc::ptr_eq(it, process));
        died.into_iter().for_each(|why| state.deaths.of(&process.whose).add(why));
        drop(state);
        Living::notify(self);
    }
}

fn short(e: &io::Error) -> Outcome {
    let words = format!("no process for the turn: {e}");
    if is_shortage(e) { Outcome::Short(words) } else { Outcome::Temporary(words) }
}
