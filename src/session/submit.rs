//! Taking messages: durable when their sender is told so, and once for each idempotency key.

use std::fmt;
use std::sync::{Arc, MutexGuard};

use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::{Digest, Owner};
use super::states::{DeliveryState, TurnState};
use super::stored_file::{Files, Upload};
use crate::config::{Busy, OWNER};
use crate::journal::record::{Accepted, Origin, Record, Step, Timestamp};
use crate::journal::{self, WriteError};
use crate::shares::{Limit, LimitReached, Shares};

/// A message as its sender gives it.
#[derive(Clone, Debug)]
pub struct Draft {
    pub who: Owner,
    pub text: String,
    /// What the request said beside its text: see [`crate::agent::Context`].
    pub context: Option<String>,
    /// References that the agent is handed, and nobody here opens; an empty text stands for a file.
    pub attachments: Vec<String>,
    /// These files, which are not stored yet.
    pub files: Vec<Upload>,
    /// The target of the configuration that the reply goes to.
    pub deliver: Option<String>,
    /// Where there, if that is a channel.
    pub origin: Option<Box<Origin>>,
    pub mode: Busy,
    /// Its sender waits for the reply of a chat, and cannot be asked anything meanwhile.
    pub attended: bool,
    /// The digests of the idempotency key and of all that the request says.
    pub key: Option<(Digest, Digest)>,
}

/// What became of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// It is durable. `position` in its session's queue, from 1; 0 where it is answered already;
    /// `interrupted`: the message whose turn was told to end.
    New { id: Id, position: usize, interrupted: Option<Id> },
    /// Its idempotency key is known, and the message that began with it is durable.
    Known(Id),
}

/// Why a message was not taken, or something cannot be done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue, of the session or of all, or the principal's share of it.
    Full(LimitReached),
    /// The idempotency key is known with another body.
    Conflict,
    /// The idempotency key is that of a message whose session was reset.
    Erased,
    /// Sessions keep as much on disk as they may, and none is idle.
    Transcripts(LimitReached),
    /// There is no room for its attachments.
    Attachments(LimitReached),
    Journal(WriteError),
    /// The principal's share of the journal is full.
    Share(LimitReached),
    Stopping,
    /// There is no such message.
    Unknown,
    /// It is over, or not in the state that this needs.
    TooLate,
    /// No such question is open.
    NotAsked,
    /// Somebody else is asked.
    NotYours,
    /// Several questions are: their ids.
    ManyAsked(String),
    /// The system is short of something.
    Failed(String),
}

/// A sentence for the sender.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Refusal::Full(reached)
            | Refusal::Share(reached)
            | Refusal::Transcripts(reached)
            | Refusal::Attachments(reached) => &reached.message,
            Refusal::Conflict => "This idempotency key was used for another request; take another.",
            Refusal::Erased => "The session of this message was reset: what it said is forgotten.",
            Refusal::Journal(refused) => &format!("The journal did not accept it: {refused}."),
            Refusal::Stopping => "The gateway is stopping; try again in a moment.",
            Refusal::Unknown => "There is no message with this ID.",
            Refusal::TooLate => {
                "The message's state does not allow that: only a message that waits or runs can be \
                 cancelled, only a failed turn or a dead letter retried, only a dead letter dropped."
            }
            Refusal::NotAsked => {
                "No such question of this message is open: it was answered, or its time is over."
            }
            Refusal::NotYours => "Whoever sent the message is asked; an operator may answer, too.",
            Refusal::ManyAsked(ids) => {
                &format!("Several questions of this message are open; name one: {ids}.")
            }
            Refusal::Failed(why) => &format!("The gateway is short of resources: {why}."),
        };
        f.write_str(words)
    }
}

impl From<WriteError> for Refusal {
    fn from(refused: WriteError) -> Refusal {
        Refusal::Journal(refused)
    }
}

impl Hub {
    /// Takes a message. When this returns [`Submitted`] it is durable.
    pub fn submit(self: &Arc<Self>, draft: Draft) -> Result<Submitted, Refusal> {
        let mut begun = Vec::new();
        let submitted = self.append(draft, &mut begun)?;
        if let Submitted::New { .. } = submitted {
            self.start(begun)?;
        }
        Ok(submitted)
    }

