//! `/v1/restart`, on the control socket only: asks for a restart in place. The status tells what becomes of it.

use super::error::{ApiError, Handled, bad_field};
use super::request::Query;
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
    let query = Query::parse(exchange.request, "kind, pid")?;
    let pid = query.text("pid").map(str::parse);
    let kind = match (query.text("kind"), pid) {
        (None, None) => RestartKind::Restart,
        (Some("update"), None) => RestartKind::Update,
        (Some("replace"), Some(Ok(pid))) => RestartKind::Replace(pid),
        _ => return Err(bad_field("kind", "takes update, or replace with a pid").into()),
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
