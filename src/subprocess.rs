//! Child processes: started here and nowhere else, so that process 1 can tell them from orphans,
//! and so that no child gets what is meant for us alone.
//!
//! What may enter: starting, holding, signalling, waiting. What a child is asked, and what its
//! answer means, belongs to whoever asks.
#![forbid(unsafe_code)]

mod converse;
mod environment;

pub use converse::{Answer, How, Order, Taken, capture, converse, feed, read_now};
pub use environment::environment;

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{LOCK_PATIENCE, REAP_PATIENCE};
use crate::sys::fd::{limit, set_limit_of};
use crate::sys::poll::{Interest, poll};
use crate::sys::proc;
use crate::sys::process::{self, Pid, PidFd, Signal, Status};
use crate::sys::spawn::{self, Manner};

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
    /// Those that would not end when they were killed (another user's, or deep in the kernel).
    abandoned: Mutex<Vec<Pid>>,
    /// The soft limit on descriptors that we were started with, and that children get.
    descriptors: Option<u64>,
    /// We are process 1, and reap whatever nobody here waits for.
    reaper: bool,
}

/// A program to start: an absolute path, arguments and variables.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Program {
    /// A program with our own environment, less what is for us alone.
    pub fn new(path: PathBuf) -> Program {
        let ours = |(name, _): &(OsString, OsString)| !NOT_FOR_CHILDREN.iter().any(|n| name == n);
        Program::with_environment(path, env::vars_os().filter(ours).collect())
    }

    /// The program of a `command` in the configuration: a path, or a name on `PATH`.
    pub fn configured(
        command: &[String],
        environment: Vec<(OsString, OsString)>,
    ) -> io::Result<Program> {
        let [program, arguments @ ..] = command else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no command is configured"));
        };
        let path = if program.contains('/') { program.into() } else { find_program(program)? };
        Ok(Program::with_environment(path, environment).args(arguments))
    }

    /// A program with exactly these variables; where a name comes twice, the later one counts.
    pub fn with_environment(path: PathBuf, environment: Vec<(OsString, OsString)>) -> Program {
        Program { path, arguments: Vec::new(), environment }
    }

    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Program {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Program {
        self.environment.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn env_remove(mut self, name: &str) -> Program {
        self.environment.retain(|(known, _)| known != name);
        self
    }

    /// Replaces this process by the program; it keeps our environment. Returns only with why not.
    pub fn replace_us(&self) -> io::Error {
        spawn::replace_by(&self.path, &self.arguments)
    }

    /// `NAME=VALUE`, each name once.
    fn variables(&self) -> Vec<OsString> {
        let all = &self.environment;
        let last = |at: usize| !all[at + 1..].iter().any(|(later, _)| *later == all[at].0);
        let text = |at: usize| {
            let (name, value) = &all[at];
            let mut text = OsString::with_capacity(name.len() + 1 + value.len());
            text.extend([name.as_os_str(), "=".as_ref(), value]);
            text
        };
        (0..all.len()).filter(|at| last(*at)).map(text).collect()
    }
}

impl Children {
    pub fn new() -> Arc<Children> {
        let reaper = Pid::own().get() == 1;
        let descriptors = limit().ok();
        Arc::new(Children { descriptors, reaper, ..Children::default() })
    }

    /// Starts a child. Dropping it kills and reaps it.
    ///
    /// # Errors
    /// Those of [`spawn::spawn`], and of pidfd_open(2) (Linux before 5.3).
    pub fn spawn(self: &Arc<Self>, program: &Program, manner: Manner) -> io::Result<Child> {
        self.reap_abandoned();
        let variables = program.variables();
        // An exec can hang (a program on a dead network file system), and then only this thread may
        // hang with it. But process 1 must not reap a child before its name is here.
        let held = self.reaper.then(|| lock(&self.known));
        let spawned = spawn::spawn(&program.path, &program.arguments, &variables, manner)?;
        let pid = spawned.pid;
        if let Some(soft) = self.descriptors {
            set_limit_of(pid, soft);
        }
        held.unwrap_or_else(|| lock(&self.known)).push(pid);
        match PidFd::open(pid) {
            Ok(pidfd) => Ok(Child {
                pid,
                pidfd,
                stdin: spawned.stdin,
                stdout: Some(spawned.stdout),
                stderr: Some(spawned.stderr),
                reaped: false,
                family: Arc::clone(self),
            }),
            Err(e) => {
                process::kill(pid);
                let _ = process::wait(pid);
                lock(&self.known).retain(|known| *known != pid);
                Err(e)
            }
        }
    }

    /// Reaps what was handed to us as process 1. Children of our own are left to who waits for them.
    /// Says whether it could: not while a child is being started.
    pub fn reap_orphans(&self) -> bool {
        let Ok(known) = self.known.try_lock() else {
            return false;
        };
        let orphans = proc::children_of_main_thread();
        for orphan in orphans.into_iter().filter(|pid| !known.contains(pid)) {
            process::reap(orphan);
        }
        true
    }

    /// Kills every group that a child of ours leads: before an exit that waits for nobody.
    pub fn kill_groups(&self) {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            if let Ok(known) = self.known.try_lock() {
                for pid in known.iter() {
                    let _ = process::signal_group(*pid, Signal::Kill);
                }
                return;
            }
            if Instant::now() >= deadline {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Whether no child of ours runs, as far as that can be told at once.
    pub fn are_gone(&self) -> bool {
        self.known.try_lock().is_ok_and(|known| known.is_empty())
    }

    fn reap_abandoned(&self) {
        lock(&self.abandoned).retain(|pid| !process::reap(*pid));
    }
}

fn lock(pids: &Mutex<Vec<Pid>>) -> MutexGuard<'_, Vec<Pid>> {
    pids.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child of ours that is not reaped yet, and our ends of its pipes until they are taken.
#[derive(Debug)]
pub struct Child {
    pub stdin: Option<File>,
    pub stdout: Option<File>,
    pub stderr: Option<File>,
    pid: Pid,
    pidfd: PidFd,
    reaped: bool,
    family: Arc<Children>,
}

impl Child {
    /// Readable once the child has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Signals the process group that the child leads, or the child itself where it has left that
    /// group; a kill goes to both, while a second SIGTERM would mean more than the first. Whom we
    /// may not signal, or who is gone, is passed over.
    pub fn signal(&self, signal: Signal) {
        let reached = process::signal_group(self.pid, signal).unwrap_or(false);
        if !reached || signal == Signal::Kill {
            let _ = self.pidfd.send(signal);
        }
    }

    /// Ends the group and reaps the child. In this order: while the child is not reaped its number
    /// belongs to nobody else.
    pub fn end(&mut self) -> io::Result<Status> {
        self.signal(Signal::Kill);
        // One that we may not kill ends by itself, or by having nobody to print for.
        (self.stdin, self.stdout, self.stderr) = (None, None, None);
        self.wait(REAP_PATIENCE)
    }

    /// Reaps the child.
    ///
    /// # Errors
    /// TimedOut when it has not ended after `patience`; dropping it leaves it to a later reaping.
    pub fn wait(&mut self, patience: Duration) -> io::Result<Status> {
        let deadline = Instant::now() + patience;
        while poll(&mut [Interest::read(self.ended())], Some(left(deadline)))? == 0 {
            if left(deadline) == Duration::ZERO {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        // Under the lock: nobody must find its number there once the kernel may give it away.
        let family = Arc::clone(&self.family);
        let mut known = lock(&family.known);
        let status = process::wait(self.pid);
        known.retain(|pid| *pid != self.pid);
        self.reaped = true;
        status
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        let _ = self.pidfd.send(Signal::Kill);
        if self.wait(REAP_PATIENCE).is_err() {
            lock(&self.family.known).retain(|pid| *pid != self.pid);
            lock(&self.family.abandoned).push(self.pid);
        }
    }
}

/// Finds a program on `PATH`, else in the places where systemd's own are.
pub fn find_program(name: &str) -> io::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from);
    let mut places = env::split_paths(&path).filter(|dir| dir.is_absolute()).chain(usual);
    let runs = |file: &PathBuf| {
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    places.find_map(|dir| Some(dir.join(name)).filter(runs)).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no {name} on PATH or in /usr/bin"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Manner = Manner { stdin: false, own_group: false, shielded: false };

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh".into()).args(["-c", script])
    }

    fn run(script: &str, wait: Duration) -> io::Result<Answer> {
        capture(&Children::new(), &shell(script), Instant::now() + wait, 1 << 20)
    }

    #[test]
    fn output_of_both_streams_and_the_status() {
        let answer = run("echo out; echo err >&2; exit 3", Duration::from_secs(20)).unwrap();
        assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("out\n", "err\n"));
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
        let command = &shell("head -c 1000000 /dev/zero");
        let deadline = Instant::now() + Duration::from_secs(20);
        let answer = capture(&Children::new(), command, deadline, 1000).unwrap();
        assert_eq!(answer.stdout.len(), 1000);
    }

    #[test]
    fn children_that_are_waited_for_are_not_reaped_as_orphans() {
        let children = Children::new();
        let mut child = children.spawn(&shell("exit 7"), PLAIN).unwrap();
        poll(&mut [Interest::read(child.ended())], Some(Duration::from_secs(20))).unwrap();
        assert!(children.reap_orphans());
        assert_eq!(child.wait(REAP_PATIENCE).unwrap(), Status::Exited(7));
    }

    #[test]
    fn programs_are_found_without_a_path() {
        assert!(find_program("sh").is_ok());
        assert!(find_program("no-such-program-here").is_err());
    }
}
