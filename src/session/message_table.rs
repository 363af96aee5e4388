//! What the gateway knows of its messages. Pure: records go in, whether they are being written now
//! or read back at a start, so that both ways lead to the same state.
//!
//! Texts and replies stay in the journal; here are the numbers of the records that hold them.

mod accounts;
mod entries;
mod entry;
mod erase;
mod expiry;
mod owner;
mod retries;
mod sessions;

use std::collections::VecDeque;
use std::sync::Arc;

use super::clock::ClockRecord;
use super::id::Id;
use super::states::{DeliveryState, TurnState};
use crate::digest_map::DigestMap;
use crate::journal::record::{Accepted, Record, Stamp, Step};
use crate::limits::RECORD_OVERHEAD;
use crate::named::ByName;
use accounts::Account;
use entries::Entries;
use erase::Erasing;
use sessions::Records;

pub use accounts::Usage;
pub use entry::{Entry, Key, Outgoing, RetryState};
pub use owner::{Digest, KnownOwner, Owner, digest_of, session_digest};

/// Senders whose names are shared by their messages: the sessions that are busy at one time. Others
/// are right too, and take some more memory.
const RECENT_PARTIES: usize = 64;

/// How many messages there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub queued: usize,
    pub running: usize,
    /// Replies that wait for their delivery.
    pub outbox: usize,
    pub dead_letters: usize,
    /// All that are known.
    pub kept: usize,
}

impl Counts {
    /// Counts a message in that state, or no longer.
    fn count(&mut self, turn: TurnState, delivery: Option<DeliveryState>, add: bool) {
        let Counts { queued, running, outbox, dead_letters, .. } = self;
        let step = |count: &mut usize| {
            *count = if add { *count + 1 } else { count.saturating_sub(1) };
        };
        match turn {
            TurnState::Queued | TurnState::Resting => step(queued),
            TurnState::Running => step(running),
            TurnState::Done | TurnState::Failed | TurnState::Cancelled => {}
        }
        match delivery {
            Some(DeliveryState::Pending | DeliveryState::Sending) => step(outbox),
            Some(DeliveryState::Dead) => step(dead_letters),
            Some(DeliveryState::Delivered | DeliveryState::Dropped) | None => {}
        }
    }
}

/// All messages that are known.
#[derive(Debug, Default)]
pub struct MessageTable {
    /// In the order of their ids, which is that of acceptance.
    entries: Entries,
    /// What each session has in the journal.
    records: Records,
    /// Senders that came lately, newest last.
    recent: Vec<Arc<KnownOwner>>,
    /// Messages by the digest of principal and idempotency key.
    keys: DigestMap,
    /// The last reset of each session, by its record, and the newest message that there was then.
    pub(super) resets: DigestMap,
    newest_at_reset: DigestMap,
    /// What each principal has.
    accounts: ByName<Account>,
    /// Settled messages with a key in the order in which they got there.
    keyed: VecDeque<Id>,
    /// Of each session that is not idle, the messages that keep it from that.
    busy: DigestMap,
    erasing: Erasing,
    /// The journal says more of some messages than has to stay.
    pub must_erase: bool,
    pub counts: Counts,
    /// The newest id.
    pub last: Option<Id>,
    /// The stamp of the newest record.
    pub newest: Stamp,
    /// The newest record of the clock.
    pub clock: Option<ClockRecord>,
}

impl MessageTable {
    /// Takes a record of this number that has `length` bytes of JSON.
    ///
    /// # Errors
    /// It does not follow from the ones before: in words.
    pub fn apply(&mut self, number: u64, record: &Record, length: usize) -> Result<(), String> {
        let bytes = length as u64 + RECORD_OVERHEAD;
        match record {
            Record::Accepted(accepted) => return self.accept(number, accepted, bytes),
            Record::Reset { principal, session, at, transcript_only } => {
                self.date(*at);
                self.reset(session_digest(principal, session), number, !transcript_only);
            }
            Record::Clock { boot, since_boot, at } => {
                let (boot, since_boot, at) = (boot.clone(), *since_boot, self.date(*at));
                self.clock = Some(ClockRecord { record: number, boot, since_boot, at });
            }
            Record::Unknown { id } => self.weigh(id.as_deref().and_then(Id::parse), number, bytes),
            Record::Step { id, n, at, step } => {
                let (id, at) = (parse(id)?, self.date(*at));
                let by = (number, *n, at);
                if let Step::Forgotten = step {
                    // Its sender had it deleted.
                    self.forget(&[id]);
                    self.must_erase = true;
                } else if self.get(id).is_some_and(|entry| self.is_erased(entry)) {
                    // An older gateway went on with its delivery; its end is what a compaction leaves.
                    self.end_erased(id, step, by, bytes);
                    return Ok(());
                } else {
                    self.check(record)?;
                }
                self.advance(id, step, by);
                if let Step::Retry(retry) = step {
                    self.put_off(id, retry, at);
                }
                self.weigh(Some(id), number, bytes);
            }
        }
        Ok(())
    }

