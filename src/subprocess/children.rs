//! The children that threads of this process wait for, told from the orphans that it inherits.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::child_cgroup;
use super::process_tree::{ProcessTracker, ProcessTree};
use crate::sys::fd::limit;
use crate::sys::gather::Gather;
use crate::sys::proc;
use crate::sys::process::{self, Pid, Signal};
use crate::threads::lock;

/// How often the list of our children is read anew because one of them had ended: in a storm of new
/// processes one always has.
const MAX_REAPINGS: usize = 100;

/// Where a child's number is: 0 until it has one.
pub(super) type PidSlot = Arc<AtomicI32>;

/// The children that a thread of ours waits for.
#[derive(Debug, Default)]
pub struct Children {
    /// With a slot for each that is being started: its number is there before it runs, and no lock
    /// is held while it does (an exec may hang on a dead network file system).
    pub(super) known: Mutex<Vec<PidSlot>>,
    /// Nothing is started any more: this process is about to be another program. Set and read under the
    /// lock of `known`.
    pub(super) closed: AtomicBool,
    /// Held by the thread that reaps orphans: the kernel's list of them is whole only if none goes meanwhile.
    reaping: Mutex<()>,
    /// The soft limit on descriptors that we were started with, and that children get.
    pub descriptors: Option<u64>,
    /// The gateway's name, by which its children find it.
    pub(super) name: OnceLock<String>,
    /// Set where a gateway runs: we inherit what children leave, and end it.
    pub(super) tracker: OnceLock<ProcessTracker>,
}

impl Children {
    /// `descriptors`: the soft limit that this process was started with, where it has another one now.
    pub fn new(descriptors: Option<u64>) -> Arc<Children> {
        let descriptors = descriptors.or_else(|| limit().ok());
        Arc::new(Children { descriptors, ..Children::default() })
    }

    /// Has nothing started from now on, or lets it be again.
    pub fn set_closed(&self, closed: bool) {
        let _known = lock(&self.known);
        self.closed.store(closed, Ordering::SeqCst);
    }

    /// From now on this process is the one of `gateway`, called `name`: what its children leave becomes
    /// ours. To be followed by [`Children::end_earlier_runs`].
    ///
    /// # Errors
    /// Those of prctl(2) and getrandom(2).
    pub fn begin_run(&self, name: &str, gateway: &str) -> io::Result<()> {
        process::become_subreaper()?;
        let _ = self.name.set(name.to_owned());
        let _ = self.tracker.set(ProcessTracker::new(gateway)?);
        Ok(())
    }

    /// Ends what a run of this gateway that was killed has left; until then nothing is started but
    /// helpers. `own`: our control group, where the service manager has delegated it to us.
    pub fn end_earlier_runs(&self, own: Option<&str>) {
        if let Some(tracker) = self.tracker.get() {
            tracker.kill_earlier_runs(own.and_then(child_cgroup::usable_base));
        }
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
        let Some(tracker) = self.tracker.get() else { return };
        let all = Arc::clone(self);
        tracker.kill_all(Box::new(move || {
            // Under the lock: nobody reaps one meanwhile.
            let known = lock(&all.known);
            let pids = known.iter().filter_map(|slot| Pid::new(slot.load(Ordering::SeqCst)));
            let killed = pids.inspect(|pid| drop(process::signal_group(*pid, Signal::Kill)));
            let killed = killed.filter(|pid| !process::has_ended(*pid)).gather();
            drop(known);
            [killed, all.reap_orphans()].concat()
        }));
    }

    pub(super) fn kill_tree(self: &Arc<Self>, tree: Option<ProcessTree>) {
        if let Some(tree) = tree {
            let all = Arc::clone(self);
            tree.kill(Box::new(move || all.reap_orphans()));
        }
    }

    /// Whether no child of ours runs, as far as that can be told at once.
    pub fn are_gone(&self) -> bool {
        self.known.try_lock().is_ok_and(|known| known.is_empty())
    }

    pub(super) fn forget(&self, slot: &PidSlot) {
        lock(&self.known).retain(|known| !Arc::ptr_eq(known, slot));
    }
}
