//! The state of the connection with one adapter process. Pure: what has come is an event, what is to be done
//! about it are actions, in their order.
//!
//! An adapter numbers what it offers: from any number, each one more than the last. Each offer has one answer,
//! and answers go out in that order, whenever they are given. After an offer that is to come again later, all
//! behind it have to come again as well, from that number on: until then they are refused here, the ones too
//! that the caller has taken meanwhile; it knows them by their ids when they come again. So the cursor of an
//! offer must not become durable before the offers in front of it.
//!
//! Whatever else an adapter does with numbers is a fault, and its process is to be ended: what it has offered
//! without an answer is still the platform's.

#[cfg(any(test, fuzzing))]
pub mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::wire::{self, FromAdapter, News, Offer, Ready, Receipt, Rejected};

/// An adapter that says nothing for so long before it is ready is none; one that connects says so.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// So long after its last line it is asked whether it lives, and so long it has for the answer.
const PING_AFTER: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(60);

/// Without a receipt for so long, what was handed over may or may not have arrived.
const RECEIPT_WITHIN: Duration = Duration::from_secs(120);

/// What it may hold without an answer, and what it may be given.
const MAX_WINDOW: u64 = 1024;
const MAX_SEND_WINDOW: u64 = 256;

/// No platform allows less. More is as good as this: written as JSON it fits a line whatever is in it.
const MIN_TEXT: u64 = 64;
const MAX_TEXT: u64 = 128 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has not said yet what it can do.
    Opening,
    Serving,
    /// Its stdin is closed, or about to be: only what it still tells counts.
    Closing,
    Over,
}

#[derive(Debug)]
pub enum Event {
    /// A line of its, or why it is none.
    Line(Result<FromAdapter, String>),
    /// What was decided on an offer, after the sync. An offer that was refused meanwhile needs none.
    Answer { serial: u64, answer: Answer },
    /// So many parts are handed over and have no receipt.
    Unanswered(usize),
    /// [`Link::timer`] may be due. Lines that have come are to be taken first.
    Timer,
    /// Its stdin is about to be closed.
    Close,
    /// Nothing more can come.
    Ended,
}

/// What becomes of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The id of the message that it became; `None`: nobody is served.
    Taken { message: Option<String>, duplicate: bool },
    /// It is to be offered again after so many seconds.
    Later { retry_after: u64, why: String },
    /// It is not to be offered again.
    Never(String),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// A line for its stdin.
    Write(String),
    Ready(Ready),
    /// To be decided on, and answered by this number.
    Offer {
        serial: u64,
        offer: Offer,
    },
    /// It may be one of a part that was never handed over.
    Receipt(Receipt),
    News(News),
    /// It is refused, and its files are nobody's.
    Rejected(Rejected),
    /// Something was ignored.
    Complain(String),
    /// Its process is to be ended, as [`Event::Close`] would have it.
    Fault(String),
}

/// An offer whose answer is not out.
#[derive(Debug)]
struct Pending {
    n: u64,
    serial: u64,
    answer: Option<Answer>,
}

/// What is to be offered again before anything else is taken.
#[derive(Debug)]
struct Gate {
    n: u64,
    retry_after: u64,
}

/// A connection.
#[derive(Debug)]
pub struct Link {
    phase: Phase,
    /// When its last line came.
    heard: Instant,
    pong_by: Option<Instant>,
    receipt_by: Option<Instant>,
    window: usize,
    /// Of the next offer; `None`: it may be any.
    next: Option<u64>,
    serial: u64,
    pending: VecDeque<Pending>,
    gate: Option<Gate>,
}

impl Link {
    /// The process has started at this time, and is greeted.
    pub fn begin(now: Instant) -> Link {
        Link {
            phase: Phase::Opening,
            heard: now,
            pong_by: None,
            receipt_by: None,
            window: 0,
            next: None,
            serial: 0,
            pending: VecDeque::new(),
            gate: None,
        }
    }

    /// Offers without an answer.
    pub fn unanswered(&self) -> usize {
        self.pending.len()
    }

    /// When [`Event::Timer`] is due.
    pub fn timer(&self) -> Option<Instant> {
        match self.phase {
            Phase::Opening => Some(self.heard + READY_WITHIN),
            Phase::Serving => {
                let alive = self.pong_by.unwrap_or(self.heard + PING_AFTER);
                Some(self.receipt_by.map_or(alive, |by| by.min(alive)))
            }
            Phase::Closing | Phase::Over => None,
        }
    }

