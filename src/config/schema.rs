//! The keys of the configuration, each defined once: its place in [`Config`], type, range, an
//! example and a line of help. Reading, suggestions, `config` and the starter file follow from it.
#![forbid(unsafe_code)]

use super::{AgentKind, Config, LogTarget, names};
use crate::limits;
use crate::named::ByName;
use log::LevelFilter;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// One key.
pub struct Key {
    pub section: &'static str,
    pub name: &'static str,
    pub kind: Kind,
    /// A good value in TOML, for error texts.
    pub example: &'static str,
    /// What it is for, in one line.
    pub help: &'static str,
}

/// The type of a key's value, with the way to its field.
pub enum Kind {
    Address(fn(&mut Config) -> &mut SocketAddr),
    /// A path; the empty string stands for `None`.
    Path(fn(&mut Config) -> &mut Option<PathBuf>),
    /// A list of strings, each put into its final form, or refused with a reason, by the check.
    List(fn(&mut Config) -> &mut Vec<String>, fn(&str) -> Result<String, String>),
    /// Variables by name.
    Env(fn(&mut Config) -> &mut ByName<String>),
    Choice(fn(&mut Config) -> &mut dyn Choice),
    Time(fn(&mut Config) -> &mut Duration, RangeInclusive<Duration>),
    /// A number of bytes.
    Size(fn(&mut Config) -> &mut usize, RangeInclusive<usize>),
    /// A number; where there is a function, 0 stands for what it returns.
    Count(fn(&mut Config) -> &mut usize, RangeInclusive<usize>, Option<fn() -> usize>),
}

impl Key {
    /// `section.name`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// A setting with a fixed set of words.
pub trait Choice {
    fn words(&self) -> Vec<&'static str>;
    fn word(&self) -> &'static str;
    /// Takes the value that the word names; false if no value has that name.
    fn choose(&mut self, word: &str) -> bool;
}

/// The names of an enum's values.
trait Named: Copy + PartialEq + 'static {
    const NAMES: &'static [(&'static str, Self)];
}

impl<T: Named> Choice for T {
    fn words(&self) -> Vec<&'static str> {
        T::NAMES.iter().map(|(name, _)| *name).collect()
    }

    fn word(&self) -> &'static str {
        let named = T::NAMES.iter().find(|(_, value)| value == self);
        named.map_or("", |(name, _)| name)
    }

    fn choose(&mut self, word: &str) -> bool {
        match T::NAMES.iter().find(|(name, _)| *name == word) {
            Some((_, value)) => {
                *self = *value;
                true
            }
            None => false,
        }
    }
}

impl Named for AgentKind {
    const NAMES: &'static [(&'static str, Self)] =
        &[("echo", AgentKind::Echo), ("command", AgentKind::Command)];
}

impl Named for LogTarget {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", LogTarget::Auto),
        ("stderr", LogTarget::Stderr),
        ("journal", LogTarget::Journal),
        ("syslog", LogTarget::Syslog),
    ];
}

impl Named for LevelFilter {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
}

/// The sections in the order of [`KEYS`].
pub fn sections() -> Vec<&'static str> {
    let mut sections: Vec<_> = KEYS.iter().map(|key| key.section).collect();
    sections.dedup();
    sections
}

/// The keys of a section; none if there is no such section.
pub fn keys_of(section: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.section == section)
}

pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    keys_of(section).find(|key| key.name == name)
}

