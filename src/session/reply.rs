//! The reply buffer of one message: its turn writes into it, and whoever waits reads from it.
//!
//! The buffer is bounded by `limits.max_reply`, which the agent's reader keeps.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use super::id::Id;
use crate::agent::{Reply, Report};
use crate::journal::record::{Accepted, Record, Step};
use crate::limits::WRITE_CHUNK;
use crate::sys::fd::EventFd;
use crate::threads::lock;

/// What happens to a message while somebody runs it or waits for it.
#[derive(Debug, Default)]
pub struct ReplyBuffer(Mutex<State>);

#[derive(Debug, Default)]
pub struct State {
    pub(super) attempt: u32,
    /// When that began.
    pub(super) began: Option<Instant>,
    /// The message that runs: it need not be read back.
    pub(super) message: Option<Arc<Accepted>>,
    pub(super) text: String,
    pub(super) report: Report,
    /// Which of several upstreams answers.
    upstream: Option<String>,
    /// Nothing more will come.
    pub(super) over: bool,
    /// The turn is to end, and what tells its agent.
    cancelled: bool,
    cancel: Option<Arc<EventFd>>,
    watchers: Vec<Weak<EventFd>>,
}

/// What a watcher sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The attempt whose text this is; 0 before the first.
    pub attempt: u32,
    /// What follows the offset that was asked for.
    pub text: String,
    /// There is more already.
    pub more: bool,
    /// The message has come to its end, or the gateway to its own.
    pub over: bool,
}

impl ReplyBuffer {
    /// An attempt begins: what an earlier one said does not count.
    pub fn begin(&self, attempt: u32) {
        let mut state = self.lock();
        (state.attempt, state.began) = (attempt, Some(Instant::now()));
        state.text.clear();
        (state.report, state.upstream) = Default::default();
        state.notify();
    }

    /// Asks the turn to end.
    pub fn cancel(&self) {
        let mut state = self.lock();
        state.cancelled = true;
        if let Some(cancel) = &state.cancel {
            cancel.notify();
        }
    }

    /// The descriptor that becomes readable when the turn is to end.
    pub fn cancelled(&self) -> io::Result<Arc<EventFd>> {
        let event = Arc::new(EventFd::new()?);
        let mut state = self.lock();
        if state.cancelled {
            event.notify();
        }
        state.cancel = Some(Arc::clone(&event));
        Ok(event)
    }

    /// Which of several upstreams answers, as far as it is known.
    pub fn upstream(&self) -> Option<String> {
        self.lock().upstream.clone()
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// What there is after `offset` bytes of attempt `attempt`, or the first of it; from the beginning
    /// where another attempt is on by now.
    pub fn snapshot(&self, attempt: u32, offset: usize) -> Snapshot {
        let state = self.lock();
        let from = if attempt == state.attempt { offset } else { 0 };
        let rest = state.text.get(from..).unwrap_or("");
        let text = rest[..rest.floor_char_boundary(WRITE_CHUNK)].to_owned();
        let more = text.len() < rest.len();
        Snapshot { attempt: state.attempt, text, more, over: state.over && !more }
    }

    /// Notifies this event of everything new, for as long as the [`Watch`] lives.
    pub fn watch(self: &Arc<Self>, event: EventFd) -> Watch {
        let event = Arc::new(event);
        let watchers = &mut self.lock().watchers;
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(&event));
        Watch { reply: Arc::clone(self), event }
    }
}

impl State {
    /// Makes the watchers look again.
    pub fn notify(&self) {
        self.watchers.iter().filter_map(Weak::upgrade).for_each(|watcher| watcher.notify());
    }
}

impl Reply for &ReplyBuffer {
    fn chunk(&mut self, text: &str) -> io::Result<()> {
        let mut state = self.lock();
        if !state.over {
            state.text.push_str(text);
        }
        state.notify();
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.lock().text.len()
    }

