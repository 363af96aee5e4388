//! The configuration: TOML and `--set` in, one plain [`Config`] out, every mistake named with its
//! place and the way out. Nothing here acts on a value; the rooms that use one are handed it.
//!
//! [`schema`] lists the keys once, with type, range and help. [`parse`] and [`set`] find what was
//! given, [`value`] checks it and puts it in its place in a [`draft`], [`render`] writes it out again.
#![forbid(unsafe_code)]

mod choice;
mod draft;
mod error;
mod family;
mod key;
mod load;
mod names;
mod parse;
mod render;
mod schema;
mod set;
mod suggest;
mod syntax;
mod target;
#[cfg(test)]
mod tests;
mod units;
mod url;
mod value;
mod warnings;

pub use choice::Choice;
pub use key::{ClientKey, OWNER, Role};
pub use load::{ECHO_UNASKED, Loaded, Sources, fix, load};
pub use render::starter;
pub use suggest::nearest;
pub use target::{Secret, Target, TargetKind};
pub use url::Url;

use crate::limits;
use crate::named::ByName;
use crate::subprocess::Leftovers;
use crate::text::counted;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The effective configuration; [`Config::default`] is what an empty file means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    pub http: Http,
    pub agent: Agent,
    pub session: Session,
    pub stop: Stop,
    pub log: Log,
    pub limits: Limits,
    /// `[deliver.NAME]`: where replies can be sent.
    pub deliver: ByName<Target>,
    /// `[keys.NAME]`: who may come in, beside the owner.
    pub keys: ByName<ClientKey>,
}

impl Config {
    /// Whether this principal may steer the gateway by commands in messages.
    pub fn is_operator(&self, principal: &str) -> bool {
        let by_role = self.keys.get(principal).is_some_and(|key| key.role == Role::Operator);
        by_role || self.session.operators.iter().any(|name| name == principal)
    }
}

/// `[http]`: where clients come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Absolute. `None`: `api.key` in the state directory.
    pub key_file: Option<PathBuf>,
    /// Names that a `Host` header may have besides the listening address and the loopback names;
    /// lower case, IPv6 without brackets.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may use the gateway; lower case.
    pub allowed_origins: Vec<String>,
}

/// `[agent]`: who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub kind: AgentKind,
    /// Program and arguments; not empty, and without NUL, when `kind` is [`AgentKind::Command`].
    pub command: Vec<String>,
    /// Variables that the agent gets, by valid names that the gateway does not set itself.
    pub env: ByName<String>,
    /// Variables of the gateway's own environment that the agent may see.
    pub pass_env: Vec<String>,
    /// What `/chat/completions` is appended to; there when `kind` is [`AgentKind::Upstream`], and
    /// only then.
    pub url: Option<Url>,
    /// Absolute. `None`: the upstream asks for no key.
    pub key_file: Option<PathBuf>,
    /// What the file holds, once [`Loaded::with_secrets`] has read it.
    pub key: Option<Secret>,
    /// The upstream's name for the model `default`; empty: the first that it lists.
    pub model: String,
    /// Names that clients may say, and the upstream's for them. Empty: they pass as they are.
    pub models: ByName<String>,
    /// Bytes of a session's earlier messages that go to the upstream.
    pub max_history: usize,
    /// From the agent's start to its end.
    pub turn_timeout: Duration,
    /// How long temporary failures are waited out, from a message's first; 0: not at all.
    pub retry_for: Duration,
    /// How long a client that waits for a reply waits for attempts that fail.
    pub answer_within: Duration,
    /// What becomes of processes that a command has left when it ends by itself.
    pub leftovers: Leftovers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AgentKind {
    /// Answers with the message itself; built in.
    #[default]
    Echo,
    /// Runs `command` for each turn.
    Command,
    /// Asks the OpenAI-compatible server at `url`.
    Upstream,
}

/// `[session]`: how messages of one session meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What a message that does not say it itself does to a busy session.
    pub busy: Busy,
    /// The principals that may use slash commands.
    pub operators: Vec<String>,
    /// How long an idle session is known.
    pub keep: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Busy {
    /// It waits for its turn.
    #[default]
    Queue,
    /// It ends the turn that runs.
    Interrupt,
}

/// `[stop]`: how the gateway ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// How long turns in flight may take to finish.
    pub drain_timeout: Duration,
}

/// `[log]`: what is written down, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub level: log::LevelFilter,
    pub target: LogTarget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogTarget {
    /// The journal's prefixes where stderr is the journal, plain lines elsewhere.
    #[default]
    Auto,
    Stderr,
    Journal,
    Syslog,
}

