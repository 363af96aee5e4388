//! What the main loop holds, and what other threads tell it.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::exit::Failure;
use crate::gateway::Plan;
use crate::gateway::startup::Started;
use crate::lifecycle::evidence::{Finding, Supervisor};
use crate::lifecycle::history::{Begun, Stop};
use crate::lifecycle::phase::Phase;
use crate::systemd::notify::Notifier;
use crate::threads::{Mailbox, Slot};

/// What other threads tell the main one.
pub enum News {
    Started(Box<Result<Started, Failure>>),
    Found(Box<Finding>),
    /// The control socket was made again.
    Control(UnixListener),
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
    /// The last reload that the service manager was told of.
    pub reported_reload: u64,
    /// The disk did not answer when the end was to be recorded.
    pub disk_hangs: bool,
}

impl Main {
    pub fn in_flight(&self) -> usize {
        self.started.as_ref().map_or(0, |s| s.service.in_flight() + s.service.hub.busy())
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
    /// The end of the drain, or of the time that aborted turns have.
    pub drain: Option<Instant>,
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
        let all = [watchdog, self.drain, self.accept, reload, self.report];
        all.into_iter().flatten().min().map(|at| at.saturating_duration_since(now))
    }
}

/// Whether a timer has run out; if so it is taken.
pub fn due(timer: &mut Option<Instant>, now: Instant) -> bool {
    timer.take_if(|at| *at <= now).is_some()
}
