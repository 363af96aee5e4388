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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::readable_by;
    use crate::json::object;
    use crate::telegram::call::Upload;
    use std::net::TcpListener;
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    fn call(method: &'static str, file: bool) -> Call {
        let upload =
            Upload { path: "/dev/null".into(), name: "x".into(), media_type: "a/b".into() };
        let files = file.then_some(("document", upload)).into_iter().collect();
        Call { method, parameters: object!("timeout": 50), files }
    }

    /// The next that is done.
    fn next(jobs: &mut Jobs) -> Vec<Done> {
        let soon = Instant::now() + Duration::from_secs(20);
        assert!(readable_by(jobs.wake().as_fd(), soon).unwrap());
        jobs.take()
    }

    #[test]
    fn so_many_run_at_once_and_each_has_an_end() {
        // It takes connections, and answers none.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut jobs = Jobs::new(Arc::new(crate::telegram::client::for_tests(&url))).unwrap();
        jobs.add(Job::Call(For::Poll, call("getUpdates", false)));
        (0..10)
            .for_each(|ticket| jobs.add(Job::Call(For::Send(ticket), call("sendMessage", false))));
        (10..12)
            .for_each(|ticket| jobs.add(Job::Call(For::Send(ticket), call("sendDocument", true))));
        assert_eq!((jobs.running, jobs.waiting.len()), ([1, 8, 1, 0, 0], 3));
        (0..MAX_WAITING).for_each(|_| jobs.add(Job::Call(For::Send(99), call("x", false))));
        assert_eq!((jobs.waiting.len(), jobs.running[UNDONE]), (MAX_WAITING, 3));
        assert_eq!(next(&mut jobs).len(), 3);
        jobs.close();
        jobs.add(Job::Call(For::Send(12), call("sendMessage", false)));
        let (mut unsent, mut polled, mut others) = (Vec::new(), false, 0);
        while jobs.running() > 9 {
            for done in next(&mut jobs) {
                match done {
                    Done::Called(For::Send(99), Err(_)) => others += 1,
                    Done::Called(For::Send(ticket), Err(Failure::NotSent(_))) => {
                        unsent.push(ticket);
                    }
                    Done::Called(For::Poll, Err(_)) => polled = true,
                    _ => panic!("it has no end yet"),
                }
            }
        }
        assert_eq!((unsent, polled, others), (vec![8, 9, 11, 12], true, MAX_WAITING - 3));
        drop(listener);
    }
}
