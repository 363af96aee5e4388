//! The channels that work, and how they are woken.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::named::ByName;
use crate::sys::fd::EventFd;
use crate::threads::lock;

/// The channels that are attached, and what wakes each. Its lock is the innermost.
#[derive(Debug, Default)]
pub struct Attached {
    count: AtomicUsize,
    /// How often any of them was woken.
    changes: AtomicUsize,
    wakers: Mutex<ByName<Arc<EventFd>>>,
}

impl Attached {
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// A number that is another one once there may be something new for a channel.
    pub fn changes(&self) -> usize {
        self.changes.load(Ordering::SeqCst)
    }

    /// Has all of them look again.
    pub fn wake(&self) {
        if self.count() > 0 {
            self.changes.fetch_add(1, Ordering::SeqCst);
            lock(&self.wakers).values().for_each(|event| event.notify());
        }
    }

    pub fn wake_one(&self, name: &str) {
        if self.count() > 0 {
            self.changes.fetch_add(1, Ordering::SeqCst);
            lock(&self.wakers).get(name).into_iter().for_each(|event| event.notify());
        }
    }

    /// Replaces what wakes a channel; `None`: it is not attached any more.
    pub fn set(&self, name: &str, event: Option<Arc<EventFd>>) {
        let mut wakers = lock(&self.wakers);
        match event {
            Some(event) => wakers.insert(name.to_owned(), event),
            None => wakers.remove(name),
        }
        self.count.store(wakers.names().len(), Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::SeqCst);
    }
}
