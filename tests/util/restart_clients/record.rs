//! What the clients have seen, and what follows from it: sums, a table, and what must not be. Pure, so that
//! records made up by a test can show that it finds what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use super::wire::Failure;

/// One request: when it began, how long until it had its whole answer or none, and what came.
#[derive(Clone, Debug)]
pub struct Sample {
    pub kind: &'static str,
    pub began: Instant,
    pub took: Duration,
    pub failure: Option<Failure>,
    /// Not so for an incident beside the requests, as the bad end of a stream: nobody waited for so long.
    pub waited: bool,
}

/// A restart, from its cause until every kind of client was served again.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub began: Instant,
    /// When the process was seen dead, if the restart was a death without a last word: what was in its hands
    /// then is lost with it.
    pub dead: Option<Instant>,
    pub ended: Instant,
}

/// A message whose acceptance the gateway has acknowledged.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub id: String,
    pub text: String,
}

/// What the gateway says of a message in the end.
#[derive(Clone, Debug)]
pub struct Last {
    pub done: bool,
    pub reply: String,
    pub attempts: u64,
}

/// An event of the session as the stream brought it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub id: u64,
    pub kind: String,
    pub message: String,
}

/// All that the clients have written down.
#[derive(Debug, Default)]
pub struct Record {
    pub samples: Vec<Sample>,
    pub windows: Vec<Window>,
    pub acknowledged: Vec<Acknowledged>,
    /// By the message's id.
    pub last: BTreeMap<String, Last>,
    /// Of the stream that came back with `Last-Event-ID`, in the order in which they came.
    pub events: Vec<Event>,
    /// The same session read in one piece after the last restart.
    pub replay: Vec<Event>,
    /// Of each kind, the good answers to requests that began after this.
    pub since: Option<Instant>,
    pub good: BTreeMap<&'static str, usize>,
    /// How often the connecting client could not begin a connection, since too many were open.
    pub held_back: u64,
}

/// Of one kind of client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    pub requests: u64,
    pub refused: u64,
    pub unavailable: u64,
    pub reset: u64,
    pub cut: u64,
    pub late: u64,
    pub wrong: u64,
    /// Reset or cut in the hands of a process that was killed.
    pub killed: u64,
    /// Sent again, as RFC 9112, 9.3.1 lets a client do.
    pub retried: u64,
    /// The longest wait in a restart, and outside of one.
    pub longest: Duration,
    pub calm: Duration,
}

#[derive(Debug)]
pub struct Summary {
    pub kinds: BTreeMap<&'static str, Tally>,
    pub restarts: usize,
    pub messages: usize,
    /// Acknowledged and without a reply of their own, exactly one.
    pub without_reply: Vec<String>,
    /// Messages whose turn ran more than once.
    pub repeated_turns: usize,
    pub events: usize,
    pub events_doubled: Vec<String>,
    pub events_lost: Vec<String>,
    /// Of each kind of failure the first few, with when it came after its restart began.
    pub examples: Vec<String>,
    pub held_back: u64,
}

/// Of each failure so many are told.
const EXAMPLES: usize = 12;

impl Record {
    pub fn add(&mut self, sample: Sample) {
        let counts = sample.waited && sample.failure.is_none();
        if counts && self.since.is_some_and(|since| sample.began > since) {
            *self.good.entry(sample.kind).or_default() += 1;
        }
        self.samples.push(sample);
    }

    pub fn summary(&self) -> Summary {
        let mut kinds: BTreeMap<&'static str, Tally> = BTreeMap::new();
        let mut examples = Vec::new();
        for sample in &self.samples {
            let tally = kinds.entry(sample.kind).or_default();
            let ended = sample.began + sample.took;
            let windows = &mut self.windows.iter();
            // The last: a stream may have lived through others.
            let window = windows.rfind(|w| sample.began < w.ended && ended >= w.began);
            if sample.waited {
                tally.requests += 1;
                let longest = if window.is_some() { &mut tally.longest } else { &mut tally.calm };
                *longest = sample.took.max(*longest);
            }
            let Some(failure) = &sample.failure else { continue };
            let in_dead_hands =
                window.is_some_and(|w| w.dead.is_some_and(|dead| sample.began < dead));
            let count = match failure {
                Failure::ClosedIdle => &mut tally.retried,
                Failure::Reset | Failure::Cut if in_dead_hands => &mut tally.killed,
                Failure::Refused => &mut tally.refused,
                Failure::Unavailable => &mut tally.unavailable,
                Failure::Reset => &mut tally.reset,
                Failure::Cut => &mut tally.cut,
                Failure::Late => &mut tally.late,
                Failure::Wrong(_) => &mut tally.wrong,
            };
            *count += 1;
            let expected = matches!(failure, Failure::ClosedIdle) || in_dead_hands;
            if !expected && examples.len() < EXAMPLES {
                let when = window.map_or("outside of a restart".to_owned(), |w| {
                    let after = |at: Instant| at.saturating_duration_since(w.began).as_millis();
                    format!("{}..{} ms after its cause", after(sample.began), after(ended))
                });
                examples.push(format!("{}: {failure:?}, {when}", sample.kind));
            }
        }
        let mut summary = Summary {
            kinds,
            restarts: self.windows.len(),
            messages: self.acknowledged.len(),
            without_reply: Vec::new(),
            repeated_turns: self.last.values().filter(|last| last.attempts > 1).count(),
            events: self.events.len(),
            events_doubled: Vec::new(),
            events_lost: Vec::new(),
            examples,
            held_back: self.held_back,
        };
        self.audit_messages(&mut summary);
        self.audit_events(&mut summary);
        summary
    }

