//! Agents that stay: processes that are shared by the turns of one principal, or of all, whatever
//! protocol they speak.
//!
//! What may enter: starting, feeding, hearing and ending them, and who may use which. What is said is
//! the protocol's.

mod directory;
mod inbox;
mod pool;
mod process;
mod reading;
mod status;
#[cfg(test)]
mod tests;
mod thread;

pub use directory::Directory;
pub use inbox::{Inbox, Input};
pub use pool::Living;
pub use process::{Address, Process};
pub use status::ProcessStatus;

use std::cell::RefCell;
use std::fmt;
use std::path::Path;

use super::outcome::Outcome;
use super::reply::Reply;
use super::turn::Turn;
use crate::cancel::Cancel;
use crate::config;

/// A turn that was given its process: what it is about, where its reply goes, and what ends it.
pub struct LivingTurn<'a, 'r> {
    pub config: &'a config::Agent,
    /// Where sessions get directories of their own: [`Directory::of`].
    pub data: &'a Path,
    pub turn: &'a Turn<'a>,
    pub reply: &'a RefCell<&'r mut dyn Reply>,
    pub cancel: Cancel<'a>,
}

/// What is said to a living process.
pub trait Protocol: Send + Sync + fmt::Debug {
    /// The first line for a new process, which is ready once [`Process::set_ready`] is called; `None`: it
    /// is ready at once.
    fn greeting(&self) -> Option<String>;

    /// A line of its stdout, for a turn or for the gateway. Called by the process's thread, which must not
    /// be held up.
    ///
    /// # Errors
    /// Why the process cannot be used any more, in words.
    fn line(&self, process: &Process, line: &str) -> Result<(), String>;

    /// For whom a line is that is too long, by its beginning.
    fn address(&self, beginning: &str) -> Option<Address>;

    /// Runs a turn.
    fn run(&self, process: &Process, turn: &LivingTurn<'_, '_>) -> Outcome;
}

/// The text that stands behind a member's name, quotes included, in what may be no whole JSON text.
pub fn text_behind(json: &str, name: &str) -> Option<String> {
    let (_, rest) = json.split_once(name)?;
    let (text, _) =
        rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?.split_once('"')?;
    Some(text.to_owned())
}
