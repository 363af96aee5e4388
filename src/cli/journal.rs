//! `journal`: what is in it, whether it is intact, and how an operator repairs it. What only
//! looks never writes, and works beside a running gateway.

use super::args::Parsed;
use super::context::Context;
use super::control_client::{connect_to, request};
use super::history::word;
use super::output::{say, say_wrapped, table};
use super::{config, time_format};
use crate::config::OWNER;
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::gateway;
use crate::journal::record::{Record, Step};
use crate::journal::{Decision, NAME, Report, inspect, repair, saved};
use crate::lifecycle::instance_lock::{InstanceLock, Probe, probe};
use crate::session::{DeliveryState, Entry, Id, MessageTable, TurnState};
use crate::sys::{clock::rfc3339, fd::EventFd, gather::Gather};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

/// Messages that `journal` lists: more than anybody reads.
const MAX_JOURNAL_ROWS: usize = 1000;

/// Does what the words say.
pub fn journal(context: &Context, args: &Parsed) -> Result<Exit, Failure> {
    let id = args.words.get(1).map_or("", String::as_str);
    match args.words.first().map_or("", String::as_str) {
        "check" => check(context),
        "dump" => dump(context),
        "compact" => compact(context),
        "repair" => repair_here(context),
        "retry" if args.has("--all") => retry_all(context),
        "retry" => change_message(context, "POST", &format!("/v1/messages/{id}/retry")),
        "drop" => change_message(context, "DELETE", &format!("/v1/dead-letters/{id}")),
        _ => summary(context),
    }
}

/// The journal's file.
///
/// # Errors
/// `Failed` before the first run, which makes it.
fn file(context: &Context) -> Result<PathBuf, Failure> {
    let (dir, path) = (&context.dirs.state, context.dirs.state.join(NAME));
    let missing = path.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound);
    // One that was removed, and has a copy that was saved, is no new one.
    if missing && saved(dir).unwrap_or_default().is_empty() {
        context.refuse_foreign("journal")?;
        let path = path.display();
        let words = format!(
            "there is no journal at {path}: a gateway makes it at its first start, unless it runs \
             with --ephemeral"
        );
        return Err(Failure::failed(words));
    }
    Ok(path)
}

/// Applies each record that is read to the table of messages.
fn apply_to(messages: &mut MessageTable) -> impl FnMut(u64, &str) -> Result<(), String> {
    |number, json| messages.apply(number, &Record::parse(json)?, json.len())
}

/// What the records add up to.
fn read(context: &Context) -> Result<(MessageTable, Report), Failure> {
    let mut messages = MessageTable::default();
    let report = inspect(&file(context)?, &mut apply_to(&mut messages))?;
    Ok((messages, report))
}

fn summary(context: &Context) -> Result<Exit, Failure> {
    let (messages, _) = read(context)?;
    let counts = messages.counts;
    let mut text = format!(
        "{} queued, {} running, {} to deliver; dead letters: {}; messages known: {}\n",
        counts.queued, counts.running, counts.outbox, counts.dead_letters, counts.kept
    );
    let open = |entry: &&Entry| {
        let sent = matches!(
            entry.delivery_state(),
            None | Some(DeliveryState::Delivered | DeliveryState::Dropped)
        );
        !entry.turn.is_over() || !sent
    };
    let row = |(id, entry): (Id, &Entry)| {
        let session = entry.owner.session.as_deref().unwrap_or("-");
        let delivery = entry.delivery.as_ref().map(|outgoing| {
            let state = outgoing.state.map_or("later", DeliveryState::word);
            format!("{} {state}", outgoing.target)
        });
        vec![
            id.to_string(),
            escaped(&entry.owner.principal, false),
            escaped(session, false),
            entry.turn.word().to_owned(),
            time_format::shown(&rfc3339(entry.at)).trim_end_matches(" UTC").to_owned(),
            escaped(&delivery.unwrap_or_default(), false),
        ]
    };
    let rows = messages.entries().filter(|(_, entry)| open(entry)).take(MAX_JOURNAL_ROWS).map(row);
    let mut rows: Vec<Vec<String>> = rows.gather();
    let mut titles = vec!["message", "principal", "session", "turn", "accepted (UTC)", "delivery"];
    if messages.entries().all(|(_, entry)| entry.owner.principal == OWNER) {
        titles.remove(1);
        rows.iter_mut().for_each(|row| drop(row.remove(1)));
    }
    text += &table(&titles, rows);
    text += &failures(context, &messages)?;
    say_wrapped(&text, 4)
}

