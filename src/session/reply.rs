//! The reply buffer of one message: its turn writes into it, and whoever waits reads from it.
//!
//! The buffer is bounded by `limits.max_reply`, which the agent's reader keeps.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use super::id::Id;
use crate::agent::{Outcome, Reply, Report};
use crate::journal::record::{Accepted, Record, Step};
use crate::limits::{MAX_LIVE_EVENT_BYTES, MAX_LIVE_EVENTS, WRITE_CHUNK};
use crate::sys::fd::EventFd;
use crate::threads::lock;

/// Attempts that may be released one after the other before there is a pause, and it counts as a failure.
pub const MAX_RELEASES: u32 = 20;

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
    /// What the agent did beside it: the newest, how many there were, and the bytes of those that are here.
    events: VecDeque<LiveEvent>,
    event_count: usize,
    event_bytes: usize,
    pub(super) report: Report,
    /// Its sender waits on the connection of a chat, where nobody can answer questions.
    pub(super) attended: bool,
    /// Attempts that were released, one after the other.
    pub(super) releases: u32,
    /// Which of several upstreams answers.
    upstream: Option<String>,
    /// Nothing more will come.
    pub(super) over: bool,
    /// The turn is to end, and what tells its agent.
    cancelled: bool,
    cancel: Option<Arc<EventFd>>,
    /// Each, and whether it is told of text and events.
    watchers: Vec<(Weak<EventFd>, bool)>,
}

/// Something that happens beside the text of a reply. Not in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveEvent {
    /// Counts those of the attempt, from 0.
    number: usize,
    /// How much text there was.
    offset: usize,
    pub word: &'static str,
    /// An object, on one line.
    pub json: Arc<str>,
}

/// What a watcher sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The attempt whose text this is; 0 before the first.
    pub attempt: u32,
    /// What follows the offset that was asked for.
    pub text: String,
    /// What comes behind it, where events are asked for.
    pub event: Option<LiveEvent>,
    /// How many events of this attempt are seen, with this one.
    pub seen: usize,
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
        (state.events, state.event_count, state.event_bytes) = Default::default();
        (state.report, state.upstream) = Default::default();
        state.notify();
    }

    /// What the end of an attempt counts as: a turn that is released time and again would keep a thread
    /// busy, and never end.
    pub fn count_release(&self, outcome: &Outcome) -> Outcome {
        let mut state = self.lock();
        let Outcome::Released(why) = outcome else {
            state.releases = 0;
            return outcome.clone();
        };
        state.releases += 1;
        if state.releases <= MAX_RELEASES {
            return outcome.clone();
        }
        Outcome::Temporary(format!("{why} ({} times, one after the other)", state.releases))
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
    /// where another attempt is on by now. Without events.
    pub fn snapshot(&self, attempt: u32, offset: usize) -> Snapshot {
        self.look(attempt, offset, None)
    }

    /// The same with the attempt's events in their places between the text, but for the first `seen`: the
    /// text up to the next of these, and that.
    pub fn snapshot_with_events(&self, attempt: u32, offset: usize, seen: usize) -> Snapshot {
        self.look(attempt, offset, Some(seen))
    }

    fn look(&self, attempt: u32, offset: usize, seen: Option<usize>) -> Snapshot {
        let state = self.lock();
        let (from, seen) =
            if attempt == state.attempt { (offset, seen) } else { (0, seen.map(|_| 0)) };
        let rest = state.text.get(from..).unwrap_or("");
        let is_unseen = |event: &&LiveEvent| seen.is_some_and(|seen| event.number >= seen);
        let mut unseen = state.events.iter().filter(is_unseen);
        let next = unseen.next();
        let before = next.map_or(usize::MAX, |event| event.offset.saturating_sub(from));
        let text = rest[..rest.floor_char_boundary(WRITE_CHUNK.min(before))].to_owned();
        let event = next.filter(|_| text.len() == before).cloned();
        let seen = event.as_ref().map_or(seen.unwrap_or(0), |event| event.number + 1);
        let unshown = next.is_some() && (event.is_none() || unseen.next().is_some());
        let more = text.len() < rest.len() || unshown;
        let (attempt, over) = (state.attempt, state.over && !more);
        Snapshot { attempt, text, event, seen, more, over }
    }

    pub(super) fn add_text(&self, text: &str) {
        let mut state = self.lock();
        if !state.over {
            state.text.push_str(text);
        }
        state.notify_readers();
    }

    /// Something happens that is no text: see [`Reply::event`].
    pub(super) fn add_event(&self, word: &'static str, json: Arc<str>) {
        let mut state = self.lock();
        let (number, offset) = (state.event_count, state.text.len());
        (state.event_count, state.event_bytes) = (number + 1, state.event_bytes + json.len());
        state.events.push_back(LiveEvent { number, offset, word, json });
        while state.events.len() > MAX_LIVE_EVENTS || state.event_bytes > MAX_LIVE_EVENT_BYTES {
            let Some(oldest) = state.events.pop_front() else { break };
            state.event_bytes -= oldest.json.len();
        }
        state.notify_readers();
    }

    /// An event does not hold any more: who has not seen it yet is not shown it.
    pub(super) fn retract(&self, json: &Arc<str>) {
        let mut state = self.lock();
        let before = state.events.len();
        state.events.retain(|event| !Arc::ptr_eq(&event.json, json));
        if state.events.len() < before {
            state.event_bytes -= json.len();
        }
    }

    /// Notifies this event of everything new, for as long as the [`Watch`] lives.
    pub fn watch(self: &Arc<Self>, event: EventFd) -> Watch {
        let event = Arc::new(event);
        let watchers = &mut self.lock().watchers;
        watchers.retain(|(watcher, _)| watcher.strong_count() > 0);
        watchers.push((Arc::downgrade(&event), true));
        Watch { reply: Arc::clone(self), event }
    }
}