    fn audit_messages(&self, summary: &mut Summary) {
        let mut ids = BTreeSet::new();
        for message in &self.acknowledged {
            let wrong = match self.last.get(&message.id) {
                _ if !ids.insert(&message.id) => "has the id of another message".to_owned(),
                None => "is unknown".to_owned(),
                Some(last) if !last.done => "is not done".to_owned(),
                Some(last) if last.reply != message.text => format!("has {:?}", last.reply),
                Some(_) => continue,
            };
            summary.without_reply.push(format!("{} {:?} {wrong}", message.id, message.text));
        }
    }

    fn audit_events(&self, summary: &mut Summary) {
        let mut newest = 0;
        for event in &self.events {
            if event.id <= newest {
                summary.events_doubled.push(format!("{event:?} behind number {newest}"));
            }
            newest = event.id.max(newest);
        }
        let seen: BTreeSet<u64> = self.events.iter().map(|event| event.id).collect();
        // What came behind the last that the stream has brought is not missed yet.
        let lost = |event: &&Event| event.id <= newest && !seen.contains(&event.id);
        summary.events_lost.extend(self.replay.iter().filter(lost).map(|e| format!("{e:?}")));
        // The replay itself may have gaps, where the journal was compacted: what was told before counts too.
        let mut kinds: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for event in &self.events {
            *kinds.entry((&event.message, &event.kind)).or_default() += 1;
        }
        for ((message, kind), count) in kinds {
            if count > 1 && ["accepted", "done"].contains(&kind) {
                summary
                    .events_doubled
                    .push(format!("{message} was told to be {kind} {count} times"));
            }
        }
    }
}

/// What a restart may cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// The longest wait of those kinds that wait for no turn, and of those that do.
    pub longest: Option<Duration>,
    pub longest_turn: Option<Duration>,
    /// A turn may have run twice: only where one was cut by a kill.
    pub repeated_turns: bool,
}

impl Summary {
    /// Of all kinds together.
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for tally in self.kinds.values() {
            total.requests += tally.requests;
            total.refused += tally.refused;
            total.unavailable += tally.unavailable;
            total.reset += tally.reset;
            total.cut += tally.cut;
            total.late += tally.late;
            total.wrong += tally.wrong;
            total.killed += tally.killed;
            total.retried += tally.retried;
            total.longest = total.longest.max(tally.longest);
            total.calm = total.calm.max(tally.calm);
        }
        total
    }

    /// What must not be, in words; empty where all is well.
    pub fn problems(&self, limits: Limits) -> Vec<String> {
        let mut problems = Vec::new();
        for (kind, tally) in &self.kinds {
            for (count, what) in [
                (tally.refused, "refused"),
                (tally.unavailable, "answered with 503"),
                (tally.reset, "reset before the first byte of an answer"),
                (tally.cut, "cut behind the first byte of an answer"),
                (tally.late, "without an answer in time"),
                (tally.wrong, "answered wrongly"),
            ] {
                if count > 0 {
                    problems.push(format!("{kind}: {count} of {} were {what}", tally.requests));
                }
            }
            let turns = super::TURNS.contains(kind);
            let limit = if turns { limits.longest_turn } else { limits.longest };
            if let Some(limit) = limit.filter(|limit| tally.longest > *limit) {
                problems.push(format!(
                    "{kind}: the longest wait was {:?}, not {limit:?}",
                    tally.longest
                ));
            }
        }
        problems.extend(self.without_reply.iter().map(|message| format!("message {message}")));
        problems.extend(self.events_doubled.iter().map(|event| format!("told twice: {event}")));
        problems.extend(self.events_lost.iter().map(|event| format!("never told: {event}")));
        if self.repeated_turns > 0 && !limits.repeated_turns {
            problems.push(format!("{} turns ran more than once", self.repeated_turns));
        }
        if !problems.is_empty() {
            problems.extend(self.examples.iter().cloned());
        }
        problems
    }
}

/// For people: a line for each kind of client, and what became of messages and events.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let rows = self.kinds.iter().map(|(kind, tally)| (*kind, tally)).chain([("all", &total)]);
        write!(
            f,
            "{} restarts\n{:<20}{:>9}{:>9}{:>6}{:>7}{:>6}{:>6}{:>7}{:>10}{:>9}{:>13}{:>10}",
            self.restarts,
            "client",
            "requests",
            "refused",
            "503",
            "reset",
            "cut",
            "late",
            "wrong",
            "in a kill",
            "retries",
            "longest, ms",
            "calm, ms"
        )?;
        for (kind, t) in rows {
            write!(
                f,
                "\n{kind:<20}{:>9}{:>9}{:>6}{:>7}{:>6}{:>6}{:>7}{:>10}{:>9}{:>13.1}{:>10.1}",
                t.requests,
                t.refused,
                t.unavailable,
                t.reset,
                t.cut,
                t.late,
                t.wrong,
                t.killed,
                t.retried,
                t.longest.as_secs_f64() * 1e3,
                t.calm.as_secs_f64() * 1e3
            )?;
        }
        write!(
            f,
            "\nmessages acknowledged {}, without their one reply {}, turns repeated {}; \
             events {}, doubled {}, lost {}; connections held back {}",
            self.messages,
            self.without_reply.len(),
            self.repeated_turns,
            self.events,
            self.events_doubled.len(),
            self.events_lost.len(),
            self.held_back
        )
    }
}
