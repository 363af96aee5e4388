//! The sections that operators name themselves, `[deliver.NAME]` and `[keys.NAME]`, and their keys.

use super::schema::{Field, Key};
use super::{ClientKey, Target, Url, names};
use crate::limits;

/// A section of sections, each with a name of the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Targets,
    Keys,
}

impl Family {
    pub const ALL: [Family; 2] = [Family::Targets, Family::Keys];

    /// The name of the section.
    pub fn section(self) -> &'static str {
        match self {
            Family::Targets => "deliver",
            Family::Keys => "keys",
        }
    }

    /// What one of its sections is, in words.
    pub fn word(self) -> &'static str {
        match self {
            Family::Targets => "target",
            Family::Keys => "key",
        }
    }

    pub fn of(section: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.section() == section)
    }

    /// The keys that each of its sections has.
    pub fn key_names(self) -> Vec<&'static str> {
        match self {
            Family::Targets => TARGET_KEYS.iter().map(|key| key.name).collect(),
            Family::Keys => CLIENT_KEYS.iter().map(|key| key.name).collect(),
        }
    }
}

/// The keys of each `[keys.NAME]`.
pub static CLIENT_KEYS: &[Key<ClientKey>] = &[
    Key {
        name: "file",
        field: |c| Field::Path(&mut c.file),
        example: "\"~/.config/hermes-gateway/alice.key\"",
        help: "The key, on one line of a file that is yours alone to read.",
    },
    Key {
        name: "role",
        field: |c| Field::Choice(&mut c.role),
        example: "\"user\"",
        help: "\"user\", or \"operator\", who also sees status, compacts, and steers by commands.",
    },
    Key {
        name: "sessions",
        field: |c| Field::List(&mut c.sessions, names::argument),
        example: "[\"support-*\"]",
        help: "Sessions that it may touch, * at the end for all that begin so; empty: any.",
    },
    Key {
        name: "routes",
        field: |c| Field::List(&mut c.routes, names::route),
        example: "[\"chat\"]",
        help: "What it opens: chat, messages, and for operators status, journal; empty: all of these.",
    },
];

/// The keys of each `[deliver.NAME]`.
pub static TARGET_KEYS: &[Key<Target>] = &[
    Key {
        name: "kind",
        field: |c| Field::Choice(&mut c.kind),
        example: "\"callback\"",
        help: "\"callback\" or \"command\"; url or command alone says it too.",
    },
    Key {
        name: "url",
        field: |c| Field::Url(&mut c.url, Url::parse),
        example: "\"https://example.org/hook\"",
        help: "A callback: where each reply is posted to.",
    },
    Key {
        name: "secret_file",
        field: |c| Field::Path(&mut c.secret_file),
        example: "\"~/.config/hook.secret\"",
        help: "What callbacks are signed with (Standard Webhooks): whsec_BASE64, or plain text.",
    },
    Key {
        name: "command",
        field: |c| Field::List(&mut c.command, names::argument),
        example: "[\"my-notifier\", \"--flag\"]",
        help: "Program and arguments, no shell; the reply is on its stdin.",
    },
    Key {
        name: "env",
        field: |c| Field::Env(&mut c.env),
        example: "{ ROOM = \"ops\" }",
        help: "Environment variables for the command.",
    },
    Key {
        name: "pass_env",
        field: |c| Field::List(&mut c.pass_env, names::variable),
        example: "[\"LANG\", \"TZ\"]",
        help: "Variables of the gateway's own environment that the command may see.",
    },
    Key {
        name: "leftovers",
        field: |c| Field::Choice(&mut c.leftovers),
        example: "\"kill\"",
        help: "Processes that the command leaves running: \"kill\" or \"keep\" them.",
    },
    Key {
        name: "timeout",
        field: |c| Field::Time(&mut c.timeout, limits::DELIVERY_TIMEOUT_RANGE),
        example: "\"30s\"",
        help: "For one attempt.",
    },
    Key {
        name: "expire",
        field: |c| Field::Time(&mut c.expire, limits::DELIVERY_EXPIRE_RANGE),
        example: "\"24h\"",
        help: "Tried for so long; then the reply is a dead letter.",
    },
];
