//! What goes wrong, in the shape that OpenAI's clients read: status, code and words.

use crate::agent::{Outcome, Refused as Upstream};
use crate::http::Response;
use crate::journal::Refused;
use crate::session::{AcquireError, Full, Refusal};
use crate::shares::{Over, Reached};
use crate::text::quoted;

/// Seconds after which a client may try again: a turn's usual length, and a restart's.
const RETRY_AFTER: u64 = 5;

/// An answer that is no success.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    /// Seconds after which the client may try the same again, where it may.
    pub(super) after: Option<u64>,
    /// The agent's server said it: its words count.
    pub(super) upstream: Option<Box<Upstream>>,
}

impl ApiError {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> ApiError {
        let after = matches!(status, 429 | 503 | 507).then_some(RETRY_AFTER);
        ApiError { status, code, message: message.into(), after, upstream: None }
    }

    /// The same, with so many seconds before the next try, where the upstream did not say.
    pub fn after(mut self, seconds: u64) -> ApiError {
        if let Some(refused) = &mut self.upstream {
            refused.retry_after.get_or_insert_with(|| seconds.to_string());
        }
        ApiError { after: Some(seconds), ..self }
    }

    /// An error of the agent's server: status, words and Retry-After stay as they are.
    pub fn upstream(refused: Upstream) -> ApiError {
        let problem = ApiError::new(refused.status, "upstream", refused.to_string());
        ApiError { upstream: Some(Box::new(refused)), ..problem }
    }

    /// 503 while the gateway goes down.
    pub fn stopping() -> ApiError {
        ApiError::new(503, "gateway_stopping", "The gateway is stopping; try again in a moment.")
    }

    /// 404 for a `previous_response_id`, in OpenAI's word for it.
    pub fn previous_not_found() -> ApiError {
        let message = "The response that this one builds upon is not known (any more).";
        ApiError::new(404, "previous_response_not_found", message)
    }

    /// 410 for a message whose session was reset.
    pub fn erased() -> ApiError {
        let message = "The session of this message was reset: what it said is forgotten.";
        ApiError::new(410, "session_reset", message)
    }

    pub fn no_place(why: &AcquireError) -> Option<ApiError> {
        Some(match why {
            AcquireError::Full(full) => ApiError::full(full),
            AcquireError::TimedOut => ApiError::new(503, "no_turn", "No turn came free in time."),
            AcquireError::Aborted => ApiError::stopping(),
            AcquireError::Failed(e) => ApiError::short(e),
            AcquireError::Gone => return None,
        })
    }

    /// The system refuses what a turn needs.
    pub fn short(e: &std::io::Error) -> ApiError {
        ApiError::new(503, "no_turn", format!("The gateway is short of resources: {e}."))
    }

    fn full(full: &Full) -> ApiError {
        match full {
            Full::Session => {
                ApiError::new(429, "session_queue_full", "Too many messages wait in this session.")
            }
            Full::Queue(reached) => ApiError::reached(429, "queue_full", reached),
        }
    }

    /// A limit that was reached; `code`: where it is the gateway's and no principal's share.
    pub fn reached(status: u16, code: &'static str, reached: &Reached) -> ApiError {
        let code = if reached.over == Over::Principal { "share_reached" } else { code };
        ApiError::new(status, code, reached.message.clone())
    }

    /// What a turn that is not done means for its sender; `None` when nobody is there to be told.
    pub fn outcome(outcome: Outcome) -> Option<ApiError> {
        match outcome {
            Outcome::Done | Outcome::ClientGone => None,
            Outcome::Temporary(words) | Outcome::Crashed(words) | Outcome::Short(words) => {
                Some(ApiError::new(503, "agent_unavailable", words))
            }
            Outcome::Failed(words) => Some(ApiError::new(502, "agent_failed", words)),
            Outcome::Refused(refused) => Some(ApiError::upstream(*refused)),
            Outcome::TimedOut => Some(ApiError::upstream(Upstream::timed_out())),
            Outcome::Cut | Outcome::Cancelled => Some(ApiError::stopping()),
        }
    }

    pub fn response(&self) -> Response {
        let (response, after) = match &self.upstream {
            Some(refused) => {
                let body = format!(r#"{{"error":{}}}"#, refused.error).into_bytes();
                let response = Response::new(self.status, "application/json", body);
                (response, refused.retry_after.clone())
            }
            None => {
                let response = Response::error(self.status, Some(self.code), &self.message);
                (response, self.after.map(|seconds| seconds.to_string()))
            }
        };
        after.into_iter().fold(response, |response, after| response.header("Retry-After", after))
    }

    /// The same in the middle of a stream, which has no status any more.
    pub fn event(&self) -> String {
        if let Some(refused) = &self.upstream {
            return format!(r#"{{"error":{},"status":{}}}"#, refused.error, refused.status);
        }
        format!(
            r#"{{"error":{{"message":{},"type":"server_error","param":null,"code":"{}"}},"status":{}}}"#,
            quoted(&self.message),
            self.code,
            self.status
        )
    }
}

/// A message that was not accepted, or something that cannot be done to it.
impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        match refusal {
            Refusal::Full(full) => ApiError::full(&full),
            Refusal::Conflict => {
                let message = "This idempotency key was used for another request; take a new one.";
                ApiError::new(409, "idempotency_conflict", message)
            }
            Refusal::Erased => ApiError::erased(),
            Refusal::Transcripts(reached) => ApiError::reached(507, "transcripts_full", &reached),
            Refusal::Journal(refused) => refused.into(),
            Refusal::Share(reached) => ApiError::reached(507, "journal_full", &reached),
            Refusal::Stopping => ApiError::stopping(),
            Refusal::Unknown => ApiError::new(404, "not_found", "There is no message of this id."),
            Refusal::TooLate => ApiError::new(
                409,
                "already_finished",
                "The message's state does not allow that: only what waits or runs can be cancelled, only \
                 a failed turn or a dead letter tried again, only a dead letter dropped.",
            ),
            Refusal::Failed(why) => {
                let message = format!("The gateway is short of resources: {why}.");
                ApiError::new(503, "unavailable", message)
            }
        }
    }
}

/// The journal does not take it.
impl From<Refused> for ApiError {
    fn from(refused: Refused) -> ApiError {
        let (status, code) = match refused {
            Refused::Full(_) => (507, "journal_full"),
            Refused::Unavailable(_) => (503, "journal_unavailable"),
            Refused::TooLong => (413, "too_long"),
            Refused::Broken(_) => (503, "journal_broken"),
        };
        ApiError::new(status, code, format!("The message was not accepted: {refused}."))
    }
}
