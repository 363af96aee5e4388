//! The main thread: waits for signals, connections, answers and points in time, and carries out
//! what the phases decide. Nothing in it blocks but the one poll.

mod budget;
mod drain;
mod execute;
mod progress;
mod restart;
mod sign_of_life;
mod state;
mod stop_time;
mod stop_watchdog;

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::handover::READY;
use super::sockets::{CONTROL, HTTP};
use super::{Plan, banner, control_socket, handover, reload, startup, stop_timeout, update};
use crate::config::LogTarget;
use crate::escape::escaped;
use crate::exit::{Exit, Failure};
use crate::fault_points;
use crate::lifecycle::evidence::{Finding, QueryPoint, Supervisor};
use crate::lifecycle::history::{Begun, Stop};
use crate::lifecycle::phase::{self, Action, Event, Outcome, Phase, VerdictKind};
use crate::lifecycle::signals::{Caught, Kind, Signals};
use crate::limits::{ACCEPT_BACK_OFF, THREAD_RETRY_DELAY, THREAD_STACK};
use crate::logger;
use crate::session::Probe;
use crate::sys::memory;
use crate::sys::poll::{Interest, wait_any_or_signal};
use crate::systemd::notify::{Notifier, watchdog_interval};
use crate::threads::{Mailbox, lock, pause, spawn};
use state::{Main, News, Timers, due};

/// How often it is said that connections cannot be accepted: twenty lines a second would hide all others.
const SHORTAGE_LOG_EVERY: Duration = Duration::from_secs(10);

/// What the threads that a start has begun need until they wait.
const SETTLE_TIME: Duration = Duration::from_millis(20);

/// Runs the gateway from start to stop; returns the status to exit with.
pub fn run(plan: Plan, mut signals: Signals) -> Exit {
    let began = Instant::now();
    logger::set(log::LevelFilter::Info, LogTarget::Auto, "hermes-gateway");
    let exit = match Main::begin(plan, began) {
        Ok(mut main) => main.run_until_exit(&mut signals),
        Err(failure) => end_early(&failure),
    };
    log::logger().flush();
    exit
}

/// The end of a start that failed.
fn end_early(failure: &Failure) -> Exit {
    failure.0.message.lines().for_each(|line| log::error!("{line}"));
    log::error!("Exiting with code {} (the start failed)", failure.0.exit.code());
    failure.0.exit
}

impl Main {
    fn begin(plan: Plan, began: Instant) -> Result<Main, Failure> {
        let failed = |e: std::io::Error| Failure::cannot("start", &e);
        let mailbox = Mailbox::new().map_err(failed)?;
        let (marker, unit) = (plan.dirs.planned_stop(), plan.name.unit());
        let supervisor = Supervisor::find(marker, unit, Arc::clone(&plan.children));
        let watchdog = watchdog_interval().map(|interval| (began + interval, interval));
        let timers = Timers { watchdog, ..Timers::default() };
        let main = Main {
            plan,
            supervisor,
            notifier: Notifier::from_environment(),
            mailbox: Arc::new(mailbox),
            phase: Phase::Starting,
            timers,
            start_over: Arc::default(),
            begun: Begun::default(),
            started: None,
            stop: None,
            told_down: false,
            restart: None,
            handover_prepared: None,
            early_restart: None,
            budget: None,
            stop_watchdog: Arc::default(),
            hub_probe: Probe::default(),
            reported_reload: 0,
            stores: false,
            disk_hangs: false,
        };
        main.spawn_starter().map_err(failed)?;
        Ok(main)
    }

