//! Taking messages back: one, or all that a session has.

use std::sync::Arc;

use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::{Digest, Owner, session_name};
use super::states::TurnState;
use super::submit::Refusal;
use crate::journal::WriteError;
use crate::journal::record::{Record, Step};
use crate::sys::gather::Gather;

impl Hub {
    /// Ends a message: a waiting one at once, a running one as soon as its agent has ended.
    pub fn cancel(self: &Arc<Self>, id: Id, why: &str) -> Result<(), Refusal> {
        self.cancel_if(id, why, |turn| !turn.is_over())
    }

    /// Cancels a message unless it runs or is over.
    pub fn withdraw(self: &Arc<Self>, id: Id, why: &str) -> Result<(), Refusal> {
        self.cancel_if(id, why, |turn| matches!(turn, TurnState::Queued | TurnState::Backoff))
    }

    fn cancel_if(
        self: &Arc<Self>,
        id: Id,
        why: &str,
        may: fn(TurnState) -> bool,
    ) -> Result<(), Refusal> {
        let mut state = self.lock();
        let entry = state.table.get(id).ok_or(Refusal::Unknown)?;
        if !may(entry.turn) {
            return Err(Refusal::TooLate);
        }
        self.mark_cancelled(&mut state, id, why)?;
        let begun = self.begin_attempts(&mut state);
        Ok(self.confirm(state, begun)?)
    }

    /// Deletes a message; one that is not over is cancelled first.
    pub fn delete(self: &Arc<Self>, id: Id, why: &str) -> Result<(), Refusal> {
        let mut state = self.lock();
        // What is left of one that is known by its id alone tells that it was offered.
        let known = state.table.get(id).filter(|entry| !entry.is_faded());
        let over = known.ok_or(Refusal::Unknown)?.turn.is_over();
        if !over {
            self.mark_cancelled(&mut state, id, why)?;
        }
        // Under the same lock: who waits for it finds it deleted and not cancelled.
        let deleted = Record::step(id, 0, self.stamp(), Step::Forgotten);
        // Too late for a reply that is still to be delivered.
        let written = match state.table.check(&deleted) {
            Ok(()) => self.write(&mut state, &deleted).map_err(Refusal::Journal),
            Err(_) => Err(Refusal::TooLate),
        };
        let begun = self.begin_attempts(&mut state);
        self.confirm(state, begun)?;
        written.map(drop)
    }

    /// Records that a message is cancelled. An agent that runs for it is told to end, and keeps its
    /// slot until it has; a slot that comes free is to be given away by [`Hub::begin_attempts`].
    pub(super) fn mark_cancelled(
        &self,
        state: &mut State,
        id: Id,
        why: &str,
    ) -> Result<(), WriteError> {
        let runs = state.table.get(id).is_some_and(|entry| entry.turn == TurnState::Running);
        self.write_step(state, (id, 0), Step::Cancelled(why.to_owned()))?;
        if runs {
            // Who waits for it is told when its agent has ended.
            state.replies.of(id).cancel();
            return Ok(());
        }
        state.replies.end(id);
        state.dispatch.leave(id);
        Ok(())
    }

    /// Ends all that a session has, and forgets what was said in it. Returns how many messages were
    /// cancelled.
    pub fn reset(self: &Arc<Self>, who: &Owner, why: &str) -> Result<usize, Refusal> {
        let session = who.digest().ok_or(Refusal::Unknown)?;
        let known = self.session(who).is_some();
        let mut state = self.lock();
        let open = |id: &Id| state.table.get(*id).is_some_and(|entry| !entry.turn.is_over());
        let ids: Vec<Id> = state.dispatch.turns_of(Some(session)).filter(open).gather();
        if ids.is_empty() && !known {
            return Ok(0);
        }
        let mut cancelled = Ok(());
        for id in &ids {
            cancelled = cancelled.and(self.mark_cancelled(&mut state, *id, why));
        }
        let written = cancelled.and_then(|()| self.write_reset(&mut state, who, false));
        if written.is_ok() {
            // Who waits for one of them need not wait for its agent.
            ids.iter().for_each(|id| state.replies.forget(*id));
            self.maintenance_wakeup.notify_all();
        }
        self.start_turns(state);
        self.sync(written?)?;
        // Somebody may already work with the file for a new message.
        let idle = self.lock().dispatch.turns_of(Some(session)).next().is_none();
        let forgotten = if idle {
            self.settings().agent.forget(&session_name(session));
            self.transcripts.remove(session, true, &|| true).map(drop)
        } else {
            self.transcripts.mark_stale(session);
            self.reconcile(session, who, true)
        };
        if let Err(e) = forgotten {
            log::warn!("a transcript could not be removed: {e}");
        }
        Ok(ids.len())
    }

    /// Records that what was said in a session is forgotten, and unless `transcript_only` all else.
    pub(super) fn write_reset(
        &self,
        state: &mut State,
        who: &Owner,
        transcript_only: bool,
    ) -> Result<u64, WriteError> {
        let (principal, session) = (who.principal.clone(), who.session.clone().unwrap_or_default());
        let reset = Record::Reset { principal, session, at: self.stamp(), transcript_only };
        self.write(state, &reset)
    }

    /// Takes out of the transcripts what a reset has made void that the end of an earlier process may
    /// have come before.
    pub(super) fn apply_resets(&self) {
        let sessions: Vec<Digest> = self.lock().table.reset_sessions(0).gather();
        for session in sessions {
            let Some(about) = self.transcripts.find(session) else { continue };
            // The reset itself may remove it meanwhile.
            if let Err(e) = self.reconcile(session, &about.owner, false) {
                log::warn!("cannot remove what was said before a reset from a transcript: {e}");
            }
        }
    }
}
