//! Ends a stop that is stuck before the service manager would by SIGKILL, and says where it was stuck. What was
//! acknowledged is durable by then: nothing is lost by an exit.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::progress::Progress;
use crate::cancel::readable_by;
use crate::dirs::Dirs;
use crate::exit::Exit;
use crate::lifecycle::history;
use crate::limits::THREAD_STACK;
use crate::subprocess::Children;
use crate::sys::{clock, fork::run_in_child, gather::Gather, process::exit_now};
use crate::threads::{Slot, lock, spawn};

/// How long the last words may take: the time that the budget reserves for them.
const REPORT_TIMEOUT: Duration = Duration::from_millis(700);

/// How long the history is waited for in that: a disk that works needs less.
const RECORD_TIMEOUT: Duration = Duration::from_millis(400);

/// When a stop has to be over, and the thread that sees to it.
#[derive(Debug, Default)]
pub struct StopWatchdog {
    armed: Mutex<Armed>,
    changed: Condvar,
    pub progress: Progress,
}

#[derive(Debug, Default)]
struct Armed {
    deadline: Option<Instant>,
    has_thread: bool,
}

/// What it needs of the gateway at the end.
pub struct Remains {
    pub dirs: Dirs,
    pub children: Arc<Children>,
    /// The instance's locks, for the child that writes the history.
    pub locks: Vec<OwnedFd>,
}

impl StopWatchdog {
    /// Ends the process at `deadline`, unless it is called again before; `None`: the process goes on.
    /// `remains` is made where there is no thread yet.
    pub fn arm(self: &Arc<Self>, deadline: Option<Instant>, remains: &dyn Fn() -> Remains) {
        let mut armed = lock(&self.armed);
        armed.deadline = deadline;
        self.changed.notify_one();
        if deadline.is_none() || armed.has_thread {
            return;
        }
        let (watchdog, remains) = (Arc::clone(self), remains());
        match spawn("stop watchdog", THREAD_STACK, Box::new(move || watchdog.watch(remains))) {
            Ok(_) => armed.has_thread = true,
            Err(e) => log::warn!(
                "no thread for the stop watchdog ({e}): a stop that is stuck ends only when the \
                 service manager kills it"
            ),
        }
    }

    fn watch(self: Arc<Self>, remains: Remains) {
        let mut armed = lock(&self.armed);
        while let Some(deadline) = armed.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(armed);
                self.end(remains);
            }
            let waited = self.changed.wait_timeout(armed, left);
            armed = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        armed.has_thread = false;
    }

    /// Nothing here may be waited for without end: a log, or a lock, may be what hangs.
    fn end(&self, remains: Remains) -> ! {
        let (words, (exit, line)) = (self.progress.words(), self.progress.end());
        let told = Arc::<Slot<_>>::default();
        let reported = told.clone();
        let report = move || {
            log::error!("The stop is stuck in {words}: its time is over, and the process ends");
            remains.record(line, words);
            log::error!("Exiting with code {exit} (the stop was stuck in {words})");
            log::logger().flush();
            remains.children.end_all();
            reported.send(());
        };
        if spawn("stuck", THREAD_STACK, Box::new(report)).is_ok() {
            let _ = told.wait(REPORT_TIMEOUT);
        }
        exit_now(exit)
    }
}

impl Remains {
    /// Enters it in the history, where the disk lets that happen.
    fn record(&self, mut line: Value, words: &str) {
        let known = line["reason"].as_str().map(|reason| format!("{reason}; ")).unwrap_or_default();
        line["reason"] = format!("{known}the stop was stuck in {words}").into();
        line["time"] = clock::now().into();
        let dirs = self.dirs.clone();
        let planned = line["exit"] == Exit::Planned.code();
        let work = move || {
            let entered = history::record_end(&dirs, &line, planned);
            entered.map_or_else(|e| e.to_string(), |()| String::new())
        };
        let locks: Vec<_> = self.locks.iter().map(AsFd::as_fd).gather();
        let deadline = Instant::now() + RECORD_TIMEOUT;
        let answer = |child: File| readable_by(child.as_fd(), deadline);
        if !matches!(run_in_child(&locks, &work).and_then(answer), Ok(true)) {
            log::warn!("the history does not have it yet: the disk does not answer");
        }
    }
}
