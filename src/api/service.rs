//! The gateway as requests see it: what handlers share, and the request that one of them answers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::auth::{self, Authenticated, Keyring, Origin};
use super::auth_throttle::AuthThrottle;
use super::buffers::{Buffers, Lease};
use super::connections::ConnectionTable;
use super::error::{ApiError, Handled};
use super::handover::Handover;
use super::reload::Reloads;
use super::response::json;
use super::tickets::{Tickets, bound_to};
use crate::channel::Control;
use crate::http::{Connection, ConnectionActivity, Request, Response, ShutdownFlag};
use crate::limits::STREAM_END_TIMEOUT;
use crate::session::{Hub, Settings};
use crate::sys::fd::EventFd;
use crate::threads::lock;

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

pub struct Service {
    pub facts: Facts,
    keys: Mutex<Arc<Keyring>>,
    throttle: Mutex<AuthThrottle>,
    pub hub: Arc<Hub>,
    /// Set once the channels are served.
    pub channels: OnceLock<Arc<dyn Control>>,
    /// Closed when no new work is taken.
    pub shutdown: Arc<ShutdownFlag>,
    pub ready: AtomicBool,
    pub connections: ConnectionTable,
    pub tickets: Tickets,
    pub control_connections: AtomicUsize,
    /// Connections on TCP of which no request has come.
    pub fresh_connections: AtomicUsize,
    /// How the run before this one ended, as `/v1/status` tells it.
    pub last_stop: Mutex<Value>,
    /// What hangs, so that the service manager is about to restart the gateway.
    pub hangs: Mutex<Option<String>>,
    /// Warnings about the configuration in force.
    pub warnings: Mutex<Vec<String>>,
    /// The time that our unit gives a stop, as far as it is known; `Duration::MAX` for infinity.
    pub stop_timeout: Mutex<Option<Duration>>,
    pub reloads: Reloads,
    /// When the drain began, RFC 3339.
    pub draining_since: OnceLock<String>,
    pub buffers: Arc<Buffers>,
    pub handover: Handover,
    /// Wakes the main loop.
    pub wake: Arc<EventFd>,
    /// Requests that are being answered, and event streams.
    in_flight: Mutex<[usize; 2]>,
    stream_ended: Condvar,
}

impl Service {
    /// `wake` is notified when the last request in flight has been answered during a drain or a pause, when
    /// a connection was handed over, and when a reload is asked for.
    pub fn new(facts: Facts, keys: Keyring, hub: Arc<Hub>, wake: Arc<EventFd>) -> Service {
        Service {
            facts,
            keys: Mutex::new(Arc::new(keys)),
            throttle: Mutex::default(),
            buffers: Arc::new(Buffers::new(Arc::clone(&hub))),
            hub,
            channels: OnceLock::new(),
            shutdown: Arc::default(),
            ready: AtomicBool::new(false),
            connections: ConnectionTable::default(),
            tickets: Tickets::default(),
            control_connections: AtomicUsize::new(0),
            fresh_connections: AtomicUsize::new(0),
            last_stop: Mutex::default(),
            hangs: Mutex::default(),
            warnings: Mutex::default(),
            stop_timeout: Mutex::default(),
            reloads: Reloads::default(),
            draining_since: OnceLock::new(),
            handover: Handover::default(),
            wake,
            in_flight: Mutex::default(),
            stream_ended: Condvar::new(),
        }
    }