    /// Takes a message, which is new until [`Hub::start`] is given all the turns that have begun: nobody may be
    /// told of it before.
    pub fn append(&self, mut draft: Draft, begun: &mut Vec<Id>) -> Result<Submitted, Refusal> {
        let mut stored = self.store(&mut draft)?;
        let mut made_room = false;
        let mut state = loop {
            let state = self.lock();
            if self.is_draining() {
                return Err(Refusal::Stopping);
            }
            if let Some((id, number)) = self.find_duplicate(&state, &draft)? {
                drop(state);
                self.sync(number)?;
                return Ok(Submitted::Known(id));
            }
            let Err(mut reached) = self.reserve_session(&draft.who) else { break state };
            drop(state);
            if std::mem::replace(&mut made_room, true) {
                let then = ": no session is idle; try again when a turn has ended.";
                reached.message = reached.message.replace("; try again later.", then);
                return Err(Refusal::Transcripts(reached));
            }
            self.make_room(&draft.who, reached.over);
        };
        self.check_draft(&state, &draft)?;
        let files = Files::of(&draft.attachments).filter(|_| stored.is_none());
        if !draft.files.is_empty() || files.is_some_and(|it| !state.table.has_upload(it.upload)) {
            // Those of another message, or the message of its key, were forgotten this moment.
            return Err(Refusal::Erased);
        }
        let (session, mode, attended) = (draft.who.digest(), draft.mode, draft.attended);
        let id = state.next_id().map_err(|e| Refusal::Failed(e.to_string()))?;
        let admission = state.dispatch.submit(id, &draft.who.principal, session);
        let position = admission.map_err(Refusal::Full)?;
        let record = Record::Accepted(Box::new(draft.accept(id, self.stamp())));
        if let Err(refused) = self.write(&mut state, &record) {
            state.dispatch.leave(id);
            if let (WriteError::Broken(_), Some(stored)) = (&refused, &mut stored) {
                // The next start knows whether the record is there.
                stored.keep(&mut state);
            }
            return Err(Refusal::Journal(refused));
        }
        if let Some(stored) = &mut stored {
            stored.keep(&mut state);
        }
        let busy = session.filter(|_| mode == Busy::Interrupt && position > 0);
        let interrupted = busy.and_then(|busy| self.interrupt(&mut state, busy, id));
        if attended {
            state.replies.of(id).lock().attended = true;
        }
        begun.extend(self.begin_attempts(&mut state));
        if let (Record::Accepted(message), true) = (record, begun.contains(&id)) {
            state.replies.of(id).lock().message = Some(Arc::from(message));
        }
        Ok(Submitted::New { id, position: position + 1, interrupted })
    }

    /// Ends the turn that runs in a session, or waits for its next attempt. Returns whose it was.
    fn interrupt(&self, state: &mut State, session: Digest, by: Id) -> Option<Id> {
        let first = state.dispatch.turns_of(Some(session)).next()?;
        if !matches!(state.table.get(first)?.turn, TurnState::Running | TurnState::Backoff) {
            return None;
        }
        let why = format!("interrupted by message {by}");
        self.mark_cancelled(state, first, &why).ok().map(|()| first)
    }

    /// Takes a message that the gateway answers itself, with [`Hub::reply`], and no agent.
    pub fn admit(&self, draft: Draft) -> Result<Submitted, Refusal> {
        let mut state = self.lock();
        let submitted = self.admit_in(&mut state, draft)?;
        drop(state);
        if let Submitted::Known(_) = submitted {
            self.sync(self.journal.last())?;
        }
        Ok(submitted)
    }

    /// The same, of which nobody may be told before a sync.
    pub(super) fn admit_in(&self, state: &mut State, draft: Draft) -> Result<Submitted, Refusal> {
        if let Some((id, _)) = self.find_duplicate(state, &draft)? {
            return Ok(Submitted::Known(id));
        }
        self.check_draft(state, &draft)?;
        let id = state.next_id().map_err(|e| Refusal::Failed(e.to_string()))?;
        let record = Record::Accepted(Box::new(draft.accept(id, self.stamp())));
        self.write(state, &record)?;
        Ok(Submitted::New { id, position: 0, interrupted: None })
    }

    /// Answers a message that was admitted.
    pub fn reply(self: &Arc<Self>, id: Id, reply: String) -> Result<(), Refusal> {
        let mut state = self.lock();
        if self.write_step(&mut state, (id, 0), Step::Done(reply, None)).is_ok() {
            self.after_end(&mut state, id);
        } else {
            // Without it the message is accepted all the same, and gets its end as a turn.
            state.take_up(id);
        }
        let begun = self.begin_attempts(&mut state);
        Ok(self.confirm(state, begun)?)
    }

