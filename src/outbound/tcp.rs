//! Plain HTTP over a socket of our own. Every wait also ends with what cancels the request; only the
//! look-up of a name takes as long as the system's resolver does.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::client::Client;
use crate::cancel::Cancel;
use crate::config::Url;
use crate::http::Socket;
use crate::limits::{CONNECT_TIMEOUT, KEEP_ALIVE, WRITE_TIMEOUT};
use crate::sys::{poll::Interest, process::is_shortage, socket::begin_connect};

/// Look-ups of names that are under way.
static LOOK_UPS: AtomicUsize = AtomicUsize::new(0);

/// Whether the system's resolver is waited for.
pub fn is_looking_up() -> bool {
    LOOK_UPS.load(Ordering::Relaxed) > 0
}

/// Tries each address of the host once.
fn connect(url: &Url, cancel: &Cancel<'_>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
    LOOK_UPS.fetch_add(1, Ordering::Relaxed);
    let addresses = (url.host.as_str(), url.port).to_socket_addrs();
    LOOK_UPS.fetch_sub(1, Ordering::Relaxed);
    for address in addresses? {
        match connect_to(address, cancel) {
            Ok(stream) => return Ok(stream),
            Err(e) if is_shortage(&e) || e.kind() == ErrorKind::ConnectionAborted => return Err(e),
            Err(e) => last = io::Error::new(e.kind(), format!("connect to {address}: {e}")),
        }
    }
    Err(last)
}

/// Connects to an address.
///
/// # Errors
/// Those of [`wait`]; TimedOut after [`CONNECT_TIMEOUT`].
pub fn connect_to(address: SocketAddr, cancel: &Cancel<'_>) -> io::Result<TcpStream> {
    let stream = begin_connect(address)?;
    match wait(cancel, Interest::write(stream.as_fd()), Instant::now() + CONNECT_TIMEOUT) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
        waited => waited?,
    }
    if let Some(e) = stream.take_error()? {
        return Err(e);
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Waits for an interest.
///
/// # Errors
/// WouldBlock at `until`, ConnectionAborted where the request is cancelled: not TimedOut, after which
/// a read would be tried again.
fn wait(cancel: &Cancel<'_>, interest: Interest<'_>, until: Instant) -> io::Result<()> {
    loop {
        let idle_at = Instant::now() + KEEP_ALIVE;
        match cancel.wait([interest], until.min(idle_at))? {
            (_, Some(_)) => return Err(ErrorKind::ConnectionAborted.into()),
            ([true], None) => return Ok(()),
            ([false], None) if until <= idle_at => return Err(ErrorKind::WouldBlock.into()),
            // A client that has gone is noticed by its hang-up.
            ([false], None) => drop(cancel.idle.map(|idle| idle())),
        }
    }
}

/// A client on a stream, which is connected where there is none. It does not block.
pub fn client<'s>(
    stream: &'s mut Option<TcpStream>,
    url: &Url,
    cancel: &'s Cancel<'s>,
) -> io::Result<Client<'s>> {
    let connected = stream.take().map_or_else(|| connect(url, cancel), Ok)?;
    let stream = stream.insert(connected);
    let stream = PolledStream { stream, cancel, until: Cell::new(cancel.deadline) };
    Client::new(stream, &url.authority, WRITE_TIMEOUT.default)
}

/// A socket, not blocking, on which every wait ends with its request.
struct PolledStream<'s> {
    stream: &'s TcpStream,
    cancel: &'s Cancel<'s>,
    /// The end of the read time-out.
    until: Cell<Instant>,
}

impl Socket for PolledStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        wait(self.cancel, Interest::read(self.stream.as_fd()), self.until.get())?;
        self.stream.read(buffer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            written => return written,
        }
        let until = Instant::now() + WRITE_TIMEOUT.default;
        wait(self.cancel, Interest::write(self.stream.as_fd()), until)?;
        self.stream.write(bytes)
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.until.set(Instant::now() + timeout);
        Ok(())
    }
}

impl AsFd for PolledStream<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
