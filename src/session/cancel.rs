//! Taking messages back: one, or all that a session has.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::book::Who;
use super::hub::{Hub, State, now};
use super::id::Id;
use super::life::Turn;
use crate::journal::record::{Record, Step};
use crate::journal::{Purpose, Refused};

/// Why something cannot be done to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    Unknown,
    /// It is over, or not in the state that this needs.
    TooLate,
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
        let mut state = self.lock();
        let entry = state.book.get(id).ok_or(Denied::Unknown)?;
        match entry.turn {
            Turn::Done | Turn::Failed | Turn::Cancelled => return Err(Denied::TooLate),
            Turn::Running if state.runs.get(id).is_some() => {
                if let Some(run) = state.runs.get(id) {
                    run.cancel(why);
                }
                return Ok(());
            }
            Turn::Running | Turn::Queued | Turn::Resting => {}
        }
        let begun = self.strike(&mut state, id, why)?;
        drop(state);
        self.employ(begun);
        Ok(())
    }

    /// Cancels a message that does not run.
    fn strike(&self, state: &mut State, id: Id, why: &str) -> Result<Vec<Id>, Refused> {
        let record = Record::step(id, 0, now(), Step::Cancelled(why.to_owned()));
        self.write(state, &record, Purpose::Completion)?;
        state.runs.end(id);
        let ids = state.dispatch.leave(id);
        Ok(self.begin(state, ids))
    }

    /// Ends all that a session has, and forgets what was said in it. Returns how many messages were
    /// cancelled.
    pub fn reset(self: &Arc<Self>, who: &Who, why: &str) -> Result<usize, Denied> {
        let (Some(session), Some(key)) = (who.digest(), &who.session) else {
            return Err(Denied::Unknown);
        };
        let mut state = self.lock();
        let ids: Vec<Id> = state.dispatch.tickets(session).collect();
        let mut begun = Vec::new();
        // From the end: each that goes must not let the next one begin.
        for id in ids.iter().rev() {
            match state.runs.get(*id) {
                Some(run) if state.book.get(*id).is_some_and(|e| e.turn == Turn::Running) => {
                    run.cancel(why);
                }
                Some(_) | None => begun.extend(self.strike(&mut state, *id, why)?),
            }
        }
        let (principal, session_key) = (who.principal.clone(), key.clone());
        let record = Record::Reset { principal, session: session_key, at: now() };
        let number = self.write(&mut state, &record, Purpose::Completion)?;
        drop(state);
        self.employ(begun);
        self.sync(number)?;
        if let Err(e) = self.transcripts.remove(session) {
            log::warn!("a transcript could not be removed: {e}");
        }
        Ok(ids.len())
    }
}
