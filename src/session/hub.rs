//! The one way in: whatever wants a turn comes through here, and every change of a message is
//! written to the journal under one lock, in the order in which it happens.
//!
//! Nothing waits for the disk under the lock: a record is appended there and synced outside, by whoever
//! is about to show its effect to somebody.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use super::asking::Asking;
use super::attached::Attached;
use super::clock::Clock;
use super::delivery_queue::DeliveryQueues;
use super::dispatch::{Dispatch, QueueLimits};
use super::failures::Failures;
use super::id::Id;
use super::message_table::{Digest, MessageTable};
use super::reply::{Recent, ReplyBuffers};
use super::restart_record::{Pending, RecordFile};
use super::restarts::{Restart, RestartAccepted, RestartRequest, Restarts};
use super::states::TurnState;
use super::time::Clocks;
use super::transcript::Transcripts;
use super::tree::Tree;
use crate::agent::Agent;
use crate::config::Config;
use crate::journal::record::Timestamp;
use crate::journal::{Journal, WriteError};
use crate::named::ByName;
use crate::shares::Shares;
use crate::subprocess::Children;
use crate::sys::{clock::rfc3339, fd::EventFd};

/// How long a record that nobody waits for may stay unsynced: the next message usually takes it
/// along, for nothing.
const LAZY_SYNC: Duration = Duration::from_millis(50);

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
    /// Wakes maintenance.
    pub(super) maintenance_wakeup: Condvar,
    pub(super) journal: Box<dyn Journal>,
    pub(super) transcripts: Transcripts,
    pub(super) children: Arc<Children>,
    /// The journal's time by the clocks of a machine.
    pub(super) clock: Clock,
    pub(super) clocks: Box<dyn Clocks>,
    pub(super) compaction: Mutex<CompactionState>,
    /// What the system was short of when work last had to wait for it.
    pub(super) shortage: Mutex<Option<(Instant, String)>>,
    /// How often the lock was taken, and how far maintenance is: see [`Hub::hangs`].
    pub(super) taken: AtomicUsize,
    pub(super) moves: AtomicUsize,
    /// The attempts of deliveries that are under way, by target, and when each has to be over.
    pub(super) attempts: Mutex<Vec<(String, Instant)>>,
    /// What `agent.retry_for` is measured from: a clock that stands still while the machine sleeps.
    pub(super) began: Instant,
    /// The restarts that are asked for.
    pub restarts: Restarts,
    /// Which gateway this is.
    pub gateway: OnceLock<String>,
    /// What the next run is told of them.
    pub restart_record: RecordFile,
    /// The channels that work.
    pub(super) attached: Attached,
    settings: RwLock<Arc<Settings>>,
    /// Readable once every turn has to end.
    pub abort: EventFd,
    /// Notified whenever the last work has ended during a drain or a pause, and when the journal breaks.
    pub(super) main_wakeup: Arc<EventFd>,
    /// Turn and delivery workers. Like what follows readable without the lock, which a hung disk may hold.
    pub(super) busy: AtomicUsize,
    draining: AtomicBool,
    broken: AtomicBool,
    /// See [`Hub::pause`] and [`Hub::release`].
    pub(super) paused: AtomicBool,
    pub(super) released: AtomicBool,
    /// Those that wait for the end of a message, in [`Hub::wait`].
    pub(super) waiting: AtomicUsize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Turns may begin.
    pub(super) open: bool,
    pub(super) table: MessageTable,
    pub(super) dispatch: Dispatch<Id, Digest>,
    /// Messages without a record that wait on their connection for a slot, and what tells those that
    /// do not get it at once.
    pub(super) waiting_permits: Vec<(Id, Option<Arc<EventFd>>)>,
    /// Messages that run or are watched.
    pub(super) replies: ReplyBuffers,
    /// Turns that have asked for leave.
    pub(super) asking: Vec<Asking>,
    /// Begun attempts for which there was no thread, and when to try again.
    pub(super) without_thread: Vec<(Instant, Id)>,
    pub(super) deliveries: DeliveryQueues,
    /// What each channel that is attached has to send, and was not told yet.
    pub(super) to_send: ByName<Vec<Id>>,
    /// What `stop.notify_failures` is told of.
    pub(super) failures: Failures,
    /// Messages whose end somebody is about to read: they are not forgotten meanwhile. Whether that is the
    /// client of a chat, which has no other answer than the reply.
    pub(super) pinned: Vec<(Weak<Id>, bool)>,
    /// Event streams, some of which have ended, and the session of each.
    pub(super) followers: Vec<(Digest, Weak<EventFd>)>,
    /// When records that nobody waits for are synced.
    pub(super) sync_at: Option<Instant>,
    /// When the journal says that all is durable, unless more is written until then.
    pub(super) mark_at: Option<Instant>,
    pub(super) last_id: Option<Id>,
    /// What the next ids have of chance.
    chances: Vec<[u8; 10]>,
    pub(super) recent: Recent,
    /// Files that are stored for messages that are not accepted yet: whose they are, and what they take.
    pub(super) uploads: Vec<(Id, String, u64)>,
}

