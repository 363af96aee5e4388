//! What the gateway offers over HTTP: routes, who may use them, and what they answer.
//!
//! What may enter: requests that are framed already, and the order in which they are judged:
//! Host and Origin, then the key, then path and method, then the body. How a turn runs is known below.
#![forbid(unsafe_code)]

pub mod auth;
mod auth_throttle;
mod buffers;
mod chat;
mod chat_request;
pub mod connections;
mod cors;
mod durable;
mod error;
mod idempotency;
mod messages;
pub mod reload;
mod reply_writer;
mod responses;
mod route;
mod sessions;
mod status;

/// How long the exit waits for the last words of event streams: they are on their way by then.
const STREAM_PATIENCE: Duration = Duration::from_millis(200);
#[cfg(any(test, fuzzing))]
pub mod tests;
mod turn;

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use auth::Authenticated;
use auth_throttle::AuthThrottle;
use buffers::Lease;
use connections::ConnectionTable;
use error::ApiError;
use route::Route;

use crate::http::ShutdownFlag;
use crate::http::{Closed, Connection, ConnectionActivity, Request, Response};
use crate::session::{Hub, Settings};
use crate::sys::fd::EventFd;
use crate::threads::lock;

pub use auth::{Keyring, Origin};
pub use auth_throttle::source_prefix;
pub use messages::check_session;

/// What stays the same for the life of the process.
#[derive(Clone, Debug)]
pub struct Facts {
    pub name: String,
    /// The address that clients connect to, with the port that was really bound.
    pub listen: String,
    /// The unit that we run in, once it is known.
    pub unit: OnceLock<String>,
    /// RFC 3339.
    pub since: String,
    pub began: Instant,
}

/// The gateway as requests see it.
#[derive(Debug)]
pub struct Service {
    pub facts: Facts,
    keys: Mutex<Arc<Keyring>>,
    failures: Mutex<AuthThrottle>,
    pub hub: Arc<Hub>,
    /// Closed when no new work is taken.
    pub gate: Arc<ShutdownFlag>,
    pub ready: AtomicBool,
    pub guests: ConnectionTable,
    pub control_connections: AtomicUsize,
    /// How the run before this one ended, as `/v1/status` tells it.
    pub last_stop: Mutex<Value>,
    /// What the configuration in force is warned of.
    pub warnings: Mutex<Vec<String>>,
    /// The time that our unit gives a stop, as far as it is known; `Duration::MAX` for infinity.
    pub stop_timeout: Mutex<Option<Duration>>,
    pub reloads: reload::Reloads,
    /// When the drain began, RFC 3339.
    pub draining_since: OnceLock<String>,
    pub buffers: Arc<buffers::Buffers>,
    quiet: Arc<EventFd>,
    /// Requests that are being answered, and event streams.
    flights: Mutex<[usize; 2]>,
    stream_ended: Condvar,
}

impl Service {
    /// `quiet` is raised whenever the last request in flight has been answered during a drain.
    pub fn new(facts: Facts, keys: Keyring, hub: Arc<Hub>, quiet: Arc<EventFd>) -> Service {
        Service {
            facts,
            keys: Mutex::new(Arc::new(keys)),
            failures: Mutex::default(),
            hub,
            gate: Arc::default(),
            ready: AtomicBool::new(false),
            guests: ConnectionTable::default(),
            control_connections: AtomicUsize::new(0),
            last_stop: Mutex::default(),
            warnings: Mutex::default(),
            stop_timeout: Mutex::default(),
            reloads: reload::Reloads::default(),
            draining_since: OnceLock::new(),
            buffers: Arc::default(),
            quiet,
            flights: Mutex::default(),
            stream_ended: Condvar::new(),
        }
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.hub.settings()
    }

    fn keys(&self) -> Arc<Keyring> {
        Arc::clone(&lock(&self.keys))
    }

    /// Puts other keys in force: those that are not among them are dead at once, also for the rest of
    /// what is being answered.
    pub fn set_keys(&self, keys: Keyring) {
        *lock(&self.keys) = Arc::new(keys);
        self.guests.revoke(&|key| self.keys().holds(key));
    }

