//! What a part, and whatever else the gateway has sent, becomes in calls of the Bot API. Pure.

use std::collections::VecDeque;

use serde_json::Value;

use crate::digest::sha256;
use crate::json::object;
use crate::sys::gather::Gather;
use crate::telegram::call::Call;
use crate::telegram::lines::Send;
use crate::telegram::markdown;

/// UTF-16 units of the text beside a file.
const MAX_CAPTION: usize = 1024;

/// Bytes that a button may send back.
const MAX_CALLBACK: usize = 64;

/// The method whose success may be repeated.
pub const EDIT: &str = "editMessageText";

/// What shows a part.
///
/// The first call has the text, the buttons and what is replied to, and its message is the one of the receipt: it is
/// the one that can be edited and answered. A text goes along with the first file where it fits there; other files
/// are messages of their own behind it.
#[derive(Debug)]
pub struct Request {
    pub chat: i64,
    pub calls: VecDeque<Call>,
    /// The message that the first call edits.
    pub replaces: Option<i64>,
    /// Of all that the first call shows.
    pub digest: [u8; 32],
}

/// # Errors
/// Which of its ids is none of Telegram's.
pub fn build(send: &Send) -> Result<Request, String> {
    let (chat, mut address) = address(&send.conversation, send.thread.as_deref())?;
    let replaces = send.replaces.as_deref().map(|id| number("message", id)).transpose()?;
    let (text, entities) = match send.markdown && !send.text.is_empty() {
        true => markdown::render(&send.text),
        false => (send.text.clone(), Vec::new()),
    };
    let caption =
        !send.files.is_empty() && replaces.is_none() && text.encode_utf16().count() <= MAX_CAPTION;
    let mut shown = match caption {
        true => object!("caption": text),
        false => {
            object!("text": text, "link_preview_options": object!("is_disabled": true))
        }
    };
    if !entities.is_empty() {
        shown[if caption { "caption_entities" } else { "entities" }] = markdown::to_json(&entities);
    }
    if let Some(keyboard) = keyboard(send) {
        shown["reply_markup"] = keyboard;
    }
    let digest = sha256(&[shown.to_string().as_bytes()]);
    let mut calls = VecDeque::new();
    let mut files = send.files.iter();
    let mut document = |parameters| {
        let files = files.next().map(|file| ("document", file.clone())).into_iter().gather();
        Call { method: "sendDocument", parameters, files }
    };
    let plain = address.clone();
    if let Some(id) = replaces {
        address = object!("chat_id": chat, "message_id": id);
    } else if let Some(id) = replied_to(send) {
        address["reply_parameters"] =
            object!("message_id": id, "allow_sending_without_reply": true);
    }
    if let (Some(all), Value::Object(shown)) = (address.as_object_mut(), shown) {
        all.extend(shown);
    }
    let method = if replaces.is_some() { EDIT } else { "sendMessage" };
    calls.push_back(match caption {
        true => document(address),
        false => call(method, address),
    });
    for _ in usize::from(caption)..send.files.len() {
        calls.push_back(document(plain.clone()));
    }
    Ok(Request { chat, calls, replaces, digest })
}

/// # Errors
/// Which id is none of Telegram's.
pub fn delete(conversation: &str, id: &str) -> Result<Call, String> {
    let (_, mut parameters) = address(conversation, None)?;
    parameters["message_id"] = number("message", id)?.into();
    Ok(call("deleteMessage", parameters))
}

/// # Errors
/// Which id is none of Telegram's.
pub fn typing(conversation: &str, thread: Option<&str>) -> Result<(i64, Call), String> {
    let (chat, mut parameters) = address(conversation, thread)?;
    parameters["action"] = "typing".into();
    Ok((chat, call("sendChatAction", parameters)))
}

/// The same call without entities; `None`: it has none.
pub fn plain(of: &Call) -> Option<Call> {
    let name =
        ["entities", "caption_entities"].into_iter().find(|it| of.parameters.get(it).is_some())?;
    let mut call = of.clone();
    call.parameters.as_object_mut()?.remove(name);
    Some(call)
}

fn call(method: &'static str, parameters: Value) -> Call {
    Call { method, parameters, files: Vec::new() }
}

fn address(conversation: &str, thread: Option<&str>) -> Result<(i64, Value), String> {
    let chat = number("chat", conversation)?;
    let mut address = object!("chat_id": chat);
    if let Some(thread) = thread {
        address["message_thread_id"] = number("topic", thread)?.into();
    }
    Ok((chat, address))
}

fn number(what: &str, id: &str) -> Result<i64, String> {
    id.parse().map_err(|_| format!("Telegram has no such {what}: its ids are numbers"))
}

/// The gateway calls a message `CHAT:MESSAGE`, as it was offered. In a chat that has moved since, the number is
/// another message's.
fn replied_to(send: &Send) -> Option<i64> {
    let id = send.reply_to.as_deref()?;
    let (chat, id) = id.rsplit_once(':').unwrap_or((&send.conversation, id));
    id.parse().ok().filter(|_| chat == send.conversation)
}

/// A row for each button. None where one of them could not be told again.
fn keyboard(send: &Send) -> Option<Value> {
    let prompt = send.prompt.as_deref().filter(|_| !send.buttons.is_empty())?;
    let mut rows = Vec::new();
    for (choice, label) in &send.buttons {
        let data = format!("{choice}:{prompt}");
        if data.len() > MAX_CALLBACK {
            return None;
        }
        let button = object!("text": &**label, "callback_data": data);
        rows.push(Value::Array(vec![button]));
    }
    Some(object!("inline_keyboard": rows))
}
