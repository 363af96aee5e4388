//! Restarts that are asked for: by a message, a signal, the control socket or an update. One runs at a
//! time, and whoever asks meanwhile joins it. The gateway's main loop carries it out.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::threads::lock;

/// Those who are told that the gateway is back: of each restart, so many.
pub const MAX_REQUESTERS: usize = 16;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartKind {
    Restart,
    /// The restart into the program that an update has put in place.
    Update,
}

/// Who is told what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    pub principal: String,
    pub session: Option<String>,
    /// The message that asked.
    pub message: String,
    /// The target of that message's replies.
    pub deliver: Option<String>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct RestartRequest {
    pub kind: RestartKind,
    /// By whom, in words for people: `SIGUSR1 from pid 7 (bash)`, `message 01J… of owner`.
    pub by: String,
    pub requester: Option<Requester>,
}

/// Where a restart is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartStage {
    Requested,
    /// The program that comes proves that it can start.
    Proving,
    /// No turn begins; those in flight end.
    Pausing,
}

/// The restart that is under way.
#[derive(Clone, Debug)]
pub struct Restart {
    /// Counts the restarts of this process's life, from 1.
    pub number: u64,
    pub kind: RestartKind,
    pub by: String,
    pub requesters: Vec<Requester>,
    pub stage: RestartStage,
    pub since: Instant,
}

/// One that did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartFailure {
    pub number: u64,
    /// RFC 3339.
    pub time: String,
    pub why: String,
}

/// One that happened: this process is what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartDone {
    pub number: u64,
    /// When the gateway served again, RFC 3339.
    pub time: String,
    pub by: String,
    /// The versions before and after.
    pub from: String,
    pub to: String,
    /// For how long nobody served.
    pub away: Duration,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartAccepted {
    /// It begins the restart of this number.
    Begun(u64),
    /// One was under way.
    Joined(u64),
}

/// The restarts that are asked for.
#[derive(Debug, Default)]
pub struct Restarts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    number: u64,
    current: Option<Restart>,
    failed: Option<RestartFailure>,
    done: Option<RestartDone>,
}

impl Restarts {
    /// Asks for a restart. The caller wakes the main loop.
    pub fn request(&self, request: RestartRequest) -> RestartAccepted {
        let mut state = lock(&self.0);
        let RestartRequest { kind, by, requester } = request;
        if let Some(current) = &mut state.current {
            let room = current.requesters.len() < MAX_REQUESTERS;
            current.requesters.extend(requester.filter(|_| room));
            return RestartAccepted::Joined(current.number);
        }
        state.number += 1;
        let (number, since) = (state.number, Instant::now());
        let (requesters, stage) = (requester.into_iter().collect(), RestartStage::Requested);
        state.current = Some(Restart { number, kind, by, requesters, stage, since });
        RestartAccepted::Begun(number)
    }

    /// The one that is under way, as it is now.
    pub fn current(&self) -> Option<Restart> {
        lock(&self.0).current.clone()
    }

    pub fn enter(&self, stage: RestartStage) {
        lock(&self.0).current.iter_mut().for_each(|current| current.stage = stage);
    }

    /// It does not happen: `why`, and `time` in RFC 3339. Returns it with all who asked.
    pub fn fail(&self, why: &str, time: String) -> Option<Restart> {
        let mut state = lock(&self.0);
        let current = state.current.take()?;
        state.failed = Some(RestartFailure { number: current.number, time, why: why.to_owned() });
        Some(current)
    }

    /// The last one that did not happen.
    pub fn failed(&self) -> Option<RestartFailure> {
        lock(&self.0).failed.clone()
    }

    /// This process goes on after one: numbers go on, too.
    pub fn finish(&self, done: RestartDone) {
        let mut state = lock(&self.0);
        state.number = state.number.max(done.number);
        state.done = Some(done);
    }

    /// This process goes on as the program that was to be replaced.
    pub fn fail_earlier(&self, number: u64, why: &str, time: String) {
        let mut state = lock(&self.0);
        state.number = state.number.max(number);
        state.failed = Some(RestartFailure { number, time, why: why.to_owned() });
    }

    /// The one that led to this process.
    pub fn done(&self) -> Option<RestartDone> {
        lock(&self.0).done.clone()
    }

    /// How long the one that is under way has been so.
    pub fn age(&self) -> Option<Duration> {
        lock(&self.0).current.as_ref().map(|current| current.since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(by: &str) -> RestartRequest {
        let (principal, message) = ("owner".to_owned(), by.to_owned());
        let requester = Some(Requester { principal, session: None, message, deliver: None });
        RestartRequest { kind: RestartKind::Restart, by: by.to_owned(), requester }
    }

    #[test]
    fn those_who_ask_meanwhile_join_and_so_many_are_told() {
        let restarts = Restarts::default();
        assert_eq!(restarts.request(request("1")), RestartAccepted::Begun(1));
        restarts.enter(RestartStage::Proving);
        for other in 2..100 {
            let joined = restarts.request(request(&other.to_string()));
            assert_eq!(joined, RestartAccepted::Joined(1));
        }
        let current = restarts.current().unwrap();
        assert_eq!(current.requesters.len(), MAX_REQUESTERS);
        assert_eq!((current.by.as_str(), current.stage), ("1", RestartStage::Proving));
        assert_eq!(restarts.fail("no", "t".to_owned()).unwrap().number, 1);
        assert_eq!(restarts.failed().unwrap().why, "no");
        assert_eq!(restarts.request(request("x")), RestartAccepted::Begun(2));
    }
}
