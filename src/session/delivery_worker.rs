//! Delivery workers, which send replies to their targets: one thread a target, while there is something for it.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hub::{Hub, State};
use super::id::Id;
use super::message::rfc3339;
use super::message_table::Entry;
use super::states::DeliveryState;
use super::submit::Refusal;
use crate::config::Target;
use crate::delivery::{DeliveryResult, Payload, backoff};
use crate::fault_points;
use crate::journal::WriteError;
use crate::journal::record::{Record, Step};
use crate::limits::DISK_RETRY_DELAY;
use crate::sys::random;
use crate::threads::lock;

/// The longest pause between two attempts of a delivery that did not ask for more.
const MAX_DELIVERY_PAUSE: Duration = Duration::from_secs(300);

/// Whether a worker goes on. If not, the target is left alone until then.
type Round = Result<(), Option<Instant>>;

impl Hub {
    /// Puts the reply of a message that is over on its way.
    pub(super) fn enqueue_delivery(&self, state: &mut State, id: Id) {
        let entry = state.table.get(id);
        let entry = entry.filter(|entry| entry.delivery_state() == Some(DeliveryState::Pending));
        let Some((owner, Some(target))) =
            entry.map(|entry| (Arc::clone(&entry.owner), entry.target().map(str::to_owned)))
        else {
            return;
        };
        if self.sends_itself(state, &target) {
            self.send_on_channel(state, &target, id);
        } else {
            state.deliveries.push(&target, &owner.principal, id);
            self.maintenance_wakeup.notify_all();
        }
    }

    /// Gives each target that can be sent to a worker.
    pub(super) fn spawn_delivery_workers(self: &Arc<Self>) {
        let targets = {
            let mut state = self.lock();
            // Counted before the drain or pause is looked for: it must not find nothing at work meanwhile.
            self.begin_work(1);
            let (now, held) = (Instant::now(), self.is_draining() || self.is_paused());
            let due = if held { Vec::new() } else { state.deliveries.take_due(now) };
            self.begin_work(due.len());
            self.end_work();
            due
        };
        for target in targets {
            let (hub, name) = (Arc::clone(self), target.clone());
            let work = move || {
                let end = std::iter::repeat_with(|| hub.send_next(&name)).find_map(Result::err);
                hub.stop_sending(&name, end.flatten());
            };
            if !self.spawn_worker("delivery", Box::new(work)) {
                self.stop_sending(&target, Some(Instant::now() + DISK_RETRY_DELAY));
            }
        }
    }

    fn stop_sending(&self, target: &str, until: Option<Instant>) {
        let mut state = self.lock();
        state.deliveries.release(target, until);
        self.end_work();
        self.maintenance_wakeup.notify_all();
    }

    /// Keeps a target for one reply of this stop, which its worker would wait for as long as it likes; false
    /// where another is on its way there.
    pub(super) fn claim_target(&self, name: &str) -> bool {
        let claimed = self.lock().deliveries.claim(name);
        self.begin_work(claimed.into());
        claimed
    }

    /// Sends this reply to a target that was claimed, where there is one. Waits for so long at the most.
    pub(super) fn send_claimed(&self, name: &str, id: Option<Id>, limit: Duration) {
        let entry = id.and_then(|id| Some((id, self.lock().table.copy(id).filter(may_be_sent)?)));
        let _ = entry.map(|next| self.send(name, next, limit));
        self.stop_sending(name, None);
    }

    /// Sends the reply whose turn it is in a target's queue.
    fn send_next(&self, name: &str) -> Round {
        let next = {
            let mut state = self.lock();
            let first = state.deliveries.next(name, Instant::now());
            let held = self.is_draining() || self.is_paused();
            let Some(id) = first.filter(|_| !held) else { return Err(None) };
            // What is a channel by now sends it itself.
            let itself = self.sends_itself(&state, name);
            let sends = |entry: &Entry| may_be_sent(entry) && !itself;
            let Some(entry) = state.table.copy(id).filter(sends) else {
                state.deliveries.advance(name, id, None);
                return Ok(());
            };
            (id, entry)
        };
        self.send(name, next, Duration::MAX)
    }

