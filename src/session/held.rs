//! Messages that nobody answers before their senders ask for that: they were old when they came.

use std::sync::Arc;

use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::{Digest, Entry, Owner, Place, digest_of};
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
            if !self.is_held(&entry) {
                continue;
            }
            let key = key_of(b"/missed", *id);
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

    /// Whether a message ended by being held.
    fn is_held(&self, entry: &Entry) -> bool {
        matches!(self.outcome(entry), Ok(Some(Step::Cancelled(why))) if why == HELD)
    }

    /// The key by which a message runs again that was held, whichever command asks for it.
    pub(super) fn key_of_held(&self, id: Id, entry: &Entry) -> Option<(Digest, Digest)> {
        self.is_held(entry).then(|| (key_of(b"/missed", id), 0))
    }

    /// Tells of what was held on a channel, where the process before this one has not.
    pub(super) fn tell_all_held(self: &Arc<Self>, channel: &str) {
        let mut owners: Vec<Arc<Owner>> = Vec::new();
        for (_, entry) in self.lock().table.sorted(Entry::is_held, |entry| entry.accepted) {
            let known = owners.iter().any(|known| **known == *entry.owner);
            if !known && entry.target() == Some(channel) {
                owners.push(Arc::clone(&entry.owner));
            }
        }
        owners.iter().for_each(|who| self.tell_held(channel, who));
    }

    /// Tells a session of what was held there since it was last told so.
    pub fn tell_held(self: &Arc<Self>, channel: &str, who: &Owner) {
        let mut held: Vec<(Id, Place)> = Vec::new();
        let mut add = |id, entry: &Entry| {
            let on = entry.channel.as_ref().filter(|_| entry.is_held());
            let on = on.filter(|_| entry.target() == Some(channel));
            held.extend(on.map(|on| (id, on.place.clone())));
        };
        who.digest().iter().for_each(|session| self.visit_session(*session, 0, &mut add));
        {
            let state = self.lock();
            let known = |what: &[u8], id| state.table.find_by_idempotency_key(key_of(what, id));
            let told = held.iter().rposition(|(id, _)| known(b"held", *id).is_some());
            held.drain(..told.map_or(0, |at| at + 1));
            held.retain(|(id, _)| known(b"/missed", *id).is_none());
        }
        let count = held.len();
        let Some((last, place)) = held.pop() else { return };
        let (messages, were, them) = match count {
            1 => ("message", "it was", "it"),
            _ => ("messages", "they were", "them"),
        };
        let text = format!(
            "{count} {messages} came here while nobody was there to answer, and {were} old by then; \
             /missed has {them} answered."
        );
        self.say(channel, (who.clone(), place), key_of(b"held", last), text);
    }
}

/// The key of what is done once for a message that was held.
fn key_of(what: &[u8], id: Id) -> Digest {
    digest_of(&[what, id.to_string().as_bytes()])
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
