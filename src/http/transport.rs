//! A socket with a buffer in front and a deadline on every wait. Server and client stand on it.

use std::io::{self, ErrorKind};
use std::mem;
use std::time::{Duration, Instant};

use super::Error;
use super::shutdown_flag::{IDLE_AFTER, ShutdownFlag};
use super::socket::Socket;
use crate::limits::{MAX_HEAD, SMALL_BUFFER, WRITE_CHUNK};
use crate::sys::memory;
use crate::sys::poll::{Interest, wait_any};

/// The largest read: as much as a pipe or a loopback segment usually carries.
const LARGE_READ: usize = 64 << 10;

/// A wait may end this much later than its deadline. Setting the socket's time-out anew for less
/// would cost a system call on each read.
const TIMEOUT_SLACK: Duration = Duration::from_millis(10);

pub struct Transport<'s> {
    pub(super) socket: Box<dyn Socket + 's>,
    /// What the socket was last told; `None` before that, and where it has to be told again.
    read_timeout: Option<Duration>,
    write_timeout: Duration,
    /// What has arrived, of which everything before `start` is used.
    buffer: Vec<u8>,
    start: usize,
    /// How long writes have waited for the peer since it took the last [`WRITE_CHUNK`].
    waited: Duration,
    /// Bytes that it has taken since.
    taken: usize,
}

impl<'s> Transport<'s> {
    pub fn new(socket: Box<dyn Socket + 's>, write_timeout: Duration) -> io::Result<Transport<'s>> {
        socket.set_write_timeout(write_timeout)?;
        Ok(Transport {
            socket,
            read_timeout: None,
            write_timeout,
            buffer: Vec::new(),
            start: 0,
            waited: Duration::ZERO,
            taken: 0,
        })
    }

    /// What has arrived and is not used yet.
    pub fn data(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.buffer.len());
    }

    /// Takes back what was consumed last, before anything else is read.
    pub fn put_back(&mut self, count: usize) {
        self.start = self.start.saturating_sub(count);
    }

    /// Gives back what a large head or body made the buffer grow to.
    pub fn shrink(&mut self) {
        self.buffer.drain(..mem::take(&mut self.start));
        self.buffer.shrink_to(SMALL_BUFFER);
    }

    /// Makes room for reads of a body.
    pub fn expect_more(&mut self) {
        self.buffer.drain(..mem::take(&mut self.start));
        self.buffer.reserve_exact(MAX_HEAD.saturating_sub(self.buffer.len()));
    }

    /// Waits until there is more in [`Transport::data`].
    pub fn fill(&mut self, deadline: Instant) -> Result<(), Error> {
        let mut buffer = mem::take(&mut self.buffer);
        buffer.drain(..mem::take(&mut self.start));
        let filled = self.read_into(&mut buffer, usize::MAX, deadline);
        self.buffer = buffer;
        filled
    }

