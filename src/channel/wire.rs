//! The lines between the gateway and an adapter, version 1 of the protocol: a JSON object each. Pure.
//!
//! A member that is missing or of another type is a fault of the adapter's, which the error names: nothing is
//! lost, for the platform still has what was offered. An id that is too long or has control characters may be
//! a stranger's doing: that item alone is refused for good, or a stranger could stop a channel.

use crate::escape::{escaped, first_chars, quoted};
use crate::json::{Raw, add, elements, find, list, lossy, number, text, text_or_null, value};
use crate::limits::MAX_PLATFORM_ID;
use crate::sys::clock::parse_rfc3339;
use crate::sys::gather::Gather;

/// The version of the protocol.
pub const VERSION: u64 = 1;

/// Names and reasons are for people: more than this of one nobody reads.
const MAX_NAME: usize = 256;

/// Files of one item; platforms allow ten.
const MAX_FILES: usize = 32;

/// A wait that is asked for, in seconds: a day is as long as anybody waits.
const MAX_RETRY_AFTER: u64 = 86_400;

/// What an adapter says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromAdapter {
    Ready(Ready),
    /// An item from the platform, under a number by which it is answered.
    Offer {
        n: u64,
        offer: Offer,
    },
    Receipt(Receipt),
    Pong,
    News(News),
    /// It is ignored, and refused for good where it has a number.
    Unknown {
        n: Option<u64>,
        why: String,
    },
}

/// What an adapter and its platform can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    pub v: u64,
    /// The platform's id of the bot.
    pub account: String,
    pub inbound: Inbound,
    pub outbound: Outbound,
    /// Units of one text.
    pub max_len: u64,
    pub unit: Unit,
    /// Offers that may be unanswered at once.
    pub window: u64,
    /// Sends that may be.
    pub send_window: u64,
    pub can: Can,
}

/// How a platform is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// From a place that the adapter is told.
    Cursor,
    /// It repeats what was not acknowledged.
    Ack,
    /// What comes while nobody listens is gone.
    None,
}

/// How a platform tells a send that is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// By a key of ours.
    Key,
    /// Not at all, and it lets what was sent be edited.
    Edit,
    /// Not at all, and it has ids for what was sent.
    Id,
    None,
}

/// What a platform counts the length of a text in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Utf16,
    Chars,
    Bytes,
}

/// What else it can do, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Can(u8);

impl Can {
    pub const TYPING: u8 = 1;
    pub const EDIT: u8 = 2;
    pub const DELETE: u8 = 4;
    pub const BUTTONS: u8 = 8;
    pub const THREADS: u8 = 16;
    pub const FILES: u8 = 32;
    const WORDS: [&'static str; 6] = ["typing", "edit", "delete", "buttons", "threads", "files"];

    pub fn has(self, feature: u8) -> bool {
        self.0 & feature != 0
    }
}

/// An inbound item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    Message(Box<Message>),
    /// The message of this id has another text.
    Edit {
        id: String,
        text: String,
    },
    /// Up to here there is nothing of interest.
    Cursor(String),
    Press(Box<Press>),
    /// A conversation goes on under another id.
    Moved {
        from: String,
        to: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: String,
    pub conversation: String,
    pub thread: Option<String>,
    pub kind: Kind,
    /// `None`: the platform does not say.
    pub from: Option<Sender>,
    /// Empty where there are only files.
    pub text: String,
    pub subject: Option<String>,
    /// When it was sent, in milliseconds since 1970.
    pub at: Option<u64>,
    pub reply_to: Option<String>,
    pub mentioned: bool,
    /// Pieces that belong together share it.
    pub group: Option<String>,
    pub files: Vec<File>,
    pub cursor: Option<String>,
}

/// Who is in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Private,
    Group,
    Channel,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    pub id: String,
    /// For people: anybody can take any.
    pub name: String,
    pub bot: bool,
    /// The platform vouches for the id.
    pub verified: bool,
}

