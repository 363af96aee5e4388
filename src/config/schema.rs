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

static HTTP: &[Key] = &[
    Key {
        name: "listen",
        field: |c| Field::Address(&mut c.http.listen),
        example: "\"127.0.0.1:8642\"",
        help: "Address and port; port 0 takes a free one.",
    },
    Key {
        name: "key_file",
        field: |c| Field::Path(&mut c.http.key_file),
        example: "\"~/.config/my.key\"",
        help: "Absolute or from ~/; empty: api.key in the state directory, made at first start.",
    },
    Key {
        name: "allowed_hosts",
        field: |c| Field::List(&mut c.http.allowed_hosts, names::host),
        example: "[\"gateway.example.org\"]",
        help: "Further names that clients may call this gateway by, for one behind a proxy.",
    },
    Key {
        name: "allowed_origins",
        field: |c| Field::List(&mut c.http.allowed_origins, names::origin),
        example: "[\"https://chat.example.org\"]",
        help: "Web pages that may use this gateway from a browser, with a key; none by default.",
    },
];

static AGENT: &[Key] = &[
    Key {
        name: "kind",
        field: |c| Field::Choice(&mut c.agent.kind),
        example: "\"command\"",
        help: "Who answers: \"echo\" (built in), \"command\" or \"upstream\".",
    },
    Key {
        name: "command",
        field: |c| Field::List(&mut c.agent.command, names::argument),
        example: "[\"my-agent\", \"--flag\"]",
        help: "Program and arguments, no shell; alone it means kind = \"command\".",
    },
    Key {
        name: "env",
        field: |c| Field::Env(&mut c.agent.env),
        example: "{ MODEL = \"small\" }",
        help: "Environment variables for the agent, like { MODEL = \"small\" }.",
    },
    Key {
        name: "pass_env",
        field: |c| Field::List(&mut c.agent.pass_env, names::variable),
        example: "[\"LANG\", \"TZ\"]",
        help: "Variables of the gateway's own environment that the agent may see.",
    },
    Key {
        name: "url",
        field: |c| Field::Url(&mut c.agent.url, Url::base),
        example: "\"http://127.0.0.1:11434/v1\"",
        help: "Base of an OpenAI-compatible server, \"/v1\" if no path is given; alone: kind = \"upstream\".",
    },
    Key {
        name: "key_file",
        field: |c| Field::Path(&mut c.agent.key_file),
        example: "\"~/.config/upstream.key\"",
        help: "The upstream's key; empty: it asks for none.",
    },
    Key {
        name: "model",
        field: |c| Field::Text(&mut c.agent.model, names::model),
        example: "\"qwen2.5:3b\"",
        help: "The upstream's name for the model \"default\"; empty: the first that it lists.",
    },
    Key {
        name: "models",
        field: |c| Field::Models(&mut c.agent.models),
        example: "{ fast = \"qwen2.5:3b\" }",
        help: "Names that clients may say, and the upstream's for them; empty: any name passes.",
    },
    Key {
        name: "max_history",
        field: |c| Field::Size(&mut c.agent.max_history, limits::MAX_HISTORY_SENT_RANGE),
        example: "\"128KiB\"",
        help: "Of a session's earlier messages, what goes to the upstream; the oldest are left out.",
    },
    Key {
        name: "turn_timeout",
        field: |c| Field::Time(&mut c.agent.turn_timeout, limits::TURN_TIMEOUT_RANGE),
        example: "\"10m\"",
        help: "The longest turn; the agent is killed when it is over.",
    },
    Key {
        name: "retry_for",
        field: |c| Field::Time(&mut c.agent.retry_for, limits::RETRY_FOR_RANGE),
        example: "\"1h\"",
        help: "How long a turn is tried again while the agent is away or busy; 0s: not at all.",
    },
    Key {
        name: "answer_within",
        field: |c| Field::Time(&mut c.agent.answer_within, limits::ANSWER_WITHIN_RANGE),
        example: "\"60s\"",
        help: "How long a waiting chat client waits for attempts that fail before it gets an error.",
    },
    Key {
        name: "leftovers",
        field: |c| Field::Choice(&mut c.agent.leftovers),
        example: "\"kill\"",
        help: "Processes that the command leaves running: \"kill\" or \"keep\" them.",
    },
];

static SESSION: &[Key] = &[
    Key {
        name: "busy",
        field: |c| Field::Choice(&mut c.session.busy),
        example: "\"queue\"",
        help: "What a message for a busy session does: \"queue\", or \"interrupt\" the turn.",
    },
    Key {
        name: "operators",
        field: |c| Field::List(&mut c.session.operators, names::principal),
        example: "[\"owner\"]",
        help: "Who may steer the gateway with slash commands.",
    },
];

