//! Secrets: keys, and what callbacks are signed with. Pure.

use crate::digest;
use std::fmt;

/// The fewest characters of a key: 128 bits in hex. Ours has 64.
const MIN_KEY: usize = 32;

/// The bytes of a secret. Printed as `Secret(…)`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// `whsec_BASE64` (Standard Webhooks), or the text itself.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it.
    pub fn parse(text: &str) -> Result<Secret, String> {
        let text = text.trim();
        let bytes = match text.strip_prefix("whsec_") {
            Some(base64) => {
                digest::from_base64(base64).ok_or("what follows whsec_ is not base64")?
            }
            None => text.as_bytes().to_vec(),
        };
        if bytes.is_empty() { Err("it is empty".to_owned()) } else { Ok(Secret(bytes)) }
    }

    /// A key that goes into a header as it is.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it.
    pub fn key(text: &str) -> Result<Secret, String> {
        let text = text.trim();
        if text.is_empty() {
            Err("it is empty".to_owned())
        } else if !text.bytes().all(|b| b.is_ascii_graphic()) {
            Err("a key is one word of visible ASCII characters".to_owned())
        } else {
            Ok(Secret(text.as_bytes().to_vec()))
        }
    }

    /// What a client shows: the same, and long enough to be no word that somebody guesses.
    ///
    /// # Errors
    /// As above.
    pub fn client(text: &str) -> Result<Secret, String> {
        let length = text.trim().len();
        if length < MIN_KEY {
            return Err(format!("the key has {length} characters, it needs {MIN_KEY}"));
        }
        Secret::key(text)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
