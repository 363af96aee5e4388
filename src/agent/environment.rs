//! The environment that an agent gets: what any child of ours may have, and the facts of its turn.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::Value;

use super::{Turn, instructions};
use crate::config;
use crate::subprocess::{Environment, environment};

/// The variables of one turn: the allow list, `pass_env`, `env`, and the turn's own.
pub fn of(agent: &config::Agent, turn: &Turn<'_>) -> Environment {
    let mut all = environment(&agent.env, &agent.pass_env);
    // Later ones win where a name comes twice.
    let mut add = |name: &str, value: &OsStr| all.push((name.into(), value.into()));
    add("HERMES_SESSION", turn.session.as_ref());
    add("HERMES_PRINCIPAL", turn.principal.as_ref());
    add("HERMES_MESSAGE_ID", turn.message_id.as_ref());
    add("HERMES_ATTEMPT", turn.attempt.to_string().as_ref());
    // An agent can always read it: where nothing was said before there is nothing in it.
    let transcript = turn.transcript.filter(|path| path.exists());
    add("HERMES_TRANSCRIPT", transcript.map_or("/dev/null".as_ref(), Path::as_os_str));
    if !turn.attachments.is_empty() {
        add("HERMES_ATTACHMENTS", Value::from(turn.attachments).to_string().as_ref());
    }
    let instructions = instructions(turn.context.map_or("", |context| &context.messages));
    if !instructions.is_empty() {
        add("HERMES_INSTRUCTIONS", instructions.as_ref());
    }
    all
}