static STOP: &[Key] = &[Key {
    name: "drain_timeout",
    field: |c| Field::Time(&mut c.stop.drain_timeout, limits::DRAIN_TIMEOUT_RANGE),
    example: "\"30s\"",
    help: "How long a stop waits for turns in flight.",
}];

static LOG: &[Key] = &[
    Key {
        name: "level",
        field: |c| Field::Choice(&mut c.log.level),
        example: "\"info\"",
        help: "The least that is logged: off, error, warn, info, debug or trace.",
    },
    Key {
        name: "target",
        field: |c| Field::Choice(&mut c.log.target),
        example: "\"auto\"",
        help: "Where to: auto (the journal where there is one, else stderr), stderr, journal, syslog.",
    },
];

static LIMITS: &[Key] = &[
    Key {
        name: "max_connections",
        field: |c| Field::Count(&mut c.limits.max_connections, limits::MAX_CONNECTIONS_RANGE),
        example: "10000",
        help: "Connections at once, if the system allows them; what is over is answered with 503.",
    },
    Key {
        name: "max_connections_per_address",
        field: |c| {
            let field = &mut c.limits.max_connections_per_address;
            Field::Count(field, limits::MAX_CONNECTIONS_RANGE)
        },
        example: "500",
        help: "Of these from one address (IPv6: one /64); loopback is not counted.",
    },
    Key {
        name: "max_turns",
        field: |c| Field::Count(&mut c.limits.max_turns, limits::MAX_TURNS_RANGE),
        example: "8",
        help: "Turns at once; 0 takes twice the number of cores.",
    },
    Key {
        name: "max_queue",
        field: |c| Field::Count(&mut c.limits.max_queue, limits::MAX_QUEUE_RANGE),
        example: "1000",
        help: "Turns that may wait, all sessions together.",
    },
    Key {
        name: "max_queue_per_session",
        field: |c| {
            let field = &mut c.limits.max_queue_per_session;
            Field::Count(field, limits::MAX_QUEUE_PER_SESSION_RANGE)
        },
        example: "32",
        help: "Turns that may wait in one session.",
    },
    Key {
        name: "max_body",
        field: |c| Field::Size(&mut c.limits.max_body, limits::MAX_BODY_RANGE),
        example: "\"1MiB\"",
        help: "The largest request body.",
    },
    Key {
        name: "max_reply",
        field: |c| Field::Size(&mut c.limits.max_reply, limits::MAX_REPLY_RANGE),
        example: "\"8MiB\"",
        help: "The longest reply of an agent.",
    },
    Key {
        name: "max_attempts",
        field: |c| Field::Count(&mut c.limits.max_attempts, limits::MAX_ATTEMPTS_RANGE),
        example: "2",
        help: "How often a crash or kill may cut a turn short before its message fails.",
    },
    Key {
        name: "max_journal",
        field: |c| Field::Size(&mut c.limits.max_journal, limits::MAX_JOURNAL_RANGE),
        example: "\"256MiB\"",
        help: "The journal takes no new message beyond it.",
    },
    Key {
        name: "max_transcript",
        field: |c| Field::Size(&mut c.limits.max_transcript, limits::MAX_TRANSCRIPT_RANGE),
        example: "\"256KiB\"",
        help: "Of a session's transcript, the oldest turns go first.",
    },
    Key {
        name: "keep_results",
        field: |c| Field::Count(&mut c.limits.keep_results, limits::KEEP_RESULTS_RANGE),
        example: "10000",
        help: "Finished messages that can still be asked for; none is older than a day.",
    },
    Key {
        name: "head_timeout",
        field: |c| Field::Time(&mut c.limits.head_timeout, limits::CONNECTION_TIMEOUT_RANGE),
        example: "\"10s\"",
        help: "For a whole request head.",
    },
    Key {
        name: "idle_timeout",
        field: |c| Field::Time(&mut c.limits.idle_timeout, limits::CONNECTION_TIMEOUT_RANGE),
        example: "\"60s\"",
        help: "Between two requests of one connection.",
    },
    Key {
        name: "body_timeout",
        field: |c| Field::Time(&mut c.limits.body_timeout, limits::CONNECTION_TIMEOUT_RANGE),
        example: "\"30s\"",
        help: "For a whole request body.",
    },
    Key {
        name: "write_timeout",
        field: |c| Field::Time(&mut c.limits.write_timeout, limits::CONNECTION_TIMEOUT_RANGE),
        example: "\"30s\"",
        help: "For a client that takes nothing of its answer.",
    },
];
