//! Reloads as requests see them: asked for here, carried out by the gateway, and answered when a
//! reading that began after the question has its outcome.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Service;
use super::error::Problem;
use crate::exit::Exit;
use crate::http::Response;
use crate::limits::RELOAD_PATIENCE;

/// Why a changed configuration is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// RFC 3339.
    pub time: String,
    pub exit: Exit,
    /// All that is wrong, one line each.
    pub message: String,
}

/// What became of one reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub refused: Option<Refusal>,
    /// The keys whose new values take a restart.
    pub restart: Vec<&'static str>,
}

/// The reloads that were asked for and are not done. One runs at a time, so that a newer file is never
/// overtaken by an older one that took longer to read.
#[derive(Debug, Default)]
pub struct Reloads {
    tally: Mutex<Tally>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct Tally {
    wanted: u64,
    finished: u64,
    running: bool,
    last: Outcome,
}

impl Reloads {
    /// Asks for a reading that begins from now on; its number.
    pub fn request(&self) -> u64 {
        let mut tally = self.lock();
        tally.wanted += 1;
        tally.wanted
    }

    /// Whether a thread has to be started for what was asked for. If so, it counts as running.
    pub fn begin(&self) -> bool {
        let mut tally = self.lock();
        let begins = !tally.running && tally.wanted > tally.finished;
        tally.running |= begins;
        begins
    }

    /// There was no thread.
    pub fn give_up(&self) {
        self.lock().running = false;
    }

    /// The request that the next reading answers, with all before it. `None`: none is open, and the
    /// thread ends.
    pub fn next(&self) -> Option<u64> {
        let mut tally = self.lock();
        tally.running = tally.wanted > tally.finished;
        tally.running.then_some(tally.wanted)
    }

    /// A reading is done that began after this request.
    pub fn finish(&self, number: u64, outcome: Outcome) {
        let mut tally = self.lock();
        (tally.finished, tally.last) = (number, outcome);
        self.done.notify_all();
    }

    /// The last reading's number, and why its configuration is not in force.
    pub fn refusal(&self) -> (u64, Option<Refusal>) {
        let tally = self.lock();
        (tally.finished, tally.last.refused.clone())
    }

    fn wait(&self, number: u64, patience: Duration) -> Option<Outcome> {
        let open = |tally: &mut Tally| tally.finished < number;
        let waited = self.done.wait_timeout_while(self.lock(), patience, open);
        let (tally, late) = waited.unwrap_or_else(PoisonError::into_inner);
        (!late.timed_out()).then(|| tally.last.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `POST /v1/reload`, on the control socket only: the exit status for the command that asks, and the
/// words for it.
pub fn reload(service: &Service) -> Result<Response, Problem> {
    let began = Instant::now();
    let number = service.reloads.request();
    service.quiet.raise();
    let Some(outcome) = service.reloads.wait(number, RELOAD_PATIENCE) else {
        let seconds = began.elapsed().as_secs();
        let message = format!(
            "The configuration could not be read within {seconds} s, and is still being read; its \
             status tells what becomes of it."
        );
        return Err(Problem::new(503, "reload_pending", message));
    };
    let (exit, message) = match &outcome.refused {
        None => (Exit::Planned, ""),
        Some(refusal) => (refusal.exit, refusal.message.as_str()),
    };
    let body = json!({ "exit": exit.code(), "message": message, "restart": outcome.restart });
    Ok(super::messages::json(200, body.to_string()))
}

/// For the status: null, or when a changed configuration was refused, and why.
pub fn error(service: &Service) -> Value {
    let (_, refused) = service.reloads.refusal();
    refused.map_or(Value::Null, |r| json!({ "time": r.time, "message": r.message }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_of_a_reading_that_began_after_the_question() {
        let reloads = Reloads::default();
        assert!(!reloads.begin());
        let first = reloads.request();
        assert!(reloads.begin() && !reloads.begin());
        assert_eq!(reloads.next(), Some(first));
        let second = reloads.request();
        let refused = Refusal { time: "t".into(), exit: Exit::Config, message: "m".into() };
        let outcome = Outcome { refused: Some(refused), restart: Vec::new() };
        reloads.finish(first, outcome.clone());
        assert_eq!(reloads.wait(first, Duration::ZERO), Some(outcome));
        assert_eq!(reloads.wait(second, Duration::ZERO), None);
        // The reading that is to answer it begins now, in the same thread.
        assert!(!reloads.begin());
        assert_eq!(reloads.next(), Some(second));
        reloads.finish(second, Outcome::default());
        assert_eq!(reloads.wait(second, Duration::ZERO), Some(Outcome::default()));
        assert_eq!(reloads.refusal(), (second, None));
        assert_eq!(reloads.next(), None);
        // Where there is no thread, it stays open.
        reloads.request();
        assert!(reloads.begin());
        reloads.give_up();
        assert!(reloads.begin());
    }
}
