//! What a turn is told of its process: lines, and that it has ended.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::agent::Outcome;
use crate::sys::fd::EventFd;
use crate::threads::lock;

/// What has come for a turn.
#[derive(Debug)]
pub enum Input {
    Line(String),
    /// Nothing more will come: how the turn ends, unless it knows better.
    Ended(Outcome),
}

/// The lines that have come for one turn, in their order.
#[derive(Debug)]
pub struct Inbox {
    queue: Mutex<Queue>,
    /// Raised when something has come that is waited for.
    pub event: EventFd,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<String>,
    bytes: usize,
    ended: Option<Outcome>,
    /// Somebody waits for the event.
    armed: bool,
}

impl Inbox {
    /// # Errors
    /// No descriptor.
    pub fn new() -> io::Result<Arc<Inbox>> {
        Ok(Arc::new(Inbox { queue: Mutex::default(), event: EventFd::new()? }))
    }

    /// Takes a line. Where those that wait would be more than `most` bytes, the turn is told that it has
    /// ended: its client takes less than its agent says. False once nothing more is taken.
    pub fn push(&self, line: String, most: usize) -> bool {
        let mut queue = lock(&self.queue);
        if queue.ended.is_some() {
            return false;
        }
        queue.bytes += line.len();
        if queue.bytes > most {
            let why = format!("more than {most} bytes of the agent wait to be passed on");
            (queue.lines, queue.ended) = (VecDeque::new(), Some(Outcome::Failed(why)));
        } else {
            queue.lines.push_back(line);
        }
        self.notify(queue);
        true
    }

    /// Nothing more will come.
    pub fn end(&self, outcome: Outcome) {
        let mut queue = lock(&self.queue);
        queue.ended.get_or_insert(outcome);
        self.notify(queue);
    }

    fn notify(&self, mut queue: MutexGuard<'_, Queue>) {
        if std::mem::take(&mut queue.armed) {
            // Whoever wakes up by it finds the lock free.
            drop(queue);
            self.event.notify();
        }
    }

    /// Has the event be raised by what comes next. False where there is something already.
    pub fn arm(&self) -> bool {
        let mut queue = lock(&self.queue);
        queue.armed = queue.lines.is_empty() && queue.ended.is_none();
        queue.armed
    }

    /// It is not waited for any more; `raised`: the event was.
    pub fn disarm(&self, raised: bool) {
        lock(&self.queue).armed = false;
        if raised {
            self.event.clear();
        }
    }

    /// What has come next, if anything: to be asked until there is nothing, before it is waited for more.
    pub fn take(&self) -> Option<Input> {
        let mut queue = lock(&self.queue);
        match queue.lines.pop_front() {
            Some(line) => {
                queue.bytes -= line.len();
                Some(Input::Line(line))
            }
            None => queue.ended.clone().map(Input::Ended),
        }
    }
}
