//! Where the main loop is, for the stop watchdog: readable whatever holds the main loop up.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::Value;

use crate::exit::Exit;
use crate::lifecycle::phase::{Drain, Phase};
use crate::threads::lock;

/// What the main loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Serving,
    Draining,
    Asking,
    Aborting,
    CleaningUp,
    Recording,
    Exiting,
}

/// All of them, in their order, and the words for people.
const WORDS: [(Step, &str); 7] = [
    (Step::Serving, "serving"),
    (Step::Draining, "the drain"),
    (Step::Asking, "the question to the service manager"),
    (Step::Aborting, "the end of aborted turns"),
    (Step::CleaningUp, "the clean-up (what agents left, and the journal's last sync)"),
    (Step::Recording, "the record in the history"),
    (Step::Exiting, "the exit"),
];

/// What the main loop publishes.
#[derive(Debug)]
pub struct Progress {
    step: AtomicU8,
    exit: AtomicU8,
    /// The line for the history, as far as it is known.
    line: Mutex<Value>,
}

impl Default for Progress {
    fn default() -> Progress {
        let exit = AtomicU8::new(Exit::Terminated.code());
        Progress { step: AtomicU8::default(), exit, line: Mutex::default() }
    }
}

impl Progress {
    pub fn enter(&self, step: Step) {
        self.step.store(step as u8, Ordering::SeqCst);
    }

    /// What the main loop does, in words.
    pub fn words(&self) -> &'static str {
        let step = usize::from(self.step.load(Ordering::SeqCst));
        WORDS.get(step).map_or("", |(_, words)| words)
    }

    /// The status that the process would exit with now, and its line.
    pub fn set_end(&self, exit: Exit, line: Value) {
        self.exit.store(exit.code(), Ordering::SeqCst);
        *lock(&self.line) = line;
    }

    pub fn end(&self) -> (u8, Value) {
        (self.exit.load(Ordering::SeqCst), lock(&self.line).clone())
    }
}

impl From<Phase> for Step {
    fn from(phase: Phase) -> Step {
        match phase {
            Phase::Starting
            | Phase::Serving
            | Phase::Pausing { .. }
            | Phase::HandingOver { .. }
            | Phase::Closing { .. } => Step::Serving,
            Phase::Draining(Drain { quiet: true, verdict: None, .. })
            | Phase::Confirming { .. } => Step::Asking,
            Phase::Draining(Drain { aborting: true, .. }) | Phase::Failing => Step::Aborting,
            Phase::Draining(_) => Step::Draining,
            Phase::Stopped(_) => Step::CleaningUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::phase::{Event, VerdictKind, next};

    #[test]
    fn every_step_has_its_words() {
        for (place, (step, _)) in WORDS.iter().enumerate() {
            assert_eq!(usize::from(*step as u8), place);
        }
    }

    #[test]
    fn a_stop_is_told_by_what_it_waits_for() {
        let play = |events: &[Event]| {
            Step::from(events.iter().fold(Phase::Serving, |phase, event| next(phase, *event).0))
        };
        let planned = Event::Verdict(VerdictKind::Planned);
        assert_eq!(play(&[]), Step::Serving);
        assert_eq!(play(&[Event::Signal]), Step::Draining);
        assert_eq!(play(&[Event::Signal, Event::Quiet]), Step::Asking);
        assert_eq!(play(&[Event::Signal, planned]), Step::Draining);
        assert_eq!(play(&[Event::Signal, planned, Event::Expired]), Step::Aborting);
        assert_eq!(play(&[Event::Signal, planned, Event::Quiet]), Step::CleaningUp);
    }
}
