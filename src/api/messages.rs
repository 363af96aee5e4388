//! Messages: accepted durably, asked after, waited for, cancelled; and the dead-letter list.

use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Service;
use super::auth::Authenticated;
use super::error::Problem;
use super::idempotency;
use crate::config::Busy;
use crate::http::{Closed, Connection, Request, Response};
use crate::limits::{MAX_ATTACHMENT, MAX_ATTACHMENTS, MAX_SESSION, MAX_WAIT};
use crate::session::book::Who;
use crate::session::commands::Command;
use crate::session::hub::now;
use crate::session::id::Id;
use crate::session::message::{Message, rfc3339};
use crate::session::submit::{Draft, Submitted};
use crate::session::view::Waited;
use crate::text::quoted;

/// The fields of a message, for words on what is none.
const FIELDS: &str = "text, session, mode, deliver, attachments";

/// `POST /v1/messages` and `POST /v1/sessions/{session}/messages`.
pub fn post(
    connection: &mut Connection,
    request: &Request,
    service: &Service,
    proof: &Authenticated,
    session: Option<&str>,
) -> Result<(), Closed> {
    if let Err(problem) = must_be_json(request) {
        return connection.respond(request, problem.response());
    }
    let settings = service.settings();
    let body = connection.read_body(request, settings.config.limits.max_body)?;
    let taken = service.parsing(body.len(), || {
        let wait = wait_of(request)?;
        let mut draft = read(&body, session, proof.principal(), settings.config.session.busy)?;
        draft.who.session.as_deref().map_or(Ok(()), |session| proof.check_session(session))?;
        draft.key = idempotency::key(request, proof, &body)?;
        Ok((draft, wait))
    });
    drop(body);
    let (draft, wait) = match taken {
        Ok(taken) => taken,
        Err(problem) => return respond_with(connection, request, &problem),
    };
    let (session, mode) = (draft.who.session.clone(), draft.mode);
    let submitted = match submit(service, draft) {
        Ok(submitted) => submitted,
        Err(problem) => return respond_with(connection, request, &problem),
    };
    let (id, interrupted, known) = match submitted {
        Submitted::New { id, interrupted, .. } => (id, interrupted, false),
        Submitted::Known(id) => (id, None, true),
    };
    let _held = service.hub.hold(id);
    let over = known || matches!(&submitted, Submitted::New { position: 0, .. });
    if wait > Duration::ZERO || over {
        match service.hub.wait(id, connection.as_fd(), wait) {
            Ok(Waited::Over) => return answer(connection, request, service, (id, 200), known),
            Ok(Waited::NotYet | Waited::Gone) if known => {
                return answer(connection, request, service, (id, 202), known);
            }
            // Who closed only its own side still reads.
            Ok(Waited::NotYet | Waited::Gone) => {}
            // It is accepted, and that is what has to be said.
            Err(e) => log::warn!("message {id} cannot be waited for: {e}"),
        }
    }
    let position = match submitted {
        Submitted::New { position, .. } => position,
        Submitted::Known(_) => 1,
    };
    let (begun, at) = service.hub.glance(id).unwrap_or((true, now()));
    let status = if begun { "running" } else { "queued" };
    let mode = match mode {
        Busy::Queue => "queue",
        Busy::Interrupt => "interrupt",
    };
    let body = format!(
        r#"{{"id":"{id}","session":{},"status":"{status}","position":{position},"mode":"{mode}","interrupted":{},"created_at":"{}"}}"#,
        session.map_or_else(|| "null".to_owned(), |session| quoted(&session)),
        interrupted.map_or_else(|| "null".to_owned(), |id| format!("\"{id}\"")),
        rfc3339(at),
    );
    connection.respond(request, json(202, body))
}

/// Hands a message in, or carries out the command that it is.
pub fn submit(service: &Service, draft: Draft) -> Result<Submitted, Problem> {
    let settings = service.settings();
    if let Some(target) =
        draft.deliver.as_ref().filter(|t| settings.config.deliver.get(t).is_none())
    {
        let message =
            format!("There is no target {target:?}: [deliver.NAME] in the configuration.");
        return Err(Problem::new(400, "unknown_target", message));
    }
    let command = draft.who.session.as_ref().and_then(|_| Command::read(&draft.text));
    let submitted = match command {
        Some(command) => service.hub.command(command, draft),
        None => service.hub.submit(draft),
    };
    submitted.map_err(|refusal| Problem::refusal(&refusal))
}

