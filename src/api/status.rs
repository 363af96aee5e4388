//! What the gateway says of itself.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use serde_json::json;

use super::Service;
use super::auth::Authenticated;
use crate::http::Response;
use crate::sys::process::Pid;

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
    let state = match (
        service.gate.is_closing(),
        service.ready.load(Ordering::SeqCst),
    ) {
        (true, _) => "draining",
        (false, true) => "serving",
        (false, false) => "starting",
    };
    let body = json!({
        "name": facts.name,
        "version": env!("CARGO_PKG_VERSION"),
        "state": state,
        "pid": Pid::own().get(),
        "since": facts.since,
        "uptime_seconds": facts.began.elapsed().as_secs(),
        "listen": facts.listen,
        "unit": facts.unit,
        "agent": service.settings().agent.kind(),
        "connections": service.connections.load(Ordering::SeqCst),
        "sessions": sessions,
        "turns": { "running": running, "waiting": waiting },
        "last_stop": service.last_stop(),
    });
    Response::json(200, &body)
}
