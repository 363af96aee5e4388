//! What an update of Telegram's is to the gateway. Pure.

use serde_json::Value;

use super::content::{self, Content, Media, int, name_of, safe, title_of, words};
use super::group::Pieces;
use super::values::Me;
use crate::json::object;
use crate::sys::clock::rfc3339;
use crate::telegram::call::Call;

/// What the gateway is to answer.
#[derive(Debug)]
pub(super) struct Item {
    /// Its `update_id`.
    pub update: i64,
    /// Chats in which nothing may be offered before it.
    pub chats: [i64; 2],
    /// The line, without its number.
    pub line: Value,
    /// Whose answer the gateway's is to a file: `None` where nobody can be served.
    pub sender: Option<i64>,
    pub media: Option<Media>,
    /// A press: its query, and where the button is.
    pub press: Option<(String, Option<(i64, i64)>)>,
    /// Pieces of it may follow, and the gateway waits for them.
    pub grouped: bool,
}

/// What becomes of an update.
#[derive(Debug)]
pub(super) enum Read {
    Item(Box<Item>),
    /// It is of no interest.
    Nothing,
    /// The operator is told.
    Say(String),
    /// It is answered without the gateway.
    Answer(Call),
}

/// Reads updates.
pub(super) struct Reader {
    pub me: Me,
    pub max_text: usize,
    pub pieces: Pieces,
}

pub(super) fn call(method: &'static str, parameters: Value) -> Call {
    Call { method, parameters, files: Vec::new() }
}

pub(super) fn answer_press(query: &str, words: &str) -> Call {
    // Telegram shows 200 characters.
    let text = crate::escape::first_chars(words, 200);
    let parameters = match &*text {
        "" => object!("callback_query_id": query),
        _ => object!("callback_query_id": query, "text": text, "show_alert": true),
    };
    call("answerCallbackQuery", parameters)
}

impl Reader {
    /// # Errors
    /// What is wrong with it: it counts as answered.
    pub fn read(&mut self, id: i64, update: &Value) -> Result<Read, String> {
        if let Some(message) = update.get("message") {
            return self.message(id, message);
        }
        if let Some(message) = update.get("edited_message") {
            return self.edited(id, message);
        }
        if let Some(query) = update.get("callback_query") {
            return self.press(id, query);
        }
        match update.get("my_chat_member") {
            Some(change) => Ok(self.membership(change)),
            None => Ok(Read::Nothing),
        }
    }

    fn message(&mut self, id: i64, message: &Value) -> Result<Read, String> {
        let (chat, kind, number) = place_of(message)?;
        let moved = [("migrate_to_chat_id", false), ("migrate_from_chat_id", true)];
        for (name, back) in moved {
            let Some(other) = int(message, name) else { continue };
            let (from, to) = if back { (other, chat) } else { (chat, other) };
            let line = object!("op": "moved", "from_conversation": from.to_string(),
                "to_conversation": to.to_string());
            return Ok(item(id, [from, to], line));
        }
        let Some(mut content) = self.content(message)? else { return Ok(Read::Nothing) };
        let from = sender_of(message)?;
        let sender = from.as_ref().map(|(id, _)| *id);
        if sender == Some(self.me.id) {
            return Ok(Read::Nothing);
        }
        let is_topic = message.get("is_topic_message").and_then(Value::as_bool) == Some(true);
        let thread = int(message, "message_thread_id").filter(|_| is_topic);
        // What is written in a topic is, without any other, a reply to the message that opened it.
        let reply = message.get("reply_to_message").filter(|reply| {
            !(is_topic && int(reply, "message_id") == thread)
                && reply.get("forum_topic_created").is_none()
        });
        let to = reply.and_then(|reply| reply.get("from")).and_then(|from| int(from, "id"));
        let private = kind == "private";
        let mentioned = !private && (content.mentioned || to == Some(self.me.id));
        let date = int(message, "date").filter(|date| (0..=i64::from(u32::MAX)).contains(date));
        let stamp = (number, date.unwrap_or(0));
        let place = (chat, thread, sender.unwrap_or(0));
        let pasted = self.pieces.group(place, stamp, content.units);
        let group = match words(message, "media_group_id") {
            "" => pasted,
            album => Some(format!("album-{album}")),
        };
        let mut line = object!("op": "message", "id": format!("{chat}:{number}"),
            "conversation": chat.to_string(), "kind": kind, "mentioned": mentioned,
            "text": std::mem::take(&mut content.text));
        if let Some((_, from)) = from {
            line["from"] = from;
        }
        let date = date.and_then(|date| u64::try_from(date).ok());
        let members = [
            ("thread", thread.map(|thread| thread.to_string())),
            ("reply_to", reply.and_then(|it| int(it, "message_id")).map(|id| id.to_string())),
            ("at", date.map(|date| rfc3339(date * 1000))),
            ("group", group.clone()),
        ];
        for (name, value) in members {
            if let Some(value) = value {
                line[name] = value.into();
            }
        }
        Ok(Read::Item(Box::new(Item {
            update: id,
            chats: [chat; 2],
            line,
            // The talk of a group among itself is not served.
            sender: sender.filter(|_| private || mentioned || group.is_some()),
            media: content.media,
            press: None,
            grouped: group.is_some(),
        })))
    }