/// `GET /v1/messages/{id}`.
pub fn get(
    connection: &mut Connection,
    request: &Request,
    service: &Service,
    proof: &Authenticated,
    id: &str,
) -> Result<(), Closed> {
    let found = wait_of(request).and_then(|wait| Ok((wait, find(service, proof, id)?)));
    let (wait, message) = match found {
        Ok(found) => found,
        Err(problem) => return respond_with(connection, request, &problem),
    };
    let _held = service.hub.hold(message.id);
    if !message.turn.is_over() && wait > Duration::ZERO {
        match service.hub.wait(message.id, connection.as_fd(), wait) {
            Ok(Waited::Over | Waited::NotYet | Waited::Gone) => {
                return answer(connection, request, service, (message.id, 200), false);
            }
            Err(e) => log::warn!("message {id} cannot be waited for: {e}"),
        }
    }
    connection.respond(request, json(200, message.to_json()))
}

/// `DELETE /v1/messages/{id}`: cancels it.
pub fn cancel(
    connection: &mut Connection,
    request: &Request,
    service: &Service,
    proof: &Authenticated,
    id: &str,
) -> Result<(), Closed> {
    let cancelled = find(service, proof, id).and_then(|message| {
        let why = format!("cancelled by {}", proof.principal());
        let cancelled = service.hub.cancel(message.id, &why);
        cancelled.map(|()| message.id).map_err(|denied| Problem::denied(&denied))
    });
    let id = match cancelled {
        Ok(id) => id,
        Err(problem) => return respond_with(connection, request, &problem),
    };
    let _held = service.hub.hold(id);
    // A running agent has a moment to end; whatever comes of it is shown.
    let _ = service.hub.wait(id, connection.as_fd(), MAX_WAIT);
    answer(connection, request, service, (id, 200), false)
}

