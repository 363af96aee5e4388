//! A child that lives for long: its keeper writes to it when it likes, waits for what it does together
//! with other things, and ends it step by step.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::{Child, ChildEvent, MAX_DRAINED};
use crate::cancel::Cancel;
use crate::sys::poll::Interest;
use crate::sys::process::{Pid, Signal, Status};

/// What has come for the keeper of a living child.
pub enum LivingEvent {
    /// Its stdout can be read.
    Readable,
    /// So many bytes of its stderr are in the buffer.
    Stderr(usize),
    /// The keeper's own descriptor is readable.
    Woken,
    /// Its stdin takes more.
    Writable,
    /// Nothing by then.
    TimedOut,
    /// It has ended, and its stderr was read.
    Ended,
}

impl Child<'_> {
    pub fn pid(&self) -> Pid {
        self.process.pid
    }

    /// Its stdin, which does not block, and ends when this is dropped.
    pub fn take_stdin(&mut self) -> Option<PipeWriter> {
        self.process.stdin.take()
    }

    /// Its stdout, which does not block.
    pub fn take_stdout(&mut self) -> Option<PipeReader> {
        self.process.stdout.take()
    }

    /// Takes down what it has started, before it ends: later nobody knows whose that was.
    pub fn note_descendants(&mut self) {
        let pid = self.process.pid;
        self.tree.iter_mut().for_each(|tree| tree.note_descendants(pid));
    }

    /// Sends SIGTERM to its group.
    pub fn terminate(&mut self) {
        self.signal(Signal::Term);
    }

    /// Kills its group, and what else it has started, and reaps it.
    ///
    /// # Errors
    /// TimedOut where the kernel does not end it; it is left to a later reaping.
    pub fn kill(&mut self) -> io::Result<Status> {
        self.end()
    }

    /// Waits for what comes next, until `until` at most. `stdout`: where the keeper is to read it; `stdin`:
    /// where it has more for it.
    ///
    /// # Errors
    /// What keeps it from being attended to.
    pub fn next_of_living(
        &mut self,
        buffer: &mut [u8],
        (wake, stdout, stdin): (BorrowedFd<'_>, Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>),
        until: Instant,
    ) -> io::Result<LivingEvent> {
        loop {
            let process = &self.process;
            let interests = [
                // The first: what it printed before its end is seen with that.
                Interest::read(process.pidfd.as_fd()),
                Interest::read(stdout),
                Interest::read(process.stderr.as_ref().map(AsFd::as_fd)),
                Interest::read(wake),
                Interest::write(stdin),
            ];
            let ([ended, readable, stderr, woken, writable], late) =
                Cancel::at(until).wait(interests, until)?;
            if !ended {
                self.drained = 0;
            }
            // Each has its turn where both are ready.
            let stdout_first = readable && !ended && self.stderr_first;
            if stderr
                && !stdout_first
                && self.drained < MAX_DRAINED
                && let Some(ChildEvent::Stderr(count)) = self.read(buffer, [false, true])?
            {
                return Ok(LivingEvent::Stderr(count));
            }
            self.stderr_first = false;
            return Ok(match (ended, readable, woken, writable, late) {
                (true, ..) => LivingEvent::Ended,
                (_, true, ..) => LivingEvent::Readable,
                (_, _, true, ..) => LivingEvent::Woken,
                (_, _, _, true, _) => LivingEvent::Writable,
                (.., Some(_)) => LivingEvent::TimedOut,
                (.., None) => continue,
            });
        }
    }
}
