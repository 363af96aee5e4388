//! What a connection does, for the table of connections: whether a request on it was authenticated, and
//! since when it streams or is idle.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::threads::lock;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// For so long no request of it was authenticated.
    Unauthenticated(Duration),
    /// An authenticated request is being answered.
    Busy,
    /// An authenticated event stream goes on for so long.
    Streaming(Duration),
    /// Authenticated, and between two requests for so long.
    Idle(Duration),
}

/// The same as a connection goes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Unauthenticated,
    /// The next request of an authenticated client has come, and is not judged yet.
    Received,
    /// Its key is known ([`ConnectionActivity::set_authenticated`]).
    Answering,
    /// The answer is an event stream.
    Streaming(Instant),
    /// The key was taken away of the request that is being answered: what it opened ends.
    Revoked,
    /// The next request is waited for.
    Idle(Instant),
    /// Its last response has been sent: it ends within moments.
    Closing,
}

/// Shared by a connection's thread and the table of connections.
pub struct ConnectionActivity {
    pub number: u64,
    began: Instant,
    /// With what stands for the key of the last authenticated request; 0: there was none.
    state: Mutex<(Stage, usize)>,
    /// No request of it has come.
    fresh: AtomicBool,
}

impl ConnectionActivity {
    pub fn new(number: u64, began: Instant) -> ConnectionActivity {
        ConnectionActivity {
            number,
            began,
            state: Mutex::new((Stage::Unauthenticated, 0)),
            fresh: true.into(),
        }
    }

    /// Its first request has come, or it ends; true once.
    pub fn begin(&self) -> bool {
        self.fresh.swap(false, Ordering::SeqCst)
    }

    pub fn at(&self, now: Instant) -> Activity {
        let age = |since| now.saturating_duration_since(since);
        match lock(&self.state).0 {
            Stage::Unauthenticated => Activity::Unauthenticated(age(self.began)),
            Stage::Received | Stage::Answering | Stage::Revoked => Activity::Busy,
            Stage::Streaming(since) => Activity::Streaming(age(since)),
            Stage::Idle(since) => Activity::Idle(age(since)),
            Stage::Closing => Activity::Unauthenticated(Duration::MAX),
        }
    }

    /// The request that is being answered has the key that this token stands for.
    pub fn set_authenticated(&self, token: usize) {
        *lock(&self.state) = (Stage::Answering, token);
    }

    /// The same, where it is the key of the request before; false where it is not.
    pub fn is_authenticated(&self, token: usize) -> bool {
        let mut state = lock(&self.state);
        let is = *state == (Stage::Received, token);
        if is {
            state.0 = Stage::Answering;
        }
        is
    }

    pub fn is_revoked(&self) -> bool {
        lock(&self.state).0 == Stage::Revoked
    }

    pub fn is_closing(&self) -> bool {
        lock(&self.state).0 == Stage::Closing
    }

    /// Enters a stage where it follows on the present one.
    pub fn enter(&self, next: Stage) {
        let mut state = lock(&self.state);
        let follows = match next {
            Stage::Unauthenticated | Stage::Answering => false,
            Stage::Received => matches!(state.0, Stage::Idle(_)),
            Stage::Streaming(_) => state.0 == Stage::Answering,
            Stage::Revoked => matches!(state.0, Stage::Answering | Stage::Streaming(_)),
            Stage::Idle(_) => state.0 != Stage::Unauthenticated,
            Stage::Closing => true,
        };
        if follows {
            state.0 = next;
        }
    }
}
