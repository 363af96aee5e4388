//! `send --async`, `send --result` and what else is about a durable message rather than its reply
//! as it comes.

use std::time::{Duration, Instant};

use serde_json::json;

use super::control::{ask, exit_for, lines, read};
use super::say;
use super::send::print_reply;
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::limits::{CONTROL_TIMEOUT, LONGEST_REPLY, MAX_WAIT};
use crate::outbound::Client;

/// How a durable message is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sending {
    /// Return when it is accepted.
    pub detached: bool,
    pub deliver: Option<String>,
    pub mode: Option<String>,
    pub key: Option<String>,
}

/// Sends `text` as a durable message. Prints its id, or waits for the reply and prints that.
pub fn send(
    client: &mut Client,
    session: Option<&str>,
    text: &str,
    sending: &Sending,
) -> Result<Exit, Failure> {
    let Sending { deliver, mode, .. } = sending;
    let body = json!({ "text": text, "session": session, "deliver": deliver, "mode": mode });
    let body = body.to_string();
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(sending.key.as_deref().map(|key| ("Idempotency-Key", key)));
    let deadline = Instant::now() + CONTROL_TIMEOUT + MAX_WAIT;
    let sent = read(
        client.send("POST", "/v1/messages", &headers, Some(body.as_bytes()), deadline),
        deadline,
    )?;
    let id = sent["id"].as_str().unwrap_or("").to_owned();
    if !sending.detached {
        return result(client, &id, LONGEST_REPLY);
    }
    let place = match (sent["position"].as_u64(), sent["status"].as_str()) {
        (Some(position), _) => format!("position {position}"),
        (None, status) => escaped(status.unwrap_or("known"), false),
    };
    // The id alone goes where `--result "$(…)"` reads it.
    eprintln!("hermes-gateway: accepted, {place}");
    say(&format!("{}\n", escaped(&id, false)))
}

/// Prints the reply of a message, waiting for it at most so long.
pub fn result(client: &mut Client, id: &str, wait: Duration) -> Result<Exit, Failure> {
    let deadline = Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(MAX_WAIT);
        // Whole seconds, rounded up: what is left of one is waited for too.
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let target = format!("/v1/messages/{id}?wait={seconds}");
        let message = ask(client, "GET", &target)?;
        let error = lines(message["error"].as_str().unwrap_or("no reason is known"));
        let exit = exit_for(message["error_status"].as_u64());
        let failed = |how| Err(Failure::new(exit, format!("message {id}{how}: {error}")));
        match message["status"].as_str() {
            Some("done") => match message["reply"].as_str() {
                Some(reply) => return print_reply(reply),
                None => return failed(""),
            },
            Some("failed") => return failed(" failed"),
            Some("cancelled") => return failed(" was cancelled"),
            status if left.is_zero() => {
                let status = escaped(status.unwrap_or("?"), false);
                let place = message["position"].as_u64();
                let place = place.map(|n| format!(", position {n}")).unwrap_or_default();
                let waits = message["waiting"]["reason"].as_str().map(lines);
                let waits = waits.map(|why| format!("; it waits for the agent: {why}"));
                let waits = waits.unwrap_or_default();
                let words = format!("message {id} has no reply yet: {status}{place}{waits}");
                return Err(Failure::new(Exit::Restart, words));
            }
            Some(_) | None => {}
        }
    }
}
