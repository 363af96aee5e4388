//! Reads a body whose framing is known off the wire.

use std::fmt;
use std::io;
use std::time::Instant;

use super::Refusal;
use super::body::{Decoder, TOO_LARGE};
use super::request::BodyFraming;
use super::wire::{Fill, Wire};

/// Why there is no (whole) message.
#[derive(Debug)]
pub enum Error {
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

/// Appends a framed body to `out`. `latest` is the deadline after so many bytes.
pub(super) fn read_framed(
    wire: &mut Wire<'_>,
    framing: BodyFraming,
    out: &mut Vec<u8>,
    cap: usize,
    latest: impl Fn(usize) -> Instant,
) -> Result<(), Error> {
    let mut decoder = Decoder::default();
    let length = match framing {
        BodyFraming::None => return Ok(()),
        BodyFraming::Length(length) => Some(usize::try_from(length).unwrap_or(usize::MAX)),
        BodyFraming::Chunked => None,
    };
    if length.is_some_and(|length| length > cap) {
        return Err(TOO_LARGE.into());
    }
    loop {
        let data = wire.data();
        let filled = if let Some(length) = length {
            let used = data.len().min(length - out.len());
            out.extend_from_slice(&data[..used]);
            wire.consume(used);
            if out.len() == length {
                return Ok(());
            }
            let most = length - out.len();
            let deadline = latest(out.len());
            wire.fill_into(out, most, deadline)?
        } else {
            let used = decoder.decode(data, out, cap)?;
            wire.consume(used);
            if decoder.is_done() {
                return Ok(());
            }
            wire.expect_more();
            wire.fill(latest(out.len()))?
        };
        match filled {
            Fill::Data => {}
            Fill::End => return Err(Error::CutShort),
            Fill::TimedOut => return Err(Error::TimedOut),
        }
    }
}
