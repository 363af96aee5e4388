//! `POST /v1/responses` and `/v1/responses/{id}`: OpenAI's Responses API, text in and text out. A
//! response that is stored is a durable message; one that builds upon another has its conversation.

use std::io;

use serde_json::{Map, Value, json};

use super::Service;
use super::answer::Shape;
use super::ask::{Ask, bad, check_part, object, take, take_bool, take_common, take_text};
use super::auth::Authenticated;
use super::error::Problem;
use super::messages::{find, json as answer_json};
use super::turn::Order;
use crate::agent::{Report, own, text_of};
use crate::http::{Response, sse};
use crate::session::hub::now;
use crate::session::id::Id;
use crate::session::life::Turn;
use crate::session::message::Message;
use crate::text::quoted;

/// Before the id of a message that is a response.
const PREFIX: &str = "resp_";

/// Reads the body of `POST /v1/responses`.
pub fn order(
    service: &Service,
    proof: &Authenticated,
    body: &[u8],
    session: Option<&str>,
) -> Result<Order, Problem> {
    let (ask, about) = read(body)?;
    check_previous(service, proof, session, &about)?;
    let stored = about.stored;
    let shape = Words { about, number: 0, text: String::new(), created: now() / 1000 };
    Ok(Order { ask, stored, shape: Box::new(shape) })
}

/// What it builds upon must be there, and of the same session.
fn check_previous(
    service: &Service,
    proof: &Authenticated,
    session: Option<&str>,
    about: &About,
) -> Result<(), Problem> {
    let Some(previous) = &about.previous else { return Ok(()) };
    let (message, _) = stored(service, proof, previous).map_err(|p| {
        if matches!(p.status, 404 | 410) { Problem::previous_not_found() } else { p }
    })?;
    if session.is_some() && message.who.session.as_deref() != session {
        return Err(bad("previous_response_id is of another session than this request."));
    }
    if message.turn != Turn::Done {
        return Err(bad("previous_response_id names a response that has no reply (yet)."));
    }
    match service.hub.history(proof.principal(), message.id) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Problem::previous_not_found()),
        Err(e) => Err(Problem::new(503, "unavailable", format!("It cannot be read: {e}."))),
    }
}

/// The message that is this response, if it is the principal's and was stored.
fn stored(service: &Service, proof: &Authenticated, id: &str) -> Result<(Message, About), Problem> {
    let unknown =
        || Problem::new(404, "not_found", format!("There is no response {id:?} (any more)."));
    let message = find(service, proof, id.strip_prefix(PREFIX).ok_or_else(unknown)?);
    let message = message.map_err(|p| if p.status == 404 { unknown() } else { p })?;
    let context = service.hub.context_of(message.id).map_err(|_| unknown())?;
    let about = About::read(&context.ok_or_else(unknown)?).filter(|about| about.stored);
    Ok((message, about.ok_or_else(unknown)?))
}

/// `GET /v1/responses/{id}`.
pub fn get(service: &Service, proof: &Authenticated, id: &str) -> Result<Response, Problem> {
    let (message, about) = stored(service, proof, id)?;
    let created = message.created_at / 1000;
    let words = Words { about, number: 0, text: message.reply.unwrap_or_default(), created };
    let id = message.id.to_string();
    let error = message.error.unwrap_or_default();
    let report = message.report;
    let body = match message.turn {
        Turn::Queued | Turn::Resting => words.object(&id, "queued", &report, None),
        Turn::Running => words.object(&id, "in_progress", &report, None),
        Turn::Done => words.object(&id, "completed", &report, None),
        Turn::Failed => words.object(&id, "failed", &report, Some(&error)),
        Turn::Cancelled => words.object(&id, "cancelled", &report, None),
    };
    Ok(answer_json(200, body))
}

