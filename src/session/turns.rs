//! The beginning and the end of turns: their records, and what follows from these.

use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::{Digest, Entry, Owner};
use super::retry::step_after;
use super::states::TurnState;
use super::time::now;
use super::transcript::{Known, Turn as Said};
use crate::agent::Outcome;
use crate::escape::counted;
use crate::journal::WriteError;
use crate::journal::record::{Accepted, Record, Step};
use crate::limits::DISK_RETRY_DELAY;
use crate::sys::random;
use crate::threads::lock;

impl Hub {
    /// Gives free slots away and begins the attempts of those who get one. Returns them: each needs a
    /// worker.
    pub(super) fn begin_attempts(&self, state: &mut State) -> Vec<Id> {
        let most = self.settings().config.limits.max_attempts;
        let mut begun = Vec::new();
        while let (paused, Some(id)) = self.start_next(state) {
            if let Some(at) = state.waiting_permits.iter().position(|(waiting, _)| *waiting == id) {
                state.waiting_permits.remove(at).1.iter().for_each(|event| event.notify());
                continue;
            }
            if state.goes_on(id) {
                continue;
            }
            let Some(entry) = state.table.get(id) else { continue };
            // Counted before the drain or pause is looked for: it must not find nothing at work meanwhile.
            self.begin_work(1);
            let held = self.is_draining() || self.is_paused() != paused;
            let worn_out = usize::try_from(entry.crashes).unwrap_or(usize::MAX) >= most;
            let (n, step) = if worn_out {
                let why = format!(
                    "the gateway or its agent ended in the middle of the turn {}; \
                     limits.max_attempts allows no more",
                    counted(&entry.crashes, "time")
                );
                (entry.attempts, Step::Failed(why, None))
            } else {
                (entry.attempts + 1, Step::Started)
            };
            if held || self.write_step(state, (id, n), step).is_err() {
                self.postpone(state, id, DISK_RETRY_DELAY);
            } else if worn_out {
                self.after_end(state, id);
                state.dispatch.leave(id);
            } else {
                state.replies.of(id).begin(n);
                begun.push(id);
                continue;
            }
            self.end_work();
        }
        begun
    }

    /// Has a turn wait for so long before its next attempt.
    pub(super) fn postpone(&self, state: &mut State, id: Id, pause: Duration) {
        state.dispatch.postpone(id, Instant::now() + pause);
        self.maintenance_wakeup.notify_all();
    }

    /// What follows the last record of a turn.
    pub(super) fn after_end(&self, state: &mut State, id: Id) {
        state.replies.end(id);
        let entry = state.table.get(id);
        if let Some((entry, session)) = entry.and_then(|entry| Some((entry, entry.session()?))) {
            let now = self.transcript_time();
            lock(&self.transcripts.usage).touch(session, &entry.owner.principal, now);
        }
        self.enqueue_delivery(state, id);
        self.sync_soon(state);
    }

    /// Writes down how an attempt ended; returns whose turn it is now.
    pub(super) fn finish_turn(&self, id: Id, outcome: &Outcome) -> Vec<Id> {
        let (entry, run) = {
            let mut state = self.lock();
            (state.table.copy(id), state.replies.of(id))
        };
        let outcome = &run.count_release(outcome);
        let (began, attempt, text, report, message) = {
            let mut run = run.lock();
            let began = run.began.unwrap_or_else(Instant::now);
            (began, run.attempt, run.text.clone(), run.report.to_json(), run.message.take())
        };
        let session = entry.as_ref().and_then(|entry| entry.owner.session.as_deref());
        // One that was deleted has no entry.
        let attempt = entry.as_ref().map_or(attempt, |entry| entry.attempts);
        outcome.log(&id.to_string(), session, attempt, began, text.len());
        let Some(entry) = entry.filter(|entry| !entry.turn.is_over()) else {
            // It was taken back while it ran, and its agent has ended by now.
            return self.release_turn(id);
        };
        let at = self.stamp();
        let ages = [began.saturating_duration_since(self.began), self.began.elapsed()];
        let chance = (Duration::from_millis(now()), random::number());
        let config = &self.settings().config;
        let step = step_after(outcome, (text, report), &entry, ages, chance, config);
        let Some(step) = step else { return self.abandon_turn(id) };
        if let Step::Done(text, _) = &step {
            self.append_to_transcript(id, &entry, message, (at.at, text));
        }
        let record = Record::step(id, entry.attempts, at, step);
        let mut state = match self.write_end(id, &entry, &record) {
            Ok(state) => state,
            // It was left out: somebody else has ended the message.
            Err(WriteError::Unavailable(_)) => return self.release_turn(id),
            Err(WriteError::Broken(_) | WriteError::Full(_) | WriteError::TooLong) => {
                return self.abandon_turn(id);
            }
        };
        let turn = state.table.get(id).map(|entry| entry.turn);
        if turn == Some(TurnState::Backoff) {
            self.sync_soon(&mut state);
            self.postpone_retry(&mut state, id);
        } else if turn == Some(TurnState::Queued) {
            // Those who wait for it, or behind it, may not have to any more.
            state.replies.notify_watchers();
            self.sync_soon(&mut state);
            state.dispatch.release(id);
        } else {
            if turn == Some(TurnState::Done) && entry.failing.is_some() {
                state.retry_soon();
            }
            self.after_end(&mut state, id);
            state.dispatch.leave(id);
        }
        self.end_work();
        self.begin_attempts(&mut state)
    }

