//! Turns that wait for their agent: what comes after an attempt that failed for now, what is waited
//! for and until when, and failed turns that an operator has run again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock::millis;
use super::hub::{Hub, State};
use super::id::Id;
use super::message::{Message, Waiting};
use super::message_table::{Entry, Owner, RetryState};
use super::retry::{Attempt, pause};
use super::states::{DeliveryState, TurnState};
use super::submit::Refusal;
use super::time::now;
use crate::agent::{ErrorResponse, Outcome};
use crate::delivery::{backoff, retry_after};
use crate::journal::record::{Record, Retry, Step};
use crate::journal::{self, Purpose};
use crate::limits::{MAX_LISTED, MAX_TURN_RETRY_DELAY};
use crate::sys::random;

/// Within this time all turns that wait for the agent are tried again once it has answered one of
/// them: not all at the same moment.
const AGENT_BACK: Duration = Duration::from_secs(1);

/// All turns that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    pub turns: usize,
    /// What the one waits for that is tried next.
    pub next: Waiting,
}

impl Waits {
    pub fn to_json(&self) -> String {
        format!(r#"{{"turns":{},{}"#, self.turns, &self.next.to_json()[1..])
    }
}

/// The failed attempts that hold up a message: its own, or those of the first of its session.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    /// The message whose attempts they are.
    pub by: Id,
    /// When the first of them failed.
    pub since: Instant,
    /// When the next one is made; `None`: it runs, or waits for a place.
    pub next: Option<Instant>,
}

impl Hub {
    /// How old this process is, without the time for which the machine slept.
    fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// What follows an attempt that failed for now: another one, while `agent.retry_for` lasts; after
    /// a crash of the agent, while `limits.max_attempts` allows it.
    pub(super) fn retry_or_fail(&self, entry: &Entry, began: Instant, outcome: &Outcome) -> Step {
        let (error, crash) = (outcome.to_string(), matches!(outcome, Outcome::Crashed(_)));
        let refused =
            if let Outcome::ErrorResponse(refused) = outcome { Some(&**refused) } else { None };
        let settings = self.settings();
        let (limits, retry_for) = (&settings.config.limits, settings.config.agent.retry_for);
        let asked = refused.and_then(|refused| refused.retry_after.as_deref());
        let asked = asked.and_then(|value| retry_after(value, Duration::from_millis(now())));
        let began = began.saturating_duration_since(self.began);
        let failing = entry.failing.as_deref();
        let attempt = Attempt {
            began: failing.map(|failing| failing.spent(began)),
            spent: failing.map_or(Duration::ZERO, |failing| failing.spent(self.age())),
            failures: failing.map_or(1, |failing| failing.retry.failures.saturating_add(1)),
            retry_after: asked,
            random: random::number(),
        };
        let cuts = entry.cuts + 1;
        let next = if crash {
            let allowed = usize::try_from(cuts).is_ok_and(|cuts| cuts < limits.max_attempts);
            allowed.then(|| backoff::delay(cuts, attempt.random, MAX_TURN_RETRY_DELAY))
        } else {
            pause(&attempt, retry_for)
        };
        let detail = refused.map(ErrorResponse::to_json);
        let Some(next) = next else {
            let over = format!("{error} (attempt {}; agent.retry_for is over)", entry.attempts);
            let waited = !crash && !retry_for.is_zero();
            let error = if waited { over } else { error };
            // Its sender is told the same as one whose message is not written down.
            let detail = detail.unwrap_or_else(|| ErrorResponse::unavailable(&error).to_json());
            return Step::Failed(error, Some(detail));
        };
        Step::Retry(Box::new(Retry {
            error,
            failures: attempt.failures,
            spent: millis(attempt.spent),
            pause: millis(next),
            asked: asked.is_some(),
            crash,
            detail,
        }))
    }

    /// Postpones a turn whose attempt has just failed; returns who may start instead.
    pub(super) fn postpone_retry(&self, state: &mut State, id: Id) -> Vec<Id> {
        state.book.mark_failure(id, self.age());
        let Some(entry) = state.book.get(id) else { return state.dispatch.leave(id) };
        let pause = entry.failing.as_ref().map_or(0, |failing| failing.retry.pause);
        // Its clients, and those behind it, may have waited long enough.
        let line = entry.session().into_iter().flat_map(|session| state.dispatch.tickets(session));
        line.chain([id]).filter_map(|id| state.replies.get(id)).for_each(|run| run.lock().notify());
        state.postpone(id, Instant::now() + Duration::from_millis(pause))
    }

