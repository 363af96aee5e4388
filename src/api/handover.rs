//! Connections that outlive the process: each gives up its socket between two requests, with what was read
//! of the next one, and the process that goes on admits it like one that it has accepted.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::auth::Origin;
use crate::digest::{from_base64, to_base64};
use crate::json::object;
use crate::limits::MAX_HANDED_OVER;
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
        object(&mut [
            ("fd", self.socket.as_raw_fd().into()),
            ("control", self.control.into()),
            ("unread", to_base64(&self.unread).into()),
            ("new", self.new.into()),
            ("principal", self.principal.as_deref().into()),
        ])
    }

    /// One that is its `socket` and what else there is of it; `None` where something is missing or wrong.
    pub fn from_json(socket: OwnedFd, value: &Value) -> Option<HandedOver> {
        Some(HandedOver {
            socket,
            control: value["control"].as_bool()?,
            unread: from_base64(value["unread"].as_str()?)?,
            new: value["new"] == true,
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

impl Handover {
    /// The first connections are about to come.
    pub fn begin(&self) {
        lock(&self.0).since = Some(Instant::now());
    }

    /// How long ago that was.
    pub fn age(&self) -> Option<Duration> {
        lock(&self.0).since.map(|since| since.elapsed())
    }

    /// All that were given up; the next ones are of another handover.
    pub fn take(&self) -> Vec<HandedOver> {
        std::mem::take(&mut *lock(&self.0)).connections
    }

    /// A connection gives up its socket.
    pub fn add(
        &self,
        socket: BorrowedFd<'_>,
        origin: Origin,
        principal: Option<String>,
        (unread, new): (Vec<u8>, bool),
    ) {
        let control = matches!(origin, Origin::Control { .. });
        let mut collected = lock(&self.0);
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
