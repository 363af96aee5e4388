//! Reloads of the configuration: asked for by requests and signals, carried out by the gateway, and
//! answered when a reading that began after the question has its outcome.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::exit::Exit;
use crate::limits::RELOAD_TIMEOUT;
use crate::sys::fd::EventFd;
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

    /// The outcome of a reading that begins from now on, for which `wake` asks; `None`: it takes longer
    /// than [`RELOAD_TIMEOUT`].
    pub fn wait(&self, wake: &EventFd) -> Option<Outcome> {
        let number = self.request();
        wake.notify();
        let open = |tally: &mut Tally| tally.finished < number;
        let waited = self.done.wait_timeout_while(lock(&self.tally), RELOAD_TIMEOUT, open);
        let (tally, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        tally.last.clone().filter(|_| !timeout.timed_out())
    }

    /// The number of the last reading, and its outcome if its configuration is not in force.
    pub fn refused(&self) -> (u64, Option<Outcome>) {
        let tally = lock(&self.tally);
        (tally.finished, tally.last.clone().filter(|last| last.exit != Exit::Planned))
    }
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
