//! How the main loop ends: the drain, the questions, the record, the exit.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::progress::StopStep;
use super::restart::CLOSE_FAILED;
use super::state::{Main, News};
use crate::cancel::readable_by;
use crate::escape::escaped;
use crate::exit::Exit;
use crate::fault_points;
use crate::gateway::handover;
use crate::gateway::startup::Started;
use crate::lifecycle::evidence::{Finding, QueryPoint, Revival};
use crate::lifecycle::history::{self, Run};
use crate::lifecycle::phase::{Drain, Outcome, Phase};
use crate::lifecycle::signals::{Caught, Kind, Signals};
use crate::limits::{ABORT_TIMEOUT, CLOSE_TIMEOUT, DISK_SLOW, KILL_AFTER, THREAD_STACK};
use crate::sys::{clock, fork::run_in_child, fs as files, process::exit_now};
use crate::systemd::stop_waiters;
use crate::threads::{Slot, lock, spawn, spawn_with_retry};

/// How long requests on connections that were accepted before the signal still begin, where neither the
/// service manager's answer nor the last of their first requests ends this sooner. A client sends what it
/// connects for at once, but on a busy machine the thread that reads it may wait for a processor.
const CLOSE_AFTER: Duration = Duration::from_secs(1);

/// How long requests that had begun when no more were taken may ask for a turn: their bodies are on the way.
const REFUSE_AFTER: Duration = Duration::from_millis(100);

/// Bytes of what a child reports: an error of the system with a path.
const MAX_CHILD_WORDS: u64 = 8 << 10;

/// How often STATUS= tells what a drain waits for.
const REPORT_EVERY: Duration = Duration::from_secs(1);

impl Main {
    pub(super) fn begin_drain(&mut self) {
        let (mut was_started, mut clients) = (false, self.in_flight() > 0);
        if let Some(service) = self.started.as_ref().map(|started| Arc::clone(&started.service)) {
            service.draining_since.get_or_init(clock::now);
            // Connections that were given up for a restart are told of the stop.
            self.take_back();
            self.refuse_restart("the gateway is being stopped");
            was_started = service.ready.load(Ordering::SeqCst);
            clients |= service.connections.count() > 0;
        }
        let now = Instant::now();
        let drain = self.budget.map_or(Duration::ZERO, |budget| budget.drain(now));
        self.timers.drain = Some(now + drain);
        self.timers.close = Some(now + CLOSE_AFTER);
        self.query(QueryPoint::Signal { started: was_started, clients });
        if self.in_flight() > 0 {
            self.report(now);
        }
    }

    /// Whether a drain may take no more requests before its time is over: it is known what the stop is, and
    /// where the unit comes back, each accepted connection has sent its first request.
    pub(super) fn may_close(&self) -> bool {
        let fresh = |started: &Started| started.service.fresh_connections.load(Ordering::SeqCst);
        let finding = self.stop.as_ref().and_then(|stop| stop.finding.as_ref());
        finding.is_some_and(|found| found.comes_back == Revival::No)
            || (finding.is_some() && self.started.as_ref().map_or(0, fresh) == 0)
    }

    /// Takes no new requests from here on; those that have begun may still ask for a turn, for a moment. Where
    /// connections are left in the backlog, one between two requests ends when the next one comes, without an
    /// answer: its client connects again (RFC 9112, section 9.3.1).
    pub(super) fn take_no_more(&mut self) {
        if let Some(service) = self.started.as_ref().map(|it| &it.service) {
            service.shutdown.close(self.leaves_backlog());
            self.timers.refuse.get_or_insert(Instant::now() + REFUSE_AFTER);
        }
        self.timers.close = None;
    }

    pub(super) fn refuse_work(&mut self) {
        self.timers.refuse = None;
        self.started.iter().for_each(|started| started.service.hub.drain());
    }

