//! What comes together is written down, then synced once, and answered then.

use super::context::Context;
use crate::journal::WriteError;
use crate::session::Id;

/// What was taken since the last sync: a few reads of an adapter's output, and no more than its window.
#[derive(Default)]
pub(super) struct Batch {
    /// Something was written.
    pub written: bool,
    /// The turns that have begun with that.
    pub begun: Vec<Id>,
    /// Files that are not needed once it is durable.
    pub files: Vec<String>,
}

impl Batch {
    /// Makes it durable, and ends it.
    pub fn confirm(&mut self, context: Context<'_>) -> Result<(), WriteError> {
        let Batch { written, begun, files } = std::mem::take(self);
        if written {
            context.hub.start(begun)?;
        }
        files.iter().for_each(|file| context.files.remove(file));
        Ok(())
    }
}
