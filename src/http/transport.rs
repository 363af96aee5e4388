//! A socket with a buffer in front and a deadline on every wait. Server and client stand on it.

use crate::limits::{SMALL_BUFFER, WRITE_CHUNK};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::socket::Socket;
use crate::limits::MAX_HEAD;

/// The largest read: as much as a pipe or a loopback segment usually carries.
const LARGE_READ: usize = 64 << 10;

/// A wait may end this much later than its deadline. Setting the socket's time-out anew for less
/// would cost a system call on each read.
const TIMEOUT_SLACK: Duration = Duration::from_millis(10);

/// What came of waiting for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    Data,
    /// The peer sends no more, or another thread ended our reading.
    End,
    TimedOut,
}

/// How fast the peer takes what is written: each 64 KiB within the write time-out, counting only
/// the time that a write waits. A stream with nothing to say costs its reader nothing.
#[derive(Debug, Default)]
pub struct Pace {
    waited: Duration,
    taken: usize,
}

pub struct Transport<'s> {
    pub(super) socket: Box<dyn Socket + 's>,
    /// What the socket was last told; `None` before that, and where it has to be told again.
    read_timeout: Option<Duration>,
    write_timeout: Duration,
    /// `buffer[start..end]` has arrived and is not used yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<'s> Transport<'s> {
    pub fn new(socket: Box<dyn Socket + 's>, write_timeout: Duration) -> io::Result<Transport<'s>> {
        socket.set_write_timeout(write_timeout)?;
        Ok(Transport {
            socket,
            read_timeout: None,
            write_timeout,
            buffer: vec![0; SMALL_BUFFER],
            start: 0,
            end: 0,
        })
    }

    /// What has arrived and is not used yet.
    pub fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Gives back what a large head or body made the buffer grow to.
    pub fn shrink(&mut self) {
        if self.start == self.end && self.buffer.len() > SMALL_BUFFER {
            self.buffer = vec![0; SMALL_BUFFER];
        }
    }

    /// Makes room for reads of a body.
    pub fn expect_more(&mut self) {
        if self.buffer.len() < MAX_HEAD {
            self.buffer.resize(MAX_HEAD, 0);
        }
    }

    /// Waits until there is more in [`Transport::data`].
    pub fn fill(&mut self, deadline: Instant) -> io::Result<Fill> {
        if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.read(&mut buffer[self.end..], deadline);
        self.buffer = buffer;
        let (fill, count) = result?;
        self.end += count;
        Ok(fill)
    }

    /// Waits for up to `most` bytes and appends them to `out`; for bodies, past the buffer.
    pub fn fill_into(
        &mut self,
        out: &mut Vec<u8>,
        most: usize,
        deadline: Instant,
    ) -> io::Result<Fill> {
        let before = out.len();
        // Room grows with what has arrived, not with what was announced.
        let room = most.min(before.clamp(SMALL_BUFFER, LARGE_READ));
        out.resize(before + room, 0);
        let result = self.read(&mut out[before..], deadline);
        out.truncate(before + result.as_ref().map_or(0, |(_, count)| *count));
        result.map(|(fill, _)| fill)
    }

    /// Waits for bytes. Says how many have come.
    fn read(&mut self, room: &mut [u8], deadline: Instant) -> io::Result<(Fill, usize)> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok((Fill::TimedOut, 0));
            }
            // A shorter time-out than what is left only wakes us early; a longer one is wrong.
            if self.read_timeout.is_none_or(|set| set > left + TIMEOUT_SLACK) {
                // The kernel counts in milliseconds at best, and 0 would mean "for ever".
                let timeout = left.max(Duration::from_millis(1));
                self.socket.set_read_timeout(timeout)?;
                self.read_timeout = Some(timeout);
            }
            match self.socket.read(room) {
                Ok(0) => return Ok((Fill::End, 0)),
                Ok(count) => return Ok((Fill::Data, count)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    self.read_timeout = None;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes all of `bytes`, in one system call where they fit a piece and the peer reads.
    ///
    /// # Errors
    /// TimedOut: the peer reads slower than [`Pace`] allows. What it got is cut off.
    pub fn write(&mut self, bytes: &[u8], pace: &mut Pace) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(WRITE_CHUNK)];
            let before = Instant::now();
            let written = self.socket.write(piece);
            pace.waited += before.elapsed();
            match written {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    pace.taken += count;
                    rest = &rest[count..];
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e),
            }
            if pace.taken >= WRITE_CHUNK {
                *pace = Pace::default();
            } else if pace.waited >= self.write_timeout {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Ends the connection so that the peer sees our last bytes: a socket closed with unread input sends
    /// a reset, which may overtake them (RFC 9112 section 9.6). Reads and drops up to `most` bytes.
    pub fn linger(&mut self, most: usize, deadline: Instant) {
        if self.socket.end_writing().is_err() {
            return;
        }
        self.expect_more();
        let mut dropped = self.data().len();
        while dropped < most {
            self.consume(usize::MAX);
            match self.fill(deadline) {
                Ok(Fill::Data) => dropped += self.data().len(),
                Ok(Fill::End | Fill::TimedOut) | Err(_) => return,
            }
        }
    }

    /// No more can be written: for a stream that broke off.
    pub fn end_writing(&self) {
        // An error means that the peer has gone already.
        let _ = self.socket.end_writing();
    }
}

impl AsFd for Transport<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    #[test]
    fn memory_goes_back_when_all_is_used() {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let soon = Duration::from_secs(10);
        let mut transport = Transport::new(Box::new(Arc::new(socket)), soon).unwrap();
        peer.write_all(&[b'x'; 10_000]).unwrap();
        while transport.data().len() < 10_000 {
            assert_eq!(transport.fill(Instant::now() + soon).unwrap(), Fill::Data);
        }
        transport.shrink();
        assert_eq!(transport.data().len(), 10_000);
        transport.consume(9_999);
        transport.shrink();
        assert_eq!(transport.data(), b"x");
        transport.consume(1);
        transport.shrink();
        assert_eq!(transport.buffer.capacity(), SMALL_BUFFER);
    }

    #[test]
    fn a_deadline_holds_whatever_the_socket_was_told_before() {
        let (_peer, socket) = UnixStream::pair().unwrap();
        let mut transport =
            Transport::new(Box::new(Arc::new(socket)), Duration::from_secs(10)).unwrap();
        for millis in [60, 5, 60] {
            let (begun, wait) = (Instant::now(), Duration::from_millis(millis));
            assert_eq!(transport.fill(begun + wait).unwrap(), Fill::TimedOut);
            assert!(begun.elapsed() >= wait && begun.elapsed() < Duration::from_secs(5));
        }
    }
}
