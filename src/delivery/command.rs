//! A target that is a command: the reply on its stdin, the facts in its environment.

use std::time::Instant;

use super::classify;
use super::{DeliveryResult, Means, Payload};
use crate::config::Target;
use crate::escape::escaped;
use crate::limits::{KILL_AFTER, MAX_STDERR_TAIL};
use crate::subprocess::{
    Environment, ExitReason, Program, RunOptions, environment, explained, run,
};

pub fn send(target: &Target, parcel: &Payload<'_>, (children, cut): Means<'_>) -> DeliveryResult {
    let order = RunOptions {
        input: Some(parcel.text.as_bytes()),
        leftovers: Some(target.leftovers),
        deadline: Instant::now() + target.timeout,
        grace: KILL_AFTER,
        cut: Some(cut),
        limits: (0, MAX_STDERR_TAIL),
    };
    let program = Program::configured(&target.command, variables(target, parcel));
    let ended = match program.and_then(|program| run(children, &program, order)) {
        Ok(ended) => ended,
        Err(e) => {
            let name = target.command.first().map_or("", String::as_str);
            let why = explained(&target.command, &e);
            let why = format!("{} cannot be run: {why}", escaped(name, false));
            return classify::trouble(&why, b"");
        }
    };
    match ended.how {
        ExitReason::ByItself(status) => classify::ended(status, &ended.stderr),
        ExitReason::Cut => DeliveryResult::Cut,
        ExitReason::TimedOut => classify::trouble("it took longer than its timeout", &ended.stderr),
    }
}

fn variables(target: &Target, parcel: &Payload<'_>) -> Environment {
    let mut all = environment(&target.env, &target.pass_env);
    let attempt = parcel.attempt.to_string();
    let own = [
        // What a callback has as webhook-id.
        ("HERMES_DELIVERY_ID", parcel.id),
        ("HERMES_DELIVERY_ATTEMPT", &attempt),
        ("HERMES_DELIVERY_TARGET", &target.name),
        ("HERMES_DELIVERY_STATUS", parcel.status),
        ("HERMES_MESSAGE_ID", parcel.id),
        ("HERMES_SESSION", parcel.session.unwrap_or_default()),
        ("HERMES_PRINCIPAL", parcel.principal),
    ];
    all.extend(own.map(|(name, value)| (name.into(), value.into())));
    all
}
