//! The settings, each defined once: its place in [`Config`], type, default, range, an example and a
//! line of help. Reading, suggestions, `config` and the starter file follow from it.

use super::enum_setting::EnumSetting;
use super::{
    Busy, ClientKey, Config, LogTarget, OWNER, Secret, Target, Url, key, target,
    turns_for_this_machine, validate,
};
use crate::limits;
use crate::named::ByName;
use crate::subprocess::Leftovers;
use log::LevelFilter;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// One key of the configuration.
pub struct Key {
    pub name: &'static str,
    /// Its field in the section of this name of the operator's, `None` if there is none.
    pub field: for<'c> fn(&'c mut Config, &str) -> Option<Field<'c>>,
    /// A good value in TOML, for error texts.
    pub example: &'static str,
    /// What it is for, in one line.
    pub help: &'static str,
}

/// A section, or all sections of a family.
pub struct Section {
    pub name: &'static str,
    pub keys: &'static [Key],
    pub family: Option<NamedTable>,
}

/// What there is about sections that operators name themselves.
pub struct NamedTable {
    /// What one of them is, in words.
    pub word: &'static str,
    pub most: usize,
    /// What to say of a `--set` without a name.
    pub nameless: &'static str,
    pub names: fn(&Config) -> Vec<&str>,
    pub add: fn(&mut Config, &str),
}

impl Section {
    pub fn of(name: &str) -> Option<&'static Section> {
        SECTIONS.iter().find(|section| section.name == name)
    }

    /// Its full name: with the operator's own, where it has one.
    pub fn full(&self, own: &str) -> String {
        let dot = if own.is_empty() { "" } else { "." };
        format!("{}{dot}{own}", self.name)
    }

    /// How it is written in a file: `[agent]`, `[deliver.NAME]`.
    pub fn head(&self) -> String {
        format!("[{}]", self.full(if self.family.is_some() { "NAME" } else { "" }))
    }

    /// The names of its keys.
    pub fn key_names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }
}

/// Puts a text into its final form, or says what is wrong with it.
pub type Check<T> = fn(&str) -> Result<T, String>;

