//! What comes to the receiving half, and what is to be done. Pure.

use serde_json::Value;

use crate::telegram::call::{Call, Outcome};

/// The bot, as `getMe` describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Me {
    pub id: i64,
    /// Without `@`.
    pub username: String,
    /// In groups it is sent all messages: its privacy mode is off.
    pub reads_all: bool,
}

/// Bytes of a file that `getFile` hands out.
pub const MAX_FILE: u64 = 20 << 20;

/// A file of Telegram's that an item needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub file_id: String,
    /// Safe as a file's name, and unique.
    pub name: String,
    /// Bytes, where Telegram says so.
    pub size: Option<u64>,
}

/// What happens. `ticket`: of the action that it answers.
#[derive(Debug)]
pub enum Event {
    /// The answer to [`Action::Poll`]: an array of `Update`, or why there is none.
    Updates(Outcome),
    /// The gateway's answer to item `n`.
    Ack {
        n: u64,
        served: bool,
    },
    Refuse {
        n: u64,
        retry_after: Option<u64>,
        why: String,
    },
    /// The answer to [`Action::Fetch`]: the path of the file, and its size in bytes.
    Fetched {
        ticket: u64,
        result: Result<(String, u64), String>,
    },
    /// [`Receiver::timer`](super::Receiver::timer) is due.
    Timer,
}

/// What is to be done, in this order.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// One call of `getUpdates`, never two at once.
    Poll(Call),
    /// A file is to be downloaded to the directory for files.
    Fetch { ticket: u64, wanted: Wanted },
    /// A call whose result nobody needs.
    Call(Call),
    /// A line for the gateway.
    Line(Value),
    /// A line for the operator, on stderr.
    Say(String),
    /// The process ends with this status: 75, to be started again, or 78, not to be.
    Exit(u8),
}
