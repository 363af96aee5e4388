//! One request over a real socket, and what became of it, told apart as finely as a client can tell.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No answer for so long is no answer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How a request failed.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// connect(2) failed: nobody listens.
    Refused,
    /// The answer was 503.
    Unavailable,
    /// A new connection was closed or reset before the first byte of an answer.
    Reset,
    /// A connection that has had an answer was closed before the first byte of the next: a client may
    /// send its request again (RFC 9112, 9.3.1).
    ClosedIdle,
    /// Closed or reset behind the first byte of an answer and before its last.
    Cut,
    /// Nothing came for [`PATIENCE`].
    Late,
    /// A whole answer that should have been another, or a client that cannot work.
    Wrong(String),
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    /// It said `Connection: close`.
    pub closes: bool,
}

/// One connection.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// An answer has come over it.
    used: bool,
}

impl Wire {
    pub fn connect(address: SocketAddr) -> Result<Wire, Failure> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| {
            use ErrorKind::{AddrNotAvailable, TimedOut};
            match error.kind() {
                TimedOut => Failure::Late,
                // No port is free, or no descriptor: that is the client's own trouble.
                AddrNotAvailable => Failure::Wrong(error.to_string()),
                _ if error.raw_os_error() == Some(24) => Failure::Wrong(error.to_string()),
                _ => Failure::Refused,
            }
        })?;
        // Where nobody listens, loopback may connect a socket to itself.
        if stream.local_addr().is_ok_and(|own| own == address) {
            return Err(Failure::Refused);
        }
        let set = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        set.map_err(|error| Failure::Wrong(format!("a socket's options: {error}")))?;
        Ok(Wire { stream, buffer: Vec::new(), used: false })
    }

    /// Whether an answer has come over it before.
    pub fn is_used(&self) -> bool {
        self.used
    }

    /// Sends the request and reads its whole answer.
    pub fn ask(&mut self, request: &[u8]) -> Result<Answer, Failure> {
        let (status, fields) = self.begin(request)?;
        let length = fields.iter().find(|(name, _)| name == "content-length");
        let Some(length) = length.and_then(|(_, value)| value.parse::<usize>().ok()) else {
            let why = format!("no Content-Length in an answer with status {status}");
            return Err(Failure::Wrong(why));
        };
        while self.buffer.len() < length {
            self.more()?;
        }
        let rest = self.buffer.split_off(length);
        let body = std::mem::replace(&mut self.buffer, rest);
        self.used = true;
        let closes = fields
            .iter()
            .any(|(name, value)| name == "connection" && value.eq_ignore_ascii_case("close"));
        let body = String::from_utf8_lossy(&body).into_owned();
        if status == 503 {
            return Err(Failure::Unavailable);
        }
        Ok(Answer { status, body, closes })
    }

    /// Sends the request and reads the head of its answer: its status, and its fields in lower case.
    pub fn begin(&mut self, request: &[u8]) -> Result<(u16, Vec<(String, String)>), Failure> {
        // Where it cannot be sent, an answer may be there all the same: the read says what came.
        let _ = self.stream.write_all(request);
        while self.buffer.is_empty() {
            match self.fill() {
                Ok(true) => {}
                Err(Failure::Late) => return Err(Failure::Late),
                _ if self.used => return Err(Failure::ClosedIdle),
                _ => return Err(Failure::Reset),
            }
        }
        let head = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.buffer.split_off(at + 4);
                let head = std::mem::replace(&mut self.buffer, rest);
                break String::from_utf8_lossy(&head).into_owned();
            }
            self.more()?;
        };
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let Some(status) = status else {
            return Err(Failure::Wrong(format!("a status line: {head:?}")));
        };
        let fields = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok((status, fields))
    }

    /// The next chunk of a chunked body; `None` is its last.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let size = loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                let size = line.split(';').next().unwrap_or("").trim();
                break usize::from_str_radix(size, 16)
                    .map_err(|_| Failure::Wrong(format!("a chunk's size: {line:?}")))?;
            }
            self.more()?;
        };
        while self.buffer.len() < size + 2 {
            self.more()?;
        }
        let chunk = self.buffer[..size].to_vec();
        self.buffer.drain(..size + 2);
        Ok((size > 0).then_some(chunk))
    }

    /// Another handle of its socket, to end a read from outside.
    pub fn handle(&self) -> Option<TcpStream> {
        self.stream.try_clone().ok()
    }

    /// More of an answer that has begun.
    fn more(&mut self) -> Result<(), Failure> {
        if self.fill()? { Ok(()) } else { Err(Failure::Cut) }
    }

    /// Reads what is there; false at the end of the stream, in whichever way it came.
    fn fill(&mut self) -> Result<bool, Failure> {
        let mut bytes = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(length) => {
                    self.buffer.extend_from_slice(&bytes[..length]);
                    return Ok(length > 0);
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(Failure::Late),
                    _ => return Ok(false),
                },
            }
        }
    }
}
