//! The maintenance thread: what comes due by time. It starts turns again, syncs what nobody
//! waits for, forgets old results and has the journal compacted.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::hub::{CompactionState, Hub, State, queue_limits};
use super::id::Id;
use super::message_table::{Entry, Owner};
use super::tree::Tree;
use crate::fault_points;
use crate::journal::{Condition, WriteError};
use crate::limits::{LOCK_BATCH, THREAD_RETRY_DELAY, THREAD_STACK};
use crate::sys::gather::Gather;
use crate::threads::{self, lock, pause};

/// How often maintenance looks for results that are old.
const MAINTENANCE_ROUND: Duration = Duration::from_secs(60);

/// How often it looks while there are too many, which a compaction under way keeps it from.
const MAINTENANCE_SOON: Duration = Duration::from_millis(200);

/// A smaller journal is not worth a compaction.
const COMPACT_FROM: u64 = 1 << 20;

/// After a compaction that failed.
const COMPACT_PAUSE: Duration = Duration::from_secs(30);

/// Between the compactions that resets ask for, at the least; and so many times what the last took,
/// so that resets keep no disk busy.
const ERASE_PAUSE: Duration = Duration::from_secs(5);

const ERASE_FACTOR: u32 = 20;

/// How often maintenance looks whether a journal that lacks room has some again, and whether its path
/// still leads to it.
const JOURNAL_PROBE: Duration = Duration::from_secs(2);

/// How long a gateway whose journal was removed says so before it ends: a monitor that looks every ten
/// seconds sees it.
const LOSS_SHOWN: Duration = Duration::from_secs(20);

impl Hub {
    /// Lets turns and deliveries begin, those of earlier runs first, and starts maintenance and the watch
    /// of the journal; where there is no thread for them, as soon as there is.
    pub fn open(self: &Arc<Self>) {
        // A transcript that is settled before the count below must not count as unused since 1970.
        self.transcript_time();
        let threads = [
            ("watch", Hub::watch_journal as fn(Arc<Hub>)),
            ("maintenance", Hub::maintain),
            ("sessions", Hub::count_sessions),
        ];
        for (name, work) in threads {
            let start = || {
                let hub = Arc::clone(self);
                self.spawn_worker(name, Box::new(move || work(hub)))
            };
            while !start() {
                if self.aborted_within(THREAD_RETRY_DELAY) || self.is_draining() {
                    return;
                }
            }
        }
        self.apply_resets();
        self.transcripts.remove_temporary();
        self.settings().agent.clean();
        let mut state = self.lock();
        self.hold_again(&mut state);
        state.open = true;
        state.dispatch.limits = queue_limits(&self.settings().config);
        self.start_turns(state);
        self.begin_agent();
        self.spawn_delivery_workers();
    }

