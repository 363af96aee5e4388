//! How the main loop ends: the drain, the questions, the record, the exit.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::startup;
use super::{Main, News};
use crate::exit::Exit;
use crate::lifecycle::evidence::{Finding, Moment};
use crate::lifecycle::history::{self, Ending};
use crate::lifecycle::phase::Outcome;
use crate::lifecycle::signals::{Caught, Kind, Signals};
use crate::limits::{CUT_PATIENCE, KILL_AFTER, REPORT_EVERY, THREAD_STACK};
use crate::sys::process::exit_at_once;
use crate::threads::spawn;

/// The stop that is going on.
pub(super) struct Stop {
    pub(super) first: Caught,
    pub(super) latest: Caught,
    pub(super) at: Instant,
    /// The first finding, for who sent the signal, and the last, for the verdict.
    pub(super) findings: Option<(Finding, Finding)>,
    pub(super) in_flight: usize,
    pub(super) cut: usize,
}

impl Main {
    pub(super) fn begin_drain(&mut self) {
        let was_started = self.started.as_ref().is_some_and(|s| {
            s.service.gate.close();
            s.service.hub.drain();
            s.service.ready.load(Ordering::SeqCst)
        });
        let now = Instant::now();
        let drain = self
            .started
            .as_ref()
            .map_or(Duration::ZERO, |started| started.service.settings().config.stop.drain_timeout);
        self.timers.drain = Some(now + drain);
        self.ask(Moment::Signal { started: was_started });
        if self.in_flight() > 0 {
            self.report(now);
        }
    }

    /// Asks why, in a thread of its own: the manager may take its time.
    pub(super) fn ask(&mut self, moment: Moment) {
        let Some(stop) = &self.stop else { return };
        let (place, caught) = (self.place.clone(), stop.latest);
        let mailbox = Arc::clone(&self.mailbox);
        let question = move || {
            let finding = place.examine(caught, moment);
            mailbox.put(News::Found(Box::new(finding)));
        };
        if let Err(e) = spawn("question", THREAD_STACK, Box::new(question)) {
            log::warn!("no thread for the question ({e}): the main one asks");
            let finding = self.place.examine(caught, moment);
            self.found(finding);
        }
    }

    pub(super) fn cut_turns(&mut self) {
        let turns = self.turns();
        if let Some(stop) = &mut self.stop {
            stop.cut = turns;
        }
        if let Some(started) = &self.started {
            started.service.gate.close();
            started.service.hub.drain();
            if turns > 0 {
                log::warn!("ending what is still in flight (turns: {turns})");
            }
            started.service.hub.cut.raise();
        }
        self.timers.drain = Some(Instant::now() + KILL_AFTER + CUT_PATIENCE);
    }

    /// Tells the service manager what is waited for.
    pub(super) fn report(&mut self, now: Instant) {
        let (turns, requests) = (self.turns(), self.in_flight());
        let left = self.timers.drain.map_or(0, |at| at.saturating_duration_since(now).as_secs());
        let what = format!("Draining: turns in flight {turns}, requests {requests}, {left} s left");
        self.notifier.status(&what);
        self.timers.report = Some(now + REPORT_EVERY);
    }

    /// Ends the process. Between the manager's last answer and the exit somebody may still stop
    /// what was killed, and an exit of 143 inside that stop would leave the unit `failed`: so all
    /// that takes time comes first, and the last look at the signals just before the end.
    pub(super) fn finish(&mut self, outcome: Outcome, signals: &mut Signals) -> Exit {
        self.clean_up();
        let exit = self.write_down(outcome);
        if outcome != Outcome::Terminated {
            return exit;
        }
        let missed = |caught: &Caught| matches!(caught.kind, Kind::Terminate | Kind::Interrupt);
        let Some(caught) = signals.take().into_iter().find(missed) else {
            exit_at_once(exit.code());
        };
        let finding = self.place.examine(caught, Moment::Exit { marker: false });
        log::info!("Shutdown context: {}", finding.context);
        if !finding.verdict.planned {
            return exit;
        }
        if let Some((_, last)) = self.stop.as_mut().and_then(|stop| stop.findings.as_mut()) {
            *last = finding;
        }
        self.write_down(Outcome::Planned)
    }

    /// Writes down how it ends; returns the status to exit with.
    fn write_down(&mut self, outcome: Outcome) -> Exit {
        let exit = match outcome {
            Outcome::Planned => Exit::Planned,
            Outcome::Terminated => Exit::Terminated,
            Outcome::Failed => Exit::Failed,
        };
        let mut why = match outcome {
            Outcome::Failed => "the journal is broken; the next start reads it anew".to_owned(),
            Outcome::Planned | Outcome::Terminated => "stopped".to_owned(),
        };
        if outcome != Outcome::Failed
            && let Some(stop) = &self.stop
            && let Some((first, last)) = &stop.findings
        {
            why = format!("{}: {}", last.verdict.word(), last.verdict.reason);
            let found = Finding { sender: first.sender.clone(), ..last.clone() };
            let drain = stop.at.elapsed();
            let ending = Ending { exit, drain, in_flight: stop.in_flight, cut: stop.cut };
            let run = self.started.as_ref().map(|started| started.run.as_ref());
            let entered = history::enter(&self.plan.dirs, run, stop.first, &found, ending);
            if let Err(e) = entered {
                log::warn!("the history could not be written: {e}");
            }
        }
        log::info!("Exiting with code {} ({why})", exit.code());
        exit
    }

    pub(super) fn clean_up(&mut self) {
        // Turns that did not end in time leave no processes behind, whoever runs us.
        self.plan.children.end_all();
        if self.started.is_some() {
            // It sent the news; what it still does is to make the history durable.
            if let Some(Err(_)) = self.starter.take().map(JoinHandle::join) {
                log::warn!("the thread that started us had died");
            }
            startup::clean_up(&self.plan);
        }
        if let Some(started) = &self.started {
            started.service.await_streams();
            started.service.hub.close();
        }
    }
}
