//! The main loop and the time that a stop has: when it begins, when it grows, and who ends it.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::progress::StopStep;
use super::state::Main;
use super::stop_watchdog::Remains;
use crate::exit::Exit;
use crate::gateway::stop_timeout;
use crate::lifecycle::history;
use crate::lifecycle::phase::{Drain, Outcome, Phase};
use crate::limits::{QUERY_DEADLINE, STOP_HEADROOM};
use crate::sys::gather::Gather;
use crate::threads::lock;

impl Main {
    /// Begins the time of a stop, or of an end without one, unless that was done before; asks for more where
    /// that is needed.
    pub(super) fn begin_stop_time(&mut self, at: Instant) {
        if self.budget.is_none() {
            let service = self.started.as_ref().map(|started| &started.service);
            // Without a stop there is nothing to wait for.
            let stopping = service.filter(|_| self.stop.is_some());
            let drain = stopping.map(|service| service.settings().config.stop.drain_timeout);
            let limit = service.and_then(|service| *lock(&service.stop_timeout));
            self.budget = Some(Budget::new(at, drain.unwrap_or_default(), limit));
        }
        self.publish_end();
        self.extend_timeout();
        self.arm_stop_watchdog();
    }

    /// Begins the time of a restart in place that pauses for so long: no unit's time runs meanwhile.
    pub(super) fn begin_restart_time(&mut self, at: Instant, pause: Duration) {
        self.budget = Some(Budget::new(at, pause, None));
        self.publish_end();
        self.arm_stop_watchdog();
    }

    /// The gateway goes on.
    pub(super) fn end_restart_time(&mut self) {
        self.budget = None;
        self.arm_stop_watchdog();
    }

    /// What was asked at the start may be answered during a stop.
    pub(super) fn look_for_stop_time(&mut self) {
        if self.stop.is_some() && self.budget.is_some_and(|budget| !budget.has_limit) {
            let limit = self.started.as_ref().and_then(|it| *lock(&it.service.stop_timeout));
            if limit.is_some() {
                self.learn_stop_time(limit);
            }
        }
    }

    /// What the manager has said of the stop.
    pub(super) fn learn_stop_time(&mut self, limit: Option<Duration>) {
        let Some(budget) = &mut self.budget else { return };
        if limit.is_some() {
            budget.set_limit(limit);
        }
        self.publish_end();
        self.extend_timeout();
        self.arm_stop_watchdog();
        if let (Some(budget), Phase::Draining(Drain { aborting: false, .. })) =
            (&self.budget, self.phase)
        {
            // The first time that it was known.
            let now = Instant::now();
            self.timers.drain = self.timers.drain.map(|at| at.min(now + budget.drain(now)));
        }
    }

    /// Asks the service manager for more time, where the unit's own is shorter than what a stop may take:
    /// enough for all that follows a drain, again and again while it goes on.
    pub(super) fn extend_timeout(&mut self) {
        let service = self.started.as_ref().map(|started| &started.service);
        let short = |service| stop_timeout::is_short(service) && stop_timeout::can_extend();
        if service.is_some_and(|service| short(service)) {
            self.notifier.send(&format!("EXTEND_TIMEOUT_USEC={}", STOP_HEADROOM.as_micros()));
            if let Some(budget) = &mut self.budget {
                budget.extend(Instant::now(), STOP_HEADROOM);
            }
            self.arm_stop_watchdog();
        }
    }

    /// How long this step of the stop may take.
    pub(super) fn share(&self, step: StopStep) -> Duration {
        self.budget.map_or(QUERY_DEADLINE, |budget| budget.share(step, Instant::now()))
    }

    /// Tells the stop watchdog how the process would end now.
    fn publish_end(&self) {
        let run = self.begun.get().and_then(Option::as_deref);
        let found = self.stop.as_ref().map(|stop| (stop, stop.finding.as_ref()));
        let (exit, line) = match found {
            _ if matches!(self.phase, Phase::Failing | Phase::Stopped(Outcome::Failed)) => {
                let exit = self.failed_exit();
                (exit, history::entry(run, "failed", "the journal is broken", Some(exit)))
            }
            Some((stop, Some(finding))) => {
                let planned = finding.verdict.planned;
                let exit = if planned { Exit::Planned } else { Exit::Terminated };
                (exit, history::line(run, stop, finding, finding.verdict.reason, exit))
            }
            None if self.restart.is_some() => {
                let exit = Exit::TryLater;
                (exit, history::entry(run, "failed", "a restart in place", Some(exit)))
            }
            _ => {
                let exit = Exit::Terminated;
                (exit, history::entry(run, "external", "its reason is not known", Some(exit)))
            }
        };
        self.stop_watchdog.progress.set_end(exit, line);
    }

    fn arm_stop_watchdog(&self) {
        let remains = || {
            let locks = self.started.as_ref().map(|started| started.instance.descriptors());
            let copy = |lock: &BorrowedFd<'_>| lock.try_clone_to_owned().ok();
            Remains {
                dirs: self.plan.dirs.clone(),
                children: Arc::clone(&self.plan.children),
                locks: locks.iter().flatten().filter_map(copy).gather(),
            }
        };
        self.stop_watchdog.arm(self.budget.map(|budget| budget.end()), &remains);
    }
}
