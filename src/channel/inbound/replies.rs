//! Commands whose replies wait: no turn holds their senders up, and every conversation waits behind them. Pure.

use crate::session::{Command, Id};

/// Replies of commands that may wait in a conversation, and so many more of what ends or lets go on a turn.
const MAX_WAITING: usize = 32;

/// Of all conversations together: some hundred bytes each.
const MAX_KNOWN: usize = 1024;

/// The commands of which that is not known to be over, and their conversations.
#[derive(Default)]
pub(super) struct Replies(Vec<(Id, String)>);

impl Replies {
    /// Whether a conversation may have the reply of one more. `waits`: the reply of this one does.
    pub fn has_room(&mut self, command: Command, at: &str, waits: &dyn Fn(Id) -> bool) -> bool {
        let urgent = matches!(command, Command::Stop | Command::Approve | Command::Deny);
        let most = if urgent { 2 * MAX_WAITING } else { MAX_WAITING };
        let is_full =
            |all: &[(Id, String)]| all.iter().filter(|(_, known)| known == at).count() >= most;
        if is_full(&self.0) {
            self.0.retain(|(id, known)| known != at || waits(*id));
        }
        !is_full(&self.0)
    }

    /// One was done there.
    pub fn add(&mut self, id: Id, at: &str, waits: &dyn Fn(Id) -> bool) {
        if self.0.len() >= MAX_KNOWN {
            self.0.retain(|(id, _)| waits(*id));
        }
        if self.0.len() < MAX_KNOWN {
            self.0.push((id, at.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replies_of_commands_that_wait_in_a_conversation_are_bounded() {
        let mut replies = Replies::default();
        let id = Id::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        let help = |replies: &mut Replies, at: &str, waits: bool| {
            replies.has_room(Command::Help, at, &|_| waits)
        };
        for _ in 0..MAX_WAITING {
            assert!(help(&mut replies, "a", true));
            replies.add(id, "a", &|_| true);
        }
        assert!(!help(&mut replies, "a", true));
        assert!(help(&mut replies, "b", true), "another conversation has its own");
        assert!(replies.has_room(Command::Stop, "a", &|_| true), "a turn can be ended");
        assert!(help(&mut replies, "a", false), "they were sent meanwhile");
        assert!(replies.0.is_empty());
    }
}
