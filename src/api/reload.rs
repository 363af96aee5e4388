//! Reloads as requests see them: asked for here, carried out by the gateway, and answered when a
//! reading that began after the question has its outcome.

use std::sync::{Condvar, Mutex, PoisonError};

use serde_json::{Value, json};

use super::Service;
use super::error::ApiError;
use crate::exit::Exit;
use crate::http::Response;
use crate::limits::RELOAD_TIMEOUT;
use crate::threads::lock;

/// What became of one reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// RFC 3339.
    pub time: String,
    /// That of the command that asked: [`Exit::Planned`] where the configuration is in force.
    pub exit: Exit,
    /// All that is wrong, or what takes a restart, one line each.
    pub message: String,
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
    last: Option<Outcome>,
}

impl Reloads {
    /// Asks for a reading that begins from now on; its number.
    pub fn request(&self) -> u64 {
        let mut tally = lock(&self.tally);
        tally.wanted += 1;
        tally.wanted
    }

    /// Where a reading has to begin now, the last request that it answers. It counts as running.
    pub fn begin(&self) -> Option<u64> {
        let mut tally = lock(&self.tally);
        let open = !tally.running && tally.wanted > tally.finished;
        tally.running |= open;
        open.then_some(tally.wanted)
    }

    /// A reading is over, with the request that it answers; `None`: there was no thread for it.
    pub fn end(&self, read: Option<(u64, Outcome)>) {
        let mut tally = lock(&self.tally);
        tally.running = false;
        if let Some((number, outcome)) = read {
            (tally.finished, tally.last) = (number, Some(outcome));
        }
        self.done.notify_all();
    }

    /// The number of the last reading, and its outcome if its configuration is not in force.
    pub fn refused(&self) -> (u64, Option<Outcome>) {
        let tally = lock(&self.tally);
        (tally.finished, tally.last.clone().filter(|last| last.exit != Exit::Planned))
    }
}

/// `POST /v1/reload`, on the control socket only: the exit status for the command that asks, and the
/// words for it.
pub fn reload(service: &Service) -> Result<Response, ApiError> {
    let reloads = &service.reloads;
    let number = reloads.request();
    service.quiet.notify();
    let open = |tally: &mut Tally| tally.finished < number;
    let waited = reloads.done.wait_timeout_while(lock(&reloads.tally), RELOAD_TIMEOUT, open);
    let (tally, late) = waited.unwrap_or_else(PoisonError::into_inner);
    match &tally.last {
        Some(last) if !late.timed_out() => {
            let body = json!({ "exit": last.exit.code(), "message": last.message });
            Ok(super::messages::json(200, body.to_string()))
        }
        _ => Err(ApiError::new(503, "reload_pending", "The configuration is still being read.")),
    }
}

/// For the status: null, or when a changed configuration was refused, and why.
pub fn error(service: &Service) -> Value {
    let (_, refused) = service.reloads.refused();
    refused.map_or(Value::Null, |r| json!({ "time": r.time, "message": r.message }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reading_at_a_time_answers_what_was_asked_before_it_began() {
        let reloads = Reloads::default();
        assert_eq!(reloads.begin(), None);
        let first = reloads.request();
        assert_eq!((reloads.begin(), reloads.begin()), (Some(first), None));
        let second = reloads.request();
        assert_eq!(reloads.begin(), None);
        let refused = Outcome { time: "t".into(), exit: Exit::Config, message: "m".into() };
        reloads.end(Some((first, refused.clone())));
        assert_eq!(reloads.refused(), (first, Some(refused.clone())));
        // Where there is no thread, it stays open.
        assert_eq!(reloads.begin(), Some(second));
        reloads.end(None);
        assert_eq!(reloads.begin(), Some(second));
        reloads.end(Some((second, Outcome { exit: Exit::Planned, ..refused })));
        assert_eq!((reloads.refused(), reloads.begin()), ((second, None), None));
    }
}
