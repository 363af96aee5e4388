//! The thread of a living process: starts it, reads it, writes what its pipe did not take, and ends it.

use std::borrow::Cow;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::process::{Phase, Process};
use super::reading::DIRECT_FOR;
use crate::agent::Outcome;
use crate::cancel::Cancel;
use crate::config;
use crate::escape::escaped;
use crate::limits::{AGENT_READ, MAX_LAST_READS};
use crate::subprocess::{
    Child, ChildKind, Children, LivingEvent, Program, RunOptions, StderrTail, environment,
    explain_failure,
};
use crate::sys::process::{Status, is_shortage};
use crate::threads;

/// A read and what it is handed on by: only what is touched takes memory.
const STACK: usize = 256 << 10;

/// From its start to its answer to the greeting: agents of some hundred MB take seconds, and more on a
/// machine that starts.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How long it may take to end after its stdin has, and then after SIGTERM. Both together are less than
/// a stop allows: [`KILL_AFTER`](crate::limits::KILL_AFTER).
const END_GRACE: Duration = Duration::from_secs(1);

/// For a deadline that never comes: a week is longer than any wait here.
const NEVER: Duration = Duration::from_secs(7 * 86400);

/// Whose processes they are: what a thread needs to know and to tell.
pub(super) trait Owner: Send + Sync {
    fn config(&self) -> &config::Agent;

    fn children(&self) -> &Arc<Children>;

    /// Has those that wait look again.
    fn notify(&self);

    /// A process is ready, and has said something.
    fn started(&self, process: &Process);

    /// A process has ended. `died`: why, where it has not come to be ready.
    fn ended(&self, process: &Arc<Process>, died: Option<String>);
}

/// Starts the thread of a process.
///
/// # Errors
/// The system has no thread.
pub(super) fn start(owner: Arc<dyn Owner>, process: &Arc<Process>) -> io::Result<()> {
    let process = Arc::clone(process);
    let work = move || {
        let (outcome, died) = run(&*owner, &process);
        let (was_ending, directories) = {
            let mut state = process.lock();
            let was_ending = matches!(state.phase, Phase::Ending(..));
            state.outbox = Vec::new();
            state.end(Phase::Ended(outcome));
            (was_ending, std::mem::take(&mut state.directories))
        };
        drop(directories);
        owner.ended(&process, died);
        if was_ending {
            process.tell_work(false);
        }
    };
    threads::spawn("agent", STACK, Box::new(work)).map(drop)
}

/// Whose it is, for the log.
fn whose(process: &Process) -> &str {
    if process.whose.is_empty() { "operators" } else { &process.whose }
}

/// Runs a process to its end. Returns how its turns end, and where it has not come to be ready, why.
fn run(owner: &dyn Owner, process: &Arc<Process>) -> (Outcome, Option<String>) {
    let command = &owner.config().command;
    let mut variables = environment(&owner.config().env, &owner.config().pass_env);
    if !process.whose.is_empty() {
        variables.push(("HERMES_PRINCIPAL".into(), (&process.whose).into()));
    }
    let options = RunOptions {
        kind: ChildKind::Tree(owner.config().leftovers),
        input: Some(Cow::Borrowed(b"")),
        cancel: Cancel::at(Instant::now() + NEVER),
        grace: Duration::ZERO,
    };
    let spawned = Program::configured(command, variables)
        .and_then(|program| owner.children().spawn(&program, options));
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) => {
            let program = command.first().map_or("", String::as_str);
            let why = explain_failure(command, &e);
            let words = format!("the agent {program:?} cannot be started: {why}");
            log::warn!("{words}");
            let outcome = match e.kind() {
                _ if is_shortage(&e) => Outcome::Short(words.clone()),
                io::ErrorKind::ArgumentListTooLong | io::ErrorKind::InvalidInput => {
                    Outcome::Failed(words.clone())
                }
                _ => Outcome::Temporary(words.clone()),
            };
            return (outcome, Some(words));
        }
    };
    let pid = child.pid().get();
    {
        let mut state = process.lock();
        state.pid = pid;
        state.stdin = child.take_stdin().map(Arc::new);
        state.stdout = child.take_stdout().map(Arc::new);
    }
    match process.protocol.greeting() {
        Some(line) => process.send(line),
        None => process.set_ready(),
    }
    log::info!("agent {pid} (for {}) was started", whose(process));
    let mut keeper = Keeper {
        owner,
        process,
        pid,
        began: Instant::now(),
        stderr: StderrTail::default(),
        announced: false,
        heard: false,
        closed_at: None,
        stage: Stage::Running,
    };
    let attended = keeper.attend(&mut child);
    {
        // One that cannot be killed may end by SIGPIPE.
        let mut state = process.lock();
        (state.stdin, state.stdout) = (None, None);
    }
    let status = child.kill();
    keeper.conclude(attended.and(status))
}

/// How far the end of a process has come.
enum Stage {
    Running,
    /// Its stdin is closed; then it is sent SIGTERM.
    Closed(Instant),
    /// Then it is killed.
    Terminated(Instant),
}

/// What the thread keeps of its process.
struct Keeper<'a> {
    owner: &'a dyn Owner,
    process: &'a Arc<Process>,
    pid: i32,
    began: Instant,
    stderr: StderrTail,
    /// Those that wait were told that it is ready; that it has printed a line.
    announced: bool,
    heard: bool,
    /// It has closed its stdout, and has a moment to end.
    closed_at: Option<Instant>,
    stage: Stage,
}

