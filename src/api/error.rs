//! Errors in the shape that OpenAI's clients read: status, code and message.

use std::io;

use super::response;
use crate::agent::{ErrorResponse as Upstream, Outcome};
use crate::cancel::CancelReason;
use crate::escape::quoted;
use crate::http::{self, Closed, Response};
use crate::journal::WriteError;
use crate::json::text_or_null;
use crate::session::{AcquireError, Refusal};
use crate::shares::{Limit, LimitReached};

/// Seconds after which a client may try again: a turn's usual length, and a restart's.
const RETRY_AFTER: u64 = 5;

/// An answer with a status from 400 on. In a box: each `?` moves it.
#[derive(Debug)]
pub struct ApiError(pub Box<ErrorParts>);

#[derive(Debug)]
pub struct ErrorParts {
    pub status: u16,
    /// May be empty.
    pub code: &'static str,
    pub message: String,
    /// What of the request is wrong, where that is one thing.
    pub param: Option<String>,
    /// Retry-After, where the client may try the same again.
    pub(super) after: Option<String>,
    /// The error object of the agent's server, which is passed on.
    upstream: Option<String>,
}

impl ApiError {
    // Out of line: it is in the code of each error otherwise.
    #[inline(never)]
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> ApiError {
        let after = matches!(status, 429 | 503 | 507).then(|| RETRY_AFTER.to_string());
        let message = message.into();
        let (param, upstream) = (None, None);
        ApiError(Box::new(ErrorParts { status, code, message, param, after, upstream }))
    }

    /// The same, with the part of the request that is wrong, as a path in its JSON.
    pub fn param(mut self, place: impl Into<String>) -> ApiError {
        self.0.param = Some(place.into());
        self
    }

    /// The same, with so many seconds before the next try, where the upstream did not say.
    pub fn after(mut self, seconds: u64) -> ApiError {
        let told = self.0.after.take().filter(|_| self.0.upstream.is_some());
        self.0.after = told.or(Some(seconds.to_string()));
        self
    }

    /// An error of the agent's server: status, message and Retry-After are passed on.
    pub fn upstream(refused: Upstream) -> ApiError {
        let mut error = ApiError::new(refused.status, "upstream", refused.to_string());
        (error.0.after, error.0.upstream) = (refused.retry_after, Some(refused.error));
        error
    }

    /// 503 while the gateway goes down.
    pub fn stopping() -> ApiError {
        Refusal::Stopping.into()
    }

    /// 410 for the reply of a response that was deleted while it was waited for; what is asked for
    /// later is 404.
    pub fn deleted() -> ApiError {
        ApiError::new(410, "response_deleted", "The response was deleted.")
    }

    /// 404 for a `previous_response_id`, with OpenAI's code for it.
    pub fn previous_not_found() -> ApiError {
        let message = "previous_response_id: that response, or one before it, is not known \
                       (any more).";
        let error = ApiError::new(404, "previous_response_not_found", message);
        error.param("previous_response_id")
    }

    /// The system is short of what a turn needs.
    pub fn out_of_resources(e: &io::Error) -> ApiError {
        ApiError::new(503, "no_turn", format!("The gateway is short of resources: {e}."))
    }

    /// A limit that was reached; `code`: where it is the gateway's.
    pub fn reached(status: u16, code: &'static str, reached: &LimitReached) -> ApiError {
        let code = match reached.over {
            Limit::Session => "session_queue_full",
            Limit::Principal => "share_reached",
            Limit::Gateway => code,
        };
        ApiError::new(status, code, reached.message.clone())
    }

