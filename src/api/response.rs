//! What responses have in common.

use crate::http::Response;

/// Set on an answer to a repeated request with an idempotency key.
const REPLAYED: &str = "Idempotent-Replayed";

pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Response {
    Response::new(status, "application/json", body.into())
}

/// A response, which may be the repetition of an earlier one.
pub fn mark_replayed(response: Response, replayed: bool) -> Response {
    if replayed { response.header(REPLAYED, "true") } else { response }
}

/// Set on an answer that one of several upstreams has given: which one.
const UPSTREAM: &str = "X-Hermes-Upstream";

pub fn mark_upstream(response: Response, name: Option<String>) -> Response {
    match name {
        Some(name) => response.header(UPSTREAM, name),
        None => response,
    }
}

/// The head of a stream of server-sent events.
pub fn sse_head() -> Response {
    // Asks nginx not to collect a stream before it passes it on.
    Response::empty(200)
        .header("Content-Type", "text/event-stream")
        .header("X-Accel-Buffering", "no")
}