/// What is remembered from one compaction to the next.
#[derive(Debug, Default)]
pub(super) struct CompactionState {
    /// Sessions of which turns were forgotten, and whose transcripts are not durable yet.
    pub(super) forgotten: Tree,
    /// It was said that a transcript is behind.
    pub(super) reported: bool,
    /// Not before then: the last compaction failed.
    pub(super) compact_after: Option<Instant>,
    /// Nor before then only because sessions were reset.
    pub(super) erase_after: Option<Instant>,
    /// When idle sessions were last looked for.
    pub(super) idle_checked: Option<Instant>,
}

pub(super) fn queue_limits(config: &Config) -> QueueLimits {
    let limits = &config.limits;
    QueueLimits {
        turns: limits.max_turns,
        queue: limits.max_queue,
        queue_per_session: limits.max_queue_per_session,
        shares: Shares::of(config),
    }
}

impl Hub {
    /// A hub that goes on where `table`, read back from `journal`, ends. Nothing runs before
    /// [`Hub::open`].
    ///
    /// # Errors
    /// No descriptor.
    pub fn new(
        journal: Box<dyn Journal>,
        mut table: MessageTable,
        transcripts: Transcripts,
        settings: Settings,
        (children, main_wakeup): (Arc<Children>, Arc<EventFd>),
        clocks: Box<dyn Clocks>,
    ) -> std::io::Result<Arc<Hub>> {
        table.requeue();
        let clock = Clock::new(table.clock.as_ref(), table.newest, clocks.boot(), clocks.read());
        let (now, age) = (Instant::now(), clock.stamp(clocks.read()).age);
        // What comes before the hub is open waits behind what was there.
        let mut dispatch =
            Dispatch::new(QueueLimits { turns: 0, ..queue_limits(&settings.config) });
        // In the order in which they entered their queues.
        for (id, entry) in table.sorted(|entry| !entry.turn.is_over(), |entry| entry.queued) {
            dispatch.restore(id, &entry.owner.principal, entry.session());
            if let (TurnState::Backoff, Some(failing)) = (entry.turn, &entry.failing) {
                dispatch.postpone(id, now + failing.left(age));
            }
        }
        let state = State {
            dispatch,
            deliveries: DeliveryQueues::new(&table, &settings.config),
            // What a start has read may be in the page cache only.
            mark_at: Some(now),
            last_id: table.last,
            table,
            ..State::default()
        };
        Ok(Arc::new(Hub {
            state: Mutex::new(state),
            maintenance_wakeup: Condvar::new(),
            journal,
            transcripts,
            children,
            clock,
            clocks,
            compaction: Mutex::default(),
            shortage: Mutex::default(),
            taken: AtomicUsize::new(0),
            moves: AtomicUsize::new(0),
            attempts: Mutex::default(),
            began: now,
            restarts: Restarts::default(),
            gateway: OnceLock::new(),
            restart_record: RecordFile::default(),
            attached: Attached::default(),
            settings: RwLock::new(Arc::new(settings)),
            abort: EventFd::new()?,
            main_wakeup,
            busy: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            released: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
        }))
    }

    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a new configuration for everything that begins from now on.
    pub fn reload(self: &Arc<Self>, mut settings: Settings) {
        settings.agent.follow(&self.settings().agent);
        let bounds = queue_limits(&settings.config);
        self.journal.set_cap(settings.config.limits.max_journal as u64);
        let before = self.settings();
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        if self.is_draining() || self.is_paused() {
            self.settings().agent.set_closing(true);
        }
        self.begin_agent();
        let mut state = self.lock();
        // Whose key was taken away stops following.
        state.notify_followers(None);
        if state.open {
            state.dispatch.limits = bounds;
        }
        // It may be what they wait for.
        state.retry_soon();
        self.follow_channels(&mut state, &before.config.channel.names());
        self.attached.wake();
        self.maintenance_wakeup.notify_all();
        self.start_turns(state);
    }

