//! What came together is written down, then synced once, and answered then.

use super::context::Context;
use super::draft::later;
use super::{Id, Inbound};

/// What was taken since the last sync: as much as one read of an adapter's output has, and its window allows.
#[derive(Default)]
pub(super) struct Batch {
    /// Something was written.
    pub written: bool,
    /// The turns that have begun with that.
    pub begun: Vec<Id>,
    /// Files that are not needed once it is durable.
    pub files: Vec<String>,
}

impl Inbound {
    /// Makes durable what was taken, before its answers are given.
    pub fn confirm(&mut self, context: Context<'_>) {
        let Batch { written, begun, files } = std::mem::take(&mut self.batch);
        if written && let Err(e) = context.hub.start(begun) {
            // All of it comes again, with its files.
            let first = self.answers.iter().map(|(serial, _)| *serial).min();
            self.answers.clear();
            return first.into_iter().for_each(|it| self.answer(it, later(&e.to_string())));
        }
        files.iter().for_each(|file| context.files.remove(file));
    }
}