    /// Whether a record follows from what is known; nothing changes.
    ///
    /// # Errors
    /// As with [`Book::apply`].
    pub fn check(&self, record: &Record) -> Result<(), String> {
        match record {
            Record::Accepted(accepted) => {
                let id = parse(&accepted.id)?;
                let newer = self.last < Some(id);
                if newer { Ok(()) } else { Err(format!("message {id} is not new")) }
            }
            Record::Reset { .. } | Record::Clock { .. } | Record::Unknown { .. } => Ok(()),
            Record::Step { id, step, .. } => {
                let known = self.get(parse(id)?);
                let entry = known.ok_or_else(|| format!("message {id} is not known"))?;
                let follows = match step {
                    Step::Forgotten => entry.is_settled(),
                    _ if self.is_erased(entry) => false,
                    _ => {
                        let delivery = entry.delivery_state().and_then(|state| state.after(step));
                        delivery.is_some() || entry.turn.after(step).is_some()
                    }
                };
                let state = (entry.turn, entry.delivery_state());
                let wrong =
                    || format!("message {id} is {state:?}, and {} cannot follow", record.word());
                follows.then_some(()).ok_or_else(wrong)
            }
        }
    }

    /// Counts what a record of a message takes in the journal, and that it is there.
    fn weigh(&mut self, id: Option<Id>, number: u64, bytes: u64) {
        let Some(entry) = id.and_then(|id| self.entries.get_mut(id)) else { return };
        entry.bytes += bytes;
        self.accounts.of(&entry.who.principal).bytes += bytes;
        if let Some(session) = entry.session() {
            self.records.add(session, number, std::mem::replace(&mut entry.latest, number));
        }
    }

    fn accept(&mut self, number: u64, record: &Accepted, bytes: u64) -> Result<(), String> {
        let id = parse(&record.id)?;
        if self.last >= Some(id) {
            return Err(format!("message {id} is not newer than the one before it"));
        }
        let who = Owner { principal: record.principal.clone(), session: record.session.clone() };
        let wrong = |text: &str| format!("{text:?} is no digest");
        let hex = |text: &String| Digest::from_str_radix(text, 16).map_err(|_| wrong(text));
        let body = record.body.as_ref().map_or(Ok(0), hex)?;
        let key = record.key.as_ref().map(hex).transpose()?;
        let key = key.map(|key| Box::new(Key { key, body }));
        let delivery = record.deliver.clone();
        let delivery = delivery.map(|target| Box::new(Outgoing { target, ..Outgoing::default() }));
        if let Some(key) = &key {
            self.keys.insert(key.key, id.0);
        }
        let entry = Entry {
            who: self.party(who),
            accepted: number,
            queued: number,
            at: record.at.at,
            key,
            delivery,
            ..Entry::default()
        };
        let session = entry.session();
        let at = self.date(record.at);
        self.last = Some(id);
        let account = self.accounts.of(&record.principal);
        for counts in [&mut self.counts, &mut account.counts] {
            counts.kept += 1;
            counts.count(TurnState::Queued, None, true);
        }
        self.entries.push(id, entry);
        self.weigh(Some(id), number, bytes);
        self.keep_busy(session, true);
        if record.erased {
            self.change(id, |entry| (entry.turn, entry.ended) = (TurnState::Cancelled, at));
            self.erase(id);
        }
        Ok(())
    }

