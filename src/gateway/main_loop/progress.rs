//! Where the main loop is, for the stop watchdog: readable whatever holds the main loop up.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::Value;

use crate::exit::Exit;
use crate::lifecycle::phase::{Drain, Outcome, Phase};
use crate::threads::lock;

/// What the main loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StopStep {
    Serving,
    Draining,
    Asking,
    Aborting,
    CleaningUp,
    Recording,
    Exiting,
    Pausing,
    HandingOver,
    Closing,
    Executing,
}

/// All of them, in their order, and the words for people.
const WORDS: [(StopStep, &str); 11] = [
    (StopStep::Serving, "serving"),
    (StopStep::Draining, "the drain"),
    (StopStep::Asking, "the question to the service manager"),
    (StopStep::Aborting, "the end of aborted turns"),
    (StopStep::CleaningUp, "the clean-up (what agents left, and the journal's last sync)"),
    (StopStep::Recording, "the record in the history"),
    (StopStep::Exiting, "the exit"),
    (StopStep::Pausing, "the pause before a restart"),
    (StopStep::HandingOver, "the handover of connections"),
    (StopStep::Closing, "the close of the journal for a restart"),
    (StopStep::Executing, "the exec of a restart"),
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
    pub fn enter(&self, step: StopStep) {
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

impl From<Phase> for StopStep {
    fn from(phase: Phase) -> StopStep {
        match phase {
            Phase::Starting | Phase::Serving => StopStep::Serving,
            Phase::Pausing { .. } => StopStep::Pausing,
            Phase::HandingOver { .. } => StopStep::HandingOver,
            Phase::Closing { .. } => StopStep::Closing,
            Phase::Stopped(Outcome::Restarted) => StopStep::Executing,
            Phase::Draining(Drain { quiet: true, verdict: None, .. })
            | Phase::Confirming { .. } => StopStep::Asking,
            Phase::Draining(Drain { aborting: true, .. }) | Phase::Failing => StopStep::Aborting,
            Phase::Draining(_) => StopStep::Draining,
            Phase::Stopped(_) => StopStep::CleaningUp,
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
            StopStep::from(events.iter().fold(Phase::Serving, |phase, event| next(phase, *event).0))
        };
        let planned = Event::Verdict(VerdictKind::Planned);
        assert_eq!(play(&[]), StopStep::Serving);
        assert_eq!(play(&[Event::Signal]), StopStep::Draining);
        assert_eq!(play(&[Event::Signal, Event::Quiet]), StopStep::Asking);
        assert_eq!(play(&[Event::Signal, planned]), StopStep::Draining);
        assert_eq!(play(&[Event::Signal, planned, Event::Expired]), StopStep::Aborting);
        assert_eq!(play(&[Event::Signal, planned, Event::Quiet]), StopStep::CleaningUp);
    }
}
