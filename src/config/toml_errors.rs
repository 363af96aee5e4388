//! The step from bytes to TOML values: positions people can use, and the parser's complaints in
//! words. The parser (toml-span) limits nesting itself, so input cannot exhaust the stack.

use super::error::{Origin, Problems, quoted, shown};
use std::str::Utf8Error;
use toml_span::value::Key;
use toml_span::{ErrorKind, Span, Value};

/// Where values are read from.
pub enum Source<'a> {
    /// A file's text.
    File(&'a str),
    /// A `--set` argument, as errors name it.
    Set(String),
}

impl Source<'_> {
    pub fn value(&self, value: &Value<'_>) -> Origin {
        self.at(|text| match value.as_str() {
            Some(string) => string_start(text, value.span, string.is_empty()),
            None => value.span.start,
        })
    }

    pub fn key(&self, key: &Key<'_>) -> Origin {
        self.at(|text| key_start(text, key.span))
    }

    fn at(&self, offset: impl FnOnce(&str) -> usize) -> Origin {
        match self {
            Source::File(text) => position(text, offset(text)),
            Source::Set(argument) => Origin::Set(argument.clone()),
        }
    }
}

/// Line and column of an offset; one past the end counts as the end.
fn position(text: &str, offset: usize) -> Origin {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let mut lines = before.rsplit(|b| *b == b'\n');
    // Bytes 0b10xx_xxxx continue a character (RFC 3629 section 3).
    let characters = lines.next().unwrap_or_default().iter().filter(|b| **b & 0xC0 != 0x80);
    Origin::File { column: characters.count() + 1, line: lines.count() + 1 }
}

/// A quoted key's span begins behind its quote: back to it, where a reader looks.
fn key_start(text: &str, span: Span) -> usize {
    let before = &text.as_bytes()[..span.start.min(text.len())];
    before.len() - usize::from(before.ends_with(b"\"") || before.ends_with(b"'"))
}

/// The same for a string value: over one or three quotes and the line break that may follow three. The
/// span of `""` already begins at its quote.
fn string_start(text: &str, span: Span, empty: bool) -> usize {
    let before = &text.as_bytes()[..span.start.min(text.len())];
    if empty && span.end == span.start + 1 {
        return before.len();
    }
    let quotes = before.strip_suffix(b"\n").unwrap_or(before);
    let quotes = quotes.strip_suffix(b"\r").unwrap_or(quotes);
    let three = quotes.ends_with(b"\"\"\"") || quotes.ends_with(b"\'\'\'");
    if three { quotes.len() - 3 } else { key_start(text, span) }
}

/// Parses a whole file; a syntax error goes to the problems, with `None` as the answer.
pub fn parse<'a>(text: &'a str, problems: &mut Problems) -> Option<Value<'a>> {
    let report = |error: &toml_span::Error| {
        let start = match error.kind {
            ErrorKind::DuplicateKey { .. } => key_start(text, error.span),
            _ => error.span.start,
        };
        problems.push(position(text, start), complaint(&error.kind, text));
    };
    toml_span::parse(text).inspect_err(report).ok()
}

/// The text of the file, without a byte order mark; bytes that are no text go to the problems.
pub fn decode<'a>(bytes: &'a [u8], problems: &mut Problems) -> Option<&'a str> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let report = |error: &Utf8Error| {
        let good = error.valid_up_to();
        let text = std::str::from_utf8(&bytes[..good]).unwrap_or_default();
        let fault = format!("byte 0x{:02x} is not UTF-8; save the file as UTF-8", bytes[good]);
        problems.push(position(text, good), fault);
    };
    std::str::from_utf8(bytes).inspect_err(report).ok()
}

fn complaint(kind: &ErrorKind, text: &str) -> String {
    let first_line =
        |span: &Span| text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1;
    match kind {
        ErrorKind::UnexpectedEof => "the file ends where a value should stand".into(),
        ErrorKind::ExceededDepthLimit => "nested too deeply".into(),
        ErrorKind::InvalidCharInString('\n') => {
            "the string does not end on its line; add the closing quote".into()
        }
        ErrorKind::InvalidCharInString(c) => {
            let (shown, code) = (character(*c), u32::from(*c));
            format!("a string cannot hold {shown}; write it as an escape, like \\u{code:04X}")
        }
        ErrorKind::InvalidEscape(c) | ErrorKind::InvalidHexEscape(c) => format!(
            "{} does not belong in a \\ escape; for a plain backslash write \\\\ or use '…' quotes",
            character(*c)
        ),
        ErrorKind::InvalidEscapeValue(value) => format!("{value:#x} is no Unicode character"),
        ErrorKind::Unexpected(c) => format!("{} does not belong here", character(*c)),
        ErrorKind::UnterminatedString => "the string has no closing quote".into(),
        ErrorKind::InvalidNumber => {
            "not a number; text goes in quotes, a time like \"10m\" and a size like \"1MiB\" too"
                .into()
        }
        ErrorKind::Wanted { expected, found } => {
            let hint = if *expected == "newline" { "; text goes in quotes" } else { "" };
            format!("expected {}, found {}{hint}", token(expected), token(found))
        }
        ErrorKind::DuplicateKey { key, first } => {
            let (key, line) = (quoted(key), first_line(first));
            format!("{key} is set twice, first in line {line}; remove one")
        }
        ErrorKind::DuplicateTable { name, first } => {
            let (name, line) = (shown(name), first_line(first));
            format!("section [{name}] stands twice, first in line {line}; join them")
        }
        ErrorKind::RedefineAsArray => "a section cannot also be a list; write it as [name]".into(),
        ErrorKind::MultilineStringKey => "a key cannot have several lines".into(),
        ErrorKind::DottedKeyInvalidType { first } => {
            let line = first_line(first);
            format!("this key continues one that has a value already, in line {line}")
        }
        ErrorKind::UnquotedString => "text needs quotes, like \"text\"".into(),
        // The parser itself does not return the others: they are for readers of its values.
        _ => "not valid TOML".into(),
    }
}

/// The parser's names of tokens as the signs that people type.
fn token(name: &'static str) -> &'static str {
    match name {
        "an equals" => "'='",
        "a period" => "'.'",
        "a comma" => "','",
        "a colon" => "':'",
        "a plus" => "'+'",
        "a left brace" => "'{'",
        "a right brace" => "'}'",
        "a left bracket" => "'['",
        "a right bracket" => "']'",
        "an identifier" => "a word",
        "newline" | "a newline" => "the end of the line",
        "eof" => "the end of the file",
        "a table key" => "a key",
        other => other,
    }
}

/// A character by its look or, where it has none, by its number.
fn character(c: char) -> String {
    if c.is_ascii_graphic() || c.is_alphanumeric() {
        format!("'{c}'")
    } else {
        format!("character U+{:04X}", u32::from(c))
    }
}
