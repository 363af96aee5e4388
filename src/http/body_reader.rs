//! Reads a body whose framing is known off its transport.

use std::time::Instant;

use super::Error;
use super::body::{Decoder, TOO_LARGE};
use super::request::BodyFraming;
use super::transport::Transport;

/// A body on its way in.
pub struct BodyReader {
    /// Of a length, what is left.
    framing: BodyFraming,
    /// It ends with the connection.
    until_close: bool,
    decoder: Decoder,
}

impl BodyReader {
    /// `None`: up to the end of the connection.
    pub fn new(framing: Option<BodyFraming>) -> BodyReader {
        BodyReader {
            framing: framing.unwrap_or(BodyFraming::Length(u64::MAX)),
            until_close: framing.is_none(),
            decoder: Decoder::default(),
        }
    }

    /// Appends some of the body to `out`, which may hold `cap` bytes. Says whether there is more to come.
    pub fn read(
        &mut self,
        transport: &mut Transport<'_>,
        out: &mut Vec<u8>,
        cap: usize,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let before = out.len();
        match &mut self.framing {
            BodyFraming::None | BodyFraming::Length(0) => Ok(false),
            BodyFraming::Length(left) => {
                let room = cap.saturating_sub(before) as u64;
                let too_large = if self.until_close { before > cap } else { *left > room };
                if too_large {
                    return Err(TOO_LARGE.into());
                }
                let most = usize::try_from(*left).unwrap_or(usize::MAX);
                match transport.read_into(out, most, deadline) {
                    Err(Error::CutShort) if self.until_close => return Ok(false),
                    read => read?,
                }
                *left -= (out.len() - before) as u64;
                Ok(*left > 0)
            }
            BodyFraming::Chunked => {
                if transport.data().is_empty() && !self.decoder.is_done() {
                    transport.expect_more();
                    transport.fill(deadline)?;
                }
                let used = self.decoder.decode(transport.data(), out, cap)?;
                transport.consume(used);
                Ok(!self.decoder.is_done())
            }
        }
    }

    /// Appends all of it. `latest`: the deadline after so many bytes.
    pub fn read_all(
        &mut self,
        transport: &mut Transport<'_>,
        out: &mut Vec<u8>,
        cap: usize,
        latest: impl Fn(usize) -> Instant,
    ) -> Result<(), Error> {
        loop {
            let deadline = latest(out.len());
            if !self.read(transport, out, cap, deadline)? {
                return Ok(());
            }
        }
    }
}
