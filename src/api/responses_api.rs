//! `POST /v1/responses` and `/v1/responses/{id}`: OpenAI's Responses API, text in and text out. A
//! response that is stored is a durable message; one that builds upon another has its conversation.

use std::io;

use serde_json::Value;

use super::auth::Authenticated;
use super::buffers::parse_lock;
use super::chat_completions::{check, common};
use super::error::{ApiError, Handled, bad};
use super::messages::find;
use super::reply_writer::Encoder;
use super::request::{Body, list, text};
use super::response;
use super::service::{Exchange, Service};
use super::turn::{self, Parsed, TurnRequest};
use crate::agent::Report;
use crate::agent::context::{self, own, role};
use crate::escape::quoted;
use crate::http::sse;
use crate::json::{Raw, add, elements, member, object, one_line, text_or_null};
use crate::session::{Id, Message, TurnState, now};
use crate::stored_text::PLACEHOLDER;

/// Bytes of a response's metadata: OpenAI takes 16 pairs of 64 and 512 characters, four bytes each at
/// most. Each event of its stream repeats them.
const MAX_METADATA: usize = 40 * 1024;

const ROLES: &str = "user, assistant, system, developer";

/// In front of the id of a message that is a response.
const PREFIX: &str = "resp_";

/// `POST /v1/responses`.
pub fn create(exchange: Exchange<'_>, _: &str) -> Handled {
    let Exchange { service, proof, .. } = exchange;
    turn::serve(exchange, &|body, session, _| {
        let parsing = parse_lock(proof, body);
        let (ask, echoed) = parse(body)?;
        drop(parsing);
        check_previous(service, proof, session, &echoed)?;
        Ok((ask, Box::new(ResponsesEncoder { echoed, number: 0, created: now() / 1000 })))
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
        return Err(bad("previous_response_id is of another session than this request."));
    }
    if message.entry.turn != TurnState::Done {
        return Err(bad("previous_response_id names a response that has no reply (yet)."));
    }
    match service.hub.history(proof.principal(), message.id) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(ApiError::previous_not_found()),
        Err(e) => Err(ApiError::new(503, "unavailable", format!("It cannot be read: {e}."))),
    }
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
    let context = service.hub.context_of(message.id).map_err(|_| unknown())?;
    let echoed = EchoedFields::parse(&context.ok_or_else(unknown)?).filter(|echoed| echoed.stored);
    Ok((message, echoed.ok_or_else(unknown)?))
}

/// `GET /v1/responses/{id}`.
pub fn get(exchange: Exchange<'_>, id: &str) -> Handled {
    let (message, echoed) = stored(exchange.service, exchange.proof, id)?;
    let words = ResponsesEncoder { echoed, number: 0, created: message.entry.at / 1000 };
    let (status, error) = match message.entry.turn {
        TurnState::Queued | TurnState::Backoff => ("queued", None),
        TurnState::Running => ("in_progress", None),
        TurnState::Done => (outcome(&message.report), None),
        TurnState::Failed => ("failed", Some(message.error.as_deref().unwrap_or_default())),
        TurnState::Cancelled => ("cancelled", None),
    };
    let body = words.object(&message.id.to_string(), status, &message.report, error);
    exchange.respond(response::json(200, body).extents(&mut [message.extent()].into_iter()))
}

