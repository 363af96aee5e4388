//! The thread of a channel: has its adapter run, takes what that offers, and hands it what is to be sent. It
//! waits for the disk, and never for the adapter.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{Connection, End};
use super::outbound;
use super::shared::{PAUSED, STARTING, STOPPED, Shared, WAITING};
use super::worker::Worker;
use crate::cancel::Cancel;
use crate::limits::THREAD_STACK;
use crate::session::Hub;
use crate::subprocess::Children;
use crate::sys::poll::Interest;
use crate::threads;

/// How often it looks whether a pause is over: nothing else says so to who is not attached.
const PAUSE_POLL: Duration = Duration::from_millis(100);

/// For a wait that something else ends.
const LONG: Duration = Duration::from_secs(3600);

/// Starts the thread of a channel.
///
/// # Errors
/// The system has no thread.
pub(super) fn start(
    hub: &Arc<Hub>,
    children: &Arc<Children>,
    shared: &Arc<Shared>,
    dir: PathBuf,
) -> io::Result<()> {
    let (hub, children, shared) = (Arc::clone(hub), Arc::clone(children), Arc::clone(shared));
    let work = move || {
        let mut worker = Worker::new(hub, children, shared, dir);
        while !worker.shared.leave(worker.hub.is_draining()) {
            worker.serve();
        }
    };
    threads::spawn("channel", THREAD_STACK, Box::new(work)).map(drop)
}

impl Worker {
    /// Serves the channel while it is configured, until a drain.
    fn serve(&mut self) {
        self.hub.attach_channel(&self.shared.name, &self.shared.wake);
        while !self.hub.is_draining() && !self.shared.lock().stop {
            if self.hub.is_paused() {
                self.pause();
                continue;
            }
            self.follow();
            let until = self.deaths.until().filter(|until| *until > Instant::now());
            if self.given_up || until.is_some() {
                self.wait(until);
                continue;
            }
            self.shared.set(STARTING, "");
            match Connection::run(self) {
                Ok(end) => self.judge(&end),
                Err(e) => {
                    let words = self.channel.adapter();
                    let program = words.first().map_or("", String::as_str);
                    let why = format!("its adapter {program:?} cannot be started: {e}");
                    log::error!("channel {}: {why}", self.shared.name);
                    self.fail(why);
                }
            }
        }
        self.hub.detach_channel(&self.shared.name);
    }

    /// Nothing is done before a restart, or before it is known that none comes.
    fn pause(&mut self) {
        self.shared.set(PAUSED, "");
        self.hub.detach_channel(&self.shared.name);
        while self.hub.is_paused() && !self.hub.is_draining() && !self.shared.lock().stop {
            threads::pause(PAUSE_POLL);
        }
        self.hub.attach_channel(&self.shared.name, &self.shared.wake);
    }

    /// Waits for something new, without an adapter.
    fn wait(&mut self, until: Option<Instant>) {
        let now = Instant::now();
        let context = outbound::Context { hub: &self.hub, channel: &self.channel };
        self.outbound.look(context, now);
        self.outbound.work(context, None, now);
        self.shared.lock().status.waiting = self.outbound.waiting();
        let next = self.outbound.next_wake(now);
        let until = [until, next].into_iter().flatten().min().unwrap_or(now + LONG);
        // An error: there is nothing to wait with for now.
        if Cancel::at(until).wait([Interest::read(self.shared.wake.as_fd())], until).is_err() {
            threads::pause(PAUSE_POLL);
        }
        self.shared.wake.clear();
    }

    /// Says how an adapter has ended, and when the next one begins.
    fn judge(&mut self, end: &End) {
        let name = &self.shared.name;
        match end {
            End::Asked(how) => log::info!("channel {name}: its adapter has ended ({how})"),
            End::Never(how) => {
                let why = format!(
                    "its adapter has ended for good ({how}); a reload, or `hermes-gateway channel restart \
                     {name}`, starts it again"
                );
                log::error!("channel {name}: {why}");
                self.given_up = true;
                self.shared.set(STOPPED, &why);
            }
            End::Failed(how) => {
                let why = format!("its adapter has ended: {how}");
                log::warn!("channel {name}: {why}");
                self.fail(why);
            }
        }
    }

    /// The next adapter has to wait.
    fn fail(&mut self, why: String) {
        self.shared.set(WAITING, &why);
        self.deaths.add(why);
    }
}
