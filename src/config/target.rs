//! `[deliver.NAME]`: a place where replies can be sent, and what its keys mean together.

use super::builder::both;
use super::schema::{Field, Key, section};
use super::url::Url;
use super::validate;
use super::value::Diagnostics;
use crate::digest;
use crate::limits;
use crate::named::ByName;
use crate::subprocess::Leftovers;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

section! {TARGET: |c, own| c.deliver.get_mut(own)?;
    pub struct Target {
        /// There if `command` is empty, and only then.
        url: Option<Url> = None, Url(Url::parse), "\"https://example.org/hook\"",
            "A callback: where each reply is posted to.";
        /// Absolute. `None`: callbacks are not signed.
        secret_file: Option<PathBuf> = None, Path, "\"~/.config/hook.secret\"",
            "What callbacks are signed with (Standard Webhooks): whsec_BASE64, or plain text.";
        /// Without NUL, as with an agent.
        command: Vec<String> = Vec::new(), List(validate::argument), "[\"my-notifier\", \"--flag\"]",
            "Program and arguments, no shell; the reply is on its stdin.";
        env: ByName<String> = ByName::new(), Env, "{ ROOM = \"ops\" }",
            "Environment variables for the command.";
        pass_env: Vec<String> = Vec::new(), List(validate::variable), "[\"LANG\", \"TZ\"]",
            "Variables of the gateway's own environment that the command may see.";
        /// As with an agent.
        leftovers: Leftovers = Leftovers::default(), Choice, "\"kill\"",
            "Processes that the command leaves running: \"kill\" or \"keep\" them.";
        /// For one attempt.
        timeout: Duration = limits::DELIVERY_TIMEOUT,
            Time(limits::DELIVERY_TIMEOUT_RANGE), "\"30s\"", "For one attempt.";
        /// The age at which an undelivered reply becomes a dead letter.
        expire: Duration = limits::DELIVERY_EXPIRE, Time(limits::DELIVERY_EXPIRE_RANGE), "\"1d\"",
            "Tried for so long; then the reply is a dead letter.";
    }
    beside {
        name: String,
        /// What the file holds, once [`super::Loaded::with_secrets`] has read it.
        secret: Option<Secret>,
    }
}

/// What callbacks are signed with. Printed as `Secret(…)`.
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
        if length < limits::MIN_KEY {
            return Err(format!("the key has {length} characters, it needs {}", limits::MIN_KEY));
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

impl Target {
    pub fn new(name: &str) -> Target {
        Target { name: name.to_owned(), ..Target::default() }
    }
}

/// The checks between a target's keys, each of which has passed its own.
pub fn settle(target: &Target, notes: &mut Diagnostics, file: &str) {
    let name = format!("deliver.{}", target.name);
    let like = "like [\"my-notifier\", \"--flag\"]";
    let (key, fault) = match (&target.url, target.command.first()) {
        (Some(_), Some(_)) => (".command", both(&name, notes, file)),
        (None, None) => {
            let way = "give it a url, like \"https://example.org/hook\", or a command,";
            ("", format!("has no address; {way} {like}"))
        }
        (None, Some(program)) if program.is_empty() => {
            (".command", format!("names no program: its first string is empty; write one {like}"))
        }
        (None, Some(_)) if target.secret_file.is_some() => {
            let why = "and only callbacks are signed; take it away";
            (".secret_file", format!("is given but {name} is a command, {why}"))
        }
        (Some(_), None) | (None, Some(_)) => return,
    };
    notes.fault(&format!("{name}{key}"), &fault);
}
