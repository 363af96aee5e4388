//! Items of a response's input as chat messages, and these as items again.

use std::collections::BTreeMap;
use std::mem::take;

use crate::agent::context::{self, assistant, inner, message, own, role, tool_call};
use crate::api::attachments::Attachments;
use crate::api::chat_completions::unsupported;
use crate::api::error::{ApiError, bad_field};
use crate::api::request::{excerpt, list, text};
use crate::api::turn::ParseOptions;
use crate::escape::quoted;
use crate::json::{self, Raw, add, elements, find, member, string};
use crate::sys::gather::Gather;

const ROLES: [&str; 4] = ["user", "assistant", "system", "developer"];

/// What an item of an earlier response was.
pub enum Output {
    /// What its message said.
    Said(String),
    /// A tool call, as a chat has it.
    Call(String),
}

/// Finds the item of this id.
pub type Lookup<'a> = &'a mut dyn FnMut(&str) -> Result<Output, ApiError>;

/// Chat messages. What an assistant said and the tools that it called then are one of them, and the outputs
/// of these follow it, wherever they stand in the input: a chat has no other place for them.
#[derive(Default)]
struct Chat<'a> {
    /// The beginning of a list.
    messages: String,
    /// What it said, as JSON, in the message that is not among them yet.
    said: Option<String>,
    /// The calls in it, and their ids.
    calls: String,
    called: Vec<String>,
    /// The input, and which of its items is read.
    items: &'a str,
    at: usize,
    /// What tools may return beside text is taken.
    media: bool,
    /// Where there was a call: the outputs behind the first one, by the id of their call, the last first.
    outputs: Option<BTreeMap<String, Vec<(usize, &'a str)>>>,
    /// The beginning of a list: what tools returned that is no text, which a user's message has then.
    returned: String,
}

impl<'a> Chat<'a> {
    fn end_assistant(&mut self) -> Result<(), ApiError> {
        let (said, calls) = (self.said.take(), take(&mut self.calls));
        if said.is_some() || !calls.is_empty() {
            let said = said.as_deref().unwrap_or("null");
            add(&mut self.messages, None, &assistant(said, &calls));
        }
        let mut found = BTreeMap::new();
        for id in take(&mut self.called) {
            let outputs = self.outputs.as_mut().and_then(|all| all.get_mut(&id));
            let Some((at, item)) = outputs.and_then(Vec::pop) else {
                let words = format!("has no output for the function call {:?}", excerpt(&id));
                return Err(bad_field("input", &words));
            };
            found.insert(at, item);
        }
        found.into_iter().try_for_each(|(at, item)| self.add_output(at, item))
    }

