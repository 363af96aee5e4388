//! The exec of a restart in place, by the main loop, and what goes over it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::state::{Main, News, Next, RestartRun};
use crate::config::millis;
use crate::exit::Exit;
use crate::gateway::handover::{self, LOCKS, Sealed};
use crate::gateway::replace::Successor;
use crate::gateway::startup::check;
use crate::json::object;
use crate::lifecycle::phase::{Event, Outcome, Phase};
use crate::lifecycle::signals::{Caught, Kind, Signals};
use crate::limits::{CLOSE_TIMEOUT, START_TIMEOUT, THREAD_STACK};
use crate::subprocess::own_variables;
use crate::sys::gather::Gather;
use crate::sys::process::{Pid, exit_now, own_image};
use crate::sys::{exec, proc};
use crate::threads::spawn;

impl Main {
    /// Looks at the configuration, which may have been changed since the proof: turns that were told to end go
    /// on in another image only.
    pub(super) fn check_again(&mut self) {
        let Some(restart) = &self.restart else { return };
        self.timers.drain = Some(Instant::now() + CLOSE_TIMEOUT);
        let (plan, mailbox) = (self.plan.clone(), Arc::clone(&self.mailbox));
        let cancelled = Arc::clone(&restart.cancelled);
        let work = move || {
            let checked = check(&plan).map_err(|failure| failure.0.message.replace('\n', "; "));
            mailbox.put(News::Checked(cancelled, checked.map(drop)));
        };
        if let Err(e) = spawn("check", THREAD_STACK, Box::new(work)) {
            self.handle_check(Err(format!("there is no thread for it: {e}")));
        }
    }

    pub(super) fn handle_check(&mut self, checked: Result<(), String>) {
        let (Phase::Pausing { .. }, Some(restart)) = (self.phase, &mut self.restart) else {
            // All have ended meanwhile: the close of the journal looks again.
            return;
        };
        let event = if checked.is_ok() { Event::Checked } else { Event::GivenUp };
        restart.failed = checked.err();
        self.event(event);
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
        let to_other = |it: &RestartRun| matches!(*it.next.borrow(), Next::Process(_));
        if self.restart.as_ref().is_some_and(to_other) {
            // That one may take as long as a start does.
            self.begin_restart_time(Instant::now(), self.start_timeout());
        }
        let why = self.execute();
        log::error!("the restart has failed: {why}");
        self.restart.iter_mut().for_each(|restart| restart.failed = Some(why.clone()));
        self.phase = Phase::Stopped(Outcome::RestartFailed);
        self.plan.children.set_closed(false);
    }

    /// Executes the proven program, else the present one by its own file; returns why neither could be.
    fn execute(&self) -> String {
        let Some(restart) = &self.restart else { return "there is nothing to execute".to_owned() };
        let next = &mut *restart.next.borrow_mut();
        let why = match next {
            Next::Process(successor) => self.hand_over_to(restart, successor),
            Next::Program(proven) => {
                let unchanged = proven.check_unchanged().map_err(io::Error::other);
                let program = unchanged.map(|()| proven.file.as_fd());
                let executed = program.map(|program| self.execute_file(program, restart, None));
                executed.unwrap_or_else(|e| e).to_string()
            }
        };
        let present = own_image()
            .map_or_else(|e| e, |program| self.execute_file(program.as_fd(), restart, Some(&why)));
        format!("{why}; nor can the present program be executed: {present}")
    }

    /// `failed`: why it is not the program that was meant.
    fn execute_file(
        &self,
        program: BorrowedFd<'_>,
        restart: &RestartRun,
        failed: Option<&str>,
    ) -> io::Error {
        let Sealed { file, variable } = match self.seal(restart, failed) {
            Ok(sealed) => sealed,
            Err(e) => return e,
        };
        let keep = self.kept(&file, restart);
        let equals = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            name
        };
        let environment: Vec<OsString> =
            own_variables(|_| false).into_iter().map(equals).chain([variable]).gather();
        exec::execute(program, &self.plan.arguments, &environment, &keep)
    }

    /// All descriptors that the next image gets, `first` and the others in the order in which that names them.
    fn kept<'m>(&'m self, first: &'m File, restart: &'m RestartRun) -> Vec<BorrowedFd<'m>> {
        let mut all = vec![first.as_fd()];
        all.extend(self.descriptors(restart).iter().map(|(_, fd)| *fd));
        all.extend(restart.connections.iter().map(|one| one.socket.as_fd()));
        all
    }

    /// Hands everything over to another process, and ends once that is ready. Returns only with why it is not:
    /// then all is ours again.
    fn hand_over_to(&self, restart: &RestartRun, successor: &mut Successor) -> String {
        let file = match self.seal(restart, None) {
            Ok(Sealed { file, .. }) => file,
            Err(e) => return format!("nothing can be handed over: {e}"),
        };
        let all = self.kept(&file, restart);
        if let Err(why) = successor.hand_over(&all, self.start_timeout()) {
            return why;
        }
        log::info!("Exiting with code 0 (replaced by pid {})", successor.pid);
        log::logger().flush();
        exit_now(Exit::Planned.code())
    }

    fn start_timeout(&self) -> Duration {
        let settings = self.started.as_ref().map(|started| started.service.settings());
        settings.map_or(START_TIMEOUT.default, |it| it.config.restart.start_timeout)
    }

    /// What the next image gets, ordered by name.
    fn descriptors<'m>(&'m self, restart: &'m RestartRun) -> Vec<(&'static str, BorrowedFd<'m>)> {
        let Some(started) = &self.started else { return Vec::new() };
        let listeners = &started.listeners;
        let tcp = restart.listener.as_ref().unwrap_or(&listeners.tcp);
        let mut all = vec![("control", listeners.control.as_fd()), ("http", tcp.as_fd())];
        all.extend(LOCKS.into_iter().zip(started.instance.descriptors()));
        all
    }

    fn seal(&self, restart: &RestartRun, failed: Option<&str>) -> io::Result<Sealed> {
        let service = self.started.as_ref().map(|started| &started.service);
        let asked = service.and_then(|service| service.hub.restarts.current());
        // One that is new was bound for what the next image reads.
        let same = service.filter(|_| restart.listener.is_none());
        let listen = same.map(|service| service.settings().config.http.listen.to_string());
        let (number, by) = asked.map(|asked| (asked.number, asked.by)).unzip();
        let foreign = self.started.as_ref().is_some_and(|it| it.listeners.foreign);
        let restart_told = object!(
            "number": number, "by": by, "ended": restart.ended.map(millis), "failed": failed,
        );
        let more = object!(
            "generation": handover::generation(&self.plan.inherited) + 1,
            "name": proc::name(Pid::own()),
            "soft_limit": self.plan.children.descriptors,
            "had_file": self.plan.had_file.load(Ordering::SeqCst),
            "kept": self.stores, "foreign": same.is_some() && foreign, "listen": listen,
            "restart": restart_told,
        );
        handover::seal(&self.descriptors(restart), &restart.connections, more)
    }
}
