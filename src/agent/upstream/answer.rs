//! What the upstream answers: passed on while it comes, and judged at its end. What is cut short
//! never passes for the whole.

use std::cell::RefCell;
use std::time::Instant;

use serde_json::{Value, json};

use super::super::{Outcome, Refused, Reply, Report};
use super::{Asking, trouble};
use crate::http::TOO_LARGE;
use crate::http::client::{Answer, Error};
use crate::http::sse::Event;
use crate::limits::{MAX_ERROR_BODY, MAX_QUOTED_ERROR, UPSTREAM_TAIL};
use crate::text::{escaped, one_line};

/// An answer to a turn.
pub struct Reading<'a, 'r> {
    pub asking: &'a Asking<'a>,
    pub reply: &'a RefCell<&'r mut dyn Reply>,
    /// The model, as the client called it.
    pub asked: &'a str,
    pub max_reply: usize,
}

/// What has been seen of a stream.
#[derive(Default)]
struct SoFar {
    report: Report,
    /// Bytes of text.
    size: usize,
    /// The model wants something to be done for it.
    tools: bool,
}

impl Reading<'_, '_> {
    /// Passes a stream on, event by event. `begun` is set at the first.
    pub fn stream(&self, answer: Answer<'_, '_>, begun: &mut bool) -> Outcome {
        let kind = answer.header("content-type").unwrap_or("text/event-stream");
        if !kind.starts_with("text/event-stream") {
            let words = format!("the upstream answered with {kind} instead of a stream");
            return Outcome::Failed(escaped(&words, false));
        }
        let deadline = self.asking.ends.deadline;
        let (mut events, mut so_far) = (answer.events(), SoFar::default());
        loop {
            let event = match events.next(deadline) {
                Ok(Some(event)) if event.data.is_empty() => continue,
                Ok(Some(event)) => event,
                Ok(None) if so_far.report.finish.is_some() => break,
                Ok(None) => return self.asking.broken(&Error::CutShort),
                Err(error) => return self.asking.broken(&error),
            };
            *begun = true;
            if event.data == "[DONE]" {
                // Read to its end the connection can be used again.
                let _ = events.next(deadline.min(Instant::now() + UPSTREAM_TAIL));
                break;
            }
            match self.pass_on(&event, &mut so_far, &mut **self.reply.borrow_mut()) {
                Outcome::Done => {}
                outcome => return outcome,
            }
        }
        let mut reply = self.reply.borrow_mut();
        if reply.native().is_some() {
            return Outcome::Done;
        }
        if so_far.size == 0 && so_far.tools {
            let words = "the model asked for tools, which nobody here can offer it";
            return Outcome::Failed(words.to_owned());
        }
        reply.report(so_far.report);
        Outcome::Done
    }

    fn pass_on(&self, event: &Event, so_far: &mut SoFar, reply: &mut dyn Reply) -> Outcome {
        let mut chunk: Value = match serde_json::from_str(&event.data) {
            Ok(chunk @ Value::Object(_)) => chunk,
            Ok(_) | Err(_) => return trouble("the upstream sent an event that is no JSON", None),
        };
        if event.name == "error" || !chunk["error"].is_null() {
            return refused(502, &chunk, None);
        }
        let choice = &chunk["choices"][0];
        if let Some(finish) = choice["finish_reason"].as_str() {
            so_far.report.finish = Some(finish.to_owned());
        }
        let delta = &choice["delta"];
        so_far.tools |= !delta["tool_calls"].is_null() || !delta["function_call"].is_null();
        let text = delta["content"].as_str().unwrap_or_default();
        so_far.size += text.len();
        if so_far.size > self.max_reply {
            return self.too_long();
        }
        let passed = match reply.native() {
            Some(native) => {
                self.rename(&mut chunk);
                native.object(chunk)
            }
            None => {
                let passed = if text.is_empty() { Ok(()) } else { reply.piece(text) };
                let usage = Some(chunk["usage"].take()).filter(Value::is_object);
                so_far.report.usage = usage.or(so_far.report.usage.take());
                passed
            }
        };
        if passed.is_ok() { Outcome::Done } else { Outcome::ClientGone }
    }

    /// Takes a whole completion, for a client of the API.
    pub fn whole(&self, answer: Answer<'_, '_>, begun: &mut bool) -> Outcome {
        *begun = true;
        let body = match answer.body(self.max_reply, self.asking.ends.deadline) {
            Ok(body) => body,
            Err(Error::Refused(TOO_LARGE)) => return self.too_long(),
            Err(error) => return self.asking.broken(&error),
        };
        let mut completion: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !completion["error"].is_null() {
            return refused(502, &completion, None);
        }
        if !completion["choices"].is_array() {
            return trouble("the upstream's answer is no chat completion", None);
        }
        self.rename(&mut completion);
        match self.reply.borrow_mut().native().map(|native| native.object(completion)) {
            Some(Ok(())) => Outcome::Done,
            Some(Err(_)) | None => Outcome::ClientGone,
        }
    }

    /// An answer that is no success.
    pub fn error(&self, answer: Answer<'_, '_>) -> Outcome {
        let status = answer.status;
        if status < 400 {
            let words = format!("the upstream answered {status}; redirects are not followed");
            return Outcome::Failed(words);
        }
        let after = answer.header("retry-after").map(str::to_owned);
        let body = match answer.body(MAX_ERROR_BODY, self.asking.ends.deadline) {
            Ok(body) => body,
            Err(Error::Refused(TOO_LARGE)) => Vec::new(),
            Err(error) => return self.asking.broken(&error),
        };
        let value = serde_json::from_slice(&body).unwrap_or_else(|_| {
            let text: String = one_line(&body).chars().take(MAX_QUOTED_ERROR).collect();
            escaped(&text, false).into()
        });
        refused(status, &value, after)
    }

    fn rename(&self, object: &mut Value) {
        if let Some(model) = object.get_mut("model") {
            *model = self.asked.into();
        }
    }

    fn too_long(&self) -> Outcome {
        let most = self.max_reply;
        Outcome::Failed(format!("the upstream's reply is over limits.max_reply ({most} bytes)"))
    }
}

/// An error in whatever shape the server has: OpenAI's, Ollama's, FastAPI's, or a text.
fn refused(status: u16, value: &Value, retry_after: Option<String>) -> Outcome {
    let given = if value["error"].is_null() { value } else { &value["error"] };
    let words = ["message", "detail"].map(|name| &given[name]);
    let said = words.into_iter().find(|words| !words.is_null()).unwrap_or(given);
    let message = match said {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::String(_) | Value::Null => "it did not say why".to_owned(),
        other => other.to_string(),
    };
    let or_null = |name: &str| given.get(name).cloned().unwrap_or_default();
    let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
    let kind = given["type"].as_str().unwrap_or(kind);
    let error = json!({
        "message": message, "type": kind, "param": or_null("param"), "code": or_null("code"),
    });
    Outcome::Refused(Box::new(Refused { status, error, retry_after }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_all_shapes() {
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
            let value = serde_json::from_str(body).unwrap();
            let Outcome::Refused(refused) = refused(status, &value, None) else {
                panic!("{body}");
            };
            let error = &refused.error;
            assert_eq!((refused.status, &error["message"]), (status, &message.into()), "{body}");
            assert_eq!(
                (&error["type"], error["code"].to_string()),
                (&kind.into(), code.to_owned())
            );
        }
    }
}