    /// Starts up in a thread, so that a signal is judged whatever the start waits for.
    fn spawn_starter(&self) -> std::io::Result<()> {
        let (plan, wake) = (self.plan.clone(), Arc::clone(&self.mailbox.wake));
        let mailbox = Arc::clone(&self.mailbox);
        let (supervisor, begun) = (self.supervisor.clone(), Arc::clone(&self.begun));
        let start = move || {
            let started = startup::start(&plan, &supervisor, &wake, &begun);
            let service = started.as_ref().ok().map(|started| Arc::clone(&started.service));
            mailbox.put(News::Started(Box::new(started)));
            if let (Some(service), Some(Some(run))) = (service, begun.get()) {
                let (dirs, watched) = (plan.dirs.clone(), Arc::clone(&service));
                let news = Arc::clone(&mailbox);
                let replace = move |listener| news.put(News::Control(listener));
                let watch = move || control_socket::watch(&dirs, &watched, &replace);
                if let Err(e) = spawn("control", THREAD_STACK, Box::new(watch)) {
                    log::warn!(
                        "cannot start the thread that watches the control socket ({e}): if the \
                         socket is removed, it is not made again"
                    );
                }
                startup::after_ready(&plan, &service, run, &supervisor);
                update::look_after(&plan, &service);
                let unit = supervisor.unit_settings();
                if unit.as_ref().is_some_and(|unit| unit.stores) {
                    mailbox.put(News::Stores);
                }
                stop_timeout::read(unit.as_ref(), &service);
            }
        };
        let over = Arc::clone(&self.start_over);
        let work = move || {
            start();
            over.send(());
            pause(SETTLE_TIME);
            memory::release_pages();
        };
        spawn("start", THREAD_STACK, Box::new(work)).map(drop)
    }

    fn run_until_exit(&mut self, signals: &mut Signals) -> Exit {
        loop {
            if let Err(e) = self.wait(signals) {
                // EBADF or EINVAL: a bug of ours. To go on would be to spin.
                self.clean_up(false);
                log::error!("Exiting with code {} (poll failed: {e})", Exit::Failed.code());
                return Exit::Failed;
            }
            // Signals before news: a stop that came with the answer to a kill must be seen first.
            signals.take().into_iter().for_each(|caught| self.signal(caught));
            for news in self.mailbox.empty() {
                if let Some(failure) = self.handle_news(news) {
                    self.notifier.status(&escaped(&format!("Failed: {failure}"), false));
                    return end_early(&failure);
                }
            }
            self.check_timers();
            if let Some(started) = self.started.as_ref().filter(|_| self.phase == Phase::Serving) {
                update::begin(&self.plan, &started.service);
            }
            if self.started.as_ref().is_some_and(|started| started.service.hub.is_broken()) {
                self.event(Event::Broken);
            }
            if self.is_quiet() && !self.waits_to_tell() {
                self.event(Event::Quiet);
            }
            match self.phase {
                Phase::Stopped(Outcome::Restarted) => self.execute_anew(signals),
                Phase::Stopped(outcome) => return self.finish(outcome, signals),
                _ => {}
            }
        }
    }

    /// Waits for whatever comes first, and accepts connections.
    fn wait(&mut self, signals: &Signals) -> std::io::Result<()> {
        let timeout = self.timers.until_next(Instant::now(), self.started.is_some());
        // Whoever comes now is served by the next image.
        let ends = matches!(self.phase, Phase::HandingOver { .. } | Phase::Closing { .. });
        let accepts = self.timers.accept.is_none() && !ends;
        let listeners = self.started.as_ref().filter(|_| accepts);
        let takes = !self.leaves_backlog();
        let interests = [
            Interest::read(signals.as_fd()),
            Interest::read(self.mailbox.wake.as_fd()),
            Interest::read(listeners.filter(|_| takes).map(|s| s.listeners.tcp.as_fd())),
            Interest::read(listeners.map(|started| started.listeners.control.as_fd())),
        ];
        let next = listeners.is_some_and(|s| s.listeners.has_next(takes));
        let timeout = if next { Some(Duration::ZERO) } else { timeout };
        let [.., tcp, control] = wait_any_or_signal(interests, timeout)?;
        if tcp {
            fault_points::at("accept");
        }
        if let Some(started) = listeners.filter(|_| tcp || control || next)
            && let Err(e) = started.listeners.accept(&started.service, takes)
        {
            let now = Instant::now();
            if self.timers.reported_shortage.is_none_or(|at| now - at >= SHORTAGE_LOG_EVERY) {
                log::warn!("cannot accept connections: {e}; trying again in a moment");
                self.timers.reported_shortage = Some(now);
            }
            self.timers.accept = Some(now + ACCEPT_BACK_OFF);
        }
        Ok(())
    }

