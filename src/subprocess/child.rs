//! A child from its start to its end: started, fed, read, and ended where it has to be ended.

mod living;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::child_cgroup;
use super::children::{Children, PidSlot};
use super::process_tree::{Leftovers, ProcessTracker, ProcessTree};
use super::program::{Environment, Program};
use crate::cancel::{Cancel, CancelReason, readable_by};
use crate::limits::{AGENT_READ, KEEP_ALIVE, REAP_TIMEOUT};
use crate::name::OWN_VARIABLE;
use crate::sys::poll::Interest;
use crate::sys::process::{Signal, Status, has_ended, signal_group, wait};
use crate::sys::spawn::{self, SpawnOptions, Spawned};
use crate::threads::lock;

pub use living::LivingEvent;

/// What is taken of a child's pipes once it has ended: all that both hold (pipe(7): 1 MiB each at most
/// without privileges), though what it has left behind may print without end.
const MAX_DRAINED: usize = 2 << 20;

/// How a child stands to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildKind {
    /// A helper in our process group, with SIGTERM blocked: it outlives one to the whole control group.
    Shielded,
    /// A helper that leads a process group. Like the above it has nothing to leave behind.
    Helper,
    /// It leads a process group, and whatever it starts ends with it, or as this has it.
    Tree(Leftovers),
}

/// How a child is run.
#[derive(Clone)]
pub struct RunOptions<'a> {
    pub kind: ChildKind,
    /// For its stdin; it gets none where this is `None`.
    pub input: Option<Cow<'a, [u8]>>,
    pub cancel: Cancel<'a>,
    /// Between SIGTERM and SIGKILL where it is cancelled; zero: SIGKILL at once.
    pub grace: Duration,
}

/// What a child has done.
pub enum ChildEvent {
    /// So many bytes of its stdout are in the buffer.
    Stdout(usize),
    Stderr(usize),
    /// Nothing by then.
    TimedOut,
    Ended(ExitReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// By itself.
    Exited(Status),
    /// One that cannot be killed is left behind.
    Cancelled(CancelReason),
}

impl Children {
    /// Starts a child.
    ///
    /// # Errors
    /// Those of [`spawn::spawn`].
    pub fn spawn<'a>(
        self: &Arc<Self>,
        program: &Program,
        options: RunOptions<'a>,
    ) -> io::Result<Child<'a>> {
        let kind = options.kind;
        let (mut own, mut tree) = (Environment::new(), None);
        if let ChildKind::Tree(leftovers) = kind {
            own.extend(self.name.get().map(|name| (OWN_VARIABLE.into(), name.into())));
            let tracker = self.tracker.get().filter(|_| leftovers == Leftovers::Kill);
            tree = tracker.map(ProcessTracker::new_tree);
            own.extend(tree.as_ref().map(ProcessTree::variable));
        }
        let variables = program.variables(&own);
        let slot = PidSlot::default();
        {
            let mut known = lock(&self.known);
            if self.closed.load(Ordering::SeqCst) {
                return Err(io::Error::other("the gateway is being executed anew"));
            }
            known.push(Arc::clone(&slot));
        }
        let cgroup = tree.as_ref().and_then(|tree| File::open(tree.cgroup.as_ref()?).ok());
        let spawn_options = SpawnOptions {
            stdin: options.input.is_some(),
            own_group: kind != ChildKind::Shielded,
            number: &slot,
            cgroup: cgroup.as_ref().map(AsFd::as_fd),
            descriptors: self.descriptors,
            image: program.image.as_deref().map(AsFd::as_fd),
            kept: program.kept.as_deref().map(AsFd::as_fd),
        };
        let process = match spawn::spawn(&program.argv, &variables, spawn_options) {
            Ok(process) => process,
            Err(e) => {
                self.forget(&slot);
                self.kill_tree(tree);
                return Err(e);
            }
        };
        // It could not enter its control group, which is empty: it goes.
        let empty = tree.as_mut().filter(|_| !process.joined).and_then(|tree| tree.cgroup.take());
        if let Some(group) = empty {
            child_cgroup::kill(&group, Instant::now());
        }
        Ok(Child {
            process,
            tree,
            status: None,
            slot,
            children: Arc::clone(self),
            options,
            input_written: 0,
            input_is_held: false,
            cancelled: None,
            silent_since: Instant::now(),
            stderr_first: true,
            drained: 0,
        })
    }
}

/// A child of ours. Dropping it kills and reaps it.
pub struct Child<'a> {
    process: Spawned,
    /// What it starts; `None`: a helper, or it is kept.
    tree: Option<ProcessTree>,
    /// Set once it is reaped, or left behind.
    status: Option<Result<Status, ErrorKind>>,
    slot: PidSlot,
    children: Arc<Children>,
    options: RunOptions<'a>,
    /// Bytes of its input that are through.
    input_written: usize,
    /// Its stdin is written to later, or ended.
    input_is_held: bool,
    /// Why it was told to end, and when it is killed.
    cancelled: Option<(CancelReason, Instant)>,
    /// Since when there has been nothing on its stdout.
    silent_since: Instant,
    /// Which stream is read first changes each time, so that neither keeps the other waiting.
    stderr_first: bool,
    /// Bytes read since it has ended.
    drained: usize,
}

