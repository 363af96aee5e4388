//! Messages: accepted durably, asked after, waited for, cancelled; and the dead-letter list.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::auth::Authenticated;
use super::buffers::{Lease, in_turn};
use super::chat_request::{bad, object, short, text};
use super::error::ApiError;
use super::idempotency;
use super::reply_writer::mark_replayed;
use super::{Exchange, Service};
use crate::config::{Busy, EnumSetting};
use crate::http::{Closed, Request, Response, has_dot_segment};
use crate::journal::Refused;
use crate::json::{self, Raw, elements, members};
use crate::limits::{MAX_LISTED_BYTES, MAX_WAIT};
use crate::session::{
    Command, Draft, Hub, Id, Message, Owner, Refusal, Submitted, Waited, now, rfc3339,
};
use crate::text::quoted;

/// The most bytes of a session's key: free text, but no document.
const MAX_SESSION: usize = 256;

/// References that may come with a message, and the bytes of each: a URL.
const MAX_ATTACHMENTS: usize = 16;

const MAX_ATTACHMENT: usize = 2048;

/// The fields of a message, for words on what is none.
const FIELDS: &str = "text, session, mode, deliver, attachments";

/// A message as its sender words it.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Body<'a> {
    text: Raw<'a>,
    session: Raw<'a>,
    mode: Raw<'a>,
    deliver: Raw<'a>,
    attachments: Raw<'a>,
}

/// `POST /v1/messages` and `POST /v1/sessions/{session}/messages`.
pub fn post(mut exchange: Exchange<'_>, session: Option<&str>) -> Result<(), Closed> {
    let body = json_body(&mut exchange)?;
    let result = body.and_then(|body| take_in(&exchange, session, body));
    exchange.respond(result)
}

fn take_in(
    exchange: &Exchange<'_>,
    session: Option<&str>,
    (body, lease): (Vec<u8>, Lease),
) -> Result<Response, ApiError> {
    let Exchange { connection, request, service, proof } = exchange;
    let busy = service.settings().config.session.busy;
    let wait = wait_of(request)?;
    let turn = in_turn(proof, &body);
    let mut draft = read(&body, session, proof.principal(), busy)?;
    drop(turn);
    draft.who.session.as_deref().map_or(Ok(()), |session| proof.check_session(session))?;
    draft.deliver.as_deref().map_or(Ok(()), |target| proof.check_target(target))?;
    draft.key = idempotency::key(request, proof, &body)?;
    drop((body, lease));
    let (session, mode) = (draft.who.session.clone(), draft.mode);
    let submitted = submit(service, draft)?;
    let (id, position, interrupted, known) = match submitted {
        Submitted::New { id, position, interrupted } => (id, position, interrupted, false),
        Submitted::Known(id) => (id, 1, None, true),
    };
    let _held = service.hub.pin_reply(id);
    if wait > Duration::ZERO || known || position == 0 {
        match service.hub.wait(id, connection.as_fd(), wait) {
            Ok(waited) if known || waited == Waited::Over => {
                let status = if waited == Waited::Over { 200 } else { 202 };
                let shown = find(service, proof, &id.to_string()).map(|it| whole(status, it));
                return Ok(mark_replayed(
                    shown.unwrap_or_else(|problem| problem.response()),
                    known,
                ));
            }
            // Who closed only its own side still reads.
            Ok(_) => {}
            // It is accepted, and that is what has to be said.
            Err(e) => log::warn!("message {id} cannot be waited for: {e}"),
        }
    }
    let (begun, at) = service.hub.glance(id).unwrap_or((true, now()));
    let status = if begun { "running" } else { "queued" };
    let mode = mode.word();
    let body = format!(
        r#"{{"id":"{id}","session":{},"status":"{status}","position":{position},"mode":"{mode}","interrupted":{},"created_at":"{}"}}"#,
        session.map_or_else(|| "null".to_owned(), |session| quoted(&session)),
        interrupted.map_or_else(|| "null".to_owned(), |id| format!("\"{id}\"")),
        rfc3339(at),
    );
    Ok(json(202, body))
}

