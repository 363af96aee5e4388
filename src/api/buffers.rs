//! Memory for bodies and replies in flight: one budget (`limits.max_buffered`), shared by principals.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::auth::Authenticated;
use super::error::Problem;
use super::{Exchange, Service};
use crate::http::Closed;
use crate::limits::{BUFFER_PATIENCE, MAX_BUFFER_WAITS, SMALL_BUFFER};
use crate::shares::{Over, Shares};
use crate::sys::memory;
use crate::threads::lock;

/// What is taken of the budget.
#[derive(Debug, Default)]
pub struct Buffers {
    used: Mutex<Used>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Used {
    all: u64,
    /// By principal, of which there are few.
    by: Vec<(String, Account)>,
}

/// One principal's: bytes, and how many requests wait for more.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    bytes: u64,
    waiting: usize,
}

impl Used {
    fn of(&mut self, principal: &str) -> &mut Account {
        let known = self.by.iter().position(|(name, _)| name == principal);
        let at = known.unwrap_or_else(|| {
            self.by.push((principal.to_owned(), Account::default()));
            self.by.len() - 1
        });
        &mut self.by[at].1
    }

    fn add(&mut self, principal: &str, more: u64) -> u64 {
        self.all += more;
        let account = self.of(principal);
        account.bytes += more;
        account.bytes
    }
}

impl Buffers {
    /// The bytes that each principal holds.
    #[allow(dead_code, reason = "for the principals in /v1/status")]
    pub fn by_principal(&self) -> Vec<(String, u64)> {
        let used = lock(&self.used);
        used.by.iter().map(|(name, account)| (name.clone(), account.bytes)).collect()
    }
}

/// What one request holds of the budget; it goes back with it.
#[derive(Debug)]
pub struct Lease {
    buffers: Arc<Buffers>,
    principal: String,
    bytes: u64,
}

impl Lease {
    /// One of nothing so far.
    pub fn of(service: &Service, proof: &Authenticated) -> Lease {
        let principal = proof.principal().to_owned();
        Lease { buffers: Arc::clone(&service.buffers), principal, bytes: 0 }
    }

    pub fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    /// Takes the budget for so many bytes in all, and waits for it for a while. Says whether the
    /// principal holds so much by now that it should be quick.
    ///
    /// # Errors
    /// Whose limit is reached.
    pub fn grow(&mut self, service: &Service, bytes: usize) -> Result<bool, Problem> {
        let config = &service.settings().config;
        let (shares, limit) = (Shares::of(config), config.limits.max_buffered as u64);
        // What no budget has room for at all takes what one may have.
        let more = (bytes as u64).min(limit / 2).saturating_sub(self.bytes);
        if more == 0 {
            return Ok(false);
        }
        let until = Instant::now() + BUFFER_PATIENCE;
        let mut used = lock(&self.buffers.used);
        while let Err(over) = {
            let all = used.all;
            shares.check(&self.principal, (used.of(&self.principal).bytes, all), more, limit)
        } {
            let left = until.saturating_duration_since(Instant::now());
            let account = used.of(&self.principal);
            if left.is_zero() || account.waiting >= MAX_BUFFER_WAITS {
                return Err(self.refusal(over, account.bytes, limit));
            }
            account.waiting += 1;
            let woken = self.buffers.freed.wait_timeout(used, left);
            used = woken.unwrap_or_else(PoisonError::into_inner).0;
            used.of(&self.principal).waiting -= 1;
        }
        self.bytes += more;
        Ok(used.add(&self.principal, more) > limit / 4)
    }

    /// Gives back what is over so many bytes.
    fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes as u64);
        if less > 0 {
            let mut used = lock(&self.buffers.used);
            used.all -= less;
            used.of(&self.principal).bytes -= less;
            drop(used);
            self.bytes -= less;
            self.buffers.freed.notify_all();
        }
    }

    fn refusal(&self, over: Over, own: u64, limit: u64) -> Problem {
        let name = &self.principal;
        match over {
            Over::Principal => Problem::new(
                429,
                "share_reached",
                format!(
                    "{name} holds its share of limits.max_buffered ({own} of {limit} bytes); read \
                     replies and send bodies faster, or try again later."
                ),
            ),
            Over::Gateway => Problem::new(
                429,
                "buffers_full",
                format!(
                    "The gateway's limits.max_buffered ({limit} bytes) is reached; try again later."
                ),
            ),
        }
    }
}

/// A request's body, and its part of the budget.
pub struct Body {
    bytes: Vec<u8>,
    _lease: Lease,
}

impl std::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads the body of a request, once there is budget for as much as it may be.
pub fn read_body(exchange: &mut Exchange<'_>) -> Result<Result<Body, Problem>, Closed> {
    let Exchange { connection, request, service, proof } = exchange;
    let most = service.settings().config.limits.max_body;
    let mut lease = Lease::of(service, proof);
    let announced = request.announced(most);
    if announced > SMALL_BUFFER {
        match lease.grow(service, announced) {
            Ok(much) => connection.hurry(much),
            Err(problem) => return Ok(Err(problem)),
        }
    }
    let bytes = connection.read_body(request, most)?;
    lease.shrink(bytes.len());
    Ok(Ok(Body { bytes, _lease: lease }))
}

impl Drop for Lease {
    fn drop(&mut self) {
        let bytes = self.bytes;
        self.shrink(0);
        memory::give_back(bytes);
    }
}