    fn upstream(&mut self, name: &str) {
        self.lock().upstream = Some(name.to_owned());
    }

    fn report(&mut self, report: Report) {
        self.lock().report = report;
    }
}

/// Somebody who waits for news of a reply.
#[derive(Debug)]
pub struct Watch {
    pub reply: Arc<ReplyBuffer>,
    pub event: Arc<EventFd>,
}

/// The replies of messages that run, and of those that somebody waits for.
#[derive(Debug, Default)]
pub struct ReplyBuffers(Vec<(Id, Arc<ReplyBuffer>)>);

impl ReplyBuffers {
    pub fn get(&self, id: Id) -> Option<&Arc<ReplyBuffer>> {
        Some(&self.0[self.position(id).ok()?].1)
    }

    /// The reply buffer of a message, made where there is none.
    pub fn of(&mut self, id: Id) -> Arc<ReplyBuffer> {
        let at = self.position(id).unwrap_or_else(|at| {
            self.0.insert(at, (id, Arc::default()));
            at
        });
        Arc::clone(&self.0[at].1)
    }

    /// Ends a reply whose text nobody may read any more.
    pub fn forget(&mut self, id: Id) {
        if let Some(reply) = self.get(id) {
            let mut state = reply.lock();
            (state.text, state.report) = Default::default();
        }
        self.end(id);
    }

    /// Ends a reply: who watches it is notified.
    pub fn end(&mut self, id: Id) {
        if let Ok(at) = self.position(id) {
            let (_, reply) = self.0.remove(at);
            let mut state = reply.lock();
            state.over = true;
            state.notify();
        }
    }

    /// Makes all watchers look again.
    pub fn notify_watchers(&self) {
        self.0.iter().for_each(|(_, reply)| reply.lock().notify());
    }

    fn position(&self, id: Id) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |(known, _)| *known)
    }
}

/// Ends of turns that are kept in memory, and the longest record of one: 256 KiB in all.
const MAX_RECENT: usize = 32;

pub const MAX_RECENT_RECORD: usize = 8 << 10;

/// Ends of turns that were just written: their clients and targets are about to be given them. Emptied
/// as soon as nothing more is written or under way.
#[derive(Debug, Default)]
pub struct Recent(Vec<(u64, Step)>);

impl Recent {
    pub fn add(&mut self, number: u64, record: &Record, bytes: usize) {
        let Record::Step { step: step @ (Step::Done(..) | Step::Failed(..)), .. } = record else {
            return;
        };
        if bytes <= MAX_RECENT_RECORD {
            self.0.truncate(MAX_RECENT - 1);
            self.0.insert(0, (number, step.clone()));
        }
    }

    pub fn get(&self, number: u64) -> Option<Step> {
        self.0.iter().find(|(known, _)| *known == number).map(|(_, step)| step.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl ReplyBuffers {
        pub fn is_empty(&self) -> bool {
            self.0.is_empty()
        }
    }

    #[test]
    fn watchers_see_what_is_new_and_another_attempt_from_its_beginning() {
        let mut runs = ReplyBuffers::default();
        let run = runs.of(Id::from(1));
        let watch = run.watch(EventFd::new().unwrap());
        run.begin(1);
        (&*run).chunk("hä").unwrap();
        assert!(watch.event.clear());
        assert_eq!(
            run.snapshot(0, 0),
            Snapshot { attempt: 1, text: "hä".into(), more: false, over: false }
        );
        assert_eq!(run.snapshot(1, 1).text, "ä");
        assert_eq!(run.snapshot(1, 3).text, "");
        run.begin(2);
        (&*run).chunk("x").unwrap();
        runs.end(Id::from(1));
        assert_eq!(
            run.snapshot(1, 3),
            Snapshot { attempt: 2, text: "x".into(), more: false, over: true }
        );
        drop(watch);
        assert!(run.lock().watchers.iter().all(|watcher| watcher.upgrade().is_none()));
    }
}
