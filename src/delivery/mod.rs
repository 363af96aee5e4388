//! One attempt to bring one reply to one target of the configuration.
//!
//! What may enter: how a target is reached, and what its answer means. What is sent when, and what is
//! written down about it, is decided in `session`.

pub mod backoff;
mod callback;
mod classify;
mod command;
#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::{Cancel, CancelReason};
use crate::config::Target;
use crate::subprocess::Children;

pub use classify::retry_after;

/// A reply on its way.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// The message's id: the same on every attempt, so that a receiver can drop a repeat.
    pub id: &'a str,
    pub session: Option<&'a str>,
    pub principal: &'a str,
    /// How the message ended: `done`, `failed`.
    pub status: &'a str,
    /// The reply, or the failure in words.
    pub text: &'a str,
    /// Of the delivery, from 1.
    pub attempt: u32,
    pub created_at: &'a str,
    pub finished_at: &'a str,
}

/// What came of an attempt. The words are for people, and hold nothing that acts on a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryResult {
    Delivered,
    /// It may go better later: why, and what the receiver asked for as Retry-After.
    Deferred(String, Option<Duration>),
    /// It will not go better: why.
    Refused(String),
    /// The gateway stops. It may have arrived.
    Aborted,
}

/// Makes one attempt. It takes `target.timeout` at the most, a little more where a child has to be
/// killed or a name server does not answer, and ends early once `abort` is readable.
pub fn send(
    target: &Target,
    payload: &Payload<'_>,
    children: &Arc<Children>,
    abort: BorrowedFd<'_>,
) -> DeliveryResult {
    let cancel = Cancel { abort: Some(abort), ..Cancel::at(Instant::now() + target.timeout) };
    if cancel.reason() == Some(CancelReason::Aborted) {
        return DeliveryResult::Aborted;
    }
    match &target.url {
        Some(url) => callback::send(target, url, payload, children, &cancel),
        None => command::send(target, payload, children, cancel),
    }
}
