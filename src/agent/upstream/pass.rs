//! Requests that go to the server as they are, and their answers, byte by byte.

use super::super::{Agent, Outcome, Sink, too_long};
use super::response::ResponseReader;
use super::{Attempt, UPSTREAM_RETRIES, UpstreamClient, failover};
use crate::cancel::{Cancel, CancelReason};
use crate::escape::quoted;
use crate::http::TOO_LARGE;
use crate::json;
use crate::outbound::Request;
use crate::outbound::client::{Error, KEPT, Response};
use crate::sys::gather::Gather;

/// A request for an upstream.
pub struct Passed<'a> {
    /// Of its turn.
    pub id: &'a str,
    pub method: &'a str,
    /// What it asks for, below the server's URL.
    pub target: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: Option<&'a [u8]>,
    /// Its body is this JSON, in which the model has the name that clients use.
    pub json: Option<&'a str>,
    /// The most bytes that the answer may have.
    pub max_reply: usize,
}

/// The head of an answer.
pub struct Head {
    pub status: u16,
    /// Those fields of it that are the client's too.
    pub fields: Vec<(&'static str, String)>,
    /// Which of several servers it is from.
    pub upstream: Option<String>,
}

/// Passes a request on. The head comes with the first piece: what fails before that is an error.
pub fn pass(
    agent: &Agent,
    passed: &Passed<'_>,
    cancel: Cancel<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), Outcome> {
    failover::first_answer(agent, (cancel, UPSTREAM_RETRIES), passed.id, &mut |client, more| {
        let Passed { method, target, headers, body, .. } = *passed;
        let mapped = passed.json.map(|json| mapped(client, json)).transpose()?;
        let body = mapped.as_ref().map_or(body, |json| Some(json.as_bytes()));
        let request = Request { method, target, headers, body };
        client.exchange(&request, &mut |answer| {
            // Another one may have a better answer; what the last one says counts for all.
            let failed = client.attempt.get() == Attempt::Failed && client.name().is_some();
            if (failed && more) || matches!(answer.status, 300..=399) {
                return Err(ResponseReader::error(client, answer));
            }
            stream(client, passed.max_reply, answer, sink)
        })
    })
}

/// The body, with the server's name for the model.
fn mapped(client: &UpstreamClient<'_>, body: &str) -> Result<String, Outcome> {
    match json::string(body, "model") {
        Some(alias) => Ok(json::with_member(body, "model", &quoted(&client.model(&alias)?))),
        None => Ok(body.to_owned()),
    }
}

fn stream(
    client: &UpstreamClient<'_>,
    max_reply: usize,
    answer: Response<'_, '_>,
    sink: &mut Sink<'_>,
) -> Result<(), Outcome> {
    let field = |name| Some((name, answer.header(name)?.to_owned()));
    let head = Head {
        status: answer.status,
        fields: KEPT.into_iter().filter_map(field).gather(),
        upstream: client.name().map(str::to_owned),
    };
    let mut gone = false;
    let taken = answer.pieces(max_reply, client.cancel.deadline, &mut |piece, more| {
        sink(&head, piece, more).inspect_err(|_| gone = true)
    });
    taken.map_err(|error| match error {
        _ if gone => Outcome::Ended(CancelReason::ClientGone),
        Error::Refused(TOO_LARGE) => too_long(max_reply),
        error => client.broken(&error),
    })
}
