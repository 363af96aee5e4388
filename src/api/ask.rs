//! What a request asks an agent for, read from its JSON and judged: what the two APIs have in common,
//! and the messages of chat completions.

use serde_json::{Map, Value, json};

use super::error::Problem;
use crate::agent::{DEFAULT_MODEL, is_instruction, own, text_of};

/// A request that is understood.
#[derive(Debug)]
pub struct Ask {
    pub model: String,
    /// The message that the turn is about.
    pub text: String,
    pub stream: bool,
    /// A stream ends with what the turn has used, where that is known.
    pub include_usage: bool,
    /// See [`crate::agent::Context`]; `None` where there is nothing but the text.
    pub context: Option<String>,
}

/// What else decides how a request is read.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    pub in_session: bool,
    /// It has a session or an idempotency key: its reply is text that is written down.
    pub durable: bool,
    /// The agent speaks the API itself: it gets all that the request says.
    pub upstream: bool,
}

const ROLES: &str = "system, developer, user, assistant, tool, function";

/// What only makes sense where the client itself gets the model's own words.
const TOOLS: [&str; 6] = [
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "response_format",
];

pub fn bad(message: impl Into<String>) -> Problem {
    Problem::new(400, "bad_request", message)
}

pub fn object(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(bad("The body must be a JSON object.")),
        Err(e) => Err(bad(format!("The body is not JSON: {e}."))),
    }
}

/// Takes a field out; `null` is as good as absent.
pub fn take(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    fields.remove(name).filter(|value| !value.is_null())
}

pub fn take_text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Problem> {
    match take(fields, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(bad(format!("{name:?} must be text."))),
    }
}

pub fn take_bool(fields: &mut Map<String, Value>, name: &str) -> Result<Option<bool>, Problem> {
    match take(fields, name) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(value)),
        Some(_) => Err(bad(format!("{name:?} must be true or false."))),
    }
}

/// The model that is asked for, and whether the reply is streamed.
pub fn take_common(fields: &mut Map<String, Value>) -> Result<(String, bool), Problem> {
    let model = take_text(fields, "model")?.unwrap_or_else(|| DEFAULT_MODEL.to_owned());
    if !fields.get("user").is_none_or(|user| user.is_string() || user.is_null()) {
        return Err(bad("\"user\" must be text."));
    }
    Ok((model, take_bool(fields, "stream")?.unwrap_or(false)))
}

/// Reads the body of a chat completion.
pub fn chat(body: &[u8], manner: Manner) -> Result<Ask, Problem> {
    let mut fields = object(body)?;
    let (model, stream) = take_common(&mut fields)?;
    if take(&mut fields, "n").is_some_and(|n| n != 1) {
        return Err(bad("\"n\" must be 1: a turn has one reply."));
    }
    let include_usage = match fields.get("stream_options") {
        None | Some(Value::Null) => false,
        Some(Value::Object(options)) if stream => {
            options.get("include_usage") == Some(&json!(true))
        }
        Some(_) => return Err(bad("\"stream_options\" takes an object, and \"stream\": true.")),
    };
    let mut messages = match take(&mut fields, "messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        _ => return Err(bad("\"messages\" must be a list of messages, and not empty.")),
    };
    for (at, message) in messages.iter().enumerate() {
        check(message, &format!("messages[{at}]"))?;
    }
    let own = own(&messages).unwrap_or(0);
    let text = text_of(&messages[own]);
    if manner.in_session {
        // The transcript has what was said.
        let mut at = 0;
        messages.retain(|message| {
            at += 1;
            is_instruction(message) || at == own + 1
        });
    }
    if manner.durable {
        fields.retain(|name, _| !TOOLS.contains(&name.as_str()) && name != "stream_options");
    }
    let context = (manner.upstream || messages.len() > 1)
        .then(|| json!({"messages": messages, "model": model, "options": fields}).to_string());
    Ok(Ask { model, text, stream, include_usage, context })
}

/// Whether a message has a known role, and content that is text.
fn check(message: &Value, place: &str) -> Result<(), Problem> {
    let role = message["role"].as_str().unwrap_or_default();
    if !ROLES.split(", ").any(|known| known == role) {
        return Err(bad(format!("\"{place}.role\" must be one of {ROLES}.")));
    }
    match &message["content"] {
        Value::String(_) => Ok(()),
        // What it called stands in the place of its words.
        Value::Null if role == "assistant" => Ok(()),
        Value::Array(parts) if !parts.is_empty() => {
            let kinds = [("text", "text"), ("refusal", "refusal")];
            parts.iter().try_for_each(|part| check_part(part, &kinds, place))
        }
        _ => Err(bad(format!("\"{place}.content\" must be text or a list of parts."))),
    }
}

/// Whether a part of a content is one of these types, each with the member that holds its text.
pub fn check_part(part: &Value, kinds: &[(&str, &str)], place: &str) -> Result<(), Problem> {
    let kind = part["type"].as_str().unwrap_or("(none)");
    if kinds.iter().any(|(known, member)| *known == kind && part[*member].is_string()) {
        return Ok(());
    }
    let wanted = kinds[0].0;
    let message = format!(
        "Only parts of \"type\": {wanted:?} are taken, with their text; {place} has {kind:?}."
    );
    Err(Problem::new(400, "unsupported_content", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Manner = Manner { in_session: false, durable: false, upstream: false };

    fn text(body: &str) -> Result<String, String> {
        chat(body.as_bytes(), PLAIN).map(|ask| ask.text).map_err(|problem| problem.message)
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
        let context = |manner| -> Value {
            let ask = chat(body, manner).unwrap();
            assert!(ask.include_usage && ask.stream);
            serde_json::from_str(&ask.context.unwrap()).unwrap()
        };
        let whole = context(PLAIN);
        assert_eq!(whole["messages"].as_array().unwrap().len(), 4);
        assert!(
            whole["options"]["tools"].is_array() && whole["options"]["stream_options"].is_object()
        );
        let durable = context(Manner { in_session: true, durable: true, upstream: true });
        assert_eq!(durable["messages"][0]["content"], "s");
        assert_eq!(durable["messages"][1]["content"], "c");
        assert_eq!(durable["messages"].as_array().unwrap().len(), 2);
        assert_eq!(durable["options"], json!({"temperature": 1}));
        let alone = br#"{"messages":[{"role":"user","content":"a"}],"temperature":1}"#;
        assert_eq!(chat(alone, PLAIN).unwrap().context, None);
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
