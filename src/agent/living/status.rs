//! What `status` shows of a process.

use std::time::Duration;

use super::process::Process;
use crate::sys::proc;
use crate::sys::process::Pid;

/// A process as `status` shows it.
#[derive(Clone, Debug)]
pub struct ProcessStatus {
    pub pid: i32,
    /// Whose it is; empty: the operators', or everybody's.
    pub principal: String,
    pub age: Duration,
    /// Turns that run, and those that are over.
    pub turns: usize,
    pub served: u64,
    pub sessions: usize,
    /// Bytes of memory, of the process alone; `None` where the kernel does not say.
    pub resident: Option<u64>,
}

pub(super) fn status(process: &Process) -> ProcessStatus {
    let sessions = process.sessions();
    let state = process.lock();
    ProcessStatus {
        pid: state.pid,
        principal: process.whose.clone(),
        age: state.began.elapsed(),
        turns: state.turns,
        served: state.served,
        sessions,
        resident: Pid::new(state.pid).and_then(proc::resident),
    }
}