/// `[limits]`; reasons and ranges are in [`limits`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub max_connections: usize,
    /// From one address that is no loopback one.
    pub max_connections_per_address: usize,
    /// Turns at once over all sessions; never 0 here (resolved at load).
    pub max_turns: usize,
    /// Turns that may wait in all.
    pub max_queue: usize,
    pub max_queue_per_session: usize,
    /// Percent of a shared limit that one principal may hold: see [`crate::shares`].
    pub max_share: usize,
    /// Bytes of bodies and answers in flight.
    pub max_buffered: usize,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Bytes of one reply.
    pub max_reply: usize,
    /// Of a turn, before its message fails.
    pub max_attempts: usize,
    /// Bytes of the journal beyond which it takes no new message.
    pub max_journal: usize,
    /// Bytes of one session's transcript.
    pub max_transcript: usize,
    /// Bytes that all sessions keep on disk.
    pub max_transcripts: usize,
    /// Finished messages that are remembered.
    pub keep_results: usize,
    /// A whole request head, from its first byte.
    pub head_timeout: Duration,
    /// Between two requests of a kept connection.
    pub idle_timeout: Duration,
    /// A whole request body.
    pub body_timeout: Duration,
    /// One write that makes no progress.
    pub write_timeout: Duration,
    /// How many descriptors there are, where they allow fewer connections or turns than wanted:
    /// [`Limits::within`]. No setting.
    pub short_of: Option<usize>,
}

impl Default for Http {
    fn default() -> Self {
        Http {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), limits::DEFAULT_PORT),
            key_file: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Agent {
            kind: AgentKind::default(),
            command: Vec::new(),
            env: ByName::new(),
            pass_env: Vec::new(),
            url: None,
            key_file: None,
            key: None,
            model: String::new(),
            models: ByName::new(),
            max_history: limits::MAX_HISTORY_SENT,
            turn_timeout: limits::TURN_TIMEOUT,
            retry_for: limits::RETRY_FOR,
            answer_within: limits::ANSWER_WITHIN,
            leftovers: Leftovers::default(),
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        let operators = vec![OWNER.to_owned()];
        Session { busy: Busy::default(), operators, keep: limits::SESSION_KEEP }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Stop { drain_timeout: limits::DRAIN_TIMEOUT }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: log::LevelFilter::Info, target: LogTarget::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: limits::MAX_CONNECTIONS,
            max_connections_per_address: limits::MAX_CONNECTIONS_PER_ADDRESS,
            max_turns: turns_for_this_machine(),
            max_queue: limits::MAX_QUEUE,
            max_queue_per_session: limits::MAX_QUEUE_PER_SESSION,
            max_share: limits::MAX_SHARE,
            max_buffered: limits::MAX_BUFFERED,
            max_body: limits::MAX_BODY,
            max_reply: limits::MAX_REPLY,
            max_attempts: limits::MAX_ATTEMPTS,
            max_journal: limits::MAX_JOURNAL,
            max_transcript: limits::MAX_TRANSCRIPT,
            max_transcripts: limits::MAX_TRANSCRIPTS,
            keep_results: limits::KEEP_RESULTS,
            head_timeout: limits::HEAD_TIMEOUT,
            idle_timeout: limits::IDLE_TIMEOUT,
            body_timeout: limits::BODY_TIMEOUT,
            write_timeout: limits::WRITE_TIMEOUT,
            short_of: None,
        }
    }
}

impl Limits {
    /// What of it so many descriptors allow. The reserve keeps files, helpers, turns and the control socket
    /// usable.
    #[must_use]
    pub fn within(&self, descriptors: usize) -> Limits {
        let each = limits::DESCRIPTORS_PER_CONNECTION;
        let free = descriptors.saturating_sub(limits::OWN_DESCRIPTORS);
        let spare = free.saturating_sub(each.saturating_mul(self.max_connections));
        let wanted = limits::RESERVED_DESCRIPTORS + limits::DESCRIPTORS_PER_TURN * self.max_turns;
        let reserve = wanted.min(spare.max(free / limits::DESCRIPTORS_SHARED));
        let max_connections = self.max_connections.min((free - reserve) / each).max(1);
        let max_turns = self.max_turns.min(reserve / limits::DESCRIPTORS_PER_TURN).max(1);
        let few = max_connections < self.max_connections
            && (self.max_connections != limits::MAX_CONNECTIONS
                || max_connections < limits::FEW_CONNECTIONS);
        let short_of = (few || max_turns < self.max_turns).then_some(descriptors);
        Limits { max_connections, max_turns, short_of: short_of.or(self.short_of), ..self.clone() }
    }

    /// What there is to say of limits that are lower than wanted.
    pub fn shortage(&self) -> Option<String> {
        let (connections, turns) = (self.max_connections, self.max_turns);
        let allowed = |descriptors| {
            format!(
                "the limit of {descriptors} open descriptors allows {} and {} at once; LimitNOFILE= in \
                 the unit raises it, or ulimit -n",
                counted(&connections, "connection"),
                counted(&turns, "turn")
            )
        };
        self.short_of.map(allowed)
    }
}

/// What `max_turns = 0` stands for: by the cores that we may run on.
fn turns_for_this_machine() -> usize {
    crate::sys::process::cores()
        .saturating_mul(limits::TURNS_PER_CORE)
        .min(*limits::MAX_TURNS_RANGE.end())
}