    /// Like [`Transport::fill`], where the peer may take its time: after a moment the wait takes little
    /// memory, and ends without any bytes once sockets are handed over. Before a message begins it has no
    /// buffer, and not what the last one has left on the stack.
    pub fn await_more(&mut self, deadline: Instant, flag: &ShutdownFlag) -> Result<(), Error> {
        let moment = Instant::now() + flag.idle_after();
        match self.fill(moment.min(deadline)) {
            Err(Error::TimedOut) if moment < deadline => {}
            filled => return filled,
        }
        if self.data().is_empty() {
            self.buffer = Vec::new();
            memory::release_stack();
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::TimedOut);
            }
            let news = [self.socket.as_fd().into(), flag.handover_event()].map(Interest::read);
            match wait_any(news, Some(left))? {
                [true, _] => return self.fill(deadline),
                [false, true] => return Ok(()),
                [false, false] => {}
            }
        }
    }

    /// Takes up bytes that another process has read of this socket.
    pub fn restore(&mut self, bytes: Vec<u8>) {
        (self.buffer, self.start) = (bytes, 0);
    }

    /// What has arrived and is not used, for good.
    pub fn take(&mut self) -> Vec<u8> {
        self.buffer.drain(..mem::take(&mut self.start));
        mem::take(&mut self.buffer)
    }

    /// Appends up to `most` bytes to `out`: of those that have arrived, else of those that it waits for,
    /// which go past the buffer.
    pub fn read_into(
        &mut self,
        out: &mut Vec<u8>,
        most: usize,
        deadline: Instant,
    ) -> Result<(), Error> {
        let (before, arrived) = (out.len(), self.data().len().min(most));
        if arrived > 0 {
            out.extend_from_slice(&self.data()[..arrived]);
            self.consume(arrived);
            return Ok(());
        }
        // Room grows with what has arrived, not with what was announced.
        let room = before.max(out.capacity() - before).clamp(SMALL_BUFFER, LARGE_READ).min(most);
        // In pieces, which memset(3) and memcpy(3) do: by resize it is a loop, byte by byte.
        let zeros = [0; SMALL_BUFFER];
        while out.len() < before + room {
            out.extend_from_slice(&zeros[..SMALL_BUFFER.min(before + room - out.len())]);
        }
        let read = self.read(&mut out[before..], deadline);
        out.truncate(before + *read.as_ref().unwrap_or(&0));
        read.map(drop)
    }

    /// Waits for bytes. Says how many have come.
    fn read(&mut self, room: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        // A short one, as most waits are, will do for all of them: also for that until a peer is silent.
        let mut longest = IDLE_AFTER;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::TimedOut);
            }
            // A shorter time-out than what is left only wakes us early; a longer one is wrong.
            if self.read_timeout.is_none_or(|set| set > left + TIMEOUT_SLACK) {
                // The kernel counts in milliseconds at best, and 0 would mean "for ever".
                let timeout = left.min(longest).max(Duration::from_millis(1));
                self.socket.set_read_timeout(timeout)?;
                self.read_timeout = Some(timeout);
            }
            match self.socket.read(room) {
                // The peer sends no more, or another thread ended our reading.
                Ok(0) => return Err(Error::CutShort),
                Ok(count) => return Ok(count),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    (self.read_timeout, longest) = (None, Duration::MAX);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// What is written from now on is another message: its reader has all of its time.
    pub fn begin_message(&mut self) {
        (self.waited, self.taken) = (Duration::ZERO, 0);
    }

    /// Writes all of `bytes`, in one system call where they fit a piece and the peer reads.
    ///
    /// # Errors
    /// TimedOut: the peer has not taken 64 KiB of a message within the write time-out, counting only the
    /// time that a write waits: a stream with nothing to say costs its reader nothing.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(WRITE_CHUNK)];
            let before = Instant::now();
            let written = self.socket.write(piece);
            self.waited += before.elapsed();
            match written {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.taken += count;
                    rest = &rest[count..];
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e),
            }
            if self.taken >= WRITE_CHUNK {
                self.begin_message();
            } else if self.waited >= self.write_timeout {
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
            if self.fill(deadline).is_err() {
                return;
            }
            dropped += self.data().len();
        }
    }

    /// No more can be written: for a stream that broke off.
    pub fn end_writing(&self) {
        // An error means that the peer has gone already.
        let _ = self.socket.end_writing();
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
            transport.fill(Instant::now() + soon).unwrap();
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
    fn a_silent_peer_costs_no_buffer_and_is_heard_when_it_speaks() {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let (soon, flag) = (Duration::from_secs(10), ShutdownFlag::default());
        let mut transport = Transport::new(Box::new(Arc::new(socket)), soon).unwrap();
        for text in ["one", "two"] {
            for wait in [IDLE_AFTER / 2, IDLE_AFTER * 2] {
                let begun = Instant::now();
                assert!(matches!(transport.await_more(begun + wait, &flag), Err(Error::TimedOut)));
                assert!(begun.elapsed() >= wait && begun.elapsed() < soon / 2);
            }
            assert_eq!(transport.buffer.capacity(), 0);
            peer.write_all(text.as_bytes()).unwrap();
            transport.await_more(Instant::now() + soon, &flag).unwrap();
            assert_eq!(transport.data(), text.as_bytes());
            transport.consume(usize::MAX);
        }
        drop(peer);
        assert!(matches!(transport.await_more(Instant::now() + soon, &flag), Err(Error::CutShort)));
    }

    #[test]
    fn a_long_body_in_chunks_makes_no_buffer_grow() {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let soon = Duration::from_secs(10);
        let mut transport = Transport::new(Box::new(Arc::new(socket)), soon).unwrap();
        for _ in 0..20 {
            peer.write_all(&[b'x'; 50_000]).unwrap();
            let mut left = 50_000;
            while left > 0 {
                transport.expect_more();
                transport.fill(Instant::now() + soon).unwrap();
                left -= transport.data().len();
                transport.consume(usize::MAX);
            }
        }
        assert!(transport.buffer.capacity() <= MAX_HEAD, "{}", transport.buffer.capacity());
    }

    #[test]
    fn a_deadline_holds_whatever_the_socket_was_told_before() {
        let (_peer, socket) = UnixStream::pair().unwrap();
        let mut transport =
            Transport::new(Box::new(Arc::new(socket)), Duration::from_secs(10)).unwrap();
        for millis in [60, 5, 60] {
            let (begun, wait) = (Instant::now(), Duration::from_millis(millis));
            assert!(matches!(transport.fill(begun + wait), Err(Error::TimedOut)));
            assert!(begun.elapsed() >= wait && begun.elapsed() < Duration::from_secs(5));
        }
    }
}
