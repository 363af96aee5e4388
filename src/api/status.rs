//! What operators ask of the gateway: its state, a compaction of the journal, a reload.

use std::{process, sync::atomic::Ordering, time::Duration};

use serde_json::Value;

use super::error::{ApiError, Handled};
use super::response;
use super::service::{Exchange, Service};
use crate::agent::ProcessStatus;
use crate::channel::ChannelStatus;
use crate::config::millis;
use crate::escape::quoted;
use crate::http::Response;
use crate::journal::Condition;
use crate::json::object;
use crate::session::{Counts, Hub, Usage, rfc3339};
use crate::sys::{fd::max_open, gather::Gather};
use crate::threads::lock;

/// `GET /health`: the process answers.
pub fn health(_: &Service, _: &dyn Fn() -> bool) -> Response {
    response::json(200, r#"{"status":"ok"}"#)
}

/// `GET /ready`: new durable work is taken, or why not. The reason names programs and files, which only
/// those are told who may see the status.
pub fn ready(service: &Service, opens_status: &dyn Fn() -> bool) -> Response {
    if !service.ready.load(Ordering::SeqCst) || service.shutdown.is_closing() {
        return ApiError::stopping().response();
    }
    let Some(mut why) = degraded(service) else {
        return response::json(200, r#"{"status":"ready"}"#);
    };
    if !opens_status() {
        why = "a key that opens /v1/status is told the reason here and there".to_owned();
    }
    let why = quoted(&why);
    response::json(503, format!(r#"{{"reason":{why},"status":"degraded"}}"#))
}

/// Why new durable work is not taken.
fn degraded(service: &Service) -> Option<String> {
    match service.hub.condition() {
        Condition::Good => {
            let hangs = lock(&service.hangs).clone();
            hangs.or_else(|| service.channels.get()?.trouble())
        }
        Condition::Degraded(why) | Condition::Broken(why) => Some(why),
    }
}

/// `POST /v1/reload`, on the control socket only: the exit status for the command that asks, and its
/// message.
pub fn reload(exchange: Exchange<'_>, _: &str) -> Handled {
    let late = || ApiError::new(503, "reload_pending", "The configuration is still being read.");
    let outcome = exchange.service.reloads.wait(&exchange.service.wake).ok_or_else(late)?;
    let (exit, message) = (outcome.exit.code(), quoted(&outcome.message));
    exchange.json(format!(r#"{{"exit":{exit},"message":{message}}}"#))
}

/// `POST /v1/journal/compact`.
pub fn compact(exchange: Exchange<'_>, _: &str) -> Handled {
    let (before, after) = exchange.service.hub.compact().map_err(|e| {
        let message = format!("The journal could not be compacted: {e}.");
        ApiError::new(503, "journal_unavailable", message)
    })?;
    exchange.json(format!(r#"{{"after":{after},"before":{before}}}"#))
}

/// `GET /v1/status`; `null` where a disk that hangs keeps something from being told.
pub fn status(exchange: Exchange<'_>, _: &str) -> Handled {
    let Exchange { service, .. } = exchange;
    let facts = &service.facts;
    let state = match (service.shutdown.is_closing(), service.ready.load(Ordering::SeqCst)) {
        (true, _) => "draining",
        (false, true) => "serving",
        (false, false) => "starting",
    };
    let limit = lock(&service.stop_timeout).filter(|limit| *limit < Duration::MAX);
    // A whole number where it is one.
    let limit = limit.map(|limit| match limit.subsec_nanos() {
        0 => Value::from(limit.as_secs()),
        _ => limit.as_secs_f64().into(),
    });
    let limits = service.settings().config.limits.within(max_open());
    let (bytes, last) = service.hub.journal_size();
    let glance = service.hub.try_status();
    let of = |pick: fn(&Counts) -> usize| glance.as_ref().map(|(counts, ..)| pick(counts));
    let turns = glance.as_ref().map(|&(_, turns, ..)| turns);
    let waits = glance.as_ref().and_then(|(.., waits, _)| waits.as_ref());
    let (_, refused) = service.reloads.refused();
    // No lock is held while others are waited for.
    let warnings = lock(&service.warnings).clone();
    let last_stop = lock(&service.last_stop).clone();
    let pair = |pick: fn(&(usize, usize, usize)) -> usize| Value::from(turns.as_ref().map(pick));
    let sessions = pair(|it| it.2);
    let turns = object!("running": pair(|it| it.0), "waiting": pair(|it| it.1));
    let limits = object!(
        "max_connections": limits.max_connections, "max_turns": limits.max_turns,
        "descriptors": max_open(), "shortage": limits.shortage(),
    );
    let journal = object!(
        "bytes": bytes, "last": last, "queued": of(|c| c.queued), "running": of(|c| c.running),
        "kept": of(|c| c.kept), "outbox": of(|c| c.outbox), "dead_letters": of(|c| c.dead_letters),
    );
    let status = object!(
        "name": facts.name.as_str(),
        "version": env!("CARGO_PKG_VERSION"),
        "state": state,
        "pid": process::id(),
        "since": facts.since.as_str(),
        "state_since": service.draining_since.get().unwrap_or(&facts.since).as_str(),
        "uptime_seconds": facts.began.elapsed().as_secs(),
        "listen": facts.listen.as_str(),
        "unit": facts.unit.get().map(String::as_str),
        "stop_timeout_seconds": limit,
        "agent": service.settings().agent.kind(),
        "upstreams": upstreams(service),
        "processes": processes(service),
        "channels": channels(service),
        "connections": service.connections.count(),
        "sessions": sessions,
        "turns": turns,
        "waiting": waits.and_then(|waits| waits.parse::<Value>().ok()),
        "limits": limits,
        "degraded": degraded(service),
        "warnings": warnings,
        "reload_error": refused.map(|it| object!("time": it.time, "message": it.message)),
        "restart": restart(&service.hub),
        "journal": journal,
        "attachment_bytes": glance.as_ref().map(|(counts, ..)| counts.attachments),
        "principals": glance.map(|(.., usage)| principals(service, usage)),
        "last_stop": last_stop,
    );
    exchange.json(status.to_string())
}

/// The servers of an upstream, by what may stand in a log.
fn upstreams(service: &Service) -> Value {
    let settings = service.settings();
    let all = settings.config.agent.url.iter();
    Value::Array(all.map(|server| server.url.origin().into()).collect())
}

/// The channels, without the people there.
fn channels(service: &Service) -> Value {
    let row = |it: &ChannelStatus| {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        object!(
            "name": &*it.name, "state": it.state, "since": rfc3339(it.since), "why": text(&it.why),
            "unacknowledged": it.unacknowledged, "waiting": it.waiting, "gap": text(&it.gap),
        )
    };
    let all = service.channels.get().map(|channels| channels.status()).unwrap_or_default();
    Value::Array(all.iter().map(row).gather())
}

/// The processes of an agent that stays; the principal is null where operators, or all, share it.
fn processes(service: &Service) -> Value {
    let row = |it: &ProcessStatus| {
        let principal = Some(it.principal.as_str()).filter(|name| !name.is_empty());
        object!(
            "pid": it.pid, "principal": principal, "age_seconds": it.age.as_secs(),
            "turns": it.turns, "served": it.served, "sessions": it.sessions,
            "resident_bytes": it.resident,
        )
    };
    Value::Array(service.settings().agent.processes().iter().map(row).gather())
}

/// The restart that is under way, the last one that happened and the last that did not; `null` before the
/// first.
fn restart(hub: &Hub) -> Value {
    let (current, last, failed) = hub.restarts.account();
    if current.is_none() && last.is_none() && failed.is_none() {
        return Value::Null;
    }
    let current = current.map(|it| {
        object!(
            "number": it.number, "kind": it.kind.word(), "by": it.by, "stage": it.stage.word(),
            "since_seconds": it.since.elapsed().as_secs(),
        )
    });
    let last = last.map(|it| {
        object!(
            "number": it.number, "kind": it.kind, "by": it.by, "time": it.time, "from": it.from,
            "version": env!("CARGO_PKG_VERSION"), "away_ms": it.away.map(millis),
        )
    });
    let failed = failed.map(|it| object!("number": it.number, "time": it.time, "why": it.why));
    object!("current": current, "last": last, "failed": failed)
}

/// A JSON object for each principal that holds something.
fn principals(service: &Service, mut usage: Usage) -> Value {
    for (what, held) in [
        ("connections", service.connections.held()),
        ("buffered_bytes", service.buffers.by_principal()),
        ("transcript_bytes", service.hub.transcript_bytes()),
    ] {
        held.iter().for_each(|(name, count)| usage.of(name).push((what, *count)));
    }
    rows(&usage)
}

fn rows(usage: &Usage) -> Value {
    let row = |(name, held): (&String, &Vec<(&str, u64)>)| {
        let mut row = object!("name": name.as_str());
        held.iter().for_each(|(what, count)| row[what] = (*count).into());
        row
    };
    usage.iter().map(row).gather().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_principal_that_holds_something_has_a_row() {
        let mut usage = Usage::default();
        assert_eq!(rows(&usage).to_string(), "[]");
        *usage.of("b") = vec![("queued", 1), ("results", 3)];
        usage.of("a\"").push(("queued", 0));
        let expected = r#"[{"name":"a\"","queued":0},{"name":"b","queued":1,"results":3}]"#;
        assert_eq!(rows(&usage).to_string(), expected);
    }
}
