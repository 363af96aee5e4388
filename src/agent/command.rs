//! The `command` agent: a process a turn. The message goes to its stdin, its stdout is the reply.
//!
//! Whatever it starts ends with the turn, unless `agent.leftovers` keeps it; and a grandchild that
//! holds stdout open holds nothing up.

use std::{cell::RefCell, ffi::OsStr, io, path::Path, sync::Arc};

use serde_json::Value;

use super::context::instructions;
use super::output::Utf8Stream;
use super::{Attachment, Outcome, Reply, Report, Turn};
use crate::cancel::{Cancel, CancelReason};
use crate::config;
use crate::escape::{escaped, one_line};
use crate::json::value;
use crate::limits::{AGENT_READ, KILL_AFTER, MAX_STDERR_TAIL};
use crate::subprocess::{
    Child, ChildEvent, ChildKind, Children, Environment, ExitReason, Program, RunOptions,
    StderrTail, environment, explain_failure, keep_tail,
};
use crate::sys::gather::Gather;
use crate::sys::process::{Status, is_shortage};

/// Starts the agent, feeds it, passes its reply on, and ends it where it has to be ended.
pub fn run(
    children: &Arc<Children>,
    agent: &config::Agent,
    turn: &Turn<'_>,
    reply: &RefCell<&mut dyn Reply>,
    cancel: &Cancel<'_>,
) -> Outcome {
    let program = Program::configured(&agent.command, variables(agent, turn));
    let (kind, input) = (ChildKind::Tree(agent.leftovers), Some(turn.text.as_bytes().into()));
    let options = RunOptions { kind, input, cancel: *cancel, grace: KILL_AFTER };
    let child = match program.and_then(|it| children.spawn(&it, options)) {
        Ok(child) => child,
        Err(e) => {
            let program = agent.command.first().map_or("", String::as_str);
            let why = explain_failure(&agent.command, &e);
            let words = format!("the agent {program:?} cannot be started: {why}");
            return match e.kind() {
                _ if is_shortage(&e) => Outcome::Short(words),
                // Of this message, or of the configuration: no retry helps.
                io::ErrorKind::ArgumentListTooLong | io::ErrorKind::InvalidInput => {
                    Outcome::Failed(words)
                }
                _ => Outcome::Temporary(words),
            };
        }
    };
    attend(child, turn, reply).unwrap_or_else(|e| {
        Outcome::Temporary(format!("the gateway cannot exchange data with the agent: {e}"))
    })
}

/// Takes what the agent prints until it has ended, and says how that was.
fn attend(
    mut child: Child<'_>,
    turn: &Turn<'_>,
    reply: &RefCell<&mut dyn Reply>,
) -> io::Result<Outcome> {
    let (mut text, mut stderr) = (Utf8Stream::default(), StderrTail::default());
    let (mut buffer, mut stdout_tail, mut replied) = ([0; AGENT_READ], Vec::new(), 0);
    let (mut failed, mut usage) = (None, None);
    let pass_on = |text: &str| {
        let gone = !text.is_empty() && reply.borrow_mut().chunk(text).is_err();
        gone.then_some(Outcome::Ended(CancelReason::ClientGone))
    };
    let reason = loop {
        match child.next(&mut buffer, None)? {
            ChildEvent::Stdout(_) if child.is_cancelled() => {}
            ChildEvent::Stdout(count) => {
                replied += count;
                keep_tail(&mut stdout_tail, &buffer[..count], MAX_STDERR_TAIL);
                failed = if replied > turn.max_reply {
                    Some(turn.reply_too_long())
                } else {
                    pass_on(&text.push(&buffer[..count]))
                };
                if failed.is_some() {
                    child.cancel(CancelReason::ClientGone);
                }
            }
            ChildEvent::Stderr(count) => {
                stderr.push(&buffer[..count], &mut |line| log_line(turn, line, &mut usage));
            }
            ChildEvent::TimedOut => {}
            ChildEvent::Ended(reason) => break reason,
        }
    };
    stderr.finish(&mut |line| log_line(turn, line, &mut usage));
    // The log may have been full.
    let usage = usage.or_else(|| usage_in(&stderr.tail()));
    let status = match reason {
        ExitReason::Exited(status) => status,
        ExitReason::Cancelled(reason) => return Ok(failed.unwrap_or(Outcome::Ended(reason))),
    };
    Ok(pass_on(&text.finish()).unwrap_or_else(|| {
        reply.borrow_mut().report(Report { usage, ..Report::default() });
        classify(status, &stderr.tail(), &one_line(&stdout_tail))
    }))
}

/// The environment of one turn: the allow list, `pass_env`, `env`, and the turn's own.
fn variables(agent: &config::Agent, turn: &Turn<'_>) -> Environment {
    let mut all = environment(&agent.env, &agent.pass_env);
    let mut add = |name: &str, value: &OsStr| all.push((name.into(), value.into()));
    add("HERMES_SESSION", turn.session.as_ref());
    add("HERMES_PRINCIPAL", turn.principal.as_ref());
    add("HERMES_MESSAGE_ID", turn.message_id.as_ref());
    add("HERMES_ATTEMPT", turn.attempt.to_string().as_ref());
    // An agent can always read it: where nothing was said before there is nothing in it.
    let transcript = turn.transcript.filter(|path| path.exists());
    add("HERMES_TRANSCRIPT", transcript.map_or("/dev/null".as_ref(), Path::as_os_str));
    if !turn.attachments.is_empty() {
        let place = |it: &Attachment| match &it.path {
            Some(path) => path.to_string_lossy().into_owned(),
            None => it.name.clone(),
        };
        let places = turn.attachments.iter().map(place).gather();
        add("HERMES_ATTACHMENTS", Value::from(places).to_string().as_ref());
    }
    let instructions = instructions(turn.context.map_or("", |context| &context.messages));
    if !instructions.is_empty() {
        add("HERMES_INSTRUCTIONS", instructions.as_ref());
    }
    all
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

/// A line on stderr: the usage that the agent reports, or a line for the log.
fn log_line(turn: &Turn<'_>, line: &str, usage: &mut Option<String>) {
    match usage_in(line) {
        Some(json) => *usage = Some(json),
        None => log::info!("agent {}: {}", turn.message_id, escaped(line, false)),
    }
}

fn usage_in(line: &str) -> Option<String> {
    super::usage(value(line.strip_prefix("hermes-usage:")?.as_bytes()).ok()?)
}
