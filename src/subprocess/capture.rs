//! A helper program that is run to its end for what it prints.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::child::{ChildKind, ExitReason, RunOptions};
use super::children::Children;
use super::program::Program;
use crate::cancel::Cancel;
use crate::sys::process::Status;

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
    let (kind, cancel) = (ChildKind::Shielded, Cancel::at(deadline));
    let options = RunOptions { kind, input: None, cancel, grace: Duration::ZERO };
    let (reason, stdout, stderr) = children.spawn(program, options)?.finish(limit, limit)?;
    let ExitReason::Exited(status) = reason else {
        return Err(ErrorKind::TimedOut.into());
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let success = status == Status::Exited(0);
    Ok(Captured { success, stdout: text(stdout), stderr: text(stderr) })
}
