//! The adapter's side of the protocol: what the gateway says, read. Pure.

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
    pub files: Vec<super::call::Upload>,
    /// Ids and labels.
    pub buttons: Vec<(String, String)>,
    pub prompt: Option<String>,
    pub replaces: Option<String>,
    /// Not a preview.
    pub last: bool,
}
