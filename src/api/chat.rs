//! `POST /v1/chat/completions`: OpenAI's chat, whole or streamed. The last user message is the turn.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::auth::{Authenticated, OWNER};
use super::carry::carry;
use super::error::Problem;
use super::messages::{check_session, must_be_json};
use super::sessions::pieces;
use super::{Service, idempotency, status};
use crate::agent::{Bounds, Outcome, Reply, Turn};
use crate::http::{Closed, Connection, Request, Response, Stream, sse};
use crate::session::book::Who;
use crate::session::place::NoPlace;
use crate::session::submit::Draft;
use crate::text::quoted;

/// The header that puts a request into a session.
pub const SESSION: &str = "X-Hermes-Session-Id";

/// A request that is understood.
pub struct Chat {
    model: String,
    text: String,
    pub stream: bool,
    session: Option<String>,
}

/// Runs a turn and answers with its reply. A message with a session or an idempotency key is durable:
/// it is carried on whatever becomes of its connection.
pub fn complete(
    connection: &mut Connection,
    request: &Request,
    service: &Service,
    proof: &Authenticated,
) -> Result<(), Closed> {
    let settings = service.settings();
    if let Err(problem) = must_be_json(request) {
        return connection.respond(request, problem.response());
    }
    let body = connection.read_body(request, settings.config.limits.max_body)?;
    let parse = |session| service.parsing(body.len(), || read(&body, session));
    let understood = session(request).and_then(parse);
    let understood =
        understood.and_then(|chat| Ok((chat, idempotency::key(request, proof, &body)?)));
    let (mut chat, key) = match understood {
        Ok(understood) => understood,
        Err(problem) => return connection.respond(request, problem.response()),
    };
    drop(body);
    // The connection is lent to the reply: its socket is watched through a descriptor of its own.
    let client = match connection.as_fd().try_clone_to_owned() {
        Ok(client) => client,
        Err(e) => {
            let problem = Problem::no_place(&NoPlace::Failed(e));
            let problem = problem.unwrap_or_else(Problem::stopping);
            return connection.respond(request, problem.response());
        }
    };
    let text = std::mem::take(&mut chat.text);
    let session = chat.session.take();
    let mut answer = Answer::new(connection, request, &chat);
    let outcome = if session.is_none() && key.is_none() {
        run(service, &text, &client, &mut answer)
    } else {
        let draft = Draft {
            who: Who { principal: proof.principal().to_owned(), session },
            text,
            attachments: Vec::new(),
            deliver: None,
            mode: settings.config.session.busy,
            key,
        };
        carry(service, draft, &client, &mut answer)
    };
    match outcome {
        Ok(()) => answer.finish(),
        Err(Some(problem)) => answer.fail(&problem),
        Err(None) => Err(Closed::Io(io::ErrorKind::ConnectionAborted.into())),
    }
}

/// Waits for a place and runs the turn, for this connection alone. `Err(None)`: nobody is there any
/// more.
fn run(
    service: &Service,
    text: &str,
    client: &OwnedFd,
    answer: &mut Answer<'_>,
) -> Result<(), Option<Problem>> {
    let settings = service.settings();
    let patience = settings.config.agent.turn_timeout;
    let client = Some(client.as_fd());
    let place = service.hub.take_place(client, patience);
    let place = place.map_err(|why| Problem::no_place(&why))?;
    answer.id = place.id.to_string();
    let message_id = answer.id.clone();
    let turn = Turn {
        message_id: &message_id,
        session: "",
        principal: OWNER,
        attempt: 1,
        text,
        context: None,
        transcript: None,
        attachments: &[],
    };
    let max_reply = settings.config.limits.max_reply;
    let (deadline, cut) = (Instant::now() + patience, service.hub.cut.as_fd());
    let bounds = Bounds { deadline, max_reply, client, cut, cancel: None };
    let outcome = settings.agent.run(&turn, answer, &bounds);
    match &outcome {
        Outcome::Done => Ok(()),
        Outcome::Temporary(_)
        | Outcome::Short(_)
        | Outcome::Failed(_)
        | Outcome::Refused(_)
        | Outcome::TimedOut => {
            log::warn!("turn {message_id} did not end well: {outcome}");
            Err(Problem::outcome(outcome))
        }
        Outcome::ClientGone | Outcome::Cancelled | Outcome::Cut => {
            log::info!("turn {message_id} was ended: {outcome}");
            Err(Problem::outcome(outcome))
        }
    }
}

