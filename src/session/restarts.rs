//! Restarts that are asked for: by a message, a signal, the control socket or an update. One runs at a
//! time, and whoever asks meanwhile joins it. The gateway's main loop carries it out.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::message_table::Place;
use crate::sys::gather::Gather;
use crate::threads::lock;

/// Those who are told that the gateway is back: of each restart, so many.
pub const MAX_REQUESTERS: usize = 16;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartKind {
    Restart,
    /// The restart into the program that an update has put in place.
    Update,
    /// The process with this number takes over.
    Replace(i32),
}

impl RestartKind {
    pub fn word(self) -> &'static str {
        match self {
            RestartKind::Restart => "restart",
            RestartKind::Update => "update",
            RestartKind::Replace(_) => "replacement",
        }
    }
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
    /// Where there, if that is a channel.
    pub place: Option<Place>,
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

impl RestartStage {
    pub fn word(self) -> &'static str {
        match self {
            RestartStage::Requested => "requested",
            RestartStage::Proving => "proving",
            RestartStage::Pausing => "pausing",
        }
    }
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

/// The last one that happened: of the start that made this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastRestart {
    /// Of those of this process; 0: another made it.
    pub number: u64,
    pub kind: &'static str,
    pub by: String,
    /// When the gateway was back, RFC 3339.
    pub time: String,
    /// The version that ended.
    pub from: String,
    /// How long nobody served, where that is known.
    pub away: Option<Duration>,
}

/// One that did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartFailure {
    pub number: u64,
    /// RFC 3339.
    pub time: String,
    pub why: String,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartAccepted {
    /// It begins the restart of this number.
    Begun(u64),
    /// One was under way.
    Joined(u64),
}

/// What a request would become, as whoever asks is told before it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foreseen {
    /// It begins a restart.
    Begins,
    /// One is under way, of him, or was asked for in this moment; whether this requester is still told.
    Joins { by: Option<String>, told: bool },
}

/// The restarts that are asked for.
#[derive(Debug, Default)]
pub struct Restarts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    number: u64,
    current: Option<Restart>,
    failed: Option<RestartFailure>,
    last: Option<LastRestart>,
    /// Requests that were foreseen, and are made once their messages are durable.
    foreseen: usize,
    /// Asks for an update, until the main loop starts it.
    update: Option<RestartRequest>,
}

impl Restarts {
    /// Says what a request will become that is made in a moment. [`Restarts::settle`] follows.
    pub fn foresee(&self) -> Foreseen {
        let mut state = lock(&self.0);
        let asked = state.foreseen;
        state.foreseen += 1;
        let current = state.current.as_ref();
        if current.is_none() && asked == 0 {
            return Foreseen::Begins;
        }
        let others = current.map_or(0, |current| current.requesters.len());
        let by = current.map(|current| current.by.clone());
        Foreseen::Joins { by, told: asked + others < MAX_REQUESTERS }
    }

    /// One that was foreseen was made, or never will be.
    pub fn settle(&self) {
        let mut state = lock(&self.0);
        state.foreseen = state.foreseen.saturating_sub(1);
    }

    /// Asks for an update; false where another waits to be started. The caller wakes the main loop.
    pub fn request_update(&self, request: RestartRequest) -> bool {
        let mut state = lock(&self.0);
        let free = state.update.is_none();
        state.update.get_or_insert(request);
        free
    }

    /// The update that is to be started.
    pub fn take_update(&self) -> Option<RestartRequest> {
        lock(&self.0).update.take()
    }

    /// What the record has of the one before this start. What [`Restarts::finish`] has told of it stays.
    pub fn set_last(&self, noted: LastRestart) {
        match &mut lock(&self.0).last {
            Some(last) if last.number > 0 => (last.kind, last.by) = (noted.kind, noted.by),
            last => *last = Some(noted),
        }
    }

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
        let (requesters, stage) = (requester.into_iter().gather(), RestartStage::Requested);
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

    /// The one that is under way, the last one that happened, and the last that did not.
    pub fn account(&self) -> (Option<Restart>, Option<LastRestart>, Option<RestartFailure>) {
        let state = lock(&self.0);
        (state.current.clone(), state.last.clone(), state.failed.clone())
    }

    /// This process goes on after one: numbers go on, too.
    pub fn finish(&self, done: LastRestart) {
        let mut state = lock(&self.0);
        state.number = state.number.max(done.number);
        let noted = state.last.take();
        let (kind, by) = noted.map_or((done.kind, done.by), |noted| (noted.kind, noted.by));
        state.last = Some(LastRestart { kind, by, ..done });
    }

    /// This process goes on as the program that was to be replaced.
    pub fn fail_earlier(&self, number: u64, why: &str, time: String) {
        let mut state = lock(&self.0);
        state.number = state.number.max(number);
        state.failed = Some(RestartFailure { number, time, why: why.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(by: &str) -> RestartRequest {
        let (principal, message) = ("owner".to_owned(), by.to_owned());
        let requester =
            Some(Requester { principal, session: None, message, deliver: None, place: None });
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
        assert_eq!(restarts.account().2.unwrap().why, "no");
        assert_eq!(restarts.request(request("x")), RestartAccepted::Begun(2));
    }

    #[test]
    fn the_last_restart_has_its_number_whoever_tells_of_it_first() {
        let last = |number, kind, by: &str, away: u64| {
            let (by, away) = (by.to_owned(), Some(Duration::from_secs(away)));
            LastRestart { number, kind, by, away, ..LastRestart::default() }
        };
        for noted_first in [true, false] {
            let restarts = Restarts::default();
            let note = || restarts.set_last(last(0, "update", "record", 1));
            noted_first.then(note);
            restarts.finish(last(7, "restart", "handover", 2));
            (!noted_first).then(note);
            let found = restarts.account().1.unwrap();
            assert_eq!(found, last(7, "update", "record", 2), "noted first: {noted_first}");
            assert_eq!(restarts.request(request("x")), RestartAccepted::Begun(8));
        }
    }
}
