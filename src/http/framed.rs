//! Reads a body whose framing is known off the wire.

use std::io;
use std::time::Instant;

use super::Refusal;
use super::body::{Decoder, TOO_LARGE};
use super::request::BodyFraming;
use super::wire::{Fill, Wire};

/// Why a body could not be read.
pub(super) enum BodyError {
    Refused(Refusal),
    /// The sender ended the connection before the body was whole.
    CutShort,
    TimedOut,
    Io(io::Error),
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> BodyError {
        BodyError::Io(error)
    }
}

/// Appends a framed body to `out`. `latest` is the deadline after so many bytes.
pub(super) fn read_framed(
    wire: &mut Wire<'_>,
    framing: BodyFraming,
    out: &mut Vec<u8>,
    cap: usize,
    latest: impl Fn(usize) -> Instant,
) -> Result<(), BodyError> {
    let mut decoder = Decoder::default();
    let length = match framing {
        BodyFraming::None => return Ok(()),
        BodyFraming::Length(length) => Some(usize::try_from(length).unwrap_or(usize::MAX)),
        BodyFraming::Chunked => None,
    };
    if length.is_some_and(|length| length > cap) {
        return Err(BodyError::Refused(TOO_LARGE));
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
            let used = decoder.decode(data, out, cap).map_err(BodyError::Refused)?;
            wire.consume(used);
            if decoder.is_done() {
                return Ok(());
            }
            wire.expect_more();
            wire.fill(latest(out.len()))?
        };
        match filled {
            Fill::Data => {}
            Fill::End => return Err(BodyError::CutShort),
            Fill::TimedOut => return Err(BodyError::TimedOut),
        }
    }
}