    /// Why no files are taken with messages.
    pub fn refuses_files(&self) -> Option<&'static str> {
        let settings = self.settings();
        let off = settings.config.limits.max_attachments == 0;
        let echo = settings.config.agent.is_echo();
        off.then_some("limits.max_attachments is 0").or(echo.then_some("the agent is echo"))
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.hub.settings()
    }

    fn keys(&self) -> Arc<Keyring> {
        Arc::clone(&lock(&self.keys))
    }

    /// Puts other keys in force. Those that are not among them are revoked at once, also for answers
    /// that are being sent.
    pub fn set_keys(&self, keys: Keyring) {
        *lock(&self.keys) = Arc::new(keys);
        self.connections.revoke(&|key| self.keys().holds(key));
    }

    /// Checks a request's key, and counts its connection for its principal.
    pub(super) fn authenticate(
        &self,
        request: &Request,
        origin: Origin,
        activity: Option<&ConnectionActivity>,
    ) -> Result<Authenticated, ApiError> {
        let invalid = || self.unauthenticated(request, origin);
        let prove = |keys: &Keyring| auth::authenticate(request, origin, keys);
        self.admit(&|keys| prove(keys).ok_or_else(invalid), activity)
    }

    /// The same by a ticket, which is bound to a session and a page.
    pub(super) fn redeem(
        &self,
        ticket: &str,
        (session, page): (&str, &str),
        activity: Option<&ConnectionActivity>,
    ) -> Result<Authenticated, ApiError> {
        let invalid = || {
            let words = "Invalid ticket: it opens one event stream of its session, within a minute, for \
                         the page that asked for it.";
            ApiError::new(401, "invalid_api_key", words)
        };
        let key = self.tickets.take(ticket, bound_to(session, page), Instant::now());
        let key = key.ok_or_else(invalid)?;
        self.admit(&|keys| keys.proof_of(&key).ok_or_else(invalid), activity)
    }

    /// Counts a connection for the principal that `prove` finds.
    fn admit(
        &self,
        prove: &dyn Fn(&Keyring) -> Result<Authenticated, ApiError>,
        activity: Option<&ConnectionActivity>,
    ) -> Result<Authenticated, ApiError> {
        let keys = self.keys();
        let proof = prove(&keys)?;
        activity.map_or(Ok(()), |activity| self.connections.authenticate(activity, &proof.0))?;
        // The keys may have changed since they were read: then this connection was not revoked.
        let same = Arc::ptr_eq(&keys, &self.keys());
        if same { Ok(proof) } else { self.admit(prove, activity) }
    }

    /// Whether a request has a valid key. If so its connection counts for the principal, and is busy.
    pub(super) fn recognize(
        &self,
        request: &Request,
        origin: Origin,
        activity: Option<&ConnectionActivity>,
    ) -> bool {
        let proof = auth::authenticate(request, origin, &self.keys());
        let count = |proof: Authenticated| {
            activity.is_none_or(|it| self.connections.authenticate(it, &proof.0).is_ok())
        };
        proof.is_some_and(count)
    }

    /// What the service manager shows (`STATUS=`, sd_notify(3)).
    pub fn status_line(&self) -> String {
        let (listen, all) = (&self.facts.listen, lock(&self.warnings));
        let first = all.first().map(|first| format!("; warnings: {}; {first}", all.len()));
        format!("Serving on {listen}{}", first.unwrap_or_default())
    }

    /// Counts a request with a wrong key; the error for it, and for one without a key.
    fn unauthenticated(&self, request: &Request, origin: Origin) -> ApiError {
        let has_key = request.header("Authorization").is_some();
        let counted = match origin {
            Origin::Tcp(address) if has_key => {
                let counted = lock(&self.throttle).count(address.ip(), Instant::now());
                counted.map(|(first, wait)| (address.ip(), first, wait))
            }
            Origin::Tcp(_) | Origin::Control { .. } => None,
        };
        if let Some((ip, first, wait)) = counted {
            if first {
                log::warn!(
                    "too many requests with a wrong key from {ip}: for a while they get 429; valid \
                     keys still work"
                );
            }
            let message = "Too many requests with a wrong key from this address: send a valid \
                           key, or try again later.";
            return ApiError::new(429, "too_many_failures", message).after(wait.as_secs() + 1);
        }
        let problem = if has_key {
            "Invalid API key: send a valid one"
        } else {
            "An API key is required: send it"
        };
        let message = format!("{problem} as \"Authorization: Bearer KEY\".");
        ApiError::new(401, "invalid_api_key", message)
    }

    /// How many requests are being answered.
    pub fn in_flight(&self) -> usize {
        lock(&self.in_flight)[0]
    }

    /// How many connections there are, and how many of them only send the end of something.
    pub(super) fn connections_left(&self) -> (usize, usize) {
        let (count, closing) = self.connections.counts();
        let control = self.control_connections.load(Ordering::SeqCst);
        (count + control, closing + lock(&self.in_flight)[1])
    }

    /// Has a connection count for a principal whose key another process has seen.
    pub fn restore_principal(&self, activity: &ConnectionActivity, name: &str) {
        let keys = self.keys();
        // Where it holds its share already the connection is like one that has shown no key.
        let _ = keys.named(name).map(|key| self.connections.authenticate(activity, key));
    }

    /// The first request of a connection has come, or it ends without one.
    pub fn begin_connection(&self, activity: Option<&ConnectionActivity>) {
        if activity.is_some_and(ConnectionActivity::begin) {
            self.fresh_connections.fetch_sub(1, Ordering::SeqCst);
            // A drain waits for it.
            if self.draining_since.get().is_some() {
                self.wake.notify();
            }
        }
    }

    pub(super) fn begin(&self, streams: bool) -> InFlight<'_> {
        lock(&self.in_flight)[usize::from(streams)] += 1;
        InFlight { service: self, streams }
    }

    /// Waits for event streams to end, which they do as soon as a drain begins; for those whose clients
    /// read nothing no longer than [`STREAM_END_TIMEOUT`].
    pub fn await_streams(&self) {
        let in_flight = lock(&self.in_flight);
        let open = |[_, streams]: &mut [usize; 2]| *streams > 0;
        drop(self.stream_ended.wait_timeout_while(in_flight, STREAM_END_TIMEOUT, open));
    }
}

/// A request that is being answered, for which a drain waits; or an event stream.
pub struct InFlight<'a> {
    service: &'a Service,
    streams: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut in_flight = lock(&self.service.in_flight);
        in_flight[usize::from(self.streams)] -= 1;
        if self.streams {
            self.service.stream_ended.notify_all();
        } else if in_flight[0] <= self.service.hub.waiting()
            && self.service.shutdown.is_awaiting_quiet()
        {
            self.service.wake.notify();
        }
    }
}

/// An authenticated request, and the connection for its answer.
pub struct Exchange<'a> {
    pub connection: &'a mut Connection,
    pub request: &'a Request,
    pub service: &'a Service,
    pub proof: &'a Authenticated,
}

impl Exchange<'_> {
    /// A lease of nothing so far, for the principal.
    pub fn lease(&self) -> Lease {
        Lease::new(&self.service.buffers, self.proof.principal())
    }

    pub fn respond(self, response: Response) -> Handled {
        let mut lease = self.lease();
        lease.grow(response.held())?;
        Ok(self.connection.respond(self.request, response)?)
    }

    /// Answers 200 with a JSON text.
    pub fn json(self, body: String) -> Handled {
        self.respond(json(200, body))
    }
}
