//! HTTP/1.1 on blocking sockets: bytes ↔ requests and responses, one connection at a time.
//!
//! What may enter: framing, limits, time-outs, the message formats. What may not: routes, keys,
//! sessions, anything of the gateway. The rules are pure ([`head`], [`scan`], [`target`], [`body`],
//! [`sse`]: no socket, no clock); [`connection`] drives them over a [`transport`].
//!
//! What two parsers could read differently is refused and the connection closed; a verdict depends on
//! the bytes alone, never on how packets cut them.

mod activity;
mod body;
mod body_reader;
mod connection;
mod head;
mod request;
mod response;
mod scan;
mod shutdown_flag;
mod socket;
pub mod sse;
mod stream;
mod target;
#[cfg(any(test, fuzzing))]
pub mod tests;
mod transport;

use std::{fmt, io};

/// Its name where a handler reads it.
pub use Error as Closed;
pub use activity::{Activity, ConnectionActivity, Stage};
pub use body::TOO_LARGE;
pub use body_reader::BodyReader;
pub use connection::Connection;
pub use head::Fields;
pub use request::{BodyFraming, Method, Request, Version};
pub use response::Response;
pub use scan::Scan;
pub use shutdown_flag::{IDLE_AFTER, ShutdownFlag};
pub use socket::Socket;
pub use stream::Stream;
pub use target::{SLASH, has_dot_segment, hex};
pub use transport::Transport;

/// Why bytes are no acceptable message: the status that says so, and a sentence for the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub reason: &'static str,
}

impl Refusal {
    pub const fn new(status: u16, reason: &'static str) -> Refusal {
        Refusal { status, reason }
    }
}

/// Why there is no (whole) message. To a server's handler: why its connection ended in the middle and can
/// only be dropped. `Refused`: the client broke a rule, and was told so.
#[derive(Debug)]
pub enum Error {
    /// The socket failed, or the other side went away or reads too slowly.
    Io(io::Error),
    TimedOut,
    /// The other side ended the connection before its message was whole.
    CutShort,
    /// What came is not a message that we accept, or larger than asked for.
    Refused(Refusal),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => error.fmt(f),
            Error::TimedOut => f.write_str("no answer in time"),
            Error::CutShort => f.write_str("the answer was cut short"),
            Error::Refused(TOO_LARGE) => f.write_str("the answer is too large"),
            Error::Refused(refusal) => write!(f, "not an acceptable answer: {}", refusal.reason),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::Refused(refusal)
    }
}

/// What is malformed.
pub fn bad<T>(reason: &'static str) -> Result<T, Refusal> {
    Err(Refusal::new(400, reason))
}

/// 1*DIGIT that fits. Not `parse` alone, which takes `+5`.
pub fn number(digits: &[u8]) -> Option<u64> {
    let text = str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
    text?.parse().ok()
}

/// tchar, RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is_token_byte(b))
}

/// What a field value may hold, RFC 9110 section 5.5: visible bytes, obs-text, space and tab.
pub const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}
