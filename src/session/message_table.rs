//! What the gateway knows of its messages. Pure: records go in, whether they are being written now
//! or read back at a start, so that both ways lead to the same state.
//!
//! Texts and replies stay in the journal; here are the numbers of the records that hold them.

mod accounts;
mod entries;
mod entry;
mod erase;
mod facts;
mod interned;
mod on_channel;
mod owner;
mod record_index;
mod restored;
mod retention;
mod sessions;
mod usage;

use std::collections::VecDeque;
use std::sync::Arc;

use super::clock::ClockRecord;
use super::id::Id;
use super::states::{DeliveryState, TurnState};
use super::stored_file::Files;
use super::tree::{Tree, TreeOf};
use crate::journal::record::{Accepted, Record, Step, Timestamp};
use crate::limits::RECORD_OVERHEAD;
use crate::named::ByName;
use accounts::Account;
use entries::Entries;
use entry::Kind;
use on_channel::{Facts, bytes_left};
use record_index::{RecordIndex, Reset};

pub use accounts::{Counts, Usage};
pub use entry::{Entry, IdempotencyKey, Outgoing, RetryState};
pub use on_channel::{OnChannel, Parts, Place, channel_key};
pub use owner::{Digest, Owner, digest_of, session_digest, session_name};

/// All messages that are known.
#[derive(Debug, Default)]
pub struct MessageTable {
    /// In the order of their ids, which is that of acceptance.
    entries: Entries,
    /// What each session has in the journal.
    records: RecordIndex,
    /// The newest record of a living agent's own session, by session: its number, and its bytes.
    agent_sessions: Tree,
    /// Sessions that were reset.
    resets: TreeOf<Reset>,
    /// Sessions that were reset, and may have messages of before that which are to be erased.
    to_erase: VecDeque<Digest>,
    /// The ids of messages by the digest of principal and idempotency key.
    idempotency_keys: Tree,
    /// How many messages of a session are queued, run, are to be delivered or could not be.
    busy: Tree,
    /// What each principal has.
    accounts: ByName<Account>,
    /// Settled messages with a key in the order in which they got there.
    keyed: VecDeque<Id>,
    /// The same of those that came from channels; and what is known by its id alone.
    offered: VecDeque<Id>,
    faded: VecDeque<Id>,
    /// The ids of dead letters.
    dead_letters: Tree,
    /// What is kept of channels, by name.
    facts: ByName<Facts>,
    /// Those that replies go to: as many as configurations have named.
    targets: Vec<Arc<str>>,
    /// The newest message with the files of an upload: one that is sent again has those of the first.
    uploads: Tree,
    /// Files that no message has any more.
    pub gone: Vec<String>,
    /// The journal says more of some messages than has to stay.
    pub must_erase: bool,
    /// While a compaction is under way: what was erased or forgotten since it began.
    spared: Option<Tree>,
    pub counts: Counts,
    /// The newest id.
    pub last: Option<Id>,
    /// The stamp of the newest record.
    pub newest: Timestamp,
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
            Record::Accepted(accepted) => {
                self.check(record)?;
                self.accept(number, accepted, bytes)?;
            }
            Record::Reset { principal, session, at, transcript_only } => {
                self.next_stamp(*at);
                self.reset(
                    (principal, session_digest(principal, session)),
                    number,
                    !transcript_only,
                );
            }
            Record::AgentSession { principal, session, at, .. } => {
                self.next_stamp(*at);
                let of = (&**principal, session_digest(principal, session));
                self.keep_agent_session(of, number, bytes);
            }
            Record::Channel { channel, fact, key, value, at } => {
                self.next_stamp(*at);
                self.learn((number, bytes), (channel, *fact), (key, value));
            }
            Record::Clock { boot, since_boot, at } => {
                let (boot, since_boot, at) = (boot.clone(), *since_boot, self.next_stamp(*at));
                self.clock = Some(ClockRecord { record: number, boot, since_boot, at });
            }
            Record::Unknown { id } => {
                let id = id.as_deref().and_then(Id::parse);
                id.into_iter().for_each(|id| self.add_record(id, number, bytes, &mut |_| {}));
            }
            Record::Step { id, n, at, step } => {
                let (id, at) = (parse(id)?, self.next_stamp(*at));
                let entry = self.get(id);
                if let Step::Forgotten = step {
                    // Its sender had it deleted.
                    self.forget(&[id]);
                    self.must_erase = true;
                } else if entry.is_some_and(|entry| self.is_erased(entry)) {
                    // An older gateway went on with its delivery; its end is what a compaction leaves.
                    if let Step::Cancelled(_) = step {
                        self.change(id, &mut |entry| {
                            (entry.outcome, entry.ended) = (number, at);
                            entry.bytes += bytes;
                        });
                    }
                    return Ok(());
                } else {
                    self.check_step(id, entry, step)?;
                }
                self.advance(id, step, (number, *n, at), bytes);
            }
        }
        Ok(())
    }

    /// Whether a record follows from what is known; nothing changes.
    ///
    /// # Errors
    /// As with [`MessageTable::apply`].
    pub fn check(&self, record: &Record) -> Result<(), String> {
        match record {
            Record::Accepted(accepted) => {
                let id = parse(&accepted.id)?;
                let newer = self.last < Some(id);
                if newer { Ok(()) } else { Err(format!("message {id} is not new")) }
            }
            Record::Reset { .. } | Record::AgentSession { .. } | Record::Channel { .. } => Ok(()),
            Record::Clock { .. } | Record::Unknown { .. } => Ok(()),
            Record::Step { id, step, .. } => {
                let id = parse(id)?;
                self.check_step(id, self.get(id), step)
            }
        }
    }

    fn check_step(&self, id: Id, entry: Option<&Entry>, step: &Step) -> Result<(), String> {
        let entry = entry.ok_or_else(|| format!("message {id} is not known"))?;
        let follows = match step {
            Step::Forgotten => entry.is_settled(),
            _ if self.is_erased(entry) => false,
            _ => {
                let delivery = entry.delivery_state().and_then(|state| state.after(step));
                delivery.is_some() || entry.turn.after(step).is_some()
            }
        };
        let state = (entry.turn, entry.delivery_state());
        let wrong = || format!("message {id} is {state:?}, and {} cannot follow", step.word());
        follows.then_some(()).ok_or_else(wrong)
    }

    /// Changes an entry by a record: counts what that takes in the journal, and that it is there.
    fn add_record(&mut self, id: Id, number: u64, bytes: u64, change: &mut dyn FnMut(&mut Entry)) {
        self.change(id, &mut |entry| {
            change(entry);
            entry.bytes += bytes;
        });
        let Some(entry) = self.entries.get_mut(id) else { return };
        if let Some(session) = entry.session() {
            entry.latest = self.records.add(session, number, entry.latest);
        }
    }

    fn accept(&mut self, number: u64, record: &Accepted, bytes: u64) -> Result<(), String> {
        let id = parse(&record.id)?;
        let owner = Owner::new(record.principal.clone(), record.session.clone());
        let wrong = |text: &str| format!("{text:?} is no digest");
        let hex = |text: &String| Digest::from_str_radix(text, 16).map_err(|_| wrong(text));
        let body = record.body.as_ref().map_or(Ok(0), hex)?;
        let key = record.key.as_ref().map(hex).transpose()?;
        let key = key.map(|key| Box::new(IdempotencyKey { key, body }));
        let target = record.deliver.as_ref().map(|name| self.target(name));
        let delivery = target.map(|target| Box::new(Outgoing { target, ..Outgoing::default() }));
        if let Some(key) = &key {
            self.idempotency_keys.insert(key.key, id.0);
        }
        let name = record.deliver.as_deref().unwrap_or_default();
        let origin = record.origin.as_deref();
        let left = origin.map_or(0, |origin| bytes_left(name, origin));
        let channel = origin.map(|origin| Box::new(OnChannel::new(name, origin)));
        self.learn_origin(number, id.0, record);
        let files = Files::of(&record.attachments).map(Box::new);
        let upload = files.as_ref().map(|files| files.upload.0);
        if let Some(first) = upload.and_then(|upload| self.uploads.insert(upload, id.0)) {
            self.change(Id(first), &mut |entry| entry.files = None);
        }
        let entry = Entry {
            owner: self.shared(owner),
            accepted: number,
            queued: number,
            at: record.at.at,
            key,
            delivery,
            channel,
            files,
            offered: left > 0,
            left,
            ..Entry::default()
        };
        let at = self.next_stamp(record.at);
        self.last = Some(id);
        let after = Counts::of(&entry);
        let (owner, kind) = (Arc::clone(&entry.owner), entry.kind());
        self.entries.push(id, entry);
        self.recount(id, (&owner, kind), Counts::default(), after);
        self.add_record(id, number, bytes, &mut |_| {});
        if record.erased {
            self.change(id, &mut |entry| (entry.turn, entry.ended) = (TurnState::Cancelled, at));
            self.erase(id);
        }
        Ok(())
    }

    /// Changes an entry and keeps count of it.
    fn change(&mut self, id: Id, change: &mut dyn FnMut(&mut Entry)) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let before = Counts::of(entry);
        change(entry);
        let after = Counts::of(entry);
        let (owner, kind) = (Arc::clone(&entry.owner), entry.kind());
        self.recount(id, (&owner, kind), before, after);
    }

    /// Counts a message of this owner and kind that was so `before` and is so now; it counts as nothing where
    /// it is not known.
    fn recount(&mut self, id: Id, (owner, kind): (&Owner, Kind), before: Counts, after: Counts) {
        if before.is_busy() != after.is_busy()
            && let Some(session) = owner.digest()
        {
            let count = self.busy.get(&session).copied().unwrap_or(0);
            match if after.is_busy() { count + 1 } else { count.saturating_sub(1) } {
                0 => self.busy.remove(&session),
                count => self.busy.insert(session, count),
            };
        }
        let account = self.accounts.of(&owner.principal);
        self.counts.replace(before, after);
        account.counts.replace(before, after);
        if before.dead_letters > after.dead_letters {
            self.dead_letters.remove(&id.0);
        } else if after.dead_letters > before.dead_letters {
            self.dead_letters.insert(id.0, 0);
        }
        if before.is_busy() && !after.is_busy() && after.kept > 0 {
            let list = match kind {
                Kind::Plain => &mut account.unkeyed,
                Kind::Keyed => &mut self.keyed,
                Kind::Offered => &mut self.offered,
            };
            list.push_back(id);
        }
    }

    /// Takes a step that was checked, of attempt `n`: the record of this number and time.
    fn advance(&mut self, id: Id, step: &Step, (number, n, at): (u64, u32, Timestamp), bytes: u64) {
        self.add_record(id, number, bytes, &mut |entry| {
            let before = entry.turn;
            entry.turn = before.after(step).unwrap_or(before);
            let mut unused = Outgoing::default();
            let outgoing = entry.delivery.as_deref_mut().unwrap_or(&mut unused);
            outgoing.state = outgoing.state.and_then(|state| state.after(step)).or(outgoing.state);
            match step {
                Step::Started => {
                    entry.attempts = n;
                    // The process that ran it had ended by then.
                    entry.crashes += u32::from(before == TurnState::Running);
                }
                Step::Retry(retry) => {
                    entry.outcome = number;
                    // One that ended by itself shows that the message is not what ends its agent or us.
                    entry.crashes = if retry.crash { entry.crashes + 1 } else { 0 };
                    entry.failing = Some(Box::new(RetryState::new(retry, at)));
                }
                // Nothing was tried yet; its reply is delivered as if there had been none before.
                Step::Requeued => {
                    (entry.queued, entry.outcome, entry.ended) = (number, 0, Timestamp::default());
                    (entry.attempts, entry.crashes, entry.failing) = (0, 0, None);
                    (outgoing.state, outgoing.attempts, outgoing.error_record) = (None, 0, 0);
                    entry.channel.iter_mut().for_each(|on| on.parts = None);
                }
                Step::Done(..) | Step::Failed(..) | Step::Cancelled(_) => {
                    (entry.outcome, entry.ended) = (number, at);
                    (entry.crashes, entry.failing) = (0, None);
                    // Nothing is delivered of a message that was cancelled.
                    if entry.turn != TurnState::Cancelled {
                        (outgoing.state, outgoing.since) = (Some(DeliveryState::Pending), at);
                    }
                }
                Step::Sending => outgoing.attempts = n,
                Step::Deferred(_) | Step::Dead(_) => {
                    outgoing.error_record = number;
                    // What became of the part under way is known, or of no interest any more.
                    let parts = entry.channel.iter_mut().filter_map(|on| on.parts.as_mut());
                    parts.for_each(|parts| parts.open = false);
                }
                Step::Revived => (outgoing.attempts, outgoing.since) = (0, at),
                Step::Edited(_) => {
                    // A compaction drops the text before it.
                    let on = entry.channel.get_or_insert_default();
                    entry.bytes -= std::mem::replace(&mut on.edited, (number, bytes)).1;
                }
                Step::Part(part) => {
                    let on = entry.channel.get_or_insert_default();
                    on.parts.get_or_insert_default().apply(part);
                }
                Step::Delivered | Step::Dropped => {
                    entry.channel.iter_mut().for_each(|on| on.parts = None);
                }
                Step::Released | Step::Approval(_) | Step::Forgotten => {}
            }
            entry.settle();
        });
        // It is off the lists of those to which nothing will happen any more.
        if let Step::Requeued = step {
            self.keyed.retain(|known| *known != id);
            self.offered.retain(|known| *known != id);
            self.accounts.values_mut().for_each(|own| own.unkeyed.retain(|known| *known != id));
        }
    }

    /// A message has these files no more.
    fn release(&mut self, files: Option<Box<Files>>) {
        if let Some(files) = files {
            self.uploads.remove(&files.upload.0);
            self.gone.extend(files.names);
        }
    }

    /// Whether a message has the files of this upload.
    pub fn has_upload(&self, upload: Id) -> bool {
        self.uploads.contains_key(&upload.0)
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

    /// The message that this idempotency key began.
    pub fn find_by_idempotency_key(&self, key: Digest) -> Option<(Id, &Entry)> {
        let id = Id(*self.idempotency_keys.get(&key)?);
        Some((id, self.get(id)?))
    }
}

fn parse(id: &str) -> Result<Id, String> {
    Id::parse(id).ok_or_else(|| format!("{id:?} is no message id"))
}

#[cfg(test)]
mod tests;
