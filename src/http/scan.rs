//! Finds the end of a head, byte by byte, and refuses on the way what no head may contain.
//!
//! The scan remembers where it stopped, so a head that trickles in is looked at once. It refuses at
//! the first bad byte, which makes its verdict a function of the bytes and not of their packets.

use super::{Refusal, bad};
use crate::limits::{MAX_FIELDS, MAX_HEAD, MAX_TARGET};

/// Beyond the target, a request line holds a method, two spaces and the version.
const MAX_FIRST_LINE: usize = MAX_TARGET + 64;

/// How far a head has been looked at.
#[derive(Debug, Default)]
pub struct Scan {
    at: usize,
    line_start: usize,
    /// Lines that were complete and not empty.
    lines: usize,
    /// One empty line before the request line is let pass (RFC 9112 section 2.2), a second is not.
    leading: bool,
}

impl Scan {
    /// Looks at what is new in `bytes`, which must start with all that earlier calls were given. Says
    /// how long the head is, its empty line included, where it has come to its end.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(&byte) = bytes.get(self.at) {
            if self.at >= MAX_HEAD {
                return Err(Refusal::new(431, "The request head is longer than 16 KiB."));
            }
            if self.lines == 0 && self.at - self.line_start >= MAX_FIRST_LINE {
                return Err(Refusal::new(414, "The request line is longer than 8 KiB."));
            }
            let after_cr = self.at > 0 && bytes[self.at - 1] == b'\r';
            if !after_cr {
                // Most bytes are plain: they are passed by at once, as far as the limits above reach.
                let first_line = (self.lines == 0).then_some(self.line_start + MAX_FIRST_LINE);
                let limit = bytes.len().min(MAX_HEAD).min(first_line.unwrap_or(MAX_HEAD));
                let rest = &bytes[self.at..limit];
                let plain = rest.iter().position(|byte| matches!(byte, 0..=31 | 127));
                let plain = plain.unwrap_or(rest.len());
                if plain > 0 {
                    self.at += plain;
                    continue;
                }
            }
            match (after_cr, byte) {
                (true, b'\n') if self.end_line()? => return Ok(Some(self.at + 1)),
                (true, b'\n') | (false, b'\r' | b'\t') => {}
                (true, _) => return bad("A CR without LF in the request head."),
                (false, b'\n') => return bad("An LF without CR in the request head."),
                (false, 0..=31 | 127) => return bad("A control character in the request head."),
                (false, _) => {}
            }
            self.at += 1;
        }
        Ok(None)
    }

    /// The LF at `self.at` ends a line. Says whether it is the last one.
    fn end_line(&mut self) -> Result<bool, Refusal> {
        let empty = self.at - self.line_start == 1;
        self.line_start = self.at + 1;
        match (empty, self.lines) {
            (true, 0) if self.leading => return bad("Empty lines before the request."),
            (true, 0) => self.leading = true,
            (true, _) => return Ok(true),
            (false, lines) if lines > MAX_FIELDS => {
                return Err(Refusal::new(431, "More than 100 header fields."));
            }
            (false, _) => self.lines += 1,
        }
        Ok(false)
    }
}

/// Whether there is nothing but (a part of) the empty line that may precede a request.
pub fn is_blank(bytes: &[u8]) -> bool {
    matches!(bytes, b"" | b"\r" | b"\r\n")
}