    /// Takes what has come at this time.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        use Phase::{Closing, Opening, Over, Serving};
        if matches!(event, Event::Line(_)) {
            self.heard = now;
        }
        match (self.phase, event) {
            (Opening, Event::Line(Ok(line))) => self.opening(line),
            (Serving, Event::Line(Ok(line))) => self.serving(now, line),
            (Closing, Event::Line(Ok(line))) => closing(line),
            (Opening | Serving, Event::Line(Err(why))) => self.fault(why),
            (Closing, Event::Line(Err(why))) => vec![Action::Complain(why)],

            (Serving, Event::Answer { serial, answer }) => self.answer(serial, answer),
            (Serving, Event::Unanswered(count)) => {
                let by = self.receipt_by.unwrap_or(now + RECEIPT_WITHIN);
                self.receipt_by = (count > 0).then_some(by);
                Vec::new()
            }
            (Opening | Closing, Event::Answer { .. } | Event::Unanswered(_)) => Vec::new(),

            (Opening | Serving, Event::Timer) if self.timer().is_none_or(|due| now < due) => {
                Vec::new()
            }
            (Opening, Event::Timer) => self.fault("it does not become ready".to_owned()),
            (Serving, Event::Timer) => self.overdue(now),
            (Closing, Event::Timer) => Vec::new(),

            (Opening | Serving | Closing, Event::Close) => {
                self.go(Closing);
                Vec::new()
            }
            (Opening | Serving | Closing, Event::Ended) => {
                self.go(Over);
                Vec::new()
            }
            (Over, _) => Vec::new(),
        }
    }

    /// What has no answer stays the platform's.
    fn go(&mut self, phase: Phase) {
        self.phase = phase;
        self.pending.clear();
    }

    fn fault(&mut self, why: String) -> Vec<Action> {
        self.go(Phase::Closing);
        vec![Action::Fault(why)]
    }

    fn opening(&mut self, line: FromAdapter) -> Vec<Action> {
        match line {
            FromAdapter::Ready(mut ready) => {
                if let Some(why) = unfit(&ready) {
                    return self.fault(why);
                }
                ready.max_len = ready.max_len.min(MAX_TEXT);
                self.window = usize::try_from(ready.window).unwrap_or(0);
                self.phase = Phase::Serving;
                vec![Action::Ready(ready)]
            }
            FromAdapter::Offer { .. } | FromAdapter::Receipt(_) | FromAdapter::Rejected { .. } => {
                self.fault("its first line has to be ready".to_owned())
            }
            FromAdapter::News(news) => vec![Action::News(news)],
            FromAdapter::Unknown(why) => vec![Action::Complain(why)],
            FromAdapter::Pong => Vec::new(),
        }
    }

    fn serving(&mut self, now: Instant, line: FromAdapter) -> Vec<Action> {
        match line {
            FromAdapter::Ready(_) => self.fault("it says ready twice".to_owned()),
            FromAdapter::Offer { n, offer } => self.offered(n, Ok(offer)),
            FromAdapter::Rejected { n, item } => self.offered(n, Err(item)),
            FromAdapter::Unknown(why) => vec![Action::Complain(why)],
            FromAdapter::Receipt(receipt) => {
                self.receipt_by = self.receipt_by.map(|_| now + RECEIPT_WITHIN);
                vec![Action::Receipt(receipt)]
            }
            FromAdapter::Pong => {
                self.pong_by = None;
                Vec::new()
            }
            FromAdapter::News(news) => vec![Action::News(news)],
        }
    }

    /// An offer came, or what is refused for good whatever it is.
    fn offered(&mut self, n: u64, offer: Result<Offer, Rejected>) -> Vec<Action> {
        // That it is to come again is known once nothing is pending.
        let gate = self.gate.as_ref().map(|gate| gate.n).filter(|_| self.pending.is_empty());
        let again = gate == Some(n);
        let wrong = match self.next {
            Some(next) if next != n && !again => {
                let or = gate.map_or(String::new(), |gate| format!(" or again {gate}"));
                Some(format!("number {n} where {next}{or} is due"))
            }
            Some(_) | None if self.pending.len() >= self.window => {
                Some(format!("number {n} is over its window of {}", self.window))
            }
            Some(_) | None => None,
        };
        let (None, Some(next)) = (&wrong, n.checked_add(1)) else {
            return self.fault(wrong.unwrap_or_else(|| format!("number {n} is the last one")));
        };
        if again {
            self.gate = None;
        }
        self.next = Some(next);
        self.serial += 1;
        let serial = self.serial;
        self.pending.push_back(Pending { n, serial, answer: None });
        match (&self.gate, offer) {
            (Some(gate), Ok(_) | Err(_)) => {
                let refusal = gate.refusal();
                self.answer(serial, refusal)
            }
            (None, Err(item)) => {
                let refusal = Answer::Never(item.why.clone());
                let mut actions = vec![Action::Rejected(item)];
                actions.append(&mut self.answer(serial, refusal));
                actions
            }
            (None, Ok(offer)) => vec![Action::Offer { serial, offer }],
        }
    }

    /// Gives an offer its answer, and writes all whose turn it is.
    fn answer(&mut self, serial: u64, answer: Answer) -> Vec<Action> {
        let mut all = self.pending.iter_mut();
        let Some(pending) = all.find(|it| it.serial == serial && it.answer.is_none()) else {
            return Vec::new();
        };
        if let Answer::Later { retry_after, .. } = answer {
            let gate = Gate { n: pending.n, retry_after };
            all.for_each(|later| later.answer = Some(gate.refusal()));
            // Of one that is closed already this is a part.
            if self.gate.as_ref().is_none_or(|closed| gate.n < closed.n) {
                self.gate = Some(gate);
            }
        }
        pending.answer = Some(answer);
        let mut actions = Vec::new();
        while let Some(Pending { answer: Some(_), .. }) = self.pending.front() {
            let Some(Pending { n, answer: Some(answer), .. }) = self.pending.pop_front() else {
                break;
            };
            actions.push(Action::Write(match answer {
                Answer::Taken { message, duplicate } => wire::ack(n, message.as_deref(), duplicate),
                Answer::Later { retry_after, why } => wire::refuse(n, Some(retry_after), &why),
                Answer::Never(why) => wire::refuse(n, None, &why),
            }));
        }
        actions
    }

    /// A time has run out.
    fn overdue(&mut self, now: Instant) -> Vec<Action> {
        let late = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        let seconds = |time: Duration| time.as_secs();
        if late(self.pong_by) {
            let time = seconds(PONG_WITHIN);
            return self.fault(format!("it has not answered a ping within {time} s"));
        }
        if late(self.receipt_by) {
            let time = seconds(RECEIPT_WITHIN);
            return self.fault(format!("it has not said within {time} s what became of a send"));
        }
        self.pong_by = Some(now + PONG_WITHIN);
        vec![Action::Write(wire::ping())]
    }
}

