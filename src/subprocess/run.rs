//! A child from its start to its end: fed, read, and ended where it has to be ended.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Child, ChildKind, Children, Program, RunOptions};
use crate::cancel::{Cancel, CancelReason};
use crate::limits::{AGENT_READ, KEEP_ALIVE};
use crate::sys::poll::Interest;
use crate::sys::process::{Signal, Status, has_ended};

/// What is taken of a child's pipes once it has ended: all that both hold (pipe(7): 1 MiB each at most
/// without privileges), though what it has left behind may print without end.
const MAX_DRAINED: usize = 2 << 20;

/// What a child has done.
#[derive(Debug)]
pub enum ChildEvent {
    /// So many bytes of its stdout are in the buffer.
    Stdout(usize),
    Stderr(usize),
    /// Nothing by then.
    Waited,
    Ended(ExitReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// By itself.
    Exited(Status),
    /// One that cannot be killed is left behind.
    Cancelled(CancelReason),
}

impl Child<'_> {
    /// Tells the child to end; what it prints from here on is of no use.
    pub fn cancel(&mut self, reason: CancelReason) {
        // What one that has ended left behind may be meant to stay.
        if !self.options.grace.is_zero() && !has_ended(self.pid) {
            self.signal(Signal::Term);
        }
        self.ending = Some((reason, Instant::now() + self.options.grace));
    }

    pub fn is_cancelled(&self) -> bool {
        self.ending.is_some()
    }

    /// Waits for what the child does next, until `until` at most, and feeds it meanwhile.
    ///
    /// # Errors
    /// What keeps it from being attended to.
    pub fn next(&mut self, buffer: &mut [u8], until: Option<Instant>) -> io::Result<ChildEvent> {
        loop {
            let idle_at = self.quiet_since + KEEP_ALIVE;
            let (cancel, timeout) = match self.ending {
                Some((_, kill_at)) => (Cancel::at(kill_at), kill_at),
                None => (self.options.cancel, until.map_or(idle_at, |until| until.min(idle_at))),
            };
            let interests = [
                // The first: what it printed before its end is seen with that.
                Interest::read(self.ended()),
                Interest::read(self.stdout.as_ref().map(AsFd::as_fd)),
                Interest::read(self.stderr.as_ref().map(AsFd::as_fd)),
                Interest::write(self.stdin.as_ref().map(AsFd::as_fd)),
            ];
            let ([ended, stdout, stderr, stdin], reason) = cancel.wait(interests, timeout)?;
            if stdin {
                self.feed()?;
            }
            let (now, mut reason) = (Instant::now(), reason);
            if now >= idle_at && !stdout && !self.is_cancelled() {
                self.quiet_since = now;
                let gone = self.options.cancel.idle.is_some_and(|idle| idle().is_err());
                reason = reason.or(gone.then_some(CancelReason::ClientGone));
            }
            match reason.filter(|_| !ended) {
                Some(_) if self.is_cancelled() => return self.conclude(),
                Some(reason) => {
                    self.cancel(reason);
                    continue;
                }
                None => {}
            }
            if !ended {
                self.drained = 0;
            }
            if self.drained < MAX_DRAINED
                && let Some(event) = self.read(buffer, [stdout, stderr])?
            {
                return Ok(event);
            }
            if ended {
                return self.conclude();
            }
            if until.is_some_and(|until| now >= until) {
                return Ok(ChildEvent::Waited);
            }
        }
    }

    /// Writes what the pipe takes of the input, and closes it at the end. A child that does not read
    /// is no error.
    fn feed(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.stdin else { return Ok(()) };
        let input = self.options.input.as_deref().unwrap_or_default();
        while self.fed < input.len() {
            match pipe.write(&input[self.fed..]) {
                Ok(count) => self.fed += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::BrokenPipe => break,
                Err(e) => return Err(e),
            }
        }
        self.stdin = None;
        self.options.input = None;
        Ok(())
    }

    /// Reads one of the streams that are ready. One at its end is closed: it would be readable for ever.
    fn read(&mut self, buffer: &mut [u8], ready: [bool; 2]) -> io::Result<Option<ChildEvent>> {
        self.stderr_first = !self.stderr_first;
        for is_stderr in [self.stderr_first, !self.stderr_first] {
            let pipe = if is_stderr { &mut self.stderr } else { &mut self.stdout };
            let Some(from) = pipe.as_mut().filter(|_| ready[usize::from(is_stderr)]) else {
                continue;
            };
            let count = match from.read(buffer) {
                Ok(count) => count,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(e) => return Err(e),
            };
            self.drained += count;
            if count == 0 {
                *pipe = None;
            } else if is_stderr {
                return Ok(Some(ChildEvent::Stderr(count)));
            } else {
                self.quiet_since = Instant::now();
                return Ok(Some(ChildEvent::Stdout(count)));
            }
        }
        Ok(None)
    }

