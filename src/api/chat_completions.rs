//! `POST /v1/chat/completions`: OpenAI's chat, whole or streamed. The last user message is the turn.

use std::borrow::Cow;
use std::fmt::{Display, Write};

use super::attachments::Attachments;
use super::buffers::parse_lock;
use super::error::{ApiError, Handled, bad_field};
use super::reply_writer::Encoder;
use super::request::{Body, excerpt, list, text};
use super::service::Exchange;
use super::turn::{self, ParseOptions, Parsed, TurnRequest};
use super::warnings::Warnings;
use crate::agent::context::{self, is_instruction, message, own, role};
use crate::agent::{DEFAULT_MODEL, Report};
use crate::escape::quoted;
use crate::http::sse;
use crate::json::{self, Raw, add, elements, find, member, members, string};
use crate::session::now;

/// `POST /v1/chat/completions`.
pub fn create(exchange: Exchange<'_>, _: &str) -> Handled {
    let proof = exchange.proof;
    turn::serve(exchange, &|body, _, options| {
        let _parsing = parse_lock(proof, body);
        let (ask, encoder) = parse(body, options)?;
        Ok((ask, Box::new(encoder)))
    })
}

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// Fields about tools, which a turn without any is not given.
const TOOLS: [&str; 5] =
    ["tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"];

/// Fields of answers that only those get who get the upstream's output unchanged.
const UNCHANGED: [&str; 3] = ["stream_options", "functions", "function_call"];

/// The model that is asked for, and whether the reply is streamed.
pub fn common(body: &Body<'_>) -> Result<(String, bool), ApiError> {
    let model = body.text("model")?.map_or_else(|| DEFAULT_MODEL.to_owned(), Cow::into_owned);
    body.text("user")?;
    Ok((model, body.boolean("stream")?.unwrap_or(false)))
}

/// The members of a chat completion that the gateway reads.
const FIELDS: &str = "model, messages, stream, stream_options, user, n, tools, tool_choice, \
    functions, function_call, response_format, logprobs, top_logprobs";

/// The members of a chat completion that stay out of a context's options.
const READ: [&str; 4] = ["model", "messages", "stream", "n"];