    /// Has a failed turn run again, behind what waits in its session; of a dead letter, has its reply
    /// sent again.
    pub fn retry(self: &Arc<Self>, id: Id) -> Result<(), Refusal> {
        let mut state = self.lock();
        let entry = state.table.get(id).ok_or(Refusal::Unknown)?;
        if entry.turn != TurnState::Failed {
            drop(state);
            return self.revive(id);
        }
        // Not what a reset forgot, nor while the word of its failure is on its way to a target.
        let sending = entry.delivery_state() == Some(DeliveryState::Sending);
        if sending || state.table.is_erased(entry) {
            return Err(Refusal::TooLate);
        }
        let (who, session) = (Arc::clone(&entry.owner), entry.session());
        state.dispatch.submit(id, &who.principal, session).map_err(Refusal::Full)?;
        if let Err(refused) = self.write_step(&mut state, (id, 0), Step::Requeued) {
            state.dispatch.leave(id);
            return Err(Refusal::Journal(refused));
        }
        let begun = self.begin_attempts(&mut state);
        Ok(self.confirm(state, begun)?)
    }

    /// Waits until all that was written is durable, which takes one sync, and gives each turn that has
    /// begun a worker.
    pub(super) fn confirm(
        self: &Arc<Self>,
        state: MutexGuard<'_, State>,
        begun: Vec<Id>,
    ) -> Result<(), WriteError> {
        drop(state);
        self.start(begun)
    }

    /// The same for what was written before.
    pub fn start(self: &Arc<Self>, begun: Vec<Id>) -> Result<(), WriteError> {
        let synced = self.sync(self.journal.last());
        self.spawn_workers(begun);
        synced
    }

    /// What a principal holds of the journal, what all do, the limit and its shares; `None` for the
    /// owner, whom the journal itself refuses.
    fn share(&self, state: &State, principal: &str) -> Option<((u64, u64), u64, Shares)> {
        let config = &self.settings().config;
        let held = (state.table.bytes_of(principal), self.journal.size());
        let limit = config.limits.max_journal as u64;
        (principal != OWNER).then(|| (held, limit, Shares::of(config)))
    }

    /// Whether the journal has room for one more message of its principal.
    fn check_draft(&self, state: &State, draft: &Draft) -> Result<(), Refusal> {
        let more = draft.text.len() + draft.context.as_ref().map_or(0, String::len);
        self.check_share(state, &draft.who.principal, more as u64)
    }

    /// Whether it has room for so many more bytes of a principal.
    pub(super) fn check_share(
        &self,
        state: &State,
        principal: &str,
        more: u64,
    ) -> Result<(), Refusal> {
        let Some((held, limit, shares)) = self.share(state, principal) else { return Ok(()) };
        let limit = ("limits.max_journal", journal::new_work_capacity(limit));
        shares.admit(principal, held, more, limit).map_err(|reached| {
            // There may be something to forget.
            self.maintenance_wakeup.notify_all();
            Refusal::Share(reached)
        })
    }

    /// That a reply does not fit into what its principal may hold of the journal.
    pub(super) fn beyond_share(&self, principal: &str, record: &Record) -> Option<String> {
        let Record::Step { step: Step::Done(reply, told), .. } = record else { return None };
        let ((held, _), limit, shares) = self.share(&self.lock(), principal)?;
        let length = (reply.len() + told.as_ref().map_or(0, String::len)) as u64;
        (held + length > shares.most(limit)).then(|| {
            let whose = Limit::Principal.reached(principal, "limits.max_journal", (held, limit));
            format!("the reply of {length} bytes does not fit: {}", whose.message)
        })
    }

    /// The message of the draft's idempotency key, and the number of its record.
    pub(super) fn find_duplicate(
        &self,
        state: &State,
        draft: &Draft,
    ) -> Result<Option<(Id, u64)>, Refusal> {
        let known = |(key, body)| Some((state.table.find_by_idempotency_key(key)?, body));
        let Some(((id, entry), body)) = draft.key.and_then(known) else { return Ok(None) };
        match &entry.key {
            // Its text may have been edited since, or be forgotten: it is known by its id.
            Some(_) if draft.is_offered() => Ok(Some((id, entry.accepted))),
            _ if state.table.is_erased(entry) => Err(Refusal::Erased),
            Some(key) if key.body == body => Ok(Some((id, entry.accepted))),
            Some(_) | None => Err(Refusal::Conflict),
        }
    }
}

impl Draft {
    /// Whether a channel has offered it, and may do so again.
    pub(super) fn is_offered(&self) -> bool {
        self.origin.as_ref().is_some_and(|origin| !origin.account.is_empty())
    }

    pub(super) fn accept(self, id: Id, at: Timestamp) -> Accepted {
        let hex = |digest: Digest| format!("{digest:032x}");
        Accepted {
            id: id.to_string(),
            at,
            principal: self.who.principal,
            session: self.who.session,
            text: self.text,
            deliver: self.deliver,
            key: self.key.map(|(key, _)| hex(key)),
            body: self.key.map(|(_, body)| hex(body)),
            mode: (self.mode == Busy::Interrupt).then(|| "interrupt".to_owned()),
            attachments: self.attachments,
            context: self.context,
            origin: self.origin,
            erased: false,
        }
    }
}
