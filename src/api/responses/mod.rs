//! `POST /v1/responses` and `/v1/responses/{id}`: OpenAI's Responses API before a chat. A response that is
//! stored is a durable message; one that builds upon another has its conversation.

mod events;
mod items;
mod request;

use std::cell::RefCell;
use std::io;

pub use events::ResponsesEncoder;
pub use items::{Output, items};
pub use request::{EchoedFields, parse};

use request::PREFIX;

use super::auth::Authenticated;
use super::buffers::{Lease, parse_lock};
use super::error::{ApiError, Handled, bad, bad_field};
use super::messages::find;
use super::request::Query;
use super::response;
use super::service::{Exchange, Service};
use super::turn;
use crate::agent::context;
use crate::escape::quoted;
use crate::json::{self, elements, member, text_or_null};
use crate::session::{Message, TurnState, now};

/// What a reference to an item counts for beside its length: a record is read for it.
const LOOKUP_COST: usize = 512;

/// `POST /v1/responses`.
pub fn create(exchange: Exchange<'_>, _: &str) -> Handled {
    let Exchange { service, proof, .. } = exchange;
    let lease = RefCell::new(exchange.lease());
    turn::serve(exchange, &|body, session, options| {
        let mut parsing = parse_lock(proof, body);
        let mut room = service.settings().config.limits.max_body;
        let mut lookup = |id: &str| {
            // Nobody waits for the disk under it.
            parsing = None;
            output_of(service, proof, id, (&mut room, &mut lease.borrow_mut()))
        };
        let (ask, echoed) = parse(body, options, &mut lookup)?;
        drop(parsing);
        check_previous(service, proof, session, &echoed)?;
        Ok((ask, Box::new(ResponsesEncoder::new(echoed, now() / 1000))))
    })
}

/// Rejects a previous response that is unknown, of another session or without a reply.
fn check_previous(
    service: &Service,
    proof: &Authenticated,
    session: Option<&str>,
    echoed: &EchoedFields,
) -> Result<(), ApiError> {
    let Some(previous) = &echoed.previous else { return Ok(()) };
    let (message, _) = stored(service, proof, previous).map_err(|p| {
        if matches!(p.0.status, 404 | 410) { ApiError::previous_not_found() } else { p }
    })?;
    if session.is_some() && message.entry.owner.session.as_deref() != session {
        let words = "previous_response_id is of another session than this request.";
        return Err(bad(words).param("previous_response_id"));
    }
    if message.entry.turn != TurnState::Done {
        let words = "previous_response_id names a response that has no reply (yet).";
        return Err(bad(words).param("previous_response_id"));
    }
    match service.hub.history(proof.principal(), message.id) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(ApiError::previous_not_found()),
        Err(e) => Err(ApiError::new(503, "unavailable", format!("It cannot be read: {e}."))),
    }
}

/// The item of this id, of what a message of the principal was answered. `room`: bytes that those of a
/// request may have, with what it takes to find each; `lease`: of these.
fn output_of(
    service: &Service,
    proof: &Authenticated,
    id: &str,
    (room, lease): (&mut usize, &mut Lease),
) -> Result<Output, ApiError> {
    let unknown =
        || ApiError::new(404, "item_not_found", format!("There is no item {id:.60?} (any more)."));
    let call = id.strip_prefix("fc_").and_then(|id| id.rsplit_once('_'));
    let message = call.map(|(message, _)| message).or_else(|| id.strip_prefix("msg_"));
    let message = find(service, proof, message.ok_or_else(unknown)?)
        .map_err(|error| if matches!(error.0.status, 404 | 410) { unknown() } else { error })?;
    if message.entry.turn != TurnState::Done {
        return Err(unknown());
    }
    let (reply, report) = (message.extent(), &message.report);
    let told = [&report.calls, &report.refusal].into_iter().flatten().map(String::len).sum();
    let length = usize::try_from(reply.len()).unwrap_or(usize::MAX).saturating_add(told);
    let left = room.checked_sub(length.saturating_add(LOOKUP_COST));
    *room = left.ok_or_else(|| {
        let words = "The items that the input refers to are longer together than limits.max_body.";
        ApiError::new(413, "too_long", words)
    })?;
    lease.grow(service.settings().config.limits.max_body.saturating_sub(*room))?;
    if let Some((_, at)) = call {
        let calls = report.calls.as_deref().unwrap_or_default();
        let found = at.parse().ok().and_then(|at| elements(calls).nth(at));
        return Ok(Output::Call(found.ok_or_else(unknown)?.to_owned()));
    }
    let mut text = String::new();
    let read = reply.text_chunks(&mut |chunk| {
        text += chunk;
        Ok(())
    });
    read.map_err(|_| unknown())?;
    let refusal = report.refusal.clone().filter(|_| text.is_empty());
    Ok(Output::Said(refusal.unwrap_or(text)))
}

