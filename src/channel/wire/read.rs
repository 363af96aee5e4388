//! Reads what an adapter says. Pure.
//!
//! A member that is missing or of another type is a fault of the adapter's, which the error names: nothing is
//! lost, for the platform still has what was offered. An id that is empty, too long or has control characters
//! may be a stranger's doing: that item alone is refused for good, or a stranger could stop a channel. A time
//! that is none counts as missing.

use std::borrow::Cow;

use super::{
    Can, Connection, Failure, FailureKind, File, FromAdapter, Inbound, Kind, Message, News, Offer,
    Outbound, Press, Ready, Receipt, Rejected, Sender, Unit,
};
use crate::escape::{escaped, first_chars};
use crate::json::{Raw, elements, lossy, member, number, text, value};
use crate::limits::MAX_PLATFORM_ID;
use crate::sys::clock::parse_rfc3339;
use crate::sys::gather::Gather;

/// Names and reasons are for people: more than this of one nobody reads.
const MAX_NAME: usize = 256;

/// Files of one item; platforms allow ten.
const MAX_FILES: usize = 32;

/// Characters that are kept of a file's path: no file has one as long, by PATH_MAX of limits.h(0p).
const MAX_PATH: usize = 4096;

/// A wait that is asked for, in seconds: a day is as long as anybody waits.
const MAX_RETRY_AFTER: u64 = 86_400;

/// Why a line cannot be taken.
enum Wrong {
    /// The adapter is.
    Line(String),
    /// What is in it may be a stranger's.
    Value(String),
}

type Read<T> = Result<T, Wrong>;

/// An object and its members; `null` is as good as absent.
struct Object<'a> {
    /// What errors call it.
    what: &'a str,
    json: &'a str,
}

impl<'a> Object<'a> {
    fn read(what: &'a str, json: &'a str) -> Read<Object<'a>> {
        if json.starts_with('{') {
            Ok(Object { what, json })
        } else {
            Err(Wrong::Line(format!("{what} must be an object")))
        }
    }

    fn get(&self, name: &str) -> Raw<'a> {
        member(self.json, name)
    }

    fn wrong(&self, name: &str, what: &str) -> Wrong {
        Wrong::Line(format!("{}: \"{name}\" {what}", self.what))
    }

    fn needed<T>(&self, name: &str, found: Option<T>) -> Read<T> {
        found.ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// A text; half of a surrogate pair becomes U+FFFD.
    fn text(&self, name: &str) -> Read<Option<String>> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        let text = lossy(raw).ok_or_else(|| self.wrong(name, "must be text"))?;
        Ok(Some(text.into_owned()))
    }

    /// A text for people, of which the beginning is enough.
    fn words(&self, name: &str) -> Read<String> {
        Ok(first_chars(&self.text(name)?.unwrap_or_default(), MAX_NAME))
    }

    /// A platform's id.
    fn maybe_id(&self, name: &str) -> Read<Option<String>> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        let wrong = |what: &str| Wrong::Value(format!("{}: \"{name}\" {what}", self.what));
        let id = match text(raw) {
            Ok(id) => id,
            Err(what) if raw.starts_with('"') => return Err(wrong(what)),
            Err(what) => return Err(self.wrong(name, what)),
        };
        if id.len() > MAX_PLATFORM_ID {
            return Err(wrong(&format!("has more than {MAX_PLATFORM_ID} bytes")));
        }
        if id.contains(char::is_control) {
            return Err(wrong("has control characters"));
        }
        Ok(Some(id.into_owned()).filter(|id| !id.is_empty()))
    }

    fn id(&self, name: &str) -> Read<String> {
        match self.maybe_id(name)? {
            None if self.get(name).is_some() => {
                Err(Wrong::Value(format!("{}: \"{name}\" is empty", self.what)))
            }
            id => self.needed(name, id),
        }
    }

    /// What only the adapter chooses, with the limits of an id.
    fn own_id(&self, name: &str) -> Read<Option<String>> {
        self.maybe_id(name).map_err(|wrong| match wrong {
            Wrong::Line(why) | Wrong::Value(why) => Wrong::Line(why),
        })
    }

    /// A whole number from 0.
    fn maybe_count(&self, name: &str) -> Read<Option<u64>> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        let read = number(raw.as_bytes()).filter(|(_, digits)| *digits == raw.len());
        let read = read.ok_or_else(|| self.wrong(name, "must be a whole number from 0"))?;
        Ok(Some(read.0))
    }

    fn count(&self, name: &str) -> Read<u64> {
        self.maybe_count(name).and_then(|count| self.needed(name, count))
    }

    /// Seconds; parts of one are a whole one.
    fn seconds(&self, name: &str) -> Read<Option<u64>> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        let read = number(raw.as_bytes()).and_then(|(whole, digits)| match &raw[digits..] {
            "" => Some(whole),
            part => part.strip_prefix('.').filter(|part| digits_alone(part)).map(|_| whole + 1),
        });
        // More than a number holds is more than anybody waits.
        let read = read.or_else(|| digits_alone(raw).then_some(MAX_RETRY_AFTER));
        let read = read.ok_or_else(|| self.wrong(name, "must be seconds"))?;
        Ok(Some(read.min(MAX_RETRY_AFTER)))
    }

    fn flag(&self, name: &str, default: bool) -> Read<bool> {
        match self.get(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(self.wrong(name, "must be true or false")),
        }
    }

    /// One of these words.
    fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Read<T> {
        let word = self.text(name)?;
        let word = self.needed(name, word)?;
        let found = choices.iter().find(|(known, _)| *known == word);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let all = choices.iter().map(|(known, _)| *known).gather().join(", ");
            self.wrong(name, &format!("must be one of {all}"))
        })
    }

    fn list(&self, name: &str) -> Read<Vec<&'a str>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(raw) if raw.starts_with('[') => Ok(elements(raw).gather()),
            Some(_) => Err(self.wrong(name, "must be a list")),
        }
    }

    fn sender(&self) -> Read<Option<Sender>> {
        let Some(raw) = self.get("from") else { return Ok(None) };
        let from = Object::read("\"from\"", raw)?;
        Ok(Some(Sender {
            id: from.id("id")?,
            name: from.words("name")?,
            bot: from.flag("bot", false)?,
            verified: from.flag("verified", true)?,
        }))
    }

    fn files(&self) -> Read<Vec<File>> {
        let all = self.list("files")?;
        if all.len() > MAX_FILES {
            let why = format!("{}: more than {MAX_FILES} files", self.what);
            return Err(Wrong::Value(why));
        }
        let mut files = Vec::new();
        for raw in all {
            let file = Object::read("a file", raw)?;
            let path = file.text("path")?;
            files.push(File {
                path: first_chars(&file.needed("path", path)?, MAX_PATH),
                name: file.words("name")?,
                media_type: file.words("type")?,
                size: file.maybe_count("size")?,
            });
        }
        Ok(files)
    }
}

