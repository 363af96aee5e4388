//! What the adapter waits for beside the gateway: calls and files, each on a thread, so many at once.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::call::{Call, Failure, Outcome};
use super::client::Client;
use super::receive::Wanted;
use crate::limits::THREAD_STACK;
use crate::sys::fd::EventFd;
use crate::threads::{Mailbox, hand_over};

/// Who a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    Start,
    Poll,
    /// The sender, by its ticket.
    Send(u64),
    Nobody,
}

pub enum Job {
    Call(For, Call),
    Fetch(u64, Wanted),
}

pub enum Done {
    Called(For, Outcome),
    Fetched(u64, Result<(String, u64), String>),
}

/// Threads at once for each of [`Job::class`]: polls, other calls, uploads, which are in memory, and downloads.
const MOST: [usize; 4] = [1, 8, 1, 4];

/// The class of what is not done.
const UNDONE: usize = MOST.len();

/// Jobs that wait for a thread: parts and items have a window each, 16 and 64, and what nobody waits for is less.
const MAX_WAITING: usize = 256;

impl Job {
    fn class(&self) -> usize {
        match self {
            Job::Call(For::Start | For::Poll, _) => 0,
            Job::Call(_, call) => 1 + usize::from(!call.files.is_empty()),
            Job::Fetch(..) => 3,
        }
    }

    /// What has come of it where it is not done.
    fn undone(&self, why: &str) -> Done {
        match self {
            Job::Call(whose, _) => Done::Called(*whose, Err(Failure::NotSent(why.to_owned()))),
            Job::Fetch(ticket, _) => Done::Fetched(*ticket, Err(why.to_owned())),
        }
    }
}

pub struct Jobs {
    client: Arc<Client>,
    /// Where files are put.
    pub files: PathBuf,
    done: Arc<Mailbox<(usize, Done)>>,
    /// By class, with those whose end was not taken yet.
    running: [usize; UNDONE + 1],
    waiting: VecDeque<Job>,
    closed: bool,
}

impl Jobs {
    /// # Errors
    /// The system has no descriptor.
    pub fn new(client: Arc<Client>) -> io::Result<Jobs> {
        let done = Arc::new(Mailbox::new()?);
        let (files, waiting) = (PathBuf::new(), VecDeque::new());
        Ok(Jobs { client, files, done, running: [0; UNDONE + 1], waiting, closed: false })
    }

    /// Readable while there is something done.
    pub fn wake(&self) -> &EventFd {
        &self.done.wake
    }

    /// Those under way, and those whose end was not taken yet.
    pub fn running(&self) -> usize {
        self.running.iter().sum()
    }

    pub fn add(&mut self, job: Job) {
        if self.closed {
            self.refuse(&job, "the adapter ends");
        } else if self.waiting.len() >= MAX_WAITING {
            self.refuse(&job, "too many calls wait");
        } else {
            self.waiting.push_back(job);
            self.start();
        }
    }

    /// What is done by now.
    pub fn take(&mut self) -> Vec<Done> {
        let mut all = Vec::new();
        for (class, done) in self.done.empty() {
            self.running[class] -= 1;
            all.push(done);
        }
        self.start();
        all
    }

    /// Ends the polls and downloads that are under way, and what waits.
    pub fn close(&mut self) {
        self.closed = true;
        self.client.end.notify();
        for job in std::mem::take(&mut self.waiting) {
            self.refuse(&job, "the adapter ends");
        }
    }

    fn refuse(&mut self, job: &Job, why: &str) {
        self.running[UNDONE] += 1;
        self.done.put((UNDONE, job.undone(why)));
    }

    fn start(&mut self) {
        let running = &mut self.running;
        let free = |running: &[usize], job: &Job| running[job.class()] < MOST[job.class()];
        while let Some(at) = self.waiting.iter().position(|job| free(running, job))
            && let Some(job) = self.waiting.remove(at)
        {
            let (class, undone) = (job.class(), job.undone("the system has no thread"));
            running[class] += 1;
            let (client, done, files) =
                (Arc::clone(&self.client), Arc::clone(&self.done), self.files.clone());
            let work = move || {
                let result = match job {
                    Job::Call(whose, call) => Done::Called(whose, client.call(&call)),
                    Job::Fetch(ticket, wanted) => {
                        Done::Fetched(ticket, client.fetch(&wanted, &files))
                    }
                };
                done.put((class, result));
            };
            if hand_over("telegram", THREAD_STACK, Box::new(work)).is_err() {
                self.done.put((class, undone));
            }
        }
    }
}
