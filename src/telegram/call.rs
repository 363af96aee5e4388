//! A call of the Bot API and what can become of it. Pure.

use serde_json::Value;

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
    pub description: String,
    /// Seconds, of `parameters`.
    pub retry_after: Option<u64>,
    /// The id that the chat has now, of `parameters`.
    pub migrate_to: Option<i64>,
}
