//! Requests that an upstream gets as they are: those that `agent.pass` names, and with
//! `agent.api = "responses"` those below `/v1/responses`. A request is a turn, without a message.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use super::error::{ApiError, Handled, HandlerError, bad};
use super::request::{
    SESSION, checked_json, idempotency_key, is_json, media_type, not_json, whole_body,
};
use super::response::mark_upstream;
use super::service::Exchange;
use crate::agent::{Head, Outcome, Passed};
use crate::cancel::Cancel;
use crate::http::{Connection, Method, Request, Response, Stream};
use crate::session::ReplyBuffer;

/// Fields of a request that go along, if they are there. The key is the upstream's own.
const FIELDS: &str = "Content-Type Accept OpenAI-Beta anthropic-version anthropic-beta";

/// Any of these routes.
pub fn pass(mut exchange: Exchange<'_>, _: &str) -> Handled {
    let settings = exchange.service.settings();
    let request = exchange.request;
    let (kind, target) = target(request)?;
    let agent = &settings.config.agent;
    agent.passes(kind).map_err(|why| ApiError::new(404, "not_found", why))?;
    if request.header(SESSION).is_some() {
        return Err(
            bad(format!("What is passed to an upstream has no session: no {SESSION}.")).into()
        );
    }
    let (body, _lease) = whole_body(&mut exchange)?;
    // Clients declare a type also where there is no body.
    let has_body = request.method == Method::Post && !body.is_empty();
    let json = (has_body && is_json(request)).then(|| checked_json(&body)).transpose()?;
    // What else an upstream might take for JSON would name any model.
    let is_form = media_type(request).eq_ignore_ascii_case("multipart/form-data");
    if has_body && json.is_none() && !(is_form && matches!(kind, "audio" | "images")) {
        return Err(not_json().into());
    }
    // To the upstream all principals are one: a key of one of them must not meet that of another.
    let key = idempotency_key(request, exchange.proof, b"")?.map(|(key, _)| format!("{key:032x}"));
    let field = |name| Some((name, request.header_text(name)?));
    let key = key.as_deref().map(|key| ("Idempotency-Key", key));
    let headers: Vec<(&str, &str)> = FIELDS.split(' ').filter_map(field).chain(key).collect();
    let (method, body) = match request.method {
        Method::Post => ("POST", Some(&*body)),
        Method::Delete => ("DELETE", None),
        Method::Get | Method::Head | Method::Options | Method::Other => ("GET", None),
    };
    let Exchange { connection, service, proof, .. } = exchange;
    let client = connection.watch().map_err(|e| ApiError::out_of_resources(&e))?;
    let began = Instant::now();
    // Nothing is told to a client that waits for its turn.
    let nothing = &mut &ReplyBuffer::default();
    let turn = service.hub.acquire_turn(proof.principal(), client.as_fd(), nothing)?;
    let (client, abort) = (Some(client.as_fd()), Some(service.hub.abort.as_fd()));
    let cancel = Cancel { client, abort, ..Cancel::at(Instant::now() + agent.turn_timeout) };
    let passed = Passed {
        id: &turn.id.to_string(),
        method,
        target: &target,
        headers: &headers,
        body,
        json,
        max_reply: settings.config.limits.max_reply,
    };
    let (mut answer, mut bytes) = (Answer::Unsent(connection), 0);
    let outcome = settings.agent.pass(&passed, &cancel, &mut |head, piece, more| {
        bytes += piece.len();
        answer.send(request, head, piece, more)
    });
    outcome.log(passed.id, None, 1, began, bytes);
    match (outcome, answer) {
        (Outcome::Done, Answer::Streaming(stream)) => Ok(stream.finish()?),
        (Outcome::Done, _) => Ok(()),
        (outcome, Answer::Unsent(_)) => Err(outcome.into()),
        // That its end is missing is all that the client can be told.
        (_, Answer::Streaming(_) | Answer::Sent) => Err(HandlerError::client_gone()),
    }
}

/// What a request is, in the words of `agent.pass`, and what it asks for below the upstream's URL. A name in
/// it has nothing that would have to be encoded again.
fn target(request: &Request) -> Result<(&str, String), ApiError> {
    let (path, query) = (request.path.as_str(), request.query.as_deref());
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
    let plain = |path: &&str| path.chars().all(plain) && !path.contains("//");
    let other = path.strip_prefix("/anthropic").map(|path| ("anthropic", path));
    let (kind, path) = other.unwrap_or(("", path));
    let below = path.strip_prefix("/v1").filter(plain);
    let unknown = || ApiError::new(404, "not_found", "There is nothing at this path.");
    let below = below.ok_or_else(unknown)?;
    let first = below.split('/').nth(1).unwrap_or_default();
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    Ok((if kind.is_empty() { first } else { kind }, format!("{below}{query}")))
}

/// The client's side of the answer.
enum Answer<'c> {
    Unsent(&'c mut Connection),
    Streaming(Stream<'c>),
    Sent,
}

impl Answer<'_> {
    /// Sends a piece, behind the head where it is the first. An answer of one piece has a length.
    fn send(&mut self, request: &Request, head: &Head, piece: &[u8], more: bool) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        *self = match std::mem::replace(self, Answer::Sent) {
            Answer::Unsent(connection) if more => {
                let stream = connection.start_stream(request, response(head, b""));
                let mut stream = stream.map_err(gone)?;
                stream.send(piece)?;
                Answer::Streaming(stream)
            }
            Answer::Unsent(connection) => {
                connection.respond(request, response(head, piece)).map_err(gone)?;
                Answer::Sent
            }
            Answer::Streaming(mut stream) => {
                stream.send(piece)?;
                Answer::Streaming(stream)
            }
            Answer::Sent => Answer::Sent,
        };
        Ok(())
    }
}

/// The answer as the upstream has begun it.
fn response(head: &Head, body: &[u8]) -> Response {
    let mut response = Response::of(head.status, body.to_vec());
    for (name, value) in &head.fields {
        response = response.header(name, value.clone());
    }
    mark_upstream(response, head.upstream.clone())
}
