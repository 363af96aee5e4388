//! What threads hand to one that waits in a poll.

use std::io;
use std::sync::{Arc, Mutex};

use crate::sys::fd::EventFd;
use crate::threads::lock;

pub struct Mailbox<T> {
    items: Mutex<Vec<T>>,
    /// Ready while there is something in it.
    pub wake: Arc<EventFd>,
}

impl<T> Mailbox<T> {
    pub fn new() -> io::Result<Mailbox<T>> {
        Ok(Mailbox { items: Mutex::default(), wake: Arc::new(EventFd::new()?) })
    }

    pub fn put(&self, item: T) {
        lock(&self.items).push(item);
        self.wake.notify();
    }

    pub fn empty(&self) -> Vec<T> {
        self.wake.clear();
        std::mem::take(&mut *lock(&self.items))
    }
}
