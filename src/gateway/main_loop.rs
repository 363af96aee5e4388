//! The main thread: waits for signals, connections, answers and points in time, and carries out
//! what the phases decide. Nothing in it blocks but the one poll.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::startup::{self, Started};
use super::timers::{Timers, due};
use super::{Plan, doors, greeting, reload};
use crate::agent::KILL_AFTER;
use crate::config::LogTarget;
use crate::exit::{Exit, Failure};
use crate::lifecycle::evidence::{Finding, Moment, Place};
use crate::lifecycle::history::Ending;
use crate::lifecycle::phase::{self, Action, Event, Judged, Outcome, Phase};
use crate::lifecycle::signals::{Caught, Kind, Signals};
use crate::logger;
use crate::sys::fd::Event as Wake;
use crate::sys::poll::{Interest, poll};
use crate::sys::process::exit_at_once;
use crate::systemd::notify::{Notifier, watchdog_interval};

/// What cut turns have beyond their agents' SIGKILL to tell their clients: part of the stop budget.
const CUT_PATIENCE: Duration = Duration::from_secs(2);
/// How often STATUS= tells what a drain waits for.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What other threads tell the main one.
enum News {
    Started(Box<Result<Started, Failure>>),
    Found(Box<Finding>),
}

/// The stop that is going on.
struct Stop {
    first: Caught,
    latest: Caught,
    at: Instant,
    /// The first finding, for who sent the signal, and the last, for the verdict.
    findings: Option<(Finding, Finding)>,
    in_flight: usize,
    cut: usize,
}

struct Main {
    plan: Plan,
    place: Place,
    notifier: Notifier,
    wake: Arc<Wake>,
    news: (Sender<News>, Receiver<News>),
    phase: Phase,
    timers: Timers,
    starter: Option<JoinHandle<()>>,
    started: Option<Started>,
    stop: Option<Stop>,
    /// Connections that are accepted at once.
    cap: usize,
}

/// Runs the gateway from start to stop; returns the status to exit with.
pub fn run(plan: Plan, mut signals: Signals) -> Exit {
    let began = Instant::now();
    logger::set(log::LevelFilter::Info, LogTarget::Auto, "hermes-gateway");
    let exit = match Main::begin(plan, began) {
        Ok(mut main) => main.turn_until_exit(&mut signals),
        Err(failure) => end_early(&failure),
    };
    log::logger().flush();
    exit
}

/// The end of a start that failed.
fn end_early(failure: &Failure) -> Exit {
    for line in failure.message.lines() {
        log::error!("{line}");
    }
    log::error!(
        "Exiting with code {} (the start failed)",
        failure.exit.code()
    );
    failure.exit
}

impl Main {
    fn begin(plan: Plan, began: Instant) -> Result<Main, Failure> {
        let failed = |e| Failure::failed(format!("cannot start: {e}"));
        let wake = Arc::new(Wake::new().map_err(failed)?);
        let place = Place::find(plan.dirs.planned_stop(), Arc::clone(&plan.children));
        let watchdog = watchdog_interval().map(|interval| (began + interval, interval));
        let timers = Timers {
            watchdog,
            ..Timers::default()
        };
        let mut main = Main {
            plan,
            place,
            notifier: Notifier::from_environment(),
            wake,
            news: mpsc::channel(),
            phase: Phase::Starting,
            timers,
            starter: None,
            started: None,
            stop: None,
            cap: 0,
        };
        main.starter = Some(main.spawn_starter(began).map_err(failed)?);
        Ok(main)
    }

    /// Starts up in a thread, so that a signal is judged whatever the start waits for.
    fn spawn_starter(&self, began: Instant) -> std::io::Result<JoinHandle<()>> {
        let (plan, wake, tell) = (
            self.plan.clone(),
            Arc::clone(&self.wake),
            self.news.0.clone(),
        );
        let unit = self.place.unit().map(|own| own.unit.clone());
        thread::Builder::new()
            .name("start".to_owned())
            .spawn(move || {
                let started = startup::start(&plan, unit, began, Arc::clone(&wake));
                let parts = started
                    .as_ref()
                    .ok()
                    .map(|s| (Arc::clone(&s.service), Arc::clone(&s.run)));
                // The main thread lives for as long as the process: it cannot be gone.
                let _ = tell.send(News::Started(Box::new(started)));
                wake.raise();
                if let Some((service, run)) = parts {
                    startup::settle(&plan, &service, &run);
                }
            })
    }

