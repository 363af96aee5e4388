//! What a connection is told from outside: its limits, and when to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the configuration says about connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body, whatever a handler would allow.
    pub max_body: usize,
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// For a body, plus one second a KiB that has come.
    pub body_timeout: Duration,
    /// For each 64 KiB that the peer is to take.
    pub write_timeout: Duration,
}

/// What all connections are told when the gateway stops taking work: each says `Connection: close`
/// with its next response, and ends.
#[derive(Debug, Default)]
pub struct ShutdownFlag(AtomicBool);

impl ShutdownFlag {
    /// No request after the present ones.
    pub fn close(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn is_closing(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
