//! Taking messages back: one, or all that a session has.

use std::sync::Arc;

use super::dispatch::Full;
use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::{Digest, Owner};
use super::states::TurnState;
use crate::journal::record::{Record, Step};
use crate::journal::{Purpose, Refused};

/// Why something cannot be done to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    Unknown,
    /// It is over, or not in the state that this needs.
    TooLate,
    /// Too many wait for a turn.
    Full(Full),
    Journal(Refused),
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Denied {
        Denied::Journal(refused)
    }
}

impl Hub {
    /// Ends a message: a waiting one at once, a running one as soon as its agent has ended.
    pub fn cancel(self: &Arc<Self>, id: Id, why: &str) -> Result<(), Denied> {
        self.cancel_if(id, why, |turn| !turn.is_over())
    }

    /// Cancels a message unless it runs or is over.
    pub fn withdraw(self: &Arc<Self>, id: Id, why: &str) -> Result<(), Denied> {
        self.cancel_if(id, why, |turn| matches!(turn, TurnState::Queued | TurnState::Resting))
    }

    fn cancel_if(
        self: &Arc<Self>,
        id: Id,
        why: &str,
        may: fn(TurnState) -> bool,
    ) -> Result<(), Denied> {
        let mut state = self.lock();
        let entry = state.book.get(id).ok_or(Denied::Unknown)?;
        if !may(entry.turn) {
            return Err(Denied::TooLate);
        }
        let begun = self.mark_cancelled(&mut state, id, why)?;
        Ok(self.confirm(state, begun)?)
    }

    /// Deletes a message; one that is not over is cancelled first.
    pub fn delete(self: &Arc<Self>, id: Id, why: &str) -> Result<(), Denied> {
        match self.cancel(id, why) {
            Ok(()) | Err(Denied::TooLate) => {}
            Err(denied) => return Err(denied),
        }
        // Too late for a reply that is still to be delivered.
        self.operate(id, Step::Forgotten)
    }

    /// Records that a message is cancelled. An agent that runs for it is told to end, and keeps its
    /// place until it has.
    pub(super) fn mark_cancelled(
        &self,
        state: &mut State,
        id: Id,
        why: &str,
    ) -> Result<Vec<Id>, Refused> {
        let runs = state.book.get(id).is_some_and(|entry| entry.turn == TurnState::Running);
        let record = Record::step(id, 0, self.stamp(), Step::Cancelled(why.to_owned()));
        self.write(state, &record, Purpose::Completion)?;
        if runs {
            // Who waits for it is told when its agent has ended.
            state.runs.of(id).cancel();
            return Ok(Vec::new());
        }
        state.runs.end(id);
        state.resting.retain(|(_, resting)| *resting != id);
        let ids = state.dispatch.leave(id);
        Ok(self.begin(state, ids))
    }

    /// Ends all that a session has, and forgets what was said in it. Returns how many messages were
    /// cancelled.
    pub fn reset(self: &Arc<Self>, who: &Owner, why: &str) -> Result<usize, Denied> {
        let session = who.digest().ok_or(Denied::Unknown)?;
        let known = self.session(who).is_some();
        let mut state = self.lock();
        let open = |id: &Id| state.book.get(*id).is_some_and(|entry| !entry.turn.is_over());
        let ids: Vec<Id> = state.dispatch.tickets(session).filter(open).collect();
        if ids.is_empty() && !known {
            return Ok(0);
        }
        let mut begun = Vec::new();
        let mut result = Ok(0);
        // From the end: each that goes must not let the next one begin.
        for id in ids.iter().rev() {
            match self.mark_cancelled(&mut state, *id, why) {
                Ok(ids) => begun.extend(ids),
                Err(refused) => result = Err(refused),
            }
        }
        if result.is_ok() {
            result = self.write_reset(&mut state, who, false);
            // Who waits for one of them need not wait for its agent.
            ids.iter().for_each(|id| state.runs.forget(*id));
            self.alarm.notify_all();
        }
        drop(state);
        self.spawn_workers(begun);
        self.sync(result?)?;
        // Somebody may already work with the file for a new message.
        let idle = self.lock().dispatch.tickets(session).next().is_none();
        let forgotten = if idle {
            self.transcripts.remove(session, true, &|| true).map(drop)
        } else {
            self.transcripts.mark_stale(session);
            self.settle_transcript(session, who)
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
    ) -> Result<u64, Refused> {
        let (principal, session) = (who.principal.clone(), who.session.clone().unwrap_or_default());
        let reset = Record::Reset { principal, session, at: self.stamp(), transcript_only };
        self.write(state, &reset, Purpose::Completion)
    }

    /// Takes out of the transcripts what a reset has made void that the end of an earlier process may
    /// have come before.
    pub(super) fn forget_what_was_reset(&self) {
        let sessions: Vec<Digest> = self.lock().book.reset_sessions(0).collect();
        for session in sessions {
            let Some(about) = self.transcripts.find(session) else { continue };
            if let Err(e) = self.settle_transcript(session, &about.who) {
                log::warn!("a transcript of before a reset is still there: {e}");
            }
        }
    }
}
