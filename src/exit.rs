//! The exit statuses, in one place: what the service manager, shells and monitors read.

use std::{fmt, path::Path};

/// Why a process of ours ends, as its exit status tells it (sysexits.h where a name exists there).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A planned stop, or the command did what it says.
    Planned = 0,
    /// Failed.
    Failed = 1,
    /// The gateway is not running (`status`, LSB).
    NotRunning = 3,
    /// The state cannot be told (`status`, LSB).
    Unknown = 4,
    /// Wrong usage (`EX_USAGE`).
    Usage = 64,
    /// Something it needs is unavailable (`EX_UNAVAILABLE`); the service manager tries again.
    Unavailable = 69,
    /// A command may succeed later (`EX_TEMPFAIL`). The gateway ends with it where a restart in place has
    /// failed so that it can neither go on nor be executed: its service manager starts it again.
    TryLater = 75,
    /// The operator must act (`EX_CONFIG`), and the service manager does not try again. Never for
    /// an error that may pass.
    Config = 78,
    /// Terminated by a signal that nobody planned (128 + SIGTERM).
    Terminated = 143,
}

impl Exit {
    /// The number that `wait` sees.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// A command that did not do what it says. In a box, so that each `Result` with it stays small, and with
/// it the code that moves it.
#[derive(Debug)]
pub struct Failure(pub Box<Failed>);

/// The status to end with and the words for the user.
#[derive(Debug)]
pub struct Failed {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure(Box::new(Failed { exit, message: message.into() }))
    }

    /// Exit status 1: `cannot WHAT: ERROR`.
    pub fn cannot(what: &str, error: &dyn fmt::Display) -> Failure {
        Failure::failed(format!("cannot {what}: {error}"))
    }

    /// Exit status 1: `cannot VERB PATH: ERROR`.
    pub fn with(verb: &str, path: &Path, error: &dyn fmt::Display) -> Failure {
        Failure::cannot(&format!("{verb} {}", path.display()), error)
    }

    /// Exit status 1 with these words.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Failed, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}
