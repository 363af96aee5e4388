//! What the main loop holds, and what other threads tell it.

use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::exit::Failure;
use crate::gateway::Plan;
use crate::gateway::startup::Started;
use crate::gateway::timers::Timers;
use crate::lifecycle::evidence::{Finding, Supervisor};
use crate::lifecycle::history::Begun;
use crate::lifecycle::phase::Phase;
use crate::lifecycle::signals::Caught;
use crate::sys::fd::EventFd;
use crate::systemd::notify::Notifier;
use crate::threads::lock;

/// What other threads tell the main one.
pub enum News {
    Started(Box<Result<Started, Failure>>),
    Found(Box<Finding>),
    /// The control socket was made again.
    Control(UnixListener),
}

/// Where other threads leave their news.
pub struct Mailbox {
    pub news: Mutex<Vec<News>>,
    pub wake: Arc<EventFd>,
}

impl Mailbox {
    pub fn put(&self, news: News) {
        lock(&self.news).push(news);
        self.wake.notify();
    }

    pub fn empty(&self) -> Vec<News> {
        self.wake.clear();
        std::mem::take(&mut *lock(&self.news))
    }
}

pub struct Main {
    pub plan: Plan,
    pub supervisor: Supervisor,
    pub notifier: Notifier,
    pub mailbox: Arc<Mailbox>,
    pub phase: Phase,
    pub timers: Timers,
    pub starter: Option<JoinHandle<()>>,
    pub begun: Begun,
    pub started: Option<Started>,
    pub stop: Option<Stop>,
    /// The last reading of the configuration that the service manager was told of.
    pub told_reload: u64,
    /// The last that was asked of the disk at the end was not done in time.
    pub disk_hangs: bool,
}

/// The stop that is going on.
pub struct Stop {
    pub first: Caught,
    pub latest: Caught,
    pub at: Instant,
    /// The first finding, for the sender of the signal, and the last, for the verdict.
    pub findings: Option<(Finding, Finding)>,
    pub in_flight: usize,
    pub cut: usize,
}

impl Main {
    pub fn in_flight(&self) -> usize {
        self.started.as_ref().map_or(0, |s| s.service.in_flight() + s.service.hub.busy())
    }

    pub fn turns(&self) -> usize {
        self.started.as_ref().map_or(0, |started| started.service.hub.turns_hint())
    }
}