    /// Waits for its end. Returned are the first bytes of its stdout and the last of its stderr.
    ///
    /// # Errors
    /// What kept it from being attended to.
    pub fn finish(
        mut self,
        max_stdout: usize,
        max_stderr: usize,
    ) -> io::Result<(ExitReason, Vec<u8>, Vec<u8>)> {
        let (mut stdout, mut stderr, mut buffer) = (Vec::new(), Vec::new(), [0; AGENT_READ]);
        loop {
            match self.next(&mut buffer, None)? {
                ChildEvent::Stdout(count) => {
                    let room = max_stdout.saturating_sub(stdout.len());
                    stdout.extend_from_slice(&buffer[..count.min(room)]);
                }
                ChildEvent::Stderr(count) => keep_end(&mut stderr, &buffer[..count], max_stderr),
                ChildEvent::Waited => {}
                ChildEvent::Ended(reason) => return Ok((reason, stdout, stderr)),
            }
        }
    }

    fn conclude(&mut self) -> io::Result<ChildEvent> {
        let status = self.end();
        Ok(ChildEvent::Ended(match self.ending {
            Some((reason, _)) => ExitReason::Cancelled(reason),
            None => ExitReason::Exited(status?),
        }))
    }
}

/// Appends, and keeps the last `most` bytes.
pub fn keep_end(end: &mut Vec<u8>, bytes: &[u8], most: usize) {
    end.extend_from_slice(&bytes[bytes.len().saturating_sub(most)..]);
    end.drain(..end.len().saturating_sub(most));
}

/// What a helper program said.
#[derive(Debug)]
pub struct Captured {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a helper to its end and takes what it prints, at most `limit` bytes of each stream. It is
/// shielded: the whole control group may be hit by the signal that it is asked about.
///
/// # Errors
/// TimedOut when it has not ended by `deadline` (it is killed); else what stopped it from running.
pub fn capture(
    children: &Arc<Children>,
    program: &Program,
    deadline: Instant,
    limit: usize,
) -> io::Result<Captured> {
    let (kind, cancel) = (ChildKind::Shielded, Cancel::at(deadline));
    let options = RunOptions { kind, input: None, cancel, grace: Duration::ZERO };
    let (reason, stdout, stderr) = children.spawn(program, options)?.finish(limit, limit)?;
    let ExitReason::Exited(status) = reason else {
        return Err(ErrorKind::TimedOut.into());
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let success = status == Status::Exited(0);
    Ok(Captured { success, stdout: text(stdout), stderr: text(stderr) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subprocess::Leftovers;
    use crate::sys::fd::EventFd;

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh".into()).args(["-c", script])
    }

    type Finished = (ExitReason, Vec<u8>, Vec<u8>);

    /// Runs it with a bound of 4 bytes on its stderr.
    fn run(script: &str, input: &[u8], cancel: Cancel<'_>, grace: Duration) -> Finished {
        let (kind, input) = (ChildKind::Tree(Leftovers::Kill), Some(input.into()));
        let options = RunOptions { kind, input, cancel, grace };
        Children::new().spawn(&shell(script), options).unwrap().finish(1 << 20, 4).unwrap()
    }

    const LONG: Duration = Duration::from_secs(20);

    fn within(time: Duration) -> Cancel<'static> {
        Cancel::at(Instant::now() + time)
    }

    #[test]
    fn a_child_is_fed_and_heard() {
        let input = vec![b'x'; 300_000];
        let ended = run("cat; echo 123456 >&2", &input, within(LONG), LONG);
        assert_eq!(ended.0, ExitReason::Exited(Status::Exited(0)));
        assert_eq!((ended.1.len(), ended.2.as_slice()), (300_000, &b"456\n"[..]));
        let ended = run("exit 3", &input, within(LONG), LONG);
        assert_eq!(ended.0, ExitReason::Exited(Status::Exited(3)));
    }

    #[test]
    fn an_abort_and_a_deadline_are_told_before_the_kill() {
        let script = "trap 'echo bye; exit 0' TERM; while :; do sleep 1; done";
        let abort = EventFd::new().unwrap();
        abort.notify();
        let cancel = Cancel { abort: Some(abort.as_fd()), ..within(LONG) };
        let ended = run(script, b"", cancel, LONG);
        assert_eq!(ended.0, ExitReason::Cancelled(CancelReason::Aborted));
        let short = Duration::from_millis(100);
        let ended = run(script, b"", within(short), LONG);
        assert_eq!(ended.0, ExitReason::Cancelled(CancelReason::TimedOut));
        let ended = run("trap '' TERM; sleep 600 & wait; sleep 600", b"", within(short), short / 2);
        assert_eq!(ended.0, ExitReason::Cancelled(CancelReason::TimedOut));
    }

    #[test]
    fn one_that_prints_without_end_meets_its_deadline() {
        let ended = run("exec yes", b"", within(Duration::from_millis(50)), LONG);
        assert_eq!(ended.0, ExitReason::Cancelled(CancelReason::TimedOut));
    }

    #[test]
    fn neither_stream_keeps_the_other_from_being_read() {
        let script = "yes & head -c 300000 /dev/zero >&2; kill $!";
        let ended = run(script, b"", within(LONG), LONG);
        assert_eq!(ended.0, ExitReason::Exited(Status::Exited(0)));
    }
}