impl State {
    /// Makes the watchers look again.
    pub fn notify(&self) {
        let all = self.watchers.iter().filter_map(|(watcher, _)| watcher.upgrade());
        all.for_each(|watcher| watcher.notify());
    }

    fn notify_readers(&self) {
        let readers = self.watchers.iter().filter(|(_, reads)| *reads);
        readers.filter_map(|(it, _)| it.upgrade()).for_each(|reader| reader.notify());
    }
}

impl Reply for &ReplyBuffer {
    fn chunk(&mut self, text: &str) -> io::Result<()> {
        self.add_text(text);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.lock().text.len()
    }

    fn event(&mut self, word: &'static str, json: &str) {
        self.add_event(word, Arc::from(json));
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

impl Watch {
    /// Wakes up for the end, and for what delays it, and no more for text and events.
    pub fn for_end(self) -> Watch {
        let event = Arc::downgrade(&self.event);
        let mut state = self.reply.lock();
        state.watchers.iter_mut().for_each(|(it, reads)| *reads &= !it.ptr_eq(&event));
        drop(state);
        self
    }
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
            (state.text, state.report, state.events) = Default::default();
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

    pub fn iter(&self) -> impl Iterator<Item = &(Id, Arc<ReplyBuffer>)> {
        self.0.iter()
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
        let shows = |attempt, text: &str, over| {
            let (event, seen, more) = (None, 0, false);
            Snapshot { attempt, text: text.to_owned(), event, seen, more, over }
        };
        assert_eq!(run.snapshot(0, 0), shows(1, "hä", false));
        assert_eq!(run.snapshot(1, 1).text, "ä");
        assert_eq!(run.snapshot(1, 3).text, "");
        run.begin(2);
        (&*run).chunk("x").unwrap();
        runs.end(Id::from(1));
        assert_eq!(run.snapshot(1, 3), shows(2, "x", true));
        drop(watch);
        assert!(run.lock().watchers.iter().all(|(watcher, _)| watcher.upgrade().is_none()));
    }

    #[test]
    fn who_waits_for_the_end_is_not_woken_up_by_each_chunk() {
        let mut runs = ReplyBuffers::default();
        let run = runs.of(Id::from(1));
        let reader = run.watch(EventFd::new().unwrap());
        let watch = run.watch(EventFd::new().unwrap()).for_end();
        (&*run).chunk("a").unwrap();
        (&*run).event("tool", "{}");
        assert!(reader.event.clear() && !watch.event.clear());
        run.begin(2);
        assert!(reader.event.clear() && watch.event.clear());
        runs.end(Id::from(1));
        assert!(watch.event.clear());
    }

    /// All that a reader gets who has seen so much, in its order.
    fn shown(run: &ReplyBuffer, mut attempt: u32, mut offset: usize, mut seen: usize) -> String {
        let mut all = Vec::new();
        loop {
            let it = run.snapshot_with_events(attempt, offset, seen);
            if it.attempt != attempt {
                offset = 0;
            }
            (attempt, offset, seen) = (it.attempt, offset + it.text.len(), it.seen);
            if !it.text.is_empty() {
                all.push(it.text);
            }
            all.extend(it.event.map(|event| format!("{}={}", event.word, event.json)));
            if !it.more {
                return all.join(" ");
            }
        }
    }

    #[test]
    fn events_come_in_their_places_between_the_text() {
        let run = Arc::new(ReplyBuffer::default());
        let watch = run.watch(EventFd::new().unwrap());
        run.begin(1);
        let mut reply = &*run;
        reply.event("plan", "0");
        reply.chunk("ä").unwrap();
        watch.event.clear();
        reply.event("tool", "1");
        assert!(watch.event.clear(), "nobody is told");
        reply.event("tool", "2");
        reply.chunk("bc").unwrap();
        reply.event("tool", "3");
        assert_eq!(shown(&run, 0, 0, 0), "plan=0 ä tool=1 tool=2 bc tool=3");
        assert_eq!(shown(&run, 1, 2, 2), "tool=2 bc tool=3");
        assert_eq!(shown(&run, 1, 3, 3), "c tool=3");
        assert_eq!(shown(&run, 1, 4, 4), "");
        let text = run.snapshot(0, 0);
        assert_eq!((text.text.as_str(), text.event, text.more), ("äbc", None, false));
        // What does not hold any more is not shown, and what was seen stays seen.
        let asked = Arc::<str>::from("x");
        run.add_event("approval", Arc::clone(&asked));
        reply.event("tool", "4");
        run.retract(&asked);
        assert_eq!(shown(&run, 1, 4, 4), "tool=4");
        assert_eq!(shown(&run, 1, 4, 6), "");
        reply.chunk(&"d".repeat(WRITE_CHUNK + 1)).unwrap();
        reply.event("tool", "5");
        let long = run.snapshot_with_events(1, 4, 6);
        assert!(long.event.is_none() && long.more && long.text.len() == WRITE_CHUNK);
        run.begin(2);
        assert_eq!(shown(&run, 1, 4, 4), "", "those of another attempt are gone");
        reply.event("tool", "6");
        assert_eq!(shown(&run, 1, 4, 4), "tool=6");
    }

    #[test]
    fn the_oldest_events_make_room() {
        let run = ReplyBuffer::default();
        run.begin(1);
        let mut reply = &run;
        for at in 0..MAX_LIVE_EVENTS + 2 {
            reply.event("tool", &at.to_string());
        }
        assert!(shown(&run, 1, 0, 0).starts_with("tool=2 tool=3 "));
        assert!(shown(&run, 1, 0, MAX_LIVE_EVENTS).starts_with("tool=256 tool=257"));
        reply.event("tool", &"x".repeat(MAX_LIVE_EVENT_BYTES));
        assert_eq!(run.lock().events.len(), 1);
        reply.event("tool", "y");
        assert_eq!(shown(&run, 1, 0, 0), "tool=y");
        reply.event("tool", &"x".repeat(MAX_LIVE_EVENT_BYTES + 1));
        assert_eq!(run.lock().event_bytes, 0);
        assert!(run.lock().events.is_empty());
    }
}
