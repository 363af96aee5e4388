//! A target that is a command: the reply on its stdin, the facts in its environment.

use std::sync::Arc;

use super::{DeliveryResult, Payload, classify};
use crate::cancel::Cancel;
use crate::config::Target;
use crate::limits::{KILL_AFTER, MAX_STDERR_TAIL};
use crate::subprocess::{
    ChildKind, Children, Environment, ExitReason, Program, RunOptions, environment, explain_failure,
};

pub fn send(
    target: &Target,
    payload: &Payload<'_>,
    children: &Arc<Children>,
    cancel: Cancel<'_>,
) -> DeliveryResult {
    let (kind, input) = (ChildKind::Tree(target.leftovers), payload.text.as_bytes());
    let options = RunOptions { kind, input: Some(input.into()), cancel, grace: KILL_AFTER };
    let program = Program::configured(&target.command, variables(target, payload));
    let child = program.and_then(|program| children.spawn(&program, options));
    match child.and_then(|child| child.finish(0, MAX_STDERR_TAIL)) {
        Ok((ExitReason::Exited(status), _, stderr)) => classify::exit(status, &stderr),
        Ok((ExitReason::Cancelled(reason), _, stderr)) => classify::cancelled(reason, &stderr),
        Err(e) => {
            let name = target.command.first().map_or("", String::as_str);
            let why = explain_failure(&target.command, &e);
            classify::temporary(&format!("{name} cannot be run: {why}"), b"")
        }
    }
}

fn variables(target: &Target, payload: &Payload<'_>) -> Environment {
    let mut all = environment(&target.env, &target.pass_env);
    let attempt = payload.attempt.to_string();
    let own = [
        // What a callback has as webhook-id.
        ("HERMES_DELIVERY_ID", payload.id),
        ("HERMES_DELIVERY_ATTEMPT", &attempt),
        ("HERMES_DELIVERY_TARGET", &target.name),
        ("HERMES_DELIVERY_STATUS", payload.status),
        ("HERMES_MESSAGE_ID", payload.id),
        ("HERMES_SESSION", payload.session.unwrap_or_default()),
        ("HERMES_PRINCIPAL", payload.principal),
    ];
    all.extend(own.map(|(name, value)| (name.into(), value.into())));
    all
}
