//! What a message of Telegram's says: its text, and the file that it has. Pure.

use serde_json::Value;

use super::values::{MAX_FILE, Me};
use crate::escape::{escaped, first_chars};
use crate::sys::gather::Gather;

/// Entities of a text that are looked at: Telegram has a hundred of them at most.
const MAX_ENTITIES: usize = 200;

/// Characters of a name, for people: Telegram allows 64 for each of two.
const MAX_NAME: usize = 130;

/// Bytes of a file's name before its extension, and with it.
const MAX_STEM: usize = 80;
const MAX_FILE_NAME: usize = 100;

/// Members of a message that are a file, what it is called without a name of its own, and its type. An
/// animation is a document as well.
const FILES: [(&str, &str, &str); 6] = [
    ("animation", "animation.mp4", "video/mp4"),
    ("document", "document", "application/octet-stream"),
    ("audio", "audio.mp3", "audio/mpeg"),
    ("voice", "voice.ogg", "audio/ogg"),
    ("video", "video.mp4", "video/mp4"),
    ("video_note", "video_note.mp4", "video/mp4"),
];

/// Members that say something that is not passed on: a word is.
const OTHERS: [&str; 5] = ["story", "checklist", "paid_media", "game", "invoice"];

/// A file of a message.
#[derive(Debug, PartialEq)]
pub(super) struct Media {
    /// The member that it is.
    pub what: &'static str,
    pub file_id: String,
    /// Safe as a file's name.
    pub name: String,
    pub media_type: String,
    pub size: Option<u64>,
}

/// What a message says.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub text: String,
    /// UTF-16 units of what was written.
    pub units: usize,
    pub media: Option<Media>,
    /// It names the bot, or is a command for it.
    pub mentioned: bool,
}

pub(super) fn int(value: &Value, name: &str) -> Option<i64> {
    value.get(name)?.as_i64()
}

pub(super) fn words<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// What people call themselves or a chat: in a line of ours it can be taken for nothing else.
pub(super) fn safe(name: &str) -> String {
    let plain = |c: char| if matches!(c, '[' | ']' | '"') { '\'' } else { c };
    escaped(&first_chars(name, MAX_NAME), false).chars().map(plain).collect()
}

/// The name of a user.
pub(super) fn name_of(user: &Value) -> String {
    let [first, last, username] = ["first_name", "last_name", "username"]
        .map(|name| first_chars(words(user, name), MAX_NAME));
    let name = format!("{first} {last}");
    match name.trim() {
        "" => username,
        name => first_chars(name, MAX_NAME),
    }
}

/// Reads a message. `None`: it is of no interest, as those about a chat are, and commands for other bots.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(message: &Value, me: &Me) -> Result<Option<Content>, String> {
    let written = ["text", "caption"].iter().find_map(|name| message.get(name));
    let text = match written {
        None => "",
        Some(Value::String(text)) => text,
        Some(_) => return Err("its text is none".to_owned()),
    };
    let media = media(message)?;
    let line = other(message);
    if written.is_none() && media.is_none() && line.is_none() {
        return Ok(None);
    }
    let forwarded = forwarded(message);
    let mut content = Content { units: text.encode_utf16().count(), media, ..Content::default() };
    let entities = ["entities", "caption_entities"].iter().find_map(|name| message.get(name));
    let entities = entities.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut rest = text;
    for entity in &entities[..entities.len().min(MAX_ENTITIES)] {
        let at = int(entity, "offset").and_then(|at| usize::try_from(at).ok());
        let length = int(entity, "length").and_then(|length| usize::try_from(length).ok());
        let (Some(at), Some(length)) = (at, length) else { continue };
        let Some(named) = units(text, at, length) else { continue };
        let is_me = |name: &str| name.eq_ignore_ascii_case(&me.username);
        match words(entity, "type") {
            "mention" => content.mentioned |= named.strip_prefix('@').is_some_and(is_me),
            "text_mention" => {
                content.mentioned |=
                    entity.get("user").and_then(|user| int(user, "id")) == Some(me.id);
            }
            "bot_command" => {
                let Some((command, bot)) = named.split_once('@') else { continue };
                content.mentioned |= is_me(bot);
                if at == 0 && forwarded.is_none() {
                    if !is_me(bot) {
                        return Ok(None);
                    }
                    content.text.push_str(command);
                    rest = &text[named.len()..];
                }
            }
            _ => {}
        }
    }
    content.text.push_str(rest);
    if let Some(from) = forwarded {
        content.text.insert_str(0, &format!("[forwarded from {from}]\n"));
    }
    if let Some(line) = line {
        add_line(&mut content.text, &line);
    }
    content.text.truncate(content.text.trim_end_matches('\n').len());
    Ok(Some(content))
}

/// Adds a line in brackets.
pub(super) fn add_line(text: &mut String, line: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push('[');
    text.push_str(line);
    text.push(']');
}