    /// A tool's message in a chat is text; what else it returned comes behind all of them.
    fn add_output(&mut self, at: usize, item: &str) -> Result<(), ApiError> {
        let [id, output] = find(item, ["call_id", "output"]);
        let output = content(output, self.media, &format!("input[{at}].output"))?;
        let (id, mut text) = (id.unwrap_or_default(), &*output);
        if output.starts_with('[') {
            text = r#""It is in the next message of the user.""#;
            let begin = if self.returned.is_empty() { "[" } else { "," };
            let id = string(item, "call_id").unwrap_or_default();
            let head = quoted(&format!("What {id} returned:"));
            self.returned += &format!(r#"{begin}{{"type":"text","text":{head}}},"#);
            self.returned += inner(&output);
        }
        let message = format!(r#"{{"role":"tool","tool_call_id":{id},"content":{text}}}"#);
        add(&mut self.messages, None, &message);
        Ok(())
    }

    /// Ends the outputs of tools, right behind which stands what is no text of them.
    fn end_outputs(&mut self) {
        let parts = take(&mut self.returned);
        if !parts.is_empty() {
            let message = format!(r#"{{"role":"user","content":{parts}]}}"#);
            add(&mut self.messages, None, &message);
        }
    }

    /// Whether no call before it has the output that is read; none behind it gets it.
    fn is_left(&mut self, id: &str) -> bool {
        let Some(outputs) = &mut self.outputs else { return true };
        let outputs = outputs.get_mut(id);
        outputs.is_some_and(|all| all.pop_if(|(at, _)| *at == self.at).is_some())
    }

    fn add(&mut self, message: &str) -> Result<(), ApiError> {
        self.end_assistant()?;
        self.end_outputs();
        add(&mut self.messages, None, message);
        Ok(())
    }

    fn add_said(&mut self, said: String) -> Result<(), ApiError> {
        if self.calls.is_empty() {
            self.end_assistant()?;
            self.end_outputs();
        }
        // Between calls and their outputs there is no place for a message of its own.
        if let Some(before) = &mut self.said {
            before.truncate(before.len() - 1);
            *before += "\\n";
            *before += &said[1..];
        } else {
            self.said = Some(said);
        }
        Ok(())
    }

    fn add_call(&mut self, call: &str) {
        self.end_outputs();
        if self.outputs.is_none() {
            let mut outputs: BTreeMap<_, Vec<_>> = BTreeMap::new();
            let all = elements(self.items).enumerate().skip(self.at);
            let is_output =
                |item| string(item, "type").is_some_and(|it| it == "function_call_output");
            let all = all.filter(|(_, item)| is_output(item)).gather();
            for (at, item) in all.into_iter().rev() {
                outputs
                    .entry(string(item, "call_id").unwrap_or_default())
                    .or_default()
                    .push((at, item));
            }
            self.outputs = Some(outputs);
        }
        if !self.calls.is_empty() {
            self.calls.push(',');
        }
        self.calls += call;
        self.called.push(string(call, "id").unwrap_or_default());
    }
}

/// The text of a turn, what came with it to be stored, and the chat messages if there are others: no text is
/// stored twice. `chained`: there may be calls before the input.
pub fn read(
    input: Raw<'_>,
    (options, chained): (ParseOptions, bool),
    lookup: Lookup<'_>,
) -> Result<(String, Attachments, Option<String>), ApiError> {
    let wrong = || bad_field("input", "must be text or a list of items, and not empty");
    let Some(items) = list(input) else {
        let plain = input.filter(|raw| raw.starts_with('"')).ok_or_else(wrong)?;
        let text = text(Some(plain), "input")?.filter(|text| !text.is_empty());
        return Ok((text.ok_or_else(wrong)?.into(), Attachments::default(), None));
    };
    let media = options.takes_all();
    let mut chat = Chat { messages: "[".to_owned(), items, media, ..Chat::default() };
    for (at, item) in elements(items).enumerate() {
        chat.at = at;
        add_item(&mut chat, item, (&format!("input[{at}]"), options, chained), lookup)?;
    }
    chat.end_assistant()?;
    chat.end_outputs();
    let mut messages = chat.messages + "]";
    let own = own(&messages);
    let mut attachments = Attachments::default();
    if options.stores {
        let said = elements(&messages).nth(own).ok_or_else(wrong)?;
        // Items and messages are not counted alike.
        let found = Attachments::of_content(said, "input");
        attachments = found.map_err(|error| error.param("input"))?;
        // A list is what has more than text in it; what users said before is in the transcript.
        let texts = json::list(&mut elements(&messages).map(|said| {
            let lists = member(said, "content").is_some_and(|content| content.starts_with('['));
            if lists { message(&role(said), &context::text(said)) } else { said.to_owned() }
        }));
        messages = texts;
    }
    let said = elements(&messages).nth(own).ok_or_else(wrong)?;
    let plain = member(said, "content").is_some_and(|content| content.starts_with('"'));
    let alone = plain && own == 0 && elements(&messages).nth(1).is_none() && role(said) == "user";
    Ok((context::text(said), attachments, (!alone).then_some(messages)))
}

fn add_item(
    chat: &mut Chat<'_>,
    item: &str,
    (place, options, chained): (&str, ParseOptions, bool),
    lookup: Lookup<'_>,
) -> Result<(), ApiError> {
    let [kind, id, said_by] = find(item, ["type", "id", "role"]);
    let implied = if said_by.is_none() && id.is_some() { "item_reference" } else { "message" };
    let kind = text(kind, &format!("{place}.type"))?.unwrap_or(implied.into());
    // A text that the item must have, as JSON.
    let part = |name: &str| {
        let found = member(item, name).filter(|it| json::text(it).is_ok());
        found.ok_or_else(|| bad_field(&format!("{place}.{name}"), "must be text"))
    };
    match &*kind {
        "message" => {
            let role = role(item);
            if !ROLES.contains(&&*role) {
                let words = format!("must be one of {}", ROLES.join(", "));
                return Err(bad_field(&format!("{place}.role"), &words));
            }
            let media = role == "user" && (options.takes_all() || options.stores);
            let content = content(member(item, "content"), media, &format!("{place}.content"))?;
            match &*role {
                "assistant" => chat.add_said(content)?,
                role => chat.add(&format!(r#"{{"role":"{role}","content":{content}}}"#))?,
            }
        }
        "function_call" => {
            chat.add_call(&tool_call(part("call_id")?, part("name")?, part("arguments")?));
        }
        "function_call_output" => {
            let place = format!("{place}.call_id");
            let id = text(Some(part("call_id")?), &place)?.unwrap_or_default();
            chat.end_assistant()?;
            if chat.is_left(&id) {
                chat.add_output(chat.at, item)?;
                let wrong = || bad_field(&place, "is that of no function call before it");
                chained.then_some(()).ok_or_else(wrong)?;
            }
        }
        "item_reference" => {
            let id = text(Some(part("id")?), "id")?.unwrap_or_default();
            match lookup(&id).map_err(|error| error.param(format!("{place}.id")))? {
                Output::Said(text) => chat.add_said(quoted(&text))?,
                Output::Call(call) => chat.add_call(&call),
            }
        }
        // How a model came to what it said is its own; a chat has no place for it.
        "reasoning" => {}
        kind => {
            let words = "messages, function calls, their outputs, item references and reasoning";
            let message = format!("{place} has the type {:?}; taken are {words}.", excerpt(kind));
            let error = ApiError::new(400, "unsupported_content", message);
            return Err(error.param(format!("{place}.type")));
        }
    }
    Ok(())
}

/// The content of an item as that of a chat message: a text, or where there is more than text in it,
/// which `media` allows, a list of parts.
fn content(content: Raw<'_>, media: bool, place: &str) -> Result<String, ApiError> {
    if let Some(json) = content.filter(|it| it.starts_with('"')) {
        text(content, place)?;
        return Ok(json.to_owned());
    }
    let wrong = "must be text or a list of parts, and not an empty list";
    let parts = list(content).ok_or_else(|| bad_field(place, wrong))?;
    let (mut all, mut only_text, mut lines) = ("[".to_owned(), true, String::new());
    for (at, given) in elements(parts).enumerate() {
        let place = format!("{place}[{at}]");
        let kind = text(member(given, "type"), &format!("{place}.type"))?;
        let kind = kind.unwrap_or("(none)".into());
        match part(given, &kind) {
            Some(part) if media || part.starts_with(r#"{"type":"text""#) => {
                only_text &= part.starts_with(r#"{"type":"text""#);
                add(&mut all, None, &part);
                if at > 0 {
                    lines.push('\n');
                }
                lines += &string(&part, "text").unwrap_or_default();
            }
            _ => {
                let kinds = ["input_text", "output_text", "text", "refusal", "input_image"];
                let kinds = [&kinds[..], &["input_file", "input_audio"]].concat();
                return Err(unsupported(if media { &kinds } else { &kinds[..4] }, &kind, &place));
            }
        }
    }
    // Not every server takes parts.
    Ok(if only_text { quoted(&lines) } else { all + "]" })
}

/// A part of content as a chat has it; `None` where it has no such, or where it is not whole, or more than
/// a chat has a place for.
fn part(part: &str, kind: &str) -> Option<String> {
    let is_text = |it: &&str| json::text(it).is_ok();
    let text_of = |name| member(part, name).filter(is_text);
    let lacks = |name| member(part, name).is_none().then_some(());
    Some(match kind {
        "input_text" | "output_text" | "text" => {
            format!(r#"{{"type":"text","text":{}}}"#, text_of("text")?)
        }
        "refusal" => format!(r#"{{"type":"text","text":{}}}"#, text_of("refusal")?),
        "input_image" => {
            lacks("file_id")?;
            let mut image = "{".to_owned();
            add(&mut image, Some("url"), text_of("image_url")?);
            if let Some(detail) = member(part, "detail") {
                add(&mut image, Some("detail"), Some(detail).filter(is_text)?);
            }
            format!(r#"{{"type":"image_url","image_url":{image}}}}}"#)
        }
        "input_file" => {
            lacks("file_url")?;
            member(part, "detail").is_none_or(|it| it == "\"auto\"").then_some(())?;
            member(part, "file_data").or(member(part, "file_id"))?;
            let mut file = "{".to_owned();
            for name in ["filename", "file_data", "file_id"] {
                if let Some(value) = member(part, name) {
                    add(&mut file, Some(name), Some(value).filter(is_text)?);
                }
            }
            format!(r#"{{"type":"file","file":{file}}}}}"#)
        }
        "input_audio" => {
            let audio = member(part, "input_audio")?;
            let [data, format] = find(audio, ["data", "format"]);
            data.filter(is_text).and(format.filter(is_text))?;
            format!(r#"{{"type":"input_audio","input_audio":{audio}}}"#)
        }
        _ => return None,
    })
}

/// A function call as an item; `call`: as a chat has it.
pub fn call_item(id: &str, status: &str, call: &str) -> String {
    let [call_id, function] = find(call, ["id", "function"]);
    let [name, arguments] = find(function.unwrap_or_default(), ["name", "arguments"]);
    let [call_id, name, arguments] = [call_id, name, arguments].map(|it| it.unwrap_or("\"\""));
    format!(
        r#"{{"id":"{id}","type":"function_call","status":"{status}","call_id":{call_id},"name":{name},"arguments":{arguments}}}"#
    )
}

/// The items that chat messages stand for, each with its id.
pub fn items(messages: &str, id: &str) -> Vec<(String, String)> {
    let mut items = Vec::new();
    let mut add_as = |write: &dyn Fn(&str) -> String| {
        let id = format!("in_{id}_{}", items.len());
        let item = write(&id);
        items.push((id, item));
    };
    for message in elements(messages) {
        let role = role(message);
        let [content, calls, call_id] = find(message, ["content", "tool_calls", "tool_call_id"]);
        if role == "tool" {
            let (output, call_id) = (content.unwrap_or("\"\""), call_id.unwrap_or("\"\""));
            add_as(&|id| {
                format!(
                    r#"{{"id":"{id}","type":"function_call_output","status":"completed","call_id":{call_id},"output":{output}}}"#
                )
            });
            continue;
        }
        if let Some(content) = content {
            let parts = input_parts(content, &role);
            add_as(&|id| {
                format!(
                    r#"{{"id":"{id}","type":"message","status":"completed","role":"{role}","content":[{parts}]}}"#
                )
            });
        }
        for call in elements(calls.unwrap_or_default()) {
            add_as(&|id| call_item(id, "completed", call));
        }
    }
    items
}

/// A chat message's content as parts of an item.
fn input_parts(content: &str, role: &str) -> String {
    let said = |text: &str| match role {
        "assistant" => format!(r#"{{"type":"output_text","text":{text},"annotations":[]}}"#),
        _ => format!(r#"{{"type":"input_text","text":{text}}}"#),
    };
    if content.starts_with('"') {
        return said(content);
    }
    let mut parts = "[".to_owned();
    for part in elements(content) {
        let [text, image, file] = find(part, ["text", "image_url", "file"]);
        let part = if let Some(text) = text {
            said(text)
        } else if let Some(image) = image {
            let [url, detail] = find(image, ["url", "detail"]);
            let (url, detail) = (url.unwrap_or("\"\""), detail.unwrap_or("\"auto\""));
            format!(r#"{{"type":"input_image","image_url":{url},"detail":{detail}}}"#)
        } else if let Some(file) = file {
            format!(r#"{{"type":"input_file",{}"#, &file[1..])
        } else {
            part.to_owned()
        };
        add(&mut parts, None, &part);
    }
    inner(&(parts + "]")).to_owned()
}