    fn turn_until_exit(&mut self, signals: &mut Signals) -> Exit {
        loop {
            if let Err(e) = self.wait(signals) {
                // EBADF or EINVAL: a bug of ours. To go on would be to spin.
                self.clean_up();
                log::error!(
                    "Exiting with code {} (poll failed: {e})",
                    Exit::Failed.code()
                );
                return Exit::Failed;
            }
            // Signals before news: a stop that came with the answer to a kill must be seen first.
            for caught in signals.take() {
                self.signal(caught);
            }
            self.wake.clear();
            while let Ok(news) = self.news.1.try_recv() {
                match self.hear(news) {
                    None => {}
                    Some(failure) => return end_early(&failure),
                }
            }
            self.look_at_clock();
            if self.in_flight() == 0 {
                self.event(Event::Quiet);
            }
            if let Phase::Stopped(outcome) = self.phase {
                return self.finish(outcome, signals);
            }
        }
    }

    /// Waits for whatever comes first, and accepts connections.
    fn wait(&mut self, signals: &Signals) -> std::io::Result<()> {
        let timeout = self.timers.until_next(Instant::now());
        let doors = self
            .started
            .as_ref()
            .filter(|_| self.timers.accept.is_none());
        let door = |fd| Interest::read(fd);
        let mut interests = [
            Interest::read(signals.as_fd()),
            Interest::read(self.wake.as_fd()),
            doors.map_or_else(Interest::none, |s| door(s.tcp.as_fd())),
            doors.map_or_else(Interest::none, |s| door(s.control.as_fd())),
        ];
        poll(&mut interests, timeout)?;
        let [_, _, tcp, control] = interests.map(|interest| interest.ready());
        if let Some(started) = doors.filter(|_| tcp || control) {
            let accepted =
                doors::accept(&started.tcp, &started.control, &started.service, self.cap);
            if let Err(e) = accepted {
                log::warn!("cannot accept connections: {e}; trying again in a moment");
                self.timers.accept = Some(Instant::now() + doors::BACK_OFF);
            }
        }
        Ok(())
    }

    fn signal(&mut self, caught: Caught) {
        match caught.kind {
            Kind::Terminate | Kind::Interrupt => {
                match &mut self.stop {
                    Some(stop) => stop.latest = caught,
                    None => {
                        let at = Instant::now();
                        let in_flight = self.turns();
                        let (first, latest) = (caught, caught);
                        let stop = Stop {
                            first,
                            latest,
                            at,
                            findings: None,
                            in_flight,
                            cut: 0,
                        };
                        self.stop = Some(stop);
                    }
                }
                self.event(Event::Signal);
            }
            Kind::Reload => match &self.started {
                Some(started) => {
                    reload::reload(&self.plan, &started.service);
                    self.cap = startup::connections_allowed(&started.service.settings().config);
                }
                None => log::info!("a reload was asked for during the start: nothing to do"),
            },
            Kind::Child => self.plan.children.reap_orphans(),
        }
    }

    /// Takes a piece of news; returns the failure of a start that nobody has stopped.
    fn hear(&mut self, news: News) -> Option<Failure> {
        match news {
            News::Started(result) => match *result {
                Ok(started) => {
                    self.cap = startup::connections_allowed(&started.service.settings().config);
                    self.started = Some(started);
                    self.event(Event::Started);
                    None
                }
                Err(failure) if self.phase == Phase::Starting => Some(failure),
                Err(failure) => {
                    log::warn!("the start had failed already: {failure}");
                    None
                }
            },
            News::Found(finding) => {
                self.found(*finding);
                None
            }
        }
    }

    fn found(&mut self, finding: Finding) {
        log::info!("Shutdown context: {}", finding.context);
        let judged = if finding.verdict.planned {
            Judged::Planned
        } else {
            Judged::External {
                may_change: finding.may_change,
            }
        };
        if let Some(stop) = &mut self.stop {
            let first = stop
                .findings
                .take()
                .map_or_else(|| finding.clone(), |(first, _)| first);
            stop.findings = Some((first, finding));
        }
        self.event(Event::Judged(judged));
    }

    fn look_at_clock(&mut self) {
        let now = Instant::now();
        due(&mut self.timers.accept, now);
        if let Some((at, interval)) = self.timers.watchdog.filter(|(at, _)| *at <= now) {
            self.notifier.send("WATCHDOG=1");
            // From now, not from `at`: after a suspend there is nothing to catch up with.
            self.timers.watchdog = Some((now.max(at) + interval, interval));
        }
        if due(&mut self.timers.report, now) {
            self.report(now);
        }
        if due(&mut self.timers.drain, now) {
            self.event(Event::Expired);
        }
    }

    fn event(&mut self, event: Event) {
        let (next, action) = phase::next(self.phase, event);
        self.phase = next;
        match action {
            Action::Nothing | Action::Exit => {}
            Action::AnnounceReady => self.announce_ready(),
            Action::BeginDrain => self.begin_drain(),
            Action::AnnounceStopping => self.notifier.send("STOPPING=1"),
            Action::CutTurns => self.cut_turns(),
            Action::AskAgain => {
                let marker = self.stop.as_ref().and_then(|s| s.findings.as_ref());
                let marker = marker.is_some_and(|(_, last)| last.marker);
                self.ask(Moment::Exit { marker });
            }
        }
    }

