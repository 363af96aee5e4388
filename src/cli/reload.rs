//! `reload`: has the running gateway read its configuration again, and says what came of it. Also
//! the unit's `ExecReload=`: it talks to the gateway's own socket and never to the service manager,
//! which waits for it.

use std::time::Instant;

use serde_json::Value;

use super::control::{Contact, knock};
use super::send::{lines, refused};
use super::{Context, owner, say};
use crate::exit::{Exit, Failure};
use crate::limits::{MAX_STATUS, RELOAD_MARGIN, RELOAD_PATIENCE};

/// Asks and waits; a gateway that is starting is waited for.
pub fn reload(context: &Context) -> Result<Exit, Failure> {
    let (name, command) = (&context.name, context.name.command());
    let deadline = Instant::now() + RELOAD_PATIENCE + RELOAD_MARGIN;
    let mut client = match knock(&context.dirs, deadline) {
        Contact::Answers { with, .. } => with,
        Contact::Free => {
            owner::refuse_foreign(context, "reload")?;
            let words = format!(
                "{name} is not running, so there is nothing to reload: the next start reads the \
                 configuration (`{command} start`, or `{command} run`)"
            );
            return Err(Failure::new(Exit::NotRunning, words));
        }
        Contact::Silent { why, .. } | Contact::Hidden(why) => {
            return Err(unavailable(&format!("gateway {name} cannot be asked: {why}")));
        }
    };
    let broken =
        |e| unavailable(&format!("the gateway gave no answer to the reload ({e}): see its status"));
    let answer = client.send("POST", "/v1/reload", &[], None, deadline).map_err(broken)?;
    match answer.status {
        200 => {}
        404 => {
            return Err(Failure::failed(format!(
                "the gateway that runs is of an older version, which reloads on SIGHUP only: \
                 `{command} restart` runs this one"
            )));
        }
        _ => return Err(refused(answer, deadline)),
    }
    let body = answer.body(MAX_STATUS, deadline).map_err(broken)?;
    told(&serde_json::from_slice(&body).unwrap_or_default(), &command)
}

/// What the gateway's answer means.
fn told(answer: &Value, command: &str) -> Result<Exit, Failure> {
    let all = [Exit::Planned, Exit::Failed, Exit::Unavailable, Exit::Config];
    let exit = all.into_iter().find(|exit| answer["exit"] == exit.code()).unwrap_or(Exit::Failed);
    if exit != Exit::Planned {
        let why = lines(answer["message"].as_str().unwrap_or("its answer cannot be read"));
        return Err(Failure::new(exit, format!("not reloaded, all stays as it was: {why}")));
    }
    let mut text = "the configuration was read again and is in force\n".to_owned();
    for key in answer["restart"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        text += &format!("{key} has changed: that takes a restart (`{command} restart`)\n");
    }
    say(&text)
}

fn unavailable(words: &str) -> Failure {
    Failure::new(Exit::Unavailable, words)
}
