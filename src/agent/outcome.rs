//! How turns end.

use std::{fmt, time::Instant};

use crate::cancel::CancelReason;
use crate::escape::quoted;
use crate::json::{member, string, text_or_null};

/// An error that the agent's server answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    /// 400 to 599.
    pub status: u16,
    /// OpenAI's error object as JSON: `message`, `type`, `param`, `code`.
    pub error: String,
    /// Its Retry-After, as it came.
    pub retry_after: Option<String>,
}

impl ErrorResponse {
    /// Whether the same may go better another time (RFC 9110 section 15.5.9, RFC 6585 section 4).
    pub fn is_temporary(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 500..=599)
    }

    /// For the journal.
    pub fn to_json(&self) -> String {
        let after = text_or_null(self.retry_after.as_deref());
        format!(r#"{{"status":{},"error":{},"retry_after":{after}}}"#, self.status, self.error)
    }

    /// What an agent says that did not answer in time (RFC 9110 section 15.6.5).
    pub fn timed_out() -> ErrorResponse {
        let message = "The agent did not finish within agent.turn_timeout.";
        ErrorResponse::server_error(504, "turn_timeout", message)
    }

    /// A temporary failure without a server's own words for it.
    pub fn unavailable(why: &str) -> ErrorResponse {
        ErrorResponse::server_error(503, "agent_unavailable", why)
    }

    fn server_error(status: u16, code: &str, message: &str) -> ErrorResponse {
        ErrorResponse::new(status, message, (&quoted("server_error"), "null", &quoted(code)))
    }

    /// `type`, `param` and `code` as JSON.
    pub fn new(
        status: u16,
        message: &str,
        (kind, param, code): (&str, &str, &str),
    ) -> ErrorResponse {
        let message = quoted(message);
        let error =
            format!(r#"{{"message":{message},"type":{kind},"param":{param},"code":{code}}}"#);
        ErrorResponse { status, error, retry_after: None }
    }

    pub fn parse(json: &str) -> Option<ErrorResponse> {
        let status = member(json, "status")?.parse().ok()?;
        let error = member(json, "error").unwrap_or("null").to_owned();
        let response = ErrorResponse { status, error, retry_after: string(json, "retry_after") };
        (400..600).contains(&status).then_some(response)
    }
}

/// The message of an error that has none.
pub const NO_REASON: &str = "it did not say why";

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = string(&self.error, "message");
        let message = message.as_deref().unwrap_or(NO_REASON);
        write!(f, "the upstream answered {}: {message}", self.status)
    }
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It may go better another time: exit status 75, an agent or server that is not there.
    Temporary(String),
    /// The agent was ended by a signal.
    Crashed(String),
    /// The system is short of descriptors, processes or memory: nobody's fault, and soon over.
    Short(String),
    /// It was ended for the sake of something else, and runs again. That costs no attempt.
    Released(String),
    /// It will not: any other exit status, or a reply that is too long.
    Failed(String),
    /// The agent's server refused, in its own words.
    ErrorResponse(Box<ErrorResponse>),
    /// From outside.
    Ended(CancelReason),
}

impl Outcome {
    /// Says in the log how an attempt at a turn ended: a line each, without what was said.
    pub fn log(&self, id: &str, session: Option<&str>, attempt: u32, began: Instant, bytes: usize) {
        let (session, millis) =
            (session.map_or("none".to_owned(), quoted), began.elapsed().as_millis());
        let turn =
            format!("turn {id} (session {session}, attempt {attempt}, {millis} ms, {bytes} bytes)");
        match self {
            Outcome::Done => log::info!("{turn} is done"),
            Outcome::Temporary(_)
            | Outcome::Crashed(_)
            | Outcome::Failed(_)
            | Outcome::ErrorResponse(_)
            | Outcome::Ended(CancelReason::TimedOut) => log::warn!("{turn} failed: {self}"),
            Outcome::Ended(_) | Outcome::Short(_) | Outcome::Released(_) => {
                log::info!("{turn} was ended: {self}");
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Done => "done",
            Outcome::Temporary(words)
            | Outcome::Crashed(words)
            | Outcome::Short(words)
            | Outcome::Released(words)
            | Outcome::Failed(words) => words,
            Outcome::ErrorResponse(response) => return response.fmt(f),
            Outcome::Ended(CancelReason::TimedOut) => "it took longer than agent.turn_timeout",
            Outcome::Ended(CancelReason::ClientGone) => "the client went away",
            Outcome::Ended(CancelReason::Cancelled) => "it was cancelled",
            Outcome::Ended(CancelReason::Aborted) => "the gateway is stopping",
        })
    }
}
