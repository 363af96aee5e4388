//! What is sent in one conversation: one thing after the other. Pure.
//!
//! A part is handed over once its record is durable, and the next one follows once its receipt is recorded.
//! With `uncertain = "edit"` a part begins as an empty place, whose id is durable before text enters it.

mod steps;

use std::collections::VecDeque;
use std::mem;
use std::time::Instant;

use super::preview::Preview;
use super::values::{Abilities, Action, Delivery, Draft, Rules};
use super::work::Work;
use crate::channel::wire::Failure;
use crate::journal::record::Step;
use crate::session::Id;

/// What it is done in.
#[derive(Debug)]
pub struct Context<'a> {
    pub rules: &'a Rules,
    /// None: no adapter is ready.
    pub abilities: Option<&'a Abilities>,
    /// Something may be handed over.
    pub open: bool,
    pub now: Instant,
    pub actions: &'a mut VecDeque<Action>,
}

#[derive(Debug)]
enum State {
    Idle,
    /// The first reply of the queue is being read.
    Loading(Id),
    Recording(Recording),
    InFlight {
        id: Id,
        part: u32,
        what: What,
        /// Without a receipt by then it is uncertain.
        by: Instant,
    },
}

#[derive(Debug)]
struct Recording {
    id: Id,
    n: u32,
    step: Step,
    then: Then,
    /// When it is tried again.
    again: Option<Instant>,
}

/// What follows a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The text is handed over.
    Text,
    /// An empty place is.
    Place,
    /// The same part goes on.
    Go,
    /// The next part has its turn.
    Next,
    /// The same reply is tried again, after this time.
    PutOff(Option<Instant>),
    /// The reply is settled.
    Over,
    /// Nothing: it was a preview's.
    Nothing,
}

/// What is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Text,
    Place,
    /// A preview, the first one or an edit of it.
    Preview {
        first: bool,
    },
    /// Nobody wants it any more; what it shows is taken back.
    Unwanted {
        taken_back: bool,
    },
}

/// What happens. Those about a reply are about the one at work.
#[derive(Debug)]
pub enum Event {
    /// It is this conversation's turn.
    Start,
    Loaded(Box<Delivery>),
    PutOff(Instant),
    Written,
    Unwritten,
    /// The platform's id of what was in flight.
    Sent(String),
    /// And a random number.
    Failed(Failure, u64),
    Lost,
    Forgotten,
    /// The preview of this message is.
    Unwanted(Id),
}

#[derive(Debug)]
pub struct Conversation {
    pub name: String,
    state: State,
    queue: VecDeque<Id>,
    /// The first reply of the queue, as far as it is in memory.
    work: Option<Box<Work>>,
    /// The number of the next attempt of a reply that is not.
    attempt: Option<(Id, u32)>,
    /// How often this part did not get through with an adapter of this process: it may have been shown
    /// without that being known, or was refused.
    setbacks: (Option<(Id, u32)>, [u32; 2]),
    previews: Vec<Preview>,
    /// No preview is shown before then.
    next_preview: Option<Instant>,
    /// It is left alone before then.
    until: Option<Instant>,
    /// When it had its last turn, in turns.
    pub turn: u64,
    /// Its id from now on.
    pub moves_to: Option<String>,
}

impl Conversation {
    pub fn new(name: &str) -> Conversation {
        Conversation {
            name: name.to_owned(),
            state: State::Idle,
            queue: VecDeque::new(),
            work: None,
            attempt: None,
            setbacks: (None, [0; 2]),
            previews: Vec::new(),
            next_preview: None,
            until: None,
            turn: 0,
            moves_to: None,
        }
    }

    pub fn enqueue(&mut self, id: Id) {
        // From now on the reply itself is shown.
        self.previews.retain(|it| it.id != id);
        if !self.queue.contains(&id) {
            self.queue.push_back(id);
        }
    }

    /// Takes out what is not at work.
    pub fn remove(&mut self, id: Id) {
        self.queue.retain(|it| *it != id);
        self.work.take_if(|it| it.of.id == id);
    }

    pub fn preview(&mut self, draft: &Draft<'_>, can: &Abilities) {
        if self.queue.contains(&draft.id) {
            return;
        }
        let at = self.previews.iter().position(|it| it.id == draft.id).unwrap_or_else(|| {
            self.previews.push(Preview::new(draft));
            self.previews.len() - 1
        });
        self.previews[at].update(draft.text, can);
    }

    /// The message whose reply or preview is at work.
    pub fn current(&self) -> Option<Id> {
        match &self.state {
            State::Idle => None,
            State::Loading(id) | State::InFlight { id, .. } => Some(*id),
            State::Recording(recording) => Some(recording.id),
        }
    }