/// `GET /v1/messages?status=failed`: those whose turn failed, newest first.
pub fn failed(
    request: &Request,
    service: &Service,
    proof: &Authenticated,
) -> Result<Response, Problem> {
    if request.query() != Some("status=failed") {
        let message = "A list of messages takes one parameter: status=failed.";
        return Err(Problem::new(400, "bad_request", message));
    }
    let failed = service.hub.failed(&|who| proof.sees(who));
    let failed = failed.map_err(|refused| Problem::journal(&refused))?;
    let messages: Vec<String> = failed.iter().map(Message::to_json).collect();
    Ok(json(200, format!(r#"{{"messages":[{}]}}"#, messages.join(","))))
}

/// `POST /v1/messages/{id}/retry`: a failed turn runs again, a dead letter is sent again.
pub fn retry(service: &Service, proof: &Authenticated, id: &str) -> Result<Response, Problem> {
    let id = find(service, proof, id)?.id;
    service.hub.retry(id).map_err(|denied| Problem::denied(&denied))?;
    Ok(json(200, find(service, proof, &id.to_string())?.to_json()))
}

/// `GET /v1/dead-letters`.
pub fn dead_letters(service: &Service, proof: &Authenticated) -> Result<Response, Problem> {
    let letters = service.hub.dead_letters().map_err(|refused| Problem::journal(&refused))?;
    let mine = letters.iter().filter(|message| proof.sees(&message.who));
    let letters: Vec<String> = mine.map(Message::to_json).collect();
    Ok(json(200, format!(r#"{{"dead_letters":[{}]}}"#, letters.join(","))))
}

/// `POST /v1/dead-letters/{id}/retry` and `DELETE /v1/dead-letters/{id}`.
pub fn dead_letter(
    service: &Service,
    proof: &Authenticated,
    id: &str,
    again: bool,
) -> Result<Response, Problem> {
    let id = find(service, proof, id)?.id;
    let done = if again { service.hub.revive(id) } else { service.hub.drop_letter(id) };
    done.map_err(|denied| Problem::denied(&denied))?;
    Ok(json(200, find(service, proof, &id.to_string())?.to_json()))
}

/// The message of this id, if it is the principal's: others learn nothing of it.
pub fn find(service: &Service, proof: &Authenticated, id: &str) -> Result<Message, Problem> {
    let unknown = || Problem::new(404, "not_found", "There is no message of this id (any more).");
    let id = Id::parse(id).ok_or_else(unknown)?;
    let found = service.hub.message(id).map_err(|refused| Problem::journal(&refused))?;
    found.filter(|message| proof.sees(&message.who)).ok_or_else(unknown)
}

/// Answers with a message as it is now. `known`: its idempotency key was.
fn answer(
    connection: &mut Connection,
    request: &Request,
    service: &Service,
    (id, status): (Id, u16),
    known: bool,
) -> Result<(), Closed> {
    let response = match service.hub.message(id) {
        Ok(Some(message)) => json(status, message.to_json()),
        Ok(None) => Problem::new(404, "not_found", "The message is not known any more.").response(),
        Err(refused) => Problem::journal(&refused).response(),
    };
    let replayed = if known { response.header(idempotency::REPLAYED, "true") } else { response };
    connection.respond(request, replayed)
}

pub fn must_be_json(request: &Request) -> Result<(), Problem> {
    let kind = request.header_text("Content-Type").unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = "The body must be JSON, and say so: Content-Type: application/json.";
    Err(Problem::new(415, "not_json", message))
}

/// `?wait=SECONDS`.
fn wait_of(request: &Request) -> Result<Duration, Problem> {
    let bad = |what: String| Err(Problem::new(400, "bad_request", what));
    let most = MAX_WAIT.as_secs();
    let mut wait = Duration::ZERO;
    for pair in request.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        match value.parse::<u64>() {
            _ if name != "wait" => {
                return bad("The only parameter here is wait=SECONDS.".to_owned());
            }
            Ok(seconds) if digits && seconds <= most => wait = Duration::from_secs(seconds),
            Ok(_) | Err(_) => return bad(format!("wait takes 0 to {most} whole seconds.")),
        }
    }
    Ok(wait)
}

pub(super) fn read(
    body: &[u8],
    session: Option<&str>,
    principal: &str,
    busy: Busy,
) -> Result<Draft, Problem> {
    let bad = |message: String| Problem::new(400, "bad_request", message);
    let value: Value =
        serde_json::from_slice(body).map_err(|e| bad(format!("The body is not JSON: {e}.")))?;
    let Value::Object(fields) = value else {
        return Err(bad("The body must be a JSON object with \"text\".".to_owned()));
    };
    for name in fields.keys() {
        if !FIELDS.split(", ").any(|known| known == name) {
            return Err(bad(format!("There is no field {name:?}; there are {FIELDS}.")));
        }
    }
    let text = text_of(&fields, "text")?;
    let text = text.filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| bad("\"text\" must be text, and not empty.".to_owned()))?;
    let session = match (session, text_of(&fields, "session")?) {
        (Some(_), Some(_)) => return Err(bad("The session is in the path already.".to_owned())),
        (Some(session), None) => Some(session.to_owned()),
        (None, session) => session,
    };
    if let Some(session) = &session {
        check_session(session)?;
    }
    let mode = match text_of(&fields, "mode")?.as_deref() {
        None => busy,
        Some("queue") => Busy::Queue,
        Some("interrupt") => Busy::Interrupt,
        Some(_) => return Err(bad("\"mode\" must be \"queue\" or \"interrupt\".".to_owned())),
    };
    Ok(Draft {
        who: Who { principal: principal.to_owned(), session },
        text,
        context: None,
        attachments: attachments(&fields)?,
        deliver: text_of(&fields, "deliver")?,
        mode,
        key: None,
    })
}

fn text_of(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, Problem> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Problem::new(400, "bad_request", format!("{name:?} must be text."))),
    }
}

fn attachments(fields: &Map<String, Value>) -> Result<Vec<String>, Problem> {
    let bad = || {
        let message = format!(
            "\"attachments\" must be a list of at most {MAX_ATTACHMENTS} references of at most \
             {MAX_ATTACHMENT} bytes of text each."
        );
        Problem::new(400, "bad_request", message)
    };
    let list = match fields.get("attachments") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= MAX_ATTACHMENTS => list,
        Some(_) => return Err(bad()),
    };
    let reference = |item: &Value| match item.as_str() {
        Some(text)
            if (1..=MAX_ATTACHMENT).contains(&text.len()) && !text.contains(char::is_control) =>
        {
            Ok(text.to_owned())
        }
        Some(_) | None => Err(bad()),
    };
    list.iter().map(reference).collect()
}

/// A session's key is free text of 1 to 256 bytes. It is no file name and goes into none.
pub fn check_session(session: &str) -> Result<(), Problem> {
    if (1..=MAX_SESSION).contains(&session.len()) && !session.contains(char::is_control) {
        return Ok(());
    }
    let message = format!("A session's key takes 1 to {MAX_SESSION} bytes of text.");
    Err(Problem::new(400, "bad_session", message))
}

pub fn json(status: u16, body: String) -> Response {
    Response::new(status, "application/json", body.into_bytes())
}

pub fn respond_with(
    connection: &mut Connection,
    request: &Request,
    problem: &Problem,
) -> Result<(), Closed> {
    connection.respond(request, problem.response())
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