/// Parses the body of a chat completion.
pub(super) fn parse(body: &[u8], options: ParseOptions) -> Parsed<ChatEncoder> {
    let body = Body::parse(body, FIELDS)?;
    let (model, stream) = common(&body)?;
    if body.raw("n").is_some_and(|n| n != "1") {
        return Err(bad_field("n", "must be 1: a turn has one reply"));
    }
    let include_usage = match body.raw("stream_options") {
        None => false,
        Some(options) if stream && options.starts_with('{') => {
            member(options, "include_usage").is_some_and(|usage| usage == "true")
        }
        Some(_) => {
            let words = "takes an object, and \"stream\": true";
            return Err(bad_field("stream_options", words));
        }
    };
    let messages = list(body.raw("messages"))
        .ok_or_else(|| bad_field("messages", "must be a list of messages, and not empty"))?;
    let kinds = &["text", "refusal", "image_url", "input_audio", "file"];
    // What users said before in a session is in its transcript: it is checked, and no more.
    let all = |role: &str| options.takes_all() || options.stores && role == "user";
    for (at, message) in elements(messages).enumerate() {
        // A message that only calls tools has no content.
        let [role, content] = find(message, ["role", "content"]);
        let role = role.and_then(|role| json::text(role).ok()).unwrap_or_default();
        if content.is_some() || role != "assistant" {
            let kinds = if all(&role) { &kinds[..] } else { &kinds[..2] };
            check((&role, content), kinds, &format_args!("messages[{at}]"))?;
        }
    }
    let warnings = unmet(&body, options)?;
    let own = own(messages);
    let said = elements(messages).nth(own).unwrap_or_default();
    let text = context::text(said);
    let place = format!("messages[{own}].content");
    let attachments = options.stores.then(|| Attachments::of_content(said, &place)).transpose()?;
    let attachments = attachments.unwrap_or_default();
    // In a session the transcript has what was said.
    let stays = |(at, message): &(usize, &str)| {
        !options.in_session || *at == own || is_instruction(message)
    };
    let kept = || elements(messages).enumerate().filter(stays);
    let context = (options.upstream || kept().nth(1).is_some()).then(|| {
        let mut context = String::with_capacity(body.json.len() + 64);
        let _ = write!(context, r#"{{"model":{},"messages":["#, quoted(&model));
        for (at, said) in kept() {
            // What is stored is not written down a second time.
            let without =
                (at == own && !attachments.is_empty()).then(|| message(&role(said), &text));
            add(&mut context, None, without.as_deref().unwrap_or(said));
        }
        context += r#"],"options":{"#;
        for (name, value) in members(body.json).filter(|(name, _)| !READ.contains(&&**name)) {
            let no_tools = !options.takes_all() && TOOLS.contains(&&*name);
            let not_unchanged = options.durable && UNCHANGED.contains(&&*name);
            if !(no_tools || not_unchanged) {
                add(&mut context, Some(&name), value);
            }
        }
        context + "}}"
    });
    let encoder = ChatEncoder { model, include_usage, created: now() / 1000 };
    Ok((TurnRequest { text, stream, stored: false, context, attachments, warnings }, encoder))
}

/// Rejects what the turn cannot be asked for, and tells of what has no effect.
fn unmet(body: &Body<'_>, options: ParseOptions) -> Result<Warnings, ApiError> {
    let mut warnings = Warnings::default();
    let has = |name: &str, harmless: &[&str]| {
        body.raw(name).is_some_and(|it| !harmless.contains(&it) && it.trim_end() != "[]")
    };
    let takes_all = options.takes_all();
    if !takes_all || options.durable {
        let free = &["\"auto\"", "\"none\""];
        let form = body.raw("response_format").and_then(|format| string(format, "type"));
        for (name, asked) in [
            ("tool_choice", !takes_all && has("tool_choice", free)),
            ("function_call", has("function_call", free)),
            ("response_format", !takes_all && form.is_some_and(|form| form != "text")),
            ("logprobs", has("logprobs", &["false"])),
            ("top_logprobs", has("top_logprobs", &["0"])),
        ] {
            if asked {
                return Err(options.refuse(name));
            }
        }
        for (name, asked) in [("tools", !takes_all), ("functions", true)] {
            if asked && has(name, &[]) {
                warnings.ignored(name, options.why_not());
            }
        }
    }
    Ok(warnings)
}

/// Rejects a message of another role, and content that is neither text nor parts of these types.
fn check(
    (role, content): (&str, Raw<'_>),
    kinds: &[&str],
    place: &dyn Display,
) -> Result<(), ApiError> {
    if !ROLES.contains(&role) {
        let words = format!("must be one of {}", ROLES.join(", "));
        return Err(bad_field(&format!("{place}.role"), &words));
    }
    match content {
        Some(json) if json.starts_with('"') => {
            text(content, &format!("{place}.content")).map(|_| ())
        }
        Some(json) if list(content).is_some() => {
            let mut parts = elements(json).enumerate();
            parts.try_for_each(|(at, part)| {
                check_part(part, kinds, &format!("{place}.content[{at}]"))
            })
        }
        _ => {
            let words = "must be text or a list of parts, and not an empty list";
            Err(bad_field(&format!("{place}.content"), words))
        }
    }
}

/// Each type of part has a member of its name: a text, or for what is none an object.
fn check_part(part: &str, kinds: &[&str], place: &str) -> Result<(), ApiError> {
    let kind = text(member(part, "type"), "type")?.unwrap_or("(none)".into());
    let inside = member(part, &kind);
    let fits = match &*kind {
        "text" | "refusal" => text(inside, place)?.is_some(),
        _ => inside.is_some_and(|inside| inside.starts_with('{')),
    };
    if fits && kinds.contains(&&*kind) { Ok(()) } else { Err(unsupported(kinds, &kind, place)) }
}

/// The error for a part of content that is not of one of these types, or not whole.
pub fn unsupported(kinds: &[&str], kind: &str, place: &str) -> ApiError {
    let kinds = kinds.join(", ");
    let message = format!(
        "{place} has the type {:?}; taken are whole parts of type {kinds}: others only of users, in a \
         session and before an upstream.",
        excerpt(kind)
    );
    ApiError::new(400, "unsupported_content", message).param(place)
}

pub(super) struct ChatEncoder {
    model: String,
    /// A stream ends with what the turn has used, where that is known.
    pub(super) include_usage: bool,
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

/// The text, see [`Encoder::end`].
const TEXT: &str = "\"\0\"";

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

    fn end(&mut self, id: &str, report: &Report, _silent: bool, out: &mut Vec<u8>) {
        for (at, call) in elements(report.calls.as_deref().unwrap_or_default()).enumerate() {
            let delta = format!(r#"{{"tool_calls":[{{"index":{at},{}]}}"#, &call[1..]);
            self.write_chunk(id, &delta, "null", out);
        }
        if let Some(refusal) = &report.refusal {
            self.write_chunk(id, &format!(r#"{{"refusal":{}}}"#, quoted(refusal)), "null", out);
        }
        self.write_chunk(id, "{}", &finish_reason(report), out);
        if let Some(usage) = report.usage.as_ref().filter(|_| self.include_usage) {
            sse::write_data(out, &self.object(id, "chat.completion.chunk", "", Some(usage)));
        }
        sse::write_data(out, "[DONE]");
    }

    fn fail(&mut self, _id: &str, problem: &ApiError, out: &mut Vec<u8>) {
        sse::write_data(out, &problem.event());
    }

    fn whole(&mut self, id: &str, report: &Report, silent: bool) -> String {
        let mut rest = String::new();
        if let Some(calls) = &report.calls {
            rest = format!(r#","tool_calls":{calls}"#);
        }
        if let Some(refusal) = &report.refusal {
            rest += &format!(r#","refusal":{}"#, quoted(refusal));
        }
        let content = if silent && !rest.is_empty() { "null" } else { TEXT };
        let message = format!(r#"{{"role":"assistant","content":{content}{rest}}}"#);
        let finish = finish_reason(report);
        let choice = format!(r#"{{"index":0,"message":{message},"finish_reason":{finish}}}"#);
        self.object(id, "chat.completion", &choice, report.usage.as_ref())
    }

    fn is_native(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ParseOptions =
        ParseOptions { in_session: false, durable: false, upstream: false, stores: false };

    fn text(body: &str) -> Result<String, String> {
        parse(body.as_bytes(), PLAIN).map(|(ask, _)| ask.text).map_err(|problem| problem.0.message)
    }

    #[test]
    fn the_last_user_message_is_the_turn() {
        let body = r#"{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"},
            {"role":"assistant","content":"c"}],"unknown":[1],"n":1,"user":"u"}"#;
        assert_eq!(text(body).unwrap(), "b");
        let parts = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},
            {"type":"text","text":"b"}]}]}"#;
        assert_eq!(text(parts).unwrap(), "a\nb");
        assert_eq!(text(r#"{"messages":[{"role":"system","content":"s"}]}"#).unwrap(), "s");
        let called = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant",
            "content":null,"tool_calls":[]},{"role":"tool","content":"t","tool_call_id":"c"}]}"#;
        assert_eq!(text(called).unwrap(), "a");
    }

    #[test]
    fn what_an_agent_is_told_beside_the_text() {
        let body = br#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},
            {"role":"assistant","content":"b"},{"role":"user","content":"c"}],
            "temperature":1,"tools":[],"stream":true,"stream_options":{"include_usage":true}}"#;
        let context = |options| -> serde_json::Value {
            let (ask, encoder) = parse(body, options).unwrap();
            assert!(encoder.include_usage && ask.stream);
            serde_json::from_str(&ask.context.unwrap()).unwrap()
        };
        assert!(context(PLAIN)["options"].get("tools").is_none());
        let whole = context(ParseOptions { upstream: true, ..PLAIN });
        assert_eq!(whole["messages"].as_array().unwrap().len(), 4);
        assert!(
            whole["options"]["tools"].is_array() && whole["options"]["stream_options"].is_object()
        );
        let durable =
            context(ParseOptions { in_session: true, durable: true, upstream: true, ..PLAIN });
        assert_eq!(durable["messages"][0]["content"], "s");
        assert_eq!(durable["messages"][1]["content"], "c");
        assert_eq!(durable["messages"].as_array().unwrap().len(), 2);
        assert_eq!(durable["options"], serde_json::json!({"temperature": 1}));
        let keyed =
            context(ParseOptions { in_session: false, durable: true, upstream: true, ..PLAIN });
        assert_eq!(keyed["options"], serde_json::json!({"temperature": 1, "tools": []}));
        let alone = br#"{"messages":[{"role":"user","content":"a"}],"temperature":1}"#;
        assert_eq!(parse(alone, PLAIN).unwrap().0.context, None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let user =
            |rest: &str| format!(r#"{{"messages":[{{"role":"user","content":""}}],{rest}}}"#);
        let content = |it: &str| format!(r#"{{"messages":[{{"role":"user"{it}}}]}}"#);
        for (body, word) in [
            (String::new(), "not JSON"),
            ("{".to_owned(), "not JSON"),
            ("[]".to_owned(), "object"),
            (r#"{"messages":{}}"#.to_owned(), "messages"),
            (r#"{"messages":[]}"#.to_owned(), "messages"),
            (r#"{"messages":[1]}"#.to_owned(), "messages[0].role"),
            (r#"{"messages":[{"role":"robot","content":"x"}]}"#.to_owned(), "assistant"),
            (content(""), "messages[0].content"),
            (content(r#","content":[]"#), "messages[0].content"),
            (content(r#","content":[{"type":"image_url"}]"#), "image_url"),
            (content(r#","content":[{"type":"text"}]"#), "\"text\""),
            (user(r#""stream":1"#), "stream"),
            (user(r#""model":1"#), "model"),
            (user(r#""n":2"#), "\"n\""),
            (user(r#""user":2"#), "\"user\""),
            (user(r#""stream_options":{}"#), "stream_options"),
            (user(r#""tool_choice":"required""#), "tool_choice"),
            (user(r#""function_call":{"name":"f"}"#), "function_call"),
            (user(r#""response_format":{"type":"json_object"}"#), "response_format"),
            (user(r#""logprobs":true"#), "logprobs"),
            (user(r#""top_logprobs":1"#), "top_logprobs"),
        ] {
            let error = text(&body).unwrap_err();
            assert!(error.contains(word), "{body}: {error}");
        }
        assert!(text(&"[".repeat(100_000)).unwrap_err().contains("not JSON"));
    }
}
