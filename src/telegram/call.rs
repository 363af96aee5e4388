//! A call of the Bot API and what can become of it. Pure.

use serde_json::Value;

use crate::escape::{escaped, first_chars};

/// A wait that is asked for, in seconds: nobody waits for longer than a day.
const MAX_RETRY_AFTER: u64 = 86_400;

/// Characters of a description; Telegram's are shorter.
const MAX_DESCRIPTION: usize = 200;

/// A call to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// A method of the Bot API, like `sendMessage`.
    pub method: &'static str,
    /// Its parameters, an object.
    pub parameters: Value,
    /// Files that go along, by the name of the parameter that each is.
    pub files: Vec<(&'static str, Upload)>,
}

/// A file of this host that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub path: String,
    /// What it is called there.
    pub name: String,
    pub media_type: String,
}

/// What a call has come to: its `result`, or why there is none.
pub type Outcome = Result<Value, Failure>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Telegram has said so.
    Refused(Refusal),
    /// The request has not left, or cannot have been understood: no connection, no name, no TLS, no `curl`.
    NotSent(String),
    /// It has left, and no whole answer has come; also an answer that is none of the Bot API.
    Unknown(String),
}

/// An answer with `"ok": false`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// `error_code`.
    pub code: u16,
    /// Safe to be shown.
    pub description: String,
    /// Seconds, a day at most, of `parameters`.
    pub retry_after: Option<u64>,
    /// The id that the chat has now, of `parameters`.
    pub migrate_to: Option<i64>,
}

/// What an answer says, of this HTTP status and with this body. Nothing is quoted of a body that is none of the Bot
/// API's: a proxy's may have the URL in it, and that the token.
///
/// # Errors
/// Those of the Bot API; [`Failure::Unknown`] where it is none of its answers.
pub fn answer(status: u16, body: &[u8]) -> Outcome {
    let mut json: Value = serde_json::from_slice(body).unwrap_or_default();
    match json["ok"].as_bool() {
        Some(true) if json.get("result").is_some() => Ok(json["result"].take()),
        Some(false) => {
            let parameters = &json["parameters"];
            let code = json["error_code"].as_u64().and_then(|code| u16::try_from(code).ok());
            let description = json["description"].as_str().unwrap_or_default();
            Err(Failure::Refused(Refusal {
                code: code.unwrap_or(status),
                description: escaped(&first_chars(description, MAX_DESCRIPTION), false),
                retry_after: parameters["retry_after"].as_u64().map(|s| s.min(MAX_RETRY_AFTER)),
                migrate_to: parameters["migrate_to_chat_id"].as_i64(),
            }))
        }
        Some(true) | None if status >= 500 => Err(Failure::Refused(Refusal {
            code: status,
            description: format!("HTTP status {status}"),
            ..Refusal::default()
        })),
        Some(true) | None => {
            Err(Failure::Unknown(format!("HTTP status {status} without an answer of the Bot API")))
        }
    }
}
