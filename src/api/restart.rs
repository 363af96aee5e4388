//! `/v1/restart`, on the control socket only: asks for a restart in place, and tells what becomes of it.

use super::error::{ApiError, Handled};
use super::response::json as json_response;
use super::service::Exchange;
use crate::config::millis;
use crate::json::object_of;
use crate::session::{RestartAccepted, RestartKind, RestartRequest, RestartStage};

/// `POST /v1/restart`, with `?kind=update` where an update has put another program in place: 202 with the
/// number of the restart that was begun, or joined.
pub fn post(exchange: Exchange<'_>, _: &str) -> Handled {
    let hub = &exchange.service.hub;
    if exchange.service.shutdown.is_closing() {
        return Err(ApiError::stopping().into());
    }
    let query = exchange.request.query.as_deref().unwrap_or_default();
    let pid = query.strip_prefix("kind=replace&pid=").and_then(|pid| pid.parse().ok());
    let kind = match (query, pid) {
        (_, Some(pid)) => RestartKind::Replace(pid),
        ("kind=update", _) => RestartKind::Update,
        _ => RestartKind::Restart,
    };
    let by = format!("{} on the control socket", exchange.proof.principal());
    let accepted = hub.request_restart(RestartRequest { kind, by, requester: None });
    let (number, joined) = match accepted {
        RestartAccepted::Begun(number) => (number, false),
        RestartAccepted::Joined(number) => (number, true),
    };
    let body = format!(r#"{{"number":{number},"joined":{joined}}}"#);
    exchange.respond(json_response(202, body))
}

/// `GET /v1/restart`: the restart that is under way, and what became of the last ones.
pub fn get(exchange: Exchange<'_>, _: &str) -> Handled {
    let service = exchange.service;
    let restarts = &service.hub.restarts;
    let stage = |stage| match stage {
        RestartStage::Requested => "requested",
        RestartStage::Proving => "proving",
        RestartStage::Pausing => "waiting",
    };
    let current = restarts.current().map(|it| {
        object_of!(
            "number": it.number, "state": stage(it.stage), "by": it.by,
            "turns": service.hub.turns_hint(),
            "since_ms": millis(it.since.elapsed()),
        )
    });
    let done = restarts.done().map(|it| {
        object_of!(
            "number": it.number, "time": it.time, "by": it.by, "from": it.from, "to": it.to,
            "away_ms": millis(it.away),
        )
    });
    let refused = restarts.failed();
    let refused =
        refused.map(|it| object_of!("number": it.number, "time": it.time, "reason": it.why));
    let state = object_of!(
        "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION"),
        "current": current, "done": done, "refused": refused,
    );
    exchange.json(state.to_string())
}