    fn content(&self, message: &Value) -> Result<Option<Content>, String> {
        let mut content = content::read(message, &self.me)?;
        if let Some(Content { text, .. }) = &mut content {
            text.truncate(text.floor_char_boundary(self.max_text));
        }
        Ok(content)
    }

    fn edited(&self, id: i64, message: &Value) -> Result<Read, String> {
        let (chat, _, number) = place_of(message)?;
        // A live location is edited whenever somebody moves.
        let live = message.get("location").is_some();
        match self.content(message)?.filter(|_| !live) {
            None => Ok(Read::Nothing),
            Some(Content { text, .. }) => {
                let line = object!("op": "edit", "id": format!("{chat}:{number}"), "text": text);
                Ok(item(id, [chat; 2], line))
            }
        }
    }

    fn press(&self, id: i64, query: &Value) -> Result<Read, String> {
        let name = words(query, "id");
        if name.is_empty() {
            return Err("a press has no id".to_owned());
        }
        // A message that is too old has no more than these.
        let message = query.get("message");
        let chat = message.and_then(|it| it.get("chat")).and_then(|chat| int(chat, "id"));
        let of = |from: &Value| int(from, "id").filter(|id| *id != self.me.id);
        let from = query.get("from").filter(|from| of(from).is_some());
        let (Some(chat), Some((choice, prompt)), Some(from)) =
            (chat, words(query, "data").split_once(':'), from)
        else {
            return Ok(Read::Answer(answer_press(name, "")));
        };
        if choice.is_empty() || prompt.is_empty() {
            return Ok(Read::Answer(answer_press(name, "")));
        }
        let at = message.and_then(|it| int(it, "message_id")).map(|message| (chat, message));
        let line = object!("op": "press", "id": name, "conversation": chat.to_string(),
            "prompt": prompt, "choice": choice, "from": person(from));
        let Read::Item(mut item) = item(id, [chat; 2], line) else { return Ok(Read::Nothing) };
        item.press = Some((name.to_owned(), at));
        Ok(Read::Item(item))
    }

    /// The bot was added, removed or blocked.
    fn membership(&self, change: &Value) -> Read {
        let status = |name: &str| words(change.get(name).unwrap_or(&Value::Null), "status");
        let is_in =
            |status: &str| matches!(status, "member" | "administrator" | "creator" | "restricted");
        let (before, after) = (is_in(status("old_chat_member")), is_in(status("new_chat_member")));
        let null = Value::Null;
        let chat = change.get("chat").unwrap_or(&null);
        let private = words(chat, "type") == "private";
        let what = match (before, after) {
            (false, true) if private => "is not blocked any more by",
            (true, false) if private => "was blocked by",
            (false, true) => "was added to the group",
            (true, false) => "was removed from the group",
            (true, true) | (false, false) => return Read::Nothing,
        };
        let (title, id) = (safe(&title_of(chat)), int(chat, "id").unwrap_or(0));
        let by = match change.get("from") {
            Some(from) if !private => {
                format!(", by \"{}\" ({})", safe(&name_of(from)), int(from, "id").unwrap_or(0))
            }
            Some(_) | None => String::new(),
        };
        let bot = safe(&self.me.username);
        Read::Say(format!("@{bot} {what} \"{title}\" ({id}){by}"))
    }
}

fn item(update: i64, chats: [i64; 2], line: Value) -> Read {
    let (sender, media, press) = (None, None, None);
    Read::Item(Box::new(Item { update, chats, line, sender, media, press, grouped: false }))
}

/// The chat of a message, its kind and the message's number.
fn place_of(message: &Value) -> Result<(i64, &'static str, i64), String> {
    let chat = message.get("chat").ok_or("it has no chat")?;
    let kind = match words(chat, "type") {
        "private" => "private",
        "group" | "supergroup" => "group",
        "channel" => "channel",
        _ => return Err("the type of its chat is unknown".to_owned()),
    };
    let id = int(chat, "id").ok_or("its chat has no id")?;
    Ok((id, kind, int(message, "message_id").ok_or("it has no message_id")?))
}

/// Whose a message is: nobody's that can be known where a chat sends it.
fn sender_of(message: &Value) -> Result<Option<(i64, Value)>, String> {
    let from = message.get("from").filter(|_| message.get("sender_chat").is_none());
    let Some(from) = from else { return Ok(None) };
    let id = int(from, "id").ok_or("its sender has no id")?;
    Ok(Some((id, person(from))))
}

fn person(from: &Value) -> Value {
    let id = int(from, "id").unwrap_or(0).to_string();
    let bot = from.get("is_bot").and_then(Value::as_bool) == Some(true);
    object!("id": id, "name": name_of(from), "bot": bot, "verified": true)
}