    /// This part is in flight.
    pub fn awaits(&self, of: Id, number: u64) -> bool {
        matches!(&self.state, State::InFlight { id, part, .. } if *id == of && u64::from(*part) == number)
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    pub fn is_in_flight(&self) -> bool {
        matches!(self.state, State::InFlight { .. })
    }

    /// Replies that are not settled.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// It has something to do now.
    pub fn is_due(&self, now: Instant) -> bool {
        let may = self.is_idle() && self.until.is_none_or(|until| until <= now);
        may && (!self.queue.is_empty() || self.shows(now))
    }

    /// A preview is due.
    fn shows(&self, now: Instant) -> bool {
        self.next_preview.is_none_or(|next| next <= now)
            && self.previews.iter().any(Preview::has_news)
    }

    /// Nothing is to be remembered of it.
    pub fn is_over(&self, now: Instant) -> bool {
        let waits = self.until.is_some_and(|until| until > now) || self.moves_to.is_some();
        self.is_idle() && self.queue.is_empty() && self.previews.is_empty() && !waits
    }

    /// What is in flight had no receipt in time.
    pub fn is_late(&self, now: Instant) -> bool {
        matches!(self.state, State::InFlight { by, .. } if by <= now)
    }

    /// The record that could not be written is due.
    pub fn is_stuck(&self, now: Instant) -> bool {
        matches!(&self.state, State::Recording(it) if it.again.is_some_and(|again| again <= now))
    }

    /// When it has something to do, where an adapter is `ready`.
    pub fn next_wake(&self, ready: bool) -> Option<Instant> {
        match &self.state {
            State::Recording(recording) => recording.again,
            State::InFlight { by, .. } => Some(*by),
            State::Loading(_) => None,
            State::Idle if !ready => None,
            State::Idle if !self.queue.is_empty() => self.until,
            State::Idle => {
                let next = self.next_preview.max(self.until);
                next.filter(|_| self.previews.iter().any(Preview::has_news))
            }
        }
    }

    /// Forgets what is in memory of a reply that has no turn: it is read again.
    pub fn unload(&mut self) {
        if self.is_idle() {
            self.unload_work();
        }
    }

    fn unload_work(&mut self) {
        if let Some(work) = self.work.take() {
            self.attempt = Some((work.of.id, work.n));
        }
    }

    /// Takes what the conversation had under an earlier id, in front of what it has not begun.
    pub fn absorb(&mut self, old: Conversation) {
        self.unload();
        let begun = self.queue.front().copied().filter(|id| self.current() == Some(*id));
        let mut queue = old.queue;
        begun.into_iter().for_each(|id| queue.push_front(id));
        queue.extend(self.queue.drain(usize::from(begun.is_some())..));
        self.queue = queue;
        self.previews.extend(old.previews);
        self.next_preview = self.next_preview.max(old.next_preview);
        self.attempt = self.attempt.or(old.attempt);
        if begun.is_none() {
            self.setbacks = old.setbacks;
        }
    }

    /// Goes on under the id of this one, in front of what that has not begun.
    pub fn follow(&mut self, newer: Conversation) {
        self.name = newer.name;
        self.queue.extend(newer.queue);
        self.previews.extend(newer.previews);
        self.next_preview = self.next_preview.max(newer.next_preview);
        (self.until, self.moves_to) = (self.until.max(newer.until), newer.moves_to);
    }

    pub fn on(&mut self, event: Event, cx: &mut Context<'_>) {
        let state = mem::replace(&mut self.state, State::Idle);
        self.state = match (state, event) {
            (State::Idle, Event::Start) => self.start(cx),
            (State::Recording(it), Event::Start) => it.repeat(cx),
            (State::Loading(_), Event::Loaded(delivery)) => self.begin(*delivery, cx),
            (State::Loading(_), Event::PutOff(until)) => {
                self.until = Some(until);
                State::Idle
            }
            (State::Loading(id), Event::Forgotten) => self.forget(id, cx),
            (State::Loading(_), Event::Lost) => State::Idle,
            (State::Recording(it), Event::Written) => self.recorded(&it, cx),
            (State::Recording(it), Event::Unwritten) => self.unrecorded(it, cx),
            (State::Recording(it), Event::Forgotten) => self.forget(it.id, cx),
            // It is not handed over to another one.
            (State::Recording(Recording { then: Then::Text | Then::Place, .. }), Event::Lost) => {
                self.give_up_attempt()
            }
            (State::InFlight { id, what, .. }, Event::Sent(message)) => {
                self.sent(id, what, message, cx)
            }
            (State::InFlight { id, what, .. }, Event::Failed(failure, random)) => {
                self.failed(id, what, failure, random, cx)
            }
            (State::InFlight { id, what, .. }, Event::Lost) => self.lost(id, what, cx),
            (State::InFlight { id, part, what, by }, Event::Forgotten) => {
                let taken_back = match what {
                    What::Text => false,
                    What::Place => true,
                    What::Preview { first: it } | What::Unwanted { taken_back: it } => it,
                };
                self.forget(id, cx);
                State::InFlight { id, part, what: What::Unwanted { taken_back }, by }
            }
            (
                State::InFlight { id, part, what: What::Preview { first }, by },
                Event::Unwanted(of),
            ) if of == id => {
                self.end_preview(of, cx);
                State::InFlight { id, part, what: What::Unwanted { taken_back: first }, by }
            }
            (state, Event::Unwanted(of)) => {
                self.end_preview(of, cx);
                state
            }
            // It comes too late, or changes nothing.
            (State::Idle, Event::Lost) => {
                self.unload();
                State::Idle
            }
            (
                state @ (State::Idle | State::Recording(_) | State::InFlight { .. }),
                Event::Loaded(_) | Event::PutOff(_),
            )
            | (state @ (State::Loading(_) | State::InFlight { .. }), Event::Start)
            | (state @ State::Idle, Event::Forgotten)
            | (state @ State::Recording(_), Event::Lost)
            | (
                state @ (State::Idle | State::Loading(_) | State::InFlight { .. }),
                Event::Written | Event::Unwritten,
            )
            | (
                state @ (State::Idle | State::Loading(_) | State::Recording(_)),
                Event::Sent(_) | Event::Failed(..),
            ) => state,
        };
    }
}