    /// Logs a finding, learns from it, and keeps it in the place of the last one, by whose verdict and
    /// sender it is corrected: the sender is the first signal's.
    pub(super) fn keep_finding(&mut self, mut finding: Finding) -> Finding {
        let Some(stop) = &mut self.stop else { return finding };
        if let Some(last) = &stop.finding {
            finding.verdict = finding.verdict.after(last.verdict);
            finding.sender.clone_from(&last.sender);
        }
        if let (Some(started), Some(unit)) = (&self.started, &finding.unit) {
            *lock(&started.service.stop_timeout) = Some(unit.stop_timeout);
        }
        stop.finding = Some(finding.clone());
        self.learn_stop_time(finding.unit.map(|unit| unit.stop_timeout));
        if self.may_close() {
            self.take_no_more();
        }
        // When this is read, it is so.
        log::info!("Shutdown context: {} reason=\"{}\"", finding.context, finding.verdict.reason);
        finding
    }

    /// Asks why, in a thread of its own: the manager may take its time.
    pub(super) fn query(&mut self, point: QueryPoint) {
        let Some(stop) = &self.stop else { return };
        let (supervisor, caught) = (self.supervisor.clone(), stop.latest);
        let (mailbox, within) = (Arc::clone(&self.mailbox), self.share(StopStep::Asking));
        let question = move || {
            fault_points::at("stop-question");
            let finding = supervisor.examine(caught, point, within);
            let planned = finding.verdict.planned;
            mailbox.put(News::Found(Box::new(finding)));
            if let (true, Some(own)) = (planned, supervisor.own.get()) {
                stop_waiters::end(own);
            }
        };
        if let Err(e) = spawn("question", THREAD_STACK, Box::new(question)) {
            log::warn!(
                "cannot start a thread that asks the service manager ({e}); the main thread asks"
            );
            let finding = self.supervisor.examine(caught, point, within);
            self.mailbox.put(News::Found(Box::new(finding)));
        }
    }

    /// Whether `stop.notify` is to be told of this stop if that is planned, which is not known yet.
    pub(super) fn waits_to_tell(&self) -> bool {
        let asked =
            matches!(self.phase, Phase::Draining(Drain { verdict: None, aborting: false, .. }));
        let target = |started: &Started| {
            let notify = !started.service.settings().config.stop.notify.is_empty();
            notify && started.service.ready.load(Ordering::SeqCst)
        };
        asked && !self.told_down && self.started.as_ref().is_some_and(target)
    }

    /// Has `stop.notify` told of this stop, once: one that is planned, or that cuts turns short.
    pub(super) fn tell_down(&mut self) {
        let Some(started) = &self.started else { return };
        let found = self.stop.as_ref().and_then(|stop| Some((stop, stop.finding.as_ref()?)));
        let Some((stop, found)) = found else { return };
        if started.service.ready.load(Ordering::SeqCst)
            && !std::mem::replace(&mut self.told_down, true)
        {
            let line = history::line(None, stop, found, found.verdict.reason, Exit::Planned);
            started.service.hub.announce_down(history::in_words(&line));
        }
    }

    pub(super) fn abort_turns(&mut self) {
        let turns = self.turns();
        if turns > 0 {
            self.tell_down();
        }
        self.stop.iter_mut().for_each(|stop| stop.aborted = turns);
        self.restart.iter_mut().for_each(|restart| restart.aborted = turns);
        if self.phase != (Phase::Pausing { aborting: true }) {
            self.take_no_more();
            self.refuse_work();
        }
        if let Some(started) = &self.started {
            if turns > 0 {
                log::warn!("aborting the turns still in flight: {turns}");
            }
            started.service.hub.abort.notify();
        }
        let restarts = self.phase == (Phase::Pausing { aborting: true });
        if !restarts {
            self.begin_stop_time(Instant::now());
        }
        fault_points::at("stop-abort");
        // Only agents need time to put their things in order.
        let agents = if self.plan.children.are_gone() { Duration::ZERO } else { KILL_AFTER };
        let most = agents + ABORT_TIMEOUT;
        let time = if restarts { most } else { self.share(StopStep::Aborting).min(most) };
        self.timers.drain = Some(Instant::now() + time);
    }

    /// Tells the service manager what is waited for.
    pub(super) fn report(&mut self, now: Instant) {
        let (turns, requests) = (self.turns(), self.in_flight());
        let left = self.timers.drain.map_or(0, |at| at.saturating_duration_since(now).as_secs());
        let doing = if self.stop.is_some() { "Draining" } else { "Restarting" };
        let what = format!("{doing}: turns in flight {turns}, requests {requests}, {left} s left");
        self.notifier.status(&what);
        if self.stop.is_some() {
            self.extend_timeout();
        }
        self.timers.report = Some(now + REPORT_EVERY);
    }

