//! A restart in place, by the main loop: the proof of the program, the pause, the close of the journal, and
//! the exec.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::drain::CLOSE_TIMEOUT;
use super::state::{Main, News, RestartRun};
use crate::escape::escaped;
use crate::gateway::handover::{self, LOCKS, Sealed};
use crate::gateway::proof::{self, Proven};
use crate::lifecycle::history;
use crate::lifecycle::phase::{Event, Outcome, Phase};
use crate::lifecycle::signals::{Caught, Kind, Signals};
use crate::limits::THREAD_STACK;
use crate::session::{RestartDone, RestartKind, RestartRequest, RestartStage};
use crate::sys::clock::{Utc, since_boot};
use crate::sys::process::Pid;
use crate::sys::{exec, proc};
use crate::threads::{lock, spawn, spawn_with_retry};

const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Main {
    /// A signal asks for one.
    pub(super) fn request_restart(&mut self, caught: Caught) {
        let name = Pid::new(caught.pid).and_then(proc::name).unwrap_or_default();
        let by =
            format!("{} from pid {} ({})", caught.kind.name(), caught.pid, escaped(&name, false));
        match &self.started {
            Some(started) => {
                let request = RestartRequest { kind: RestartKind::Restart, by, requester: None };
                started.service.hub.request_restart(request);
            }
            None => {
                log::info!("a restart was asked for during the start: it follows at its end");
                self.early_restart = Some(by);
            }
        }
    }

    /// Begins the one that was asked for: the program proves itself in a thread of its own.
    pub(super) fn check_restarts(&mut self) {
        let Some(started) = &self.started else { return };
        let restarts = &started.service.hub.restarts;
        let asked = restarts.current().filter(|it| it.stage == RestartStage::Requested);
        let Some(asked) = asked else { return };
        match self.phase {
            Phase::Serving => {}
            Phase::Starting => return,
            _ => return self.refuse_restart("the gateway is being stopped"),
        }
        if self.plan.ephemeral {
            return self.refuse_restart(
                "it runs with --ephemeral: its messages are in memory, and a restart would lose them",
            );
        }
        let program = proof::program();
        log::info!("a restart in place was asked for by {}: {}", asked.by, program.display());
        restarts.enter(RestartStage::Proving);
        self.notifier.status(&escaped(&format!("Restarting: trying {}", program.display()), false));
        let (plan, mailbox) = (self.plan.clone(), Arc::clone(&self.mailbox));
        let hub = Arc::clone(&started.service.hub);
        // Who asked is told whatever becomes of this process.
        let work = move || {
            if let Err(e) = hub.save_restart(false) {
                log::warn!("who asked for the restart is not kept: {e}");
            }
            mailbox.put(News::Proven(proof::prove(&plan, &program)));
        };
        if let Err(e) = spawn("proof", THREAD_STACK, Box::new(work)) {
            self.refuse_restart(&format!("there is no thread for it: {e}"));
        }
    }

    /// It does not happen, or no more. Nothing where none is under way.
    pub(super) fn refuse_restart(&mut self, why: &str) {
        let Some(started) = &self.started else { return };
        self.restart = None;
        if !started.service.hub.fail_restart(why) {
            return;
        }
        log::error!("no restart, the gateway goes on as it is: {why}");
        if self.phase == Phase::Serving {
            let line = started.service.status_line();
            self.notifier.status(&escaped(&format!("{line}; no restart: {why}"), false));
        }
    }

    pub(super) fn handle_proof(&mut self, proven: Result<Proven, String>) {
        match proven {
            Ok(proven) if self.phase == Phase::Serving => {
                let (at, in_flight) = (Instant::now(), self.turns());
                let (aborted, ended, failed) = (0, None, None);
                let run = RestartRun { proven, at, in_flight, aborted, ended, failed };
                self.restart = Some(run);
                self.event(Event::Proven);
            }
            Err(why) if self.phase == Phase::Serving => self.refuse_restart(&why),
            Ok(_) | Err(_) => {}
        }
    }

    /// Nothing begins any more; what is in flight has the time that a drain has.
    pub(super) fn begin_pause(&mut self) {
        let Some(started) = &self.started else { return };
        let hub = &started.service.hub;
        hub.pause();
        hub.restarts.enter(RestartStage::Pausing);
        let now = Instant::now();
        self.timers.drain = Some(now + started.service.settings().config.stop.drain_timeout);
        if hub.busy() > 0 {
            log::info!("the restart waits for the turns in flight: {}", self.turns());
            self.report(now);
        }
    }

    /// Whether nothing is in flight. In a pause, those who wait for what does not run are answered later.
    pub(super) fn is_quiet(&self) -> bool {
        match (&self.started, self.phase) {
            (Some(started), Phase::Pausing { .. }) => started.service.hub.busy() == 0,
            _ => self.in_flight() == 0,
        }
    }

    /// Ends serving, for the next image to go on: what is written here is durable before the exec.
    pub(super) fn close_for_restart(&mut self) {
        let (Some(started), Some(restart)) = (&self.started, &mut self.restart) else { return };
        restart.ended = Some(since_boot());
        self.timers.report = None;
        self.timers.drain = Some(Instant::now() + CLOSE_TIMEOUT);
        let line = self.restart_line();
        let (service, mailbox) = (Arc::clone(&started.service), Arc::clone(&self.mailbox));
        let dirs = self.plan.dirs.clone();
        let work = move || {
            service.hub.release();
            service.shutdown.close();
            service.await_streams();
            let noted = service.hub.save_restart(true);
            let entered = history::record_end(&dirs, &line, true);
            if let Err(e) = noted.and(entered) {
                log::warn!("the restart cannot be written down: {e}");
            }
            service.hub.close(true);
            mailbox.put(News::Closed);
        };
        if let Err(e) = spawn_with_retry("restart", Box::new(work), CLOSE_TIMEOUT) {
            log::warn!("there is no thread that closes the journal: {e}");
            self.event(Event::GivenUp);
        }
    }

    /// The line of the history.
    fn restart_line(&self) -> Value {
        let run = self.begun.get().and_then(Option::as_deref);
        let Some((started, restart)) = self.started.as_ref().zip(self.restart.as_ref()) else {
            return Value::Null;
        };
        let asked = started.service.hub.restarts.current();
        let by = asked.map_or_else(String::new, |asked| asked.by);
        let to = &restart.proven.version;
        let reason = format!("restarted in place into version {to}, asked for by {by}");
        let mut line = history::entry(run, "restart", &reason, None);
        line["from"] = VERSION.into();
        line["to"] = to.as_str().into();
        line["drain_ms"] = millis(restart.at.elapsed()).into();
        line["in_flight"] = restart.in_flight.into();
        line["cut"] = restart.aborted.into();
        line
    }

    /// The journal could not be closed in time, and what serving had is still there: it goes on.
    pub(super) fn resume(&mut self) {
        self.timers.drain = None;
        if let Some(started) = &self.started {
            started.service.hub.resume();
        }
        self.refuse_restart("the journal could not be closed in time: the disk does not answer");
    }

    /// Executes the program in the place of this one. Returns only where it cannot, or where a stop came
    /// before: then the phase says how it goes on.
    pub(super) fn execute_anew(&mut self, signals: &mut Signals) {
        self.plan.children.set_closed(true);
        if !self.plan.children.are_gone() {
            self.plan.children.end_all();
        }
        self.notifier.send("WATCHDOG=1");
        log::logger().flush();
        signals.prepare_for_exec();
        // From here on what comes stays pending, and the next image judges it.
        let last = signals.take();
        let is_stop = |it: &Caught| !matches!(it.kind, Kind::Reload | Kind::Child | Kind::Restart);
        if last.iter().any(is_stop) {
            let aborted = self.restart.as_ref().is_some_and(|restart| restart.aborted > 0);
            self.phase = Phase::Closing { aborted };
            self.plan.children.set_closed(false);
            return last.into_iter().for_each(|caught| self.signal(caught));
        }
        let why = self.execute();
        log::error!("the restart has failed: {why}");
        self.restart.iter_mut().for_each(|restart| restart.failed = Some(why.clone()));
        self.phase = Phase::Stopped(Outcome::RestartFailed);
        self.plan.children.set_closed(false);
    }

    /// Executes the proven program, else the present one by its own file; returns why neither could be.
    fn execute(&self) -> String {
        let (Some(started), Some(restart)) = (&self.started, &self.restart) else {
            return "there is nothing to execute".to_owned();
        };
        let mut why = String::new();
        let present = File::open("/proc/self/exe");
        let programs = [Ok(&restart.proven.file), present.as_ref()];
        for program in programs {
            let failed = (!why.is_empty()).then(|| why.clone());
            let sealed = self.seal(restart, failed);
            let e = match (program, sealed) {
                (Ok(program), Ok(Sealed { file, variable })) => {
                    let mut keep = self.descriptors();
                    keep.push(("", file.as_fd()));
                    let keep: Vec<BorrowedFd<'_>> = keep.into_iter().map(|(_, fd)| fd).collect();
                    let argv: Vec<OsString> = env::args_os().collect();
                    let mut environment: Vec<OsString> = env::vars_os()
                        .map(|(name, value)| {
                            let mut text = name;
                            text.push("=");
                            text.push(value);
                            text
                        })
                        .collect();
                    environment.push(variable);
                    exec::execute(program.as_fd(), &argv, &environment, &keep).to_string()
                }
                (Err(e), _) => e.to_string(),
                (_, Err(e)) => e.to_string(),
            };
            let separator = if why.is_empty() { "" } else { "; the present program: " };
            why += &format!("{separator}{e}");
        }
        let _ = started;
        why
    }

    /// What the next image gets, by name.
    fn descriptors(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        let Some(started) = &self.started else { return Vec::new() };
        let listeners = &started.listeners;
        let sockets = [("http", listeners.tcp.as_fd()), ("control", listeners.control.as_fd())];
        let locks = LOCKS.into_iter().zip(started.instance.descriptors());
        sockets.into_iter().chain(locks).collect()
    }

    fn seal(&self, restart: &RestartRun, failed: Option<String>) -> std::io::Result<Sealed> {
        let asked = self.started.as_ref().and_then(|it| it.service.hub.restarts.current());
        let listen = self.started.as_ref().map(|it| it.service.settings().config.http.listen);
        let more = json!({
            "generation": handover::generation(&self.plan.inherited) + 1,
            "name": proc::name(Pid::own()),
            "soft_limit": self.plan.children.descriptors(),
            "had_file": self.plan.had_file.load(std::sync::atomic::Ordering::SeqCst),
            "listen": listen.map(|listen| listen.to_string()),
            "restart": {
                "number": asked.as_ref().map(|asked| asked.number),
                "by": asked.as_ref().map(|asked| &asked.by),
                "ended": restart.ended.map(millis),
                "failed": failed,
            },
        });
        handover::seal(&self.descriptors(), more)
    }

    /// Tells of the restart that led to this image, and what was asked for during its start.
    pub(super) fn tell_of_restart(&mut self) {
        let Some(started) = &self.started else { return };
        let hub = &started.service.hub;
        // What ended before the exec is nobody's to reap but ours.
        self.plan.children.reap_orphans();
        let inherited = lock(&self.plan.inherited);
        let restart = &inherited.restart;
        if let Some(number) = restart["number"].as_u64() {
            let ended = restart["ended"].as_u64().unwrap_or_default();
            let away = Duration::from_millis(millis(since_boot()).saturating_sub(ended));
            let by = restart["by"].as_str().unwrap_or_default().to_owned();
            let (from, to) = (inherited.version.clone(), VERSION.to_owned());
            let time = Utc::new(SystemTime::now()).rfc3339();
            let served = away.as_millis();
            log::info!("restarted in place: version {from} → {to}, nobody served for {served} ms");
            match restart["failed"].as_str() {
                Some(why) => {
                    log::error!("the new program could not be executed, the old one was: {why}");
                    hub.restarts.fail_earlier(number, why, time);
                }
                None => hub.restarts.finish(RestartDone { number, time, by, from, to, away }),
            }
        }
        if let Some(by) = self.early_restart.take() {
            let request = RestartRequest { kind: RestartKind::Restart, by, requester: None };
            hub.request_restart(request);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
