//! Whether who has said something may still talk, once it is its message's turn.

use super::hub::Hub;
use super::message_table::Place;
use crate::journal::record::{Accepted, Fact};

impl Hub {
    /// Whether who has said something on a channel may still talk there, and as the principal that he was; of one
    /// that is configured no more nothing is known.
    pub(super) fn is_served(&self, message: &Accepted) -> bool {
        let settings = self.settings();
        let origin = message.origin.as_deref().filter(|it| !it.from.is_empty());
        let channel = message.deliver.as_ref().and_then(|it| settings.config.channel.get(it));
        let Some((origin, channel)) = origin.zip(channel) else { return true };
        let (state, name) = (self.lock(), &*channel.name);
        let own = message.principal.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
        if !own && channel.r#as.get(&origin.from) != Some(&message.principal) {
            return false;
        }
        if !origin.group {
            let paired = |id: &str| state.table.fact(name, Fact::Paired, id).is_some();
            return channel.serves(&origin.from, &paired);
        }
        // A group may be listed by either name.
        let now = |group: &str| {
            let mut place = Place { conversation: group.to_owned(), thread: None };
            state.follow(name, &mut place);
            place.conversation
        };
        let here = now(&origin.conversation);
        channel.groups.iter().any(|group| *group == origin.conversation || now(group) == here)
    }
}