    /// Whether all that a drain still waits for after its turns were aborted hangs in the disk.
    pub(super) fn is_stuck(&self) -> bool {
        let aborting =
            matches!(self.phase, Phase::Failing | Phase::Draining(Drain { aborting: true, .. }));
        aborting && self.plan.children.are_gone() && self.is_stalled()
    }

    fn is_stalled(&self) -> bool {
        self.started.as_ref().is_some_and(|s| s.service.hub.health().stalled(DISK_SLOW).is_some())
    }

    /// Ends the process. Between the manager's last answer and the exit somebody may still stop
    /// what was killed, and an exit of 143 inside that stop would leave the unit `failed`: so all
    /// that takes time comes first, and the last look at the signals just before the end. Nothing is
    /// dropped on the way out: to close a file may take as long as its disk likes.
    pub(super) fn finish(&mut self, outcome: Outcome, signals: &mut Signals) -> Exit {
        self.begin_stop_time(Instant::now());
        self.clean_up(outcome == Outcome::Planned);
        let exit = self.record_outcome(outcome);
        let missed = |caught: &Caught| !matches!(caught.kind, Kind::Reload | Kind::Child);
        if outcome == Outcome::Terminated
            && let Some(caught) = signals.take().into_iter().find(missed)
        {
            self.stop_watchdog.progress.enter(StopStep::Asking);
            let (point, within) =
                (QueryPoint::Exit { marker: false }, self.share(StopStep::Asking));
            let finding = self.supervisor.examine(caught, point, within);
            if self.keep_finding(finding).verdict.planned {
                let exit = self.record_outcome(Outcome::Planned);
                self.refuse_waiting();
                exit_now(exit.code());
            }
        }
        if outcome != Outcome::Failed {
            self.refuse_waiting();
        }
        self.stop_watchdog.progress.enter(StopStep::Exiting);
        fault_points::at("stop-exit");
        exit_now(exit.code())
    }

    /// Tells those that waited while the service manager was asked, where nobody comes to serve them.
    fn refuse_waiting(&self) {
        let Some(started) = &self.started else { return };
        let leaves = match self.revival() {
            Some(Revival::ByJob(job)) => {
                !started.listeners.is_awaited() || {
                    self.stop_watchdog.progress.enter(StopStep::Asking);
                    self.supervisor.comes_back(job, self.share(StopStep::Asking))
                }
            }
            _ => self.leaves_backlog(),
        };
        if !leaves {
            started.listeners.refuse_waiting();
        }
    }

    /// The status after a failure: where another start would not find what was accepted, only the operator
    /// can help.
    pub(super) fn failed_exit(&self) -> Exit {
        let loss = self.started.as_ref().and_then(|started| started.service.hub.health().loss());
        if loss.is_some() { Exit::Config } else { Exit::Failed }
    }

    /// Writes down how it ends; returns the status to exit with.
    fn record_outcome(&mut self, outcome: Outcome) -> Exit {
        let loss = self.started.as_ref().and_then(|started| started.service.hub.health().loss());
        let exit = match outcome {
            Outcome::Planned => Exit::Planned,
            Outcome::Terminated => Exit::Terminated,
            Outcome::Restarted | Outcome::RestartFailed => Exit::TryLater,
            Outcome::Failed => self.failed_exit(),
        };
        let failed = self.restart.as_ref().and_then(|restart| restart.failed.clone());
        let failed =
            failed.or_else(|| (outcome == Outcome::RestartFailed).then(|| CLOSE_FAILED.to_owned()));
        let note = loss.map(|loss| loss.why).or(failed);
        // A start that has not begun its run by now begins none. One behind an exec has had the locks all the
        // time: its end is entered.
        let generation = handover::generation(&self.plan.inherited);
        let executed = || (generation > 0).then(|| Arc::new(Run::new(generation)));
        let run = self.begun.get_or_init(executed).as_deref();
        let found = self.stop.as_ref().and_then(|stop| Some((stop, stop.finding.as_ref()?)));
        // The line is made here: the child that writes it is another process.
        let (why, line) = match found.filter(|_| outcome != Outcome::Failed) {
            Some((stop, found)) => {
                let mut reason = found.verdict.reason.to_owned();
                reason.extend(note.iter().flat_map(|note| ["; ", note]));
                let line = history::line(run, stop, found, &reason, exit);
                (format!("{}: {reason}", found.verdict.word()), line)
            }
            None => {
                let broken = || "the journal is broken; the next start reads it anew".to_owned();
                let why = note.unwrap_or_else(broken);
                let line = history::entry(run, "failed", &why, Some(exit));
                (why, line)
            }
        };
        self.stop_watchdog.progress.enter(StopStep::Recording);
        self.stop_watchdog.progress.set_end(exit, line.clone());
        fault_points::at("stop-record");
        if let Err(e) = self.record_end(line, outcome != Outcome::Terminated) {
            log::warn!("the history could not be written: {e}");
        }
        // Else an inactive unit would go on showing what the gateway last said of itself.
        self.notifier.status(&escaped(&format!("Stopped ({why})"), false));
        log::info!("Exiting with code {} ({why})", exit.code());
        exit
    }