    fn signal(&mut self, caught: Caught) {
        match caught.kind {
            Kind::Terminate | Kind::Interrupt | Kind::HangUp | Kind::Other(_) => {
                let (at, in_flight) = (Instant::now(), self.turns());
                let (first, latest) = (caught, caught);
                let new = Stop { first, latest, at, finding: None, in_flight, aborted: 0 };
                if self.stop.is_none() {
                    // What had a time of its own before is over with this.
                    self.budget = None;
                }
                self.stop.get_or_insert(new).latest = caught;
                self.begin_stop_time(at);
                self.event(Event::Signal);
            }
            Kind::Reload => match &self.started {
                Some(started) => drop(started.service.reloads.request()),
                None => {
                    log::info!("a reload was asked for during the start: it follows at its end");
                    self.timers.reload = Some(Instant::now());
                }
            },
            Kind::Restart => self.request_restart(caught),
            Kind::Child => drop(self.plan.children.reap_orphans()),
        }
    }

    /// Begins what was asked for, and tells the service manager what came of it.
    fn check_reloads(&mut self, now: Instant) {
        let Some(started) = &self.started else { return };
        let reloads = &started.service.reloads;
        if self.timers.reload.is_none()
            && let Some(number) = reloads.begin()
            && let Err(e) = reload::read(&self.plan, &self.supervisor, &started.service, number)
        {
            log::warn!("the reload cannot start a thread ({e}); it will be tried again");
            reloads.end(None);
            self.timers.reload = Some(now + THREAD_RETRY_DELAY);
        }
        let (number, refused) = reloads.refused();
        if number != self.reported_reload && self.phase == Phase::Serving {
            self.reported_reload = number;
            let wrong = refused.map(|wrong| wrong.message.replace('\n', "; "));
            let wrong = wrong.map(|wrong| format!("; reload refused: {}", escaped(&wrong, false)));
            let line = started.service.status_line();
            self.notifier.status(&format!("{line}{}", wrong.unwrap_or_default()));
        }
    }

    /// Takes a piece of news; returns the failure of a start that no signal has stopped.
    // Out of line: a frame of its own is smaller code.
    #[inline(never)]
    fn handle_news(&mut self, news: News) -> Option<Failure> {
        match news {
            News::Started(result) => match *result {
                Ok(started) => {
                    self.stores = started.listeners.kept;
                    self.started = Some(started);
                    self.tell_of_restart();
                    // Before READY=1: the ones that were bound anew take the place of those of before.
                    if self.stores {
                        self.store_listeners();
                    }
                    if self.stop.is_some() {
                        self.take_no_more();
                    }
                    self.event(Event::Started);
                    self.take_back();
                }
                Err(failure) if self.phase == Phase::Starting => return Some(failure),
                Err(failure) => log::warn!("the start failed during a stop: {failure}"),
            },
            News::Found(finding) => self.handle_finding(*finding),
            News::Proven(proven) => self.handle_proof(proven),
            // Of one that was given up: another may be under way.
            News::Closed(cancelled, _) | News::Checked(cancelled, _)
                if cancelled.load(Ordering::SeqCst) => {}
            News::Closed(_, listener) => self.handle_closed(listener),
            News::Checked(_, checked) => self.handle_check(checked),
            News::Control(listener) => {
                if let Some(started) = &mut self.started {
                    started.listeners.control = listener;
                }
                if self.stores {
                    self.store_listeners();
                }
            }
            News::Stores => {
                if !std::mem::replace(&mut self.stores, true) {
                    self.store_listeners();
                }
            }
        }
        None
    }

