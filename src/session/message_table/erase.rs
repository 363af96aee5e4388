//! What is left of messages whose session was reset: ids and idempotency keys, so that a repeat is told
//! so and becomes no second turn. Pure.

use std::sync::Arc;

use super::{Digest, Entry, Id, MessageTable, Owner, Tree};
use crate::journal::Decision;
use crate::journal::record::{Accepted, Origin, Record, Step, id_of};
use crate::limits::{ERASED_AT_ONCE, ERASED_BYTES};
use crate::sys::gather::Gather;

impl MessageTable {
    /// Whether a message was over when its session was reset.
    pub fn is_erased(&self, entry: &Entry) -> bool {
        let erasure = |session: Digest| Some(self.resets.get(session)?.erasure);
        let newest = entry.outcome.max(entry.accepted);
        let reset = || entry.session().and_then(erasure).is_some_and(|reset| reset > newest);
        entry.erased || (entry.turn.is_over() && reset())
    }

    /// A message as it is now, with or without what it said.
    pub fn copy(&self, id: Id) -> Option<Entry> {
        let entry = self.get(id)?;
        Some(Entry { erased: self.is_erased(entry), ..entry.clone() })
    }

    /// Erases some messages of sessions that were reset; says whether there are more.
    pub fn erase_some(&mut self) -> bool {
        let Some(session) = self.to_erase.front().copied() else { return false };
        let reset = self.resets.get(session).map_or(0, |reset| reset.erasure);
        let before = self.messages_of(session, 0).take_while(|(_, entry)| entry.accepted < reset);
        let erased = before.filter(|(_, entry)| self.is_erased(entry));
        let ids: Vec<Id> = erased.map(|(id, _)| id).take(ERASED_AT_ONCE).gather();
        self.must_erase |= !ids.is_empty();
        ids.iter().for_each(|id| self.erase(*id));
        if ids.len() < ERASED_AT_ONCE {
            self.to_erase.pop_front();
        }
        !self.to_erase.is_empty()
    }

    /// A compaction begins, or is over; says whether there was something to erase. What is appended meanwhile it
    /// keeps unseen, and so it keeps all of what is erased or forgotten meanwhile: an end without its beginning
    /// would be no journal, and a beginning without its end another turn.
    pub fn copying(&mut self, begins: bool) -> bool {
        self.spared = begins.then(Tree::new);
        begins && std::mem::take(&mut self.must_erase)
    }

    pub(super) fn spare(&mut self, id: Id) {
        self.spared.iter_mut().for_each(|spared| _ = spared.insert(id.0, 0));
    }

    /// Forgets all of a message but its id and idempotency key.
    pub(super) fn erase(&mut self, id: Id) {
        self.spare(id);
        let (mut latest, mut session, mut files) = (0, None, None);
        self.change(id, &mut |entry| {
            (entry.delivery, entry.failing, entry.erased) = (None, None, true);
            entry.channel.iter_mut().for_each(|on| on.edited = (0, 0));
            entry.channel.take_if(|on| on.settle());
            files = entry.files.take();
            let owner = &entry.owner;
            let names = owner.principal.len() + owner.session.as_ref().map_or(0, String::len);
            // Of one without a key nothing stays: it is known until it is overdue, or the next start.
            let most = if entry.key.is_none() {
                0
            } else {
                ERASED_BYTES + names as u64 + u64::from(entry.left)
            };
            entry.bytes = entry.bytes.min(most);
            (latest, session) = (std::mem::take(&mut entry.latest), entry.session());
        });
        self.release(files);
        if let Some(session) = session {
            self.records.remove(session, latest);
            self.resets.of(session).erased += 1;
        }
    }

    /// Forgets all of a message that came from a channel but its ids and keys: it is of no session any more.
    pub(super) fn fade(&mut self, id: Id) {
        // A dead letter kept its session busy.
        self.change(id, &mut |entry| entry.delivery = None);
        let Some(entry) = self.get(id) else { return };
        let (session, latest, erased) = (entry.session(), entry.latest, entry.erased);
        let owner = Owner::new(entry.owner.principal.clone(), None);
        let newest = self.faded.back().and_then(|id| self.get(*id)).map(|entry| &entry.owner);
        let newest = newest.filter(|known| ***known == owner).cloned();
        let owner = newest.unwrap_or_else(|| Arc::new(owner));
        self.change(id, &mut |entry| {
            (entry.owner, entry.faded) = (Arc::clone(&owner), true);
        });
        if let Some(session) = session {
            self.records.remove(session, latest);
            if erased {
                self.resets.of(session).erased -= 1;
            }
        }
        if !erased {
            self.erase(id);
        }
        self.faded.push_back(id);
    }

    /// What a compaction does with a record.
    pub fn decide(&self, number: u64, json: &str) -> Decision {
        let id = id_of(json).and_then(Id::parse);
        if id.is_some_and(|id| self.spared.as_ref().is_some_and(|it| it.contains_key(&id.0))) {
            return Decision::Keep;
        }
        let entry = id.and_then(|id| Some((id, self.get(id)?)));
        // One that is about to be erased is not yet among the spared.
        let Some((id, entry)) = entry.filter(|(_, entry)| entry.erased) else {
            return match self.is_needed(number, json) {
                true => Decision::Keep,
                false => self.cursor_of_gone(number, json).unwrap_or(Decision::Drop),
            };
        };
        // New ids come after the newest.
        let stays = entry.key.is_some() || self.last == Some(id);
        if stays && number == entry.outcome {
            // So that an older gateway does not take the message for one that waits. Made without a look
            // at the reply, which may be long: the lock is held.
            let left = Record::step(id, 0, entry.ended, Step::Cancelled(String::new()));
            return Decision::Replace(left.to_json());
        }
        match (stays && number == entry.accepted).then(|| Record::parse(json)) {
            // It knows the idempotency key.
            Some(Ok(Record::Accepted(accepted))) => {
                let has_cursor = self.has_cursor(number);
                let Accepted { id, at, principal, session, key, body, deliver, origin, .. } =
                    *accepted;
                let origin = origin.filter(|origin| !origin.account.is_empty()).map(|origin| {
                    let Origin { account, ids, cursor, .. } = *origin;
                    let cursor = cursor.filter(|_| has_cursor);
                    Box::new(Origin { account, ids, cursor, ..Origin::default() })
                });
                let session = session.filter(|_| entry.owner.session.is_some());
                let deliver = deliver.filter(|_| origin.is_some());
                let left =
                    Accepted { id, at, principal, session, key, body, ..Accepted::default() };
                let left = Accepted { deliver, origin, erased: true, ..left };
                Decision::Replace(Record::Accepted(Box::new(left)).to_json())
            }
            _ => self.cursor_of_gone(number, json).unwrap_or(Decision::Erase),
        }
    }

    /// What is left of the record of a message that is not known any more, where a channel was read up to it.
    fn cursor_of_gone(&self, number: u64, json: &str) -> Option<Decision> {
        let known = self.has_cursor(number).then(|| Record::parse(json));
        let Some(Ok(Record::Accepted(accepted))) = known else { return None };
        Some(Decision::Replace(self.cursor_left(number, &accepted)?.to_json()))
    }
}
