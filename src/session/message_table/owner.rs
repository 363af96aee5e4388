//! Whose a message is, and the digests by which sessions, keys and bodies are told apart. Pure.

use crate::digest;

/// Tells sessions, keys and bodies apart: half of a SHA-256.
pub type Digest = u128;

/// Whose message it is, and of which session. A session belongs to the principal that made it: the
/// same key in another principal's hands is another session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub principal: String,
    pub session: Option<String>,
    digest: Option<Digest>,
}

impl Owner {
    pub fn new(principal: String, session: Option<String>) -> Owner {
        let digest = session.as_ref().map(|session| session_digest(&principal, session));
        Owner { principal, session, digest }
    }

    /// What the session is known by, here and on disk; `None` without a session.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

pub fn session_digest(principal: &str, session: &str) -> Digest {
    digest_of(&[b"session", principal.as_bytes(), session.as_bytes()])
}

/// What a session's files are called.
pub fn session_name(session: Digest) -> String {
    format!("{session:032x}")
}

/// The digest of some parts; their borders count.
pub fn digest_of(parts: &[&[u8]]) -> Digest {
    let hash = digest::sha256_framed(parts);
    hash[..16].iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte))
}