    /// No turn begins any more; what waits stays in the journal. Does not wait for anything.
    pub fn drain(self: &Arc<Self>) {
        self.draining.store(true, Ordering::SeqCst);
        self.settings().agent.set_closing(true);
        self.attached.wake();
        self.announce("drain", |hub, mut state| hub.announce_drain(&mut state));
    }

    /// Tells those who wait of the drain. What has begun and has no thread does not go on.
    pub(super) fn announce_drain(&self, state: &mut State) {
        state.notify_waiters();
        state.stop_asking();
        for (_, id) in std::mem::take(&mut state.without_thread) {
            state.replies.end(id);
            self.end_work();
        }
        self.maintenance_wakeup.notify_all();
    }

    /// Asks the main loop for a restart.
    pub fn request_restart(&self, request: RestartRequest) -> RestartAccepted {
        let accepted = self.restarts.request(request);
        self.main_wakeup.notify();
        accepted
    }

    /// Asks the main loop for an update; false where another waits to be started.
    pub fn request_update(&self, request: RestartRequest) -> bool {
        let accepted = self.restarts.request_update(request);
        self.main_wakeup.notify();
        accepted
    }

    /// Keeps the restart that is under way for the next run, with all who have asked: durable when this
    /// returns. `ended`: nobody serves from now on. Not for the main thread, unless it ends.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn save_restart(&self, ended: bool) -> std::io::Result<()> {
        let now = self.clocks.read();
        self.restart_record.change(&mut |record| {
            let Some(Restart { kind, by, requesters, .. }) = self.restarts.current() else {
                return;
            };
            let from = env!("CARGO_PKG_VERSION").to_owned();
            let before = record.pending.take().map(|it| (it.ended, it.ended_since_boot));
            let served = before.unwrap_or_default();
            let (ended, ended_since_boot) =
                if ended { (rfc3339(now.wall), now.since_boot) } else { served };
            let pending = Pending { kind, by, requesters, from, ended, ended_since_boot };
            record.pending = Some(pending);
        })
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Has maintenance sync what nobody waits for.
    pub(super) fn sync_soon(&self, state: &mut State) {
        if state.sync_at.is_none() {
            state.sync_at = Some(Instant::now() + LAZY_SYNC);
            self.maintenance_wakeup.notify_all();
        }
    }

    /// A journal that broke is the end of the process. One that was removed is not before operators
    /// could be told: see [`Hub::watch_journal`].
    pub(super) fn note_refusal(&self, refused: WriteError) -> WriteError {
        if matches!(refused, WriteError::Broken(_)) && self.health().loss().is_none() {
            self.end_process();
        } else if let WriteError::Full(_) = refused {
            // It may find something to let go.
            self.maintenance_wakeup.notify_all();
        }
        refused
    }

    /// Tells the main thread that only another start can help.
    pub(super) fn end_process(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.main_wakeup.notify();
    }

    /// Waits until a record is durable.
    ///
    /// # Errors
    /// The journal is broken, and the process ends.
    pub fn sync(&self, number: u64) -> Result<(), WriteError> {
        self.journal.sync(number).map_err(|refused| self.note_refusal(refused))
    }

    /// The time for a record of now.
    pub(super) fn stamp(&self) -> Timestamp {
        self.clock.stamp(self.clocks.read())
    }

    /// Writes a record of the clock where the journal needs one. Nobody waits for it: after a power
    /// cut it would be one of another boot.
    ///
    /// # Errors
    /// Those of [`crate::journal::Journal::append`].
    pub fn write_clock(&self) -> Result<(), WriteError> {
        let mut state = self.lock();
        let (known, newest) = (state.table.clock.as_ref(), state.table.newest);
        let due = self.clock.record(known, newest, self.clocks.read());
        due.map_or(Ok(()), |due| self.write(&mut state, &due).map(drop))
    }

    /// Makes all that was written durable and has the journal say so.
    pub(super) fn mark(&self) -> Result<(), WriteError> {
        // A delivery worker may have begun that has not looked yet.
        if self.busy.load(Ordering::SeqCst) == 0 {
            self.lock().recent = Recent::default();
        }
        self.journal.checkpoint().map_err(|refused| self.note_refusal(refused))
    }

    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

impl State {
    pub(super) fn next_id(&mut self) -> std::io::Result<Id> {
        if self.chances.is_empty() {
            self.chances = Id::chances()?;
        }
        let id = Id::after(self.last_id, self.chances.pop().unwrap_or_default());
        self.last_id = Some(id);
        Ok(id)
    }
}
