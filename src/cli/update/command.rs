//! A program that is run in front of others: what it prints goes on at once, and its last lines are kept.

use std::io;
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
const MAX_TAIL: usize = 4 << 10;

/// Runs a program until it ends; what has not by then is ended, and has no status. `tail` gets the last of both
/// its streams.
///
/// # Errors
/// It could not be started, or attended to.
pub fn run(
    children: &Arc<Children>,
    program: &Program,
    kind: ChildKind,
    timeout: Duration,
    tail: &mut Vec<u8>,
) -> io::Result<Option<Status>> {
    let cancel = Cancel::at(Instant::now() + timeout);
    let options = RunOptions { kind, input: None, cancel, grace: KILL_AFTER };
    let mut child = children.spawn(program, options)?;
    let mut buffer = [0; AGENT_READ];
    loop {
        let (to, count) = match child.next(&mut buffer, None)? {
            ChildEvent::Stdout(count) => (STDOUT, count),
            ChildEvent::Stderr(count) => (STDERR, count),
            ChildEvent::Ended(ExitReason::Exited(status)) => return Ok(Some(status)),
            ChildEvent::Ended(ExitReason::Cancelled(_)) => return Ok(None),
            ChildEvent::TimedOut => continue,
        };
        // Whoever reads it may have gone: that is no reason to stop.
        let _ = write_all(to, &buffer[..count]);
        keep_tail(tail, &buffer[..count], MAX_TAIL);
    }
}
