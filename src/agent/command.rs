//! The `command` agent: a process a turn. The message goes to its stdin, its stdout is the reply.
//!
//! Whatever it starts ends with the turn, unless `agent.leftovers` keeps it; and a grandchild that
//! holds stdout open holds nothing up.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::output::{StderrTail, Utf8Stream, keep_end};
use super::{Outcome, Reply, Report, Turn, TurnLimits, environment};
use crate::config;
use crate::escape::{escaped, one_line};
use crate::limits::{KEEP_ALIVE, KILL_AFTER};
use crate::subprocess::{Child, Children, Program, explained, take};
use crate::sys::poll::Interest;
use crate::sys::process::{Signal, Status, is_shortage};

/// How long one client that reads slowly may keep an agent's deadline from being looked at.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);

/// Starts the agent, feeds it, passes its reply on, and ends it where it has to be ended.
pub fn run(
    children: &Arc<Children>,
    agent: &config::Agent,
    turn: &Turn<'_>,
    reply: &mut dyn Reply,
    bounds: &TurnLimits<'_>,
) -> Outcome {
    let program = Program::configured(&agent.command, environment::of(agent, turn));
    let born = program.and_then(|program| children.spawn_tree(&program, agent.leftovers, true));
    let child = match born {
        Ok(child) => child,
        Err(e) => {
            let program = agent.command.first().map_or("", String::as_str);
            let why = explained(&agent.command, &e);
            let words = format!("the agent {program:?} cannot be started: {why}");
            return match e.kind() {
                _ if is_shortage(&e) => Outcome::Short(words),
                // Of this message, or of the configuration: no time will heal it.
                io::ErrorKind::ArgumentListTooLong | io::ErrorKind::InvalidInput => {
                    Outcome::Failed(words)
                }
                _ => Outcome::Temporary(words),
            };
        }
    };
    let mut process = Process {
        child,
        text: Utf8Stream::default(),
        complaints: StderrTail::default(),
        printed: Vec::new(),
        usage: None,
        written: 0,
        replied: 0,
        quiet_since: Instant::now(),
    };
    let result = process.attend(turn, reply, bounds);
    let status = process.child.end();
    process.complaints.finish(&mut |line| hear_line(turn, line, &mut process.usage));
    match (result, status) {
        (Err(e), _) | (Ok(None), Err(e)) => {
            Outcome::Temporary(format!("the agent could not be attended to: {e}"))
        }
        (Ok(Some(outcome)), _) => outcome,
        (Ok(None), Ok(status)) => {
            reply.report(Report { usage: process.usage.take(), finish: None });
            classify(status, &process.complaints.tail(), &one_line(&process.printed))
        }
    }
}

/// What an exit status means: 75 and signals may pass, anything else but 0 stays.
fn classify(status: Status, stderr: &str, stdout: &str) -> Outcome {
    let how = match status {
        Status::Exited(0) => return Outcome::Done,
        Status::Exited(code) => format!("the agent failed with exit status {code}"),
        Status::Signalled(signal) => format!("the agent was ended by signal {signal}"),
    };
    let printed = if stdout.is_empty() { "" } else { "; it had printed: " };
    let colon = if stderr.is_empty() { "" } else { ": " };
    let words = escaped(&format!("{how}{colon}{stderr}{printed}{stdout}"), false);
    match status {
        Status::Exited(75) => Outcome::Temporary(words),
        Status::Exited(_) => Outcome::Failed(words),
        Status::Signalled(_) => Outcome::Crashed(words),
    }
}

/// A running agent.
struct Process {
    child: Child,
    text: Utf8Stream,
    complaints: StderrTail,
    /// The end of what it has printed on stdout.
    printed: Vec<u8>,
    /// What the agent says that it used.
    usage: Option<String>,
    written: usize,
    replied: usize,
    quiet_since: Instant,
}

