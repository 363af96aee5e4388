//! The lines between the gateway and an adapter, version 1 of the protocol: a JSON object each. Pure.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::parse;
pub use write::{Hello, Send, ack, delete, hello, ping, refuse, send, typing};

/// The version of the protocol.
pub const VERSION: u64 = 1;

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
    /// An item that is refused for good, whatever else it says.
    Rejected {
        n: u64,
        item: Rejected,
    },
    /// It is ignored.
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub why: String,
    /// The names of its files: nobody else removes them.
    pub files: Vec<String>,
    /// What is wrong may be a stranger's doing, and not the adapter's.
    pub foreign: bool,
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

/// What else it can do, as bits: what the gateway asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Can(pub u8);

impl Can {
    pub const TYPING: u8 = 1;
    pub const EDIT: u8 = 2;
    pub const DELETE: u8 = 4;
    pub const BUTTONS: u8 = 8;
    pub const WORDS: [&'static str; 4] = ["typing", "edit", "delete", "buttons"];

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