    fn maintain(self: Arc<Self>) {
        let mut opening = true;
        loop {
            // What the process before this one left may be all that keeps new work out.
            let short = std::mem::take(&mut opening).then_some(Duration::ZERO);
            let full = matches!(self.journal.condition(), Condition::Degraded(_));
            let short = short.or(full.then_some(JOURNAL_PROBE));
            let mut state = self.lock();
            let now = Instant::now();
            let crowded = state.table.is_crowded(self.settings().config.limits.keep_results);
            let soon = crowded || state.table.must_erase;
            let round = if soon { MAINTENANCE_SOON } else { MAINTENANCE_ROUND };
            let next = self.next_due(&state, now, short.unwrap_or(round).min(round));
            if next > now {
                let waited = self.maintenance_wakeup.wait_timeout(state, next - now);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if self.is_draining() {
                drop(state);
                return self.sync_to_the_end();
            }
            fault_points::at("dispatch");
            self.note_move();
            state.dispatch.wake(Instant::now());
            let mut begun = self.begin_attempts(&mut state);
            let sync = state.sync_at.take_if(|at| *at <= Instant::now()).is_some();
            let mark = state.mark_at.take_if(|at| *at <= Instant::now()).is_some();
            let due = state.without_thread.extract_if(.., |(at, _)| *at <= Instant::now());
            begun.extend(due.map(|(_, id)| id));
            drop(state);
            fault_points::at("maintenance");
            self.spawn_workers(begun);
            self.spawn_delivery_workers();
            self.tell_failures();
            // One that the disk has no room for is tried again in the next round.
            let _ = self.write_clock();
            self.settings().agent.close_idle();
            if sync {
                // Whether it broke is heard where it breaks.
                let _ = self.sync(self.journal.last());
            }
            if mark {
                let _ = self.mark();
            }
            // Not while a compaction is under way.
            while self.lock_in_turn().table.erase_some() {}
            if let Ok(mut compaction) = self.compaction.try_lock() {
                self.forget(&mut compaction);
                if compaction.idle_checked.is_none_or(|at| at.elapsed() >= MAINTENANCE_ROUND) {
                    compaction.idle_checked = Some(Instant::now());
                    self.forget_idle();
                }
                if self.is_worth_compacting(&compaction) {
                    drop(compaction);
                    self.spawn_compaction();
                }
            }
            self.remove_attachments();
        }
    }

    /// When there is something to do for maintenance. During a pause no delivery comes due.
    pub(super) fn next_due(&self, state: &State, now: Instant, round: Duration) -> Instant {
        let postponed = state.dispatch.postponed().map(|(_, until)| until);
        let postponed = postponed.chain(state.without_thread.iter().map(|(at, _)| *at));
        let sending = state.deliveries.next_due(now).filter(|_| !self.is_paused());
        let all = postponed.chain(state.sync_at).chain(state.mark_at).chain(sending);
        all.chain(state.failures.due(now)).fold(now + round, Instant::min)
    }

    /// Whether there is something to do by now: for maintenance, or for whoever gives free slots away.
    pub(super) fn has_due(&self, state: &State, now: Instant) -> bool {
        let may_start = !self.is_paused() && state.dispatch.may_start();
        may_start || self.next_due(state, now, MAINTENANCE_ROUND) <= now
    }

    /// During a drain: ends of turns become durable as they do otherwise.
    fn sync_to_the_end(&self) {
        loop {
            let mut state = self.lock();
            if state.sync_at.is_none() && self.busy() == 0 {
                return;
            }
            let due = state.sync_at.map(|at| at.saturating_duration_since(Instant::now()));
            if due == Some(Duration::ZERO) {
                state.sync_at = None;
                drop(state);
                if self.sync(self.journal.last()).is_err() {
                    return;
                }
            } else {
                drop(self.maintenance_wakeup.wait_timeout(state, due.unwrap_or(MAINTENANCE_SOON)));
            }
        }
    }

    /// Watches the journal's file, in a thread that may hang with the disk. One that was lost, and saved,
    /// ends the process once it was said for long enough.
    pub(super) fn watch_journal(self: Arc<Self>) {
        while !self.is_draining() || self.busy() > 0 {
            self.journal.check_file();
            let loss = self.health().loss().filter(|loss| loss.saved.is_some());
            if loss.is_some_and(|loss| loss.at.elapsed() >= LOSS_SHOWN) {
                return self.end_process();
            }
            pause(JOURNAL_PROBE);
        }
    }

    /// Forgets settled messages that are old or too many. Their sessions' transcripts have them by
    /// then.
    fn forget(&self, compaction: &mut CompactionState) {
        let mut behind = Tree::new();
        while self.forget_some(compaction, &mut behind) {}
        compaction.reported &= !behind.is_empty();
    }

    /// Does so with some of them; says whether there may be more. `behind`: sessions whose transcripts
    /// cannot be brought up to date.
    fn forget_some(&self, compaction: &mut CompactionState, behind: &mut Tree) -> bool {
        let keep = self.settings().config.limits.keep_results;
        let (ids, owners) = {
            let state = self.lock_in_turn();
            let may_go = |id| state.may_forget(id, behind);
            let ids = state.table.overdue(self.stamp(), keep, (LOCK_BATCH, &may_go));
            let entries = ids.iter().filter_map(|id| state.table.get(*id));
            // What was forgotten there must not come back.
            let reset = |session, entry: &Entry| state.table.is_reset(session, entry.accepted);
            let said = entries.filter(|it| it.session().is_some_and(|session| !reset(session, it)));
            let owners: Vec<Arc<Owner>> = said.map(|entry| Arc::clone(&entry.owner)).gather();
            (ids, owners)
        };
        for who in owners {
            self.note_move();
            let Some(session) = who.digest().filter(|session| !behind.contains_key(session)) else {
                continue;
            };
            match self.reconcile(session, &who, true) {
                Err(e) => {
                    if !std::mem::replace(&mut compaction.reported, true) {
                        log::warn!("a transcript is behind, so its session is not forgotten: {e}");
                    }
                    behind.insert(session, 0);
                }
                Ok(()) => _ = compaction.forgotten.insert(session, 0),
            }
        }
        let mut state = self.lock();
        let go: Vec<Id> = ids.iter().copied().filter(|id| state.may_forget(*id, behind)).gather();
        state.table.forget(&go);
        !ids.is_empty()
    }

    /// Whether more than half of the journal is dead.
    fn is_worth_compacting(&self, compaction: &CompactionState) -> bool {
        let may = |after: Option<Instant>| after.is_none_or(|after| Instant::now() >= after);
        let (live, must_erase) = {
            let table = &self.lock().table;
            let other = table.agent_session_bytes() + table.fact_bytes();
            (table.counts.bytes + other, table.must_erase)
        };
        let size = self.journal.size();
        let dead = size.saturating_sub(live);
        // Near its cap less is worth it: new work is about to be refused.
        let cap = self.settings().config.limits.max_journal as u64;
        let worth_it = dead > size / 2 || (size > cap / 2 && dead > size / 8);
        let erases = must_erase && may(compaction.erase_after);
        may(compaction.compact_after) && (erases || (size > COMPACT_FROM.min(cap / 4) && worth_it))
    }

    /// Compacts in a thread of its own: turns and deliveries come due meanwhile.
    fn spawn_compaction(self: &Arc<Self>) {
        let hub = Arc::clone(self);
        let work = move || match hub.compact() {
            Ok((before, after)) => {
                log::info!("the journal was compacted: {before} → {after} bytes");
            }
            Err(e) => {
                log::warn!("the journal could not be compacted: {e}");
                lock(&hub.compaction).compact_after = Some(Instant::now() + COMPACT_PAUSE);
            }
        };
        if let Err(e) = threads::spawn("compaction", THREAD_STACK, Box::new(work)) {
            log::warn!("no thread to compact the journal: {e}; trying again");
            lock(&self.compaction).compact_after = Some(Instant::now() + JOURNAL_PROBE);
        }
    }

    /// Drops all that is not needed any more from the journal. Returns its size before and after.
    pub fn compact(&self) -> io::Result<(u64, u64)> {
        let mut compaction = lock(&self.compaction);
        let (before, began) = (self.journal.size(), Instant::now());
        self.forget(&mut compaction);
        // The journal is about to let go of turns: their transcripts must be durable.
        for session in compaction.forgotten.clone().into_keys() {
            self.transcripts.sync(session)?;
            compaction.forgotten.remove(&session);
        }
        while self.lock_in_turn().table.erase_some() {}
        // A transcript of before a reset must be gone before the record of that.
        self.apply_resets();
        let mut from = Some(0);
        while let Some(session) = from {
            from = self.lock_in_turn().table.forget_resets(session, LOCK_BATCH);
        }
        let erases = self.lock().table.copying(true);
        let mut decide = |number: u64, json: &str| self.lock().table.decide(number, json);
        let result = self.journal.rewrite(&mut decide);
        self.lock().table.copying(false);
        compaction.erase_after =
            Some(Instant::now() + ERASE_PAUSE.max(began.elapsed() * ERASE_FACTOR));
        if erases && result.is_err() {
            self.lock().table.must_erase = true;
        }
        if let (Err(_), Condition::Broken(why)) = (&result, self.journal.condition()) {
            self.note_refusal(WriteError::Broken(why));
        }
        result.map(|()| (before, self.journal.size()))
    }
}

impl State {
    /// Whether a message may be forgotten: nobody is about to read it, and its transcript has it. New
    /// ids come after the newest, also where the clock was set back over a restart.
    fn may_forget(&self, id: Id, behind: &Tree) -> bool {
        let session = self.table.get(id).and_then(Entry::session);
        let is_behind = session.is_some_and(|session| behind.contains_key(&session));
        let is_pinned =
            self.pinned.iter().any(|(pin, _)| pin.upgrade().is_some_and(|pin| *pin == id));
        !is_behind && Some(id) != self.table.last && !is_pinned
    }
}
