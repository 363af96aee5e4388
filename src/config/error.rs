//! Where a value came from, and what is wrong with the ones that cannot be used: collected over
//! the whole load, so that one run shows every mistake.

use crate::exit::{Exit, Failure};
use crate::limits::{MAX_CONFIG_PROBLEMS, MAX_SHOWN_VALUE};
use crate::sys::{fs::is_temporary, gather::Gather};
use std::io;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    Default,
    /// Line and column in the file, both from 1; columns count characters.
    File {
        line: usize,
        column: usize,
    },
    /// The argument as the user wrote it, made safe to print.
    Set(String),
}

impl Location {
    /// `FILE:LINE:COLUMN`, `--set …`, or the file alone.
    pub fn show(&self, file: &str) -> String {
        match self {
            Location::Default => file.to_owned(),
            Location::File { line, column } => format!("{file}:{line}:{column}"),
            Location::Set(argument) => argument.clone(),
        }
    }
}

/// What is wrong, collected over a load.
#[derive(Debug, Default)]
pub struct Problems {
    /// By position in the file, then the arguments in their order.
    found: Vec<(Location, String)>,
    /// How many of them may pass by themselves.
    temporary: usize,
}

impl Problems {
    /// A file that cannot be read now, or not used at all.
    pub fn push_file(&mut self, location: Location, text: String, error: &io::Error) {
        self.temporary += usize::from(is_temporary(error));
        self.push(location, text);
    }

    pub fn push(&mut self, location: Location, text: String) {
        let position = |location: &Location| match location {
            Location::Default => (0, 0),
            Location::File { line, column } => (*line, *column),
            Location::Set(_) => (usize::MAX, 0),
        };
        let at = self.found.partition_point(|(known, _)| position(known) <= position(&location));
        self.found.insert(at, (location, text));
    }

    pub fn report(&mut self, location: Location, result: Result<(), String>) {
        result.unwrap_or_else(|fault| self.push(location, fault));
    }

    /// One line a problem, each with its place in this file: the first [`MAX_CONFIG_PROBLEMS`], the
    /// others are counted.
    pub fn lines(&self, file: &str) -> Vec<String> {
        let shown = self.found.iter().take(MAX_CONFIG_PROBLEMS);
        let mut lines: Vec<_> = shown.map(|(at, text)| at.show(file) + ": " + text).gather();
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
    text.chars().take(MAX_SHOWN_VALUE).map(safe).chain(cut).gather().concat()
}
