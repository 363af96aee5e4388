//! Callbacks over plain HTTP, by our own client.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::callback::Post;
use super::judge::{Seen, judge};
use super::{Sent, is_cut};
use crate::http::client::Error;
use crate::http::{Client, Socket};
use crate::limits::{CONNECT_PATIENCE, MAX_SKIPPED_BODY, SKIP_TIMEOUT};
use crate::sys::poll::{Interest, poll};

pub fn send(post: &Post<'_>, cut: BorrowedFd<'_>) -> Sent {
    let deadline = Instant::now() + post.target.timeout;
    match exchange(post, cut, deadline) {
        Ok((status, after)) => judge(Seen::Response(status, after.as_deref()), post.now),
        Err(_) if is_cut(cut) => Sent::Cut,
        Err(_) if Instant::now() >= deadline => {
            judge(Seen::Trouble("no answer within its timeout"), post.now)
        }
        Err(e) => judge(Seen::Trouble(&e.to_string()), post.now),
    }
}

fn exchange(
    post: &Post<'_>,
    cut: BorrowedFd<'_>,
    deadline: Instant,
) -> Result<(u16, Option<String>), Error> {
    let stream = connect(post, cut, deadline)?;
    stream.set_nonblocking(true)?;
    let until = Cell::new(deadline);
    let line = Line { stream, cut: cut.try_clone_to_owned()?, deadline, until };
    let mut client = Client::new(line, &post.url.authority, post.target.timeout)?;
    let mut headers: Vec<_> = post.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    headers.push(("Connection", "close"));
    let body = Some(post.body.as_bytes());
    let answer = client.send("POST", &post.url.target, &headers, body, deadline)?;
    let (status, after) = (answer.status, answer.header("Retry-After").map(str::to_owned));
    // Its body means nothing to us; but a socket closed before it came would reset the connection.
    let most = usize::try_from(MAX_SKIPPED_BODY).unwrap_or(0);
    let _ = answer.body(most, deadline.min(Instant::now() + SKIP_TIMEOUT));
    Ok((status, after))
}

/// Tries each address of the host once.
fn connect(post: &Post<'_>, cut: BorrowedFd<'_>, deadline: Instant) -> io::Result<TcpStream> {
    let host = (post.url.host.as_str(), post.url.port);
    let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for address in host.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now()).min(CONNECT_PATIENCE);
        if left.is_zero() || is_cut(cut) {
            return Err(ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = io::Error::new(e.kind(), format!("connect to {address}: {e}")),
        }
    }
    Err(last)
}

/// A socket, not blocking, on which every wait ends with the deadline or the cut.
struct Line {
    stream: TcpStream,
    cut: OwnedFd,
    deadline: Instant,
    /// The end of the read time-out, which is no later.
    until: Cell<Instant>,
}

impl Line {
    fn wait(&self, interest: Interest<'_>, until: Instant) -> io::Result<()> {
        let mut interests = [interest, Interest::read(self.cut.as_fd())];
        let left = until.saturating_duration_since(Instant::now());
        poll(&mut interests, Some(left))?;
        let [ready, cut] = interests.map(|interest| interest.ready());
        // Not TimedOut, after which the connection would be tried again.
        if cut || (!ready && Instant::now() >= self.deadline) {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        if ready { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(Interest::read(self.stream.as_fd()), self.until.get())?;
        self.stream.read(buffer)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(Interest::write(self.stream.as_fd()), self.deadline)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Socket for Line {
    fn no_delay(&self) -> io::Result<()> {
        self.stream.set_nodelay(true)
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.until.set(self.deadline.min(Instant::now() + timeout));
        Ok(())
    }

    fn set_write_timeout(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn end_writing(&self) -> io::Result<()> {
        self.stream.end_writing()
    }
}