/// The session that the request names. It is no file name and goes into none.
fn session(request: &Request) -> Result<Option<String>, Problem> {
    let Some(bytes) = request.header(SESSION) else {
        return Ok(None);
    };
    match std::str::from_utf8(bytes) {
        Ok(key) => check_session(key).map(|()| Some(key.to_owned())),
        Err(_) => check_session("").map(|()| None),
    }
}

fn read(body: &[u8], session: Option<String>) -> Result<Chat, Problem> {
    let bad = |message: String| Problem::new(400, "bad_request", message);
    let value: Value =
        serde_json::from_slice(body).map_err(|e| bad(format!("The body is not JSON: {e}.")))?;
    let messages = value.get("messages").and_then(Value::as_array);
    let messages =
        messages.ok_or_else(|| bad("\"messages\" must be a list of messages.".to_owned()))?;
    let last =
        messages.iter().rev().find(|m| m["role"] == "user").ok_or_else(|| {
            bad("\"messages\" has no message with \"role\": \"user\".".to_owned())
        })?;
    let stream = match value.get("stream") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(stream)) => *stream,
        Some(_) => return Err(bad("\"stream\" must be true or false.".to_owned())),
    };
    let model = match value.get("model") {
        None | Some(Value::Null) => status::MODEL.to_owned(),
        Some(Value::String(model)) => model.clone(),
        Some(_) => return Err(bad("\"model\" must be text.".to_owned())),
    };
    let text = content(&last["content"]).map_err(bad)?;
    Ok(Chat { model, text, stream, session })
}

/// A message's content: text, or a list of parts that are all text.
fn content(content: &Value) -> Result<String, String> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let part = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text.to_owned()),
                (kind, _) => Err(format!(
                    "Only parts of \"type\": \"text\" with \"text\" are taken, not {:?}.",
                    kind.unwrap_or("(none)")
                )),
            };
            let texts: Result<Vec<String>, String> = parts.iter().map(part).collect();
            Ok(texts?.join("\n"))
        }
        _ => Err("The last user message's \"content\" must be text or a list of parts.".to_owned()),
    }
}

/// The way of a reply to the client: collected, or event by event. A stream begins with its first
/// piece, so that what fails before has a status of its own.
pub struct Answer<'c> {
    pub chat: &'c Chat,
    /// The message's, once it has one.
    pub id: String,
    /// An earlier request began it.
    pub replayed: bool,
    created: u64,
    way: Way<'c>,
}

enum Way<'c> {
    Waiting(&'c mut Connection, &'c Request),
    Collecting(&'c mut Connection, &'c Request, String),
    Streaming(Stream<'c>),
    /// The client went away.
    Gone,
}

impl<'c> Answer<'c> {
    fn new(connection: &'c mut Connection, request: &'c Request, chat: &'c Chat) -> Answer<'c> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let way = if chat.stream {
            Way::Waiting(connection, request)
        } else {
            Way::Collecting(connection, request, String::new())
        };
        Answer { chat, id: String::new(), replayed: false, created: since.as_secs(), way }
    }

