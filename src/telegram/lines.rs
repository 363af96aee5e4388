//! The adapter's side of the protocol: what the gateway says, read, and what it is told of sends and of how the
//! adapter is. Pure.

use serde_json::Value;

use super::call::Upload;
use crate::json::object;
use crate::sys::gather::Gather;

/// UTF-16 units of one text.
const MAX_TEXT: u64 = 4096;

/// Updates that may wait for the gateway: most that come at once after a night are taken in two polls.
pub const WINDOW: u64 = 64;

/// Sends that may have no receipt: at 25 calls a second each is soon made.
pub const SEND_WINDOW: u64 = 16;

/// A line of the gateway's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromGateway {
    Hello(Hello),
    Ack {
        n: u64,
        served: bool,
        duplicate: bool,
    },
    /// `retry_after` in seconds; `None`: it counts as taken.
    Refuse {
        n: u64,
        retry_after: Option<u64>,
        why: String,
    },
    Send(Box<Send>),
    Delete {
        conversation: String,
        id: String,
    },
    Typing {
        conversation: String,
        thread: Option<String>,
    },
    Ping,
    /// An `op` that is not known.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub channel: String,
    pub state_dir: String,
    pub files_dir: String,
    /// Bytes of a text that is offered.
    pub max_text: usize,
}

/// One part to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Send {
    pub delivery: String,
    pub part: u64,
    pub conversation: String,
    pub thread: Option<String>,
    pub reply_to: Option<String>,
    pub text: String,
    pub markdown: bool,
    pub files: Vec<Upload>,
    /// Ids and labels.
    pub buttons: Vec<(String, String)>,
    pub prompt: Option<String>,
    pub replaces: Option<String>,
    /// Not a preview.
    pub last: bool,
}

/// Why a send was not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub kind: Kind,
    /// In seconds.
    pub retry_after: Option<u64>,
    /// The id that the conversation has now.
    pub moved_to: Option<i64>,
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Temporary,
    Permanent,
    Uncertain,
}

/// Reads a line of the gateway's.
///
/// # Errors
/// That it is no JSON, or which member is missing.
pub fn parse(line: &[u8]) -> Result<FromGateway, String> {
    let json = serde_json::from_slice::<Value>(line);
    let json = json.map_err(|e| format!("a line of the gateway's is no JSON: {e}"))?;
    let maybe = |name: &str| text(&json, name);
    let missing = |name: &str| format!("a line of the gateway's has no \"{name}\"");
    let needed = |name: &str| maybe(name).ok_or_else(|| missing(name));
    let number = |name: &str| json[name].as_u64().ok_or_else(|| missing(name));
    Ok(match json["op"].as_str().unwrap_or_default() {
        "hello" => FromGateway::Hello(Hello {
            channel: needed("channel")?,
            state_dir: needed("state_dir")?,
            files_dir: needed("files_dir")?,
            max_text: usize::try_from(number("max_text")?).unwrap_or(usize::MAX),
        }),
        "ack" => FromGateway::Ack {
            n: number("n")?,
            served: json["as"].is_string(),
            duplicate: json["duplicate"] == true,
        },
        "refuse" => FromGateway::Refuse {
            n: number("n")?,
            retry_after: json["retry_after"].as_u64(),
            why: maybe("why").unwrap_or_default(),
        },
        "send" => FromGateway::Send(Box::new(Send {
            delivery: needed("delivery")?,
            part: number("part")?,
            conversation: needed("conversation")?,
            thread: maybe("thread"),
            reply_to: maybe("reply_to"),
            text: needed("text")?,
            markdown: json["format"] == "markdown",
            files: list(&json["files"]).map(upload).gather(),
            buttons: list(&json["buttons"]).filter_map(button).gather(),
            prompt: maybe("prompt"),
            replaces: maybe("replaces"),
            // An empty place, which a part of this attempt will replace, is none.
            last: json["final"] != false || json["attempt"].as_u64().is_some_and(|n| n > 0),
        })),
        "delete" => {
            FromGateway::Delete { conversation: needed("conversation")?, id: needed("id")? }
        }
        "typing" => {
            FromGateway::Typing { conversation: needed("conversation")?, thread: maybe("thread") }
        }
        "ping" => FromGateway::Ping,
        _ => FromGateway::Other,
    })
}

