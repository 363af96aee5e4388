//! Parsing chat completions, and what they have in common with responses.

use std::borrow::Cow;
use std::fmt::{Display, Write};

use serde_json::value::RawValue;

use super::error::{ApiError, bad};
use super::request::{Body, excerpt, list, text};
use crate::agent::{ChatMessage, DEFAULT_MODEL, instructions, own};
use crate::escape::quoted;
use crate::json::{elements, member, members};

/// Instructions that an agent gets as a variable: with its name and NUL it stays below the system's
/// bound for one ([`MAX_EXEC_STRING`](crate::limits::MAX_EXEC_STRING)).
const MAX_INSTRUCTIONS: usize = 120 * 1024;

/// A parsed request.
#[derive(Debug)]
pub struct ChatRequest {
    pub model: String,
    /// The message that the turn is about.
    pub text: String,
    pub stream: bool,
    /// A stream ends with what the turn has used, where that is known.
    pub include_usage: bool,
    /// It is durable also without a session and an idempotency key.
    pub stored: bool,
    /// See [`crate::agent::Context`]; `None` where there is nothing but the text.
    pub context: Option<String>,
}

/// What else decides how a request is parsed.
#[derive(Clone, Copy, Debug)]
pub struct ParseOptions {
    pub in_session: bool,
    /// It has a session or an idempotency key: its reply is text in the journal.
    pub durable: bool,
    /// The agent speaks the API itself: it gets all that the request says.
    pub upstream: bool,
}

const ROLES: &str = "system, developer, user, assistant, tool, function";

/// Fields that are for clients that get the agent's output unchanged; a durable reply is text.
const TOOLS: &str =
    "tools, tool_choice, parallel_tool_calls, functions, function_call, response_format";

/// The model that is asked for, and whether the reply is streamed.
pub fn common(body: &Body<'_>) -> Result<(String, bool), ApiError> {
    let model = body.text("model")?.map_or_else(|| DEFAULT_MODEL.to_owned(), Cow::into_owned);
    body.text("user")?;
    Ok((model, body.boolean("stream")?.unwrap_or(false)))
}

/// The members of a chat completion that the gateway reads.
const FIELDS: &str = "model, messages, stream, stream_options, user, n";

/// The members of a chat completion that stay out of a context's options.
const READ: [&str; 4] = ["model", "messages", "stream", "n"];

