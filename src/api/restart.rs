//! `/v1/restart`, on the control socket only: asks for a restart in place. The status tells what becomes of it.

use super::error::{ApiError, Handled};
use super::response::json as json_response;
use super::service::Exchange;
use crate::session::{RestartAccepted, RestartKind, RestartRequest};

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