    /// Has the service manager keep our listeners over a restart, also one after a crash.
    fn store_listeners(&self) {
        let Some(started) = &self.started else { return };
        // What it has may be of another address.
        self.notifier.remove(HTTP);
        if !started.listeners.foreign {
            self.notifier.store(HTTP, started.listeners.tcp.as_fd());
        }
        self.notifier.remove(CONTROL);
        self.notifier.store(CONTROL, started.listeners.control.as_fd());
    }

    fn handle_finding(&mut self, finding: Finding) {
        let finding = self.keep_finding(finding);
        if finding.verdict.is_guess() {
            log::warn!("the verdict is a guess: the service manager did not answer");
        }
        // A guess at the signal is asked about again before the exit; there it counts.
        let is_last = matches!(self.phase, Phase::Confirming { .. });
        let verdict = if finding.verdict.planned && (is_last || !finding.verdict.is_guess()) {
            VerdictKind::Planned
        } else {
            VerdictKind::External { may_change: finding.may_change || finding.verdict.is_guess() }
        };
        if verdict == VerdictKind::Planned && !is_last {
            self.tell_down();
        }
        self.event(Event::Verdict(verdict));
        // A stop that has begun with our own STOPPING=1 has a time, too.
        self.extend_timeout();
    }

    fn check_timers(&mut self) {
        let now = Instant::now();
        due(&mut self.timers.accept, now);
        if due(&mut self.timers.close, now) || (self.timers.close.is_some() && self.may_close()) {
            self.take_no_more();
        }
        let requests = self.started.as_ref().map_or(0, |started| started.service.in_flight());
        if due(&mut self.timers.refuse, now) || (self.timers.refuse.is_some() && requests == 0) {
            self.refuse_work();
        }
        if let Some(started) = &self.started
            && due(&mut self.timers.reload, now)
        {
            started.service.reloads.request();
        }
        self.check_reloads(now);
        self.check_restarts();
        self.give_sign_of_life(now);
        self.look_for_stop_time();
        if due(&mut self.timers.report, now) {
            self.report(now);
        }
        if due(&mut self.timers.drain, now) || self.is_stuck() {
            self.event(Event::Expired);
        }
    }

    fn event(&mut self, event: Event) {
        let (next, action) = phase::next(self.phase, event);
        self.phase = next;
        self.stop_watchdog.progress.enter(next.into());
        match action {
            Action::Nothing | Action::Exit => {}
            Action::AnnounceReady => self.announce_ready(),
            Action::BeginDrain => self.begin_drain(),
            Action::AnnounceStopping => self.notifier.send("STOPPING=1"),
            Action::AbortTurns => self.abort_turns(),
            Action::Pause => self.begin_pause(),
            Action::Check => self.check_again(),
            Action::HandOver => self.hand_over(),
            Action::PauseAgain => self.pause_again(),
            Action::Close => self.close_for_restart(),
            Action::Resume => self.resume(),
            Action::AskAgain => {
                let last = self.stop.as_ref().and_then(|stop| stop.finding.as_ref());
                let marker = last.is_some_and(|last| last.marker);
                self.query(QueryPoint::Exit { marker });
            }
        }
    }

    fn announce_ready(&mut self) {
        let Some(started) = &self.started else { return };
        let facts = &started.service.facts;
        started.service.ready.store(true, Ordering::SeqCst);
        self.notifier.send(&format!("READY=1\nSTATUS={}", started.service.status_line()));
        log::info!("gateway {} serves on {}", facts.name, facts.listen);
        if let Some(mut before) = lock(&self.plan.inherited).predecessor.take()
            && let Err(e) = before.write_all(&[READY])
        {
            log::warn!("the process before this one does not hear that it may end: {e}");
        }
        if handover::generation(&self.plan.inherited) == 0 {
            banner::print(&self.plan, started);
        }
    }
}
