//! What one child starts, killed with it: its control group ([`child_cgroup`]) where we may make one, and
//! else what the process tree and a variable in the environment show.
//!
//! We are a subreaper: whatever a child leaves behind becomes ours, or descends from what did. So
//! nothing of a turn is left where no orphan is; among orphans, the mark and the descent tell whose.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::child_cgroup;
use crate::limits::{CONNECTION_STACK, LEFTOVERS_PAUSE};
use crate::sys::gather::Gather;
use crate::sys::proc;
use crate::sys::process::{Pid, PidFd, Signal};
use crate::sys::random;
use crate::threads::{self, Slot, pause};

/// How long the end of a turn waits for the end of what was killed with it: time for a storm of new
/// processes to be put down, and little enough for the stop budget.
const LEFTOVERS_TIMEOUT: Duration = Duration::from_secs(1);

/// Threads that search at once for what turns have left: each is there for as long as a process hangs that
/// it looks at. More than turns end at one time, and no more.
const MAX_KILLERS: usize = 64;

/// For how long a process that could not be looked at may have ended meanwhile: later it is one that is
/// hidden from us (`hidepid`, proc(5)).
const HIDDEN_AFTER: Duration = Duration::from_millis(100);

/// The variable that a child's mark is in: `GATEWAY:RUN:NUMBER:`.
const MARK: &str = "HERMES_MARK";

/// What becomes of the processes that a child has left when it ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leftovers {
    /// They end with it.
    #[default]
    Kill,
    /// They live on.
    Keep,
}

/// Tells what the children of one run of one gateway have started: the beginning of its marks, and where its
/// control groups are.
#[derive(Debug)]
pub struct ProcessTracker {
    /// `GATEWAY:`, the same for every run.
    gateway: String,
    /// `GATEWAY:RUN:`.
    run: String,
    number: AtomicU64,
    /// Set once it is known whether there is one, and the earlier runs' processes have ended: what is
    /// to be started waits for that, as long as a question to the service manager may take.
    base: OnceLock<Option<PathBuf>>,
}

impl ProcessTracker {
    /// `gateway` must be nobody else's on this machine, and the same after a restart.
    pub fn new(gateway: &str) -> io::Result<ProcessTracker> {
        let mut chance = [0; 8];
        random::fill(&mut chance)?;
        let gateway = format!("{gateway}:");
        let run = format!("{gateway}{:x}:", u64::from_ne_bytes(chance));
        Ok(ProcessTracker { gateway, run, number: AtomicU64::new(0), base: OnceLock::new() })
    }

    /// For what one child will start.
    pub fn new_tree(&self) -> ProcessTree {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        // Without a group the other way is gone.
        let cgroup =
            self.base.wait().as_ref().and_then(|base| child_cgroup::create(base, number).ok());
        ProcessTree { mark: format!("{}{number}:", self.run), cgroup, descendants: Vec::new() }
    }

    /// Kills what earlier runs of this gateway have left, which were killed. From now on there is a
    /// control group for each child, below `base`.
    pub fn kill_earlier_runs(&self, base: Option<PathBuf>) {
        let (theirs, run) = (self.gateway.clone(), self.run.clone());
        let is_theirs = move |mark: &str| mark.starts_with(&theirs) && !mark.starts_with(&run);
        let grouped = base.as_deref().is_none_or(kill_cgroups);
        // Processes of others come and go all the time.
        let theirs = move || Found { all_seen: true, ..find(proc::processes(), &is_theirs, &[]) };
        if !(kill_until_gone(Box::new(theirs)) && grouped) {
            warn_of_leftovers(&self.gateway);
        }
        let _ = self.base.set(base);
    }

    /// Kills what is left of all children, before the exit; `ours` are our children.
    pub fn kill_all(&self, ours: PidList) {
        if let Some(Some(base)) = self.base.get() {
            kill_cgroups(base);
        }
        let run = self.run.clone();
        if !ours().is_empty() {
            let found = move || find(ours(), &|mark| mark.starts_with(&run), &[]);
            kill_until_gone(Box::new(found));
        }
    }
}

fn kill_cgroups(base: &Path) -> bool {
    let deadline = Instant::now() + LEFTOVERS_TIMEOUT;
    let groups = child_cgroup::list(base).into_iter();
    groups.filter(|path| !child_cgroup::kill(path, deadline)).count() == 0
}

fn warn_of_leftovers(mark: &str) {
    log::warn!(
        "processes that a turn or delivery has left could not be ended within {} s; look for \
         {MARK}={mark} in /proc/PID/environ",
        LEFTOVERS_TIMEOUT.as_secs()
    );
}

