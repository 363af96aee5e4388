//! `reload`: has the running gateway read its configuration again, and says what came of it. Also
//! the unit's `ExecReload=`: it talks to the gateway's own socket and never to the service manager,
//! which waits for it.

use std::time::Instant;

use serde_json::Value;

use super::send::{broken, lines, open, refused};
use super::{Context, say};
use crate::exit::{Exit, Failure};
use crate::limits::{CONTROL_PATIENCE, MAX_STATUS, RELOAD_PATIENCE};

/// Asks, and waits for the outcome of a reading that begins after that.
pub fn reload(context: &Context) -> Result<Exit, Failure> {
    let deadline = Instant::now() + RELOAD_PATIENCE + CONTROL_PATIENCE;
    let mut client = open(context)?;
    let answer = client.send("POST", "/v1/reload", &[], None, deadline).map_err(|e| broken(&e))?;
    if answer.status == 404 {
        let command = context.name.command();
        let words =
            format!("the gateway that runs is older than this program: `{command} restart`");
        return Err(Failure::failed(words));
    } else if answer.status != 200 {
        return Err(refused(answer, deadline));
    }
    let body = answer.body(MAX_STATUS, deadline).map_err(|e| broken(&e))?;
    let told: Value = serde_json::from_slice(&body).unwrap_or_default();
    let words = lines(told["message"].as_str().unwrap_or("the answer cannot be read"));
    let known = [Exit::Planned, Exit::Unavailable, Exit::Config];
    match known.into_iter().find(|exit| told["exit"] == exit.code()).unwrap_or(Exit::Failed) {
        Exit::Planned => say(&format!("{words}\n")),
        exit => Err(Failure::new(exit, format!("not reloaded, all stays as it was: {words}"))),
    }
}