impl Keeper<'_> {
    /// Attends to the process until it has ended, or has to be killed.
    fn attend(&mut self, child: &mut Child<'_>) -> io::Result<()> {
        let mut buffer = [0; AGENT_READ];
        loop {
            let Some(until) = self.step(child) else { return Ok(()) };
            let (stdout, stdin) = {
                let state = self.process.lock();
                let stdin = state.stdin.clone().filter(|_| !state.outbox.is_empty());
                (state.stdout.clone().filter(|_| !state.direct), stdin)
            };
            let [stdout, stdin] =
                [stdout.as_deref().map(AsFd::as_fd), stdin.as_deref().map(AsFd::as_fd)];
            let also = (self.process.wake.as_fd(), stdout, stdin);
            match child.next_of_living(&mut buffer, also, until)? {
                LivingEvent::Readable => drop(self.process.read()),
                LivingEvent::Stderr(count) => self.log(&buffer[..count]),
                LivingEvent::Woken => drop(self.process.wake.clear()),
                LivingEvent::Writable => self.process.lock().flush(),
                LivingEvent::TimedOut => {}
                LivingEvent::Ended => {
                    // What it has left behind may print without end.
                    let _ = (0..MAX_LAST_READS).all(|_| self.process.read());
                    return Ok(());
                }
            }
        }
    }

    /// Does what is due, and says when the next thing is; `None`: it is to be killed.
    fn step(&mut self, child: &mut Child<'_>) -> Option<Instant> {
        let now = Instant::now();
        self.note_heard();
        let mute_at = self.closed_at.map(|at| at + END_GRACE);
        if mute_at.is_some_and(|at| at <= now) {
            self.process.fail("it has closed its standard output");
        }
        let (phase, idle_at, looks_at) = {
            let mut state = self.process.lock();
            if state.stdout.is_none() {
                self.closed_at.get_or_insert(now);
            }
            let idle = state.turns == 0 && state.idle_since + DIRECT_FOR <= now;
            state.direct &= !idle && matches!(state.phase, Phase::Ready);
            let looks_at = state.direct.then(|| now + DIRECT_FOR);
            if matches!(state.phase, Phase::Ending(..)) && state.stdin.is_some() {
                child.note_descendants();
                state.stdin = None;
            }
            let idle_since = if state.turns == 0 { state.idle_since } else { now };
            (state.phase.clone(), idle_since + self.owner.config().idle_timeout, looks_at)
        };
        let until = match (phase, &self.stage) {
            (Phase::Starting, _) => {
                let late = self.began + START_TIMEOUT;
                if late <= now {
                    let words = format!("it has not answered within {} s", START_TIMEOUT.as_secs());
                    self.process.fail(&words);
                }
                late
            }
            (Phase::Ready, _) => {
                if !std::mem::replace(&mut self.announced, true) {
                    self.owner.notify();
                }
                if idle_at <= now {
                    self.process.retire_idle(self.owner.config().idle_timeout);
                }
                idle_at
            }
            (Phase::Ending(_, politely), Stage::Running) => {
                let at = now + if politely { END_GRACE } else { Duration::ZERO };
                self.stage = Stage::Closed(at);
                at
            }
            (_, Stage::Closed(at)) if *at <= now => {
                child.terminate();
                self.stage = Stage::Terminated(now + END_GRACE);
                now + END_GRACE
            }
            (_, Stage::Terminated(at)) if *at <= now => return None,
            (_, Stage::Closed(at) | Stage::Terminated(at)) => *at,
            (Phase::Ended(_), Stage::Running) => return None,
        };
        let mute_at = self.closed_at.map(|at| at + END_GRACE).filter(|at| *at > now);
        Some(mute_at.into_iter().chain(looks_at).fold(until, Instant::min))
    }

    /// Tells of its first line.
    fn note_heard(&mut self) {
        if !self.heard && self.process.lock().heard {
            self.heard = true;
            self.owner.started(self.process);
        }
    }

    fn log(&mut self, bytes: &[u8]) {
        let pid = self.pid;
        self.stderr.push(bytes, &mut |line| log::info!("agent {pid}: {}", escaped(line, false)));
    }

    /// How the turns of a process end that has ended like this, and why it was never ready.
    fn conclude(mut self, ended: io::Result<Status>) -> (Outcome, Option<String>) {
        self.note_heard();
        let pid = self.pid;
        self.stderr.finish(&mut |line| log::info!("agent {pid}: {}", escaped(line, false)));
        let how = match ended {
            Ok(Status::Exited(code)) => format!("exit status {code}"),
            Ok(Status::Signalled(signal)) => format!("signal {signal}"),
            Err(e) => format!("an error of the system: {e}"),
        };
        let tail = self.stderr.tail();
        let colon = if tail.is_empty() { "" } else { ": " };
        let words = escaped(&format!("{how}{colon}{tail}"), false);
        let (phase, ready) = (self.process.lock().phase.clone(), self.heard);
        let (outcome, died) = match phase {
            Phase::Ending(outcome, _) | Phase::Ended(outcome) => {
                log::info!("agent {pid} has ended ({how})");
                let failed = matches!(outcome, Outcome::Temporary(_) | Outcome::Failed(_));
                let died = (failed && !ready).then(|| format!("{outcome}{colon}{tail}"));
                (outcome, died)
            }
            Phase::Starting => {
                let why = format!("the agent ended before it was ready: {words}");
                log::warn!("agent {pid}: {why}");
                (Outcome::Temporary(why.clone()), Some(why))
            }
            Phase::Ready => {
                let why = format!("the agent ended in the middle of the turn: {words}");
                log::warn!("agent {pid} has ended: {words}");
                (Outcome::Crashed(why.clone()), (!ready).then_some(why))
            }
        };
        (outcome, died)
    }
}
