//! The one way in: whatever wants a turn comes through here, and every change of a message is
//! written to the journal under one lock, in the order in which it happens.
//!
//! Nothing waits for the disk under the lock: a record is appended there and synced outside, by whoever
//! is about to show its effect to somebody.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::clock::{Clock, millis};
use super::dispatch::{Dispatch, QueueLimits};
use super::id::Id;
use super::maintenance::CompactionState;
use super::message_table::{Digest, MessageTable};
use super::outboxes::Outboxes;
use super::reply::ReplyBuffers;
use super::states::TurnState;
use super::time::Clocks;
use super::transcript::Transcripts;
use crate::agent::Agent;
use crate::config::Config;
use crate::journal::record::{Record, Step};
use crate::journal::{Condition, Journal, Purpose, Refused};
use crate::limits::{DISK_PAUSE, SHORTAGE_VALID, THREAD_STACK};
use crate::shares::Shares;
use crate::subprocess::Children;
use crate::sys::fd::EventFd;
use crate::threads::{self, lock};

/// How long a record that nobody waits for may stay unsynced: the next message usually takes it
/// along, for nothing.
const LAZY_SYNC: Duration = Duration::from_millis(50);

/// How long nothing is written before the journal says that all is durable: within twice this after
/// the last record.
const MARK_AFTER: Duration = Duration::from_millis(25);

/// What can be changed by a reload: taken once a turn or request, so that each sees one state.
#[derive(Clone, Debug)]
pub struct Settings {
    pub config: Config,
    pub agent: Agent,
}

/// All sessions of the gateway.
#[derive(Debug)]
pub struct Hub {
    pub(super) state: Mutex<State>,
    /// Wakes the keeper.
    pub(super) alarm: Condvar,
    pub(super) journal: Box<dyn Journal>,
    pub(super) transcripts: Transcripts,
    pub(super) children: Arc<Children>,
    /// The journal's time by the clocks of a machine.
    pub(super) clock: Clock,
    pub(super) clocks: Box<dyn Clocks>,
    pub(super) compaction: Mutex<CompactionState>,
    /// What the system was short of when work last had to wait for it.
    pub(super) shortage: Mutex<Option<(Instant, String)>>,
    /// The clock of patience, which stands still while the machine sleeps.
    pub(super) began: Instant,
    settings: RwLock<Arc<Settings>>,
    /// Raised once every turn has to end.
    pub cut: EventFd,
    /// Raised whenever the last work has ended during a drain, and when the journal breaks.
    quiet: Arc<EventFd>,
    /// Workers and senders. Like what follows readable without the lock, which a hung disk may hold.
    busy: AtomicUsize,
    draining: AtomicBool,
    broken: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Turns may begin.
    pub(super) open: bool,
    pub(super) book: MessageTable,
    pub(super) dispatch: Dispatch<Id, Digest>,
    /// Messages without a record that wait on their connection for a place.
    pub(super) waiting: Vec<(Id, Arc<EventFd>)>,
    /// Messages that run or are watched.
    pub(super) runs: ReplyBuffers,
    /// Turns between two attempts.
    pub(super) resting: Vec<(Instant, Id)>,
    /// Begun attempts for which there was no thread, and when to try again.
    pub(super) without_thread: Vec<(Instant, Id)>,
    pub(super) outboxes: Outboxes,
    /// Messages whose end somebody is about to read: they are not forgotten meanwhile.
    pub(super) pinned: Vec<Id>,
    /// Event streams, and the session of each.
    pub(super) followers: Vec<(Digest, Arc<EventFd>)>,
    /// When records that nobody waits for are synced.
    pub(super) sync_at: Option<Instant>,
    /// When the journal says that all is durable, unless more is written until then.
    pub(super) mark_at: Option<Instant>,
    pub(super) last_id: Option<Id>,
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(super) fn bounds(config: &Config) -> QueueLimits {
    let limits = &config.limits;
    QueueLimits {
        turns: limits.max_turns,
        queue: limits.max_queue,
        queue_per_session: limits.max_queue_per_session,
        shares: Shares::of(config),
    }
}

impl Hub {
    /// A hub that goes on where `book`, read back from `journal`, ends. Nothing runs before
    /// [`Hub::open`].
    ///
    /// # Errors
    /// No descriptor.
    pub fn new(
        journal: Box<dyn Journal>,
        mut book: MessageTable,
        transcripts: Transcripts,
        settings: Settings,
        (children, quiet): (Arc<Children>, Arc<EventFd>),
        clocks: Box<dyn Clocks>,
    ) -> std::io::Result<Arc<Hub>> {
        book.requeue();
        let clock = Clock::new(book.clock.as_ref(), book.newest, clocks.boot(), clocks.read());
        // What comes before the hub is open waits behind what was there.
        let mut dispatch = Dispatch::new(QueueLimits { turns: 0, ..bounds(&settings.config) });
        // In the order in which they took their places.
        for (id, entry) in book.sorted(|entry| !entry.turn.is_over(), |entry| entry.queued) {
            dispatch.restore(id, &entry.who.principal, entry.session());
            if entry.turn == TurnState::Resting {
                dispatch.rest(id);
            }
        }
        let state = State {
            dispatch,
            outboxes: Outboxes::new(&book),
            // What a start has read may be in the page cache only.
            mark_at: Some(Instant::now()),
            last_id: book.last,
            book,
            ..State::default()
        };
        Ok(Arc::new(Hub {
            state: Mutex::new(state),
            alarm: Condvar::new(),
            journal,
            transcripts,
            children,
            clock,
            clocks,
            compaction: Mutex::default(),
            shortage: Mutex::default(),
            began: Instant::now(),
            settings: RwLock::new(Arc::new(settings)),
            cut: EventFd::new()?,
            quiet,
            busy: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        }))
    }

    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a new configuration for everything that begins from now on.
    pub fn change(self: &Arc<Self>, settings: Settings) {
        let bounds = bounds(&settings.config);
        self.journal.set_cap(settings.config.limits.max_journal as u64);
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        let mut state = self.lock();
        // Whose key was taken away stops following.
        state.followers.iter().for_each(|(_, follower)| follower.notify());
        let ids = if state.open { state.dispatch.rebound(bounds) } else { Vec::new() };
        // It may be what they wait for.
        state.hurry();
        self.alarm.notify_all();
        self.go_on(state, ids);
    }

