//! Turns between two attempts: until when they wait, what holds up whom, and when they are tried
//! earlier.

use std::time::{Duration, Instant};

use super::clock::millis;
use super::hub::{Hub, State};
use super::id::Id;
use super::states::TurnState;
use super::time::now;
use crate::escape::quoted;
use crate::sys::{clock::rfc3339, gather::Gather, random};

/// Within this time all turns that wait for the agent are tried again once it has answered one of
/// them: not all at the same moment.
const AGENT_BACK: Duration = Duration::from_secs(1);

/// The failed attempts that hold up a message: its own, or those of the first of its session.
#[derive(Clone, Debug)]
pub struct PendingRetry {
    /// The message whose attempts they are.
    pub id: Id,
    /// Why the last of them failed.
    pub reason: String,
    /// When the first of them failed.
    pub since: Instant,
    /// When the next one is made; `None`: it runs, or waits for a slot.
    pub next: Option<Instant>,
    /// When the last one will be made.
    pub last: Instant,
}

impl PendingRetry {
    /// By what the wall clock says now; `None` without a next attempt.
    pub fn to_json(&self) -> Option<String> {
        let left = |at: Instant| millis(at.saturating_duration_since(Instant::now()));
        let wall = |at| rfc3339(now().saturating_add(left(at)));
        Some(format!(
            r#"{{"reason":{},"next_attempt_at":"{}","gives_up_at":"{}"}}"#,
            quoted(&self.reason),
            wall(self.next?),
            wall(self.last),
        ))
    }
}

impl Hub {
    /// Postpones a turn whose attempt has just failed.
    pub(super) fn postpone_retry(&self, state: &mut State, id: Id) {
        state.table.mark_failure(id, self.began.elapsed());
        let Some(entry) = state.table.get(id) else { return };
        let pause = entry.failing.as_ref().map_or(0, |failing| failing.retry.pause);
        // Its clients, and those behind it, may have waited long enough.
        let waiting = state.dispatch.turns_of(entry.session()).chain([id]);
        waiting.filter_map(|id| state.replies.get(id)).for_each(|run| run.lock().notify());
        self.postpone(state, id, Duration::from_millis(pause));
    }

    /// The failed attempts of a message that is not over.
    pub(super) fn retry_of(&self, state: &State, id: Id) -> Option<PendingRetry> {
        let failing = state.table.get(id)?.failing.as_deref()?;
        let (now, spent) = (Instant::now(), failing.spent(self.began.elapsed()));
        let next = state.dispatch.postponed().find(|(other, _)| *other == id).map(|(_, at)| at);
        let last = now + self.settings().config.agent.retry_for.saturating_sub(spent);
        Some(PendingRetry {
            id,
            reason: failing.retry.error.clone(),
            since: now.checked_sub(spent).unwrap_or(now),
            next,
            last: next.map_or(last, |next| next.max(last)),
        })
    }

    /// How many turns wait for the agent, and what the one waits for that is tried next: JSON.
    pub(super) fn waiting_turns(&self, state: &State) -> Option<String> {
        let in_backoff = |id: Id| state.table.get(id).is_some_and(|e| e.turn == TurnState::Backoff);
        let waiting = || state.dispatch.postponed().filter(|(id, _)| in_backoff(*id));
        let (next, _) = waiting().min_by_key(|(_, at)| *at)?;
        let next = self.retry_of(state, next)?.to_json()?;
        Some(format!(r#"{{"turns":{},{}"#, waiting().count(), &next[1..]))
    }

    /// The failed attempts that hold a message up.
    pub fn pending_retry(&self, id: Id) -> Option<PendingRetry> {
        let state = self.lock();
        let entry = state.table.get(id).filter(|entry| !entry.turn.is_over())?;
        let first = state.dispatch.turns_of(entry.session()).next();
        self.retry_of(&state, first.unwrap_or(id))
    }
}

impl State {
    /// The agent may be back: whoever waits for it tries again within [`AGENT_BACK`], but for those
    /// whom the upstream itself told to wait.
    pub(super) fn retry_soon(&mut self) {
        let now = Instant::now();
        let asked = |id| self.table.get(id)?.failing.as_ref().map(|failing| failing.retry.asked);
        // Once each: drawn again at every answer, all would come at the same moment.
        let later = |(id, at): &(Id, _)| *at > now + AGENT_BACK && asked(*id) != Some(true);
        for (id, _) in self.dispatch.postponed().filter(later).gather() {
            let share = u32::try_from(random::number() % 1000).unwrap_or(0);
            self.dispatch.postpone(id, now + AGENT_BACK * share / 1000);
        }
    }
}