    fn finish(mut self) -> Result<(), Closed> {
        self.begin()?;
        let last = match &self.way {
            Way::Collecting(_, _, text) => {
                let message = format!(r#"{{"role":"assistant","content":{}}}"#, quoted(text));
                let choice = format!(r#"{{"index":0,"message":{message},"finish_reason":"stop"}}"#);
                self.object("chat.completion", &choice)
            }
            Way::Waiting(..) | Way::Streaming(_) | Way::Gone => self.chunk("{}", r#""stop""#),
        };
        match self.way {
            Way::Collecting(connection, request, _) => {
                let body = last.into_bytes();
                let response = Response::new(200, "application/json", body);
                connection.respond(request, marked(response, self.replayed))
            }
            Way::Streaming(ref mut stream) => {
                let mut out = Vec::new();
                sse::write_data(&mut out, &last);
                sse::write_data(&mut out, "[DONE]");
                stream.send(&out)?;
                self.end_stream()
            }
            Way::Waiting(..) | Way::Gone => Ok(()),
        }
    }

    fn fail(mut self, problem: &Problem) -> Result<(), Closed> {
        match self.way {
            Way::Waiting(connection, request) | Way::Collecting(connection, request, _) => {
                connection.respond(request, marked(problem.response(), self.replayed))
            }
            Way::Streaming(ref mut stream) => {
                let mut out = Vec::new();
                sse::write_data(&mut out, &problem.event());
                stream.send(&out)?;
                self.end_stream()
            }
            Way::Gone => Ok(()),
        }
    }

    fn end_stream(self) -> Result<(), Closed> {
        match self.way {
            Way::Streaming(stream) => Ok(stream.finish()?),
            Way::Waiting(..) | Way::Collecting(..) | Way::Gone => Ok(()),
        }
    }

    /// Begins the stream if it has not begun.
    fn begin(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.way, Way::Gone) {
            Way::Waiting(connection, request) => {
                let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                let stream = connection.start_stream(request, marked(sse_head(), self.replayed));
                self.way = Way::Streaming(stream.map_err(gone)?);
                self.send(r#"{"role":"assistant","content":""}"#)
            }
            way => {
                self.way = way;
                Ok(())
            }
        }
    }

    fn send(&mut self, delta: &str) -> io::Result<()> {
        let event = self.chunk(delta, "null");
        let Way::Streaming(stream) = &mut self.way else {
            return Ok(());
        };
        let mut out = Vec::new();
        sse::write_data(&mut out, &event);
        stream.send(&out)
    }

    fn chunk(&self, delta: &str, finish: &str) -> String {
        let choice = format!(r#"{{"index":0,"delta":{delta},"finish_reason":{finish}}}"#);
        self.object("chat.completion.chunk", &choice)
    }

    /// What OpenAI wraps around a choice.
    fn object(&self, kind: &str, choice: &str) -> String {
        format!(
            r#"{{"id":"chatcmpl-{}","object":"{kind}","created":{},"model":{},"choices":[{choice}]}}"#,
            self.id,
            self.created,
            quoted(&self.chat.model)
        )
    }
}

impl Reply for Answer<'_> {
    fn piece(&mut self, text: &str) -> io::Result<()> {
        if let Way::Collecting(_, _, whole) = &mut self.way {
            whole.push_str(text);
            return Ok(());
        }
        self.begin()?;
        for piece in pieces(text) {
            self.send(&format!(r#"{{"content":{}}}"#, quoted(piece)))?;
        }
        Ok(())
    }
}

/// A response, which may be the repetition of an earlier one.
fn marked(response: Response, replayed: bool) -> Response {
    if replayed { response.header(idempotency::REPLAYED, "true") } else { response }
}

pub fn sse_head() -> Response {
    // Asks nginx not to collect a stream before it passes it on.
    Response::empty(200)
        .header("Content-Type", "text/event-stream")
        .header("X-Accel-Buffering", "no")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &str) -> Result<String, String> {
        read(body.as_bytes(), None).map(|chat| chat.text).map_err(|problem| problem.message)
    }

    #[test]
    fn the_last_user_message_is_the_turn() {
        let body = r#"{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"},
            {"role":"assistant","content":"c"}]}"#;
        assert_eq!(text(body).unwrap(), "b");
        let parts = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},
            {"type":"text","text":"b"}]}]}"#;
        assert_eq!(text(parts).unwrap(), "a\nb");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (body, word) in [
            ("", "not JSON"),
            ("{", "not JSON"),
            ("[]", "messages"),
            (r#"{"messages":{}}"#, "messages"),
            (r#"{"messages":[]}"#, "user"),
            (r#"{"messages":[{"role":"user"}]}"#, "content"),
            (r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#, "image_url"),
            (r#"{"messages":[{"role":"user","content":""}],"stream":1}"#, "stream"),
            (r#"{"messages":[{"role":"user","content":""}],"model":1}"#, "model"),
        ] {
            let error = text(body).unwrap_err();
            assert!(error.contains(word), "{body}: {error}");
        }
        assert!(text(&"[".repeat(100_000)).unwrap_err().contains("not JSON"));
    }
}
