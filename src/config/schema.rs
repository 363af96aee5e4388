//! The keys of the configuration, each defined once: its place in [`Config`], type, range, an
//! example and a line of help. Reading, suggestions, `config` and the starter file follow from it.

use super::choice::Choice;
use super::{Config, Url, names};
use crate::limits;
use crate::named::ByName;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// One key of the configuration, or of one of its targets.
pub struct Key<C: 'static = Config> {
    pub name: &'static str,
    pub field: fn(&mut C) -> Field<'_>,
    /// A good value in TOML, for error texts.
    pub example: &'static str,
    /// What it is for, in one line.
    pub help: &'static str,
}

/// A key's field, by the type of its value.
pub enum Field<'a> {
    Address(&'a mut SocketAddr),
    /// A path; the empty string stands for `None`.
    Path(&'a mut Option<PathBuf>),
    /// The same for a URL, as this reads it.
    Url(&'a mut Option<Url>, fn(&str) -> Result<Url, String>),
    /// A list of strings, each put into its final form, or refused with a reason, by the check.
    List(&'a mut Vec<String>, fn(&str) -> Result<String, String>),
    /// A string that the check takes; the empty one is always good.
    Text(&'a mut String, fn(&str) -> Result<String, String>),
    /// Variables by name.
    Env(&'a mut ByName<String>),
    /// Models by name.
    Models(&'a mut ByName<String>),
    Choice(&'a mut dyn Choice),
    Time(&'a mut Duration, RangeInclusive<Duration>),
    /// A number of bytes.
    Size(&'a mut usize, RangeInclusive<usize>),
    Count(&'a mut usize, RangeInclusive<usize>),
}

/// A table of keys: for each its name, the type of its value (with the check or range that goes with
/// it), an example and a line of help. `|c| c.section`: where the fields of these names are.
macro_rules! keys {
    (|$c:ident| $place:expr; $($name:ident: $kind:ident $(($check:expr))?, $example:literal, $help:literal;)*) => {
        &[$(Key {
            name: stringify!($name),
            field: |$c| Field::$kind(&mut $place.$name $(, $check)?),
            example: $example,
            help: $help,
        }),*]
    };
}
pub(super) use keys;

/// The sections in their order, each with its keys; without the families.
pub static SECTIONS: &[(&str, &[Key])] = &[
    ("http", HTTP),
    ("agent", AGENT),
    ("session", SESSION),
    ("stop", STOP),
    ("log", LOG),
    ("limits", LIMITS),
];

/// The keys of a section, if there is one of that name.
pub fn keys_of(section: &str) -> Option<&'static [Key]> {
    SECTIONS.iter().find(|(name, _)| *name == section).map(|(_, keys)| *keys)
}

static HTTP: &[Key] = keys! { |c| c.http;
    listen: Address, "\"127.0.0.1:8642\"",
        "Address and port; port 0 takes a free one.";
    key_file: Path, "\"~/.config/my.key\"",
        "Absolute or from ~/; empty: api.key in the state directory, made at first start.";
    allowed_hosts: List(names::host), "[\"gateway.example.org\"]",
        "Further names that clients may call this gateway by, for one behind a proxy.";
    allowed_origins: List(names::origin), "[\"https://chat.example.org\"]",
        "Web pages that may use this gateway from a browser, with a key; none by default.";
};

static AGENT: &[Key] = keys! { |c| c.agent;
    kind: Choice, "\"command\"",
        "Who answers: \"echo\" (built in), \"command\" or \"upstream\".";
    command: List(names::argument), "[\"my-agent\", \"--flag\"]",
        "Program and arguments (also from ~/), no shell; alone it means kind = \"command\".";
    env: Env, "{ MODEL = \"small\" }",
        "Environment variables for the agent, like { MODEL = \"small\" }.";
    pass_env: List(names::variable), "[\"LANG\", \"TZ\"]",
        "Variables of the gateway's own environment that the agent may see.";
    url: Url(Url::base), "\"http://127.0.0.1:11434/v1\"",
        "Base of an OpenAI-compatible server, \"/v1\" if no path is given; alone: kind = \"upstream\".";
    key_file: Path, "\"~/.config/upstream.key\"",
        "The upstream's key; empty: it asks for none.";
    model: Text(names::model), "\"qwen2.5:3b\"",
        "The upstream's name for the model \"default\"; empty: the first that it lists.";
    models: Models, "{ fast = \"qwen2.5:3b\" }",
        "Names that clients may say, and the upstream's for them; empty: any name passes.";
    max_history: Size(limits::MAX_HISTORY_SENT_RANGE), "\"128KiB\"",
        "Of a session's earlier messages, what goes to the upstream; the oldest are left out.";
    turn_timeout: Time(limits::TURN_TIMEOUT_RANGE), "\"10m\"",
        "The longest turn; the agent is killed when it is over.";
    retry_for: Time(limits::RETRY_FOR_RANGE), "\"1h\"",
        "How long a turn is tried again while the agent is away or busy; 0s: not at all.";
    answer_within: Time(limits::ANSWER_WITHIN_RANGE), "\"60s\"",
        "How long a waiting chat client waits for attempts that fail before it gets an error.";
    leftovers: Choice, "\"kill\"",
        "Processes that the command leaves running: \"kill\" or \"keep\" them.";
};

static SESSION: &[Key] = keys! { |c| c.session;
    busy: Choice, "\"queue\"",
        "What a message for a busy session does: \"queue\", or \"interrupt\" the turn.";
    operators: List(names::principal), "[\"owner\"]",
        "Who may steer the gateway with slash commands.";
    keep: Time(limits::SESSION_KEEP_RANGE), "\"30d\"",
        "A session that is idle for longer is forgotten.";
};

static STOP: &[Key] = keys! { |c| c.stop;
    drain_timeout: Time(limits::DRAIN_TIMEOUT_RANGE), "\"30s\"",
        "How long a stop waits for turns in flight.";
};

static LOG: &[Key] = keys! { |c| c.log;
    level: Choice, "\"info\"",
        "The least that is logged: off, error, warn, info, debug or trace.";
    target: Choice, "\"auto\"",
        "Where to: auto (the journal where there is one, else stderr), stderr, journal, syslog.";
};

static LIMITS: &[Key] = keys! { |c| c.limits;
    max_connections: Count(limits::MAX_CONNECTIONS_RANGE), "10000",
        "Connections at once, if the system allows them; what is over is answered with 503.";
    max_connections_per_address: Count(limits::MAX_CONNECTIONS_RANGE), "500",
        "Of these from one address (IPv6: one /64); loopback is not counted.";
    max_turns: Count(limits::MAX_TURNS_RANGE), "8",
        "Turns at once; 0 takes twice the number of cores.";
    max_queue: Count(limits::MAX_QUEUE_RANGE), "1000",
        "Turns that may wait, all sessions together.";
    max_queue_per_session: Count(limits::MAX_QUEUE_PER_SESSION_RANGE), "32",
        "Turns that may wait in one session.";
    max_share: Count(limits::MAX_SHARE_RANGE), "50",
        "Percent of connections, queue, journal and the like that one client key may hold.";
    max_buffered: Size(limits::MAX_BUFFERED_RANGE), "\"64MiB\"",
        "Bodies and answers in flight, all connections together.";
    max_body: Size(limits::MAX_BODY_RANGE), "\"1MiB\"",
        "The largest request body.";
    max_reply: Size(limits::MAX_REPLY_RANGE), "\"8MiB\"",
        "The longest reply of an agent.";
    max_attempts: Count(limits::MAX_ATTEMPTS_RANGE), "2",
        "How often a crash or kill may cut a turn short before its message fails.";
    max_journal: Size(limits::MAX_JOURNAL_RANGE), "\"256MiB\"",
        "The journal takes no new message beyond it.";
    max_transcript: Size(limits::MAX_TRANSCRIPT_RANGE), "\"256KiB\"",
        "Of a session's transcript, the oldest turns go first.";
    max_transcripts: Size(limits::MAX_TRANSCRIPTS_RANGE), "\"1GiB\"",
        "What all sessions keep on disk; the longest idle are forgotten first.";
    keep_results: Count(limits::KEEP_RESULTS_RANGE), "10000",
        "Finished messages that can still be asked for; none is older than a day.";
    head_timeout: Time(limits::CONNECTION_TIMEOUT_RANGE), "\"10s\"",
        "For a whole request head.";
    idle_timeout: Time(limits::CONNECTION_TIMEOUT_RANGE), "\"60s\"",
        "Between two requests of one connection.";
    body_timeout: Time(limits::CONNECTION_TIMEOUT_RANGE), "\"30s\"",
        "For a whole request body.";
    write_timeout: Time(limits::CONNECTION_TIMEOUT_RANGE), "\"30s\"",
        "For a client that takes nothing of its answer.";
};
