//! What a request says beside the text of its turn: the conversation so far, and how to answer.
//! Written down with a durable message, and as text also while a turn waits: values of JSON take up
//! to fifty times the room.

use serde_json::{Map, Value};

/// A chat request, as a turn is given it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// OpenAI's messages, each with `role` and `content`, the turn's own included.
    pub messages: Vec<Value>,
    /// The model that was asked for; empty: any.
    pub model: String,
    /// Further fields of the request, such as `temperature`, for a server that knows them.
    pub options: Map<String, Value>,
}

impl Context {
    /// Reads `{"messages","model","options"}`, each of which may be missing.
    pub fn parse(json: &str) -> Context {
        let mut value: Value = serde_json::from_str(json).unwrap_or_default();
        let messages = match value["messages"].take() {
            Value::Array(messages) => messages,
            _ => Vec::new(),
        };
        let options = match value["options"].take() {
            Value::Object(options) => options,
            _ => Map::new(),
        };
        let model = value["model"].as_str().unwrap_or_default().to_owned();
        Context { messages, model, options }
    }

    /// What the client has laid down for the agent: the texts of `system` and `developer`.
    pub fn instructions(&self) -> String {
        let texts: Vec<String> =
            self.messages.iter().filter(|m| is_instruction(m)).map(text_of).collect();
        texts.join("\n\n")
    }

    /// What was said before the turn's own message, and after it, as JSON lines with `role` and
    /// `content`; the form of a session's transcript.
    pub fn lines(&self) -> String {
        let own = own(&self.messages);
        let others = self.messages.iter().enumerate().filter(|(at, _)| Some(*at) != own);
        let line = |(_, message): (usize, &Value)| {
            let content = Value::from(text_of(message));
            format!("{{\"role\":{},\"content\":{content}}}\n", message["role"])
        };
        others.map(line).collect()
    }
}

/// Whether a message tells the agent what to be, and is no part of the conversation.
pub fn is_instruction(message: &Value) -> bool {
    matches!(message["role"].as_str(), Some("system" | "developer"))
}

/// The place of the message that a turn is about: the last one of a user, else the last one.
pub fn own(messages: &[Value]) -> Option<usize> {
    let of_user = messages.iter().rposition(|message| message["role"] == "user");
    of_user.or_else(|| messages.len().checked_sub(1))
}

/// The text of a message, whose content is text or a list of parts.
pub fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let text = |part: &Value| {
                part["text"].as_str().or(part["refusal"].as_str()).map(str::to_owned)
            };
            parts.iter().filter_map(text).collect::<Vec<String>>().join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_around_the_turn() {
        let context = Context::parse(
            r#"{"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"a"},
            {"role":"assistant","content":[{"type":"text","text":"b"},{"type":"text","text":"c"}]},
            {"role":"user","content":"d\n"},{"role":"tool","content":"e"}],"model":"m"}"#,
        );
        assert_eq!(context.instructions(), "be brief");
        assert_eq!(own(&context.messages), Some(3));
        assert_eq!(
            context.lines(),
            "{\"role\":\"system\",\"content\":\"be brief\"}\n{\"role\":\"user\",\"content\":\"a\"}\n\
             {\"role\":\"assistant\",\"content\":\"b\\nc\"}\n{\"role\":\"tool\",\"content\":\"e\"}\n"
        );
        assert_eq!(context.model, "m");
    }
}