/// `DELETE /v1/responses/{id}`: one that is not over is cancelled.
pub fn delete(service: &Service, proof: &Authenticated, id: &str) -> Result<Response, Problem> {
    let (message, _) = stored(service, proof, id)?;
    let why = format!("deleted by {}", proof.principal());
    service.hub.delete(message.id, &why).map_err(|denied| Problem::denied(&denied))?;
    Ok(answer_json(200, format!(r#"{{"id":{},"object":"response","deleted":true}}"#, quoted(id))))
}

/// What a response says of its request.
#[derive(Debug, Default, PartialEq)]
pub(super) struct About {
    model: String,
    /// As the client names it.
    previous: Option<String>,
    instructions: Option<String>,
    metadata: Value,
    stored: bool,
}

impl About {
    /// Reads back what [`read`] has put into a message's context.
    pub(super) fn read(context: &str) -> Option<About> {
        let mut context: Value = serde_json::from_str(context).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(About {
            model: text(&context["model"])?,
            previous: text(&context["previous"]).map(|id| PREFIX.to_owned() + &id),
            instructions: text(&context["instructions"]),
            stored: context["response"]["stored"].as_bool()?,
            metadata: context["response"]["metadata"].take(),
        })
    }
}

pub(super) fn read(body: &[u8]) -> Result<(Ask, About), Problem> {
    let mut fields = object(body)?;
    let (model, stream) = take_common(&mut fields)?;
    let instructions = take_text(&mut fields, "instructions")?;
    let stored = take_bool(&mut fields, "store")?.unwrap_or(true);
    if take_bool(&mut fields, "background")? == Some(true) {
        return Err(bad(
            "\"background\" is not offered: POST /v1/messages accepts and answers at once.",
        ));
    }
    if take(&mut fields, "conversation").is_some() {
        let words = "\"conversation\" is not offered: use previous_response_id, or a session.";
        return Err(bad(words));
    }
    let previous = take_text(&mut fields, "previous_response_id")?;
    let id = previous.as_ref().map(|id| id.strip_prefix(PREFIX).and_then(Id::parse));
    let id = id.map(|id| id.ok_or_else(Problem::previous_not_found)).transpose()?;
    let metadata = match take(&mut fields, "metadata") {
        None => json!({}),
        Some(metadata) if metadata.is_object() => metadata,
        Some(_) => return Err(bad("\"metadata\" must be an object.")),
    };
    let messages = match take(&mut fields, "input") {
        Some(Value::String(text)) if !text.is_empty() => {
            vec![json!({"role": "user", "content": text})]
        }
        Some(Value::Array(items)) if !items.is_empty() => items
            .iter()
            .enumerate()
            .map(|(at, item)| message(item, at))
            .collect::<Result<_, _>>()?,
        _ => return Err(bad("\"input\" must be text or a list of items, and not empty.")),
    };
    let text = own(&messages).map(|own| text_of(&messages[own])).unwrap_or_default();
    let names =
        [("temperature", "temperature"), ("top_p", "top_p"), ("max_output_tokens", "max_tokens")];
    let options = names.iter().filter_map(|(name, chat)| Some((*chat, take(&mut fields, name)?)));
    let options: Map<String, Value> = options.map(|(name, it)| (name.to_owned(), it)).collect();
    let mut context = json!({
        "model": model,
        "options": options,
        "response": {"stored": stored, "metadata": metadata},
    });
    // The text of a message is written down once.
    let more = (messages.len() > 1 || messages[0]["role"] != "user").then_some(messages);
    let members = [
        ("messages", more.map(Value::Array)),
        ("previous", id.map(|id| id.to_string().into())),
        ("instructions", instructions.clone().map(Value::String)),
    ];
    for (name, value) in members {
        if let Some(value) = value {
            context[name] = value;
        }
    }
    let context = Some(context.to_string());
    let ask = Ask { model: model.clone(), text, stream, include_usage: true, context };
    Ok((ask, About { model, previous, instructions, metadata, stored }))
}

/// An item of the input as a chat message.
fn message(item: &Value, at: usize) -> Result<Value, Problem> {
    let place = format!("input[{at}]");
    if !matches!(item["type"].as_str(), None | Some("message")) {
        let message = format!("{place} is {}; only messages are taken.", item["type"]);
        return Err(Problem::new(400, "unsupported_content", message));
    }
    let role = item["role"].as_str().unwrap_or_default();
    if !matches!(role, "user" | "assistant" | "system" | "developer") {
        return Err(bad(format!("\"{place}.role\" must be user, assistant, system or developer.")));
    }
    let kinds =
        [("input_text", "text"), ("output_text", "text"), ("text", "text"), ("refusal", "refusal")];
    match &item["content"] {
        Value::String(_) => {}
        Value::Array(parts) => {
            parts.iter().try_for_each(|part| check_part(part, &kinds, &place))?;
        }
        _ => return Err(bad(format!("\"{place}.content\" must be text or a list of parts."))),
    }
    Ok(json!({"role": role, "content": text_of(item)}))
}

/// The words of a response.
struct Words {
    about: About,
    /// Of the next event.
    number: u64,
    /// All of the reply so far.
    text: String,
    /// Seconds since 1970.
    created: u64,
}

impl Words {
    /// The response in this state. `error`: in words.
    fn object(&self, id: &str, status: &str, report: &Report, error: Option<&str>) -> String {
        let About { model, previous, instructions, metadata, stored } = &self.about;
        let text =
            |text: &Option<String>| text.as_deref().map_or_else(|| "null".to_owned(), quoted);
        // Length is the one reason for which OpenAI has a word here.
        let cut = status == "completed" && report.finish.as_deref() == Some("length");
        let (status, details) = if cut {
            ("incomplete", r#"{"reason":"max_output_tokens"}"#)
        } else {
            (status, "null")
        };
        let error = error.map(|words| json!({ "code": "server_error", "message": words }));
        let error = error.unwrap_or_default();
        let done = matches!(status, "completed" | "incomplete");
        let output = if done { self.item(id, status, true) } else { String::new() };
        let usage =
            report.usage.as_ref().map_or_else(String::new, |u| format!(r#","usage":{}"#, usage(u)));
        format!(
            r#"{{"id":"{PREFIX}{id}","object":"response","created_at":{},"status":"{status}","error":{error},"incomplete_details":{details},"instructions":{},"metadata":{metadata},"model":{},"output":[{output}],"parallel_tool_calls":false,"previous_response_id":{},"store":{stored},"temperature":null,"text":{{"format":{{"type":"text"}}}},"tool_choice":"none","tools":[],"top_p":null,"truncation":"auto"{usage}}}"#,
            self.created,
            text(instructions),
            quoted(model),
            text(previous),
        )
    }

    /// The message that is the output.
    fn item(&self, id: &str, status: &str, full: bool) -> String {
        let content = if full { self.part() } else { String::new() };
        format!(
            r#"{{"id":"msg_{id}","type":"message","status":"{status}","role":"assistant","content":[{content}]}}"#
        )
    }

    fn part(&self) -> String {
        format!(r#"{{"type":"output_text","text":{},"annotations":[]}}"#, quoted(&self.text))
    }

    /// An event; `members`: what it has beside its type and number.
    fn event(&mut self, name: &str, members: &str, out: &mut Vec<u8>) {
        let number = self.number;
        self.number += 1;
        let data = format!(r#"{{"type":"{name}","sequence_number":{number},{members}}}"#);
        sse::write_event(out, name, "", &data);
    }

    /// An event about the text.
    fn text_event(&mut self, name: &str, id: &str, members: &str, out: &mut Vec<u8>) {
        let place = format!(r#""item_id":"msg_{id}","output_index":0,"content_index":0,{members}"#);
        self.event(name, &place, out);
    }
}

impl Shape for Words {
    fn begin(&mut self, id: &str, out: &mut Vec<u8>) {
        let response = self.object(id, "in_progress", &Report::default(), None);
        for name in ["response.created", "response.in_progress"] {
            self.event(name, &format!(r#""response":{response}"#), out);
        }
        let item = self.item(id, "in_progress", false);
        self.event(
            "response.output_item.added",
            &format!(r#""output_index":0,"item":{item}"#),
            out,
        );
        let part = format!(r#""part":{}"#, self.part());
        self.text_event("response.content_part.added", id, &part, out);
    }

    fn piece(&mut self, id: &str, text: &str, out: &mut Vec<u8>) {
        self.text.push_str(text);
        let delta = format!(r#""delta":{},"logprobs":[]"#, quoted(text));
        self.text_event("response.output_text.delta", id, &delta, out);
    }

    fn end(&mut self, id: &str, report: &Report, out: &mut Vec<u8>) {
        let text = format!(r#""text":{},"logprobs":[]"#, quoted(&self.text));
        self.text_event("response.output_text.done", id, &text, out);
        let part = format!(r#""part":{}"#, self.part());
        self.text_event("response.content_part.done", id, &part, out);
        let response = self.object(id, "completed", report, None);
        let cut = report.finish.as_deref() == Some("length");
        let status = if cut { "incomplete" } else { "completed" };
        let item = self.item(id, status, true);
        self.event("response.output_item.done", &format!(r#""output_index":0,"item":{item}"#), out);
        self.event(&format!("response.{status}"), &format!(r#""response":{response}"#), out);
    }

    fn fail(&mut self, id: &str, problem: &Problem, out: &mut Vec<u8>) {
        let (code, words) = (problem.code, &problem.message);
        let error = format!(r#""code":"{code}","message":{},"param":null"#, quoted(words));
        self.event("error", &error, out);
        let response = self.object(id, "failed", &Report::default(), Some(words));
        self.event("response.failed", &format!(r#""response":{response}"#), out);
    }

    fn whole(&mut self, id: &str, text: &str, report: &Report) -> String {
        text.clone_into(&mut self.text);
        self.object(id, "completed", report, None)
    }
}

/// A chat completion's usage under the names that responses have for it.
fn usage(usage: &Value) -> Value {
    let names = [
        ("prompt_tokens", "input_tokens"),
        ("prompt_tokens_details", "input_tokens_details"),
        ("completion_tokens", "output_tokens"),
        ("completion_tokens_details", "output_tokens_details"),
        ("total_tokens", "total_tokens"),
    ];
    let known = names
        .iter()
        .filter_map(|(chat, name)| Some(((*name).to_owned(), usage.get(chat)?.clone())));
    Value::Object(known.collect())
}