impl Child<'_> {
    /// Readable once the child has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }

    /// Signals the process group that the child leads, or the child itself where it has left that
    /// group; a kill goes to both, while a second SIGTERM would mean more than the first. Whom we
    /// may not signal, or who is gone, is ignored.
    fn signal(&mut self, signal: Signal) {
        let pid = self.process.pid;
        if let Some(tree) = self.tree.as_mut().filter(|_| !has_ended(pid)) {
            tree.note_descendants(pid);
        }
        let reached = signal_group(pid, signal).unwrap_or(false);
        if !reached || signal == Signal::Kill {
            let _ = self.process.pidfd.send(signal);
        }
    }

    /// Ends the group, reaps the child, and ends what else it has started. In this order: while the
    /// child is not reaped its number belongs to nobody else.
    ///
    /// # Errors
    /// TimedOut where the kernel does not end it; it is left to a later reaping.
    fn end(&mut self) -> io::Result<Status> {
        if let Some(status) = self.status {
            return status.map_err(Into::into);
        }
        // Once it has ended by itself, a group that is kept lives on.
        let keep = self.options.kind == ChildKind::Tree(Leftovers::Keep);
        if !(keep && has_ended(self.process.pid)) {
            self.signal(Signal::Kill);
        }
        // One that we may not kill ends by itself, or by SIGPIPE.
        let process = &mut self.process;
        (process.stdin, process.stdout, process.stderr) = (None, None, None);
        let status = self.reap().map_err(|e| e.kind());
        self.status = Some(status);
        self.children.kill_tree(self.tree.take());
        status.map_err(Into::into)
    }

    fn reap(&self) -> io::Result<Status> {
        if !readable_by(self.ended(), Instant::now() + REAP_TIMEOUT)? {
            return Err(ErrorKind::TimedOut.into());
        }
        // Under the lock: nobody must find its number there once the kernel may give it away.
        let mut known = lock(&self.children.known);
        let status = wait(self.process.pid);
        known.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        status
    }

    /// Tells the child to end; what it prints from here on is of no use.
    pub fn cancel(&mut self, reason: CancelReason) {
        // What one that has ended left behind may be meant to stay.
        if !self.options.grace.is_zero() && !has_ended(self.process.pid) {
            self.signal(Signal::Term);
        }
        self.cancelled = Some((reason, Instant::now() + self.options.grace));
    }

    /// Keeps its stdin open, or with `false` goes on to feed it, and ends it.
    pub fn hold_input(&mut self, hold: bool) {
        self.input_is_held = hold;
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_some()
    }

    /// Waits for what the child does next, until `until` at most, and feeds it meanwhile.
    ///
    /// # Errors
    /// What keeps it from being attended to.
    pub fn next(&mut self, buffer: &mut [u8], until: Option<Instant>) -> io::Result<ChildEvent> {
        loop {
            let idle_at = self.silent_since + KEEP_ALIVE;
            let (cancel, timeout) = match self.cancelled {
                Some((_, kill_at)) => (Cancel::at(kill_at), kill_at),
                None => (self.options.cancel, until.map_or(idle_at, |until| until.min(idle_at))),
            };
            let process = &self.process;
            let stdin = process.stdin.as_ref().filter(|_| !self.input_is_held);
            let interests = [
                // The first: what it printed before its end is seen with that.
                Interest::read(process.pidfd.as_fd()),
                Interest::read(process.stdout.as_ref().map(AsFd::as_fd)),
                Interest::read(process.stderr.as_ref().map(AsFd::as_fd)),
                Interest::write(stdin.map(AsFd::as_fd)),
            ];
            let ([ended, stdout, stderr, stdin], mut reason) = cancel.wait(interests, timeout)?;
            if stdin {
                self.write_input()?;
            }
            let now = Instant::now();
            if now >= idle_at && !stdout && !self.is_cancelled() {
                self.silent_since = now;
                let gone = self.options.cancel.idle.is_some_and(|idle| idle().is_err());
                reason = reason.or(gone.then_some(CancelReason::ClientGone));
            }
            if let Some(reason) = reason.filter(|_| !ended) {
                if self.is_cancelled() {
                    return self.conclude();
                }
                self.cancel(reason);
                continue;
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
                return Ok(ChildEvent::TimedOut);
            }
        }
    }

    /// Writes what the pipe takes of the input, and closes it at the end. A child that does not read
    /// it is no error.
    fn write_input(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.process.stdin else { return Ok(()) };
        let input = self.options.input.as_deref().unwrap_or_default();
        match pipe.write(&input[self.input_written..]) {
            Err(e) if is_passing(&e) => {}
            Err(e) if e.kind() == ErrorKind::BrokenPipe => self.input_written = input.len(),
            written => self.input_written += written?,
        }
        if self.input_written == input.len() {
            (self.process.stdin, self.options.input) = (None, None);
        }
        Ok(())
    }

    /// Reads one of the streams that are ready. One at its end is closed: it would be readable for ever.
    fn read(&mut self, buffer: &mut [u8], ready: [bool; 2]) -> io::Result<Option<ChildEvent>> {
        self.stderr_first = !self.stderr_first;
        for is_stderr in [self.stderr_first, !self.stderr_first] {
            let process = &mut self.process;
            let pipe = if is_stderr { &mut process.stderr } else { &mut process.stdout };
            let Some(from) = pipe.as_mut().filter(|_| ready[usize::from(is_stderr)]) else {
                continue;
            };
            let count = match from.read(buffer) {
                Err(e) if is_passing(&e) => continue,
                read => read?,
            };
            self.drained += count;
            if count == 0 {
                *pipe = None;
            } else if is_stderr {
                return Ok(Some(ChildEvent::Stderr(count)));
            } else {
                self.silent_since = Instant::now();
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
                ChildEvent::Stderr(count) => keep_tail(&mut stderr, &buffer[..count], max_stderr),
                ChildEvent::TimedOut => {}
                ChildEvent::Ended(reason) => return Ok((reason, stdout, stderr)),
            }
        }
    }

    fn conclude(&mut self) -> io::Result<ChildEvent> {
        let status = self.end();
        Ok(ChildEvent::Ended(match self.cancelled {
            Some((reason, _)) => ExitReason::Cancelled(reason),
            None => ExitReason::Exited(status?),
        }))
    }
}

