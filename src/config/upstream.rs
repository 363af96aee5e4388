//! The servers of the agent `upstream`, as `agent.url` names them. Pure.

use std::path::PathBuf;

use super::secret::Secret;
use super::url::Url;
use crate::named::ByName;

/// A server. What its entry leaves out is that of [`super::Agent`]: see [`super::Agent::inherit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// What `/chat/completions` is appended to.
    pub url: Url,
    /// Absolute. `None`: it asks for no key.
    pub key_file: Option<PathBuf>,
    /// Its name for the model `default`; empty: the first that it lists.
    pub model: String,
    /// Names that clients may say, and its own for them. Empty: they pass as they are.
    pub models: ByName<String>,
    /// The keys of its table; empty where it is a text.
    pub given: Vec<String>,
    /// What the file holds, once [`super::Loaded::with_secrets`] has read it.
    pub key: Option<Secret>,
}

impl Upstream {
    pub fn has(&self, key: &str) -> bool {
        self.given.iter().any(|given| given == key)
    }
}