    /// No turn begins any more; what waits stays in the journal. Does not wait for anything.
    pub fn drain(self: &Arc<Self>) {
        self.draining.store(true, Ordering::SeqCst);
        let hub = Arc::clone(self);
        let work = move || hub.wake_maintenance(&mut hub.lock());
        if let Err(e) = threads::spawn("drain", THREAD_STACK, Box::new(work)) {
            // The lock is held for moments, unless the disk hangs.
            match self.state.try_lock() {
                Ok(mut state) => self.wake_maintenance(&mut state),
                Err(_) => log::warn!("those who wait are not told of the drain: {e}"),
            }
        }
    }

    /// Tells those who wait of the drain. What has begun and has no thread does not go on.
    pub(super) fn wake_maintenance(&self, state: &mut State) {
        state.runs.nudge();
        state.followers.iter().for_each(|(_, follower)| follower.notify());
        for (_, id) in std::mem::take(&mut state.without_thread) {
            state.runs.end(id);
            self.rest_from_work();
        }
        self.alarm.notify_all();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// How many turns and deliveries are at work.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::SeqCst)
    }

    /// So much more work begins.
    pub(super) fn begin_work(&self, count: usize) {
        self.busy.fetch_add(count, Ordering::SeqCst);
    }

    /// Whether work can be taken and done.
    pub fn condition(&self) -> Condition {
        let shortage = lock(&self.shortage).clone();
        match (self.journal.condition(), shortage) {
            // What waits tries again more often: an older one is of work that was taken back.
            (Condition::Good, Some((at, why))) if at.elapsed() < SHORTAGE_VALID => {
                Condition::Degraded(why)
            }
            (condition, _) => condition,
        }
    }

    /// Appends a record with its JSON and keeps the book. Follows the journal's order: the lock is held,
    /// and the JSON of a long one was made before.
    pub(super) fn write_json(
        &self,
        state: &mut State,
        (record, json): (&Record, &str),
        purpose: Purpose,
    ) -> Result<u64, Refused> {
        if let Err(why) = state.book.check(record) {
            // A bug of ours; a record that does not follow would keep the next start from starting.
            log::error!("a record was held back: {why}");
            return Err(Refused::Unavailable(why));
        }
        let number = self.journal.append(json, purpose).map_err(|refused| self.heard(refused))?;
        if let Err(why) = state.book.apply(number, record, json.len()) {
            log::error!("record {number} does not follow: {why}");
        }
        if let Some(session) = state.book.session_of(record) {
            let mine = state.followers.iter().filter(|(of, _)| *of == session);
            mine.for_each(|(_, follower)| follower.notify());
        }
        let rested = state.mark_at.replace(Instant::now() + MARK_AFTER).is_none();
        if rested || state.book.is_crowded(self.settings().config.limits.keep_results) {
            self.alarm.notify_all();
        }
        Ok(number)
    }