    /// Writes the record of an end; where that is too long, that the turn has failed.
    fn write_end(
        &self,
        id: Id,
        entry: &Entry,
        record: &Record,
    ) -> Result<MutexGuard<'_, State>, WriteError> {
        let what = format!("the end of turn {id}");
        let error = match self.beyond_share(&entry.owner.principal, record) {
            Some(beyond) => beyond,
            None => match self.write_with_retry(&what, record) {
                Err(WriteError::TooLong) => {
                    "the reply is longer than a record of the journal".to_owned()
                }
                written => return written,
            },
        };
        if let Some(session) = entry.session() {
            // What was said there already is not what the sender gets.
            let _ = self.transcripts.remove_turn(session, id);
        }
        let failed = Step::Failed(error, None);
        self.write_with_retry(&what, &Record::step(id, entry.attempts, self.stamp(), failed))
    }

    /// Frees the slot of a turn that needs no more record.
    fn release_turn(&self, id: Id) -> Vec<Id> {
        let mut state = self.lock();
        state.replies.end(id);
        state.dispatch.leave(id);
        self.end_work();
        self.begin_attempts(&mut state)
    }

    /// Ends a turn that the gateway's own end cuts short.
    fn abandon_turn(&self, id: Id) -> Vec<Id> {
        self.lock().replies.end(id);
        self.end_work();
        Vec::new()
    }

    /// Puts a turn into the transcript of its session.
    fn append_to_transcript(
        &self,
        id: Id,
        entry: &Entry,
        message: Option<Arc<Accepted>>,
        (answered_at, reply): (u64, &str),
    ) {
        let Some((session, message)) = entry.session().zip(message) else { return };
        let (reply, text) = (reply.to_owned(), Arc::unwrap_or_clone(message).text);
        let turn = Said { id, asked_at: entry.at, text, answered_at, reply };
        let append = || {
            let cap = self.transcript_cap();
            // A hole in it could never be filled again.
            self.reconcile(session, &entry.owner, true)?;
            let still = || {
                let state = self.lock();
                let reset = state.table.is_reset(session, entry.accepted);
                !reset && state.table.get(id).is_some_and(|entry| !state.table.is_erased(entry))
            };
            let late = self.lock().table.is_late(id, session);
            self.transcripts.append(session, &entry.owner, &turn, (cap, late), &still)
        };
        if let Err(e) = append() {
            self.transcripts.mark_stale(session);
            log::warn!("turn {id} is missing from its transcript for now: {e}");
        }
    }

    /// See [`super::transcript::Transcripts::reconcile`].
    pub(super) fn reconcile(&self, session: Digest, who: &Owner, create: bool) -> io::Result<()> {
        let known = || {
            let (mut known, reset) = (Known::default(), self.lock().table.reset_of(session));
            known.reset = reset.map(|(newest, _)| newest);
            let after = reset.map_or(0, |(_, number)| number);
            self.visit_session(session, after, &mut |id, entry| {
                // What the gateway answered itself had no turn.
                if entry.turn == TurnState::Done && entry.attempts > 0 {
                    known.answered.push(id);
                } else if entry.turn.is_over() {
                    known.unanswered.push(id);
                }
            });
            known
        };
        let load = |id: Id| {
            let entry = self.lock().table.copy(id).ok_or(io::ErrorKind::NotFound)?;
            let (Accepted { text, .. }, reply, _) = self.exchange(&entry)?;
            Ok(Said { id, asked_at: entry.at, text, answered_at: entry.ended.at, reply })
        };
        let cap = self.transcript_cap();
        self.transcripts.reconcile((session, create), who, cap, &known, &load)
    }
}
