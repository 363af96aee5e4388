//! The chunked coding (RFC 9112 section 7.1), taken off piece by piece. Pure.
//!
//! Stricter than the grammar where readers are known to differ: no white space around sizes and
//! extensions (BWS), a bounded number of digits. Extensions and trailers must be well-formed and
//! are thrown away.

use super::{Refusal, bad, is_token, is_token_byte, is_value_byte, target};

/// Digits of a chunk's size: as many as a u64 has.
const MAX_SIZE_DIGITS: usize = 16;

/// Bytes of extensions in a whole body. They are overhead that a sender can make us read for
/// every byte of content (CVE-2023-39326), and they are not in use.
const MAX_EXTENSIONS: usize = 4 << 10;

/// Bytes of trailers.
const MAX_TRAILERS: usize = 8 << 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In the line with a chunk's size.
    #[default]
    Size,
    /// In a chunk's content, of which so much is left.
    Data(u64),
    /// In the line end after it.
    DataEnd,
    /// In a line after the last chunk: a trailer or the end.
    Trailer,
    Done,
}

/// Takes the chunked coding off a body. What is after the body is left alone.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// What has come of the present line.
    line: Vec<u8>,
    /// Bytes of extensions so far, after the last chunk those of trailers.
    overhead: usize,
}

impl Decoder {
    /// Reads `input`, appends content to `out`, and returns how many bytes of `input` belong to
    /// the body: all of them until [`Decoder::is_done`].
    ///
    /// # Errors
    /// 400 for what is malformed, 413 once `out` would hold more than `cap` bytes (looked at when
    /// a size is announced, before memory is taken), 431 for too long extensions or trailers.
    pub fn decode(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        cap: usize,
    ) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < input.len() && !self.is_done() {
            if let State::Data(left) = &mut self.state {
                let available = input.len() - at;
                let taken = usize::try_from(*left).map_or(available, |l| l.min(available));
                out.extend_from_slice(&input[at..at + taken]);
                at += taken;
                *left -= taken as u64;
                if *left == 0 {
                    self.state = State::DataEnd;
                }
                continue;
            }
            self.add(input[at])?;
            at += 1;
            if input[at - 1] == b'\n' {
                self.end_line(cap.saturating_sub(out.len()) as u64)?;
            }
        }
        Ok(at)
    }

    /// The last chunk, its trailers and the empty line after them have been read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Adds a byte to the present line.
    fn add(&mut self, byte: u8) -> Result<(), Refusal> {
        if self.line.last() == Some(&b'\r') && byte != b'\n' {
            return bad("A CR without LF in the chunked coding.");
        }
        self.line.push(byte);
        if self.state == State::DataEnd && !b"\r\n".starts_with(&self.line) {
            return bad("A chunk is not where its size says.");
        }
        // What is no chunk at all may never come to the end of a line.
        let is_size = self.state != State::Size || is_size_line_begun(&self.line);
        if !is_size {
            return bad("A chunk's size is not a hexadecimal number.");
        }
        if self.line.len() > MAX_TRAILERS + b"\r\n".len() {
            return Err(TOO_MUCH_OVERHEAD);
        }
        Ok(())
    }

    /// The present line is whole. `room`: how much content may follow.
    fn end_line(&mut self, room: u64) -> Result<(), Refusal> {
        let Some(line) = self.line.strip_suffix(b"\r\n") else {
            return bad("A line of the chunked coding ends without CR.");
        };
        self.state = match self.state {
            State::Size => {
                let (digits, extensions) = split_where(line, |byte| byte == b';');
                self.overhead += extensions.len();
                // They were looked at one by one: no sign, and no more than fit.
                let digits = std::str::from_utf8(digits).unwrap_or_default();
                match u64::from_str_radix(digits, 16).ok() {
                    _ if self.overhead > MAX_EXTENSIONS => return Err(TOO_MUCH_OVERHEAD),
                    None => return bad("A chunk's size is not a hexadecimal number."),
                    _ if !are_extensions(extensions) => {
                        return bad("A chunk's size line is malformed.");
                    }
                    Some(size) if size > room => return Err(TOO_LARGE),
                    Some(0) => {
                        self.overhead = 0;
                        State::Trailer
                    }
                    Some(size) => State::Data(size),
                }
            }
            State::Trailer if line.is_empty() => State::Done,
            State::Trailer => {
                let (name, value) = split_where(line, |byte| byte == b':');
                self.overhead += line.len();
                if self.overhead > MAX_TRAILERS {
                    return Err(TOO_MUCH_OVERHEAD);
                }
                if !is_token(name) || value.is_empty() || !value.iter().all(|b| is_value_byte(*b)) {
                    return bad("A trailer field is malformed.");
                }
                State::Trailer
            }
            State::DataEnd => State::Size,
            state @ (State::Data(_) | State::Done) => state,
        };
        self.line.clear();
        Ok(())
    }
}

pub const TOO_LARGE: Refusal = Refusal::new(413, "The body is larger than limits.max_body.");
const TOO_MUCH_OVERHEAD: Refusal =
    Refusal::new(431, "There are more than 4 KiB of chunk extensions or 8 KiB of trailers.");

/// Whether the line with a chunk's size may begin so.
fn is_size_line_begun(line: &[u8]) -> bool {
    let digits = line.iter().take_while(|byte| target::hex(byte).is_some()).count();
    let rest = &line[digits..];
    (1..=MAX_SIZE_DIGITS).contains(&digits) && matches!(rest, [] | [b'\r' | b';', ..])
}

/// Whether these are extensions (`;name`, `;name=token`, `;name="text"`), any number of them.
fn are_extensions(mut bytes: &[u8]) -> bool {
    while let [b';', rest @ ..] = bytes {
        let (name, rest) = split_token(rest);
        let (value, rest) = match rest {
            [b'=', b'"', text @ ..] => (name, after_quotes(text).unwrap_or(b"\"")),
            [b'=', value @ ..] => split_token(value),
            _ => (name, rest),
        };
        if name.is_empty() || value.is_empty() {
            return false;
        }
        bytes = rest;
    }
    bytes.is_empty()
}

/// What follows the quotes that a text with escapes ends with.
fn after_quotes(text: &[u8]) -> Option<&[u8]> {
    let mut escaped = false;
    let end = text.iter().position(|&byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    text[..end].iter().all(|b| is_value_byte(*b)).then_some(&text[end + 1..])
}

fn split_token(bytes: &[u8]) -> (&[u8], &[u8]) {
    split_where(bytes, |byte| !is_token_byte(byte))
}

/// What is in front of the first byte that is an `end`, and the rest from there on.
fn split_where(bytes: &[u8], end: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().position(|byte| end(*byte)).unwrap_or(bytes.len()))
}