/// `DELETE /v1/responses/{id}`: one that is not over is cancelled.
pub fn delete(exchange: Exchange<'_>, id: &str) -> Handled {
    let Exchange { service, proof, .. } = exchange;
    let (message, _) = stored(service, proof, id)?;
    service.hub.delete(message.id, &format!("deleted by {}", proof.principal()))?;
    exchange.json(format!(r#"{{"deleted":true,"id":{},"object":"response"}}"#, quoted(id)))
}

/// What a response repeats of its request.
#[derive(Debug, Default, PartialEq)]
pub(super) struct EchoedFields {
    model: String,
    /// As the client names it.
    previous: Option<String>,
    instructions: Option<String>,
    /// An object as JSON.
    metadata: String,
    stored: bool,
}

impl EchoedFields {
    /// Parses a message's context, which [`parse`] has made.
    pub(super) fn parse(context: &str) -> Option<EchoedFields> {
        let words = |name: &str| member(context, name).and_then(|it| crate::json::text(it).ok());
        let response = member(context, "response")?;
        let metadata = member(response, "metadata").unwrap_or("null");
        Some(EchoedFields {
            model: words("model")?.into(),
            previous: words("previous").map(|id| PREFIX.to_owned() + &id),
            instructions: words("instructions").map(Into::into),
            stored: member(response, "stored")?.parse().ok()?,
            metadata: metadata.to_owned(),
        })
    }
}

/// The members of a request that the gateway reads.
const FIELDS: &str = "model, stream, user, instructions, store, background, conversation, \
    previous_response_id, metadata, input, temperature, top_p, max_output_tokens";

pub(super) fn parse(body: &[u8]) -> Parsed<EchoedFields> {
    let body = Body::parse(body, FIELDS)?;
    let (model, stream) = common(&body)?;
    let instructions = body.text("instructions")?;
    let stored = body.boolean("store")?.unwrap_or(true);
    if body.boolean("background")? == Some(true) || body.raw("conversation").is_some() {
        let words = "\"background\" and \"conversation\" are not supported: POST /v1/messages answers \
                     at once, and previous_response_id or a session makes a conversation.";
        return Err(bad(words));
    }
    let previous = body.text("previous_response_id")?;
    let id = previous.as_ref().map(|id| id.strip_prefix(PREFIX).and_then(Id::parse));
    let id = id.map(|id| id.ok_or_else(ApiError::previous_not_found)).transpose()?;
    let metadata = body.raw("metadata").unwrap_or("{}");
    if !metadata.starts_with('{') || metadata.len() > MAX_METADATA {
        let words = format!("\"metadata\" must be an object of at most {MAX_METADATA} bytes.");
        return Err(bad(words));
    }
    let metadata = one_line(metadata.to_owned());
    let (text, more) = read_input(body.raw("input"))?;
    let options = object_of(&[
        ("temperature", body.raw("temperature")),
        ("top_p", body.raw("top_p")),
        ("max_tokens", body.raw("max_output_tokens")),
    ]);
    let previous_id = id.map(|id| quoted(&id.to_string()));
    let response = format!(r#"{{"stored":{stored},"metadata":{metadata}}}"#);
    let context = Some(object_of(&[
        ("model", Some(&quoted(&model))),
        ("options", Some(&options)),
        ("response", Some(&response)),
        ("messages", more.as_deref()),
        ("previous", previous_id.as_deref()),
        ("instructions", body.raw("instructions")),
    ]));
    let ask = TurnRequest { text, stream, stored, context };
    let (previous, instructions) = (previous.map(Into::into), instructions.map(Into::into));
    Ok((ask, EchoedFields { model, previous, instructions, metadata, stored }))
}

/// The text of a turn, and the chat messages if there are others: no text is stored twice.
fn read_input(input: Raw<'_>) -> Result<(String, Option<String>), ApiError> {
    let wrong = || bad("\"input\" must be text or a list of items, and not empty.");
    let Some(items) = list(input) else {
        let plain = input.filter(|raw| raw.starts_with('"')).ok_or_else(wrong)?;
        let text = text(Some(plain), "input")?.filter(|text| !text.is_empty());
        return Ok((text.ok_or_else(wrong)?.into(), None));
    };
    let mut messages = "[".to_owned();
    for (at, item) in elements(items).enumerate() {
        add(&mut messages, None, &message(item, at)?);
    }
    messages.push(']');
    let own = own(&messages);
    let said = elements(&messages).nth(own).ok_or_else(wrong)?;
    let alone = own == 0 && elements(&messages).nth(1).is_none() && role(said) == "user";
    Ok((context::text(said), (!alone).then_some(messages)))
}

/// An item of the input as a chat message.
fn message(item: &str, at: usize) -> Result<String, ApiError> {
    let place = format!("input[{at}]");
    let kind = member(item, "type").unwrap_or("\"message\"");
    if kind != "\"message\"" {
        let message = format!("{place} is {kind:.40}; only messages are taken.");
        return Err(ApiError::new(400, "unsupported_content", message));
    }
    check(item, ROLES, &["input_text", "output_text", "text", "refusal"], &place)?;
    Ok(context::message(&role(item), &context::text(item)))
}

struct ResponsesEncoder {
    echoed: EchoedFields,
    /// Of the next event.
    number: u64,
    /// Seconds since 1970.
    created: u64,
}

impl ResponsesEncoder {
    /// The response in this state. `error`: a message.
    fn object(&self, id: &str, status: &str, report: &Report, error: Option<&str>) -> String {
        let EchoedFields { model, previous, instructions, metadata, stored } = &self.echoed;
        let (model, created) = (quoted(model), self.created);
        let [previous, instructions] =
            [previous, instructions].map(|text| text_or_null(text.as_deref()));
        let cut = status == "incomplete";
        let details = if cut { r#"{"reason":"max_output_tokens"}"# } else { "null" };
        let error =
            Value::from(error.map(|words| object!("code": "server_error", "message": words)));
        let has_output = cut || status == "completed";
        let output = if has_output { Self::item(id, status, true) } else { String::new() };
        let usage = report.usage.as_ref().map(|it| format!(r#","usage":{}"#, usage(it)));
        let usage = usage.unwrap_or_default();
        format!(
            r#"{{"id":"{PREFIX}{id}","object":"response","created_at":{created},"status":"{status}","error":{error},"incomplete_details":{details},"instructions":{instructions},"metadata":{metadata},"model":{model},"output":[{output}],"parallel_tool_calls":false,"previous_response_id":{previous},"store":{stored},"temperature":null,"text":{{"format":{{"type":"text"}}}},"tool_choice":"none","tools":[],"top_p":null,"truncation":"auto"{usage}}}"#
        )
    }

    /// The message that is the output.
    fn item(id: &str, status: &str, full: bool) -> String {
        let content = if full { part(&PLACEHOLDER.to_string()) } else { String::new() };
        format!(
            r#"{{"id":"msg_{id}","type":"message","status":"{status}","role":"assistant","content":[{content}]}}"#
        )
    }

    /// An event; `members`: what it has beside its type and number.
    fn event(&mut self, name: &str, members: &str, out: &mut Vec<u8>) {
        let number = self.number;
        let data = format!(r#"{{"type":"{name}","sequence_number":{number},{members}}}"#);
        sse::write_event(out, name, "", &data);
        self.number += 1;
    }

    /// An event about the text.
    fn text_event(&mut self, name: &str, id: &str, members: &str, out: &mut Vec<u8>) {
        let place = format!(r#""item_id":"msg_{id}","output_index":0,"content_index":0,{members}"#);
        self.event(name, &place, out);
    }
}

/// The state of a response that has its reply. OpenAI knows `incomplete` for a limit on length only.
fn outcome(report: &Report) -> &'static str {
    if report.finish.as_deref() == Some("length") { "incomplete" } else { "completed" }
}

/// The content of that message; `inside`: of its text.
fn part(inside: &str) -> String {
    format!(r#"{{"type":"output_text","text":"{inside}","annotations":[]}}"#)
}

impl Encoder for ResponsesEncoder {
    fn begin(&mut self, id: &str, out: &mut Vec<u8>) {
        let response = self.object(id, "in_progress", &Report::default(), None);
        for name in ["response.created", "response.in_progress"] {
            self.event(name, &format!(r#""response":{response}"#), out);
        }
        let item = Self::item(id, "in_progress", false);
        let added = format!(r#""output_index":0,"item":{item}"#);
        self.event("response.output_item.added", &added, out);
        let part = format!(r#""part":{}"#, part(""));
        self.text_event("response.content_part.added", id, &part, out);
    }

    fn chunk(&mut self, id: &str, text: &str, out: &mut Vec<u8>) {
        let delta = format!(r#""delta":{},"logprobs":[]"#, quoted(text));
        self.text_event("response.output_text.delta", id, &delta, out);
    }

    fn end(&mut self, id: &str, report: &Report, out: &mut Vec<u8>) {
        let text = format!(r#""text":"{PLACEHOLDER}","logprobs":[]"#);
        self.text_event("response.output_text.done", id, &text, out);
        let part = format!(r#""part":{}"#, part(&PLACEHOLDER.to_string()));
        self.text_event("response.content_part.done", id, &part, out);
        let status = outcome(report);
        let response = self.object(id, status, report, None);
        let item = Self::item(id, status, true);
        self.event("response.output_item.done", &format!(r#""output_index":0,"item":{item}"#), out);
        self.event(&format!("response.{status}"), &format!(r#""response":{response}"#), out);
    }

    fn fail(&mut self, id: &str, problem: &ApiError, out: &mut Vec<u8>) {
        let (code, words) = (problem.0.code, &problem.0.message);
        let error = format!(r#""code":"{code}","message":{},"param":null"#, quoted(words));
        self.event("error", &error, out);
        let response = self.object(id, "failed", &Report::default(), Some(words));
        self.event("response.failed", &format!(r#""response":{response}"#), out);
    }

    fn whole(&mut self, id: &str, report: &Report) -> String {
        self.object(id, outcome(report), report, None)
    }
}

/// A chat completion's usage under the names that responses have for it.
fn usage(usage: &str) -> String {
    let names = [
        ("prompt_tokens", "input_tokens"),
        ("prompt_tokens_details", "input_tokens_details"),
        ("completion_tokens", "output_tokens"),
        ("completion_tokens_details", "output_tokens_details"),
        ("total_tokens", "total_tokens"),
    ];
    object_of(&names.map(|(chat, name)| (name, member(usage, chat))))
}

/// An object with those members that have a value.
fn object_of(members: &[(&str, Option<&str>)]) -> String {
    let mut object = "{".to_owned();
    for (name, value) in members {
        value.iter().for_each(|value| add(&mut object, Some(name), value));
    }
    object + "}"
}

#[cfg(test)]
mod tests {
    use super::EchoedFields;

    #[test]
    fn metadata_that_an_older_gateway_stored_too_deep_are_read_all_the_same() {
        let deep = format!("{}1{}", "{\"a\":".repeat(125), "}".repeat(125));
        let context = format!(r#"{{"model":"m","response":{{"stored":true,"metadata":{deep}}}}}"#);
        assert_eq!(EchoedFields::parse(&context).unwrap().metadata, deep);
    }
}