fn digits_alone(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads a line. One that does not even begin as an object, as what a library prints, is unknown.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &str) -> Result<FromAdapter, String> {
    if !line.trim_ascii_start().starts_with('{') {
        return Ok(FromAdapter::Unknown("a line is no JSON object".to_owned()));
    }
    let json = value(line.as_bytes()).map_err(|e| format!("a line is no JSON: {e}"))?;
    read(json).map_err(|wrong| match wrong {
        Wrong::Line(why) | Wrong::Value(why) => why,
    })
}

fn read(json: &str) -> Read<FromAdapter> {
    let line = Object::read("a line", json)?;
    let op = line.text("op")?;
    let op = line.needed("op", op)?;
    let line = Object { what: &op, ..line };
    Ok(match &*op {
        "ready" => FromAdapter::Ready(ready(&line)?),
        "sent" | "failed" => FromAdapter::Receipt(receipt(&line, op == "sent")?),
        "pong" => FromAdapter::Pong,
        "gap" => {
            FromAdapter::News(News::Gap { since: line.words("since")?, why: line.words("why")? })
        }
        "status" => FromAdapter::News(News::Status {
            state: line.choice("state", &STATES)?,
            why: line.words("why")?,
        }),
        "message" | "edit" | "cursor" | "press" | "moved" => {
            let n = line.count("n")?;
            match offer(&line, &op) {
                Ok(offer) => FromAdapter::Offer { n, offer },
                Err(Wrong::Value(why)) => rejected(&line, n, why, true),
                Err(wrong) => return Err(wrong),
            }
        }
        _ => {
            let why = format!("the op \"{}\" is unknown", escaped(&first_chars(&op, 64), false));
            match line.maybe_count("n")? {
                Some(n) => rejected(&line, n, why, false),
                None => FromAdapter::Unknown(why),
            }
        }
    })
}

fn rejected(line: &Object<'_>, n: u64, why: String, foreign: bool) -> FromAdapter {
    let files = line.list("files").unwrap_or_default().into_iter();
    let files = files.filter_map(|file| lossy(member(file, "path")?).map(Cow::into_owned)).gather();
    FromAdapter::Rejected { n, item: Rejected { why, files, foreign } }
}