/// A file that came with a message. Nothing of it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub path: String,
    pub name: String,
    /// Empty: not known.
    pub media_type: String,
    pub size: Option<u64>,
}

/// A button under a question was pressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Press {
    pub id: String,
    pub conversation: String,
    /// The question's.
    pub prompt: String,
    pub choice: String,
    pub from: Option<Sender>,
    pub cursor: Option<String>,
}

/// What became of a part that was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub delivery: String,
    pub part: u64,
    /// The platform's id of it.
    pub result: Result<String, Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// In seconds.
    pub retry_after: Option<u64>,
    /// The conversation's id from now on.
    pub moved_to: Option<String>,
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    Temporary,
    Permanent,
    Uncertain,
}

/// What operators want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// What came since then cannot be known.
    Gap {
        /// In the adapter's words.
        since: String,
        why: String,
    },
    Status {
        state: Connection,
        why: String,
    },
}

/// How an adapter stands with its platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    Up,
    Connecting,
    Limited,
    Conflict,
    Unauthorized,
}

/// Why a line cannot be taken.
enum Wrong {
    /// The adapter is.
    Line(String),
    /// What is in it may be a stranger's.
    Value(String),
}

type Read<T> = Result<T, Wrong>;

/// All members of all lines, found in one pass.
const NAMES: [&str; 41] = [
    "op",
    "n",
    "v",
    "account",
    "inbound",
    "outbound",
    "max_len",
    "len_unit",
    "window",
    "send_window",
    "can",
    "id",
    "conversation",
    "thread",
    "kind",
    "from",
    "text",
    "subject",
    "at",
    "reply_to",
    "mentioned",
    "group",
    "files",
    "cursor",
    "prompt",
    "choice",
    "from_conversation",
    "to_conversation",
    "since",
    "why",
    "delivery",
    "part",
    "retry_after",
    "moved_to",
    "state",
    "name",
    "bot",
    "verified",
    "path",
    "type",
    "size",
];

/// An object and its members; `null` is as good as absent.
struct Object<'a> {
    /// What errors call it.
    what: &'a str,
    members: [Raw<'a>; NAMES.len()],
}

impl<'a> Object<'a> {
    fn read(what: &'a str, json: &'a str) -> Read<Object<'a>> {
        if json.starts_with('{') {
            Ok(Object { what, members: find(json, NAMES) })
        } else {
            Err(Wrong::Line(format!("{what} must be an object")))
        }
    }

    fn get(&self, name: &str) -> Raw<'a> {
        self.members[NAMES.iter().position(|known| *known == name)?]
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
        self.maybe_id(name).and_then(|id| self.needed(name, id))
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
                path: file.needed("path", path)?,
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

/// Reads a line.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &str) -> Result<FromAdapter, String> {
    let json = value(line.as_bytes()).map_err(|e| format!("it is no JSON: {e}"))?;
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
                Err(Wrong::Value(why)) => FromAdapter::Unknown { n: Some(n), why },
                Err(wrong) => return Err(wrong),
            }
        }
        _ => FromAdapter::Unknown {
            n: line.maybe_count("n")?,
            why: format!("the op \"{}\" is unknown", escaped(&first_chars(&op, 64), false)),
        },
    })
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
            at: match line.text("at")? {
                Some(at) => Some(
                    time(&at).ok_or_else(|| line.wrong("at", "must be an RFC 3339 time"))?,
                ),
                None => None,
            },
            reply_to: line.maybe_id("reply_to")?,
            mentioned: line.flag("mentioned", false)?,
            group: line.maybe_id("group")?,
            files: line.files()?,
            cursor: line.own_id("cursor")?,
        })),
        "edit" => {
            Offer::Edit { id: line.id("id")?, text: line.text("text")?.unwrap_or_default() }
        }
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

// ------------------------------------------------------------- what the gateway says ----

/// A line in the making.
struct Line(String);

impl Line {
    fn new(op: &str) -> Line {
        Line("{".to_owned()).text("op", op)
    }