impl Drop for Child<'_> {
    fn drop(&mut self) {
        if self.end().is_err() {
            // Another user's, or deep in the kernel: reaped as an orphan, if it ever ends.
            self.children.forget(&self.slot);
        }
    }
}

/// A pipe that does not block had nothing, or no room, after all.
fn is_passing(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Appends, and keeps the last `most` bytes.
pub fn keep_tail(end: &mut Vec<u8>, bytes: &[u8], most: usize) {
    end.extend_from_slice(&bytes[bytes.len().saturating_sub(most)..]);
    end.drain(..end.len().saturating_sub(most));
}

#[cfg(test)]
mod tests {
    use super::super::capture::{Captured, capture};
    use super::*;
    use crate::sys::fd::EventFd;
    use crate::sys::process::{Pid, PidFd};

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh".into()).args(["-c", script])
    }

    type Finished = (ExitReason, Vec<u8>, Vec<u8>);

    /// Runs it with a bound of 4 bytes on its stderr.
    fn run(script: &str, input: &[u8], cancel: Cancel<'_>, grace: Duration) -> Finished {
        let (kind, input) = (ChildKind::Tree(Leftovers::Kill), Some(input.into()));
        let options = RunOptions { kind, input, cancel, grace };
        Children::new(None).spawn(&shell(script), options).unwrap().finish(1 << 20, 4).unwrap()
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

    fn captured(script: &str, wait: Duration) -> io::Result<Captured> {
        capture(&Children::new(None), &shell(script), Instant::now() + wait, 1 << 20)
    }

    #[test]
    fn output_of_both_streams_and_the_status() {
        let answer = captured("echo out; echo err >&2; exit 3", Duration::from_secs(20)).unwrap();
        assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("out\n", "err\n"));
        assert!(!answer.success);
    }

    #[test]
    fn a_helper_that_hangs_is_killed_at_the_deadline() {
        let error = captured("exec sleep 600", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_grandchild_with_the_pipe_does_not_hold_us() {
        let answer = captured("sleep 600 & echo $!", Duration::from_secs(20)).unwrap();
        let grandchild = Pid::new(answer.stdout.trim().parse().unwrap()).unwrap();
        PidFd::open(grandchild).unwrap().send(Signal::Kill).unwrap();
    }

    #[test]
    fn a_flood_is_cut_at_the_limit() {
        let command = &shell("head -c 1000000 /dev/zero");
        let deadline = Instant::now() + Duration::from_secs(20);
        let answer = capture(&Children::new(None), command, deadline, 1000).unwrap();
        assert_eq!(answer.stdout.len(), 1000);
    }

    #[test]
    fn children_that_are_waited_for_are_not_reaped_as_orphans() {
        let children = Children::new(None);
        let cancel = Cancel::at(Instant::now() + Duration::from_secs(20));
        let (kind, grace) = (ChildKind::Shielded, Duration::ZERO);
        let options = RunOptions { kind, input: None, cancel, grace };
        let mut child = children.spawn(&shell("exit 7"), options).unwrap();
        cancel.wait([Interest::read(child.ended())], cancel.deadline).unwrap();
        children.reap_orphans();
        assert_eq!(child.end().unwrap(), Status::Exited(7));
    }
}
