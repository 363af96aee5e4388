//! `POST /v1/chat/completions`: OpenAI's chat, whole or streamed. The last user message is the turn.

use super::buffers::parse_lock;
use super::chat_request;
use super::error::{ApiError, Handled};
use super::reply_writer::Encoder;
use super::service::Exchange;
use super::turn;
use crate::agent::Report;
use crate::escape::quoted;
use crate::extent::PLACEHOLDER;
use crate::http::sse;
use crate::session::now;

/// `POST /v1/chat/completions`.
pub fn create(exchange: Exchange<'_>, _: &str) -> Handled {
    let proof = exchange.proof;
    turn::serve(exchange, &|body, _, options| {
        let _parsing = parse_lock(proof, body);
        let ask = chat_request::parse(body, options)?;
        let (model, include_usage) = (ask.model.clone(), ask.include_usage);
        Ok((ask, Box::new(ChatEncoder { model, include_usage, created: now() / 1000 })))
    })
}

struct ChatEncoder {
    model: String,
    include_usage: bool,
    /// Seconds since 1970.
    created: u64,
}

impl ChatEncoder {
    /// What OpenAI wraps around its choices.
    fn object(&self, id: &str, kind: &str, choices: &str, usage: Option<&String>) -> String {
        let (created, model) = (self.created, quoted(&self.model));
        let usage = usage.map_or_else(String::new, |usage| format!(r#","usage":{usage}"#));
        format!(
            r#"{{"id":"chatcmpl-{id}","object":"{kind}","created":{created},"model":{model},"choices":[{choices}]{usage}}}"#
        )
    }

    fn write_chunk(&self, id: &str, delta: &str, finish: &str, out: &mut Vec<u8>) {
        let choice = format!(r#"{{"index":0,"delta":{delta},"finish_reason":{finish}}}"#);
        sse::write_data(out, &self.object(id, "chat.completion.chunk", &choice, None));
    }
}

fn finish_reason(report: &Report) -> String {
    quoted(report.finish.as_deref().unwrap_or("stop"))
}

impl Encoder for ChatEncoder {
    fn begin(&mut self, id: &str, out: &mut Vec<u8>) {
        self.write_chunk(id, r#"{"role":"assistant","content":""}"#, "null", out);
    }

    fn chunk(&mut self, id: &str, text: &str, out: &mut Vec<u8>) {
        self.write_chunk(id, &format!(r#"{{"content":{}}}"#, quoted(text)), "null", out);
    }

    fn end(&mut self, id: &str, report: &Report, out: &mut Vec<u8>) {
        self.write_chunk(id, "{}", &finish_reason(report), out);
        if let Some(usage) = report.usage.as_ref().filter(|_| self.include_usage) {
            sse::write_data(out, &self.object(id, "chat.completion.chunk", "", Some(usage)));
        }
        sse::write_data(out, "[DONE]");
    }

    fn fail(&mut self, _id: &str, problem: &ApiError, out: &mut Vec<u8>) {
        sse::write_data(out, &problem.event());
    }

    fn whole(&mut self, id: &str, report: &Report) -> String {
        let message = format!(r#"{{"role":"assistant","content":"{PLACEHOLDER}"}}"#);
        let finish = finish_reason(report);
        let choice = format!(r#"{{"index":0,"message":{message},"finish_reason":{finish}}}"#);
        self.object(id, "chat.completion", &choice, report.usage.as_ref())
    }

    fn is_native(&self) -> bool {
        true
    }
}
