//! The settings, each defined once: its place in [`Config`], type, default, range and an example. Reading,
//! suggestions and `config` follow from it; the help is in `starter.toml`.

use super::enum_setting::{Api, Approve, Busy, EnumSetting, LogTarget, Protocol};
use super::host::host;
use super::units::{COUNT, Measure, SIZE};
use super::upstream::Upstream;
use super::url::Url;
use super::validate::{self, OWNER};
use crate::limits;
use crate::named::ByName;
use crate::subprocess::Leftovers;
use crate::sys::{gather::Gather, process::cores};
use log::LevelFilter;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// The effective configuration; [`Config::default`] is what an empty file means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    pub http: Http,
    pub agent: Agent,
    pub session: Session,
    pub stop: Stop,
    pub restart: Restart,
    pub update: Update,
    pub log: Log,
    pub limits: Limits,
    /// `[deliver.NAME]`: where replies can be sent.
    pub deliver: ByName<Target>,
    /// `[channel.NAME]`: accounts on chat platforms.
    pub channel: ByName<Channel>,
    /// `[keys.NAME]`: who may use the API, besides the owner.
    pub keys: ByName<ClientKey>,
}

/// One key of the configuration.
pub struct Key {
    pub name: &'static str,
    /// Its field in the section with this name of the operator's, `None` if there is none.
    pub field: for<'c> fn(&'c mut Config, &str) -> Option<Field<'c>>,
    /// A good value in TOML, for error texts.
    pub example: &'static str,
}

/// A section, or all sections of a named table.
pub struct Section {
    pub name: &'static str,
    pub keys: &'static [Key],
    pub named_table: Option<NamedTable>,
}

/// A table of sections that operators name themselves.
pub struct NamedTable {
    /// What one of its sections is.
    pub noun: &'static str,
    pub most: usize,
    pub names: fn(&Config) -> Vec<&str>,
    pub add: fn(&mut Config, &str),
}

impl Section {
    pub fn of(name: &str) -> Option<&'static Section> {
        SECTIONS.into_iter().find(|section| section.name == name)
    }

    /// Its full name: with the operator's own, where it has one.
    pub fn full(&self, own: &str) -> String {
        let dot = if own.is_empty() { "" } else { "." };
        format!("{}{dot}{own}", self.name)
    }

    /// How it is written in a file: `[agent]`, `[deliver.NAME]`.
    pub fn head(&self) -> String {
        format!("[{}]", self.full(if self.named_table.is_some() { "NAME" } else { "" }))
    }

    pub fn key_names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).gather()
    }
}

/// Puts a text into its final form, or says what is wrong with it.
pub type Check<T = String> = fn(&str) -> Result<T, String>;