impl Process {
    /// Moves bytes until the agent has ended. `Some(outcome)` when it was ended from outside.
    fn attend(
        &mut self,
        turn: &Turn<'_>,
        reply: &mut dyn Reply,
        bounds: &TurnLimits<'_>,
    ) -> io::Result<Option<Outcome>> {
        let mut ending: Option<(Outcome, Instant)> = None;
        loop {
            let keep_alive = bounds.deadline.min(self.quiet_since + KEEP_ALIVE);
            let until = ending.as_ref().map_or(keep_alive, |(_, kill_at)| *kill_at);
            let watched = |sign| if ending.is_some() { Interest::none() } else { sign };
            let signs = [
                watched(Interest::read(bounds.cut)),
                watched(bounds.client.map_or_else(Interest::none, Interest::hangup)),
                watched(bounds.cancel.map_or_else(Interest::none, Interest::read)),
            ];
            let input = (turn.text.as_bytes(), &mut self.written);
            let (ended, [cut, client_gone, cancelled]) = self.child.attend(signs, until, input)?;
            let passed_on = self.pass_on(reply, bounds.max_reply, (ending.is_some(), ended));
            self.hear(turn)?;
            if ended {
                let last = passed_on?.or_else(|| self.last_piece(reply, ending.is_some()));
                return Ok(ending.map(|(outcome, _)| outcome).or(last));
            }
            let now = Instant::now();
            // It is killed now. Whoever cannot be is left behind: its turn is over all the same.
            if let Some((outcome, _)) = ending.take_if(|(_, kill_at)| now >= *kill_at) {
                return Ok(Some(outcome));
            }
            let outside = match passed_on {
                _ if ending.is_some() => continue,
                Err(e) => return Err(e),
                Ok(Some(outcome)) => Some(outcome),
                Ok(None) if cancelled => Some(Outcome::Cancelled),
                Ok(None) if client_gone => Some(Outcome::ClientGone),
                Ok(None) if cut => Some(Outcome::Cut),
                Ok(None) if now >= bounds.deadline => Some(Outcome::TimedOut),
                Ok(None) if now >= self.quiet_since + KEEP_ALIVE => {
                    self.quiet_since = now;
                    reply.idle().is_err().then_some(Outcome::ClientGone)
                }
                Ok(None) => None,
            };
            if let Some(outcome) = outside {
                self.child.signal(Signal::Term);
                ending = Some((outcome, now + KILL_AFTER));
            }
        }
    }

    /// Passes on what the agent has printed; drops it once the turn is `ending`. `ended`: there will
    /// be no more.
    fn pass_on(
        &mut self,
        reply: &mut dyn Reply,
        max_reply: usize,
        (ending, ended): (bool, bool),
    ) -> io::Result<Option<Outcome>> {
        let (began, mut outcome) = (Instant::now(), None);
        take(&mut self.child.stdout, |bytes| {
            if !ending {
                self.replied += bytes.len();
                keep_end(&mut self.printed, bytes);
                self.quiet_since = Instant::now();
                let text = self.text.push(bytes);
                if self.replied > max_reply {
                    let words =
                        format!("the agent's reply is over limits.max_reply ({max_reply} bytes)");
                    outcome = Some(Outcome::Failed(words));
                } else if !text.is_empty() && reply.chunk(&text).is_err() {
                    outcome = Some(Outcome::ClientGone);
                }
            }
            // A client that reads slowly must not keep the deadline from being looked at. Once the
            // agent has ended, all that it has left is taken.
            outcome.is_none() && (ended || began.elapsed() <= LOCK_PATIENCE)
        })?;
        Ok(outcome)
    }

    fn last_piece(&mut self, reply: &mut dyn Reply, ending: bool) -> Option<Outcome> {
        let rest = self.text.finish();
        let undelivered = !ending && !rest.is_empty() && reply.chunk(&rest).is_err();
        undelivered.then_some(Outcome::ClientGone)
    }

    /// Takes what came on stderr, line by line into the log.
    fn hear(&mut self, turn: &Turn<'_>) -> io::Result<()> {
        take(&mut self.child.stderr, |bytes| {
            let usage = &mut self.usage;
            self.complaints.push(bytes, &mut |line| hear_line(turn, line, usage));
            true
        })
    }
}

/// A line on stderr: what the agent says that it used, or words for the log.
fn hear_line(turn: &Turn<'_>, line: &str, usage: &mut Option<String>) {
    if let Some(json) = line.strip_prefix("hermes-usage:")
        && let Ok(value) = serde_json::from_str::<&RawValue>(json)
        && let Some(said) = super::usage(value)
    {
        *usage = Some(said);
        return;
    }
    log::info!("agent {}: {}", turn.message_id, escaped(line, false));
}
