//! A message as its sender may see it, and its JSON.

use std::sync::Arc;

use super::id::Id;
use super::message_table::{Outgoing, Owner};
use super::states::{DeliveryState, TurnState};
use crate::agent::{ErrorResponse, Report};
use crate::escape::quoted;
use crate::extent::{Extent, PLACEHOLDER};
pub use crate::sys::clock::rfc3339;

/// A message as its sender may see it.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: Id,
    pub who: Arc<Owner>,
    pub turn: TurnState,
    pub attempts: u32,
    pub reply: Option<String>,
    /// The inside of the reply where it is so long that it was not loaded; `reply` is empty then.
    pub long: Option<Extent>,
    /// What its agent told beside it.
    pub report: Report,
    pub error: Option<String>,
    /// That error as the agent's server put it, or as one whose turn may succeed another time.
    pub refused: Option<ErrorResponse>,
    /// What it waits for between two attempts.
    pub waiting: Option<Waiting>,
    pub created_at: u64,
    pub finished_at: Option<u64>,
    /// Its place in its session's line, from 1, while it is not over.
    pub position: Option<usize>,
    pub delivery: Option<Box<Outgoing>>,
    /// Why the last attempt of that failed.
    pub delivery_error: Option<String>,
    /// Its session was reset: all of this is forgotten.
    pub erased: bool,
}

/// What a turn waits for between two attempts, and until when: milliseconds since 1970, by what the
/// wall clock says now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Why its last attempt failed.
    pub reason: String,
    pub next_attempt_at: u64,
    /// When its last attempt will be made.
    pub gives_up_at: u64,
}

impl Waiting {
    pub fn to_json(&self) -> String {
        format!(
            r#"{{"reason":{},"next_attempt_at":"{}","gives_up_at":"{}"}}"#,
            quoted(&self.reason),
            rfc3339(self.next_attempt_at),
            rfc3339(self.gives_up_at),
        )
    }
}

impl Message {
    /// The inside of its reply.
    pub fn extent(&self) -> Extent {
        let short = || Extent::escaping(self.reply.as_deref().unwrap_or_default());
        self.long.clone().unwrap_or_else(short)
    }

    /// The message as JSON, as `GET /v1/messages/{id}` gives it, with [`PLACEHOLDER`] for a long reply.
    pub fn to_json(&self) -> String {
        let text = |text: Option<&str>| text.map_or_else(|| "null".to_owned(), quoted);
        let time = |millis: Option<u64>| millis.map(rfc3339);
        let deliveries = self.delivery.iter().filter_map(|delivery| {
            // Before there is a reply it is pending too; of what was cancelled there is none.
            let later = (!self.turn.is_over()).then_some(DeliveryState::Pending);
            Some(format!(
                r#"{{"target":{},"status":"{}","attempts":{},"error":{}}}"#,
                quoted(&delivery.target),
                delivery.state.or(later)?.word(),
                delivery.attempts,
                text(self.delivery_error.as_deref()),
            ))
        });
        let deliveries: Vec<String> = deliveries.collect();
        format!(
            r#"{{"id":"{}","session":{},"principal":{},"status":"{}","reply":{},"error":{},"error_status":{},"attempts":{},"created_at":"{}","finished_at":{},"position":{},"waiting":{},"deliveries":[{}]{}}}"#,
            self.id,
            text(self.who.session.as_deref()),
            quoted(&self.who.principal),
            self.turn.word(),
            match &self.long {
                Some(_) => format!("\"{PLACEHOLDER}\""),
                None => text(self.reply.as_deref()),
            },
            text(self.error.as_deref()),
            self.refused.as_ref().map_or_else(|| "null".to_owned(), |it| it.status.to_string()),
            self.attempts,
            rfc3339(self.created_at),
            text(time(self.finished_at).as_deref()),
            self.position.map_or_else(|| "null".to_owned(), |position| position.to_string()),
            self.waiting.as_ref().map_or_else(|| "null".to_owned(), Waiting::to_json),
            deliveries.join(","),
            self.report.usage.as_ref().map_or_else(String::new, |u| format!(r#","usage":{u}"#)),
        )
    }
}
