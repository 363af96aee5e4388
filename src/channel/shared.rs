//! What a channel's thread shares with those who ask about it, or want something of it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::pairing::Pairing;
use super::status::ChannelStatus;
use crate::session::now;
use crate::subprocess::GOOD_AFTER;
use crate::sys::fd::EventFd;
use crate::threads::lock;

/// A channel that is down for so long is in trouble: a start and a new connection take seconds.
const TROUBLE_AFTER: Duration = Duration::from_secs(60);

/// The states in which a channel is, by the words of the API.
pub(super) const STARTING: &str = "starting";
pub(super) const UP: &str = "up";
pub(super) const WAITING: &str = "waiting";
pub(super) const PAUSED: &str = "paused";
pub(super) const STOPPED: &str = "stopped";
pub(super) const UNAUTHORIZED: &str = "unauthorized";

/// One channel.
pub(super) struct Shared {
    pub name: String,
    /// Wakes its thread.
    pub wake: Arc<EventFd>,
    state: Mutex<State>,
}

pub(super) struct State {
    pub status: ChannelStatus,
    /// Since when it is up.
    up: Option<Instant>,
    /// Since when it has not been up for long.
    down: Instant,
    pub pairing: Pairing,
    /// It is to end: the configuration does not have it any more.
    pub stop: bool,
    /// Its adapter is to be started anew.
    pub restart: bool,
    /// The thread runs.
    pub runs: bool,
}

impl Shared {
    /// # Errors
    /// No descriptor.
    pub fn new(name: &str) -> std::io::Result<Arc<Shared>> {
        let status = ChannelStatus {
            name: name.to_owned(),
            state: STARTING,
            since: now(),
            ..ChannelStatus::default()
        };
        let state = State {
            status,
            up: None,
            down: Instant::now(),
            pairing: Pairing::default(),
            stop: false,
            restart: false,
            runs: false,
        };
        let (name, wake) = (name.to_owned(), Arc::new(EventFd::new()?));
        Ok(Arc::new(Shared { name, wake, state: Mutex::new(state) }))
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether its thread ends now: the channel is not configured any more, or all is `over`.
    pub fn leave(&self, over: bool) -> bool {
        let mut own = self.lock();
        own.runs = !(own.stop || over);
        !own.runs
    }

    /// Whether somebody was let in by a code.
    pub fn is_paired(&self, id: &str) -> bool {
        self.lock().status.paired.iter().any(|(paired, _)| paired == id)
    }

    /// It is in this state now, and why it is not up.
    pub fn set(&self, state: &'static str, why: &str) {
        let mut own = self.lock();
        own.status.why = why.to_owned();
        if own.status.state != state {
            (own.status.state, own.status.since) = (state, now());
        }
        if state == UP {
            own.up.get_or_insert_with(Instant::now);
        } else if own.up.take().is_some_and(|since| since.elapsed() >= GOOD_AFTER) {
            own.down = Instant::now();
        }
    }

    /// What is wrong with it, where only an operator can help, or where it has lasted.
    pub fn trouble(&self) -> Option<String> {
        let own = self.lock();
        let final_one = [STOPPED, UNAUTHORIZED].contains(&own.status.state);
        let long = own.up.is_none() && own.down.elapsed() >= TROUBLE_AFTER;
        let (state, why) = (own.status.state, &own.status.why);
        let colon = if why.is_empty() { "" } else { ": " };
        (final_one || long).then(|| format!("channel {} is {state}{colon}{why}", self.name))
    }
}