pub static KEYS: &[Key] = &[
    Key {
        section: "http",
        name: "listen",
        kind: Kind::Address(|c| &mut c.http.listen),
        example: "\"127.0.0.1:8642\"",
        help: "Address and port; port 0 takes a free one.",
    },
    Key {
        section: "http",
        name: "key_file",
        kind: Kind::Path(|c| &mut c.http.key_file),
        example: "\"~/.config/my.key\"",
        help: "Absolute or from ~/; empty: api.key in the state directory, made at first start.",
    },
    Key {
        section: "http",
        name: "allowed_hosts",
        kind: Kind::List(|c| &mut c.http.allowed_hosts, names::host),
        example: "[\"gateway.example.org\"]",
        help: "Further names that clients may call this gateway by, for one behind a proxy.",
    },
    Key {
        section: "agent",
        name: "kind",
        kind: Kind::Choice(|c| &mut c.agent.kind),
        example: "\"command\"",
        help: "Who answers: \"echo\" (built in) or \"command\".",
    },
    Key {
        section: "agent",
        name: "command",
        kind: Kind::List(|c| &mut c.agent.command, names::argument),
        example: "[\"my-agent\", \"--flag\"]",
        help: "Program and arguments, no shell; alone it means kind = \"command\".",
    },
    Key {
        section: "agent",
        name: "env",
        kind: Kind::Env(|c| &mut c.agent.env),
        example: "{ MODEL = \"small\" }",
        help: "Environment variables for the agent, like { MODEL = \"small\" }.",
    },
    Key {
        section: "agent",
        name: "pass_env",
        kind: Kind::List(|c| &mut c.agent.pass_env, names::variable),
        example: "[\"LANG\", \"TZ\"]",
        help: "Variables of the gateway's own environment that the agent may see.",
    },
    Key {
        section: "agent",
        name: "turn_timeout",
        kind: Kind::Time(|c| &mut c.agent.turn_timeout, limits::TURN_TIMEOUT_RANGE),
        example: "\"10m\"",
        help: "The longest turn; the agent is killed when it is over.",
    },
    Key {
        section: "stop",
        name: "drain_timeout",
        kind: Kind::Time(|c| &mut c.stop.drain_timeout, limits::DRAIN_TIMEOUT_RANGE),
        example: "\"30s\"",
        help: "How long a stop waits for turns in flight.",
    },
    Key {
        section: "log",
        name: "level",
        kind: Kind::Choice(|c| &mut c.log.level),
        example: "\"info\"",
        help: "The least that is logged: off, error, warn, info, debug or trace.",
    },
    Key {
        section: "log",
        name: "target",
        kind: Kind::Choice(|c| &mut c.log.target),
        example: "\"auto\"",
        help: "Where to: auto (the journal where there is one, else stderr), stderr, journal, syslog.",
    },
    Key {
        section: "limits",
        name: "max_connections",
        kind: Kind::Count(|c| &mut c.limits.max_connections, limits::MAX_CONNECTIONS_RANGE, None),
        example: "1000",
        help: "Connections at once; what is over is answered with 503.",
    },
    Key {
        section: "limits",
        name: "max_turns",
        kind: Kind::Count(
            |c| &mut c.limits.max_turns,
            limits::MAX_TURNS_RANGE,
            Some(super::turns_for_this_machine),
        ),
        example: "8",
        help: "Turns at once; 0 takes twice the number of cores.",
    },
    Key {
        section: "limits",
        name: "max_queue",
        kind: Kind::Count(|c| &mut c.limits.max_queue, limits::MAX_QUEUE_RANGE, None),
        example: "1000",
        help: "Turns that may wait, all sessions together.",
    },
    Key {
        section: "limits",
        name: "max_queue_per_session",
        kind: Kind::Count(
            |c| &mut c.limits.max_queue_per_session,
            limits::MAX_QUEUE_PER_SESSION_RANGE,
            None,
        ),
        example: "32",
        help: "Turns that may wait in one session.",
    },
    Key {
        section: "limits",
        name: "max_body",
        kind: Kind::Size(|c| &mut c.limits.max_body, limits::MAX_BODY_RANGE),
        example: "\"1MiB\"",
        help: "The largest request body.",
    },
    Key {
        section: "limits",
        name: "max_reply",
        kind: Kind::Size(|c| &mut c.limits.max_reply, limits::MAX_REPLY_RANGE),
        example: "\"8MiB\"",
        help: "The longest reply of an agent.",
    },
    Key {
        section: "limits",
        name: "head_timeout",
        kind: Kind::Time(|c| &mut c.limits.head_timeout, limits::CONNECTION_TIMEOUT_RANGE),
        example: "\"10s\"",
        help: "For a whole request head.",
    },
    Key {
        section: "limits",
        name: "idle_timeout",
        kind: Kind::Time(|c| &mut c.limits.idle_timeout, limits::CONNECTION_TIMEOUT_RANGE),
        example: "\"60s\"",
        help: "Between two requests of one connection.",
    },
    Key {
        section: "limits",
        name: "body_timeout",
        kind: Kind::Time(|c| &mut c.limits.body_timeout, limits::CONNECTION_TIMEOUT_RANGE),
        example: "\"30s\"",
        help: "For a whole request body.",
    },
    Key {
        section: "limits",
        name: "write_timeout",
        kind: Kind::Time(|c| &mut c.limits.write_timeout, limits::CONNECTION_TIMEOUT_RANGE),
        example: "\"30s\"",
        help: "For a client that takes nothing of its answer.",
    },
];
