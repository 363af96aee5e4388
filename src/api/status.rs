//! What the gateway says of itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Service;
use super::auth::Authenticated;
use super::error::ApiError;
use super::{messages::json, reload};
use crate::agent::Agent;
use crate::http::Response;
use crate::journal::Condition;
use crate::session::{Counts, Usage, Waits};
use crate::sys::fd::most_open;
use crate::sys::process::Pid;
use crate::text::quoted;
use crate::threads::lock;

/// `POST /v1/journal/compact`.
pub fn compact(service: &Service, _proof: &Authenticated) -> Result<Response, ApiError> {
    let (before, after) = service.hub.compact().map_err(|e| {
        let message = format!("The journal could not be compacted: {e}.");
        ApiError::new(503, "journal_unavailable", message)
    })?;
    Ok(json(200, format!(r#"{{"before":{before},"after":{after}}}"#)))
}

/// `GET /v1/models`: what the agent answers to, as OpenAI's clients want it.
pub fn models(service: &Service, _proof: &Authenticated) -> Response {
    let agent = &service.settings().agent;
    let models: Vec<String> = agent.models().iter().map(|name| about(agent, name)).collect();
    json(200, format!(r#"{{"object":"list","data":[{}]}}"#, models.join(",")))
}

/// `GET /v1/models/{model}`.
pub fn model(service: &Service, _proof: &Authenticated, name: &str) -> Result<Response, ApiError> {
    let agent = &service.settings().agent;
    if !agent.models().iter().any(|known| known == name) {
        let message = format!("There is no model {name:?}; GET /v1/models lists those that are.");
        return Err(ApiError::new(404, "model_not_found", message));
    }
    Ok(json(200, about(agent, name)))
}

fn about(agent: &Agent, name: &str) -> String {
    let (id, by) = (quoted(name), agent.kind());
    format!(r#"{{"id":{id},"object":"model","created":0,"owned_by":"{by}"}}"#)
}

/// A JSON object for each principal that holds something.
fn principals(service: &Service, mut usage: Usage) -> String {
    for (what, held) in [
        ("connections", service.guests.held()),
        ("buffered_bytes", service.buffers.by_principal()),
        ("transcript_bytes", service.hub.transcript_bytes()),
    ] {
        held.iter().for_each(|(name, count)| usage.of(name).push((what, *count)));
    }
    to_json(&usage)
}

fn to_json(usage: &Usage) -> String {
    let row = |(name, held): (&String, &Vec<(&str, u64)>)| {
        let held = held.iter().map(|(what, count)| format!(r#","{what}":{count}"#));
        format!(r#"{{"name":{}{}}}"#, quoted(name), held.collect::<String>())
    };
    format!("[{}]", usage.iter().map(row).collect::<Vec<_>>().join(","))
}

/// `GET /v1/status`: state, place, and what is in flight; `null` where a disk that hangs keeps that from
/// being told.
pub fn status(service: &Service, _proof: &Authenticated) -> Response {
    let facts = &service.facts;
    let state = match (service.gate.is_closing(), service.ready.load(Ordering::SeqCst)) {
        (true, _) => "draining",
        (false, true) => "serving",
        (false, false) => "starting",
    };
    let unit = facts.unit.get();
    let limit = lock(&service.stop_timeout).filter(|limit| *limit < Duration::MAX);
    let limits = service.settings().config.limits.within(most_open());
    let (bytes, last) = service.hub.journal_size();
    let known = service.hub.glance_at_counts();
    let null = || "null".to_owned();
    let waits = known.as_ref().and_then(|(_, _, waits, _)| waits.as_ref());
    let waits = waits.map_or_else(null, Waits::to_json);
    let (counts, turns) = known.as_ref().map_or((None, None), |(c, t, ..)| (Some(*c), Some(*t)));
    let principals = known.map_or_else(null, |(.., usage)| principals(service, usage));
    let number = |n: Option<usize>| n.map_or_else(null, |n| n.to_string());
    let of = |pick: fn(&Counts) -> usize| number(counts.as_ref().map(pick));
    let degraded = match service.hub.condition() {
        Condition::Good => None,
        Condition::Degraded(why) | Condition::Broken(why) => Some(why),
    };
    let body = format!(
        r#"{{"name":"{}","version":"{}","state":"{state}","pid":{},"since":"{}","state_since":"{}","uptime_seconds":{},"listen":"{}","unit":{},"stop_timeout_seconds":{},"agent":"{}","connections":{},"sessions":{},"turns":{{"running":{},"waiting":{}}},"waiting":{waits},"limits":{{"max_connections":{},"max_turns":{},"descriptors":{},"shortage":{}}},"degraded":{},"warnings":{},"reload_error":{},"journal":{{"bytes":{bytes},"last":{last},"queued":{},"running":{},"kept":{},"outbox":{},"dead_letters":{}}},"principals":{principals},"last_stop":{}}}"#,
        facts.name,
        env!("CARGO_PKG_VERSION"),
        Pid::own(),
        facts.since,
        service.draining_since.get().unwrap_or(&facts.since),
        facts.began.elapsed().as_secs(),
        facts.listen,
        unit.map_or_else(null, |unit| quoted(unit)),
        limit.map_or_else(null, |limit| limit.as_secs_f64().to_string()),
        service.settings().agent.kind(),
        service.guests.count(),
        number(turns.map(|(_, _, sessions)| sessions)),
        number(turns.map(|(running, _, _)| running)),
        number(turns.map(|(_, waiting, _)| waiting)),
        limits.max_connections,
        limits.max_turns,
        most_open(),
        limits.shortage().map_or_else(null, |words| quoted(&words)),
        degraded.map_or_else(null, |why| quoted(&why)),
        serde_json::Value::from(lock(&service.warnings).clone()),
        reload::error(service),
        of(|c| c.queued),
        of(|c| c.running),
        of(|c| c.kept),
        of(|c| c.outbox),
        of(|c| c.dead_letters),
        lock(&service.last_stop),
    );
    json(200, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_principal_that_holds_something_has_a_row() {
        let mut usage = Usage::new();
        assert_eq!(to_json(&usage), "[]");
        *usage.of("b") = vec![("queued", 1), ("results", 3)];
        usage.of("a\"").push(("queued", 0));
        let expected = r#"[{"name":"a\"","queued":0},{"name":"b","queued":1,"results":3}]"#;
        assert_eq!(to_json(&usage), expected);
    }
}
