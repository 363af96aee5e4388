//! What a request says beside the text of its turn: the conversation so far, and how to answer.
//! Written down with a durable message; it stays the text that it came as.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::escape::quoted;
use crate::json::{Raw, elements, member, string, text};

/// A chat request, as a turn is given it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// A list of OpenAI's messages, each with `role` and `content`, the turn's own included.
    pub messages: String,
    /// The model that was asked for; empty: any.
    pub model: String,
    /// An object: further fields of the request, such as `temperature`, for a server that knows them.
    pub options: String,
}

impl Context {
    /// Reads `{"messages","model","options"}`, each of which may be missing.
    pub fn parse(json: &str) -> Context {
        let part = |name: &str| member(json, name).map_or("", RawValue::get).to_owned();
        let model = string(json, "model").unwrap_or_default();
        Context { messages: part("messages"), model, options: part("options") }
    }

    /// What was said before the turn's own message, and after it, as JSON lines with `role` and
    /// `content`; the form of a session's transcript.
    pub fn lines(&self) -> String {
        let own = own(elements(&self.messages));
        let mut lines = String::new();
        for (_, message) in elements(&self.messages).enumerate().filter(|(at, _)| *at != own) {
            let said = ChatMessage::of(message);
            let (role, content) = (said.role.map_or("null", RawValue::get), quoted(&said.text()));
            lines += &format!("{{\"role\":{role},\"content\":{content}}}\n");
        }
        lines
    }
}

/// What the gateway reads of a chat message.
#[derive(Debug, Default)]
pub struct ChatMessage<'a> {
    pub role: Raw<'a>,
    pub content: Raw<'a>,
}

impl<'a> ChatMessage<'a> {
    /// Nothing at all where it is no object.
    pub fn of(message: &'a RawValue) -> ChatMessage<'a> {
        let named = |name| member(message.get(), name);
        ChatMessage { role: named("role"), content: named("content") }
    }

    pub fn role(&self) -> Cow<'a, str> {
        self.role.and_then(|role| text(role).ok()).unwrap_or_default()
    }

    /// Whether it tells the agent what to be, and is no part of the conversation.
    pub fn is_instruction(&self) -> bool {
        matches!(&*self.role(), "system" | "developer")
    }

    /// Its text, whose content is text or a list of parts.
    pub fn text(&self) -> String {
        let Some(content) = self.content else { return String::new() };
        if let Ok(text) = text(content) {
            return text.into_owned();
        }
        let part =
            |part: &RawValue| string(part.get(), "text").or_else(|| string(part.get(), "refusal"));
        elements(content.get()).filter_map(part).collect::<Vec<_>>().join("\n")
    }
}

/// The texts of `system` and `developer` in a list of messages.
pub fn instructions(messages: &str) -> String {
    let all = elements(messages).map(ChatMessage::of);
    let texts: Vec<String> = all.filter(ChatMessage::is_instruction).map(|it| it.text()).collect();
    texts.join("\n\n")
}

/// The place of the message that a turn is about: the last one of a user, else the last one.
pub fn own<'a>(messages: impl Iterator<Item = &'a RawValue>) -> usize {
    let (mut own, mut last) = (None, 0);
    for (at, message) in messages.enumerate() {
        last = at;
        own = (ChatMessage::of(message).role() == "user").then_some(at).or(own);
    }
    own.unwrap_or(last)
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
        assert_eq!(instructions(&context.messages), "be brief");
        assert_eq!(own(elements(&context.messages)), 3);
        assert_eq!(
            context.lines(),
            "{\"role\":\"system\",\"content\":\"be brief\"}\n{\"role\":\"user\",\"content\":\"a\"}\n\
             {\"role\":\"assistant\",\"content\":\"b\\nc\"}\n{\"role\":\"tool\",\"content\":\"e\"}\n"
        );
        assert_eq!(context.model, "m");
    }
}
