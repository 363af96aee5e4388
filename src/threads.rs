//! Starting threads: one way, so that its machinery is in the binary once.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::limits::THREAD_PAUSE;

/// Starts a thread with a stack of this many bytes.
pub fn spawn(
    name: &str,
    stack: usize,
    work: Box<dyn FnOnce() + Send>,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).stack_size(stack).spawn(work)
}

/// The same for work that has to be done: where there is no thread it tries again for so long.
pub fn insist(
    name: &str,
    stack: usize,
    work: impl Fn() + Send + Sync + 'static,
    patience: Duration,
) -> io::Result<JoinHandle<()>> {
    let (work, deadline) = (Arc::new(work), Instant::now() + patience);
    loop {
        let work = Arc::clone(&work);
        match spawn(name, stack, Box::new(move || work())) {
            Err(_) if Instant::now() < deadline => thread::sleep(THREAD_PAUSE),
            spawned => return spawned,
        }
    }
}