/// Hands a message in, or carries out the command that it is.
pub fn submit(service: &Service, draft: Draft) -> Result<Submitted, ApiError> {
    let settings = service.settings();
    let unknown = |target: &&String| settings.config.deliver.get(*target).is_none();
    if let Some(target) = draft.deliver.as_ref().filter(unknown) {
        let message =
            format!("There is no target {target:?}: [deliver.NAME] in the configuration.");
        return Err(ApiError::new(400, "unknown_target", message));
    }
    let command = draft.who.session.as_ref().and_then(|_| Command::parse(&draft.text));
    Ok(match command {
        Some(command) => service.hub.command(command, draft),
        None => service.hub.submit(draft),
    }?)
}

/// `GET /v1/messages/{id}`.
pub fn get(exchange: &Exchange<'_>, id: &str) -> Result<Response, ApiError> {
    let Exchange { connection, request, service, proof } = exchange;
    let wait = wait_of(request)?;
    let message = find(service, proof, id)?;
    let _held = service.hub.pin_reply(message.id);
    if message.turn.is_over() || wait == Duration::ZERO {
        return Ok(whole(200, message));
    }
    if let Err(e) = service.hub.wait(message.id, connection.as_fd(), wait) {
        log::warn!("message {id} cannot be waited for: {e}");
    }
    find(service, proof, id).map(|message| whole(200, message))
}

/// `DELETE /v1/messages/{id}`: cancels it.
pub fn cancel(exchange: &Exchange<'_>, text: &str) -> Result<Response, ApiError> {
    let Exchange { connection, service, proof, .. } = exchange;
    let id = find(service, proof, text)?.id;
    let why = format!("cancelled by {}", proof.principal());
    service.hub.cancel(id, &why)?;
    let _held = service.hub.pin_reply(id);
    // A running agent has a moment to end; whatever comes of it is shown.
    let _ = service.hub.wait(id, connection.as_fd(), MAX_WAIT);
    find(service, proof, text).map(|message| whole(200, message))
}

/// `GET /v1/messages?status=failed`: those whose turn failed, newest first.
pub fn failed(exchange: &Exchange<'_>) -> Result<Response, ApiError> {
    let words = "A list of messages takes one parameter: status=failed.";
    let asked = parameter(exchange.request, "status=", words)?;
    asked.filter(|it| *it == "failed").ok_or_else(|| bad(words))?;
    list(exchange, "messages", Hub::failed)
}

/// `GET /v1/dead-letters`.
pub fn dead_letters(exchange: &Exchange<'_>) -> Result<Response, ApiError> {
    list(exchange, "dead_letters", Hub::dead_letters)
}

type Find = fn(&Hub, &dyn Fn(&Owner) -> bool) -> Result<Vec<Message>, Refused>;

