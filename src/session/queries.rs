//! What a message, a session and the journal look like from outside. What is shown here is durable.

use std::io;
use std::sync::{MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use super::hub::{Hub, State};
use super::id::Id;
use super::message::Message;
use super::message_table::{Counts, Digest, Entry, Owner, Usage};
use super::states::{DeliveryState, TurnState};
use crate::agent::{self, Report};
use crate::journal::record::Step;
use crate::journal::{Condition, Health, WriteError};
use crate::limits::{MAX_LISTED_BYTES, SHORTAGE_VALID};
use crate::named::ByName;
use crate::sys::gather::Gather;
use crate::threads::{lock, pause};

/// How long `/v1/status` waits for what a hung disk may keep from being told: its readers wait for
/// [`CONTROL_TIMEOUT`](crate::limits::CONTROL_TIMEOUT).
const STATUS_LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Between two tries to take a lock with a deadline; one is held for some microseconds.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// How many messages there are; turns that run, that wait, and their sessions; what waits for the agent,
/// as JSON; what each principal holds.
pub type HubStatus = (Counts, (usize, usize, usize), Option<String>, Usage);

/// A session as a whole.
#[derive(Clone, Debug)]
pub struct Session {
    pub owner: Owner,
    pub running: Option<Id>,
    pub queued: usize,
    pub transcript_bytes: u64,
}

impl Hub {
    /// A message by its id. `Ok(None)`: it is not known, or not any more.
    pub fn message(&self, id: Id) -> Result<Option<Message>, WriteError> {
        let (entry, position, approvals) = {
            let state = self.lock();
            let entry = state.table.copy(id).filter(|entry| !entry.is_faded());
            let Some(entry) = entry else { return Ok(None) };
            let before =
                |session| state.dispatch.turns_of(Some(session)).position(|other| other == id);
            let before = entry.session().map_or(Some(0), before).filter(|_| !entry.turn.is_over());
            (entry, before.map(|before| before + 1), state.open_approvals_of(id).to_vec())
        };
        self.sync(self.newest(&entry))?;
        let mut message = Message { id, entry, position, approvals, ..Message::default() };
        let unreadable = |e: io::Error| Some(format!("its record cannot be read: {e}"));
        let mut detail = None;
        match self.outcome_around(&message.entry) {
            // Forgotten and compacted away since it was looked up.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => message.error = unreadable(e),
            Ok((Some(Step::Done(text, told)), long)) => {
                (message.reply, message.long) = (Some(text), long);
                message.report = told.as_deref().map(Report::parse).unwrap_or_default();
            }
            Ok((Some(Step::Failed(why, more)), _)) => (message.error, detail) = (Some(why), more),
            Ok((Some(Step::Retry(retry)), _)) => {
                (message.error, detail) = (Some(retry.error), retry.detail);
            }
            Ok((Some(Step::Cancelled(why)), _)) => message.error = Some(why),
            Ok(_) => {}
        }
        if message.entry.files.is_some() {
            let accepted = self.accepted(&message.entry);
            message.attachments = accepted.map(|it| it.attachments).unwrap_or_default();
        }
        message.refused = detail.as_deref().and_then(agent::ErrorResponse::parse);
        message.delivery_error = match self.step(message.entry.delivery_error_record()) {
            Ok(Some(Step::Deferred(why) | Step::Dead(why))) => Some(why),
            Ok(_) => None,
            Err(e) => unreadable(e),
        };
        if message.entry.turn == TurnState::Backoff {
            message.waiting = self.retry_of(&self.lock(), id);
        }
        Ok(Some(message))
    }

    /// The newest record whose effect an entry shows.
    fn newest(&self, entry: &Entry) -> u64 {
        match entry.delivery_state() {
            Some(DeliveryState::Delivered | DeliveryState::Dropped) => self.journal.last(),
            _ if entry.erased => self.journal.last(),
            _ => entry.outcome.max(entry.accepted).max(entry.delivery_error_record()),
        }
    }

    /// The messages that are known of a session, in order.
    pub fn messages_of(&self, owner: &Owner) -> Vec<(Id, TurnState)> {
        let mut messages = Vec::new();
        if let Some(session) = owner.digest() {
            self.visit_session(session, 0, &mut |id, entry| messages.push((id, entry.turn)));
        }
        messages
    }

    /// A session that has messages or a transcript.
    pub fn session(&self, owner: &Owner) -> Option<Session> {
        let digest = owner.digest()?;
        // Nobody is shown what a power cut could still take; a journal that broke takes no more.
        let _ = self.sync(self.journal.last());
        let bytes = self.transcripts.find(digest).map(|about| about.bytes);
        let known = bytes.is_some() || !self.messages_of(owner).is_empty();
        known.then(|| self.session_of(owner.clone(), bytes.unwrap_or(0)))
    }

    fn session_of(&self, owner: Owner, transcript_bytes: u64) -> Session {
        let turns = self.lock().dispatch.turns_of(owner.digest()).count();
        let running = owner.digest().and_then(|session| self.running_in(session));
        let queued = turns - usize::from(running.is_some()).min(turns);
        Session { owner, running, queued, transcript_bytes }
    }

    /// The message whose turn runs in a session.
    pub fn running_in(&self, session: Digest) -> Option<Id> {
        let state = self.lock();
        let first = state.dispatch.turns_of(Some(session)).next()?;
        (state.table.get(first)?.turn == TurnState::Running).then_some(first)
    }

    /// The `wanted` sessions of some principals, in the order of these and of their keys, at most so many;
    /// and whether there are more.
    pub fn sessions(
        &self,
        whose: &dyn Fn(&str) -> bool,
        wanted: &dyn Fn(&Owner) -> bool,
        limit: usize,
    ) -> io::Result<(Vec<Session>, bool)> {
        let mut found: ByName<u64> = ByName::default();
        let mut add = |owner: &Owner, bytes: u64| {
            let is_wanted = |_: &&str| whose(&owner.principal) && wanted(owner);
            if let Some(key) = owner.session.as_deref().filter(is_wanted) {
                // A principal's name has no space.
                let known = found.of(&format!("{} {key}", owner.principal));
                *known = bytes.max(*known);
            }
            // A page of them, and one more.
            found.truncate(limit + 1);
        };
        self.visit_all(None, &mut |_, entry| {
            add(&entry.owner, 0);
            true
        });
        self.transcripts.list(whose, &mut |about| add(&about.owner, about.bytes))?;
        let more = found.iter().nth(limit).is_some();
        let session = |(name, bytes): (&String, &u64)| {
            let (principal, key) = name.split_once(' ').unwrap_or_default();
            self.session_of(Owner::new(principal.to_owned(), Some(key.to_owned())), *bytes)
        };
        Ok((found.iter().take(limit).map(session).gather(), more))
    }

    /// A page of `wanted` messages older than one, newest first: at most `limit`, or about
    /// [`MAX_LISTED_BYTES`] of replies and attachments' names. With more, the last one that was looked at.
    pub fn list(
        &self,
        wanted: &dyn Fn(Id, &Entry) -> bool,
        before: Option<Id>,
        limit: usize,
    ) -> Result<(Vec<Message>, Option<Id>), WriteError> {
        let (mut ids, mut listed, mut size) = (Vec::new(), Vec::new(), 0);
        self.visit_all(before, &mut |id, entry| {
            if wanted(id, entry) {
                ids.push(id);
            }
            ids.len() <= limit
        });
        let mut last = None;
        for (at, id) in ids.into_iter().enumerate() {
            if at == limit || size > MAX_LISTED_BYTES as u64 {
                return Ok((listed, last));
            }
            last = Some(id);
            let Some(message) = self.message(id)? else { continue };
            let long = message.long.as_ref().map_or(0, |long| long.len());
            size += message.reply.as_ref().map_or(0, String::len) as u64 + long;
            size += message.attachments.iter().map(String::len).sum::<usize>() as u64;
            listed.push(message);
        }
        Ok((listed, None))
    }

    /// The state, if its lock is free within `timeout`: a hung disk may hold it.
    pub(super) fn lock_within(&self, timeout: Duration) -> Option<MutexGuard<'_, State>> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.state.try_lock() {
                Ok(state) => return Some(state),
                Err(TryLockError::Poisoned(state)) => return Some(state.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
                Err(TryLockError::WouldBlock) => pause(LOCK_PAUSE),
            }
        }
    }

    /// What there is, if the lock is free soon: a hung disk may hold it.
    pub fn try_status(&self) -> Option<HubStatus> {
        Some(self.status_of(&*self.lock_within(STATUS_LOCK_TIMEOUT)?))
    }

    pub(super) fn status_of(&self, state: &State) -> HubStatus {
        let (running, waiting) = state.dispatch.counts();
        let turns = (running, waiting, state.dispatch.sessions());
        let mut usage = state.table.usage();
        for (name, count) in state.dispatch.waiting() {
            usage.of(name).push(("queued", count));
        }
        (state.table.counts, turns, self.waiting_turns(state), usage)
    }

    /// Bytes of the journal and the number of its last record, told without waiting for the disk.
    pub fn journal_size(&self) -> (u64, u64) {
        (self.journal.size(), self.journal.last())
    }

    /// Whether work can be taken and done.
    pub fn condition(&self) -> Condition {
        let shortage = lock(&self.shortage).clone();
        match (self.journal.condition(), shortage) {
            // What waits tries again more often: an older one is of work that was taken back.
            (Condition::Good, Some((at, why))) if at.elapsed() < SHORTAGE_VALID => {
                Condition::Degraded(why)
            }
            (Condition::Good, _) => {
                self.settings().agent.trouble().map_or(Condition::Good, Condition::Degraded)
            }
            (condition, _) => condition,
        }
    }

    /// What is known of the journal without waiting for the disk.
    pub fn health(&self) -> &Health {
        self.journal.health()
    }

    /// Makes all that was written durable, under a name that leads to it: the last thing before the
    /// process ends. What it ends by a stop that was `planned` is no attempt that a crash cut short.
    pub fn close(&self, planned: bool) {
        self.journal.check_file();
        if planned {
            let mut state = self.lock();
            // Of a restart that was given up while the disk hung, turns run again by now.
            let running = if self.are_waits_over() { state.table.running() } else { Vec::new() };
            for (id, n) in running {
                // Without it the attempt counts, and runs again all the same.
                let _ = self.write_step(&mut state, (id, n), Step::Released);
            }
        }
        // For the mark alone a full disk has no room, which costs nothing.
        if let (Err(refused), _) = (self.sync(self.journal.last()), self.mark()) {
            log::error!("the last records may be lost: {refused}");
        }
    }
}
