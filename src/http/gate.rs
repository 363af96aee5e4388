//! What a connection is told from outside: its limits, and when to end.
#![forbid(unsafe_code)]

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

/// What a connection and the thread that ends it tell each other.
///
/// To end connections: [`Gate::close`]; then, for each that [`Gate::is_idle`],
/// `sys::socket::stop_reading`. The others say `Connection: close` with their next response.
#[derive(Debug, Default)]
pub struct Gate {
    closing: AtomicBool,
    idle: AtomicBool,
}

impl Gate {
    /// No request after the present one.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Waits for a request of which no byte has come.
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst)
    }

    pub(super) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::SeqCst);
    }
}
