//! The chunked coding (RFC 9112 section 7.1), taken off piece by piece. Pure.
//!
//! Stricter than the grammar where readers are known to differ: no white space around sizes and
//! extensions (BWS), a bounded number of digits. Extensions and trailers must be well-formed and
//! are thrown away.

use super::{Refusal, is_token_byte, is_value_byte, target};
use crate::limits::{MAX_EXTENSIONS, MAX_SIZE_DIGITS, MAX_TRAILERS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    SizeStart,
    Size {
        digits: u8,
        size: u64,
    },
    /// After the `;` of an extension, before its name.
    ExtensionStart {
        size: u64,
    },
    ExtensionName {
        size: u64,
    },
    /// After the `=`.
    ExtensionValueStart {
        size: u64,
    },
    ExtensionToken {
        size: u64,
    },
    ExtensionQuoted {
        size: u64,
    },
    ExtensionEscape {
        size: u64,
    },
    ExtensionQuotedEnd {
        size: u64,
    },
    /// After the CR of a size line.
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a line after the last chunk: a trailer or the end.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// Takes the chunked coding off a body. What is after the body is left alone.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    extensions: usize,
    trailers: usize,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { state: State::SizeStart, extensions: 0, trailers: 0 }
    }
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
        while at < input.len() {
            match self.state {
                State::Done => break,
                State::Data { left } => {
                    let available = input.len() - at;
                    let taken = usize::try_from(left).map_or(available, |l| l.min(available));
                    out.extend_from_slice(&input[at..at + taken]);
                    at += taken;
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                }
                state => {
                    self.state = self.step(state, input[at])?;
                    if let State::Data { left } = self.state
                        && left > cap.saturating_sub(out.len()) as u64
                    {
                        return Err(TOO_LARGE);
                    }
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    /// The last chunk, its trailers and the empty line after them have been read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// What `byte` makes of `state`. `Data` and `Done` never get here and stay what they are.
    fn step(&mut self, state: State, byte: u8) -> Result<State, Refusal> {
        match state {
            State::SizeStart => add_digit(0, 0, byte),
            State::Size { digits, size } => match byte {
                b'\r' | b';' => self.extension(size, byte),
                _ => add_digit(digits, size, byte),
            },
            State::ExtensionStart { size } if is_token_byte(byte) => {
                self.count_extension(State::ExtensionName { size })
            }
            State::ExtensionName { .. } if is_token_byte(byte) => self.count_extension(state),
            State::ExtensionName { size } if byte == b'=' => {
                self.count_extension(State::ExtensionValueStart { size })
            }
            State::ExtensionValueStart { size } if byte == b'"' => {
                self.count_extension(State::ExtensionQuoted { size })
            }
            State::ExtensionValueStart { size } | State::ExtensionToken { size }
                if is_token_byte(byte) =>
            {
                self.count_extension(State::ExtensionToken { size })
            }
            State::ExtensionQuoted { size } if byte == b'"' => {
                self.count_extension(State::ExtensionQuotedEnd { size })
            }
            State::ExtensionQuoted { size } if byte == b'\\' => {
                self.count_extension(State::ExtensionEscape { size })
            }
            State::ExtensionQuoted { size } | State::ExtensionEscape { size }
                if is_value_byte(byte) =>
            {
                self.count_extension(State::ExtensionQuoted { size })
            }
            State::ExtensionName { size }
            | State::ExtensionToken { size }
            | State::ExtensionQuotedEnd { size } => self.extension(size, byte),
            State::ExtensionStart { .. }
            | State::ExtensionValueStart { .. }
            | State::ExtensionQuoted { .. }
            | State::ExtensionEscape { .. } => Err(BAD_EXTENSION),
            State::SizeLf { size: 0 } => expect(byte, b'\n', State::TrailerStart),
            State::SizeLf { size } => expect(byte, b'\n', State::Data { left: size }),
            State::DataCr => expect(byte, b'\r', State::DataLf),
            State::DataLf => expect(byte, b'\n', State::SizeStart),
            State::TrailerStart if byte == b'\r' => Ok(State::EndLf),
            State::TrailerName if byte == b':' => self.count_trailer(State::TrailerValue),
            State::TrailerStart | State::TrailerName if is_token_byte(byte) => {
                self.count_trailer(State::TrailerName)
            }
            State::TrailerStart | State::TrailerName => Err(BAD_TRAILER),
            State::TrailerValue if byte == b'\r' => Ok(State::TrailerLf),
            State::TrailerValue if is_value_byte(byte) => self.count_trailer(State::TrailerValue),
            State::TrailerValue => Err(BAD_TRAILER),
            State::TrailerLf => expect(byte, b'\n', State::TrailerStart),
            State::EndLf => expect(byte, b'\n', State::Done),
            State::Data { .. } | State::Done => Ok(state),
        }
    }

    /// Where a size or an extension may end: the line ends or another extension begins.
    fn extension(&mut self, size: u64, byte: u8) -> Result<State, Refusal> {
        match byte {
            b'\r' => Ok(State::SizeLf { size }),
            b';' => self.count_extension(State::ExtensionStart { size }),
            _ => Err(BAD_EXTENSION),
        }
    }

    fn count_extension(&mut self, next: State) -> Result<State, Refusal> {
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS {
            return Err(Refusal::new(431, "The chunk extensions are longer than 4 KiB."));
        }
        Ok(next)
    }

    fn count_trailer(&mut self, next: State) -> Result<State, Refusal> {
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS {
            return Err(Refusal::new(431, "The trailers are longer than 8 KiB."));
        }
        Ok(next)
    }
}

const BAD_EXTENSION: Refusal = Refusal::new(400, "A chunk's size line is malformed.");
const BAD_TRAILER: Refusal = Refusal::new(400, "A trailer field is malformed.");
pub(super) const TOO_LARGE: Refusal = Refusal::new(413, "The body is too large.");

fn add_digit(digits: u8, size: u64, byte: u8) -> Result<State, Refusal> {
    match target::hex(&byte) {
        Some(digit) if digits < MAX_SIZE_DIGITS => {
            Ok(State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) })
        }
        _ => Err(Refusal::new(400, "A chunk's size is not a hexadecimal number.")),
    }
}

fn expect(byte: u8, wanted: u8, next: State) -> Result<State, Refusal> {
    if byte == wanted {
        Ok(next)
    } else {
        Err(Refusal::new(400, "A chunk is not where its size says."))
    }
}