/// A key's field, by the type of its value.
pub enum Field<'a> {
    Address(&'a mut SocketAddr),
    /// A path; the empty string stands for `None`.
    Path(&'a mut Option<PathBuf>),
    /// The same for a URL, as this reads it.
    Url(&'a mut Option<Url>, Check<Url>),
    /// A list of strings, each put into its final form, or refused with a reason, by the check.
    List(&'a mut Vec<String>, Check<String>),
    /// A string that the check takes; the empty one is always good.
    Text(&'a mut String, Check<String>),
    /// Variables by name.
    Env(&'a mut ByName<String>),
    /// Models by name.
    Models(&'a mut ByName<String>),
    Choice(&'a mut dyn EnumSetting),
    Time(&'a mut Duration, RangeInclusive<Duration>),
    /// A number of bytes.
    Size(&'a mut usize, RangeInclusive<usize>),
    Count(&'a mut usize, RangeInclusive<usize>),
}

/// A section: its keys, its struct and their defaults. `|c, own| place`: where in the configuration it
/// is. A key: its type and default, how it is read (with the check or range that goes with it), an
/// example and a line of help. `beside`: fields that no key sets.
macro_rules! section {
    ($keys:ident: |$c:ident, $own:pat_param| $place:expr;
    $(#[$about:meta])*
    pub struct $name:ident {
        $($(#[$doc:meta])* $field:ident: $type:ty = $default:expr,
            $kind:ident $(($check:expr))?, $example:literal, $help:literal;)*
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
                $name { $($field: $default,)* $($($beside: Default::default(),)*)? }
            }
        }

        pub static $keys: &[Key] = &[$(Key {
            name: stringify!($field),
            field: |$c, $own| Some(Field::$kind(&mut $place.$field $(, $check)?)),
            example: $example,
            help: $help,
        }),*];
    };
}
pub(super) use section;

/// The sections in their order, the families last.
pub static SECTIONS: [Section; 8] = [
    Section { name: "http", keys: HTTP, family: None },
    Section { name: "agent", keys: AGENT, family: None },
    Section { name: "session", keys: SESSION, family: None },
    Section { name: "stop", keys: STOP, family: None },
    Section { name: "log", keys: LOG, family: None },
    Section { name: "limits", keys: LIMITS, family: None },
    Section { name: "deliver", keys: target::TARGET, family: Some(TARGETS) },
    Section { name: "keys", keys: key::CLIENT_KEY, family: Some(CLIENT_KEYS) },
];

const TARGETS: NamedTable = NamedTable {
    word: "target",
    most: limits::MAX_TARGETS,
    nameless: "there is no target and key in it; write --set deliver.NAME.key=value, like --set \
        deliver.ops.timeout=10s",
    names: |config| config.deliver.names(),
    add: |config, name| config.deliver.insert(name.to_owned(), Target::new(name)),
};

const CLIENT_KEYS: NamedTable = NamedTable {
    word: "key",
    most: limits::MAX_CLIENT_KEYS,
    nameless: "there is no name and key in it; write --set keys.NAME.key=value, like --set \
        keys.alice.role=operator",
    names: |config| config.keys.names(),
    add: |config, name| config.keys.insert(name.to_owned(), ClientKey::new(name)),
};

section! {
    HTTP: |c, _| c.http;
    /// `[http]`: where clients come in.
    pub struct Http {
        /// Port 0 lets the kernel choose.
        listen: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), limits::DEFAULT_PORT),
            Address, "\"127.0.0.1:8642\"", "Address and port; port 0 takes a free one.";
        /// Absolute. `None`: `api.key` in the state directory.
        key_file: Option<PathBuf> = None, Path, "\"~/.config/my.key\"",
            "Absolute or from ~/; empty: api.key in the state directory, made at first start.";
        /// Names that a `Host` header may have besides the listening address and the loopback names;
        /// lower case, IPv6 without brackets.
        allowed_hosts: Vec<String> = Vec::new(), List(validate::host), "[\"gateway.example.org\"]",
            "Further names that clients may call this gateway by, for one behind a proxy.";
        /// Origins of web pages that may use the gateway; lower case.
        allowed_origins: Vec<String> = Vec::new(),
            List(validate::origin), "[\"https://chat.example.org\"]",
            "Web pages that may use this gateway from a browser, with a key; none by default.";
    }
}

section! {
    AGENT: |c, _| c.agent;
    /// `[agent]`: who answers.
    pub struct Agent {
        /// Program and arguments, without NUL; empty if there is a `url`.
        command: Vec<String> = Vec::new(), List(validate::argument), "[\"my-agent\", \"--flag\"]",
            "Program and arguments (also from ~/), no shell; without it or a url: echo.";
        /// Variables that the agent gets, by valid names that the gateway does not set itself.
        env: ByName<String> = ByName::new(), Env, "{ MODEL = \"small\" }",
            "Environment variables for the agent, like { MODEL = \"small\" }.";
        /// Variables of the gateway's own environment that the agent may see.
        pass_env: Vec<String> = Vec::new(), List(validate::variable), "[\"LANG\", \"TZ\"]",
            "Variables of the gateway's own environment that the agent may see.";
        /// What `/chat/completions` is appended to.
        url: Option<Url> = None, Url(Url::base), "\"http://127.0.0.1:11434/v1\"",
            "Base of an OpenAI-compatible server, \"/v1\" if no path is given; in the place of a command.";
        /// Absolute. `None`: the upstream asks for no key.
        key_file: Option<PathBuf> = None, Path, "\"~/.config/upstream.key\"",
            "The upstream's key; empty: it asks for none.";
        /// The upstream's name for the model `default`; empty: the first that it lists.
        model: String = String::new(), Text(validate::model), "\"qwen2.5:3b\"",
            "The upstream's name for the model \"default\"; empty: the first that it lists.";
        /// Names that clients may say, and the upstream's for them. Empty: they pass as they are.
        models: ByName<String> = ByName::new(), Models, "{ fast = \"qwen2.5:3b\" }",
            "Names that clients may say, and the upstream's for them; empty: any name passes.";
        /// Bytes of a session's earlier messages that go to the upstream.
        max_history: usize = limits::MAX_HISTORY_SENT,
            Size(limits::MAX_HISTORY_SENT_RANGE), "\"128KiB\"",
            "Of a session's earlier messages, what goes to the upstream; the oldest are left out.";
        /// From the agent's start to its end.
        turn_timeout: Duration = limits::TURN_TIMEOUT, Time(limits::TURN_TIMEOUT_RANGE), "\"10m\"",
            "The longest turn; the agent is killed when it is over.";
        /// How long temporary failures are waited out, from a message's first; 0: not at all.
        retry_for: Duration = limits::RETRY_FOR, Time(limits::RETRY_FOR_RANGE), "\"1h\"",
            "How long a turn is tried again while the agent is away or busy; 0s: not at all.";
        /// How long a client that waits for a reply waits for attempts that fail.
        answer_within: Duration = limits::ANSWER_WITHIN,
            Time(limits::ANSWER_WITHIN_RANGE), "\"60s\"",
            "How long a waiting chat client waits for attempts that fail before it gets an error.";
        /// What becomes of processes that a command has left when it ends by itself.
        leftovers: Leftovers = Leftovers::default(), Choice, "\"kill\"",
            "Processes that the command leaves running: \"kill\" or \"keep\" them.";
    }
    beside {
        /// What the file holds, once [`super::Loaded::with_secrets`] has read it.
        key: Option<Secret>,
    }
}

section! {
    SESSION: |c, _| c.session;
    /// `[session]`: how messages of one session meet.
    pub struct Session {
        /// What a message that does not say it itself does to a busy session.
        busy: Busy = Busy::default(), Choice, "\"queue\"",
            "What a message for a busy session does: \"queue\", or \"interrupt\" the turn.";
        /// The principals that may use slash commands.
        operators: Vec<String> = vec![OWNER.to_owned()], List(validate::principal), "[\"owner\"]",
            "Who may steer the gateway with slash commands.";
        /// How long an idle session is known.
        keep: Duration = limits::SESSION_KEEP, Time(limits::SESSION_KEEP_RANGE), "\"30d\"",
            "A session that is idle for longer is forgotten.";
    }
}

section! {
    STOP: |c, _| c.stop;
    /// `[stop]`: how the gateway ends.
    pub struct Stop {
        /// How long turns in flight may take to finish.
        drain_timeout: Duration = limits::DRAIN_TIMEOUT, Time(limits::DRAIN_TIMEOUT_RANGE),
            "\"30s\"", "How long a stop waits for turns in flight.";
    }
}

section! {
    LOG: |c, _| c.log;
    /// `[log]`: what is written down, and where.
    pub struct Log {
        level: LevelFilter = LevelFilter::Info, Choice, "\"info\"",
            "The least that is logged: off, error, warn, info, debug or trace.";
        target: LogTarget = LogTarget::default(), Choice, "\"auto\"",
            "Where to: auto (the journal where there is one, else stderr), stderr, journal, syslog.";
    }
}

section! {
    LIMITS: |c, _| c.limits;
    /// `[limits]`; reasons and ranges are in [`limits`].
    pub struct Limits {
        max_connections: usize = limits::MAX_CONNECTIONS,
            Count(limits::MAX_CONNECTIONS_RANGE), "10000",
            "Connections at once, if the system allows them; what is over is answered with 503.";
        /// From one address that is no loopback one.
        max_connections_per_address: usize = limits::MAX_CONNECTIONS_PER_ADDRESS,
            Count(limits::MAX_CONNECTIONS_RANGE), "500",
            "Of these from one address (IPv6: one /64); loopback is not counted.";
        /// Turns at once over all sessions; never 0 here (resolved at load).
        max_turns: usize = turns_for_this_machine(), Count(limits::MAX_TURNS_RANGE), "8",
            "Turns at once; 0 takes twice the number of cores.";
        /// Turns that may wait in all.
        max_queue: usize = limits::MAX_QUEUE, Count(limits::MAX_QUEUE_RANGE), "1000",
            "Turns that may wait, all sessions together.";
        max_queue_per_session: usize = limits::MAX_QUEUE_PER_SESSION,
            Count(limits::MAX_QUEUE_RANGE), "32", "Turns that may wait in one session.";
        /// Percent of a shared limit that one principal may hold: see [`crate::shares`].
        max_share: usize = limits::MAX_SHARE, Count(limits::MAX_SHARE_RANGE), "50",
            "Percent of connections, queue, journal and the like that one client key may hold.";
        /// Bytes of bodies and answers in flight.
        max_buffered: usize = limits::MAX_BUFFERED, Size(limits::MAX_BUFFERED_RANGE), "\"64MiB\"",
            "Bodies and answers in flight, all connections together.";
        /// Bytes of a request's body.
        max_body: usize = limits::MAX_BODY, Size(limits::MAX_BODY_RANGE), "\"1MiB\"",
            "The largest request body.";
        /// Bytes of one reply.
        max_reply: usize = limits::MAX_REPLY, Size(limits::MAX_BODY_RANGE), "\"8MiB\"",
            "The longest reply of an agent.";
        /// Of a turn, before its message fails.
        max_attempts: usize = limits::MAX_ATTEMPTS, Count(limits::MAX_ATTEMPTS_RANGE), "2",
            "How often a crash or kill may cut a turn short before its message fails.";
        /// Bytes of the journal beyond which it takes no new message.
        max_journal: usize = limits::MAX_JOURNAL, Size(limits::MAX_JOURNAL_RANGE), "\"256MiB\"",
            "The journal takes no new message beyond it.";
        /// Bytes of one session's transcript.
        max_transcript: usize = limits::MAX_TRANSCRIPT, Size(limits::MAX_TRANSCRIPT_RANGE),
            "\"256KiB\"", "Of a session's transcript, the oldest turns go first.";
        /// Bytes that all sessions keep on disk.
        max_transcripts: usize = limits::MAX_TRANSCRIPTS, Size(limits::MAX_TRANSCRIPTS_RANGE),
            "\"1GiB\"", "What all sessions keep on disk; the longest idle are forgotten first.";
        /// Finished messages that are remembered.
        keep_results: usize = limits::KEEP_RESULTS, Count(limits::KEEP_RESULTS_RANGE), "10000",
            "Finished messages that can still be asked for; none is older than a day.";
        /// A whole request head, from its first byte.
        head_timeout: Duration = limits::HEAD_TIMEOUT,
            Time(limits::CONNECTION_TIMEOUT_RANGE), "\"10s\"", "For a whole request head.";
        /// Between two requests of a kept connection.
        idle_timeout: Duration = limits::IDLE_TIMEOUT, Time(limits::CONNECTION_TIMEOUT_RANGE),
            "\"60s\"", "Between two requests of one connection.";
        /// A whole request body.
        body_timeout: Duration = limits::BODY_TIMEOUT,
            Time(limits::CONNECTION_TIMEOUT_RANGE), "\"30s\"", "For a whole request body.";
        /// One write that makes no progress.
        write_timeout: Duration = limits::WRITE_TIMEOUT, Time(limits::CONNECTION_TIMEOUT_RANGE),
            "\"30s\"", "For a client that takes nothing of its answer.";
    }
    beside {
        /// How many descriptors there are, where they allow fewer connections or turns than wanted:
        /// [`Limits::within`]. No setting.
        short_of: Option<usize>,
    }
}
