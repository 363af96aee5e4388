//! The doors: accepting connections and giving each a thread.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::spawn;
use crate::api::{self, Origin, Service};
use crate::http::Connection;
use crate::http::Limits;
use crate::http::Socket;
use crate::sys::{socket, user};

/// A thread's stack: deep enough for nested JSON and an agent's buffers; only what is touched takes
/// memory.
const STACK: usize = 128 << 10;
/// How many connections are accepted before the main loop looks at its other duties.
const BATCH: usize = 64;
/// Connections on the control socket at once: commands of one user.
const MAX_CONTROL: usize = 32;
/// What a connection over the cap is told. Short: it is written without waiting.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
Content-Length: 120\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
{\"error\":{\"message\":\"Too many connections; try again later.\",\
\"type\":\"server_error\",\"param\":null,\"code\":\"overloaded\"}}   ";

/// How long accepting rests after an error that would come again at once (EMFILE).
pub const BACK_OFF: Duration = Duration::from_millis(50);

/// Accepts what waits at both doors.
///
/// # Errors
/// When accepting fails for lack of something: rest for `BACK_OFF` before the next try.
pub fn accept(
    tcp: &TcpListener,
    control: &UnixListener,
    service: &Arc<Service>,
    cap: usize,
) -> io::Result<()> {
    // The control socket first: its few clients are the operator.
    for _ in 0..BATCH {
        match control.accept() {
            Ok((stream, _)) => admit_control(stream, service)?,
            Err(e) if passes(&e) => continue,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    for _ in 0..BATCH {
        match tcp.accept() {
            Ok((stream, peer)) => {
                if service.connections.load(Ordering::SeqCst) >= cap {
                    refuse(&stream);
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
    if service.control_connections.load(Ordering::SeqCst) >= MAX_CONTROL {
        return Ok(());
    }
    start(Box::new(stream), Origin::Control { uid }, service)
}

/// Answers a connection that is over the cap, without waiting for it.
fn refuse(mut stream: &TcpStream) {
    let _ = stream.set_nonblocking(true);
    let _ = stream.write(FULL);
    // What the client has sent already is read, or closing would reset the answer away.
    let mut sink = [0; 2048];
    let _ = io::Read::read(&mut stream, &mut sink);
}

/// Gives a connection its thread.
fn start(stream: Box<dyn Socket>, origin: Origin, service: &Arc<Service>) -> io::Result<()> {
    let counted = Counted::new(service, origin);
    let run = move || {
        let service = &counted.service;
        let limits = limits(service);
        match Connection::new(stream, limits, Arc::clone(&service.gate)) {
            Ok(connection) => api::serve(connection, origin, service),
            Err(e) => log::debug!("a connection from {origin} could not be set up: {e}"),
        }
    };
    spawn("connection", STACK, Box::new(run)).map(drop)
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
        Counted {
            service: Arc::clone(service),
            origin,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.service
            .count(self.origin)
            .fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_answer_is_framed_right() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{}",
            body.len()
        );
        let value: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(value["error"]["code"], "overloaded");
    }
}
