//! The sections that operators name themselves, `[deliver.NAME]` and `[keys.NAME]`, and their keys.

use super::schema::{Field, Key, keys};
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
pub static CLIENT_KEYS: &[Key<ClientKey>] = keys! { |c| c;
    file: Path, "\"~/.config/hermes-gateway/alice.key\"",
        "The key, on one line of a file that is yours alone to read.";
    role: Choice, "\"user\"",
        "\"user\", or \"operator\", who also sees status, compacts, and steers by commands.";
    sessions: List(names::argument), "[\"support-*\"]",
        "Sessions that it may touch, * at the end for all that begin so; empty: any.";
    routes: List(names::route), "[\"chat\"]",
        "What it opens: chat, messages, and for operators status, journal; empty: all of these.";
    targets: List(names::argument), "[\"example\"]",
        "Delivery targets that it may name; empty: none for a user, any for an operator.";
};

/// The keys of each `[deliver.NAME]`.
pub static TARGET_KEYS: &[Key<Target>] = keys! { |c| c;
    kind: Choice, "\"callback\"",
        "\"callback\" or \"command\"; url or command alone says it too.";
    url: Url(Url::parse), "\"https://example.org/hook\"",
        "A callback: where each reply is posted to.";
    secret_file: Path, "\"~/.config/hook.secret\"",
        "What callbacks are signed with (Standard Webhooks): whsec_BASE64, or plain text.";
    command: List(names::argument), "[\"my-notifier\", \"--flag\"]",
        "Program and arguments, no shell; the reply is on its stdin.";
    env: Env, "{ ROOM = \"ops\" }",
        "Environment variables for the command.";
    pass_env: List(names::variable), "[\"LANG\", \"TZ\"]",
        "Variables of the gateway's own environment that the command may see.";
    leftovers: Choice, "\"kill\"",
        "Processes that the command leaves running: \"kill\" or \"keep\" them.";
    timeout: Time(limits::DELIVERY_TIMEOUT_RANGE), "\"30s\"",
        "For one attempt.";
    expire: Time(limits::DELIVERY_EXPIRE_RANGE), "\"1d\"",
        "Tried for so long; then the reply is a dead letter.";
};
