//! Connections that outlive the process: each gives up its socket between two requests, with what was read
//! of the next one, and the process that goes on admits it like one that it has accepted.
//!
//! The order is [`Service::prepare_handover`], [`Service::pause`], once [`Service::is_quiet`]
//! [`Service::hand_over`], once [`Service::is_handed_over`] [`Service::take_handed_over`]. Whenever something
//! may have changed, the main loop is woken. [`Service::resume`] leads back from everywhere.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::Instant;

use serde_json::{Value, json};

use super::auth::Origin;
use super::service::Service;
use crate::digest::{from_base64, to_base64};
use crate::http::ConnectionActivity;
use crate::limits::{MAX_HANDED_OVER, STREAM_END_TIMEOUT};
use crate::sys::fd;
use crate::threads::lock;

/// A connection between requests, whose thread is about to end or has not begun.
#[derive(Debug)]
pub struct HandedOver {
    pub socket: OwnedFd,
    /// It came on the control socket.
    pub control: bool,
    /// What was read and not used: of a request that was not begun.
    pub unread: Vec<u8>,
    /// No request has come yet.
    pub new: bool,
    /// Whose key its last request has shown. It opens nothing, but says whom the connection counts for.
    pub principal: Option<String>,
}

impl HandedOver {
    /// For the process that goes on: the descriptor is inherited under its number.
    pub fn to_json(&self) -> Value {
        json!({
            "fd": self.socket.as_raw_fd(),
            "control": self.control,
            "unread": to_base64(&self.unread),
            "new": self.new,
            "principal": self.principal,
        })
    }

    /// # Errors
    /// What is missing or wrong: nothing is lost but this connection.
    pub fn from_json(value: &Value) -> Result<HandedOver, String> {
        let wrong = || format!("not a connection that was handed over: {value}");
        let number = value["fd"].as_i64().and_then(|number| i32::try_from(number).ok());
        let socket = fd::adopt(number.ok_or_else(wrong)?);
        let socket =
            socket.map_err(|e| format!("the descriptor of {value} cannot be used: {e}"))?;
        Ok(HandedOver {
            socket,
            control: value["control"].as_bool().ok_or_else(wrong)?,
            unread: value["unread"].as_str().and_then(from_base64).ok_or_else(wrong)?,
            new: value["new"].as_bool().unwrap_or_default(),
            principal: value["principal"].as_str().map(str::to_owned),
        })
    }
}

/// Those that were given up so far.
#[derive(Default)]
pub struct Handover(Mutex<Collected>);

#[derive(Default)]
struct Collected {
    connections: Vec<HandedOver>,
    /// What they have unread.
    bytes: usize,
    since: Option<Instant>,
}

impl Service {
    /// A handover may follow. From [`crate::http::ShutdownFlag::prepare`] on it takes a moment until all who
    /// wait can be told soon; nobody notices.
    pub fn prepare_handover(&self) {
        self.shutdown.prepare();
    }

    /// Nothing new begins. Messages are accepted, reads are answered, event streams go on; a request that
    /// needs a turn at once is parked. Also leads back from [`Service::hand_over`]: what was given up by then
    /// is to be admitted again.
    pub fn pause(&self) {
        self.hub.pause();
        self.shutdown.park();
    }

    /// Whether nothing is at work, and no request is being answered but those that wait for a message
    /// which does not run.
    pub fn is_quiet(&self) -> bool {
        self.hub.busy() == 0 && self.in_flight() <= self.hub.waiting()
    }

    /// Connections give up their sockets, those that are being answered when they have their answer. Those
    /// who wait have it now, and event streams end. To be called once, when nothing is accepted any more.
    pub fn hand_over(&self) {
        lock(&self.handover.0).since = Some(Instant::now());
        self.shutdown.hand_over();
        self.hub.release();
    }

    /// Whether all have done so, and nothing is at work. Those whose clients are sent the end of something, and may not read it, are
    /// not waited for any more once [`STREAM_END_TIMEOUT`] has passed: to be asked again then.
    pub fn is_handed_over(&self) -> bool {
        let (left, ending) = self.connections_left();
        let since = lock(&self.handover.0).since;
        let late = since.is_some_and(|at| at.elapsed() >= STREAM_END_TIMEOUT);
        self.hub.busy() == 0 && (left == 0 || (left <= ending && late))
    }

    /// Those that were given up. What is not among them ends with the process.
    pub fn take_handed_over(&self) -> Vec<HandedOver> {
        std::mem::take(&mut *lock(&self.handover.0)).connections
    }

    /// Everything goes on as before. What was given up already is to be admitted again.
    #[must_use]
    pub fn resume(&self) -> Vec<HandedOver> {
        self.shutdown.resume();
        self.hub.resume();
        self.take_handed_over()
    }

    /// A connection's own thread gives up its socket.
    pub fn give_up(
        &self,
        socket: BorrowedFd<'_>,
        origin: Origin,
        activity: Option<&ConnectionActivity>,
        (unread, new): (Vec<u8>, bool),
    ) {
        let principal = activity.and_then(|activity| self.connections.principal(activity));
        let control = matches!(origin, Origin::Control { .. });
        let mut collected = lock(&self.handover.0);
        let fits = collected.bytes + unread.len() <= MAX_HANDED_OVER;
        match socket.try_clone_to_owned() {
            Ok(socket) if fits => {
                collected.bytes += unread.len();
                let one = HandedOver { socket, control, unread, new, principal };
                collected.connections.push(one);
            }
            Ok(_) => log::warn!(
                "a connection from {origin} is closed: all that wait have sent more than \
                 {MAX_HANDED_OVER} bytes"
            ),
            Err(e) => log::warn!("a connection from {origin} cannot be handed over: {e}"),
        }
    }
}
