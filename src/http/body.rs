//! The chunked coding (RFC 9112 section 7.1), taken off piece by piece. Pure.
//!
//! Stricter than the grammar where readers are known to differ: no white space around sizes and
//! extensions (BWS), a bounded number of digits. Extensions and trailers must be well-formed and
//! are thrown away.

use super::{Refusal, bad, is_token_byte, is_value_byte, target};

/// Digits of a chunk's size: as many as a u64 has.
const MAX_SIZE_DIGITS: u8 = 16;

/// Bytes of extensions in a whole body. They are overhead that a sender can make us read for
/// every byte of content (CVE-2023-39326), and they are not in use.
const MAX_EXTENSIONS: usize = 4 << 10;

/// Bytes of trailers.
const MAX_TRAILERS: usize = 8 << 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
enum State {
    /// Before the first digit of a size.
    #[default]
    SizeStart,
    Size,
    /// After the `;` of an extension, before its name.
    ExtensionStart,
    ExtensionName,
    /// After the `=`.
    ExtensionValueStart,
    ExtensionToken,
    ExtensionQuoted,
    ExtensionEscape,
    ExtensionQuotedEnd,
    /// After the CR of a size line.
    SizeLf,
    Data,
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
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// The digits of the present size.
    digits: u8,
    /// What the size line says, and then what is left of its chunk.
    size: u64,
    extensions: usize,
    trailers: usize,
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
                State::Data => {
                    let available = input.len() - at;
                    let taken = usize::try_from(self.size).map_or(available, |l| l.min(available));
                    out.extend_from_slice(&input[at..at + taken]);
                    at += taken;
                    self.size -= taken as u64;
                    if self.size == 0 {
                        self.state = State::DataCr;
                    }
                }
                state => {
                    self.state = self.step(state, input[at])?;
                    self.count()?;
                    let room = cap.saturating_sub(out.len()) as u64;
                    if self.state == State::Data && self.size > room {
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
            State::SizeStart => {
                (self.digits, self.size) = (0, 0);
                self.add_digit(byte)
            }
            State::Size => match byte {
                b'\r' | b';' => end_extension(byte),
                _ => self.add_digit(byte),
            },
            State::ExtensionStart | State::ExtensionName if is_token_byte(byte) => {
                Ok(State::ExtensionName)
            }
            State::ExtensionName if byte == b'=' => Ok(State::ExtensionValueStart),
            State::ExtensionValueStart if byte == b'"' => Ok(State::ExtensionQuoted),
            State::ExtensionValueStart | State::ExtensionToken if is_token_byte(byte) => {
                Ok(State::ExtensionToken)
            }
            State::ExtensionQuoted if byte == b'"' => Ok(State::ExtensionQuotedEnd),
            State::ExtensionQuoted if byte == b'\\' => Ok(State::ExtensionEscape),
            State::ExtensionQuoted | State::ExtensionEscape if is_value_byte(byte) => {
                Ok(State::ExtensionQuoted)
            }
            State::ExtensionName | State::ExtensionToken | State::ExtensionQuotedEnd => {
                end_extension(byte)
            }
            State::ExtensionStart
            | State::ExtensionValueStart
            | State::ExtensionQuoted
            | State::ExtensionEscape => Err(BAD_EXTENSION),
            State::SizeLf if self.size == 0 => expect(byte, b'\n', State::TrailerStart),
            State::SizeLf => expect(byte, b'\n', State::Data),
            State::DataCr => expect(byte, b'\r', State::DataLf),
            State::DataLf => expect(byte, b'\n', State::SizeStart),
            State::TrailerStart if byte == b'\r' => Ok(State::EndLf),
            State::TrailerName if byte == b':' => Ok(State::TrailerValue),
            State::TrailerStart | State::TrailerName if is_token_byte(byte) => {
                Ok(State::TrailerName)
            }
            State::TrailerStart | State::TrailerName => Err(BAD_TRAILER),
            State::TrailerValue if byte == b'\r' => Ok(State::TrailerLf),
            State::TrailerValue if is_value_byte(byte) => Ok(State::TrailerValue),
            State::TrailerValue => Err(BAD_TRAILER),
            State::TrailerLf => expect(byte, b'\n', State::TrailerStart),
            State::EndLf => expect(byte, b'\n', State::Done),
            State::Data | State::Done => Ok(state),
        }
    }

    fn add_digit(&mut self, byte: u8) -> Result<State, Refusal> {
        match target::hex(&byte) {
            Some(digit) if self.digits < MAX_SIZE_DIGITS => {
                self.digits += 1;
                self.size = self.size << 4 | u64::from(digit);
                Ok(State::Size)
            }
            _ => bad("A chunk's size is not a hexadecimal number."),
        }
    }

    /// Counts the byte that led to the present state, where those of its kind are limited.
    fn count(&mut self) -> Result<(), Refusal> {
        let within = |first, last| (first..=last).contains(&self.state);
        self.extensions += usize::from(within(State::ExtensionStart, State::ExtensionQuotedEnd));
        self.trailers += usize::from(within(State::TrailerName, State::TrailerValue));
        if self.extensions > MAX_EXTENSIONS {
            return Err(Refusal::new(431, "The chunk extensions are longer than 4 KiB."));
        }
        if self.trailers > MAX_TRAILERS {
            return Err(Refusal::new(431, "The trailers are longer than 8 KiB."));
        }
        Ok(())
    }
}

/// Where a size or an extension may end: the line ends or another extension begins.
fn end_extension(byte: u8) -> Result<State, Refusal> {
    match byte {
        b'\r' => Ok(State::SizeLf),
        b';' => Ok(State::ExtensionStart),
        _ => Err(BAD_EXTENSION),
    }
}

const BAD_EXTENSION: Refusal = Refusal::new(400, "A chunk's size line is malformed.");
const BAD_TRAILER: Refusal = Refusal::new(400, "A trailer field is malformed.");
pub const TOO_LARGE: Refusal = Refusal::new(413, "The body is too large.");

fn expect(byte: u8, wanted: u8, next: State) -> Result<State, Refusal> {
    if byte == wanted { Ok(next) } else { bad("A chunk is not where its size says.") }
}
