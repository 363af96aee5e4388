//! What agents ask for leave to do: `/v1/approvals` lists it, and `/v1/messages/{id}/approval` takes answers.

use super::error::{Handled, bad_field};
use super::messages::find;
use super::request::{Body, Query, json_body};
use super::service::Exchange;
use crate::escape::quoted;
use crate::json::{self, object, text_or_null};
use crate::limits::{MAX_LISTED, MAX_LISTED_BYTES};
use crate::session::{Id, OpenApproval, Owner, PastApproval};

/// `POST /v1/messages/{id}/approval`: by the principal whose message it is, or an operator.
pub fn answer(mut exchange: Exchange<'_>, id: &str) -> Handled {
    let (body, _lease) = json_body(&mut exchange)?;
    let Exchange { service, proof, .. } = &exchange;
    let body = Body::strict(&body, "id, allow")?;
    let allow = body.boolean("allow")?;
    let allow = allow.ok_or_else(|| bad_field("allow", "must be true or false"))?;
    let question = body.text("id")?;
    let operator = service.settings().config.is_operator(proof.principal());
    let message = match Id::parse(id).filter(|_| operator) {
        Some(id) => id,
        None => find(service, proof, id)?.id,
    };
    let done = service.hub.approve(message, question.as_deref(), allow, proof.principal())?;
    let (message, id, title) = (message.to_string(), done.id, done.title);
    let body = object!("message": message, "id": id, "title": title, "allowed": done.allowed);
    exchange.json(body.to_string())
}

/// `GET /v1/approvals`: what is open, then what was answered, newest first.
pub fn list(exchange: Exchange<'_>, _: &str) -> Handled {
    let Exchange { request, service, proof, .. } = exchange;
    let query = Query::parse(request, "after, limit")?;
    let (before, limit) =
        (query.number("after", &(1..=u64::MAX))?, query.limit(MAX_LISTED, MAX_LISTED)?);
    let operator = service.settings().config.is_operator(proof.principal());
    let wanted = |owner: &Owner| operator || proof.sees(owner);
    // While it is put together.
    let mut lease = exchange.lease();
    lease.grow(MAX_LISTED_BYTES)?;
    let (past, next) = service.hub.approvals(&wanted, before, limit)?;
    let mut open = service.hub.open_approvals(&wanted);
    open.retain(|_| before.is_none());
    let rows = open.iter().map(row).chain(past.iter().map(PastApproval::to_json));
    let rows = json::list(&mut { rows });
    let next = text_or_null(next.map(|number| number.to_string()).as_deref());
    let body = format!(r#"{{"approvals":{rows},"has_more":{},"next":{next}}}"#, next != "null");
    drop((rows, lease));
    exchange.json(body)
}

/// An open question, with the members of those that were answered.
fn row(open: &OpenApproval) -> String {
    let (session, principal) =
        (text_or_null(open.owner.session.as_deref()), quoted(&open.owner.principal));
    let rest = open.json.trim_start_matches('{');
    format!(
        r#"{{"session":{session},"principal":{principal},"allowed":null,"by":null,"at":null,{rest}"#
    )
}