/// What one child starts.
pub struct ProcessTree {
    /// With a `:` at its end, so that none is the beginning of another.
    mark: String,
    pub cgroup: Option<PathBuf>,
    /// What descended from the child when it was told to end.
    descendants: Vec<Living>,
}

impl ProcessTree {
    /// For the child's environment.
    pub fn variable(&self) -> (OsString, OsString) {
        (MARK.into(), (&self.mark).into())
    }

    /// Notes what descends from the child, while that can be seen.
    pub fn note_descendants(&mut self, child: Pid) {
        if self.cgroup.is_none() {
            let found = find(vec![child], &|_| false, living(child).as_slice());
            self.descendants.extend(found.living);
        }
    }

    /// Kills all of it, once the child itself is reaped. `orphans`: what was handed to us and lives.
    pub fn kill(self, orphans: PidList) {
        let ProcessTree { mark, cgroup, descendants } = self;
        let own = mark.clone();
        let ended = match cgroup {
            Some(group) => child_cgroup::kill(&group, Instant::now() + LEFTOVERS_TIMEOUT),
            None if orphans().is_empty() => true,
            None => {
                let found = move || find(orphans(), &|mark| mark == own, &descendants);
                kill_until_gone(Box::new(found))
            }
        };
        if !ended {
            warn_of_leftovers(&mark);
        }
    }
}

/// Lists processes, anew each time.
type PidList = Box<dyn Fn() -> Vec<Pid> + Send + Sync>;

/// Looks for processes of children, anew each time.
type Find = Box<dyn Fn() -> Found + Send + Sync>;

/// A process that has not ended: its number, and when it started.
type Living = (Pid, u64);

fn living(pid: Pid) -> Option<Living> {
    proc::start_time(pid).map(|since| (pid, since))
}

fn kill(known: &Living) {
    if let Ok(process) = PidFd::open(known.0)
        && living(known.0) == Some(*known)
    {
        let _ = process.send(Signal::Kill);
    }
}

/// What was found of a child's processes.
struct Found {
    living: Vec<Living>,
    /// Whether none of the processes that were looked at has ended meanwhile: what one leaves is handed
    /// to us, after our children were listed.
    all_seen: bool,
}

/// Of these processes those with a mark that is `ours` and those in `known`, and what descends from
/// either: a child has its parent's mark, unless it has cleared its environment.
fn find(roots: Vec<Pid>, ours: &dyn Fn(&str) -> bool, known: &[Living]) -> Found {
    let own = Pid::own();
    let mut found = Found { living: Vec::new(), all_seen: true };
    let mut open: Vec<(Pid, bool)> = roots.into_iter().map(|pid| (pid, false)).gather();
    while let Some((pid, inherited)) = open.pop() {
        let Some(process) = living(pid).filter(|_| pid != own) else {
            found.all_seen &= pid == own;
            continue;
        };
        let marked = || proc::variable(pid, MARK).is_some_and(|mark| ours(&mark));
        if inherited || known.contains(&process) || marked() {
            found.living.push(process);
            open.extend(proc::children(pid).into_iter().map(|child| (child, true)));
        } else {
            found.all_seen &= living(pid) == Some(process) && !proc::is_exiting(pid);
        }
    }
    found
}

/// Kills what is found until nothing is; false where something outlives the deadline. In a thread: to
/// read the environment of a process that hangs in the kernel may hang too.
fn kill_until_gone(find: Find) -> bool {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    let deadline = Instant::now() + LEFTOVERS_TIMEOUT;
    let work = Arc::new(move || {
        let mut hidden_at = Instant::now() + HIDDEN_AFTER;
        loop {
            let looked = Instant::now();
            let found = find();
            found.living.iter().for_each(kill);
            if !found.living.is_empty() {
                hidden_at = Instant::now() + HIDDEN_AFTER;
            }
            // A look that took long is no sign of it.
            let done = found.all_seen || looked >= hidden_at;
            if found.living.is_empty() && done || Instant::now() >= deadline {
                return found.living.is_empty();
            }
            pause(LEFTOVERS_PAUSE);
        }
    });
    if RUNNING.load(Ordering::Relaxed) >= MAX_KILLERS {
        return false;
    }
    let (ended, there) = (Arc::<Slot<_>>::default(), Arc::clone(&work));
    let tell = ended.clone();
    let counted = move || {
        RUNNING.fetch_add(1, Ordering::Relaxed);
        tell.send(there());
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    };
    match threads::spawn("kill", CONNECTION_STACK, Box::new(counted)) {
        Ok(_) => ended.wait(LEFTOVERS_TIMEOUT * 2).unwrap_or(false),
        Err(_) => work(),
    }
}
