//! Child processes: started here and nowhere else, so that process 1 can tell them from orphans,
//! and so that no child gets what is meant for us alone.
//!
//! What may enter: starting, holding, signalling, waiting. What a child is asked, and what its
//! answer means, belongs to whoever asks.
#![forbid(unsafe_code)]

use std::env;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::fd::set_nonblocking;
use crate::sys::poll::{Interest, poll};
use crate::sys::proc;
use crate::sys::process::{self, Pid, PidFd, Signal};

/// Variables that are the service manager's word to one process only (systemd.exec(5)): a child
/// that had them could speak in our name or take itself for us.
pub const NOT_FOR_CHILDREN: [&str; 9] = [
    "INVOCATION_ID",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "SYSTEMD_EXEC_PID",
];

/// The children that somebody here waits for.
#[derive(Debug, Default)]
pub struct Children {
    known: Mutex<Vec<Pid>>,
}

impl Children {
    pub fn new() -> Arc<Children> {
        Arc::default()
    }

    /// Starts a child. Dropping it kills and reaps it.
    ///
    /// # Errors
    /// Those of `Command::spawn`, and of pidfd_open(2) (Linux before 5.3).
    pub fn spawn(self: &Arc<Self>, command: &mut Command) -> io::Result<Child> {
        // Held over the spawn: the reaper must not see a child before its name is here.
        let mut known = self.known();
        let mut inner = command.spawn()?;
        let id = i32::try_from(inner.id()).unwrap_or(0);
        let held = Pid::new(id).ok_or(io::ErrorKind::InvalidData.into());
        match held.and_then(|pid| Ok((pid, PidFd::open(pid)?))) {
            Ok((pid, pidfd)) => {
                known.push(pid);
                Ok(Child {
                    inner,
                    pid,
                    pidfd,
                    reaped: false,
                    family: Arc::clone(self),
                })
            }
            Err(e) => {
                let _ = inner.kill();
                let _ = inner.wait();
                Err(e)
            }
        }
    }

    /// Reaps what was handed to us as process 1. Children of our own are left to who waits for them.
    pub fn reap_orphans(&self) {
        let known = self.known();
        let orphans = proc::children_of_main_thread();
        for orphan in orphans.into_iter().filter(|pid| !known.contains(pid)) {
            process::reap(orphan);
        }
    }

    /// Kills every group that a child of ours leads: before an exit that waits for nobody.
    pub fn kill_groups(&self) {
        for pid in self.known().iter() {
            let _ = process::signal_group(*pid, Signal::Kill);
        }
    }

    fn known(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A child of ours that is not reaped yet.
#[derive(Debug)]
pub struct Child {
    inner: std::process::Child,
    pid: Pid,
    pidfd: PidFd,
    reaped: bool,
    family: Arc<Children>,
}

impl Child {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The child's end of the pipes, each at most once.
    pub fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.inner.stdin.take()
    }

    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.inner.stdout.take()
    }

    pub fn stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.inner.stderr.take()
    }

    /// Readable once the child has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Signals the process group that the child leads.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        process::signal_group(self.pid, signal)
    }

    /// Reaps the child; blocks until it has ended.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        while poll(&mut [Interest::read(self.pidfd.as_fd())], None)? == 0 {}
        // Under the lock: nobody must find its number there once the kernel may give it away.
        let family = Arc::clone(&self.family);
        let mut known = family.known();
        let status = self.inner.wait();
        known.retain(|pid| *pid != self.pid);
        self.reaped = true;
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.pidfd.send(Signal::Kill);
            let _ = self.wait();
        }
    }
}

/// What a helper program said.
#[derive(Debug)]
pub struct Answer {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a helper to its end and takes what it prints, at most `limit` bytes of each stream.
///
/// # Errors
/// TimedOut when it has not ended by `deadline` (it is killed); else what stopped it from running.
pub fn capture(
    children: &Arc<Children>,
    command: &mut Command,
    deadline: Instant,
    limit: usize,
) -> io::Result<Answer> {
    for variable in NOT_FOR_CHILDREN {
        command.env_remove(variable);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = children.spawn(command)?;
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout(), child.stderr()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    set_nonblocking(stdout.as_fd())?;
    set_nonblocking(stderr.as_fd())?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (mut out_open, mut err_open) = (true, true);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A stream at its end stays readable for ever: it must leave the list or the loop spins.
        let while_open = |open, fd| {
            if open {
                Interest::read(fd)
            } else {
                Interest::none()
            }
        };
        let mut interests = [
            Interest::read(child.ended()),
            while_open(out_open, stdout.as_fd()),
            while_open(err_open, stderr.as_fd()),
        ];
        poll(&mut interests, Some(left))?;
        let ended = interests[0].ready();
        out_open = out_open && take(&mut stdout, &mut out, limit)?;
        err_open = err_open && take(&mut stderr, &mut err, limit)?;
        if ended {
            break;
        }
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Answer {
        success: child.wait()?.success(),
        stdout: text(&out),
        stderr: text(&err),
    })
}

/// Reads what is there now and says whether more may come. What is over the limit is dropped, so
/// that the helper does not block.
fn take(from: &mut impl Read, into: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    let mut chunk = [0; 4096];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(n) => into.extend_from_slice(&chunk[..n.min(limit.saturating_sub(into.len()))]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Finds a program on `PATH`, else in the places where systemd's own are.
pub fn find_program(name: &str) -> io::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from);
    let mut places = env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(usual);
    let runs = |file: &PathBuf| {
        file.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    places
        .find_map(|dir| Some(dir.join(name)).filter(runs))
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no {name} on PATH or in /usr/bin"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        command
    }

    fn run(script: &str, wait: Duration) -> io::Result<Answer> {
        capture(
            &Children::new(),
            &mut shell(script),
            Instant::now() + wait,
            1 << 20,
        )
    }

    #[test]
    fn output_of_both_streams_and_the_status() {
        let answer = run("echo out; echo err >&2; exit 3", Duration::from_secs(20)).unwrap();
        assert_eq!(
            (answer.stdout.as_str(), answer.stderr.as_str()),
            ("out\n", "err\n")
        );
        assert!(!answer.success);
    }

    #[test]
    fn a_helper_that_hangs_is_killed_at_the_deadline() {
        let error = run("exec sleep 600", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_grandchild_with_the_pipe_does_not_hold_us() {
        let answer = run("sleep 600 & echo $!", Duration::from_secs(20)).unwrap();
        let grandchild = Pid::new(answer.stdout.trim().parse().unwrap()).unwrap();
        PidFd::open(grandchild).unwrap().send(Signal::Kill).unwrap();
    }

    #[test]
    fn a_flood_is_cut_at_the_limit() {
        let command = &mut shell("head -c 1000000 /dev/zero");
        let deadline = Instant::now() + Duration::from_secs(20);
        let answer = capture(&Children::new(), command, deadline, 1000).unwrap();
        assert_eq!(answer.stdout.len(), 1000);
    }

    #[test]
    fn children_that_are_waited_for_are_not_reaped_as_orphans() {
        let children = Children::new();
        let mut child = children.spawn(&mut shell("exit 7")).unwrap();
        poll(
            &mut [Interest::read(child.ended())],
            Some(Duration::from_secs(20)),
        )
        .unwrap();
        children.reap_orphans();
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }

    #[test]
    fn programs_are_found_without_a_path() {
        assert!(find_program("sh").is_ok());
        assert!(find_program("no-such-program-here").is_err());
    }
}
