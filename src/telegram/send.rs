//! Sending: what becomes of the gateway's parts, edits and typing, within Telegram's limits. Pure.

use serde_json::Value;

use super::call::{Call, Outcome};
use super::lines::FromGateway;

/// What happens. `ticket`: of the action that it answers.
#[derive(Debug)]
pub enum Event {
    /// `send`, `delete` or `typing`; others are ignored.
    Line(FromGateway),
    Answer {
        ticket: u64,
        outcome: Outcome,
    },
    /// [`Sender::timer`] is due.
    Timer,
}

/// What is to be done, in this order.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// To be answered by its ticket. Several may be under way.
    Call { ticket: u64, call: Call },
    /// A line for the gateway.
    Line(Value),
    /// A line for the operator, on stderr.
    Say(String),
    /// The process ends with this status.
    Exit(u8),
}

/// What is sent and not answered.
pub struct Sender;

impl Sender {
    /// `own`: the bot's id.
    pub fn new(_own: i64) -> Sender {
        Sender
    }

    pub fn step(&mut self, _event: Event, _now: std::time::Instant) -> Vec<Action> {
        Vec::new()
    }

    pub fn timer(&self) -> Option<std::time::Instant> {
        None
    }
}
