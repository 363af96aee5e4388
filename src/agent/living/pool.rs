//! Which process a turn has: who shares one, how many there are, and who waits for one.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::process::{Process, Work};
use super::status::{ProcessStatus, status};
use super::{Directory, LivingTurn, Protocol, thread};
use crate::agent::{Outcome, Reply, Turn};
use crate::cancel::{Cancel, CancelReason};
use crate::config;
use crate::limits::KEEP_ALIVE;
use crate::subprocess::Children;
use crate::sys::fd::EventFd;
use crate::sys::gather::Gather;
use crate::sys::poll::Interest;
use crate::sys::process::is_shortage;
use crate::threads::lock;

/// How long a turn waits for a process of others to have no turn; then one is given no new ones, so that
/// its place comes free.
const PLACE_AFTER: Duration = Duration::from_secs(2);

/// After failed starts the next one waits: as long as the first failure's turn does, doubled by each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// So many deaths at a start in so short a time are no accident.
const TROUBLE: (usize, Duration) = (3, Duration::from_secs(60));

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
}

#[derive(Default)]
struct State {
    processes: Vec<Arc<Process>>,
    /// Turns that wait for a process or its readiness, in the order in which they came, and since when.
    waiting: Vec<(u64, Instant, Arc<EventFd>)>,
    tickets: u64,
    /// Processes end as soon as they have no turn.
    closing: bool,
    /// Starts that failed one after the other, when, and why the last one did.
    deaths: Vec<Instant>,
    last_death: String,
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
        self.living.lock().waiting.retain(|(number, ..)| *number != self.number);
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
        let lease = match self.acquire(turn, &cancel) {
            Ok(lease) => lease,
            Err(outcome) => return outcome,
        };
        let (config, data) = (&self.config, &*self.data);
        let living_turn = LivingTurn { config, data, turn, reply, cancel };
        self.protocol.run(&lease.process, &living_turn)
    }

    /// Starts the operators' process, where that is wanted.
    pub fn preload(self: &Arc<Self>) {
        let mut state = self.lock();
        if self.config.preload
            && !state.closing
            && state.processes.iter().all(|process| !process.whose.is_empty())
            && let Err(e) = self.create(&mut state, "", 0)
        {
            log::warn!("the agent is not started now: {e}");
        }
    }

    /// Has each process end that has no turn, the others after theirs, and those to come; or lets them stay
    /// again. Does not wait for anything.
    pub fn set_closing(&self, closing: bool) {
        let mut state = self.lock();
        state.closing = closing;
        if closing {
            state.processes.iter().for_each(|process| process.retire());
        }
    }

    /// A session is over.
    pub fn forget(&self, session: &str) {
        if self.config.directory.is_none() {
            Directory::forget(&self.data, session);
        }
    }

    pub fn processes(&self) -> Vec<ProcessStatus> {
        let processes = self.lock().processes.clone();
        processes.iter().map(|it| status(it)).gather()
    }

    /// Why it does not start, where it did not time and again.
    pub fn trouble(&self) -> Option<String> {
        let (state, (most, within)) = (self.lock(), TROUBLE);
        let first = state.deaths.iter().rev().nth(most - 1)?;
        (first.elapsed() < within)
            .then(|| format!("the agent does not start: {}", state.last_death))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Has all that wait look again.
    fn notify(&self) {
        self.lock().waiting.iter().for_each(|(.., event)| event.notify());
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
            }
            if let Some(lease) = lease.take_if(|lease| lease.process.is_settled()) {
                return match lease.process.outcome() {
                    Some(outcome) => Err(outcome),
                    None => Ok(lease),
                };
            }
            let Some(ticket) = &ticket else {
                // Once more behind this: what it waits for may have come meanwhile.
                ticket = Some(self.ticket().map_err(|e| short(&e))?);
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
            if let Some(reason) = ended.or(gone.then_some(CancelReason::ClientGone)) {
                return Err(Outcome::Ended(reason));
            }
        }
    }

    fn ticket(&self) -> io::Result<Ticket<'_>> {
        let event = Arc::new(EventFd::new()?);
        let mut state = self.lock();
        state.tickets += 1;
        let number = state.tickets;
        state.waiting.push((number, Instant::now(), Arc::clone(&event)));
        Ok(Ticket { living: self, number, event })
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
        let first = state.waiting.first().is_none_or(|(first, ..)| Some(*first) == ticket);
        if !first {
            return Ok(None);
        }
        if state.processes.len() < self.config.processes {
            self.check_starts(state)?;
            return self.create(state, whose, 1).map(Some).map_err(|e| short(&e));
        }
        let now = Instant::now();
        let leaves = |process: &&Arc<Process>| process.is_leaving();
        if state.processes.iter().any(|process| leaves(&process)) {
            return Ok(None);
        }
        let idle = state.processes.iter().filter_map(|it| Some((it.lock().idle_for(now)?, it)));
        let waited = state.waiting.first().map(|(_, since, _)| since.elapsed());
        if let Some((_, process)) = idle.max_by_key(|(idle, _)| *idle) {
            process.retire();
        } else if waited.is_some_and(|waited| waited >= PLACE_AFTER) {
            // In the order of their starts, so that each has its time.
            let oldest = state.processes.iter().min_by_key(|process| process.lock().began);
            oldest.into_iter().for_each(|process| process.retire());
        }
        Ok(None)
    }

    /// Whether one may be started now, after others that failed.
    fn check_starts(&self, state: &State) -> Result<(), Outcome> {
        let doublings = u32::try_from(state.deaths.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(10)).min(LONGEST_PAUSE);
        match state.deaths.last() {
            Some(last) if last.elapsed() < pause => {
                Err(Outcome::Temporary(state.last_death.clone()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Starts one for so many turns.
    fn create(
        self: &Arc<Self>,
        state: &mut State,
        whose: &str,
        turns: usize,
    ) -> io::Result<Arc<Process>> {
        let most = self.max_line.saturating_add(self.max_reply);
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

    fn max_line(&self) -> usize {
        self.max_line
    }

    fn started(&self) {
        self.lock().deaths.clear();
        self.notify();
    }

    fn ended(&self, process: &Arc<Process>, died: Option<String>) {
        let mut state = self.lock();
        state.processes.retain(|it| !Arc::ptr_eq(it, process));
        if let Some(why) = died {
            state.deaths.push(Instant::now());
            // More than these change nothing.
            let extra = state.deaths.len().saturating_sub(16);
            state.deaths.drain(..extra);
            state.last_death = why;
        }
        drop(state);
        self.notify();
    }
}

fn short(e: &io::Error) -> Outcome {
    let words = format!("no process for the turn: {e}");
    if is_shortage(e) { Outcome::Short(words) } else { Outcome::Temporary(words) }
}
