//! `reload`: has the running gateway read its configuration again, and says what came of it. Also
//! the unit's `ExecReload=`: it talks to the gateway's own socket and never to the service manager,
//! which waits for it.

use std::time::Instant;

use super::context::Context;
use super::control_client::{connect_to, escaped_lines, exchange};
use super::output::say;
use crate::exit::{Exit, Failure};
use crate::limits::{CONTROL_TIMEOUT, RELOAD_TIMEOUT};

/// Asks, and waits for the outcome of a reading that begins after that.
pub fn reload(context: &Context) -> Result<Exit, Failure> {
    let deadline = Instant::now() + RELOAD_TIMEOUT + CONTROL_TIMEOUT;
    let mut client = connect_to(context)?;
    let outcome = exchange(&mut client, "POST", "/v1/reload", &[], None, deadline)?;
    let words = escaped_lines(outcome["message"].as_str().unwrap_or("the answer cannot be read"));
    let known = [Exit::Planned, Exit::Unavailable, Exit::Config];
    match known.into_iter().find(|exit| outcome["exit"] == exit.code()).unwrap_or(Exit::Failed) {
        Exit::Planned => say(&format!("{words}\n")),
        exit => Err(Failure::new(exit, format!("not reloaded, all stays as it was: {words}"))),
    }
}