    /// At a start: what was postponed is so again, for what is left of its pause.
    pub(super) fn restore_postponed(&self, state: &mut State) {
        let (now, age) = (Instant::now(), self.stamp().age);
        let resting = state.book.resting();
        state.postponed.extend(resting.map(|(id, failing)| (now + failing.left(age), id)));
    }

    /// What a message waits for between two attempts.
    pub(super) fn waiting(&self, state: &State, id: Id) -> Option<Waiting> {
        let failing = state.book.get(id)?.failing.as_deref()?;
        let (at, _) = state.postponed.iter().find(|(_, other)| *other == id)?;
        let left = at.saturating_duration_since(Instant::now());
        let rest = self.settings().config.agent.retry_for.saturating_sub(failing.spent(self.age()));
        let wall = |left: Duration| now().saturating_add(millis(left));
        let (next_attempt_at, gives_up_at) = (wall(left), wall(rest.max(left)));
        Some(Waiting { reason: failing.retry.error.clone(), next_attempt_at, gives_up_at })
    }

    /// The turns that wait for the agent.
    pub(super) fn waits(&self, state: &State) -> Option<Waits> {
        let resting = |id: Id| state.book.get(id).is_some_and(|e| e.turn == TurnState::Resting);
        let waiting = || state.postponed.iter().filter(|(_, id)| resting(*id));
        Some(Waits { turns: waiting().count(), next: self.waiting(state, waiting().min()?.1)? })
    }

    /// The failed attempts that hold a message up.
    pub fn delay_of(&self, id: Id) -> Option<Delay> {
        let state = self.lock();
        let entry = state.book.get(id).filter(|entry| !entry.turn.is_over())?;
        let first = entry.session().and_then(|session| state.dispatch.tickets(session).next());
        let by = first.unwrap_or(id);
        let failing = state.book.get(by)?.failing.as_deref()?;
        let now = Instant::now();
        let since = now.checked_sub(failing.spent(self.age())).unwrap_or(now);
        let next = state.postponed.iter().find(|(_, other)| *other == by).map(|(at, _)| *at);
        Some(Delay { by, since, next })
    }

    /// Messages whose turn failed, newest first, of those that `sees` says.
    pub fn failed(&self, sees: &dyn Fn(&Owner) -> bool) -> Result<Vec<Message>, journal::Refused> {
        let mut ids = Vec::new();
        self.visit_all(&mut |id, entry| {
            if entry.turn == TurnState::Failed && sees(&entry.who) {
                ids.push(id);
            }
            ids.len() < MAX_LISTED
        });
        let messages: Result<Vec<_>, _> = ids.into_iter().map(|id| self.message(id)).collect();
        Ok(messages?.into_iter().flatten().collect())
    }

    /// Has a failed turn run again, behind what waits in its session; of a dead letter, has its reply
    /// sent again.
    pub fn retry(self: &Arc<Self>, id: Id) -> Result<(), Refusal> {
        let mut state = self.lock();
        let entry = state.book.get(id).ok_or(Refusal::Unknown)?;
        if entry.turn != TurnState::Failed {
            drop(state);
            return self.revive(id);
        }
        // Not what a reset forgot, nor while the word of its failure is on its way to a target.
        let sending = entry.delivery_state() == Some(DeliveryState::Sending);
        if sending || state.book.is_erased(entry) {
            return Err(Refusal::TooLate);
        }
        let (who, session) = (Arc::clone(&entry.who), entry.session());
        let admitted = state.dispatch.submit(id, &who.principal, session);
        let (_, runs) = admitted.map_err(Refusal::Full)?;
        let record = Record::step(id, 0, self.stamp(), Step::Requeued);
        let written = self.write(&mut state, &record, Purpose::NewWork);
        let ids = match &written {
            Err(_) => state.dispatch.leave(id),
            Ok(_) => runs.then_some(id).into_iter().collect(),
        };
        self.begin_attempts(&mut state, ids);
        self.confirm(state)?;
        Ok(written.map(drop)?)
    }
}

impl State {
    /// The agent may be back: whoever waits for it tries again within [`AGENT_BACK`], but for those
    /// whom the upstream itself told to wait.
    pub(super) fn retry_soon(&mut self) {
        let (asked, now) = (|failing: &RetryState| failing.retry.asked, Instant::now());
        // Once each: drawn again at every answer, all would come at the same moment.
        for (at, id) in self.postponed.iter_mut().filter(|(at, _)| *at > now + AGENT_BACK) {
            let failing = self.book.get(*id).and_then(|entry| entry.failing.as_deref());
            if !failing.is_some_and(asked) {
                let share = u32::try_from(random::number() % 1000).unwrap_or(0);
                *at = now + AGENT_BACK * share / 1000;
            }
        }
    }
}