    /// Removes the control socket, unless the unit comes back, and enters this line, in a child that is left behind where the disk
    /// hangs: it has our locks until it is done. In a thread where the system has no child for us.
    /// The lock file stays: it is never unlinked.
    fn record_end(&mut self, line: Value, sync: bool) -> io::Result<()> {
        let hangs = || io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer");
        if std::mem::replace(&mut self.disk_hangs, true) {
            return Err(hangs());
        }
        let (dirs, started) = (self.plan.dirs.clone(), self.started.is_some());
        let ephemeral = started && self.plan.ephemeral;
        // Where the unit comes back, a client that connects meanwhile waits for the next process. Where that
        // was not asked, the service manager closes the socket all the same, and its file is as the lock's.
        let unused = started && !self.leaves_backlog();
        let work = move || {
            let _ = unused.then(|| fs::remove_file(dirs.control_socket()));
            let _ = ephemeral.then(|| fs::remove_dir_all(dirs.ephemeral()));
            let entered = history::record_end(&dirs, &line, sync);
            entered.map_or_else(|e| e.to_string(), |()| DONE.to_owned())
        };
        let time = self.share(StopStep::Recording);
        let locks = self.started.as_ref().map(|started| started.instance.descriptors());
        let said = match run_in_child(locks.as_ref().map_or(&[], |locks| &locks[..]), &work) {
            Ok(told) => {
                if !readable_by(told.as_fd(), Instant::now() + time)? {
                    return Err(hangs());
                }
                files::read_text(told, MAX_CHILD_WORDS)?
            }
            Err(e) => {
                let told = Arc::<Slot<_>>::default();
                let answer = told.clone();
                spawn_with_retry("end", Box::new(move || answer.send(work())), time)?;
                told.wait(time).ok_or(e)?
            }
        };
        self.disk_hangs = false;
        if said == DONE { Ok(()) } else { Err(io::Error::other(said)) }
    }

    pub(super) fn clean_up(&mut self, planned: bool) {
        let deadline = Instant::now() + self.share(StopStep::CleaningUp);
        fault_points::at("stop-clean-up");
        // Turns that did not end in time leave no processes behind, whoever runs us.
        self.plan.children.end_all();
        let Some(started) = &self.started else { return };
        started.service.await_streams();
        let (hub, start_over) = (Arc::clone(&started.service.hub), Arc::clone(&self.start_over));
        let (closed, ended) = <(Arc<Slot<_>>, Arc<Slot<_>>)>::default();
        let (tell_closed, tell_ended) = (closed.clone(), ended.clone());
        let work = move || {
            hub.close(planned);
            tell_closed.send(true);
            // It may still ask the service manager, and prune the history that the end is written to.
            tell_ended.send(start_over.wait(CLOSE_TIMEOUT).is_some());
        };
        // Another thread that waits for a disk that hangs would not help.
        let begun =
            !self.is_stalled() && spawn_with_retry("end", Box::new(work), CLOSE_TIMEOUT).is_ok();
        let wait = |of: &Slot<bool>| of.wait(deadline.saturating_duration_since(Instant::now()));
        if begun && wait(&closed).is_some() {
            let _ = wait(&ended);
        } else {
            log::warn!("the journal could not be synced in time; what was acknowledged is durable");
        }
    }
}

/// What a child says that has done its work.
const DONE: &str = "done";
