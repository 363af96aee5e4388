//! Messages that nobody answers before their senders ask for that: they were old when they came.

use std::sync::Arc;

use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::{Digest, Entry, Owner, digest_of};
use super::states::TurnState;
use super::submit::{Draft, Refusal, Submitted};
use crate::config::Busy;
use crate::journal::record::{Accepted, Origin, Step};
use crate::sys::gather::Gather;

/// How many are taken at once: each is a sync of the disk, for which all of the channel waits.
const MAX_MISSED: usize = 20;

/// The end of a message that was held.
const HELD: &str = "held: it was old when it came, and /missed takes it";

impl Hub {
    /// Takes a message that nobody answers before its sender asks for that, as [`Hub::append`] does.
    pub fn hold(&self, mut draft: Draft, begun: &mut Vec<Id>) -> Result<Submitted, Refusal> {
        let mut stored = self.store(&mut draft)?;
        draft.origin.iter_mut().for_each(|origin| origin.held = true);
        let mut state = self.lock();
        if self.is_draining() {
            return Err(Refusal::Stopping);
        }
        let submitted = self.admit_in(&mut state, draft)?;
        if let Submitted::New { id, .. } = submitted {
            stored.iter_mut().for_each(|stored| stored.keep(&mut state));
            let held = self.write_step(&mut state, (id, 0), Step::Cancelled(HELD.to_owned()));
            if held.is_err() {
                // Without it the message is accepted all the same, and gets its turn.
                state.take_up(id);
            }
        }
        begun.extend(self.begin_attempts(&mut state));
        Ok(submitted)
    }

    /// Cancels what was held where the process before this one ended between its two records.
    pub(super) fn hold_again(&self, state: &mut State) {
        let is_held = |entry: &Entry| {
            let held = entry.channel.as_ref().is_some_and(|on| on.held);
            held && entry.turn == TurnState::Queued && entry.attempts == 0
        };
        let held = state.table.sorted(is_held, |entry| entry.accepted);
        let ids: Vec<Id> = held.into_iter().map(|(id, _)| id).gather();
        for id in ids {
            // Without it the message gets its turn.
            let _ = self.mark_cancelled(state, id, HELD);
        }
    }

    /// Submits what was held in a session, each message once, in their order, and not too many at once.
    /// How many were, how many are left, and why no more.
    pub(super) fn take_missed(
        self: &Arc<Self>,
        who: &Owner,
        command: Id,
    ) -> (usize, usize, Option<Refusal>) {
        let messages = self.messages_of(who);
        let held =
            messages.iter().filter(|(id, turn)| *turn == TurnState::Cancelled && *id < command);
        let (mut taken, mut left) = (0, 0);
        for (id, _) in held {
            let Some(entry) = self.lock().table.copy(*id) else { continue };
            let is_held =
                |step: &Option<Step>| matches!(step, Some(Step::Cancelled(why)) if why == HELD);
            let Ok(true) = self.outcome(&entry).map(|step| is_held(&step)) else { continue };
            let key = digest_of(&[b"/missed", id.to_string().as_bytes()]);
            if self.lock().table.find_by_idempotency_key(key).is_some() {
                continue;
            }
            if taken == MAX_MISSED {
                left += 1;
                continue;
            }
            let submitted = match self.accepted(&entry) {
                Ok(message) => self.submit(again(who, message, Some((key, 0)))),
                Err(e) => Err(Refusal::Failed(e.to_string())),
            };
            match submitted {
                Ok(Submitted::New { .. }) => taken += 1,
                Ok(Submitted::Known(_)) => {}
                Err(refusal) => return (taken, left, Some(refusal)),
            }
        }
        (taken, left, None)
    }
}

/// A message that is sent again.
pub(super) fn again(who: &Owner, message: Accepted, key: Option<(Digest, Digest)>) -> Draft {
    Draft {
        who: who.clone(),
        text: message.text,
        attachments: message.attachments,
        files: Vec::new(),
        context: message.context,
        deliver: message.deliver,
        origin: message.origin.map(|it| Box::new(place_beside(*it))),
        mode: Busy::Queue,
        attended: false,
        key,
    }
}

/// Where another message goes that belongs to one from there: it was offered by nobody.
fn place_beside(origin: Origin) -> Origin {
    let last = origin.ids.len().saturating_sub(1);
    let ids = origin.ids.into_iter().skip(last).gather();
    Origin { ids, account: String::new(), cursor: None, held: false, ..origin }
}