fn text(json: &Value, name: &str) -> Option<String> {
    json[name].as_str().map(str::to_owned)
}

fn list(json: &Value) -> impl Iterator<Item = &Value> {
    json.as_array().into_iter().flatten()
}

fn upload(file: &Value) -> Upload {
    let [path, name, media_type] =
        ["path", "name", "type"].map(|name| text(file, name).unwrap_or_default());
    Upload { path, name, media_type }
}

fn button(button: &Value) -> Option<(String, String)> {
    Some((text(button, "id")?, text(button, "label")?))
}

/// What this bot can do.
pub fn ready(account: i64) -> Value {
    let can = ["typing", "edit", "delete", "buttons", "threads", "files"].map(Value::from);
    object!(
        "op": "ready", "v": 1, "account": account.to_string(), "inbound": "ack", "outbound": "id",
        "max_len": MAX_TEXT, "len_unit": "utf16", "window": WINDOW, "send_window": SEND_WINDOW,
        "can": can.to_vec(),
    )
}

pub fn pong() -> Value {
    object!("op": "pong")
}

/// `id`: the message's that shows it.
pub fn sent(delivery: &str, part: u64, id: i64) -> Value {
    object!("op": "sent", "delivery": delivery, "part": part, "id": id.to_string())
}

pub fn failed(delivery: &str, part: u64, failed: &Failed) -> Value {
    let kind = match failed.kind {
        Kind::Temporary => "temporary",
        Kind::Permanent => "permanent",
        Kind::Uncertain => "uncertain",
    };
    object!(
        "op": "failed", "delivery": delivery, "part": part, "kind": kind,
        "retry_after": failed.retry_after, "moved_to": failed.moved_to.map(|id| id.to_string()),
        "why": &*failed.why,
    )
}

/// `state`: `up`, `connecting`, `limited`, `conflict` or `unauthorized`.
pub fn status(state: &str, why: &str) -> Value {
    object!("op": "status", "state": state, "why": why)
}