    fn announce_ready(&mut self) {
        let Some(started) = &self.started else { return };
        let facts = &started.service.facts;
        started.service.ready.store(true, Ordering::SeqCst);
        self.notifier
            .send(&format!("READY=1\nSTATUS=Serving on {}", facts.listen));
        log::info!("gateway {} serves on {}", facts.name, facts.listen);
        greeting::greet(&self.plan, started);
    }

    fn begin_drain(&mut self) {
        let was_started = self.started.as_ref().is_some_and(|s| {
            s.service.gate.close();
            s.service.ready.load(Ordering::SeqCst)
        });
        let now = Instant::now();
        let drain = self.started.as_ref().map_or(Duration::ZERO, |started| {
            started.service.settings().config.stop.drain_timeout
        });
        self.timers.drain = Some(now + drain);
        self.ask(Moment::Signal {
            started: was_started,
        });
        if self.in_flight() > 0 {
            self.report(now);
        }
    }

    /// Asks why, in a thread of its own: the manager may take its time.
    fn ask(&mut self, moment: Moment) {
        let Some(stop) = &self.stop else { return };
        let (place, caught) = (self.place.clone(), stop.latest);
        let (wake, tell) = (Arc::clone(&self.wake), self.news.0.clone());
        let question = move || {
            let finding = place.examine(caught, moment);
            let _ = tell.send(News::Found(Box::new(finding)));
            wake.raise();
        };
        let spawned = thread::Builder::new()
            .name("question".to_owned())
            .spawn(question);
        if let Err(e) = spawned {
            log::warn!("no thread for the question ({e}): the main one asks");
            let finding = self.place.examine(caught, moment);
            self.found(finding);
        }
    }

    fn cut_turns(&mut self) {
        let turns = self.turns();
        if let Some(stop) = &mut self.stop {
            stop.cut = turns;
        }
        if let Some(started) = &self.started {
            log::warn!("ending {turns} turns that are still in flight");
            started.service.cut.raise();
        }
        self.timers.drain = Some(Instant::now() + KILL_AFTER + CUT_PATIENCE);
    }

    /// Tells the service manager what is waited for.
    fn report(&mut self, now: Instant) {
        let (turns, requests) = (self.turns(), self.in_flight());
        let left = self
            .timers
            .drain
            .map_or(0, |at| at.saturating_duration_since(now).as_secs());
        let what =
            format!("Draining: {turns} turns and {requests} requests in flight, {left} s left");
        self.notifier.status(&what);
        self.timers.report = Some(now + REPORT_EVERY);
    }

    fn in_flight(&self) -> usize {
        self.started
            .as_ref()
            .map_or(0, |started| started.service.in_flight())
    }

    fn turns(&self) -> usize {
        self.started
            .as_ref()
            .map_or(0, |started| started.service.places.counts().0)
    }

    /// Ends the process. Between the manager's last answer and the exit somebody may still stop
    /// what was killed, and an exit of 143 inside that stop would leave the unit `failed`: so all
    /// that takes time comes first, and the last look at the signals just before the end.
    fn finish(&mut self, outcome: Outcome, signals: &mut Signals) -> Exit {
        self.clean_up();
        let exit = self.write_down(outcome);
        if outcome == Outcome::Planned {
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
        };
        let mut why = "stopped".to_owned();
        if let Some(stop) = &self.stop
            && let Some((first, last)) = &stop.findings
        {
            why = format!("{}: {}", last.verdict.word(), last.verdict.reason);
            let found = Finding {
                sender: first.sender.clone(),
                ..last.clone()
            };
            let drain = stop.at.elapsed();
            let ending = Ending {
                exit,
                drain,
                in_flight: stop.in_flight,
                cut: stop.cut,
            };
            if let Some(started) = &self.started
                && let Err(e) = started.run.end(&self.plan.dirs, stop.first, &found, ending)
            {
                log::warn!("the history could not be written: {e}");
            }
        }
        log::info!("Exiting with code {} ({why})", exit.code());
        exit
    }

    fn clean_up(&mut self) {
        // Turns that did not end in time leave no processes behind, whoever runs us.
        self.plan.children.kill_groups();
        if self.started.is_some() {
            // It sent the news, and now writes no more than a line.
            if let Some(Err(_)) = self.starter.take().map(JoinHandle::join) {
                log::warn!("the thread that started us had died");
            }
            startup::clean_up(&self.plan);
        }
    }
}
