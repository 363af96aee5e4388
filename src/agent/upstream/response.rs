//! The upstream's response: passed on while it comes, and judged at its end. One that is cut short is
//! never taken for whole.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::super::{ErrorResponse, NO_REASON, Outcome, Reply, Report, ToolCall, Turn, usage};
use super::{UpstreamClient, temporary};
use crate::cancel::CancelReason;
use crate::escape::{escaped, first_chars, one_line, quoted};
use crate::http::TOO_LARGE;
use crate::http::sse::Event;
use crate::json::{self, elements, find, member, members, string};
use crate::limits::{MAX_ERROR_BODY, MAX_QUOTED_ERROR};
use crate::outbound::client::{Error, Response};

/// How long the end of a stream is waited for that has said that it is over: a connection is worth
/// no more.
const UPSTREAM_TAIL: Duration = Duration::from_millis(20);

/// What an event of a stream has beside its delta without counting as reply: ids, model and usage.
const EVENT_FRAME: usize = 1 << 10;

/// Tool calls of one reply: as many as OpenAI takes tools.
const MAX_CALLS: usize = 128;

/// An answer to a turn.
pub struct ResponseReader<'a, 'r> {
    pub client: &'a UpstreamClient<'a>,
    pub turn: &'a Turn<'a>,
    pub reply: &'a RefCell<&'r mut dyn Reply>,
    /// The model, as the client called it.
    pub alias: &'a str,
}

/// What has been seen of a stream.
#[derive(Default)]
struct StreamState {
    report: Report,
    /// Bytes of text.
    text: usize,
    /// Bytes of text and of all else that the model says.
    size: usize,
    /// The model called tools, wanted or not.
    called: bool,
    /// Those that it called and was given.
    calls: Vec<ToolCall>,
}

/// The first of a completion's choices; `None` where there is no list of them.
fn first(choices: Option<&str>) -> Option<&str> {
    let choices = choices.filter(|it| it.starts_with('['))?;
    Some(elements(choices).next().unwrap_or_default())
}

impl ResponseReader<'_, '_> {
    /// Passes a stream on, event by event.
    pub fn stream(&self, answer: Response<'_, '_>) -> Result<(), Outcome> {
        let kind = answer.header("content-type").unwrap_or("text/event-stream");
        if !kind.starts_with("text/event-stream") {
            let words = format!("the upstream answered with {kind} instead of a stream");
            return Err(Outcome::Failed(escaped(&words, false)));
        }
        let deadline = self.client.cancel.deadline;
        let (mut events, mut so_far) = (answer.events(), StreamState::default());
        loop {
            let event = match events.next(deadline) {
                Ok(None) if so_far.report.finish.is_some() => break,
                Ok(event) => event.ok_or(Error::CutShort),
                Err(error) => Err(error),
            };
            let event = event.map_err(|error| self.client.broken(&error))?;
            if event.data.is_empty() {
                continue;
            }
            if event.data == "[DONE]" {
                // Read to its end the connection can be used again.
                let _ = events.next(deadline.min(Instant::now() + UPSTREAM_TAIL));
                break;
            }
            self.pass_on(&event, &mut so_far, &mut **self.reply.borrow_mut())?;
        }
        let mut reply = self.reply.borrow_mut();
        if reply.native().is_none() {
            let StreamState { mut report, text, called, calls, .. } = so_far;
            if called && calls.is_empty() && text == 0 {
                let words = "the model called tools, of which it was given none, and wrote no text";
                return Err(Outcome::Failed(words.to_owned()));
            }
            let list = json::list(&mut calls.iter().map(ToolCall::to_json));
            report.calls = (!calls.is_empty()).then_some(list);
            reply.report(report);
        }
        Ok(())
    }

    /// Whether the model was given tools.
    fn has_tools(&self) -> bool {
        self.turn.context.is_some_and(|context| member(&context.options, "tools").is_some())
    }

