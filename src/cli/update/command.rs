//! A program that is run in front of others: what it prints goes on at once, and its last lines are kept.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::limits::{AGENT_READ, KILL_AFTER};
use crate::subprocess::{
    ChildEvent, ChildKind, Children, ExitReason, Program, RunOptions, keep_tail,
};
use crate::sys::fd::{STDERR, STDOUT, write_all};
use crate::sys::process::Status;

/// What is kept of the output: some dozen lines, which a notice can hold.
pub const MAX_TAIL: usize = 4 << 10;

/// Beyond its wait for a program that is left running: by then nobody looks at it any more.
const MARGIN: Duration = Duration::from_secs(60);

/// What becomes of a program that has not ended by its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// Its process group ends.
    Kill,
    /// It goes on without us.
    Leave,
}

/// Runs a program until it ends, or to the deadline: then there is no status. `tail` gets the last of both
/// its streams.
///
/// # Errors
/// It could not be started, or attended to.
pub fn run(
    children: &Arc<Children>,
    program: &Program,
    deadline: Instant,
    late: Late,
    tail: &mut Vec<u8>,
) -> io::Result<Option<Status>> {
    let (kind, kill_at, until) = match late {
        Late::Kill => (ChildKind::Helper, deadline, None),
        // It begins a session of its own, which the leader of a process group cannot.
        Late::Leave => (ChildKind::Shielded, deadline + MARGIN, Some(deadline)),
    };
    let options = RunOptions { kind, input: None, cancel: Cancel::at(kill_at), grace: KILL_AFTER };
    let mut child = children.spawn(program, options)?;
    let mut buffer = [0; AGENT_READ];
    loop {
        let (to, count) = match child.next(&mut buffer, until)? {
            ChildEvent::Stdout(count) => (STDOUT, count),
            ChildEvent::Stderr(count) => (STDERR, count),
            ChildEvent::Ended(ExitReason::Exited(status)) => return Ok(Some(status)),
            ChildEvent::Ended(ExitReason::Cancelled(_)) => return Ok(None),
            ChildEvent::TimedOut => {
                // Dropping it would kill it.
                mem::forget(child);
                return Ok(None);
            }
        };
        // Whoever reads it may have gone: that is no reason to stop.
        let _ = write_all(to, &buffer[..count]);
        keep_tail(tail, &buffer[..count], MAX_TAIL);
    }
}