    /// Makes one attempt, which takes no longer than `limit`.
    fn send(&self, name: &str, (id, entry): (Id, Entry), limit: Duration) -> Round {
        let settings = self.settings();
        let (since, attempts) =
            entry.delivery.as_ref().map_or((0, 0), |out| (out.since.uptime(), out.attempts));
        // What nobody could send while the machine was off does not grow old meanwhile.
        let age = Duration::from_millis(self.stamp().uptime().saturating_sub(since));
        let give_up = |why| self.record_delivery(name, (id, attempts), Step::Dead(why), None);
        let Some(target) = settings.config.deliver.get(name) else {
            return give_up(format!("the configuration has no target {name:?} any more"));
        };
        if age >= target.expire {
            return give_up(format!("it expired after {attempts} attempts"));
        }
        let text = match self.outcome(&entry) {
            Ok(Some(Step::Done(text, _) | Step::Failed(text, _))) => text,
            Err(e) if e.kind() == ErrorKind::InvalidData => {
                return give_up(format!("the reply cannot be read back: {e}"));
            }
            other => {
                // Nothing else than the reply may arrive in its name.
                let why = other.map_or_else(|e| e.to_string(), |_| "there is none".to_owned());
                let pause = MAX_DELIVERY_PAUSE.as_secs();
                log::error!(
                    "the reply of message {id} for target {name} cannot be read; trying again in \
                     {pause} s: {why}"
                );
                return Err(Some(Instant::now() + MAX_DELIVERY_PAUSE));
            }
        };
        let written = {
            let mut state = self.lock();
            // An operator may have had a failed turn run again: that text is not its reply any more. Or
            // its session was reset.
            let same = |now: Entry| now.outcome == entry.outcome && may_be_sent(&now);
            if !state.table.copy(id).is_some_and(same) {
                return Ok(());
            }
            self.write_step(&mut state, (id, attempts + 1), Step::Sending)
        };
        let number = written.map_err(|_| Some(Instant::now() + DISK_RETRY_DELAY))?;
        // The reply before it and "attempt n started" are durable before anything is sent.
        self.sync(number).map_err(|_| None)?;
        let payload = Payload {
            id: &id.to_string(),
            session: entry.owner.session.as_deref(),
            principal: &entry.owner.principal,
            status: entry.turn.word(),
            text: &text,
            attempt: attempts + 1,
            created_at: &rfc3339(entry.at),
            finished_at: &rfc3339(entry.ended.at),
        };
        let target = Target { timeout: target.timeout.min(limit), ..target.clone() };
        lock(&self.attempts).push((name.to_owned(), Instant::now() + target.timeout));
        fault_points::at("delivery");
        let sent = crate::delivery::send(&target, &payload, &self.children, self.abort.as_fd());
        lock(&self.attempts).retain(|(target, _)| target != name);
        self.record_result(name, id, attempts + 1, sent)
    }

    /// Writes down what came of an attempt.
    fn record_result(&self, name: &str, id: Id, n: u32, sent: DeliveryResult) -> Round {
        match sent {
            DeliveryResult::Delivered => self.record_delivery(name, (id, n), Step::Delivered, None),
            DeliveryResult::Refused(why) => {
                self.record_delivery(name, (id, n), Step::Dead(why), None)
            }
            DeliveryResult::Deferred(why, retry_after) => {
                log::info!(
                    "target {name} did not take the reply of message {id} (attempt {n}); trying \
                     again until it expires: {why}"
                );
                let pause = backoff::delay(n, random::number(), MAX_DELIVERY_PAUSE);
                self.record_delivery(name, (id, n), Step::Deferred(why), Some(pause))?;
                // What the target asks for holds for whatever it would be sent.
                let asked = retry_after.map(|asked| Instant::now() + asked.max(pause));
                asked.map_or(Ok(()), |until| Err(Some(until)))
            }
            // Its record says that it may have arrived: it is sent again after the start.
            DeliveryResult::Aborted => Err(None),
        }
    }

    /// Records what came of attempt `n`, however long that takes, unless the gateway ends before.
    /// `pause`: the one before the next attempt, if there is to be one.
    fn record_delivery(
        &self,
        name: &str,
        (id, n): (Id, u32),
        step: Step,
        pause: Option<Duration>,
    ) -> Round {
        let known = self.lock().table.copy(id).is_some_and(|entry| !entry.erased);
        let record = Record::step(id, n, self.stamp(), step);
        match known.then(|| self.write_with_retry(&format!("the delivery of {id}"), &record)) {
            Some(Ok(mut state)) => {
                self.sync_soon(&mut state);
                drop(state);
                if let Record::Step { step: Step::Dead(why), .. } = &record {
                    warn_dead(name, id, why);
                }
            }
            // It was left out.
            Some(Err(WriteError::Unavailable(_))) | None => {}
            // The gateway may be there for a while, where its journal was removed.
            Some(Err(WriteError::Broken(_) | WriteError::Full(_) | WriteError::TooLong)) => {
                return Err(Some(Instant::now() + DISK_RETRY_DELAY));
            }
        }
        let until = pause.map(|pause| Instant::now() + pause);
        self.lock().deliveries.advance(name, id, until);
        Ok(())
    }

    /// Takes a message off the dead-letter list and sends its reply again.
    pub fn revive(&self, id: Id) -> Result<(), Refusal> {
        self.write_operation(id, Step::Revived)?;
        self.enqueue_delivery(&mut self.lock(), id);
        Ok(())
    }

    /// Takes a message off the dead-letter list for good.
    pub fn drop_dead_letter(&self, id: Id) -> Result<(), Refusal> {
        self.write_operation(id, Step::Dropped)
    }
}

/// Says that a reply was given up.
pub(super) fn warn_dead(target: &str, id: Id, why: &str) {
    log::warn!(
        "the reply of message {id} to target {target} is a dead letter: {why}; `journal retry {id}` tries \
         it again"
    );
}

fn may_be_sent(entry: &Entry) -> bool {
    !entry.erased && entry.is_to_be_sent()
}