    /// The shared form of a sender.
    fn party(&mut self, who: Owner) -> Arc<KnownOwner> {
        let same = |known: &Arc<KnownOwner>| Owner::eq(known, &who);
        let party = match self.recent.iter().rposition(same) {
            Some(at) => self.recent.remove(at),
            None => Arc::new(KnownOwner::new(who)),
        };
        if self.recent.len() >= RECENT_PARTIES {
            self.recent.remove(0);
        }
        self.recent.push(Arc::clone(&party));
        party
    }

    /// Changes an entry and keeps count of it.
    fn change(&mut self, id: Id, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let before = (entry.turn, entry.delivery_state());
        let (was_settled, was_dead) = (entry.is_settled(), entry.is_dead());
        change(entry);
        let after = (entry.turn, entry.delivery_state());
        let (settled, dead, keyed) = (entry.is_settled(), entry.is_dead(), entry.key.is_some());
        let (was_busy, busy) = (!was_settled || was_dead, !settled || dead);
        let session = entry.session();
        let account = self.accounts.of(&entry.who.principal);
        for counts in [&mut self.counts, &mut account.counts] {
            counts.count(before.0, before.1, false);
            counts.count(after.0, after.1, true);
        }
        if dead {
            account.dead.add(id.0);
        } else if was_dead {
            account.dead.remove(id.0);
        }
        if !busy && was_busy {
            let list = if keyed { &mut self.keyed } else { &mut account.plain };
            list.push_back(id);
        }
        if was_busy != busy {
            self.keep_busy(session, busy);
        }
    }

    /// Takes a step that was checked.
    fn advance(&mut self, id: Id, step: &Step, (number, n, at): Cause) {
        self.change(id, |entry| {
            let before = entry.turn;
            entry.turn = before.after(step).unwrap_or(before);
            let mut unused = Outgoing::default();
            let outgoing = entry.delivery.as_deref_mut().unwrap_or(&mut unused);
            outgoing.state = outgoing.state.and_then(|state| state.after(step)).or(outgoing.state);
            match step {
                Step::Started => {
                    entry.attempts = n;
                    // The process that ran it had ended by then.
                    entry.cuts += u32::from(before == TurnState::Running);
                }
                Step::Retry(_) => entry.outcome = number,
                Step::Requeued => entry.begin_anew(number),
                Step::Done(..) | Step::Failed(..) | Step::Cancelled(_) => {
                    (entry.outcome, entry.ended) = (number, at);
                    (entry.cuts, entry.failing) = (0, None);
                    // Nothing is delivered of a message that was cancelled.
                    if entry.turn != TurnState::Cancelled {
                        (outgoing.state, outgoing.since) = (Some(DeliveryState::Pending), at);
                    }
                }
                Step::Sending => outgoing.attempts = n,
                Step::Deferred(_) | Step::Dead(_) => outgoing.trouble = number,
                Step::Revived => (outgoing.attempts, outgoing.since) = (0, at),
                Step::Released | Step::Delivered | Step::Dropped | Step::Forgotten => {}
            }
        });
        if let Step::Requeued = step {
            self.unsettle(id);
        }
    }

    pub fn get(&self, id: Id) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// All messages in the order of acceptance.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (Id, &Entry)> {
        self.entries.iter()
    }

    /// Messages older than this one, or all; the newest first.
    pub fn before(&self, id: Option<Id>) -> impl Iterator<Item = (Id, &Entry)> {
        self.entries.before(id)
    }

    pub fn dead_letters(&self) -> impl Iterator<Item = (Id, &Entry)> {
        let ids = self.accounts.iter().flat_map(|(_, own)| own.dead.keys().map(Id));
        ids.filter_map(|id| Some((id, self.get(id)?)))
    }

    /// The message that this idempotency key began.
    pub fn by_key(&self, key: Digest) -> Option<(Id, &Entry)> {
        let id = Id(self.keys.get(key)?);
        Some((id, self.get(id)?))
    }

    /// What the records of known messages take in the journal.
    pub fn bytes(&self) -> u64 {
        self.accounts.iter().map(|(_, own)| own.bytes).sum()
    }
}

/// The record of a step: its number, of which attempt it tells, and when it was written.
type Cause = (u64, u32, Stamp);

fn parse(id: &str) -> Result<Id, String> {
    Id::parse(id).ok_or_else(|| format!("{id:?} is no message id"))
}

#[cfg(test)]
mod tests;
