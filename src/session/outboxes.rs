//! What has to be sent where, target by target. Pure: times come in.
//!
//! Replies to one target go out in the order in which they were recorded. One that is put off holds
//! up those behind it, and no other target.

use std::collections::VecDeque;
use std::time::Instant;

use super::book::{Book, Entry};
use super::id::Id;
use super::life::Delivery;

/// The queues of all targets: a handful.
#[derive(Debug, Default)]
pub struct Outboxes(Vec<Outbox>);

#[derive(Debug)]
struct Outbox {
    target: String,
    queue: VecDeque<Id>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    /// A sender works on the first of the queue.
    Sending,
    /// The first of the queue is not tried again before then.
    Resting(Instant),
}

impl Outboxes {
    /// What the book has, in the order in which the replies were recorded.
    pub fn new(book: &Book) -> Outboxes {
        let open = |state| matches!(state, Some(Delivery::Pending | Delivery::Sending));
        let entries = book.entries().filter(|(_, entry)| open(entry.delivery_state()));
        // Nearly in that order already: each goes in close to the end.
        let mut replies: Vec<(Id, &Entry)> = Vec::new();
        for (id, entry) in entries {
            let at = replies.partition_point(|(_, before)| before.outcome < entry.outcome);
            replies.insert(at, (id, entry));
        }
        let mut outboxes = Outboxes::default();
        for (id, entry) in replies {
            if let Some(outgoing) = &entry.delivery {
                outboxes.push(&outgoing.target, id);
            }
        }
        outboxes
    }

    pub fn push(&mut self, target: &str, id: Id) {
        match self.find(target) {
            Some(outbox) => outbox.queue.push_back(id),
            None => {
                let (target, queue) = (target.to_owned(), VecDeque::from([id]));
                self.0.push(Outbox { target, queue, state: State::Idle });
            }
        }
    }

    /// The targets that can be sent to now, each to be given a sender.
    pub fn take_due(&mut self, now: Instant) -> Vec<String> {
        let mut due = Vec::new();
        for outbox in &mut self.0 {
            if outbox.due(now).is_some_and(|at| at <= now) {
                outbox.state = State::Sending;
                due.push(outbox.target.clone());
            }
        }
        due
    }

    /// When the next target can be sent to. `now` where that is possible already.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        self.0.iter().filter_map(|outbox| outbox.due(now)).min()
    }

    /// What a sender is to send next.
    pub fn first(&mut self, target: &str) -> Option<Id> {
        self.find(target)?.queue.front().copied()
    }

    /// The first one is settled.
    pub fn pop(&mut self, target: &str) {
        if let Some(outbox) = self.find(target) {
            outbox.queue.pop_front();
        }
    }

    /// A sender stops. `until`: the first one is not tried again before then.
    pub fn rest(&mut self, target: &str, until: Option<Instant>) {
        if let Some(outbox) = self.find(target) {
            outbox.state = until.map_or(State::Idle, State::Resting);
        }
        self.0.retain(|outbox| outbox.target != target || !outbox.queue.is_empty());
    }

    fn find(&mut self, target: &str) -> Option<&mut Outbox> {
        self.0.iter_mut().find(|outbox| outbox.target == target)
    }
}

impl Outbox {
    /// When it can be sent to; `None`: not before something else happens.
    fn due(&self, now: Instant) -> Option<Instant> {
        match self.state {
            _ if self.queue.is_empty() => None,
            State::Idle => Some(now),
            State::Sending => None,
            State::Resting(until) => Some(until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_target_that_rests_holds_up_no_other() {
        let (now, mut outboxes) = (Instant::now(), Outboxes::default());
        let later = now + Duration::from_secs(1);
        for (target, id) in [("a", 1), ("b", 2), ("a", 3)] {
            outboxes.push(target, Id::from(id));
        }
        assert_eq!(outboxes.next_due(now), Some(now));
        assert_eq!(outboxes.take_due(now), ["a", "b"]);
        assert!(outboxes.take_due(now).is_empty() && outboxes.next_due(now).is_none());
        outboxes.rest("a", Some(later));
        outboxes.pop("b");
        assert_eq!(outboxes.first("b"), None);
        assert_eq!(outboxes.next_due(now), Some(later));
        assert!(outboxes.take_due(now).is_empty());
        assert_eq!(outboxes.take_due(later), ["a"]);
        assert_eq!(outboxes.first("a"), Some(Id::from(1)), "the one that was put off is the first");
        outboxes.pop("a");
        assert_eq!(outboxes.first("a"), Some(Id::from(3)));
    }
}
