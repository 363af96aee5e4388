//! The environment that an agent gets: what any child of ours may have, and the facts of its turn.

use std::path::Path;

use serde_json::Value;

use super::{Context, Turn};
use crate::config;
use crate::subprocess::{Environment, environment};

/// The variables of one turn: the allow list, `pass_env`, `env`, and the turn's own.
pub fn of(agent: &config::Agent, turn: &Turn<'_>) -> Environment {
    let mut all = environment(&agent.env, &agent.pass_env);
    let own = [
        ("HERMES_SESSION", turn.session.to_owned()),
        ("HERMES_PRINCIPAL", turn.principal.to_owned()),
        ("HERMES_MESSAGE_ID", turn.message_id.to_owned()),
        ("HERMES_ATTEMPT", turn.attempt.to_string()),
    ];
    // An agent can always read it: where nothing was said before there is nothing in it.
    let transcript = turn.transcript.filter(|path| path.exists()).unwrap_or(Path::new("/dev/null"));
    let transcript = Some(("HERMES_TRANSCRIPT".into(), transcript.into()));
    let instructions = turn.context.map(Context::instructions).filter(|text| !text.is_empty());
    let instructions = instructions.map(|text| ("HERMES_INSTRUCTIONS".into(), text.into()));
    let list = |list: &[String]| Value::from(list).to_string().into();
    let attachments = (!turn.attachments.is_empty())
        .then(|| ("HERMES_ATTACHMENTS".into(), list(turn.attachments)));
    // Later ones win where a name comes twice.
    let own = own.into_iter().map(|(name, value)| (name.into(), value.into()));
    all.extend(own.chain(transcript).chain(attachments).chain(instructions));
    all
}