    pub fn response(&self) -> Response {
        let body = format!(r#"{{"error":{}}}"#, self.object());
        let after = self.0.after.iter().map(|after| ("Retry-After", after.clone()));
        let bearer = || ("WWW-Authenticate", "Bearer".to_owned());
        let key = (self.0.code == "invalid_api_key").then(bearer);
        let add = |response: Response, (name, value)| response.header(name, value);
        after.chain(key).fold(response::json(self.0.status, body), add)
    }

    /// The same as an event of a stream, whose status was sent before.
    pub fn event(&self) -> String {
        format!(r#"{{"error":{},"status":{}}}"#, self.object(), self.0.status)
    }

    /// As OpenAI's clients read it. Its type follows from the status.
    fn object(&self) -> String {
        let kind = match self.0.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        let code = Some(self.0.code).filter(|code| !code.is_empty());
        let (message, code) = (quoted(&self.0.message), text_or_null(code));
        let param = text_or_null(self.0.param.as_deref());
        self.0.upstream.clone().unwrap_or_else(|| {
            format!(r#"{{"message":{message},"type":"{kind}","param":{param},"code":{code}}}"#)
        })
    }
}

/// A malformed request.
pub fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(400, "bad_request", message)
}

/// The same of one field; `words` follow its path.
#[inline(never)]
pub fn bad_field(place: &str, words: &str) -> ApiError {
    bad(format!("{place:?} {words}.")).param(place)
}

/// Why a handler has sent no answer, or not all of it.
pub enum HandlerError {
    /// The answer is this error.
    Api(ApiError),
    /// The connection has ended.
    Closed(Closed),
}

/// A handler sends its own answer, unless it is an error.
pub type Handled = Result<(), HandlerError>;

impl<E: Into<ApiError>> From<E> for HandlerError {
    fn from(error: E) -> HandlerError {
        HandlerError::Api(error.into())
    }
}

impl From<Closed> for HandlerError {
    fn from(error: Closed) -> HandlerError {
        HandlerError::Closed(error)
    }
}

impl From<io::Error> for HandlerError {
    fn from(error: io::Error) -> HandlerError {
        HandlerError::Closed(error.into())
    }
}

impl HandlerError {
    pub fn client_gone() -> HandlerError {
        io::Error::from(io::ErrorKind::ConnectionAborted).into()
    }
}

impl From<AcquireError> for HandlerError {
    fn from(error: AcquireError) -> HandlerError {
        match error {
            AcquireError::Full(reached) => ApiError::reached(429, "queue_full", &reached).into(),
            AcquireError::Failed(e) => ApiError::out_of_resources(&e).into(),
            AcquireError::Ended(CancelReason::TimedOut) => {
                let message = "No turn was free within agent.turn_timeout (see limits.max_turns); \
                               try again later.";
                ApiError::new(503, "no_turn", message).into()
            }
            AcquireError::Ended(reason) => Outcome::Ended(reason).into(),
        }
    }
}

/// A turn that is not done.
impl From<Outcome> for HandlerError {
    fn from(outcome: Outcome) -> HandlerError {
        let problem = match outcome {
            Outcome::Done | Outcome::Ended(CancelReason::ClientGone) => {
                return HandlerError::client_gone();
            }
            Outcome::Temporary(words)
            | Outcome::Crashed(words)
            | Outcome::Short(words)
            | Outcome::Released(words) => ApiError::new(503, "agent_unavailable", words),
            Outcome::Failed(words) => ApiError::new(502, "agent_failed", words),
            Outcome::ErrorResponse(refused) => ApiError::upstream(*refused),
            Outcome::Ended(CancelReason::TimedOut) => ApiError::upstream(Upstream::timed_out()),
            Outcome::Ended(CancelReason::Aborted | CancelReason::Cancelled) => ApiError::stopping(),
        };
        problem.into()
    }
}

/// A message that was not accepted, or something that cannot be done to it.
impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let (status, code) = match &refusal {
            Refusal::Full(full) => return ApiError::reached(429, "queue_full", full),
            Refusal::Transcripts(full) => return ApiError::reached(507, "transcripts_full", full),
            Refusal::Attachments(full) => return ApiError::reached(507, "attachments_full", full),
            Refusal::Share(full) => return ApiError::reached(507, "journal_full", full),
            Refusal::Conflict => (409, "idempotency_conflict"),
            Refusal::Erased => (410, "session_reset"),
            Refusal::Journal(WriteError::Full(_)) => (507, "journal_full"),
            Refusal::Journal(WriteError::Unavailable(_)) => (503, "journal_unavailable"),
            Refusal::Journal(WriteError::TooLong) => (413, "too_long"),
            Refusal::Journal(WriteError::Broken(_)) => (503, "journal_broken"),
            Refusal::Stopping => (503, "gateway_stopping"),
            Refusal::Unknown => (404, "not_found"),
            Refusal::TooLate => (409, "already_finished"),
            Refusal::NotAsked => (409, "not_asked"),
            Refusal::NotYours => (403, "not_asked"),
            Refusal::ManyAsked(_) => (409, "approval_ambiguous"),
            Refusal::Failed(_) => (503, "unavailable"),
        };
        ApiError::new(status, code, refusal.to_string())
    }
}

/// A record that the journal did not accept.
impl From<WriteError> for ApiError {
    fn from(refused: WriteError) -> ApiError {
        Refusal::Journal(refused).into()
    }
}

/// What a client is told whose bytes are no request, or whose key was taken away while it was answered.
pub fn refused(refusal: http::Refusal) -> Response {
    let code = if refusal.status == 401 { "invalid_api_key" } else { "" };
    ApiError::new(refusal.status, code, refusal.reason).response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_known_shape() {
        let problem = ApiError::new(401, "invalid_api_key", "Say \"who\"\n");
        let value: serde_json::Value =
            serde_json::from_slice(problem.response().body(false)).unwrap();
        assert_eq!(value["error"]["message"], "Say \"who\"\n");
        assert_eq!(value["error"]["type"], "authentication_error");
        assert_eq!(value["error"]["code"], "invalid_api_key");
        assert!(value["error"]["param"].is_null());
    }
}
