//! What a request says beside the text of its turn: the conversation so far, and how to answer.
//! Written down with a durable message; it stays the text that it came as.

use std::borrow::Cow;
use std::{io, path::Path};

use crate::escape::quoted;
use crate::json::{self, elements, find, member, string};
use crate::limits::MAX_TRANSCRIPT_RANGE;
use crate::sys::fs::{if_exists, open_own, read_bytes};
use crate::sys::gather::Gather;

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
        let [messages, model, options] = find(json, ["messages", "model", "options"]);
        let model = model.and_then(|model| json::text(model).ok()).unwrap_or_default();
        let owned = |part: Option<&str>| part.unwrap_or_default().to_owned();
        Context { messages: owned(messages), model: model.into_owned(), options: owned(options) }
    }

    /// What was said before the turn's own message, and after it, as JSON lines with `role` and
    /// `content`; the form of a session's transcript.
    pub fn lines(&self) -> String {
        let own = own(&self.messages);
        let others = elements(&self.messages).enumerate().filter(|(at, _)| *at != own);
        others.map(|(_, said)| message(&role(said), &text(said)) + "\n").gather().concat()
    }
}

/// A chat message of this text, as JSON.
pub fn message(role: &str, text: &str) -> String {
    format!(r#"{{"role":{},"content":{}}}"#, quoted(role), quoted(text))
}

/// What an assistant said, a JSON text or `null`, with the tools that it called, the elements of a list.
pub fn assistant(content: &str, calls: &str) -> String {
    let calls =
        if calls.is_empty() { String::new() } else { format!(r#","tool_calls":[{calls}]"#) };
    format!(r#"{{"role":"assistant","content":{content}{calls}}}"#)
}

/// A tool call of a chat message; all of these are JSON texts.
pub fn tool_call(id: &str, name: &str, arguments: &str) -> String {
    let function = format!(r#"{{"name":{name},"arguments":{arguments}}}"#);
    format!(r#"{{"id":{id},"type":"function","function":{function}}}"#)
}

/// What stands between the brackets of a list.
pub fn inner(list: &str) -> &str {
    list.trim().strip_prefix('[').and_then(|list| list.strip_suffix(']')).unwrap_or_default()
}

/// The role of a chat message; empty where it has none.
pub fn role(message: &str) -> Cow<'_, str> {
    member(message, "role").and_then(|role| json::text(role).ok()).unwrap_or_default()
}

/// Whether a chat message tells the agent what to be, and is no part of the conversation.
pub fn is_instruction(message: &str) -> bool {
    matches!(&*role(message), "system" | "developer")
}

/// The text of a chat message, whose content is text or a list of parts.
pub fn text(message: &str) -> String {
    let Some(content) = member(message, "content") else { return String::new() };
    if let Ok(text) = json::text(content) {
        return text.into_owned();
    }
    let part = |part: &str| string(part, "text").or_else(|| string(part, "refusal"));
    elements(content).filter_map(part).gather().join("\n")
}

/// The texts of `system` and `developer` in a list of messages.
pub fn instructions(messages: &str) -> String {
    let all = elements(messages).filter(|message| is_instruction(message));
    all.map(text).gather().join("\n\n")
}

/// The place of the message that a turn is about: the last one of a user, else the last one.
pub fn own(messages: &str) -> usize {
    let all = || elements(messages).enumerate();
    let of_user = all().filter(|(_, message)| role(message) == "user").last();
    of_user.or_else(|| all().last()).map_or(0, |(at, _)| at)
}

/// The newest turns of a transcript that fit into so many bytes, question and answer together: role, text and the
/// message's id. Nothing where there is no such file.
///
/// # Errors
/// It cannot be read.
pub fn history(
    transcript: &Path,
    mut room: usize,
) -> io::Result<Vec<(&'static str, String, String)>> {
    let cap = *MAX_TRANSCRIPT_RANGE.end() as u64 * 2;
    let bytes = if_exists(open_own(transcript).and_then(|file| read_bytes(file, cap)))?;
    let transcript = String::from_utf8_lossy(bytes.as_deref().unwrap_or_default());
    let mut newest = Vec::new();
    let mut answer: Option<&str> = None;
    let id = |line| member(line, "id");
    for line in transcript.lines().rev() {
        let is_answer = string(line, "role").as_deref() == Some("assistant");
        let Some(reply) = answer.take().filter(|reply| !is_answer && id(reply) == id(line)) else {
            answer = is_answer.then_some(line);
            continue;
        };
        let turn = [("assistant", reply), ("user", line)];
        let text = |line, name| string(line, name).unwrap_or_default();
        let turn = turn.map(|(role, line)| (role, text(line, "content"), text(line, "id")));
        let length = turn.iter().map(|(role, text, _)| message(role, text).len()).sum();
        let Some(left) = room.checked_sub(length) else { break };
        room = left;
        newest.extend(turn);
    }
    newest.reverse();
    Ok(newest)
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
        assert_eq!(own(&context.messages), 3);
        assert_eq!(
            context.lines(),
            "{\"role\":\"system\",\"content\":\"be brief\"}\n{\"role\":\"user\",\"content\":\"a\"}\n\
             {\"role\":\"assistant\",\"content\":\"b\\nc\"}\n{\"role\":\"tool\",\"content\":\"e\"}\n"
        );
        assert_eq!(context.model, "m");
    }
}
