//! What the main loop holds, and what other threads tell it.

use std::cell::RefCell;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::stop_watchdog::StopWatchdog;
use crate::api::HandedOver;
use crate::exit::Failure;
use crate::gateway::Plan;
use crate::gateway::proof::Proven;
use crate::gateway::replace::Successor;
use crate::gateway::startup::Started;
use crate::lifecycle::evidence::{Finding, Revival, Supervisor};
use crate::lifecycle::history::{Begun, Stop};
use crate::lifecycle::phase::Phase;
use crate::session::Probe;
use crate::systemd::notify::Notifier;
use crate::threads::{Mailbox, Slot};

/// What goes on with the gateway.
pub enum Next {
    Program(Proven),
    Process(Successor),
}

impl Next {
    pub fn version(&self) -> &str {
        match self {
            Next::Program(proven) => &proven.version,
            Next::Process(successor) => &successor.version,
        }
    }
}

/// A restart in place.
pub struct RestartRun {
    pub next: RefCell<Next>,
    /// When the pause began.
    pub at: Instant,
    /// Turns in flight then, and those of them that were aborted.
    pub in_flight: usize,
    pub aborted: usize,
    /// When the pause is over, and nothing is waited for any more.
    pub until: Instant,
    /// The connections that were given up.
    pub connections: Vec<HandedOver>,
    /// When serving ended, since boot.
    pub ended: Option<Duration>,
    /// For another address.
    pub listener: Option<TcpListener>,
    /// It is given up: nothing is written of it any more.
    pub cancelled: Arc<AtomicBool>,
    /// Why it does not happen.
    pub failed: Option<String>,
}

/// What other threads tell the main one.
pub enum News {
    Started(Box<Result<Started, Failure>>),
    Found(Box<Finding>),
    /// What became of the proof of the program that is to be executed.
    Proven(Result<Next, String>),
    /// Whether the next image could still start, before turns are told to end for the restart with this mark.
    Checked(Arc<AtomicBool>, Result<(), String>),
    /// The journal is closed for the restart with this mark; with the listener for another address. Else
    /// why it cannot go on.
    Closed(Arc<AtomicBool>, Result<Option<TcpListener>, String>),
    /// The control socket was made again.
    Control(UnixListener),
    /// The service manager keeps descriptors for our unit.
    Stores,
}

pub struct Main {
    pub plan: Plan,
    pub supervisor: Supervisor,
    pub notifier: Notifier,
    pub mailbox: Arc<Mailbox<News>>,
    pub phase: Phase,
    pub timers: Timers,
    /// Told when the start has done all that it does.
    pub start_over: Arc<Slot<()>>,
    pub begun: Begun,
    pub started: Option<Started>,
    /// The stop that is going on.
    pub stop: Option<Stop>,
    /// `stop.notify` was told that the gateway goes down.
    pub told_down: bool,
    /// The restart in place that is under way, once its program has proven itself.
    pub restart: Option<RestartRun>,
    /// When connections can be handed over at once.
    pub handover_prepared: Option<Instant>,
    /// By whom one was asked for during the start.
    pub early_restart: Option<String>,
    /// The time that it has, and who sees to that.
    pub budget: Option<Budget>,
    pub stop_watchdog: Arc<StopWatchdog>,
    /// What the hub was doing when it was last looked at.
    pub hub_probe: Probe,
    /// The last reload that the service manager was told of.
    pub reported_reload: u64,
    /// The service manager keeps copies of our listeners.
    pub stores: bool,
    /// The disk did not answer when the end was to be recorded.
    pub disk_hangs: bool,
}

impl Main {
    pub fn in_flight(&self) -> usize {
        self.started.as_ref().map_or(0, |s| s.service.in_flight() + s.service.hub.busy())
    }

    /// Whether the unit comes back after the stop that goes on, once the service manager has said what it is.
    pub fn revival(&self) -> Option<Revival> {
        Some(self.stop.as_ref()?.finding.as_ref()?.comes_back)
    }

    /// Whether connections are left in the backlog during a stop: until the service manager has said what it
    /// is, and for the next process where the unit comes back.
    pub fn leaves_backlog(&self) -> bool {
        self.stop.is_some() && self.revival() != Some(Revival::No)
    }

    pub fn turns(&self) -> usize {
        self.started.as_ref().map_or(0, |started| started.service.hub.turns_hint())
    }
}

/// The points in time that the main loop waits for; `None` is never.
#[derive(Debug, Default)]
pub struct Timers {
    /// The next sign of life for the service manager, and how far apart they are.
    pub watchdog: Option<(Instant, Duration)>,
    /// When requests on connections that were accepted before the stop begin no more.
    pub close: Option<Instant>,
    /// Since when there is no proof that all moves, and whether that was said: nothing waits for this.
    pub unproven: Option<(Instant, bool)>,
    /// When what those that had begun by then ask for is refused, too.
    pub refuse: Option<Instant>,
    /// The end of the drain, or of the time that aborted turns have.
    pub drain: Option<Instant>,
    /// When to look again whether connections can be handed over, or were.
    pub handover: Option<Instant>,
    /// When to accept again after it failed.
    pub accept: Option<Instant>,
    /// When that it failed was last said: nothing waits for this.
    pub reported_shortage: Option<Instant>,
    /// When to read the configuration again, once the start is over.
    pub reload: Option<Instant>,
    /// The next line about a drain that goes on.
    pub report: Option<Instant>,
}

impl Timers {
    /// How long until the first of them; `None`: nothing is due ever.
    pub fn until_next(&self, now: Instant, started: bool) -> Option<Duration> {
        let watchdog = self.watchdog.map(|(at, _)| at);
        let reload = self.reload.filter(|_| started);
        let &Timers { close, refuse, drain, report, handover, accept, .. } = self;
        let all = [close, refuse, drain, report, handover, accept, watchdog, reload];
        all.into_iter().flatten().min().map(|at| at.saturating_duration_since(now))
    }
}

/// Whether a timer has run out; if so it is taken.
pub fn due(timer: &mut Option<Instant>, now: Instant) -> bool {
    timer.take_if(|at| *at <= now).is_some()
}
