//! What the door sees of a connection from outside: whether it has shown a key yet, and since when
//! it asks for nothing. By that it decides whom it asks to leave when the house is full.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No request of it had a key that opens something.
    Stranger,
    /// A request of one who is known is being answered.
    Busy,
    /// Known, and between two requests for so long.
    Idle(Duration),
}

/// Shared by a connection's thread and the door.
#[derive(Debug)]
pub struct Seat {
    began: Instant,
    stage: AtomicU8,
    /// Milliseconds after `began`.
    idle_since: AtomicU32,
}

const STRANGER: u8 = 0;
const BUSY: u8 = 1;
const IDLE: u8 = 2;

impl Seat {
    pub fn new(began: Instant) -> Seat {
        Seat { began, stage: AtomicU8::new(STRANGER), idle_since: AtomicU32::new(0) }
    }

    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    pub fn stage(&self, now: Instant) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            IDLE => {
                let since = Duration::from_millis(self.idle_since.load(Ordering::Relaxed).into());
                Stage::Idle(self.age(now).saturating_sub(since))
            }
            BUSY => Stage::Busy,
            _ => Stage::Stranger,
        }
    }

    /// The request that is being answered has a key.
    pub fn know(&self) {
        self.stage.store(BUSY, Ordering::Release);
    }

    /// The next request is waited for.
    pub fn rest(&self) {
        if self.stage.load(Ordering::Relaxed) == BUSY {
            let age = u32::try_from(self.began.elapsed().as_millis()).unwrap_or(u32::MAX);
            self.idle_since.store(age, Ordering::Relaxed);
            self.stage.store(IDLE, Ordering::Release);
        }
    }

    /// It has come.
    pub fn work(&self) {
        if self.stage.load(Ordering::Relaxed) == IDLE {
            self.know();
        }
    }
}
