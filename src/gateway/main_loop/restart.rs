//! A restart in place, by the main loop: the proof of the program, the pause, the handover of connections and
//! the close of the journal. The exec is in [`super::execute`].

use std::cell::RefCell;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::state::{Main, News, Next, RestartRun, due};
use crate::api::Service;
use crate::config::millis;
use crate::escape::escaped;
use crate::fault_points;
use crate::gateway::Plan;
use crate::gateway::proof::prove;
use crate::gateway::replace::Successor;
use crate::gateway::sockets::HTTP;
use crate::gateway::startup::{check, listen};
use crate::http::IDLE_AFTER;
use crate::lifecycle::history;
use crate::lifecycle::phase::{Event, Phase};
use crate::lifecycle::signals::Caught;
use crate::limits::{CLOSE_TIMEOUT, STREAM_END_TIMEOUT, THREAD_STACK};
use crate::session::{LastRestart, RestartKind, RestartRequest, RestartStage};
use crate::sys::clock::{self, since_boot};
use crate::sys::proc;
use crate::sys::process::Pid;
use crate::threads::{lock, pause, spawn, spawn_with_retry};

/// Why it does not happen, where the disk has not said.
pub(super) const CLOSE_FAILED: &str =
    "the journal could not be closed in time: the disk does not answer";

/// How long connections have to give up their sockets, while nobody is served.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long it takes until connections can be told to give up their sockets at once.
const PREPARATION: Duration = IDLE_AFTER.saturating_add(Duration::from_millis(10));

/// For how long a moment is waited for in which no request is being answered.
const SHORT_REQUESTS: Duration = Duration::from_millis(20);

pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

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
        if let (RestartKind::Replace(_), Some(own)) = (asked.kind, self.supervisor.own.get()) {
            let words = format!("{} runs it: `restart --graceful` is the way", own.unit);
            return self.refuse_restart(&words);
        }
        let program = self.plan.program.clone();
        log::info!("a restart in place was asked for by {}: {}", asked.by, program.display());
        restarts.enter(RestartStage::Proving);
        started.service.prepare_handover();
        let prepared = Instant::now() + PREPARATION;
        self.handover_prepared = Some(prepared);
        self.notifier.status(&escaped(&format!("Restarting: trying {}", program.display()), false));
        let (plan, mailbox) = (self.plan.clone(), Arc::clone(&self.mailbox));
        let service = Arc::clone(&started.service);
        let work = move || {
            let (hub, timeout) = (&service.hub, service.settings().config.restart.start_timeout);
            // Who asked is told whatever becomes of this process.
            let next = match (asked.kind, hub.save_restart(false)) {
                (_, Err(e)) if !asked.requesters.is_empty() => {
                    Err(format!("who asked for it cannot be kept, and would not be told: {e}"))
                }
                (RestartKind::Replace(pid), _) => {
                    Successor::connect(&plan.dirs.runtime, pid).map(Next::Process)
                }
                (RestartKind::Restart | RestartKind::Update, _) => {
                    prove(&plan, &program, timeout, Some(hub.abort.as_fd())).map(Next::Program)
                }
            };
            // Who asks for a turn waits from the pause on: it begins once it can be short.
            pause(prepared.saturating_duration_since(Instant::now()));
            mailbox.put(News::Proven(next));
        };
        if let Err(e) = spawn("proof", THREAD_STACK, Box::new(work)) {
            self.refuse_restart(&format!("there is no thread for it: {e}"));
        }
    }

    /// It does not happen, or no more. Nothing where none is under way.
    pub(super) fn refuse_restart(&mut self, why: &str) {
        let Some(started) = &self.started else { return };
        if !started.service.hub.fail_restart(why) {
            return;
        }
        match self.restart.take() {
            Some(restart) => restart.cancelled.store(true, Ordering::SeqCst),
            // Whoever prepared for it need not any more.
            None => drop(started.service.resume()),
        }
        log::error!("no restart: {why}");
        if self.phase == Phase::Serving {
            let line = started.service.status_line();
            self.notifier.status(&escaped(&format!("{line}; no restart: {why}"), false));
        }
    }

    pub(super) fn handle_proof(&mut self, next: Result<Next, String>) {
        match next {
            Ok(next) if self.phase == Phase::Serving => {
                let at = Instant::now();
                let config = self.started.as_ref().map(|started| started.service.settings());
                let time = config.map_or(Duration::ZERO, |it| it.config.stop.drain_timeout);
                self.restart = Some(RestartRun {
                    next: RefCell::new(next),
                    at,
                    in_flight: self.turns(),
                    aborted: 0,
                    until: at + time,
                    connections: Vec::new(),
                    ended: None,
                    listener: None,
                    cancelled: Arc::default(),
                    failed: None,
                });
                self.event(Event::Proven);
            }
            Err(why) if self.phase == Phase::Serving => self.refuse_restart(&why),
            Ok(_) | Err(_) => {}
        }
    }

    /// Nothing begins any more; what is in flight has the time that a drain has.
    pub(super) fn begin_pause(&mut self) {
        let (Some(started), Some(restart)) = (&self.started, &self.restart) else { return };
        started.service.pause();
        started.service.hub.restarts.enter(RestartStage::Pausing);
        let (at, until) = (restart.at, restart.until);
        self.timers.drain = Some(until);
        self.begin_restart_time(at, until - at);
        fault_points::at("restart-pause");
        if self.turns() > 0 {
            log::info!("the restart waits for the turns in flight: {}", self.turns());
            self.report(Instant::now());
        }
    }

    /// Whether nothing is in flight that is to be waited for.
    pub(super) fn is_quiet(&mut self) -> bool {
        let Some(started) = &self.started else { return true };
        let (service, now) = (&started.service, Instant::now());
        match self.phase {
            // Whoever waits in a way that cannot be woken does so no more from then on.
            Phase::Pausing { .. } if self.handover_prepared.is_some_and(|at| now < at) => {
                self.timers.handover = self.handover_prepared;
                false
            }
            Phase::Pausing { .. } if service.hub.busy() > 0 || self.turns() > 0 => {
                self.timers.handover = Some(now + SHORT_REQUESTS);
                false
            }
            // Where there are always requests, they come to an end by the handover.
            Phase::Pausing { .. } => {
                let at = *self.timers.handover.get_or_insert(now + SHORT_REQUESTS);
                service.is_quiet() || at <= now
            }
            Phase::HandingOver { .. } => {
                due(&mut self.timers.handover, now);
                service.is_handed_over()
            }
            _ => self.in_flight() == 0 && self.timers.close.or(self.timers.refuse).is_none(),
        }
    }

    /// Ends serving: what comes from now on is served by the next image.
    pub(super) fn hand_over(&mut self) {
        let (Some(started), Some(restart)) = (&self.started, &mut self.restart) else { return };
        restart.ended = Some(since_boot());
        let now = Instant::now();
        (self.timers.report, self.timers.drain) = (None, Some(now + HANDOVER_TIMEOUT));
        self.timers.handover = Some(now + STREAM_END_TIMEOUT);
        started.listeners.hand_over(&started.service);
        // Where there is no connection nobody else says that all have done so.
        self.mailbox.wake.notify();
    }

    /// An answer takes longer: until the next try, all is served as in a pause.
    pub(super) fn pause_again(&mut self) {
        let (Some(started), Some(restart)) = (&self.started, &self.restart) else { return };
        // What waits does not begin in between.
        started.service.pause();
        started.listeners.resume(started.service.take_handed_over(), &started.service);
        self.timers.drain = Some(restart.until);
        self.timers.handover = Some(Instant::now() + HANDOVER_TIMEOUT);
    }

    /// Goes on with all connections that were given up, in this image or the one before.
    pub(super) fn take_back(&mut self) {
        let Some(started) = &self.started else { return };
        let mut all = std::mem::take(&mut lock(&self.plan.inherited).connections);
        if let Some(restart) = &mut self.restart {
            all.append(&mut restart.connections);
            all.append(&mut match self.phase {
                Phase::Serving => started.service.resume(),
                _ => started.service.give_back(),
            });
        }
        if !all.is_empty() {
            started.listeners.resume(all, &started.service);
        }
    }

    /// Looks at the configuration again, which may have been changed since the proof, and closes the journal.
    /// What is written here is durable before the exec.
    pub(super) fn close_for_restart(&mut self) {
        let line = self.restart_line();
        let (Some(started), Some(restart)) = (&self.started, &mut self.restart) else { return };
        restart.connections = started.service.take_handed_over();
        self.timers.handover = None;
        self.timers.drain = Some(Instant::now() + CLOSE_TIMEOUT);
        let (service, mailbox) = (Arc::clone(&started.service), Arc::clone(&self.mailbox));
        let (plan, cancelled) = (self.plan.clone(), Arc::clone(&restart.cancelled));
        let foreign = started.listeners.foreign;
        let work = move || {
            let listener = new_listener(&plan, &service, foreign);
            if listener.is_ok() {
                service.hub.close(true);
            }
            if listener.is_ok() && !cancelled.load(Ordering::SeqCst) {
                // A stop that came meanwhile has the last word.
                let enter = || match cancelled.load(Ordering::SeqCst) {
                    true => Ok(()),
                    false => history::record_end(&plan.dirs, &line, true),
                };
                let noted = service.hub.save_restart(true);
                if let Err(e) = noted.and(enter()) {
                    log::warn!("the restart cannot be written down: {e}");
                }
            }
            mailbox.put(News::Closed(cancelled, listener));
        };
        if let Err(e) = spawn_with_retry("restart", Box::new(work), CLOSE_TIMEOUT) {
            restart.failed = Some(format!("there is no thread that closes the journal: {e}"));
            self.event(Event::GivenUp);
        }
    }

    pub(super) fn handle_closed(&mut self, listener: Result<Option<TcpListener>, String>) {
        let (Some(started), Some(restart)) = (&self.started, &mut self.restart) else { return };
        match listener {
            Ok(listener) => {
                if listener.is_some() {
                    // What waits there has connected to the old address in time.
                    restart.connections.append(&mut started.listeners.waiting());
                    self.notifier.remove(HTTP);
                }
                restart.listener = listener;
                self.event(Event::Closed);
            }
            Err(why) => {
                restart.failed = Some(why);
                self.event(Event::GivenUp);
            }
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
        let next = restart.next.borrow();
        let to = next.version();
        let reason = match &*next {
            Next::Program(_) => format!("restarted in place into version {to}, asked for by {by}"),
            Next::Process(other) => format!("handed over to pid {}, version {to}", other.pid),
        };
        let mut line = history::entry(run, "restart", &reason, None);
        line["from"] = VERSION.into();
        line["to"] = to.into();
        line["drain_ms"] = millis(restart.at.elapsed()).into();
        line["in_flight"] = restart.in_flight.into();
        line["cut"] = restart.aborted.into();
        line
    }

    /// What serving had is still there: it goes on.
    pub(super) fn resume(&mut self) {
        (self.timers.drain, self.timers.handover) = (None, None);
        self.end_restart_time();
        self.take_back();
        let why = self.restart.as_mut().and_then(|restart| restart.failed.take());
        let why = why.unwrap_or_else(|| CLOSE_FAILED.to_owned());
        self.refuse_restart(&why);
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
            let (from, time, served) = (inherited.version.clone(), clock::now(), millis(away));
            log::info!(
                "restarted in place: version {from} → {VERSION}, nobody served for {served} ms"
            );
            match restart["failed"].as_str() {
                Some(why) => {
                    log::error!("the new program could not be executed, the old one was: {why}");
                    hub.restarts.fail_earlier(number, why, time);
                }
                None => {
                    let (kind, away) = (RestartKind::Restart.word(), Some(away));
                    hub.restarts.finish(LastRestart { number, kind, by, time, from, away });
                }
            }
        }
        if let Some(by) = self.early_restart.take() {
            let request = RestartRequest { kind: RestartKind::Restart, by, requester: None };
            hub.request_restart(request);
        }
    }
}

/// Where the configuration has another address by now, a listener there, which the next image might not
/// get. A `foreign` one stays, whatever is configured.
///
/// # Errors
/// What a start would be refused for.
fn new_listener(
    plan: &Plan,
    service: &Service,
    foreign: bool,
) -> Result<Option<TcpListener>, String> {
    let loaded = check(plan).map_err(|failure| failure.0.message.replace('\n', "; "))?;
    let (old, new) = (service.settings().config.http.listen, loaded.config.http.listen);
    if old == new || foreign || service.facts.listen == new.to_string() {
        return Ok(None);
    }
    listen(new, &loaded).map(Some).map_err(|failure| match old.port() == new.port() {
        true => format!(
            "http.listen was {old} and is {new} now, which can only be changed by a restart that is not \
             in place ({failure})"
        ),
        false => failure.0.message,
    })
}