impl Gate {
    fn refusal(&self) -> Answer {
        let why = format!("number {} has to be offered again first", self.n);
        Answer::Later { retry_after: self.retry_after, why }
    }
}

/// Its stdin is closed. An offer cannot be answered any more: it stays the platform's.
fn closing(line: FromAdapter) -> Vec<Action> {
    match line {
        FromAdapter::Receipt(receipt) => vec![Action::Receipt(receipt)],
        FromAdapter::News(news) => vec![Action::News(news)],
        FromAdapter::Ready(_)
        | FromAdapter::Offer { .. }
        | FromAdapter::Pong
        | FromAdapter::Rejected { .. }
        | FromAdapter::Unknown(_) => Vec::new(),
    }
}

/// Why the gateway cannot work with that.
fn unfit(ready: &Ready) -> Option<String> {
    let within = |name: &str, value: u64, least: u64, most: u64| {
        let good = (least..=most).contains(&value);
        (!good).then(|| format!("ready: \"{name}\" is {value}, and has to be {least} to {most}"))
    };
    if ready.v != wire::VERSION {
        let (its, ours) = (ready.v, wire::VERSION);
        return Some(format!(
            "it speaks version {its} of the protocol, and the gateway version {ours}"
        ));
    }
    within("window", ready.window, 1, MAX_WINDOW)
        .or_else(|| within("send_window", ready.send_window, 1, MAX_SEND_WINDOW))
        .or_else(|| within("max_len", ready.max_len, MIN_TEXT, u64::MAX))
}