/// Parses the body of a chat completion.
pub fn parse(body: &[u8], options: ParseOptions) -> Result<ChatRequest, ApiError> {
    let body = Body::parse(body, FIELDS)?;
    let (model, stream) = common(&body)?;
    if body.raw("n").is_some_and(|n| n.get() != "1") {
        return Err(bad("\"n\" must be 1: a turn has one reply."));
    }
    let include_usage = match body.raw("stream_options").map(RawValue::get) {
        None => false,
        Some(options) if stream && options.starts_with('{') => {
            member(options, "include_usage").is_some_and(|usage| usage.get() == "true")
        }
        Some(_) => return Err(bad("\"stream_options\" takes an object, and \"stream\": true.")),
    };
    let messages = list(body.raw("messages"))
        .ok_or_else(|| bad("\"messages\" must be a list of messages, and not empty."))?;
    for (at, message) in elements(messages).enumerate() {
        let said = ChatMessage::of(message);
        // A message that only calls tools has no content.
        if said.content.is_some() || said.role() != "assistant" {
            check(&said, ROLES, &["text", "refusal"], &format_args!("messages[{at}]"))?;
        }
    }
    let own = own(elements(messages));
    // In a session the transcript has what was said.
    let stays = |(at, message): &(usize, &RawValue)| {
        !options.in_session || *at == own || ChatMessage::of(message).is_instruction()
    };
    let kept = || elements(messages).enumerate().filter(stays);
    let context = (options.upstream || kept().nth(1).is_some()).then(|| {
        let mut context = String::with_capacity(body.json.len() + 64);
        let _ = write!(context, r#"{{"model":{},"messages":["#, quoted(&model));
        kept().for_each(|(_, message)| add(&mut context, "", message.get()));
        context += r#"],"options":{"#;
        for (name, value) in members(body.json).filter(|(name, _)| !READ.contains(&&**name)) {
            let is_tool = TOOLS.split(", ").any(|tool| tool == name);
            if !options.durable || !(is_tool || name == "stream_options") {
                add(&mut context, &name, value.get());
            }
        }
        context + "}}"
    });
    let text = elements(messages).nth(own).map_or(String::new(), |own| ChatMessage::of(own).text());
    Ok(ChatRequest { model, text, stream, include_usage, stored: false, context })
}

/// Appends an element to a list, or a member with its name to an object.
pub fn add(json: &mut String, name: &str, value: &str) {
    if !json.ends_with(['[', '{']) {
        json.push(',');
    }
    if !name.is_empty() {
        json.push_str(&quoted(name));
        json.push(':');
    }
    json.push_str(value);
}

/// Rejects a message of another role, and content that is neither text nor parts of these types with
/// their text.
pub fn check(
    said: &ChatMessage<'_>,
    roles: &str,
    kinds: &[&str],
    place: &dyn Display,
) -> Result<(), ApiError> {
    if !roles.split(", ").any(|known| known == said.role()) {
        return Err(bad(format!("\"{place}.role\" must be one of {roles}.")));
    }
    match said.content.map(RawValue::get) {
        Some(json) if json.starts_with('"') => {
            text(said.content, &format!("{place}.content")).map(|_| ())
        }
        Some(json) if list(said.content).is_some() => {
            elements(json).try_for_each(|part| check_part(part, kinds, place))
        }
        _ => Err(bad(format!(
            "\"{place}.content\" must be text or a list of parts, and no empty list."
        ))),
    }
}

fn check_part(part: &RawValue, kinds: &[&str], place: &dyn Display) -> Result<(), ApiError> {
    let named = |name| member(part.get(), name);
    let kind = text(named("type"), "type")?.unwrap_or("(none)".into());
    let words = named(if kind == "refusal" { "refusal" } else { "text" });
    if kinds.contains(&&*kind) && text(words, &format!("{place}.content"))?.is_some() {
        return Ok(());
    }
    let wanted = kinds[0];
    let message = format!(
        "Only parts of \"type\": {wanted:?} are taken, with their text; {place} has {:?}.",
        excerpt(&kind)
    );
    Err(ApiError::new(400, "unsupported_content", message))
}

/// Rejects instructions that cannot be passed to a program as an environment variable.
pub fn check_instructions(context: &str) -> Result<(), ApiError> {
    let mut all = member(context, "messages").map_or(String::new(), |it| instructions(it.get()));
    all += &text(member(context, "instructions"), "instructions")?.unwrap_or_default();
    let (most, length) = (MAX_INSTRUCTIONS, all.len());
    if length > most {
        let words =
            format!("The system messages have {length} bytes together; this agent takes {most}.");
        return Err(ApiError::new(413, "too_long", words));
    }
    let nul = || bad("A system message has U+0000 in it, which this agent cannot be given.");
    all.find('\0').map_or(Ok(()), |_| Err(nul()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ParseOptions = ParseOptions { in_session: false, durable: false, upstream: false };

    fn text(body: &str) -> Result<String, String> {
        parse(body.as_bytes(), PLAIN).map(|ask| ask.text).map_err(|problem| problem.message)
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
            let ask = parse(body, options).unwrap();
            assert!(ask.include_usage && ask.stream);
            serde_json::from_str(&ask.context.unwrap()).unwrap()
        };
        let whole = context(PLAIN);
        assert_eq!(whole["messages"].as_array().unwrap().len(), 4);
        assert!(
            whole["options"]["tools"].is_array() && whole["options"]["stream_options"].is_object()
        );
        let durable = context(ParseOptions { in_session: true, durable: true, upstream: true });
        assert_eq!(durable["messages"][0]["content"], "s");
        assert_eq!(durable["messages"][1]["content"], "c");
        assert_eq!(durable["messages"].as_array().unwrap().len(), 2);
        assert_eq!(durable["options"], serde_json::json!({"temperature": 1}));
        let alone = br#"{"messages":[{"role":"user","content":"a"}],"temperature":1}"#;
        assert_eq!(parse(alone, PLAIN).unwrap().context, None);
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
        ] {
            let error = text(&body).unwrap_err();
            assert!(error.contains(word), "{body}: {error}");
        }
        assert!(text(&"[".repeat(100_000)).unwrap_err().contains("not JSON"));
    }
}
