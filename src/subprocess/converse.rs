//! A child from its start to its end: fed, listened to, and ended where it has to be ended.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Child, Children, Leftovers, Program, left};
use crate::limits::{AGENT_READ, AGENT_READS};
use crate::sys::poll::{Interest, poll};
use crate::sys::process::{Signal, Status};
use crate::sys::spawn::SpawnOptions;

/// How a child is talked to.
#[derive(Clone, Copy)]
pub struct RunOptions<'a> {
    /// For its stdin; it gets none where this is `None`.
    pub input: Option<&'a [u8]>,
    /// It leads a process group, and this becomes of what it starts; `None`: a helper in ours, which
    /// SIGTERM to the whole control group passes by.
    pub leftovers: Option<Leftovers>,
    pub deadline: Instant,
    /// Between SIGTERM and SIGKILL at the deadline or the cut; zero: SIGKILL at once.
    pub grace: Duration,
    /// Readable once it has to end.
    pub cut: Option<BorrowedFd<'a>>,
    /// The bytes that are kept: the first of stdout, the last of stderr.
    pub limits: (usize, usize),
}

#[derive(Debug)]
pub struct Ended {
    pub how: ExitReason,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

#[derive(Debug)]
pub enum ExitReason {
    ByItself(Status),
    TimedOut,
    Cut,
}

/// Runs a child to its end. Its group, where it has its own, ends with it.
///
/// # Errors
/// What stopped it from running or being attended to; it is killed then.
pub fn run(
    children: &Arc<Children>,
    program: &Program,
    order: RunOptions<'_>,
) -> io::Result<Ended> {
    let stdin = order.input.is_some();
    let mut child = match order.leftovers {
        Some(leftovers) => children.spawn_tree(program, leftovers, stdin)?,
        None => {
            let manner = SpawnOptions { stdin, own_group: false };
            children.spawn(program, manner)?
        }
    };
    let (input, mut fed) = (order.input.unwrap_or_default(), 0);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut ending: Option<(ExitReason, Instant)> = None;
    let ended = loop {
        let until = ending.as_ref().map_or(order.deadline, |(_, kill_at)| *kill_at);
        let cut = order.cut.filter(|_| ending.is_none());
        let cut = cut.map_or_else(Interest::none, Interest::read);
        let (ended, [cut, ..]) =
            child.attend([cut, Interest::none(), Interest::none()], until, (input, &mut fed))?;
        take(&mut child.stdout, |bytes| {
            let room = order.limits.0.saturating_sub(out.len());
            out.extend_from_slice(&bytes[..bytes.len().min(room)]);
            true
        })?;
        take(&mut child.stderr, |bytes| {
            err.extend_from_slice(bytes);
            err.drain(..err.len().saturating_sub(order.limits.1));
            true
        })?;
        let late = Instant::now() >= until;
        match ending {
            _ if ended => break true,
            Some(_) if late => break false,
            None if cut || late => {
                let how = if cut { ExitReason::Cut } else { ExitReason::TimedOut };
                if order.grace.is_zero() {
                    ending = Some((how, until));
                    break false;
                }
                child.signal(Signal::Term);
                ending = Some((how, Instant::now() + order.grace));
            }
            Some(_) | None => {}
        }
    };
    let status = child.end();
    let how = match ending {
        Some((how, _)) => how,
        None if ended => ExitReason::ByItself(status?),
        None => ExitReason::TimedOut,
    };
    Ok(Ended { how, stdout: out, stderr: err })
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
    let order = RunOptions {
        input: None,
        leftovers: None,
        deadline,
        grace: Duration::ZERO,
        cut: None,
        limits: (limit, limit),
    };
    let ended = run(children, program, order)?;
    let ExitReason::ByItself(status) = ended.how else {
        return Err(io::ErrorKind::TimedOut.into());
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Captured {
        success: status == Status::Exited(0),
        stdout: text(&ended.stdout),
        stderr: text(&ended.stderr),
    })
}

impl Child {
    /// Waits until there is something to do: for one of these signs, for the child, or for the time. Feeds
    /// the child, and says whether it has ended and which signs have come.
    pub fn attend(
        &mut self,
        [one, two, three]: [Interest<'_>; 3],
        until: Instant,
        (input, fed): (&[u8], &mut usize),
    ) -> io::Result<(bool, [bool; 3])> {
        let mut interests = [
            Interest::read(self.ended()),
            one,
            two,
            three,
            self.stdin.as_ref().map_or_else(Interest::none, |fd| Interest::write(fd.as_fd())),
            self.stdout.as_ref().map_or_else(Interest::none, |fd| Interest::read(fd.as_fd())),
            self.stderr.as_ref().map_or_else(Interest::none, |fd| Interest::read(fd.as_fd())),
        ];
        poll(&mut interests, Some(left(until)))?;
        let [ended, one, two, three, ..] = interests.map(|interest| interest.ready());
        feed(&mut self.stdin, input, fed)?;
        Ok((ended, [one, two, three]))
    }
}

/// Writes what the pipe takes of `input`, of which `fed` bytes are through, and closes it at the
/// end. A child that does not read is no error.
pub fn feed(stdin: &mut Option<File>, input: &[u8], fed: &mut usize) -> io::Result<()> {
    let Some(pipe) = stdin else {
        return Ok(());
    };
    while *fed < input.len() {
        match pipe.write(&input[*fed..]) {
            Ok(n) => *fed += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => break,
            Err(e) => return Err(e),
        }
    }
    *stdin = None;
    Ok(())
}

/// What a pipe has now; WouldBlock: nothing.
pub fn read_now(from: &mut impl Read, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(chunk) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Hands over what a pipe has now, while whoever takes it says so. One at its end is closed: it would
/// be readable for ever.
pub fn take(pipe: &mut Option<File>, mut hand_over: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut chunk = [0; AGENT_READ];
    for _ in 0..AGENT_READS {
        let Some(from) = pipe else {
            return Ok(());
        };
        match read_now(from, &mut chunk) {
            Ok(0) => *pipe = None,
            Ok(n) if hand_over(&chunk[..n]) => {}
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd::EventFd;

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh".into()).args(["-c", script])
    }

    fn order(input: &[u8]) -> RunOptions<'_> {
        RunOptions {
            input: Some(input),
            leftovers: Some(Leftovers::Kill),
            deadline: Instant::now() + Duration::from_secs(20),
            grace: Duration::from_secs(20),
            cut: None,
            limits: (1 << 20, 4),
        }
    }

    #[test]
    fn a_child_is_fed_and_heard() {
        let input = vec![b'x'; 300_000];
        let ended = run(&Children::new(), &shell("cat; echo 123456 >&2"), order(&input));
        let ended = ended.unwrap();
        assert!(matches!(ended.how, ExitReason::ByItself(Status::Exited(0))));
        assert_eq!((ended.stdout.len(), ended.stderr.as_slice()), (300_000, &b"456\n"[..]));
        let ended = run(&Children::new(), &shell("exit 3"), order(&input)).unwrap();
        assert!(matches!(ended.how, ExitReason::ByItself(Status::Exited(3))));
    }

    #[test]
    fn a_cut_and_a_deadline_are_told_before_the_kill() {
        let script = "trap 'echo bye; exit 0' TERM; while :; do sleep 1; done";
        let cut = EventFd::new().unwrap();
        cut.notify();
        let ended = run(
            &Children::new(),
            &shell(script),
            RunOptions { cut: Some(cut.as_fd()), ..order(b"") },
        );
        assert!(matches!(ended.unwrap().how, ExitReason::Cut));
        let deadline = Instant::now() + Duration::from_millis(100);
        let ended = run(&Children::new(), &shell(script), RunOptions { deadline, ..order(b"") });
        assert!(matches!(ended.unwrap().how, ExitReason::TimedOut));
        let order = RunOptions { deadline, grace: Duration::from_millis(50), ..order(b"") };
        let ended =
            run(&Children::new(), &shell("trap '' TERM; sleep 600 & wait; sleep 600"), order);
        assert!(matches!(ended.unwrap().how, ExitReason::TimedOut));
    }

    #[test]
    fn one_that_prints_without_end_meets_its_deadline() {
        let deadline = Instant::now() + Duration::from_millis(50);
        let ended =
            run(&Children::new(), &shell("exec yes"), RunOptions { deadline, ..order(b"") });
        assert!(matches!(ended.unwrap().how, ExitReason::TimedOut));
    }
}