const STATES: [(&str, Connection); 5] = [
    ("up", Connection::Up),
    ("connecting", Connection::Connecting),
    ("limited", Connection::Limited),
    ("conflict", Connection::Conflict),
    ("unauthorized", Connection::Unauthorized),
];

fn ready(line: &Object<'_>) -> Read<Ready> {
    let account = line.own_id("account")?;
    let (inbound, outbound) = (
        [("cursor", Inbound::Cursor), ("ack", Inbound::Ack), ("none", Inbound::None)],
        [
            ("key", Outbound::Key),
            ("edit", Outbound::Edit),
            ("id", Outbound::Id),
            ("none", Outbound::None),
        ],
    );
    let units = [("utf16", Unit::Utf16), ("chars", Unit::Chars), ("bytes", Unit::Bytes)];
    let mut can = Can::default();
    for word in line.list("can")? {
        let word = text(word).map_err(|what| line.wrong("can", what))?;
        if let Some(bit) = Can::WORDS.iter().position(|known| *known == word) {
            can.0 |= 1 << bit;
        }
    }
    Ok(Ready {
        v: line.count("v")?,
        account: line.needed("account", account)?,
        inbound: line.choice("inbound", &inbound)?,
        outbound: line.choice("outbound", &outbound)?,
        max_len: line.count("max_len")?,
        unit: line.choice("len_unit", &units)?,
        window: line.count("window")?,
        send_window: line.count("send_window")?,
        can,
    })
}

fn offer(line: &Object<'_>, op: &str) -> Read<Offer> {
    Ok(match op {
        "message" => Offer::Message(Box::new(Message {
            id: line.id("id")?,
            conversation: line.id("conversation")?,
            thread: line.maybe_id("thread")?,
            kind: line.choice(
                "kind",
                &[("private", Kind::Private), ("group", Kind::Group), ("channel", Kind::Channel)],
            )?,
            from: line.sender()?,
            text: line.text("text")?.unwrap_or_default(),
            subject: line.text("subject")?,
            at: line.text("at")?.and_then(|at| time(&at)),
            reply_to: line.maybe_id("reply_to")?,
            mentioned: line.flag("mentioned", false)?,
            group: line.maybe_id("group")?,
            files: line.files()?,
            cursor: line.own_id("cursor")?,
        })),
        "edit" => Offer::Edit { id: line.id("id")?, text: line.text("text")?.unwrap_or_default() },
        "press" => Offer::Press(Box::new(Press {
            id: line.id("id")?,
            conversation: line.id("conversation")?,
            prompt: line.id("prompt")?,
            choice: line.id("choice")?,
            from: line.sender()?,
            cursor: line.own_id("cursor")?,
        })),
        "moved" => {
            Offer::Moved { from: line.id("from_conversation")?, to: line.id("to_conversation")? }
        }
        _ => {
            let cursor = line.own_id("cursor")?;
            Offer::Cursor(line.needed("cursor", cursor)?)
        }
    })
}

fn receipt(line: &Object<'_>, sent: bool) -> Read<Receipt> {
    let kinds = [
        ("temporary", FailureKind::Temporary),
        ("permanent", FailureKind::Permanent),
        ("uncertain", FailureKind::Uncertain),
    ];
    Ok(Receipt {
        delivery: line.id("delivery")?,
        part: line.count("part")?,
        result: if sent {
            Ok(line.id("id")?)
        } else {
            Err(Failure {
                kind: line.choice("kind", &kinds)?,
                retry_after: line.seconds("retry_after")?,
                moved_to: line.maybe_id("moved_to")?,
                why: line.words("why")?,
            })
        },
    })
}

/// Milliseconds since 1970 of an RFC 3339 time, 0 for what was before.
fn time(text: &str) -> Option<u64> {
    let text = text.to_ascii_uppercase();
    let (local, ahead) = match text.strip_suffix('Z') {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
            let (hours, minutes) = offset.get(1..)?.split_once(':')?;
            let two = |part: &str| {
                let good = part.len() == 2 && digits_alone(part);
                part.parse::<i64>().ok().filter(|_| good)
            };
            let minutes = two(hours)? * 60 + two(minutes)?;
            match offset.as_bytes()[0] {
                b'+' => (local, minutes * 60_000),
                b'-' => (local, -minutes * 60_000),
                _ => return None,
            }
        }
    };
    let fraction = local.split_once('.').map_or("0", |(_, fraction)| fraction);
    if !digits_alone(fraction) {
        return None;
    }
    let millis = format!("{fraction:0<3}")[..3].parse::<i64>().ok()?;
    let millis = parse_rfc3339(&format!("{local}Z"))? * 1000 + millis - ahead;
    Some(u64::try_from(millis).unwrap_or(0))
}
