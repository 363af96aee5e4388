//! Living agents that speak JSON lines: a turn is one line in, its reply some lines out. For a script of
//! ten lines: hermes-gateway-agent(7).

use std::time::{Duration, Instant};

use super::context::instructions;
use super::living::{Address, Inbox, Input, LivingTurn, Process, Protocol, text_behind};
use super::{Attachment, Outcome, Report, Turn};
use crate::cancel::{Cancel, CancelReason};
use crate::escape::quoted;
use crate::json::{find, member, string, text_or_null, value};
use crate::limits::KEEP_ALIVE;
use crate::sys::gather::Gather;

/// How long an agent may take to end a turn that was taken back, and how long where the gateway ends.
const CANCEL_GRACE: Duration = Duration::from_secs(5);
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// The protocol.
#[derive(Debug)]
pub struct Lines;

pub static LINES: Lines = Lines;

impl Protocol for Lines {
    fn greeting(&self) -> Option<String> {
        None
    }

    fn line(&self, process: &Process, line: &str) -> Result<(), String> {
        match value(line.as_bytes()).ok().and_then(|json| string(json, "id")) {
            Some(id) => {
                // Of a turn that is over nobody wants more.
                process.deliver(&Address::Session(id), line);
            }
            None => process.complain("a line is no JSON object with an \"id\"", line),
        }
        Ok(())
    }

    fn address(&self, beginning: &str) -> Option<Address> {
        Some(Address::Session(text_behind(beginning, "\"id\"")?))
    }

    fn run(&self, process: &Process, living: &LivingTurn<'_, '_>) -> Outcome {
        let inbox = match Inbox::new() {
            Ok(inbox) => inbox,
            Err(e) => return Outcome::Short(format!("no descriptor for the turn: {e}")),
        };
        let address = Address::Session(living.turn.message_id.to_owned());
        process.open(address.clone(), &inbox);
        process.send(request(living.turn));
        let outcome = attend(process, living, &inbox);
        process.close(&address);
        outcome
    }
}

/// Passes a reply on until its end.
fn attend(process: &Process, living: &LivingTurn<'_, '_>, inbox: &Inbox) -> Outcome {
    let LivingTurn { turn, reply, cancel, .. } = living;
    let (mut replied, mut cancelled): (usize, Option<(Outcome, Instant)>) = (0, None);
    let mut idle_at = Instant::now() + KEEP_ALIVE;
    loop {
        while let Some(input) = inbox.take() {
            let line = match input {
                Input::Line(line) => line,
                Input::Ended(outcome) => {
                    if process.outcome().is_none() {
                        // More has come than may wait, and more will.
                        cancel_turn(process, turn, CANCEL_GRACE);
                        process.retire();
                    }
                    return cancelled.map_or(outcome, |(own, _)| own);
                }
            };
            idle_at = Instant::now() + KEEP_ALIVE;
            if let Some(end) = end_of(&line) {
                let (outcome, report) = end;
                reply.borrow_mut().report(report);
                return cancelled.map_or(outcome, |(own, _)| own);
            }
            let chunk = string(&line, "chunk").filter(|_| cancelled.is_none()).unwrap_or_default();
            replied += chunk.len();
            let ended = if replied > turn.max_reply {
                Some(turn.reply_too_long())
            } else if !chunk.is_empty() && reply.borrow_mut().chunk(&chunk).is_err() {
                Some(Outcome::Ended(CancelReason::ClientGone))
            } else {
                None
            };
            if let Some(outcome) = ended {
                cancelled = Some((outcome, cancel_turn(process, turn, CANCEL_GRACE)));
            }
        }
        let until = cancelled.as_ref().map_or(idle_at, |(_, until)| *until);
        // Whoever ended it does not end it twice.
        let ends = if cancelled.is_some() { &Cancel::at(until) } else { cancel };
        let (mut reason, late) = match process.wait(inbox, None, ends, until) {
            Ok((_, reason)) => (reason, Instant::now() >= until),
            Err(e) => return Outcome::Short(format!("the turn cannot be waited for: {e}")),
        };
        if let (true, Some((outcome, _))) = (late, &cancelled) {
            let why = "it did not end a turn that was taken back";
            process.end(Outcome::Released(format!("the agent's process was ended: {why}")), false);
            return outcome.clone();
        }
        if late {
            idle_at = Instant::now() + KEEP_ALIVE;
            let gone = cancel.idle.is_some_and(|idle| idle().is_err());
            reason = reason.or(gone.then_some(CancelReason::ClientGone));
        }
        if let Some(reason) = reason.filter(|_| cancelled.is_none()) {
            let aborted = reason == CancelReason::Aborted;
            let grace = if aborted { ABORT_GRACE } else { CANCEL_GRACE };
            cancelled = Some((Outcome::Ended(reason), cancel_turn(process, turn, grace)));
        }
    }
}

/// Tells the agent to end a turn; returns until when it may take.
fn cancel_turn(process: &Process, turn: &Turn<'_>, grace: Duration) -> Instant {
    process.send(format!(r#"{{"id":{},"cancel":true}}"#, quoted(turn.message_id)));
    Instant::now() + grace
}

/// The end of a turn, and what is told of it; `None` for a line that is none.
fn end_of(line: &str) -> Option<(Outcome, Report)> {
    let [error, done, usage] = find(line, ["error", "done", "usage"]);
    if error.is_some_and(|error| error != "null") {
        let words = string(line, "error").unwrap_or_else(|| "it did not say why".to_owned());
        let words = format!("the agent failed: {words}");
        let temporary = member(line, "temporary") == Some("true");
        let outcome = if temporary { Outcome::Temporary(words) } else { Outcome::Failed(words) };
        return Some((outcome, Report::default()));
    }
    let usage = usage.and_then(super::usage);
    (done == Some("true")).then(|| (Outcome::Done, Report { usage, ..Report::default() }))
}

/// A turn, as the agent gets it.
fn request(turn: &Turn<'_>) -> String {
    let [id, principal, text] = [turn.message_id, turn.principal, turn.text].map(quoted);
    let session = text_or_null(Some(turn.session).filter(|session| !session.is_empty()));
    let transcript =
        turn.transcript.filter(|path| path.exists()).map(|path| path.to_string_lossy());
    let transcript = text_or_null(transcript.as_deref());
    let place = |it: &Attachment| match &it.path {
        Some(path) => quoted(&path.to_string_lossy()),
        None => quoted(&it.name),
    };
    let attachments = turn.attachments.iter().map(place).gather().join(",");
    let instructions = instructions(turn.context.map_or("", |context| &context.messages));
    let instructions = text_or_null(Some(&*instructions).filter(|text| !text.is_empty()));
    format!(
        r#"{{"id":{id},"session":{session},"principal":{principal},"attempt":{},"text":{text},"transcript":{transcript},"attachments":[{attachments}],"instructions":{instructions}}}"#,
        turn.attempt
    )
}
