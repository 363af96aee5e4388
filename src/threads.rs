//! Starting threads: one way, so that its machinery is in the binary once.
#![forbid(unsafe_code)]

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread with a stack of this many bytes.
pub fn spawn(
    name: &str,
    stack: usize,
    work: Box<dyn FnOnce() + Send>,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).stack_size(stack).spawn(work)
}