    fn raw(mut self, name: &str, json: &str) -> Line {
        add(&mut self.0, Some(name), json);
        self
    }

    fn text(self, name: &str, text: &str) -> Line {
        self.raw(name, &quoted(text))
    }

    /// Left out where there is none.
    fn maybe(self, name: &str, text: Option<&str>) -> Line {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    fn end(self) -> String {
        self.0 + "}"
    }
}

/// The first line to an adapter.
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    pub channel: &'a str,
    pub state_dir: &'a str,
    pub files_dir: &'a str,
    /// The account that the cursor is of, and the cursor.
    pub cursor: Option<(&'a str, &'a str)>,
    /// Bytes of a text that is offered; a longer one comes as a file.
    pub max_text: usize,
}

pub fn hello(hello: &Hello<'_>) -> String {
    let (account, cursor) = hello.cursor.unzip();
    let line = Line::new("hello").raw("versions", &format!("[{VERSION}]"));
    let line = line.text("channel", hello.channel).text("state_dir", hello.state_dir);
    let line = line.text("files_dir", hello.files_dir).raw("cursor", &text_or_null(cursor));
    let line = line.raw("cursor_account", &text_or_null(account));
    line.raw("max_text", &hello.max_text.to_string()).end()
}

/// `message`: the id of what the item became; `None`: nobody is served.
pub fn ack(n: u64, message: Option<&str>, duplicate: bool) -> String {
    let line = Line::new("ack").raw("n", &n.to_string()).raw("as", &text_or_null(message));
    line.raw("duplicate", &duplicate.to_string()).end()
}

/// `retry_after`: in seconds; `None`: it is never to be offered again.
pub fn refuse(n: u64, retry_after: Option<u64>, why: &str) -> String {
    let after = retry_after.map_or("null".to_owned(), |seconds| seconds.to_string());
    let line = Line::new("refuse").raw("n", &n.to_string()).raw("retry_after", &after);
    line.text("why", why).end()
}

/// One part to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    pub delivery: &'a str,
    pub attempt: u32,
    pub part: u32,
    pub parts: u32,
    pub conversation: &'a str,
    pub thread: Option<&'a str>,
    pub reply_to: Option<&'a str>,
    pub text: &'a str,
    pub markdown: bool,
    /// Ids and labels.
    pub buttons: &'a [(&'a str, &'a str)],
    /// The question that they answer.
    pub prompt: Option<&'a str>,
    /// What is edited to become this.
    pub replaces: Option<&'a str>,
    /// `false`: more will replace it.
    pub last: bool,
}

pub fn send(send: &Send<'_>) -> String {
    let line = Line::new("send").text("delivery", send.delivery);
    let line = line.raw("attempt", &send.attempt.to_string()).raw("part", &send.part.to_string());
    let line = line.raw("parts", &send.parts.to_string()).text("conversation", send.conversation);
    let line = line.maybe("thread", send.thread).maybe("reply_to", send.reply_to);
    let line = line.text("text", send.text);
    let mut line = line.text("format", if send.markdown { "markdown" } else { "plain" });
    if !send.buttons.is_empty() {
        let button = |(id, label): &(&str, &str)| {
            Line("{".to_owned()).text("id", id).text("label", label).end()
        };
        line = line.raw("buttons", &list(&mut send.buttons.iter().map(button)));
    }
    let line = line.maybe("prompt", send.prompt).maybe("replaces", send.replaces);
    line.raw("final", &send.last.to_string()).end()
}

/// Takes back what was shown under this id of the platform.
pub fn delete(delivery: &str, conversation: &str, id: &str) -> String {
    let line = Line::new("delete").text("delivery", delivery);
    line.text("conversation", conversation).text("id", id).end()
}

pub fn typing(conversation: &str, thread: Option<&str>) -> String {
    Line::new("typing").text("conversation", conversation).maybe("thread", thread).end()
}

pub fn ping() -> String {
    Line::new("ping").end()
}
