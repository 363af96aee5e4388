//! How a process is read, by its thread or, without a detour over that, by the one turn that it has; and how
//! turns wait for what is said to them.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Inbox;
use super::process::{Address, Phase, Process};
use crate::agent::Outcome;
use crate::cancel::{Cancel, CancelReason};
use crate::escape::escaped;
use crate::limits::{AGENT_READ, MAX_SHOWN_VALUE};
use crate::subprocess::LineBuffer;
use crate::sys::poll::Interest;
use crate::threads::lock;

/// How long after the last turn its thread reads the process again: turns that follow each other would wake
/// it each time.
pub(super) const DIRECT_FOR: Duration = Duration::from_secs(1);

/// Of a line that is too long, what is looked at for whose it is.
const BEGINNING: usize = 4 << 10;

/// An agent that breaks its protocol does so with every line.
const MAX_COMPLAINTS: u32 = 10;

impl Process {
    /// Waits until something is in the inbox, perhaps, or `other` is readable, which it says, or for an end of
    /// the turn. A turn that has the process for itself reads it meanwhile.
    ///
    /// # Errors
    /// Those of [`Cancel::wait`].
    pub fn wait(
        &self,
        inbox: &Inbox,
        other: Option<BorrowedFd<'_>>,
        cancel: &Cancel<'_>,
        until: Instant,
    ) -> io::Result<(bool, Option<CancelReason>)> {
        let stdout = {
            let mut state = self.lock();
            let alone = state.turns == 1 && state.heard && matches!(state.phase, Phase::Ready);
            if std::mem::replace(&mut state.direct, alone) && !alone {
                // This turn may be held up by its client, and the others wait for their lines.
                self.wake.notify();
            }
            state.stdout.clone().filter(|_| alone)
        };
        let until = if inbox.arm() { until } else { Instant::now() };
        let interests = [
            Interest::read(inbox.event.as_fd()),
            Interest::read(stdout.as_deref().map(AsFd::as_fd)),
            Interest::read(other),
        ];
        let waited = cancel.wait(interests, until);
        inbox.disarm(matches!(waited, Ok(([true, ..], _))));
        let ([_, readable, other], reason) = waited?;
        if readable {
            self.read();
        }
        Ok((other, reason))
    }

    /// Reads once, and hands on the lines that are whole by that. Says whether there was anything.
    pub(super) fn read(&self) -> bool {
        // One reads and hands on at a time, so that the lines keep their order.
        let mut partial = lock(&self.partial);
        let Some(stdout) = self.lock().stdout.clone() else { return false };
        let mut buffer = [0; AGENT_READ];
        match (&*stdout).read(&mut buffer) {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => false,
            Err(_) | Ok(0) => {
                self.lock().stdout = None;
                self.wake.notify();
                false
            }
            Ok(count) => {
                self.take(&mut partial, &buffer[..count]);
                true
            }
        }
    }

    fn take(&self, partial: &mut LineBuffer, bytes: &[u8]) {
        partial.push(bytes);
        while let Some(line) = partial.next_line() {
            self.hand_on(line);
        }
        let (most, rest) = (self.max_line, partial.rest());
        if rest.len() > most {
            let why = format!("a line is longer than limits.max_agent_line ({most} bytes)");
            let beginning = String::from_utf8_lossy(&rest[..rest.len().min(BEGINNING)]);
            let address = self.protocol.address(&beginning);
            *partial = LineBuffer::default();
            self.fail_for(address.as_ref(), &why);
        }
    }

    fn hand_on(&self, line: &[u8]) {
        if line.is_empty() && self.outcome().is_some() {
            return;
        }
        let text = String::from_utf8_lossy(line);
        if let Cow::Owned(_) = &text {
            self.complain("a line is not UTF-8", &text);
        }
        if let Err(why) = self.protocol.line(self, &text) {
            self.fail(&why);
        } else {
            let mut state = self.lock();
            state.heard |= matches!(state.phase, Phase::Ready);
        }
    }

    /// Says in the log what is wrong with a line of its, the first few times.
    pub fn complain(&self, what: &str, line: &str) {
        if self.complaints.fetch_add(1, Ordering::Relaxed) < MAX_COMPLAINTS {
            let shown = line.get(..line.floor_char_boundary(MAX_SHOWN_VALUE)).unwrap_or_default();
            log::warn!("agent {}: {what}: {}", self.lock().pid, escaped(shown, false));
        }
    }

    /// Ends it since it cannot be used.
    pub(super) fn fail(&self, why: &str) {
        let (starting, pid) = {
            let state = self.lock();
            (matches!(state.phase, Phase::Starting), state.pid)
        };
        if self.outcome().is_some() {
            return;
        }
        log::warn!("agent {pid} is ended: {why}");
        let words = format!("the agent was ended: {why}");
        self.end(if starting { Outcome::Temporary(words) } else { Outcome::Crashed(words) }, false);
    }

    /// The same because of one turn, where that is known: then the others run again.
    fn fail_for(&self, address: Option<&Address>, why: &str) {
        let Some(address) = address.filter(|_| self.outcome().is_none()) else {
            return self.fail(why);
        };
        log::warn!("agent {} is ended: {why}", self.lock().pid);
        let words = format!("the agent was ended: {why}");
        self.fail_turn(address, &Outcome::Failed(words.clone()));
        self.end(Outcome::Released(words), false);
    }
}
