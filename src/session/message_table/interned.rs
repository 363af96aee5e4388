//! What many messages have alike, in memory once. Pure.

use std::sync::Arc;

use super::{MessageTable, Owner};

impl MessageTable {
    /// The owner as it is in memory already: with the session's newest message, or the newest of all.
    pub(super) fn shared(&self, owner: Owner) -> Arc<Owner> {
        let mine = owner.digest().and_then(|session| self.messages_of(session, 0).next_back());
        let known = mine.or_else(|| self.entries().next_back()).map(|(_, entry)| &entry.owner);
        known.filter(|known| ***known == owner).map_or_else(|| Arc::new(owner), Arc::clone)
    }

    /// The name of a target as it is in memory already.
    pub(super) fn target(&mut self, name: &str) -> Arc<str> {
        let known = self.targets.iter().find(|known| &***known == name).cloned();
        known.unwrap_or_else(|| {
            let new: Arc<str> = name.into();
            self.targets.push(Arc::clone(&new));
            new
        })
    }
}
