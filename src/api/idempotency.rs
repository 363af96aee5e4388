//! `Idempotency-Key`: the same key from the same principal begins no second turn.

use super::auth::Authenticated;
use super::error::ApiError;
use crate::http::{Request, SLASH};
use crate::session::{Digest, digest_of};

/// Bytes of an idempotency key: a UUID has 36.
const MAX_IDEMPOTENCY_KEY: usize = 255;

pub const HEADER: &str = "Idempotency-Key";

/// Set on an answer that an earlier request began.
pub const REPLAYED: &str = "Idempotent-Replayed";

/// The header that puts a request into a session.
pub const SESSION: &str = "X-Hermes-Session-Id";

/// The digests of a request's key, bound to its principal, and of what it asks for: path, session
/// and body. `None` without a key.
pub fn key(
    request: &Request,
    proof: &Authenticated,
    body: &[u8],
) -> Result<Option<(Digest, Digest)>, ApiError> {
    let Some(key) = request.header(HEADER) else { return Ok(None) };
    let visible = key.iter().all(|byte| byte.is_ascii_graphic());
    if !visible || !(1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) {
        let message = format!("{HEADER} takes 1 to {MAX_IDEMPOTENCY_KEY} visible bytes.");
        return Err(ApiError::new(400, "bad_idempotency_key", message));
    }
    let session = request.header(SESSION).unwrap_or_default();
    let asked = digest_of(&[request.path().replace(SLASH, "/").as_bytes(), session, body]);
    Ok(Some((digest_of(&[b"key", proof.principal().as_bytes(), key]), asked)))
}
