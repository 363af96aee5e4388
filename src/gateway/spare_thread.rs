//! The spare thread: serves the control socket when no other thread can be had, so that `status` and
//! `stop` work then too. It serves clients whose request has come, one each, and nothing that waits.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{ConnectionGuard, serve};
use crate::limits::{ACCEPT_BACK_OFF, CONNECTION_STACK};
use crate::sys::gather::Gather;
use crate::sys::poll::{Interest, poll};
use crate::threads::{Slot, pause, spawn};

/// How long it waits for a connection before it does so again.
const IDLE: Duration = Duration::from_secs(3600);

/// Connections on their way to the thread.
pub type Incoming = Arc<Slot<Vec<Waiting>>>;

/// A connection that waits for its request.
pub struct Waiting {
    pub stream: Arc<UnixStream>,
    pub guard: ConnectionGuard,
    pub since: Instant,
}

/// Starts the thread. It is sent no more connections than the control socket may have.
///
/// # Errors
/// No thread.
pub fn start() -> io::Result<Incoming> {
    let incoming = Incoming::default();
    let own = incoming.clone();
    spawn("spare", CONNECTION_STACK, Box::new(move || run(&own)))?;
    Ok(incoming)
}

fn run(incoming: &Incoming) {
    let mut waiting: Vec<Waiting> = Vec::new();
    loop {
        let timeout = if waiting.is_empty() { IDLE } else { Duration::ZERO };
        waiting.append(&mut incoming.wait(timeout).unwrap_or_default());
        waiting
            .retain(|w| w.since.elapsed() < w.guard.service.settings().config.limits.head_timeout);
        waiting.retain(|w| !w.guard.give_up_waiting(w.stream.as_fd()));
        let mut interests: Vec<Interest<'_>> =
            waiting.iter().map(|w| Interest::read(w.stream.as_fd())).gather();
        // Not for longer: others may come.
        if poll(&mut interests, Some(ACCEPT_BACK_OFF)).is_err() {
            pause(ACCEPT_BACK_OFF);
        }
        if let Some(at) = interests.iter().position(Interest::ready) {
            let Waiting { stream, guard, .. } = waiting.remove(at);
            serve(Box::new(stream), &guard, None);
        }
    }
}
