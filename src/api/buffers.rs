//! Memory for bodies and replies in flight: one budget (`limits.max_buffered`), shared by principals.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::auth::Authenticated;
use super::error::ApiError;
use crate::limits::SMALL_BUFFER;
use crate::named::ByName;
use crate::session::Hub;
use crate::shares::Shares;
use crate::sys::gather::Gather;
use crate::threads::{self, lock};

/// How long a body or reply waits for its part of `max_buffered`: slow clients of a principal that holds
/// much are cut off sooner.
const BUFFER_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests of one principal that wait for it: each is woken whenever some is given back.
const MAX_BUFFER_WAITS: usize = 64;

/// What is taken of the budget.
pub struct Buffers {
    hub: Arc<Hub>,
    used: Mutex<Used>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Used {
    /// Some was taken since [`Buffers::have_emptied`] was last called.
    touched: bool,
    by: ByName<Account>,
}

/// One principal's: bytes, and how many requests wait for more.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    bytes: u64,
    waiting: usize,
}

impl Used {
    fn all(&self) -> u64 {
        self.by.values().map(|account| account.bytes).sum()
    }
}

impl Buffers {
    /// `hub`: its settings have the limits.
    pub fn new(hub: Arc<Hub>) -> Buffers {
        Buffers { hub, used: Mutex::default(), freed: Condvar::new() }
    }

    /// Whether all was given back since this was last asked.
    pub fn have_emptied(&self) -> bool {
        let mut used = lock(&self.used);
        used.all() == 0 && std::mem::take(&mut used.touched)
    }

    /// The bytes that each principal holds.
    pub fn by_principal(&self) -> Vec<(String, u64)> {
        let used = lock(&self.used);
        used.by.iter().map(|(name, account)| (name.to_owned(), account.bytes)).gather()
    }
}

/// What one request holds of the budget; dropping it gives it back.
pub struct Lease {
    buffers: Arc<Buffers>,
    principal: String,
    bytes: u64,
}

impl Lease {
    /// One of nothing so far.
    pub fn new(buffers: &Arc<Buffers>, principal: &str) -> Lease {
        Lease { buffers: Arc::clone(buffers), principal: principal.to_owned(), bytes: 0 }
    }

    /// Takes the budget for so many bytes in all, and waits for it for a while. Says whether the
    /// principal holds so much by now that it should be quick.
    ///
    /// # Errors
    /// Whose limit is reached.
    pub fn grow(&mut self, bytes: usize) -> Result<bool, ApiError> {
        let config = &self.buffers.hub.settings().config;
        let (shares, limit) = (Shares::of(config), config.limits.max_buffered as u64);
        // What is larger than any budget takes all that one may have.
        let more = (bytes as u64).min(limit / 2).saturating_sub(self.bytes);
        if bytes <= SMALL_BUFFER || more == 0 {
            return Ok(false);
        }
        let until = Instant::now() + BUFFER_TIMEOUT;
        let mut used = lock(&self.buffers.used);
        loop {
            let (all, account) = (used.all(), used.by.of(&self.principal));
            let (held, of) = ((account.bytes, all), ("limits.max_buffered", limit));
            let Err(reached) = shares.admit(&self.principal, held, more, of) else {
                account.bytes += more;
                self.bytes += more;
                let much = account.bytes > limit / 4;
                used.touched = true;
                return Ok(much);
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || account.waiting >= MAX_BUFFER_WAITS {
                return Err(ApiError::reached(429, "buffers_full", &reached));
            }
            account.waiting += 1;
            let woken = self.buffers.freed.wait_timeout(used, left);
            used = woken.unwrap_or_else(PoisonError::into_inner).0;
            used.by.of(&self.principal).waiting -= 1;
        }
    }

    /// Gives back what exceeds so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes as u64);
        if less > 0 {
            lock(&self.buffers.used).by.of(&self.principal).bytes -= less;
            self.bytes -= less;
            self.buffers.freed.notify_all();
        }
    }
}

/// Held while a large body is parsed: those of one principal are parsed one after the other.
pub fn parse_lock(proof: &Authenticated, body: &[u8]) -> Option<MutexGuard<'static, ()>> {
    (body.len() > SMALL_BUFFER).then(|| threads::in_turn(proof.principal().as_bytes()))
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shrink(0);
    }
}
