//! What the gateway says of itself.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::Service;
use super::auth::Authenticated;
use crate::http::Response;
use crate::sys::process::Pid;
use crate::text::quoted;

/// The name of the only model.
pub const MODEL: &str = "default";

/// The process answers.
pub fn health() -> Response {
    Response::new(200, "application/json", &br#"{"status":"ok"}"#[..])
}

/// New work is taken.
pub fn ready() -> Response {
    Response::new(200, "application/json", &br#"{"status":"ready"}"#[..])
}

/// `GET /v1/models`: the one model that there is, named as OpenAI's clients want it.
pub fn models(service: &Service, _proof: &Authenticated) -> Response {
    let agent = service.settings().agent.kind();
    let list = format!(
        r#"{{"object":"list","data":[{{"id":"{MODEL}","object":"model","created":0,"owned_by":"{agent}"}}]}}"#
    );
    Response::new(200, "application/json", list.into_bytes())
}

/// `GET /v1/status`: state, place, and what is in flight.
pub fn status(service: &Service, _proof: &Authenticated) -> Response {
    let facts = &service.facts;
    let (running, waiting, sessions) = service.places.counts();
    let state = match (service.gate.is_closing(), service.ready.load(Ordering::SeqCst)) {
        (true, _) => "draining",
        (false, true) => "serving",
        (false, false) => "starting",
    };
    let unit = facts.unit.as_deref();
    let body = format!(
        r#"{{"name":"{}","version":"{}","state":"{state}","pid":{},"since":"{}","uptime_seconds":{},"listen":"{}","unit":{},"agent":"{}","connections":{},"sessions":{sessions},"turns":{{"running":{running},"waiting":{waiting}}},"last_stop":{}}}"#,
        facts.name,
        env!("CARGO_PKG_VERSION"),
        Pid::own(),
        facts.since,
        facts.began.elapsed().as_secs(),
        facts.listen,
        unit.map_or_else(|| "null".to_owned(), quoted),
        service.settings().agent.kind(),
        service.connections.load(Ordering::SeqCst),
        service.last_stop(),
    );
    Response::new(200, "application/json", body.into_bytes())
}
