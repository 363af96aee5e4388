//! What is told about channels, and what operators can do to them: the API's view of the threads that serve
//! them.

use crate::json::object;
use crate::session::{Refusal, rfc3339};
use crate::sys::gather::Gather;

/// One channel, as `/v1/channels` shows it.
#[derive(Clone, Debug, Default)]
pub struct ChannelStatus {
    pub name: String,
    /// A word of the API: `connecting`, `up`, `limited`, `conflict`, `unauthorized`, `stopped`, ….
    pub state: &'static str,
    /// Since when it is in this state, in milliseconds since 1970.
    pub since: u64,
    /// Empty, or why it is not up.
    pub why: String,
    /// The bot, as its adapter calls it; empty until it has been up.
    pub account: String,
    /// Messages that were offered and have no answer yet.
    pub unacknowledged: usize,
    /// Replies that are on their way to it, or wait for it.
    pub waiting: usize,
    /// Pairing codes that wait for an operator.
    pub pairing_codes: usize,
    /// Since when and why messages may be missing; empty: none are known to be.
    pub gap: String,
    /// Who was let in by a code: ids, and names that are safe to show.
    pub paired: Vec<(String, String)>,
}

impl ChannelStatus {
    /// As JSON; texts are as the adapter gave them.
    pub fn to_json(&self) -> String {
        fn text(text: &str) -> Option<&str> {
            (!text.is_empty()).then_some(text)
        }
        let person = |(id, name): &(String, String)| object!("id": &**id, "name": &**name);
        let body = object!(
            "name": &*self.name, "state": self.state, "since": rfc3339(self.since),
            "why": text(&self.why), "account": text(&self.account),
            "unacknowledged": self.unacknowledged, "waiting": self.waiting,
            "pairing_codes": self.pairing_codes, "gap": text(&self.gap),
            "paired": self.paired.iter().map(person).gather(),
        );
        body.to_string()
    }
}

/// Somebody who was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paired {
    pub channel: String,
    /// The platform's.
    pub id: String,
    /// Safe to show.
    pub name: String,
}

/// The running channels.
pub trait Control: Send + Sync {
    /// Starts those that are configured and do not run, and ends those that are not configured any more: at
    /// the start, and after each reload. Does not wait for anything.
    fn follow(&self);

    /// What is wrong with one of them, where it has lasted or only an operator can help.
    fn trouble(&self) -> Option<String>;

    /// All that are configured, by name.
    fn status(&self) -> Vec<ChannelStatus>;

    /// Lets in whoever was told this code, durably. `None`: it is not valid (any more).
    ///
    /// # Errors
    /// Why it is not kept: another code is needed.
    fn pair(&self, code: &str) -> Result<Option<Paired>, Refusal>;

    /// Takes that back, durably; whether the id was paired.
    ///
    /// # Errors
    /// Why it is not kept.
    fn unpair(&self, channel: &str, id: &str) -> Result<bool, Refusal>;

    /// Ends an adapter and starts it again; whether there is such a channel.
    fn restart(&self, channel: &str) -> bool;
}
