//! The doors: accepting connections and giving each a thread.
#![forbid(unsafe_code)]

use std::io;
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::api::{self, Origin, Service};
use crate::config::Config;
use crate::http::Connection;
use crate::http::Limits;
use crate::http::Socket;
use crate::limits::{
    ACCEPT_BATCH, CONNECTION_STACK, DESCRIPTORS_PER_CONNECTION, DESCRIPTORS_PER_TURN,
    MAX_CONTROL_CONNECTIONS, RESERVED_DESCRIPTORS,
};
use crate::sys::fd::{limit, set_nonblocking};
use crate::sys::{socket, user};
use crate::threads::spawn;

/// What a connection over the cap is told. Short: it is written without waiting.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
Content-Length: 120\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
{\"error\":{\"message\":\"Too many connections; try again later.\",\
\"type\":\"server_error\",\"param\":null,\"code\":\"overloaded\"}}   ";

/// Accepts what waits at both doors.
///
/// # Errors
/// When accepting fails for lack of something: rest for `ACCEPT_BACK_OFF` before the next try.
pub fn accept(tcp: &TcpListener, control: &UnixListener, service: &Arc<Service>) -> io::Result<()> {
    let cap = connections_allowed(&service.settings().config);
    // The control socket first: its few clients are the operator.
    for _ in 0..ACCEPT_BATCH {
        match control.accept() {
            Ok((stream, _)) => admit_control(stream, service)?,
            Err(e) if passes(&e) => continue,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    for _ in 0..ACCEPT_BATCH {
        match tcp.accept() {
            Ok((stream, peer)) => {
                if service.connections.load(Ordering::SeqCst) >= cap {
                    refuse(stream);
                } else {
                    start(Box::new(stream), Origin::Tcp(peer), service)?;
                }
            }
            Err(e) if passes(&e) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Errors of one connection that went away before it was accepted (accept(2)).
fn passes(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(e.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Lets in our own uid and root, by the kernel's word.
fn admit_control(stream: UnixStream, service: &Arc<Service>) -> io::Result<()> {
    let uid = match socket::peer(&stream) {
        Ok(peer) => peer.uid,
        Err(_) => return Ok(()),
    };
    if uid != user::own_uid() && uid != 0 {
        log::warn!("uid {uid} was turned away from the control socket");
        return Ok(());
    }
    if service.control_connections.load(Ordering::SeqCst) >= MAX_CONTROL_CONNECTIONS {
        refuse(stream);
        return Ok(());
    }
    start(Box::new(stream), Origin::Control { uid }, service)
}

/// Answers a connection that is over the cap, without waiting for it.
fn refuse(stream: impl Socket) {
    let _ = set_nonblocking(stream.as_fd());
    let mut stream = stream;
    let _ = stream.write(FULL);
    // What the client has sent already is read, or closing would reset the answer away.
    let _ = stream.read(&mut [0; 2048]);
}

/// The most connections that the descriptors allow: each needs one, and some more while it waits;
/// the reserve keeps files, helpers and the control socket usable.
fn connections_allowed(config: &Config) -> usize {
    let descriptors = limit().ok().and_then(|n| usize::try_from(n).ok());
    let taken = RESERVED_DESCRIPTORS + DESCRIPTORS_PER_TURN * config.limits.max_turns;
    let room = descriptors.unwrap_or(1024).saturating_sub(taken);
    let room = (room / DESCRIPTORS_PER_CONNECTION).max(1);
    config.limits.max_connections.min(room)
}

/// Gives a connection its thread.
fn start(stream: Box<dyn Socket + Send>, origin: Origin, service: &Arc<Service>) -> io::Result<()> {
    let counted = Counted::new(service, origin);
    let run = move || {
        let service = &counted.service;
        let limits = limits(service);
        match Connection::new(stream, limits, Arc::clone(&service.gate)) {
            Ok(connection) => api::serve(connection, origin, service),
            Err(e) => log::debug!("a connection from {origin} could not be set up: {e}"),
        }
    };
    spawn("connection", CONNECTION_STACK, Box::new(run)).map(drop)
}

fn limits(service: &Service) -> Limits {
    let settings = service.settings();
    let limits = &settings.config.limits;
    Limits {
        max_body: limits.max_body,
        head_timeout: limits.head_timeout,
        idle_timeout: limits.idle_timeout,
        body_timeout: limits.body_timeout,
        write_timeout: limits.write_timeout,
    }
}

/// A connection in the count of its kind, for as long as it lives.
struct Counted {
    service: Arc<Service>,
    origin: Origin,
}

impl Counted {
    fn new(service: &Arc<Service>, origin: Origin) -> Counted {
        service.count(origin).fetch_add(1, Ordering::SeqCst);
        Counted { service: Arc::clone(service), origin }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.service.count(self.origin).fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_answer_is_framed_right() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
        let value: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(value["error"]["code"], "overloaded");
    }
}
