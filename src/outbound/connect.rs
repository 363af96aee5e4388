//! Requests to the servers that the configuration names: over a socket of our own, or through curl
//! ([`super::curl`]). Every wait also ends with whatever ends the sender; only the look-up of a name
//! takes as long as the system's resolver does.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::client::{Answer, Client, Error};
use crate::config::Url;
use crate::http::Socket;
use crate::limits::{CONNECT_TIMEOUT, KEEP_ALIVE, WRITE_TIMEOUT};
use crate::sys::poll::{Interest, poll};
use crate::sys::process::is_shortage;
use crate::sys::socket::begin_connect;

/// A request.
#[derive(Clone, Copy)]
pub struct OutboundRequest<'a> {
    pub method: &'a str,
    pub url: &'a Url,
    /// What is asked for at the URL's host.
    pub target: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    /// JSON, or nothing. Where curl sends it, without any `@`, which it takes for a file's name at
    /// the front of a piece; JSON has another way to write it.
    pub body: &'a str,
}

/// What ends a request beside its answer.
#[derive(Clone, Copy)]
pub struct Cancel<'a> {
    pub deadline: Instant,
    /// Readable once the gateway stops.
    pub cut: Option<BorrowedFd<'a>>,
    /// Readable once the sender takes it back.
    pub cancel: Option<BorrowedFd<'a>>,
    /// A socket whose hang-up means that nobody waits any more.
    pub client: Option<BorrowedFd<'a>>,
    /// Called whenever there was nothing for [`KEEP_ALIVE`].
    pub idle: Option<&'a dyn Fn()>,
}

/// Which of them it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    Cancelled,
    ClientGone,
    Cut,
    Late,
}

impl<'a> Cancel<'a> {
    /// What has ended the request by now.
    pub fn over(&self) -> Option<CancelReason> {
        let mut ends = self.interests();
        let seen = poll(&mut ends, Some(Duration::ZERO)).is_ok_and(|ready| ready > 0);
        let kinds = [CancelReason::Cancelled, CancelReason::ClientGone, CancelReason::Cut];
        let mut ended = ends.iter().zip(kinds).filter(|(end, _)| seen && end.ready());
        let late = Instant::now() >= self.deadline;
        ended.next().map(|(_, kind)| kind).or(late.then_some(CancelReason::Late))
    }

    /// Waits for `interest`.
    ///
    /// # Errors
    /// WouldBlock at `until`, ConnectionAborted where the request is over: not TimedOut, after which
    /// a read would be tried again.
    pub fn wait(&self, interest: Interest<'_>, until: Instant) -> io::Result<()> {
        let [cancel, client, cut] = self.interests();
        let mut interests = [interest, cancel, client, cut];
        loop {
            let left = until.min(self.deadline).saturating_duration_since(Instant::now());
            let ready = poll(&mut interests, Some(left.min(KEEP_ALIVE)))?;
            if ready > 0 || left <= KEEP_ALIVE {
                break;
            }
            self.idle.iter().for_each(|tell| tell());
        }
        let [ready, ends @ ..] = interests.map(|interest| interest.ready());
        if ends.contains(&true) || (!ready && Instant::now() >= self.deadline) {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        if ready { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    fn interests(&self) -> [Interest<'a>; 3] {
        [
            self.cancel.map_or_else(Interest::none, Interest::read),
            self.client.map_or_else(Interest::none, Interest::hangup),
            self.cut.map_or_else(Interest::none, Interest::read),
        ]
    }
}

/// Tries each address of the host once.
pub fn connect(url: &Url, ends: &Cancel<'_>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for address in (url.host.as_str(), url.port).to_socket_addrs()? {
        match connect_to(address, ends) {
            Ok(stream) => return Ok(stream),
            Err(e) if is_shortage(&e) || e.kind() == ErrorKind::ConnectionAborted => return Err(e),
            Err(e) => last = io::Error::new(e.kind(), format!("connect to {address}: {e}")),
        }
    }
    Err(last)
}

fn connect_to(address: SocketAddr, ends: &Cancel<'_>) -> io::Result<TcpStream> {
    let stream = begin_connect(address)?;
    match ends.wait(Interest::write(stream.as_fd()), Instant::now() + CONNECT_TIMEOUT) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
        waited => waited?,
    }
    if let Some(e) = stream.take_error()? {
        return Err(e);
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A client on a connected stream that does not block.
pub fn client<'s>(
    stream: &'s TcpStream,
    url: &Url,
    ends: &'s Cancel<'s>,
) -> io::Result<Client<'s>> {
    let line = PolledStream { stream, ends, until: Cell::new(ends.deadline) };
    Client::new(line, &url.authority, WRITE_TIMEOUT.default)
}

impl<'s> Client<'s> {
    /// Sends a request, if curl has not done so already, and waits for the head of its answer.
    pub fn call(
        &mut self,
        call: &OutboundRequest<'_>,
        ends: &Cancel<'_>,
    ) -> Result<Answer<'_, 's>, Error> {
        if call.url.secure {
            return self.receive(call.method, ends.deadline);
        }
        let body = (!call.body.is_empty()).then_some(call.body.as_bytes());
        self.send(call.method, call.target, call.headers, body, ends.deadline)
    }
}

/// A socket, not blocking, on which every wait ends with its request.
struct PolledStream<'s> {
    stream: &'s TcpStream,
    ends: &'s Cancel<'s>,
    /// The end of the read time-out.
    until: Cell<Instant>,
}

impl Socket for PolledStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ends.wait(Interest::read(self.stream.as_fd()), self.until.get())?;
        self.stream.read(buffer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let until = Instant::now() + WRITE_TIMEOUT.default;
                self.ends.wait(Interest::write(self.stream.as_fd()), until)?;
                self.stream.write(bytes)
            }
            written => written,
        }
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.until.set(Instant::now() + timeout);
        Ok(())
    }

    fn end_writing(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}

impl AsFd for PolledStream<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
