//! Where a value came from, and what is wrong with the ones that cannot be used: collected over
//! the whole load, so that one run shows every mistake.

use crate::exit::{Exit, Failure};
use crate::limits::{MAX_CONFIG_PROBLEMS, MAX_SHOWN_VALUE};
use crate::sys::fs::is_temporary;
use std::fmt;
use std::io;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// Line and column in the file, both from 1; columns count characters.
    File {
        line: usize,
        column: usize,
    },
    /// The argument as the user wrote it, made safe to print.
    Set(String),
}

/// What is wrong, collected over a load.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<(Origin, String)>,
    /// How many of them may pass by themselves.
    temporary: usize,
}

impl Problems {
    /// A file that cannot be read now, or not used at all.
    pub fn push_file(&mut self, origin: Origin, text: impl Into<String>, error: &io::Error) {
        self.temporary += usize::from(is_temporary(error));
        self.push(origin, text);
    }

    pub fn push(&mut self, origin: Origin, text: impl Into<String>) {
        self.found.push((origin, text.into()));
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The error of a load that had these problems with this file: by position in the file, then the
    /// arguments in their order; the first [`MAX_CONFIG_PROBLEMS`], the others are counted.
    pub fn into_error(mut self, file: &str) -> ConfigError {
        self.found.sort_by_key(|(origin, _)| rank(origin));
        let shown = self.found.iter().take(MAX_CONFIG_PROBLEMS);
        let mut lines: Vec<_> = shown.map(|(at, text)| place(at, file) + ": " + text).collect();
        let more = self.found.len() - lines.len();
        lines.extend((more > 0).then(|| format!("{file}: and {more} more")));
        ConfigError { lines, is_temporary: self.temporary == self.found.len() }
    }
}

fn rank(origin: &Origin) -> (usize, usize) {
    match origin {
        Origin::Default => (0, 0),
        Origin::File { line, column } => (*line, *column),
        Origin::Set(_) => (usize::MAX, 0),
    }
}

/// `FILE:LINE:COLUMN`, `--set …`, or the file alone.
pub fn place(origin: &Origin, file: &str) -> String {
    match origin {
        Origin::Default => file.to_owned(),
        Origin::File { line, column } => format!("{file}:{line}:{column}"),
        Origin::Set(argument) => argument.clone(),
    }
}

/// A configuration that cannot be used. Displays as one line a problem, each with its place and
/// a suggested fix; never shows the value of an `agent.env` variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub lines: Vec<String>,
    /// Nothing is wrong but files that cannot be read now: another try may go better.
    pub is_temporary: bool,
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Failure {
        let (exit, what) = match e.is_temporary {
            true => (Exit::Unavailable, "the configuration cannot be read now; try again"),
            false => (Exit::Config, "the configuration is wrong"),
        };
        Failure::new(exit, format!("{what}\n{e}"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// Text from outside in quotes: escaped, and cut where it is long.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text))
}

/// Text from outside without anything that could move a terminal's cursor; cut where it is long.
pub fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(MAX_SHOWN_VALUE) {
        if c == '"' || c == '\'' {
            out.push(c);
        } else {
            out.extend(c.escape_debug());
        }
    }
    if text.chars().nth(MAX_SHOWN_VALUE).is_some() {
        out.push('…');
    }
    out
}