fn list(
    Exchange { service, proof, .. }: &Exchange<'_>,
    name: &str,
    find: Find,
) -> Result<Response, ApiError> {
    // While it is put together.
    let mut lease = Lease::of(service, proof);
    lease.grow(service, MAX_LISTED_BYTES)?;
    let found = find(&service.hub, &|who| proof.sees(who))?;
    let all: Vec<String> = found.iter().map(Message::to_json).collect();
    let body = format!(r#"{{"{name}":[{}]}}"#, all.join(","));
    Ok(json(200, body).extents(found.into_iter().filter_map(|message| message.long)))
}

/// Does this to a message, and shows what came of it.
pub fn change(
    Exchange { service, proof, .. }: &Exchange<'_>,
    id: &str,
    change: impl FnOnce(&Arc<Hub>, Id) -> Result<(), Refusal>,
) -> Result<Response, ApiError> {
    change(&service.hub, find(service, proof, id)?.id)?;
    find(service, proof, id).map(|message| whole(200, message))
}

/// The message of this id, if it is the principal's: others learn nothing of it.
pub fn find(service: &Service, proof: &Authenticated, id: &str) -> Result<Message, ApiError> {
    let unknown = || ApiError::new(404, "not_found", "There is no message of this id (any more).");
    let id = Id::parse(id).ok_or_else(unknown)?;
    let found = service.hub.message(id)?;
    let message = found.filter(|message| proof.sees(&message.who)).ok_or_else(unknown)?;
    if message.erased { Err(ApiError::erased()) } else { Ok(message) }
}

/// The body of a request, which must be JSON, once there is budget for as much as it may be.
pub fn json_body(
    exchange: &mut Exchange<'_>,
) -> Result<Result<(Vec<u8>, Lease), ApiError>, Closed> {
    let kind = exchange.request.header_text("Content-Type").unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim();
    let coding = exchange.request.header_text("Content-Encoding").unwrap_or("identity");
    if !coding.eq_ignore_ascii_case("identity") {
        let message =
            format!("Content-Encoding: {coding} is not supported: send the body as plain JSON.");
        return Ok(Err(ApiError::new(415, "unsupported_encoding", message)));
    }
    if !essence.eq_ignore_ascii_case("application/json") {
        let message = "The body must be JSON, and say so: Content-Type: application/json.";
        return Ok(Err(ApiError::new(415, "not_json", message)));
    }
    let Exchange { connection, request, service, proof } = exchange;
    let most = service.settings().config.limits.max_body;
    let mut lease = Lease::of(service, proof);
    match lease.grow(service, request.announced(most)) {
        Ok(much) => connection.hurry |= much,
        Err(problem) => return Ok(Err(problem)),
    }
    let body = connection.read_body(request, most)?;
    lease.shrink(body.len());
    Ok(Ok((body, lease)))
}

/// The value of the one parameter that a query may have, of this name with its `=`. `words`: for what
/// is anything else.
pub fn parameter<'a>(
    request: &'a Request,
    name: &str,
    words: &str,
) -> Result<Option<&'a str>, ApiError> {
    let value = |query: &'a str| query.strip_prefix(name).filter(|value| !value.contains('&'));
    let query = request.query().filter(|query| !query.is_empty());
    query.map(|query| value(query).ok_or_else(|| bad(words))).transpose()
}

/// `?wait=SECONDS`.
fn wait_of(request: &Request) -> Result<Duration, ApiError> {
    let most = MAX_WAIT.as_secs();
    let wait = parameter(request, "wait=", "The only parameter here is wait=SECONDS.")?;
    // "+5".parse::<u64>() is Ok(5).
    let seconds = |text: &str| text.parse().ok().filter(|s| *s <= most && !text.starts_with('+'));
    let seconds = wait.map_or(Some(0), seconds);
    let words = || bad(format!("wait takes 0 to {most} whole seconds."));
    seconds.map(Duration::from_secs).ok_or_else(words)
}

