//! The pause before a restart in place: what runs goes on, and nothing else begins until the next process
//! goes on with the journal, or until the pause is over because the restart was given up.
//!
//! A client whose chat has been read is answered, so the turns that it waits for begin all the same: its
//! own, and those before it in its session.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use super::asking::Slot;
use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::Entry;
use super::states::TurnState;
use crate::limits::THREAD_STACK;
use crate::sys::gather::Gather;
use crate::threads;

impl Hub {
    /// No turn, no attempt and no delivery begins that nobody waits for on a chat. Messages are accepted,
    /// and what waits stays in its queue; questions are not answered any more. Also leads back from
    /// [`Hub::release`]. Does not wait for anything.
    pub fn pause(self: &Arc<Self>) {
        self.released.store(false, Ordering::SeqCst);
        self.paused.store(true, Ordering::SeqCst);
        // What one of them has to do for its end comes before the restart.
        self.settings().agent.set_closing(true);
        self.attached.wake();
        self.announce("pause", |_, mut state| {
            state.stop_asking();
            state.replies.notify_watchers();
        });
    }

    /// Ends a pause, and what [`Hub::release`] has begun. Does not wait for anything.
    pub fn resume(self: &Arc<Self>) {
        self.released.store(false, Ordering::SeqCst);
        self.paused.store(false, Ordering::SeqCst);
        self.settings().agent.set_closing(false);
        self.attached.wake();
        self.announce("resume", |hub, state| {
            hub.maintenance_wakeup.notify_all();
            hub.start_turns(state);
        });
    }

    /// The restart comes: during a pause, those who wait for messages that do not run are answered with
    /// what is known of them, and event streams end. Does not wait for anything.
    pub fn release(self: &Arc<Self>) {
        self.released.store(true, Ordering::SeqCst);
        self.announce("release", |_, mut state| state.notify_waiters());
    }

    /// Does this under the lock, without waiting for it: a disk that hangs may hold it.
    pub(super) fn announce(
        self: &Arc<Self>,
        what: &str,
        tell: fn(&Arc<Hub>, MutexGuard<'_, State>),
    ) {
        let hub = Arc::clone(self);
        let work = move || tell(&hub, hub.lock());
        if let Err(e) = threads::spawn(what, THREAD_STACK, Box::new(work)) {
            // It is held for moments otherwise.
            match self.state.try_lock() {
                Ok(state) => tell(self, state),
                Err(_) => log::warn!("those who wait are not notified of the {what}: {e}"),
            }
        }
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Whether event streams and waits for what does not run are to end.
    pub fn are_waits_over(&self) -> bool {
        self.is_draining() || self.released.load(Ordering::SeqCst)
    }

    /// How many requests wait for the end of a message. While nothing is at work none of them runs.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(super) fn begin_wait(&self) -> Wait<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if self.is_paused() {
            self.wake_main();
        }
        Wait(self)
    }

    /// The next turn that may begin, and whether a pause was looked at for that.
    pub(super) fn start_next(&self, state: &mut State) -> (bool, Option<Id>) {
        let paused = self.is_paused();
        state.dispatch.held = paused;
        let wanted = paused.then(|| state.attended());
        (paused, state.dispatch.start_next(wanted.as_deref()))
    }

    /// How much is at work, with the channels that are to end.
    pub fn busy(&self) -> usize {
        let ends = self.is_draining() || self.is_paused();
        self.work() + if ends { self.attached.count() } else { 0 }
    }

    /// How many turns and deliveries are at work.
    pub fn work(&self) -> usize {
        self.busy.load(Ordering::SeqCst)
    }

    /// So much more work begins.
    pub(super) fn begin_work(&self, count: usize) {
        self.busy.fetch_add(count, Ordering::SeqCst);
    }

    /// One piece of work has ended.
    pub(super) fn end_work(&self) {
        let last = self.busy.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && (self.is_draining() || self.is_paused()) {
            self.attached.wake();
            self.wake_main();
        }
    }

    pub(super) fn wake_main(&self) {
        self.main_wakeup.notify();
    }
}

/// A request that waits for the end of a message.
pub(super) struct Wait<'a>(&'a Hub);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl State {
    /// Tells those who wait for messages and those that follow sessions to look again.
    pub(super) fn notify_waiters(&mut self) {
        self.replies.notify_watchers();
        self.notify_followers(None);
    }

    pub(super) fn pin(&mut self, pin: &Arc<Id>, attended: bool) {
        self.pinned.retain(|(pin, _)| pin.strong_count() > 0);
        self.pinned.push((Arc::downgrade(pin), attended));
    }

    /// Whether the first turn of this one's session was released, and has not begun again.
    pub(super) fn is_released(&self, id: Id) -> bool {
        let session = self.table.get(id).and_then(Entry::session);
        let first = self.dispatch.turns_of(session).next().unwrap_or(id);
        let waits = self.table.get(first).is_none_or(|it| it.turn != TurnState::Running);
        waits && self.replies.get(first).is_some_and(|reply| reply.lock().releases > 0)
    }

    /// The messages whose turns go on during a pause: those whose replies clients of chats wait for.
    fn attended(&self) -> Vec<Id> {
        let durable = self.pinned.iter().filter(|(_, attended)| *attended);
        let durable = durable.filter_map(|(pin, _)| pin.upgrade().map(|id| *id));
        // Not what is behind one that was released: that would ask again.
        let durable = durable.filter(|id| !self.is_released(*id));
        // And those that were in the middle of an attempt.
        let begun = self.asking.iter().filter(|asking| asking.slot == Slot::Wanted);
        let begun = begun.map(|asking| asking.message);
        durable.chain(self.waiting_permits.iter().map(|(id, _)| *id)).chain(begun).gather()
    }
}