/// The message of a stored response, which is invisible to other principals.
fn stored(
    service: &Service,
    proof: &Authenticated,
    id: &str,
) -> Result<(Message, EchoedFields), ApiError> {
    let unknown =
        || ApiError::new(404, "not_found", format!("There is no response {id:?} (any more)."));
    let message = find(service, proof, id.strip_prefix(PREFIX).ok_or_else(unknown)?);
    let message = message.map_err(|p| if p.0.status == 404 { unknown() } else { p })?;
    let (_, context) = service.hub.accepted_of(message.id).map_err(|_| unknown())?;
    let echoed = EchoedFields::parse(&context.ok_or_else(unknown)?).filter(|echoed| echoed.stored);
    Ok((message, echoed.ok_or_else(unknown)?))
}

/// `GET /v1/responses/{id}`.
pub fn get(exchange: Exchange<'_>, id: &str) -> Handled {
    let (message, echoed) = stored(exchange.service, exchange.proof, id)?;
    let encoder = ResponsesEncoder::new(echoed, message.entry.at / 1000);
    let (status, error) = match message.entry.turn {
        TurnState::Queued | TurnState::Backoff => ("queued", None),
        TurnState::Running => ("in_progress", None),
        TurnState::Done => ("", None),
        TurnState::Failed => ("failed", Some(message.error.as_deref().unwrap_or_default())),
        TurnState::Cancelled => ("cancelled", None),
    };
    let (id, report) = (message.id.to_string(), &message.report);
    let body = match status {
        "" => encoder.done(&id, report, message.extent().len() == 0),
        _ => encoder.object((&id, status), "", report, error),
    };
    exchange.respond(response::json(200, body).extents(&mut [message.extent()].into_iter()))
}

/// `DELETE /v1/responses/{id}`: one that is not over is cancelled.
pub fn delete(exchange: Exchange<'_>, id: &str) -> Handled {
    let Exchange { service, proof, .. } = exchange;
    let (message, _) = stored(service, proof, id)?;
    service.hub.delete(message.id, &format!("deleted by {}", proof.principal()))?;
    exchange.json(format!(r#"{{"deleted":true,"id":{},"object":"response"}}"#, quoted(id)))
}

/// `GET /v1/responses/{id}/input_items`.
pub fn input_items(exchange: Exchange<'_>, id: &str) -> Handled {
    let Exchange { service, proof, request, .. } = exchange;
    let (message, _) = stored(service, proof, id)?;
    let query = Query::parse(request, "order, limit, after, include[]")?;
    let limit = query.limit(20, 100)?;
    let ascending = match query.text("order") {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => return Err(bad_field("order", "takes asc or desc").into()),
    };
    let accepted = service.hub.accepted_of(message.id);
    let (text, context) = accepted.map_err(|_| ApiError::deleted())?;
    let user = format!("[{}]", context::message("user", &text));
    let messages = context.as_deref().and_then(|context| member(context, "messages"));
    let mut all = items(messages.unwrap_or(&user), &message.id.to_string());
    if !ascending {
        all.reverse();
    }
    let found = query.text("after").map(|after| all.iter().position(|(id, _)| id == after));
    let begin = match found {
        None => 0,
        Some(Some(at)) => at + 1,
        Some(None) => return Err(bad("\"after\" names no item.").param("after").into()),
    };
    let end = all.len().min(begin + limit);
    let page = &all[begin..end];
    let data = json::list(&mut page.iter().map(|(_, item)| item.clone()));
    let [first, last] =
        [page.first(), page.last()].map(|it| text_or_null(it.map(|(id, _)| id.as_str())));
    let more = all.len() > end;
    exchange.json(format!(
        r#"{{"object":"list","data":{data},"first_id":{first},"last_id":{last},"has_more":{more}}}"#
    ))
}