    /// Begins an attempt for each of those whose turn it is; returns those that need a worker.
    pub(super) fn begin(&self, state: &mut State, ids: Vec<Id>) -> Vec<Id> {
        let most = self.settings().config.limits.max_attempts;
        let mut begun = Vec::new();
        let mut next = VecDeque::from(ids);
        while let Some(id) = next.pop_front() {
            if let Some(at) = state.waiting.iter().position(|(waiting, _)| *waiting == id) {
                state.waiting.remove(at).1.notify();
                continue;
            }
            let Some(entry) = state.book.get(id) else { continue };
            // Counted before the drain is looked for: it must not find nothing at work meanwhile.
            self.begin_work(1);
            let worn_out = usize::try_from(entry.cuts).unwrap_or(usize::MAX) >= most;
            let (n, step) = if worn_out {
                (entry.attempts, Step::Failed(gave_up(entry.cuts), None))
            } else {
                (entry.attempts + 1, Step::Started)
            };
            let record = Record::step(id, n, self.stamp(), step);
            let ids = if self.is_draining() {
                state.dispatch.rest(id)
            } else if self.write(state, &record, Purpose::Completion).is_err() {
                state.rest(id, Instant::now() + DISK_PAUSE)
            } else if worn_out {
                self.over(state, id);
                state.dispatch.leave(id)
            } else {
                state.runs.of(id).begin(n);
                begun.push(id);
                continue;
            };
            self.rest_from_work();
            next.extend(ids);
        }
        if !state.resting.is_empty() {
            self.alarm.notify_all();
        }
        begun
    }

    /// What follows the last record of a turn.
    pub(super) fn over(&self, state: &mut State, id: Id) {
        state.runs.end(id);
        let entry = state.book.get(id);
        if let Some((entry, session)) = entry.and_then(|entry| Some((entry, entry.session()?))) {
            let now = self.transcript_time();
            lock(&self.transcripts.usage).touch(session, &entry.who.principal, now);
        }
        self.enqueue_delivery(state, id);
        self.sync_soon(state);
    }

    /// Has the keeper sync what nobody waits for.
    pub(super) fn sync_soon(&self, state: &mut State) {
        if state.sync_at.is_none() {
            state.sync_at = Some(Instant::now() + LAZY_SYNC);
            self.alarm.notify_all();
        }
    }

    /// A journal that broke is the end of the process. One that was removed is not before operators
    /// could be told: see [`Hub::watch_journal`].
    pub(super) fn heard(&self, refused: Refused) -> Refused {
        if matches!(refused, Refused::Broken(_)) && self.loss().is_none() {
            self.end_process();
        } else if let Refused::Full(_) = refused {
            // It may find something to let go.
            self.alarm.notify_all();
        }
        refused
    }

    /// Tells the main thread that only another start can help.
    pub(super) fn end_process(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.quiet.notify();
    }

    /// Waits until a record is durable.
    pub(super) fn sync(&self, number: u64) -> Result<(), Refused> {
        self.journal.sync(number).map_err(|refused| self.heard(refused))
    }

    /// Makes all that was written durable and has the journal say so.
    pub(super) fn mark(&self) -> Result<(), Refused> {
        self.journal.mark().map_err(|refused| self.heard(refused))
    }

    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// One piece of work has ended.
    pub(super) fn rest_from_work(&self) {
        let last = self.busy.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.is_draining() {
            self.quiet.notify();
        }
    }
}

impl State {
    pub(super) fn next_id(&mut self) -> std::io::Result<Id> {
        let id = Id::after(self.last_id)?;
        self.last_id = Some(id);
        Ok(id)
    }

    /// Lets a running turn rest until then; returns who may start instead.
    pub(super) fn rest(&mut self, id: Id, until: Instant) -> Vec<Id> {
        self.resting.push((until, id));
        self.dispatch.rest(id)
    }
}

/// Words for the sender of a message whose turn was cut short often enough.
fn gave_up(cuts: u32) -> String {
    let times = if cuts == 1 { "once".to_owned() } else { format!("{cuts} times") };
    format!(
        "the gateway or its agent ended in the middle of the turn {times}; limits.max_attempts \
         allows no more"
    )
}