/// A key's field, by the type of its value.
pub enum Field<'a> {
    Address(&'a mut SocketAddr),
    /// A path; the empty string stands for `None`.
    Path(&'a mut Option<PathBuf>),
    /// The same for a URL, as this reads it.
    Url(&'a mut Option<Url>, Check<Url>),
    /// Servers: a URL, or a list of URLs and of tables with keys of their own.
    Upstreams(&'a mut Vec<Upstream>),
    /// A list of strings, each put into its final form, or rejected with a reason, by the check.
    List(&'a mut Vec<String>, Check),
    /// A string that the check takes; the empty one is always good.
    Text(&'a mut String, Check),
    /// Variables by name.
    Env(&'a mut ByName<String>),
    /// Names, and what each stands for; the checks are of the one and of the other.
    Names(&'a mut ByName<String>, Check, Check),
    Enum(&'a mut dyn EnumSetting),
    Flag(&'a mut bool),
    Time(&'a mut Duration, RangeInclusive<Duration>),
    Number(&'a mut usize, &'static Measure, RangeInclusive<usize>),
}

/// A section: its name, and the named table that it is one of; where in the configuration it is; its
/// struct with its keys. A key: its type, its default (`=`) or its limit (`=>`), else the default is the
/// type's; how it is read, with the check or range that goes with it; and an example. `beside`: fields
/// that no key sets.
macro_rules! section {
    (@default) => { Default::default() };
    (@default $default:expr) => { $default };
    (@table) => { None };
    (@table $table:ident) => { Some($table) };
    ($section:ident = $title:literal $(of $table:ident)?: |$c:ident, $own:pat_param| $place:expr;
    $(#[$about:meta])*
    pub struct $name:ident {
        $($(#[$doc:meta])* $field:ident: $type:ty $(= $default:expr)? $(=> $limit:expr)?,
            $kind:ident $(($($check:expr),*))?, $example:literal;)*
    }
    $(beside { $($(#[$doc_beside:meta])* $beside:ident: $type_beside:ty,)* })?) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
            $($($(#[$doc_beside])* pub $beside: $type_beside,)*)?
        }

        impl Default for $name {
            fn default() -> $name {
                $name {
                    $($field: section!(@default $($default)? $($limit.default)?),)*
                    $($($beside: Default::default(),)*)?
                }
            }
        }

        pub static $section: Section = Section {
            name: $title,
            keys: &[$(Key {
                name: plain(stringify!($field)),
                field: |$c, $own| Some(Field::$kind(&mut $place.$field $(, $($check),*)? $(, $limit.range)?)),
                example: $example,
            }),*],
            named_table: section!(@table $($table)?),
        };
    };
}

/// The name of a field that is a word of Rust's.
const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// The sections in their order, the named tables last.
pub static SECTIONS: [&Section; 11] = [
    &HTTP,
    &AGENT,
    &SESSION,
    &STOP,
    &RESTART,
    &UPDATE,
    &LOG,
    &LIMITS,
    &TARGET,
    &CHANNEL,
    &CLIENT_KEY,
];

mod tables;

pub use tables::{CHANNEL, CLIENT_KEY, Channel, ClientKey, TARGET, Target};

section! {
    HTTP = "http": |c, _| c.http;
    /// `[http]`: where clients come in.
    pub struct Http {
        /// Port 0 lets the kernel choose.
        listen: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), limits::DEFAULT_PORT),
            Address, "\"127.0.0.1:8642\"";
        /// Absolute. `None`: `api.key` in the state directory.
        key_file: Option<PathBuf>, Path, "\"~/.config/my.key\"";
        /// Names that a `Host` header may have besides the listening address and the loopback names;
        /// lower case, IPv6 without brackets.
        allowed_hosts: Vec<String>, List(host), "[\"gateway.example.org\"]";
        /// Origins of web pages that may use the gateway; lower case.
        allowed_origins: Vec<String>, List(validate::origin), "[\"https://chat.example.org\"]";
    }
}

section! {
    AGENT = "agent": |c, _| c.agent;
    /// `[agent]`: who answers.
    pub struct Agent {
        /// Program and arguments, without NUL; empty if there is a `url`.
        command: Vec<String>, List(validate::argument), "[\"my-agent\", \"--flag\"]";
        /// Variables that the agent gets, by valid names that the gateway does not set itself.
        env: ByName<String>, Env, "{ MODEL = \"small\" }";
        /// Variables of the gateway's own environment that the agent may see.
        pass_env: Vec<String>, List(validate::variable), "[\"LANG\", \"TZ\"]";
        /// The servers of an upstream, in the order in which they are asked; empty: there is none.
        url: Vec<Upstream>, Upstreams, "\"http://127.0.0.1:11434/v1\"";
        /// Absolute. `None`: the upstream asks for no key.
        key_file: Option<PathBuf>, Path, "\"~/.config/upstream.key\"";
        /// The upstream's name for the model `default`; empty: the first that it lists.
        model: String, Text(validate::model), "\"qwen2.5:3b\"";
        /// Names that clients may say, and the upstream's for them. Empty: they pass as they are.
        models: ByName<String>, Names(validate::model, validate::model), "{ fast = \"qwen2.5:3b\" }";
        /// What the upstream does itself: responses go to it as they are, or become chats.
        api: Api, Enum, "\"chat\"";
        /// Further requests that go to the upstream as they are.
        pass: Vec<String> = ["embeddings", "completions"].map(str::to_owned).to_vec(),
            List(validate::passed), "[\"embeddings\", \"audio\"]";
        /// Bytes of a session's earlier messages that go to the upstream.
        max_history: usize => limits::MAX_HISTORY_SENT, Number(&SIZE), "\"128KiB\"";
        /// From the agent's start to its end.
        turn_timeout: Duration => limits::TURN_TIMEOUT, Time, "\"10m\"";
        /// How long temporary failures are waited out, from a message's first; 0: not at all.
        retry_for: Duration => limits::RETRY_FOR, Time, "\"1h\"";
        /// How long a client that waits for a reply waits for attempts that fail.
        answer_within: Duration => limits::ANSWER_WITHIN, Time, "\"60s\"";
        /// What becomes of processes that a command has left when it ends by itself.
        leftovers: Leftovers, Enum, "\"kill\"";
        /// How a command is spoken to.
        protocol: Protocol, Enum, "\"acp\"";
        /// Where the sessions of a living agent work. Absolute. `None`: each in a directory of its own.
        directory: Option<PathBuf>, Path, "\"~/work\"";
        /// What a living agent is told that asks for leave.
        approve: Approve, Enum, "\"ask\"";
        /// How long somebody may take to answer that.
        approve_timeout: Duration => limits::APPROVE_TIMEOUT, Time, "\"10m\"";
        /// Living processes at once.
        processes: usize => limits::AGENT_PROCESSES, Number(&COUNT), "4";
        /// All principals are served by one process.
        share: bool, Flag, "true";
        /// The operators' process is started with the gateway.
        preload: bool, Flag, "true";
        /// After which a living process without turns ends.
        idle_timeout: Duration => limits::AGENT_IDLE_TIMEOUT, Time, "\"30m\"";
        /// Sessions after which a living process is replaced.
        max_sessions: usize => limits::AGENT_SESSIONS, Number(&COUNT), "100";
    }
}

section! {
    SESSION = "session": |c, _| c.session;
    /// `[session]`: how messages of one session meet.
    pub struct Session {
        /// What a message that does not say it itself does to a busy session.
        busy: Busy, Enum, "\"queue\"";
        /// The principals that may use slash commands.
        operators: Vec<String> = vec![OWNER.to_owned()], List(validate::principal), "[\"owner\"]";
        /// How long an idle session is known.
        keep: Duration => limits::SESSION_KEEP, Time, "\"30d\"";
    }
}

section! {
    STOP = "stop": |c, _| c.stop;
    /// `[stop]`: how the gateway ends.
    pub struct Stop {
        /// How long turns in flight may take to finish.
        drain_timeout: Duration => limits::DRAIN_TIMEOUT, Time, "\"30s\"";
        /// The target, or channel, that is told when the gateway goes down and is back; empty: none.
        notify: String, Text(validate::target), "\"ops\"";
        /// The one that is told of failed turns and dead letters; empty: none.
        notify_failures: String, Text(validate::target), "\"ops\"";
    }
}

section! {
    RESTART = "restart": |c, _| c.restart;
    /// `[restart]`: how the gateway goes over to another program.
    pub struct Restart {
        /// How long a program may take to prove that it can start.
        start_timeout: Duration => limits::START_TIMEOUT, Time, "\"60s\"";
    }
}

section! {
    UPDATE = "update": |c, _| c.update;
    /// `[update]`: how a new version of the program comes, and how the gateway gets rid of it again.
    pub struct Update {
        command: Vec<String>, List(validate::argument), "[\"my-updater\", \"--flag\"]";
        /// Puts the old one back where no copy can be kept.
        rollback: Vec<String>, List(validate::argument), "[\"my-updater\", \"--undo\"]";
        timeout: Duration => limits::UPDATE_TIMEOUT, Time, "\"15m\"";
        /// How long the new version is watched, from its READY on.
        trial: Duration => limits::UPDATE_TRIAL, Time, "\"60s\"";
    }
}

section! {
    LOG = "log": |c, _| c.log;
    /// `[log]`: what is written down, and where.
    pub struct Log {
        level: LevelFilter = LevelFilter::Info, Enum, "\"info\"";
        target: LogTarget, Enum, "\"auto\"";
    }
}

section! {
    LIMITS = "limits": |c, _| c.limits;
    /// `[limits]`; reasons and ranges are in [`limits`].
    pub struct Limits {
        max_connections: usize => limits::MAX_CONNECTIONS, Number(&COUNT), "10000";
        /// From one address that is no loopback one.
        max_connections_per_address: usize => limits::MAX_CONNECTIONS_PER_ADDRESS, Number(&COUNT), "500";
        /// Turns at once over all sessions; never 0 here (resolved at load).
        max_turns: usize = default_turns(), Number(&COUNT, limits::MAX_TURNS_RANGE), "8";
        /// Turns that may wait in all.
        max_queue: usize => limits::MAX_QUEUE, Number(&COUNT), "1000";
        max_queue_per_session: usize => limits::MAX_QUEUE_PER_SESSION, Number(&COUNT), "32";
        /// Percent of a shared limit that one principal may hold: see [`crate::shares`].
        max_share: usize => limits::MAX_SHARE, Number(&COUNT), "50";
        /// Bytes of bodies and answers in flight.
        max_buffered: usize => limits::MAX_BUFFERED, Number(&SIZE), "\"64MiB\"";
        /// Bytes of a request's body.
        max_body: usize => limits::MAX_BODY, Number(&SIZE), "\"1MiB\"";
        /// Bytes of one line of a living agent.
        max_agent_line: usize => limits::MAX_AGENT_LINE, Number(&SIZE), "\"16MiB\"";
        /// Bytes of one reply.
        max_reply: usize => limits::MAX_REPLY, Number(&SIZE), "\"8MiB\"";
        /// Of a turn, before its message fails.
        max_attempts: usize => limits::MAX_ATTEMPTS, Number(&COUNT), "2";
        /// Bytes of the journal beyond which it takes no new message.
        max_journal: usize => limits::MAX_JOURNAL, Number(&SIZE), "\"256MiB\"";
        /// Bytes of one session's transcript.
        max_transcript: usize => limits::MAX_TRANSCRIPT, Number(&SIZE), "\"256KiB\"";
        /// Bytes that all sessions keep on disk.
        max_transcripts: usize => limits::MAX_TRANSCRIPTS, Number(&SIZE), "\"1GiB\"";
        /// Bytes that files take which came with messages; 0: none are taken.
        max_attachments: usize => limits::MAX_ATTACHMENTS, Number(&SIZE), "\"256MiB\"";
        /// Finished messages that are remembered.
        keep_results: usize => limits::KEEP_RESULTS, Number(&COUNT), "10000";
        /// A whole request head, from its first byte.
        head_timeout: Duration => limits::HEAD_TIMEOUT, Time, "\"10s\"";
        /// Between two requests of a kept connection.
        idle_timeout: Duration => limits::IDLE_TIMEOUT, Time, "\"60s\"";
        /// A whole request body, and a second more for each KiB that has come.
        body_timeout: Duration => limits::BODY_TIMEOUT, Time, "\"30s\"";
        /// For each 64 KiB that the peer is to take.
        write_timeout: Duration => limits::WRITE_TIMEOUT, Time, "\"30s\"";
    }
    beside {
        /// How many descriptors there are, where they allow fewer connections or turns than wanted:
        /// [`Limits::within`]. No setting.
        short_of: Option<usize>,
    }
}

/// What `max_turns = 0` stands for: by the cores that we may run on.
pub fn default_turns() -> usize {
    cores().saturating_mul(limits::TURNS_PER_CORE).min(*limits::MAX_TURNS_RANGE.end())
}