/// `since`: an RFC 3339 time.
pub fn gap(since: &str, why: &str) -> Value {
    object!("op": "gap", "since": since, "why": why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(line: &Value) -> Result<FromGateway, String> {
        parse(line.to_string().as_bytes())
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a list of cases")]
    fn what_the_gateway_says_is_read_and_what_is_unknown_ignored() {
        let own = |text: &str| text.to_owned();
        let send = json!({ "op": "send", "delivery": "01K", "attempt": 1, "part": 2, "parts": 3,
            "conversation": "-7", "thread": "4", "reply_to": "-7:55", "text": "hi", "format": "markdown",
            "files": [{ "path": "/f/a", "name": "a", "type": "text/plain" }],
            "buttons": [{ "id": "allow", "label": "Allow once" }, { "id": "no label" }], "prompt": "p7",
            "replaces": "556", "final": false, "later": 1 });
        let read_send = Send {
            delivery: own("01K"),
            part: 2,
            conversation: own("-7"),
            thread: Some(own("4")),
            reply_to: Some(own("-7:55")),
            text: own("hi"),
            markdown: true,
            files: vec![Upload {
                path: own("/f/a"),
                name: own("a"),
                media_type: own("text/plain"),
            }],
            buttons: vec![(own("allow"), own("Allow once"))],
            prompt: Some(own("p7")),
            replaces: Some(own("556")),
            last: false,
        };
        let least =
            json!({ "op": "send", "delivery": "D", "part": 0, "conversation": "7", "text": "" });
        let read_least =
            Send { delivery: own("D"), conversation: own("7"), last: true, ..Send::default() };
        let hello = Hello {
            channel: own("family"),
            state_dir: own("/s"),
            files_dir: own("/f"),
            max_text: 65536,
        };
        for (line, wanted) in [
            (
                json!({ "op": "hello", "versions": [1], "channel": "family", "state_dir": "/s",
                    "files_dir": "/f", "cursor": null, "cursor_account": null, "max_text": 65536 }),
                FromGateway::Hello(hello),
            ),
            (
                json!({ "op": "ack", "n": 17, "as": "01J", "duplicate": true }),
                FromGateway::Ack { n: 17, served: true, duplicate: true },
            ),
            (
                json!({ "op": "ack", "n": 18, "as": null }),
                FromGateway::Ack { n: 18, served: false, duplicate: false },
            ),
            (
                json!({ "op": "refuse", "n": 1, "retry_after": 5, "why": "full" }),
                FromGateway::Refuse { n: 1, retry_after: Some(5), why: own("full") },
            ),
            (
                json!({ "op": "refuse", "n": 1, "retry_after": null }),
                FromGateway::Refuse { n: 1, retry_after: None, why: own("") },
            ),
            (send, FromGateway::Send(Box::new(read_send))),
            (least, FromGateway::Send(Box::new(read_least))),
            (
                json!({ "op": "delete", "delivery": "D", "conversation": "7", "id": "9" }),
                FromGateway::Delete { conversation: own("7"), id: own("9") },
            ),
            (
                json!({ "op": "typing", "conversation": "7", "thread": "4" }),
                FromGateway::Typing { conversation: own("7"), thread: Some(own("4")) },
            ),
            (json!({ "op": "ping" }), FromGateway::Ping),
            (json!({ "op": "fly", "n": 3 }), FromGateway::Other),
            (json!({}), FromGateway::Other),
        ] {
            assert_eq!(read(&line), Ok(wanted), "{line}");
        }
    }

    #[test]
    fn a_line_without_what_it_needs_names_that() {
        for (line, name) in [
            (json!({ "op": "ack" }), "\"n\""),
            (json!({ "op": "refuse", "n": "1" }), "\"n\""),
            (json!({ "op": "hello" }), "\"channel\""),
            (json!({ "op": "send", "delivery": "D", "part": 0, "conversation": "7" }), "\"text\""),
            (json!({ "op": "delete", "conversation": 7, "id": "9" }), "\"conversation\""),
        ] {
            assert!(read(&line).unwrap_err().contains(name), "{line}");
        }
        assert!(parse(b"{\"op\":").unwrap_err().contains("no JSON"));
        assert!(parse(b"{\"op\":\"\xff\"}").is_err());
    }

    #[test]
    fn what_the_gateway_is_told_has_the_form_of_the_protocol() {
        let can = ["typing", "edit", "delete", "buttons", "threads", "files"];
        let all = json!({ "op": "ready", "v": 1, "account": "123", "inbound": "ack",
            "outbound": "id", "max_len": 4096, "len_unit": "utf16", "window": 64, "send_window": 16,
            "can": can });
        assert_eq!(ready(123), all);
        assert_eq!(pong(), json!({ "op": "pong" }));
        let all = json!({ "op": "sent", "delivery": "D", "part": 1, "id": "9" });
        assert_eq!(sent("D", 1, 9), all);
        for (kind, word) in [
            (Kind::Temporary, "temporary"),
            (Kind::Permanent, "permanent"),
            (Kind::Uncertain, "uncertain"),
        ] {
            let why = "x".to_owned();
            let it = Failed { kind, retry_after: Some(3), moved_to: Some(-1005), why };
            let all = json!({ "op": "failed", "delivery": "D", "part": 1, "kind": word,
                "retry_after": 3, "moved_to": "-1005", "why": "x" });
            assert_eq!(failed("D", 1, &it), all);
        }
        let all = json!({ "op": "status", "state": "up", "why": "" });
        assert_eq!(status("up", ""), all);
        let all = json!({ "op": "gap", "since": "2026-11-30T12:00:00Z", "why": "x" });
        assert_eq!(gap("2026-11-30T12:00:00Z", "x"), all);
    }
}