/// Why turns wait and why others failed: the last error of each, in a line of its own.
fn failures(context: &Context, messages: &MessageTable) -> Result<String, Failure> {
    let resting = messages.entries().filter(|(_, entry)| entry.turn == TurnState::Backoff);
    let failed = messages
        .before(None)
        .filter(|(_, entry)| entry.turn == TurnState::Failed && !messages.is_erased(entry));
    let found = resting.take(MAX_JOURNAL_ROWS).chain(failed.take(MAX_JOURNAL_ROWS));
    let mut rows: Vec<(u64, String)> = Vec::new();
    for (id, entry) in found {
        let n = entry.attempts;
        let (what, at) = match entry.failing.as_ref().filter(|_| entry.turn == TurnState::Backoff) {
            Some(failing) => (format!("waits, attempt {} at", n + 1), failing.next_attempt_at()),
            None => (format!("failed, attempt {n}, at"), entry.ended.at),
        };
        let of = match entry.owner.principal.as_str() {
            OWNER => String::new(),
            other => format!(" of {}", escaped(other, false)),
        };
        let row = format!("{id}{of}  {what} {}\n", time_format::shown(&rfc3339(at)));
        // In the order of the records that have the errors.
        let place = rows.partition_point(|(outcome, _)| *outcome < entry.outcome);
        rows.insert(place, (entry.outcome, row));
    }
    if rows.is_empty() {
        return Ok(String::new());
    }
    inspect(&file(context)?, &mut |number, json| {
        if let Ok(at) = rows.binary_search_by_key(&number, |(outcome, _)| *outcome) {
            let error = match Record::parse(json)? {
                Record::Step { step: Step::Failed(error, _), .. } => error,
                Record::Step { step: Step::Retry(retry), .. } => retry.error,
                _ => String::new(),
            };
            rows[at].1 += &format!("    {}\n", escaped(&error, false));
        }
        Ok(())
    })?;
    let rows: String = rows.into_iter().map(|(_, row)| row).gather().concat();
    let head = "turns whose last attempt failed; `journal retry ID` runs one of the owner again:";
    Ok(format!("\n{head}\n{rows}"))
}

fn check(context: &Context) -> Result<Exit, Failure> {
    let (_, report) = read(context)?;
    let Report { version, records, bytes, last, .. } = report;
    let mut text = format!(
        "good: records: {records}, up to number {last}, {bytes} bytes, format version {version}\n"
    );
    if let Some((offset, length)) = report.torn {
        text += &format!(
            "its end is incomplete: {length} bytes from {offset} on were never acknowledged; a running \
             gateway completes them, the next start cuts them off\n"
        );
    }
    say(&text)
}

fn dump(context: &Context) -> Result<Exit, Failure> {
    let mut printed = Ok(Exit::Planned);
    // What was reset stands there until the next compaction, and is nobody's to read. Damage is told
    // below, behind what is before it.
    let mut messages = MessageTable::default();
    let _ = inspect(&file(context)?, &mut apply_to(&mut messages));
    while messages.erase_some() {}
    let result = inspect(&file(context)?, &mut |number, json| {
        let left = match messages.decide(number, json) {
            Decision::Erase => return Ok(()),
            Decision::Replace(left) => left,
            Decision::Keep | Decision::Drop => json.to_owned(),
        };
        printed = say(&format!("{number} {}\n", escaped(&left, false)));
        if printed.is_ok() { Ok(()) } else { Err("its reader went away".to_owned()) }
    });
    let exit = printed?;
    result?;
    Ok(exit)
}

/// By the gateway where it runs, else here under its lock.
fn compact(context: &Context) -> Result<Exit, Failure> {
    let cannot = |e: io::Error| Failure::cannot("compact the journal", &e);
    let (before, after) = if let Ok(Probe::Free) = probe(&context.dirs) {
        file(context)?;
        let _held = InstanceLock::take(&context.name, &context.dirs, Vec::new())?;
        let wake = Arc::new(EventFd::new().map_err(cannot)?);
        let hub = gateway::hub(&config::plan(context), config::load(context)?.config, wake)?;
        hub.compact().map_err(cannot)?
    } else {
        let sizes = request(&mut connect_to(context)?, "POST", "/v1/journal/compact")?;
        (sizes["before"].as_u64().unwrap_or(0), sizes["after"].as_u64().unwrap_or(0))
    };
    say(&format!("{before} → {after} bytes\n"))
}

fn repair_here(context: &Context) -> Result<Exit, Failure> {
    file(context)?;
    let _held = InstanceLock::take(&context.name, &context.dirs, Vec::new())?;
    let mut messages = MessageTable::default();
    let repaired = repair(&context.dirs.state, &mut apply_to(&mut messages))?;
    let text = match repaired {
        None => "nothing is damaged\n".to_owned(),
        Some(repaired) => format!(
            "the damage: {}\nrecords kept: {}; intact records behind the damage, dropped: {}\n\
             the old journal: {}\n",
            escaped(&repaired.found.reason, false),
            repaired.records,
            repaired.left_out,
            repaired.kept.display()
        ),
    };
    say(&text)
}

fn change_message(context: &Context, method: &str, target: &str) -> Result<Exit, Failure> {
    let message = request(&mut connect_to(context)?, method, target)?;
    let delivery = &message["deliveries"][0];
    let (target, status) = (word(&delivery["target"]), word(&delivery["status"]));
    let sent = delivery.is_object() && message["status"] == "done";
    let words = if sent { format!("{target} {status}") } else { word(&message["status"]) };
    say(&format!("{}: {words}\n", word(&message["id"])))
}

fn retry_all(context: &Context) -> Result<Exit, Failure> {
    let mut client = connect_to(context)?;
    let failed = request(&mut client, "GET", "/v1/messages?status=failed")?;
    let messages = failed["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    // The oldest goes first, as it did before.
    for message in messages.iter().rev() {
        let id = message["id"].as_str().unwrap_or_default();
        request(&mut client, "POST", &format!("/v1/messages/{id}/retry"))?;
        say(&format!("{id}\n"))?;
    }
    say(&format!("turns that run again: {}\n", messages.len()))
}
