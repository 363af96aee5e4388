//! Where a value came from, and what is wrong with the ones that cannot be used: collected over
//! the whole load, so that one run shows every mistake.

use crate::exit::{Exit, Failure};
use crate::limits::{MAX_CONFIG_PROBLEMS, MAX_SHOWN_VALUE};
use crate::sys::fs::is_temporary;
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
    /// By position in the file, then the arguments in their order.
    found: Vec<(Origin, String)>,
    /// How many of them may pass by themselves.
    temporary: usize,
}

impl Problems {
    /// A file that cannot be read now, or not used at all.
    pub fn push_file(&mut self, origin: Origin, text: String, error: &io::Error) {
        self.temporary += usize::from(is_temporary(error));
        self.push(origin, text);
    }

    pub fn push(&mut self, origin: Origin, text: String) {
        let place = |origin: &Origin| match origin {
            Origin::Default => (0, 0),
            Origin::File { line, column } => (*line, *column),
            Origin::Set(_) => (usize::MAX, 0),
        };
        let at = self.found.partition_point(|(known, _)| place(known) <= place(&origin));
        self.found.insert(at, (origin, text));
    }

    pub fn report(&mut self, origin: Origin, result: Result<(), String>) {
        result.unwrap_or_else(|fault| self.push(origin, fault));
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// One line a problem, each with its place in this file: the first [`MAX_CONFIG_PROBLEMS`], the
    /// others are counted.
    pub fn lines(&self, file: &str) -> Vec<String> {
        let shown = self.found.iter().take(MAX_CONFIG_PROBLEMS);
        let mut lines: Vec<_> = shown.map(|(at, text)| place(at, file) + ": " + text).collect();
        let more = self.found.len() - lines.len();
        lines.extend((more > 0).then(|| format!("{file}: and {more} more")));
        lines
    }

    /// The error of a load that had these problems with this file, if there are any. It never shows the
    /// value of an `agent.env` variable.
    pub fn check(&self, file: &str) -> Result<(), Failure> {
        if self.found.is_empty() {
            return Ok(());
        }
        // Nothing is wrong but files that cannot be read now: another try may go better.
        let (exit, what) = match self.temporary == self.found.len() {
            true => (Exit::Unavailable, "the configuration cannot be read now; try again"),
            false => (Exit::Config, "the configuration is wrong"),
        };
        Err(Failure::new(exit, format!("{what}\n{}", self.lines(file).join("\n"))))
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

/// Text from outside in quotes: escaped, and cut where it is long.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text))
}

/// Text from outside without anything that could move a terminal's cursor; cut where it is long.
pub fn shown(text: &str) -> String {
    let safe = |c: char| match c {
        '"' | '\'' => c.to_string(),
        _ => c.escape_debug().to_string(),
    };
    let cut = text.chars().nth(MAX_SHOWN_VALUE).map(|_| "…".to_owned());
    text.chars().take(MAX_SHOWN_VALUE).map(safe).chain(cut).collect()
}