    /// Adds the tool calls of an event to those so far, and passes them on.
    fn take_calls(
        &self,
        pieces: &str,
        calls: &mut Vec<ToolCall>,
        reply: &mut dyn Reply,
    ) -> Result<(), Outcome> {
        let gone = || Outcome::Ended(CancelReason::ClientGone);
        for piece in elements(pieces) {
            let [index, function, arguments] = {
                let [index, function] = find(piece, ["index", "function"]);
                [index, function, function.and_then(|it| member(it, "arguments"))]
            };
            let index = index.and_then(|index| index.parse().ok());
            let name = string(function.unwrap_or_default(), "name").unwrap_or_default();
            let id = string(piece, "id").unwrap_or_default();
            // Some servers number no calls, or all with 0: a name with another id begins one too.
            let known = calls.iter().rposition(|call| index.is_none() || call.index == index);
            let goes_on = |at: &usize| {
                let ToolCall { id: known, name: before, arguments, .. } = &calls[*at];
                let same = arguments.is_empty() || name == *before;
                name.is_empty() || id == *known || (id.is_empty() && index.is_some() && same)
            };
            let at = known.filter(goes_on).unwrap_or(calls.len());
            if at == MAX_CALLS {
                let words = format!("the model called more than {MAX_CALLS} tools");
                return Err(Outcome::Failed(words));
            }
            if at == calls.len() {
                let last = at.checked_sub(1);
                if let Some(last) = last.filter(|last| calls[*last].arguments.is_empty()) {
                    reply.call(calls, last, "").map_err(|_| gone())?;
                }
                let own = || format!("call_{}_{at}", self.turn.message_id);
                let id = if id.is_empty() { own() } else { id };
                calls.push(ToolCall { index, id, ..ToolCall::default() });
            }
            let call = &mut calls[at];
            // A name may come in pieces, or again and again.
            if call.arguments.is_empty() && name.starts_with(&call.name) {
                call.name = name;
            } else if call.arguments.is_empty() {
                call.name += &name;
            }
            // An object in the place of its text is what some servers mean by it.
            let piece = arguments.map(|it| json::lossy(it).unwrap_or_else(|| it.into()));
            let piece = piece.unwrap_or_default();
            call.arguments += &piece;
            // The name is whole when the arguments begin, or the next call.
            if !piece.is_empty() {
                reply.call(calls, at, &piece).map_err(|_| gone())?;
            }
        }
        Ok(())
    }

    fn pass_on(
        &self,
        event: &Event,
        so_far: &mut StreamState,
        reply: &mut dyn Reply,
    ) -> Result<(), Outcome> {
        let chunk = json::value(event.data.as_bytes()).ok().filter(|it| it.starts_with('{'));
        let wrong = || temporary("the upstream sent an event that is not JSON", None);
        let chunk = chunk.ok_or_else(wrong)?;
        let [error, choices, used] = find(chunk, ["error", "choices", "usage"]);
        if event.name == "error" || error.is_some() {
            return Err(error_response(502, chunk, None));
        }
        let choice = first(choices).unwrap_or_default();
        so_far.report.finish = string(choice, "finish_reason").or(so_far.report.finish.take());
        let delta = member(choice, "delta").unwrap_or_default();
        let content = member(delta, "content").and_then(json::lossy).unwrap_or_default();
        so_far.text += content.len();
        so_far.size += content.len() + chunk.len().saturating_sub(delta.len() + EVENT_FRAME);
        let mut calls = "";
        for (name, value) in members(delta).filter(|(_, value)| *value != "null") {
            if name == "tool_calls" {
                calls = value;
            }
            // Some servers send an empty list with each piece.
            so_far.called |= name == "tool_calls" && value != "[]" || name == "function_call";
            if name != "content" && name != "role" {
                so_far.size += name.len() + value.len();
            }
        }
        if so_far.size > self.turn.max_reply {
            return Err(self.turn.reply_too_long());
        }
        let passed = match reply.native() {
            Some(_) => reply.object(self.renamed(chunk), content.len()),
            None => {
                let passed = if content.is_empty() { Ok(()) } else { reply.chunk(&content) };
                let report = &mut so_far.report;
                report.usage = used.and_then(usage).or(report.usage.take());
                if let Some(refusal) = string(delta, "refusal").filter(|it| !it.is_empty()) {
                    *report.refusal.get_or_insert_default() += &refusal;
                }
                if passed.is_ok() && !calls.is_empty() && self.has_tools() {
                    self.take_calls(calls, &mut so_far.calls, reply)?;
                }
                passed
            }
        };
        passed.map_err(|_| Outcome::Ended(CancelReason::ClientGone))
    }

