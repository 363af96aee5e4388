//! The spare thread: serves the control socket when no other thread can be had, so that `status` and
//! `stop` work then too. It serves clients whose request has come, one each, and nothing that waits.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use super::connection::{ConnectionGuard, serve};
use crate::limits::{ACCEPT_BACK_OFF, CONNECTION_STACK};
use crate::sys::poll::{Interest, poll};
use crate::threads::{pause, spawn};

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
pub fn start() -> io::Result<Sender<Waiting>> {
    let (sender, incoming) = channel();
    spawn("spare", CONNECTION_STACK, Box::new(move || run(&incoming)))?;
    Ok(sender)
}

fn run(incoming: &Receiver<Waiting>) {
    let mut waiting = Vec::new();
    loop {
        if waiting.is_empty() {
            let Ok(first) = incoming.recv() else { return };
            waiting.push(first);
        }
        waiting.extend(incoming.try_iter());
        waiting.retain(|w: &Waiting| {
            w.since.elapsed() < w.guard.service.settings().config.limits.head_timeout
        });
        let mut interests: Vec<Interest<'_>> =
            waiting.iter().map(|w| Interest::read(w.stream.as_fd())).collect();
        // Not for longer: others may come.
        if poll(&mut interests, Some(ACCEPT_BACK_OFF)).is_err() {
            pause(ACCEPT_BACK_OFF);
        }
        let speaks = interests.iter().position(Interest::ready);
        if let Some(at) = speaks {
            let Waiting { stream, guard, .. } = waiting.remove(at);
            serve(Box::new(stream), &guard);
        }
    }
}
