//! Child processes: started here and nowhere else, so that process 1 can tell them from orphans,
//! and so that no child gets what is meant for us alone.
//!
//! What may enter: starting, feeding, reading, signalling, waiting. What a child is for, and what its
//! output means, belongs to the caller.
#![forbid(unsafe_code)]

mod cgroup;
mod executable;
mod program;
mod run;
mod tree;

pub use executable::{explain_failure, why_not_executable};
pub use program::{
    Environment, Program, environment, find_on, find_program, is_service_manager_variable,
};
pub use run::{Captured, ChildEvent, ExitReason, capture, keep_end};
pub use tree::Leftovers;

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::cancel::{Cancel, CancelReason};
use crate::limits::REAP_TIMEOUT;
use crate::name::OWN_VARIABLE;
use crate::sys::fd::{limit, set_limit_of, set_nonblocking};
use crate::sys::poll::Interest;
use crate::sys::proc;
use crate::sys::process::{self, Pid, PidFd, Signal, Status};
use crate::sys::spawn::{self, ChildSlot, SpawnOptions};
use crate::threads::lock;
use tree::{Run, Tree};

/// How often the list of our children is read anew because one of them had ended: in a storm of new
/// processes one always has.
const MAX_REAPINGS: usize = 100;

/// Where a child's number is: 0 until it has one.
type Slot = Arc<AtomicI32>;

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

/// The children that a thread of ours waits for.
#[derive(Debug, Default)]
pub struct Children {
    /// With a slot for each that is being started: its number is there before it runs, and no lock
    /// is held while it does (an exec may hang on a dead network file system).
    known: Mutex<Vec<Slot>>,
    /// Held by the thread that reaps orphans: the kernel's list of them is whole only if none goes meanwhile.
    reaping: Mutex<()>,
    /// The soft limit on descriptors that we were started with, and that children get.
    descriptors: Option<u64>,
    /// The gateway's name, by which its children find it.
    name: OnceLock<String>,
    /// Set where a gateway runs: we inherit what children leave, and end it.
    run: OnceLock<Run>,
}

impl Children {
    pub fn new() -> Arc<Children> {
        Arc::new(Children { descriptors: limit().ok(), ..Children::default() })
    }

    /// From now on this process is the one of `gateway`, called `name`: what its children leave becomes
    /// ours. To be followed by [`Children::end_earlier_runs`].
    ///
    /// # Errors
    /// Those of prctl(2) and getrandom(2).
    pub fn begin_run(&self, name: &str, gateway: &str) -> io::Result<()> {
        process::become_subreaper()?;
        let _ = self.name.set(name.to_owned());
        let _ = self.run.set(Run::begin(gateway)?);
        Ok(())
    }

    /// Ends what a run of this gateway that was killed has left; until then nothing is started but
    /// helpers. `own`: our control group, where the service manager has delegated it to us.
    pub fn end_earlier_runs(&self, own: Option<&str>) {
        if let Some(run) = self.run.get() {
            run.end_earlier(own.and_then(cgroup::usable));
        }
    }

