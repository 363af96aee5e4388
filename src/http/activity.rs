//! What the door sees of a connection from outside: whether it has shown a key yet, and since when
//! it asks for nothing. By that it decides whom it asks to leave when the house is full.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// For so long no request of it had a key that opens something.
    Stranger(Duration),
    /// A request of one who is known is being answered.
    Busy,
    /// An event stream of one who is known goes on for so long.
    Streaming(Duration),
    /// Known, and between two requests for so long.
    Idle(Duration),
}

/// Shared by a connection's thread and the door.
#[derive(Debug)]
pub struct ConnectionActivity {
    pub number: u64,
    began: Instant,
    stage: AtomicU8,
    /// When it began to be idle or a stream, in milliseconds after `began`.
    since: AtomicU32,
    /// Stands for the key that it has shown; 0: none.
    token: AtomicUsize,
}

const UNAUTHENTICATED: u8 = 0;
/// A request has come, and is not judged yet.
const AUTHENTICATED: u8 = 1;
const BUSY: u8 = 2;
const STREAMING: u8 = 3;
/// The key was taken away of the request that is being answered.
const REVOKED: u8 = 4;
const IDLE: u8 = 5;
/// It is told that there is no room for it.
const EVICTED: u8 = 6;

impl ConnectionActivity {
    pub fn new(number: u64, began: Instant) -> ConnectionActivity {
        let (stage, since, token) = Default::default();
        ConnectionActivity { number, began, stage, since, token }
    }

    pub fn stage(&self, now: Instant) -> Activity {
        let stage = self.stage.load(Ordering::Acquire);
        let since = Duration::from_millis(self.since.load(Ordering::Relaxed).into());
        let time = now.saturating_duration_since(self.began).saturating_sub(since);
        match stage {
            UNAUTHENTICATED => Activity::Stranger(time),
            STREAMING => Activity::Streaming(time),
            IDLE => Activity::Idle(time),
            EVICTED => Activity::Stranger(Duration::MAX),
            _ => Activity::Busy,
        }
    }

    /// The request that is being answered has the key that this token stands for.
    pub fn set_principal(&self, token: usize) {
        self.token.store(token, Ordering::Relaxed);
        self.stage.store(BUSY, Ordering::Release);
    }

    /// The same, where it is the key of the request before; false where it is not.
    pub fn is_principal(&self, token: usize) -> bool {
        self.token.load(Ordering::Relaxed) == token && self.swap(AUTHENTICATED, BUSY)
    }

    /// The key was taken away: what was let in by it ends.
    pub fn revoke(&self) {
        let _ = self.swap(BUSY, REVOKED) || self.swap(STREAMING, REVOKED);
    }

    pub fn is_revoked(&self) -> bool {
        self.stage.load(Ordering::Acquire) == REVOKED
    }

    /// It is about to end, and goes first where others want in.
    pub fn evict(&self) {
        self.stage.store(EVICTED, Ordering::Release);
    }

    /// The answer is an event stream.
    pub fn set_streaming(&self) {
        self.note_time();
        self.swap(BUSY, STREAMING);
    }

    /// The next request is waited for.
    pub fn set_idle(&self) {
        if self.stage.load(Ordering::Relaxed) != UNAUTHENTICATED {
            self.note_time();
            self.stage.store(IDLE, Ordering::Release);
        }
    }

    /// It has come.
    pub fn set_busy(&self) {
        self.swap(IDLE, AUTHENTICATED);
    }

    fn swap(&self, from: u8, to: u8) -> bool {
        self.stage.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn note_time(&self) {
        let age = u32::try_from(self.began.elapsed().as_millis()).unwrap_or(u32::MAX);
        self.since.store(age, Ordering::Relaxed);
    }
}