    /// Takes a whole completion, for a client of the API.
    pub fn whole(&self, answer: Response<'_, '_>) -> Result<(), Outcome> {
        let body = answer.body(self.turn.max_reply, self.client.cancel.deadline);
        let body = body.map_err(|error| match error {
            Error::Refused(TOO_LARGE) => self.turn.reply_too_long(),
            error => self.client.broken(&error),
        })?;
        let completion = json::value(&body).unwrap_or_default();
        let [error, choices] = find(completion, ["error", "choices"]);
        if error.is_some() {
            return Err(error_response(502, completion, None));
        }
        let wrong = || temporary("the upstream's answer is not a chat completion", None);
        let message = member(first(choices).ok_or_else(wrong)?, "message");
        let message = message.unwrap_or_default();
        let said = string(message, "content").unwrap_or_default().len();
        let taken = self.reply.borrow_mut().object(self.renamed(completion), said);
        taken.map_err(|_| Outcome::Ended(CancelReason::ClientGone))
    }

    /// An answer that is no success.
    pub fn error(client: &UpstreamClient<'_>, answer: Response<'_, '_>) -> Outcome {
        let status = answer.status;
        if status < 400 {
            let words = format!("the upstream answered {status}; redirects are not followed");
            return Outcome::Failed(words);
        }
        let after = answer.header("retry-after").map(str::to_owned);
        let body = match answer.body(MAX_ERROR_BODY, client.cancel.deadline) {
            Ok(body) => body,
            Err(Error::Refused(TOO_LARGE)) => Vec::new(),
            Err(error) => return client.broken(&error),
        };
        let json = json::value(&body).map(str::to_owned).unwrap_or_else(|_| {
            let words = first_chars(&one_line(&body), MAX_QUOTED_ERROR);
            quoted(&escaped(&words, false))
        });
        error_response(status, &json, after)
    }

    /// An object on one line, with the model as the client called it.
    fn renamed(&self, object: &str) -> String {
        json::one_line(json::with_member(object, "model", &quoted(self.alias)))
    }
}

/// An error in whatever shape the server has, as JSON: OpenAI's, Ollama's, FastAPI's, or a text.
fn error_response(status: u16, json: &str, retry_after: Option<String>) -> Outcome {
    let given = member(json, "error").unwrap_or(json.trim());
    let said = member(given, "message").or_else(|| member(given, "detail")).unwrap_or(given);
    let message = match serde_json::from_str::<String>(said) {
        Ok(words) if !words.is_empty() => words,
        Err(_) if said != "null" => said.to_owned(),
        Ok(_) | Err(_) => NO_REASON.to_owned(),
    };
    let or_null = |name: &str| {
        member(given, name).map_or("null".to_owned(), |it| json::one_line(it.to_owned()))
    };
    let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
    let own = member(given, "type").filter(|kind| kind.starts_with('"'));
    let kind = own.map_or_else(|| quoted(kind), str::to_owned);
    let response =
        ErrorResponse::new(status, &message, (&kind, &or_null("param"), &or_null("code")));
    Outcome::ErrorResponse(Box::new(ErrorResponse { retry_after, ..response }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_errors_of_every_shape_are_read() {
        let openai = r#"{"error":{"message":"m","type":"t","param":"p","code":"c","more":1}}"#;
        for (status, body, message, kind, code) in [
            (400, openai, "m", "t", "\"c\""),
            (404, r#"{"error":"no model"}"#, "no model", "invalid_request_error", "null"),
            (
                400,
                r#"{"object":"error","message":"m","code":40303}"#,
                "m",
                "invalid_request_error",
                "40303",
            ),
            (
                422,
                r#"{"detail":[{"loc":["x"]}]}"#,
                r#"[{"loc":["x"]}]"#,
                "invalid_request_error",
                "null",
            ),
            (500, r#""text""#, "text", "server_error", "null"),
            (503, "{}", "{}", "server_error", "null"),
            (503, "\"\"", "it did not say why", "server_error", "null"),
            (503, "null", "it did not say why", "server_error", "null"),
        ] {
            let Outcome::ErrorResponse(refused) = error_response(status, body, None) else {
                panic!("{body}");
            };
            let error: serde_json::Value = serde_json::from_str(&refused.error).unwrap();
            assert_eq!((refused.status, &error["message"]), (status, &message.into()), "{body}");
            assert_eq!(
                (&error["type"], error["code"].to_string()),
                (&kind.into(), code.to_owned())
            );
        }
    }
}