/// So many UTF-16 units of a text, from this one.
fn units(text: &str, at: usize, length: usize) -> Option<&str> {
    let byte = |wanted: usize| {
        let mut units = 0;
        for (place, c) in text.char_indices() {
            if units >= wanted {
                return (units == wanted).then_some(place);
            }
            units += c.len_utf16();
        }
        (units == wanted).then_some(text.len())
    };
    text.get(byte(at)?..byte(at.checked_add(length)?)?)
}

/// From whom a message was forwarded.
fn forwarded(message: &Value) -> Option<String> {
    if let Some(origin) = message.get("forward_origin") {
        let name =
            match (origin.get("sender_user"), origin.get("sender_chat").or(origin.get("chat"))) {
                (Some(user), _) => name_of(user),
                (None, Some(chat)) => title_of(chat),
                (None, None) => words(origin, "sender_user_name").to_owned(),
            };
        return Some(safe(&name));
    }
    // As it was before Bot API 7.0, which local servers may be.
    let name = match (message.get("forward_from"), message.get("forward_from_chat")) {
        (Some(user), _) => name_of(user),
        (None, Some(chat)) => title_of(chat),
        (None, None) => message.get("forward_sender_name")?.as_str()?.to_owned(),
    };
    Some(safe(&name))
}

/// The name of a chat; of a private one, its user's.
pub(super) fn title_of(chat: &Value) -> String {
    match words(chat, "title") {
        "" => name_of(chat),
        title => first_chars(title, MAX_NAME),
    }
}

/// What is no text and no file, as a line.
fn other(message: &Value) -> Option<String> {
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let place = |it: &Value| format!("{}, {}", number(it, "latitude"), number(it, "longitude"));
    let text = |it: &Value, name: &str| safe(words(it, name));
    let null = Value::Null;
    // A venue is a location as well.
    if let Some(it) = message.get("venue") {
        let at = place(it.get("location").unwrap_or(&null));
        return Some(format!("venue: {}, {}, {at}", text(it, "title"), text(it, "address")));
    }
    if let Some(it) = message.get("location") {
        return Some(format!("location: {}", place(it)));
    }
    if let Some(it) = message.get("contact") {
        return Some(format!("contact: {}, {}", safe(&name_of(it)), text(it, "phone_number")));
    }
    if let Some(it) = message.get("poll") {
        let options = it.get("options").and_then(Value::as_array);
        let options = options.into_iter().flatten().take(20).map(|it| text(it, "text")).gather();
        // Longer than a name, but not than Telegram has it.
        let question = escaped(&first_chars(words(it, "question"), 300), false);
        return Some(format!("poll: {question} {}", options.join(" / ")));
    }
    if let Some(it) = message.get("dice") {
        return Some(format!("dice: {} {}", text(it, "emoji"), number(it, "value")));
    }
    if let Some(it) = message.get("sticker") {
        return Some(format!("sticker {}", text(it, "emoji")));
    }
    OTHERS.iter().find(|name| message.get(**name).is_some()).map(|name| (*name).to_owned())
}

/// The file of a message: of a photograph the largest that can be had.
fn media(message: &Value) -> Result<Option<Media>, String> {
    let size = |it: &Value| it.get("file_size").and_then(Value::as_u64);
    let (what, fallback, of, it) = if let Some(photo) = message.get("photo") {
        let sizes = photo.as_array().map_or(&[][..], Vec::as_slice);
        let fits = |it: &&Value| size(it).is_none_or(|size| size <= MAX_FILE);
        let largest = sizes.iter().filter(fits).max_by_key(|it| int(it, "width"));
        (
            "photo",
            "photo.jpg",
            "image/jpeg",
            largest.or(sizes.first()).ok_or("its photo has no size")?,
        )
    } else {
        let found = FILES.iter().find_map(|file| Some((file, message.get(file.0)?)));
        let Some(((what, fallback, of), it)) = found else { return Ok(None) };
        (*what, *fallback, *of, it)
    };
    let file_id = words(it, "file_id");
    if file_id.is_empty() {
        return Err(format!("its {what} has no file_id"));
    }
    let or = |name: &str, fallback: &'static str| match words(it, name) {
        "" => fallback.to_owned(),
        text => text.to_owned(),
    };
    Ok(Some(Media {
        what,
        file_id: file_id.to_owned(),
        name: file_name(&or("file_name", fallback)),
        media_type: first_chars(&or("mime_type", of), 256),
        size: size(it),
    }))
}

/// A name that is safe as a file's.
fn file_name(name: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || "._-() ".contains(c) { c } else { '_' };
    let name: String = name.trim_start_matches('.').chars().map(safe).collect();
    if name.len() <= MAX_FILE_NAME {
        return name;
    }
    let (stem, end) = name.rsplit_once('.').unwrap_or((&name, ""));
    let end = &end[..end.floor_char_boundary(MAX_FILE_NAME - MAX_STEM - 1)];
    format!("{}.{end}", &stem[..stem.floor_char_boundary(MAX_STEM)])
}
