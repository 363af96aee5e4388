//! The environment that an agent gets: nothing of ours but what is listed here or configured.
#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;

use serde_json::Value;

use super::Turn;
use crate::config;

/// What any program may need to find its files, its language and its time zone; none of it secret.
const ALLOWED: [&str; 13] = [
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "PATH",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LC_COLLATE",
    "TZ",
    "TMPDIR",
];

/// The variables of one turn: the allow list, `pass_env`, `env`, and the turn's own.
pub fn of(agent: &config::Agent, turn: &Turn<'_>) -> Vec<(OsString, OsString)> {
    let inherited = ALLOWED.iter().copied().chain(agent.pass_env.iter().map(String::as_str));
    let inherited = inherited.filter_map(|name| Some((name.into(), env::var_os(name)?)));
    let configured = agent.env.iter().map(|(name, value)| (name.into(), value.into()));
    let own = [
        ("HERMES_SESSION", turn.session.to_owned()),
        ("HERMES_PRINCIPAL", turn.principal.to_owned()),
        ("HERMES_MESSAGE_ID", turn.message_id.to_owned()),
        ("HERMES_ATTEMPT", turn.attempt.to_string()),
    ];
    let transcript = turn.transcript.map(|path| ("HERMES_TRANSCRIPT".into(), path.into()));
    let list = |list: &[String]| Value::from(list).to_string().into();
    let attachments = (!turn.attachments.is_empty())
        .then(|| ("HERMES_ATTACHMENTS".into(), list(turn.attachments)));
    // Later ones win where a name comes twice.
    let own = own.into_iter().map(|(name, value)| (name.into(), value.into()));
    inherited.chain(configured).chain(own).chain(transcript).chain(attachments).collect()
}
