//! What has to be sent where, target by target. Pure: times come in.
//!
//! One reply is sent to a target at a time, from the principals that wait in rotation. Those of one
//! principal go out in the order in which they were recorded: one that is put off holds up those
//! behind it, but no other principal and no other target.

use std::{collections::VecDeque, time::Instant};

use super::id::Id;
use super::message_table::{Entry, MessageTable};
use crate::config::Config;
use crate::named::ByName;
use crate::sys::gather::Gather;

/// The queues of all targets by name: a handful.
#[derive(Debug, Default)]
pub struct DeliveryQueues(ByName<TargetQueue>);

#[derive(Debug, Default)]
struct TargetQueue {
    /// Those that wait, in the order of their turn.
    queues: Vec<PrincipalQueue>,
    /// A delivery worker sends from it.
    sending: bool,
    /// The target is left alone until then.
    until: Option<Instant>,
}

/// The replies of one principal; never empty.
#[derive(Debug)]
struct PrincipalQueue {
    principal: String,
    ids: VecDeque<Id>,
    /// The first one is not tried again before then.
    until: Option<Instant>,
}

impl DeliveryQueues {
    /// What the table has that goes to no channel, in the order in which the replies were recorded.
    pub fn new(table: &MessageTable, config: &Config) -> DeliveryQueues {
        let mut queues = DeliveryQueues::default();
        for (id, entry) in table.sorted(Entry::is_to_be_sent, |entry| entry.outcome) {
            let target = entry.target().filter(|target| config.channel.get(target).is_none());
            target.iter().for_each(|target| queues.push(target, &entry.owner.principal, id));
        }
        queues
    }

    pub fn push(&mut self, target: &str, principal: &str, id: Id) {
        let queues = &mut self.0.of(target).queues;
        match queues.iter_mut().find(|queue| queue.principal == principal) {
            Some(queue) => queue.ids.push_back(id),
            None => {
                let (principal, ids) = (principal.to_owned(), VecDeque::from([id]));
                queues.push(PrincipalQueue { principal, ids, until: None });
            }
        }
    }

    /// The targets that can be sent to now, each to be given a worker.
    pub fn take_due(&mut self, now: Instant) -> Vec<String> {
        let due = self.0.iter().filter(|(_, queue)| queue.due(now).is_some_and(|at| at <= now));
        let due: Vec<String> = due.map(|(target, _)| target.to_owned()).gather();
        due.iter().for_each(|target| self.0.of(target).sending = true);
        due
    }

    /// Keeps a target for one that sends to it besides its worker; false where that is at work.
    pub fn claim(&mut self, target: &str) -> bool {
        !std::mem::replace(&mut self.0.of(target).sending, true)
    }

    /// When the next target can be sent to. `now` where that is possible already.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        self.0.values().filter_map(|queue| queue.due(now)).min()
    }

    /// What a target's worker is to send next.
    pub fn next(&self, target: &str, now: Instant) -> Option<Id> {
        let queues = &self.0.get(target)?.queues;
        let queue = queues.iter().find(|queue| queue.until.is_none_or(|until| until <= now))?;
        queue.ids.front().copied()
    }

    /// The principal whose first reply this is had its turn: the others come first now. That reply is
    /// settled, or not tried again before then.
    pub fn advance(&mut self, target: &str, id: Id, until: Option<Instant>) {
        let queues = &mut self.0.of(target).queues;
        let at = queues.iter().position(|queue| queue.ids.front() == Some(&id));
        if let Some(mut queue) = at.map(|at| queues.remove(at)) {
            queue.until = until;
            if until.is_none() {
                queue.ids.pop_front();
            }
            if !queue.ids.is_empty() {
                queues.push(queue);
            }
        }
    }

    /// A worker stops. `until`: the target is left alone until then.
    pub fn release(&mut self, target: &str, until: Option<Instant>) {
        let queue = self.0.of(target);
        (queue.sending, queue.until) = (false, until);
    }
}

impl TargetQueue {
    /// When it can be sent to; `None`: not before something else happens.
    fn due(&self, now: Instant) -> Option<Instant> {
        let queue = self.queues.iter().map(|queue| queue.until.unwrap_or(now)).min()?;
        (!self.sending).then(|| self.until.map_or(queue, |until| until.max(queue)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// What a worker sends that is never refused, from what is there.
    fn sent(queues: &mut DeliveryQueues, target: &str, now: Instant) -> Vec<Id> {
        let next = || {
            let id = queues.next(target, now)?;
            queues.advance(target, id, None);
            Some(id)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_target_that_rests_holds_up_no_other() {
        let (now, mut queues) = (Instant::now(), DeliveryQueues::default());
        let later = now + Duration::from_secs(1);
        for (target, id) in [("a", 1), ("b", 2), ("a", 3)] {
            queues.push(target, "owner", Id::from(id));
        }
        assert_eq!(queues.next_due(now), Some(now));
        assert_eq!(queues.take_due(now), ["a", "b"]);
        assert!(queues.take_due(now).is_empty() && queues.next_due(now).is_none());
        queues.release("a", Some(later));
        queues.advance("b", Id::from(2), None);
        assert_eq!(queues.next("b", now), None);
        assert_eq!(queues.next_due(now), Some(later));
        assert!(queues.take_due(now).is_empty());
        assert_eq!(queues.take_due(later), ["a"]);
        assert_eq!(queues.next("a", now), Some(Id::from(1)), "what was put off is the first");
        queues.advance("a", Id::from(1), None);
        assert_eq!(queues.next("a", now), Some(Id::from(3)));
    }

    #[test]
    fn a_principal_with_a_thousand_replies_does_not_hold_up_one_with_one() {
        let (now, mut queues) = (Instant::now(), DeliveryQueues::default());
        for id in 1..=1000 {
            queues.push("t", "a", Id::from(id));
        }
        queues.push("t", "b", Id::from(2000));
        queues.push("t", "b", Id::from(2001));
        let sent = sent(&mut queues, "t", now);
        assert_eq!(sent[..5], [1, 2000, 2, 2001, 3].map(Id::from), "in rotation");
        assert!(sent.len() == 1002 && sent[4..].is_sorted(), "and each in its own order");
    }

    #[test]
    fn a_reply_that_is_put_off_holds_up_its_principal_alone() {
        let (now, mut queues) = (Instant::now(), DeliveryQueues::default());
        let later = now + Duration::from_secs(1);
        for (principal, id) in [("a", 1), ("a", 2), ("b", 3), ("b", 4)] {
            queues.push("t", principal, Id::from(id));
        }
        queues.take_due(now);
        queues.advance("t", Id::from(1), Some(later));
        assert_eq!(sent(&mut queues, "t", now), [3, 4].map(Id::from));
        queues.release("t", None);
        assert_eq!((queues.next_due(now), queues.take_due(now).len()), (Some(later), 0));
        queues.push("t", "b", Id::from(5));
        assert_eq!(queues.take_due(now), ["t"], "somebody else need not wait");
        assert_eq!(sent(&mut queues, "t", now), [Id::from(5)]);
        assert_eq!(sent(&mut queues, "t", later), [1, 2].map(Id::from));
    }
}