    /// Judges by its key whether a request may enter, and counts its connection for its principal.
    fn let_in(
        &self,
        request: &Request,
        origin: Origin,
        seat: Option<&ConnectionActivity>,
    ) -> Result<Authenticated, ApiError> {
        let keys = self.keys();
        let proof = auth::authenticate(request, origin, &keys);
        let proof = proof.ok_or_else(|| self.turned_away(request, origin))?;
        seat.map_or(Ok(()), |seat| self.guests.authenticate(seat, &proof.0))?;
        // Where other keys have come meanwhile, nobody told its connection.
        let same = Arc::ptr_eq(&keys, &self.keys());
        if same { Ok(proof) } else { self.let_in(request, origin, seat) }
    }

    /// What the service manager shows (`STATUS=`, sd_notify(3)).
    pub fn status_line(&self) -> String {
        let (listen, all) = (&self.facts.listen, lock(&self.warnings));
        let first = all.first().map(|first| format!("; warnings: {}; {first}", all.len()));
        format!("Serving on {listen}{}", first.unwrap_or_default())
    }

    /// Counts a request without a key that we know, and says what it is told.
    fn turned_away(&self, request: &Request, origin: Origin) -> ApiError {
        let shown = request.header("Authorization").is_some();
        let words = "send it as \"Authorization: Bearer KEY\".";
        let message = format!("{} key is required: {words}", if shown { "Another" } else { "A" });
        let wrong = ApiError::new(401, "invalid_api_key", message);
        let Origin::Tcp(address) = origin else { return wrong };
        // Who shows no key at all guesses none.
        if !shown {
            return wrong;
        }
        let mut failures = lock(&self.failures);
        let Some((first, wait)) = failures.count(address.ip(), Instant::now()) else {
            return wrong;
        };
        if first {
            log::warn!("too many wrong keys from {}", address.ip());
        }
        let message = "Too many wrong keys came from this address.";
        ApiError::new(429, "too_many_failures", message).after(wait.as_secs() + 1)
    }

    /// How many requests are being answered.
    pub fn in_flight(&self) -> usize {
        lock(&self.flights)[0]
    }

    fn begin(&self, streams: bool) -> InFlight<'_> {
        lock(&self.flights)[usize::from(streams)] += 1;
        InFlight { service: self, streams }
    }

    /// Waits for event streams to say that they end, which they do as soon as a drain begins; for
    /// those whose clients take nothing no longer than [`STREAM_PATIENCE`].
    pub fn await_streams(&self) {
        let flights = lock(&self.flights);
        let open = |[_, streams]: &mut [usize; 2]| *streams > 0;
        drop(self.stream_ended.wait_timeout_while(flights, STREAM_PATIENCE, open));
    }
}

/// A request that is being answered, for which a drain waits; or an event stream.
struct InFlight<'a> {
    service: &'a Service,
    streams: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut flights = lock(&self.service.flights);
        flights[usize::from(self.streams)] -= 1;
        if self.streams {
            self.service.stream_ended.notify_all();
        } else if flights[0] == 0 && self.service.gate.is_closing() {
            self.service.quiet.notify();
        }
    }
}

/// A request that was let in, and the connection for its answer.
struct Exchange<'a> {
    connection: &'a mut Connection,
    request: &'a Request,
    service: &'a Service,
    proof: &'a Authenticated,
}

impl Exchange<'_> {
    fn respond(self, result: Result<Response, ApiError>) -> Result<(), Closed> {
        let Exchange { connection, request, service, proof } = self;
        let (response, mut lease) =
            (result.unwrap_or_else(|p| p.response()), Lease::of(service, proof));
        let grown = lease.grow(service, response.held());
        connection.respond(request, grown.map_or_else(|p| p.response(), |_| response))
    }
}

/// Serves one connection until it ends.
pub fn serve(mut connection: Connection, origin: Origin, service: &Service) {
    loop {
        let request = match connection.next_request() {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(e) => return log_end(&e, origin),
        };
        // What comes during a drain is turned away, or asks how it goes: no drain waits for that.
        // Nor for event streams, which end when it begins, and for a file that is being read.
        let route = Route::find(request.path());
        let streams = matches!(route, Some(Route::SessionEvents(_)));
        let counts = !service.gate.is_closing() && !streams && route != Some(Route::Reload);
        let _in_flight = (counts || streams).then(|| service.begin(streams));
        if let Err(e) = route::answer(&mut connection, &request, route, origin, service) {
            return log_end(&e, origin);
        }
    }
}

fn log_end(why: &Closed, origin: Origin) {
    let why = match why {
        Closed::Refused(refusal) => format!("{} {}", refusal.status, refusal.reason),
        Closed::Io(_) | Closed::TimedOut | Closed::CutShort => why.to_string(),
    };
    log::debug!("a connection from {origin} ended: {why}");
}