    /// Starts a child.
    ///
    /// # Errors
    /// Those of [`spawn::spawn`], and of pidfd_open(2) (Linux before 5.3).
    pub fn spawn<'a>(
        self: &Arc<Self>,
        program: &Program,
        options: RunOptions<'a>,
    ) -> io::Result<Child<'a>> {
        let kind = options.kind;
        let own_group = kind != ChildKind::Shielded;
        let spawn_options = SpawnOptions { stdin: options.input.is_some(), own_group };
        let (mut own, mut tree) = (Environment::new(), None);
        if let ChildKind::Tree(leftovers) = kind {
            own.extend(self.name.get().map(|name| (OWN_VARIABLE.into(), name.into())));
            tree = self.run.get().filter(|_| leftovers == Leftovers::Kill).map(Run::tree);
            own.extend(tree.as_ref().map(Tree::variable));
        }
        let variables = program.variables(own);
        let slot = Slot::default();
        lock(&self.known).push(Arc::clone(&slot));
        let group = tree.as_ref().and_then(|tree| Some(tree.cgroup.as_ref()?.dir.as_fd()));
        let place = ChildSlot { number: &slot, group };
        let spawned =
            spawn::spawn(&program.path, &program.arguments, &variables, spawn_options, place)
                .and_then(|spawned| match PidFd::open(spawned.pid) {
                    Ok(pidfd) => Ok((spawned, pidfd)),
                    Err(e) => {
                        process::kill(spawned.pid);
                        let _ = process::wait(spawned.pid);
                        Err(e)
                    }
                });
        let (spawned, pidfd) = match spawned {
            Ok(spawned) => spawned,
            Err(e) => {
                self.forget(&slot);
                self.end_tree(tree);
                return Err(e);
            }
        };
        let pid = spawned.pid;
        if let Some(soft) = self.descriptors {
            let _ = set_limit_of(pid, soft);
        }
        if let Some(tree) = tree.as_mut().filter(|_| !spawned.joined) {
            tree.leave_cgroup();
        }
        let child = Child {
            pid,
            pidfd,
            stdin: spawned.stdin,
            stdout: Some(spawned.stdout),
            stderr: Some(spawned.stderr),
            tree,
            status: None,
            slot,
            children: Arc::clone(self),
            options,
            fed: 0,
            ending: None,
            quiet_since: Instant::now(),
            stderr_first: true,
            drained: 0,
        };
        for pipe in [&child.stdin, &child.stdout, &child.stderr].into_iter().flatten() {
            set_nonblocking(pipe.as_fd())?;
        }
        Ok(child)
    }

    /// Reaps what was handed to us and has ended, and returns what of it lives. Children of our own are
    /// left to who waits for them.
    pub fn reap_orphans(&self) -> Vec<Pid> {
        let _one = lock(&self.reaping);
        let mut living = Vec::new();
        for _ in 0..MAX_REAPINGS {
            let mut has_reaped = false;
            living = proc::children_of_main_thread();
            living.retain(|pid| {
                // In this order: a child that has ended has run, and so its number is in its slot.
                let ended = process::has_ended(*pid);
                let known = lock(&self.known);
                let is_known = known.iter().any(|slot| slot.load(Ordering::SeqCst) == pid.get());
                let is_gone = !is_known && ended && process::reap(*pid);
                has_reaped |= is_gone;
                !is_known && !is_gone
            });
            // What has ended left its own children to us, perhaps after the list was read.
            if !has_reaped {
                break;
            }
        }
        living
    }

    /// Kills every group that a child of ours leads, and what children have started: before an exit
    /// that waits for nobody.
    pub fn end_all(self: &Arc<Self>) {
        let Some(run) = self.run.get() else { return };
        let all = Arc::clone(self);
        run.end(move || {
            // Under the lock: nobody reaps one meanwhile.
            let known = lock(&all.known);
            let pids = known.iter().filter_map(|slot| Pid::new(slot.load(Ordering::SeqCst)));
            let killed = pids.inspect(|pid| drop(process::signal_group(*pid, Signal::Kill)));
            let killed = killed.filter(|pid| !process::has_ended(*pid)).collect::<Vec<_>>();
            drop(known);
            [killed, all.reap_orphans()].concat()
        });
    }

    fn end_tree(self: &Arc<Self>, tree: Option<Tree>) {
        if let Some(tree) = tree {
            let all = Arc::clone(self);
            tree.end(move || all.reap_orphans());
        }
    }

    /// Whether no child of ours runs, as far as that can be told at once.
    pub fn are_gone(&self) -> bool {
        self.known.try_lock().is_ok_and(|known| known.is_empty())
    }

    fn forget(&self, slot: &Slot) {
        lock(&self.known).retain(|known| !Arc::ptr_eq(known, slot));
    }
}

/// A child of ours, and our ends of its pipes, which do not block. Dropping it kills and reaps it.
pub struct Child<'a> {
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    pid: Pid,
    pidfd: PidFd,
    /// What it starts; `None`: a helper, or it is kept.
    tree: Option<Tree>,
    /// Set once it is reaped.
    status: Option<Result<Status, io::ErrorKind>>,
    slot: Slot,
    children: Arc<Children>,
    options: RunOptions<'a>,
    /// Bytes of its input that are through.
    fed: usize,
    /// Why it was told to end, and when it is killed.
    ending: Option<(CancelReason, Instant)>,
    /// Since when there has been nothing on its stdout.
    quiet_since: Instant,
    /// Which stream is read first changes each time, so that neither keeps the other waiting.
    stderr_first: bool,
    /// Bytes read since it has ended.
    drained: usize,
}

impl Child<'_> {
    /// Readable once the child has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Signals the process group that the child leads, or the child itself where it has left that
    /// group; a kill goes to both, while a second SIGTERM would mean more than the first. Whom we
    /// may not signal, or who is gone, is ignored.
    fn signal(&mut self, signal: Signal) {
        if let Some(tree) = self.tree.as_mut().filter(|_| !process::has_ended(self.pid)) {
            tree.note_descendants(self.pid);
        }
        let reached = process::signal_group(self.pid, signal).unwrap_or(false);
        if !reached || signal == Signal::Kill {
            let _ = self.pidfd.send(signal);
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
        if !(keep && process::has_ended(self.pid)) {
            self.signal(Signal::Kill);
        }
        // One that we may not kill ends by itself, or by SIGPIPE.
        (self.stdin, self.stdout, self.stderr) = (None, None, None);
        let status = self.reap(REAP_TIMEOUT);
        self.children.end_tree(self.tree.take());
        status
    }

    fn reap(&mut self, patience: Duration) -> io::Result<Status> {
        let end = [Interest::read(self.ended())];
        let deadline = Instant::now() + patience;
        if let ([false], _) = Cancel::at(deadline).wait(end, deadline)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Under the lock: nobody must find its number there once the kernel may give it away.
        let mut known = lock(&self.children.known);
        let status = process::wait(self.pid).map_err(|e| e.kind());
        known.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        self.status = Some(status);
        status.map_err(Into::into)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh".into()).args(["-c", script])
    }

    fn run(script: &str, wait: Duration) -> io::Result<Captured> {
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
        let cancel = Cancel::at(Instant::now() + Duration::from_secs(20));
        let (kind, grace) = (ChildKind::Shielded, Duration::ZERO);
        let options = RunOptions { kind, input: None, cancel, grace };
        let mut child = children.spawn(&shell("exit 7"), options).unwrap();
        cancel.wait([Interest::read(child.ended())], cancel.deadline).unwrap();
        children.reap_orphans();
        assert_eq!(child.reap(REAP_TIMEOUT).unwrap(), Status::Exited(7));
    }
}
