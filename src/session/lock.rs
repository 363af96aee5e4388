//! The hub's lock, and walks through what it guards that give it back in between.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::{Digest, Entry};
use crate::limits::LOCK_BATCH;
use crate::threads::{lock, pause};

/// For how long the lock is left to those who wait for it, between two such batches.
const LOCK_TURN: Duration = Duration::from_micros(100);

/// Threads that wait for the lock.
static WAITING: AtomicUsize = AtomicUsize::new(0);

impl Hub {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        WAITING.fetch_add(1, Ordering::Relaxed);
        let state = lock(&self.state);
        WAITING.fetch_sub(1, Ordering::Relaxed);
        // Nobody else writes it: the lock is held.
        self.taken.store(self.taken.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        state
    }

    /// The same for one who has just given it back: those who wait come first, whom a mutex lets wait
    /// for as long as somebody is quicker.
    pub(super) fn lock_in_turn(&self) -> MutexGuard<'_, State> {
        if WAITING.load(Ordering::Relaxed) > 0 {
            pause(LOCK_TURN);
        }
        self.lock()
    }

    /// Shows a session's messages that began after this record, in order. The lock is given back after
    /// every few.
    pub(super) fn visit_session(
        &self,
        session: Digest,
        mut after: u64,
        visit: &mut dyn FnMut(Id, &Entry),
    ) {
        let mut count = LOCK_BATCH;
        while count == LOCK_BATCH {
            count = 0;
            let state = self.lock_in_turn();
            for (id, entry) in state.table.messages_of(session, after).take(LOCK_BATCH) {
                if !state.table.is_erased(entry) {
                    visit(id, entry);
                }
                (after, count) = (entry.accepted, count + 1);
            }
        }
    }

    /// Shows the messages older than this one, or all, the newest first, until `visit` says false. The
    /// lock is given back after every few.
    pub(super) fn visit_all(
        &self,
        mut before: Option<Id>,
        visit: &mut dyn FnMut(Id, &Entry) -> bool,
    ) {
        let mut count = LOCK_BATCH;
        while count == LOCK_BATCH {
            count = 0;
            let state = self.lock_in_turn();
            for (id, entry) in state.table.before(before).take(LOCK_BATCH) {
                if !state.table.is_erased(entry) && !visit(id, entry) {
                    return;
                }
                (before, count) = (Some(id), count + 1);
            }
        }
    }
}