pub(super) fn read(
    body: &[u8],
    session: Option<&str>,
    principal: &str,
    busy: Busy,
) -> Result<Draft, ApiError> {
    let (json, body): (_, Body<'_>) = object(body)?;
    let unknown = |(name, _): &(_, _)| !FIELDS.split(", ").any(|known| known == *name);
    if let Some((name, _)) = members(json).find(unknown) {
        return Err(bad(format!("There is no field {:?}; there are {FIELDS}.", short(&name))));
    }
    let said = text(body.text, "text")?.filter(|text| !text.is_empty());
    let said = said.ok_or_else(|| bad("\"text\" must be text, and not empty."))?.into_owned();
    let session = match (session, text(body.session, "session")?) {
        (Some(_), Some(_)) => return Err(bad("The session is in the path already.")),
        (Some(session), None) => Some(session.to_owned()),
        (None, session) => session.map(Into::into),
    };
    if let Some(session) = &session {
        check_session(session)?;
    }
    let mut mode = busy;
    if text(body.mode, "mode")?.is_some_and(|word| !mode.choose(&word)) {
        return Err(bad("\"mode\" must be \"queue\" or \"interrupt\"."));
    }
    Ok(Draft {
        who: Owner::new(principal.to_owned(), session),
        text: said,
        context: None,
        attachments: attachments(body.attachments)?,
        deliver: text(body.deliver, "deliver")?.map(Into::into),
        mode,
        key: None,
    })
}

fn attachments(list: Raw<'_>) -> Result<Vec<String>, ApiError> {
    let wrong = || {
        bad(format!(
            "\"attachments\" must be a list of at most {MAX_ATTACHMENTS} references of at most \
             {MAX_ATTACHMENT} bytes of text each."
        ))
    };
    let list = list.map_or("[]", RawValue::get);
    if !list.starts_with('[') || elements(list).nth(MAX_ATTACHMENTS).is_some() {
        return Err(wrong());
    }
    let reference = |item| match json::text(item) {
        Ok(text)
            if (1..=MAX_ATTACHMENT).contains(&text.len()) && !text.contains(char::is_control) =>
        {
            Ok(text.into_owned())
        }
        Ok(_) | Err(_) => Err(wrong()),
    };
    elements(list).map(reference).collect()
}

/// A session's key is free text of 1 to 256 bytes. It is no file name and goes into none.
pub fn check_session(session: &str) -> Result<(), ApiError> {
    if has_dot_segment(session) {
        let message = "A session's key has no . or .. between slashes: a path cannot name it.";
        return Err(ApiError::new(400, "bad_session", message));
    }
    let wrong = match session.chars().find(|c| c.is_control()) {
        _ if !(1..=MAX_SESSION).contains(&session.len()) => format!("this has {}", session.len()),
        Some(control) => format!("this has the control character U+{:04X}", u32::from(control)),
        None => return Ok(()),
    };
    let message = format!("A session's key takes 1 to {MAX_SESSION} bytes of text; {wrong}.");
    Err(ApiError::new(400, "bad_session", message))
}

/// A message, its long reply from where it lies.
fn whole(status: u16, message: Message) -> Response {
    json(status, message.to_json()).extents(message.long)
}

pub fn json(status: u16, body: String) -> Response {
    Response::new(status, "application/json", body.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &str, session: Option<&str>) -> Result<Draft, String> {
        read(body.as_bytes(), session, "owner", Busy::Queue).map_err(|problem| problem.message)
    }

    #[test]
    fn what_a_message_may_say() {
        let body = r#"{"text":"hi","mode":"interrupt","deliver":"out","attachments":["a"]}"#;
        let draft = text(body, Some("s")).unwrap();
        assert_eq!((draft.text.as_str(), draft.mode), ("hi", Busy::Interrupt));
        assert_eq!((draft.deliver.as_deref(), draft.attachments), (Some("out"), vec!["a".into()]));
        assert_eq!(draft.who.session.as_deref(), Some("s"));
        let draft = text(r#"{"text":"hi","session":"a b","mode":null}"#, None).unwrap();
        assert_eq!(draft.who.session.as_deref(), Some("a b"));
        assert_eq!(text(r#"{"text":"hi"}"#, None).unwrap().who.session, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = format!(r#"{{"text":"x","session":"{}"}}"#, "x".repeat(257));
        for (body, session, word) in [
            ("", None, "not JSON"),
            ("[]", None, "object"),
            ("{}", None, "text"),
            (r#"{"text":""}"#, None, "empty"),
            (r#"{"text":1}"#, None, "\"text\" must be text"),
            (r#"{"text":"x","txt":1}"#, None, "\"txt\""),
            (r#"{"text":"x","mode":"x"}"#, None, "interrupt"),
            (r#"{"text":"x","session":"y"}"#, Some("z"), "path"),
            (r#"{"text":"x","session":""}"#, None, "256"),
            (r#"{"text":"x","session":"a\nb"}"#, None, "256"),
            (r#"{"text":"x","attachments":"y"}"#, None, "list"),
            (r#"{"text":"x","attachments":[1]}"#, None, "list"),
            (long.as_str(), None, "256"),
        ] {
            let error = text(body, session).unwrap_err();
            assert!(error.contains(word), "{body}: {error}");
        }
    }
}
