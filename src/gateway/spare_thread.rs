//! The spare thread: serves the control socket when no other thread can be had, so that `status` and
//! `stop` work then too. It serves clients whose request has come, one each, and nothing that waits.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use super::connection::{ConnectionGuard, serve};
use crate::limits::{ACCEPT_BACK_OFF, CONNECTION_STACK};
use crate::sys::poll::{Interest, poll};
use crate::threads::{Mailbox, pause, spawn};

/// A connection that waits for its request.
pub struct Waiting {
    pub stream: Arc<UnixStream>,
    pub guard: ConnectionGuard,
    pub since: Instant,
}

/// Starts the thread. It is sent no more connections than the control socket may have.
///
/// # Errors
/// No thread, or no descriptor.
pub fn start() -> io::Result<Arc<Mailbox<Waiting>>> {
    let mailbox = Arc::new(Mailbox::new()?);
    let own = Arc::clone(&mailbox);
    spawn("spare", CONNECTION_STACK, Box::new(move || run(&own)))?;
    Ok(mailbox)
}

fn run(mailbox: &Mailbox<Waiting>) {
    let mut waiting: Vec<Waiting> = Vec::new();
    loop {
        let mut interests = vec![Interest::read(mailbox.wake.as_fd())];
        interests.extend(waiting.iter().map(|w| Interest::read(w.stream.as_fd())));
        // Now and then those whose request does not come are let go.
        let timeout = (!waiting.is_empty()).then_some(ACCEPT_BACK_OFF);
        if poll(&mut interests, timeout).is_err() {
            pause(ACCEPT_BACK_OFF);
        }
        if let Some(at) = interests[1..].iter().position(Interest::ready) {
            let Waiting { stream, guard, .. } = waiting.remove(at);
            serve(Box::new(stream), &guard);
        }
        waiting.extend(mailbox.empty());
        waiting
            .retain(|w| w.since.elapsed() < w.guard.service.settings().config.limits.head_timeout);
    }
}
