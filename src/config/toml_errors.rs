//! The step from bytes to TOML values: positions people can use, and the parser's complaints in
//! words. The parser (toml-span) limits nesting itself, so input cannot exhaust the stack.

use super::error::{Location, quoted};
use toml_span::{ErrorKind, Span, Value};

/// Where values are read from.
pub enum Source<'a> {
    /// A file's text.
    File(&'a str),
    /// A `--set` argument: as errors name it, its two sides, and whether the second is TOML.
    Set { label: String, name: &'a str, text: &'a str, is_toml: bool },
}

impl<'a> Source<'a> {
    /// The place of a key or a value.
    pub fn at(&self, span: Span) -> Location {
        match self {
            Source::File(text) => position(text, span.start),
            Source::Set { label, .. } => Location::Set(label.clone()),
        }
    }

    /// The text that stands for the value of this key where that is no string, and only a string is taken.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        match self {
            Source::Set { name, text, .. } if *name == key => Some(text),
            Source::Set { .. } | Source::File(_) => None,
        }
    }

    /// Whether it sets a single entry of this table.
    pub fn is_entry_of(&self, table: &str) -> bool {
        let Source::Set { name, .. } = self else { return false };
        name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// Line and column of an offset; one past the end counts as the end. Spans of keys and strings begin
/// behind their quotes, where a reader does not look.
fn position(text: &str, offset: usize) -> Location {
    let before = text.get(..offset).unwrap_or(text).trim_end_matches(['"', '\'']);
    let line = before.rsplit('\n').next().unwrap_or_default();
    Location::File { column: line.chars().count() + 1, line: before.matches('\n').count() + 1 }
}

/// Parses a whole file.
///
/// # Errors
/// What is wrong with its syntax, and where.
pub fn parse(text: &str) -> Result<Value<'_>, (Location, String)> {
    toml_span::parse(text)
        .map_err(|error| (position(text, error.span.start), complaint(&error.kind, text)))
}

/// The text of the file, without a byte order mark.
///
/// # Errors
/// Where it is no text.
pub fn decode(bytes: &[u8]) -> Result<&str, (Location, String)> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let good = error.valid_up_to();
        let text = std::str::from_utf8(&bytes[..good]).unwrap_or_default();
        let fault = format!("byte 0x{:02x} is not UTF-8; save the file as UTF-8", bytes[good]);
        (position(text, good), fault)
    })
}

fn complaint(kind: &ErrorKind, text: &str) -> String {
    let first_line =
        |span: &Span| text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1;
    match kind {
        ErrorKind::UnexpectedEof => "the file ends where a value should stand".into(),
        ErrorKind::ExceededDepthLimit => "nested too deeply".into(),
        ErrorKind::InvalidCharInString('\n') | ErrorKind::UnterminatedString => {
            "the string has no closing quote".into()
        }
        ErrorKind::InvalidCharInString(c) => {
            let code = u32::from(*c);
            format!("a string cannot hold {c:?}; write it as an escape, like \\u{code:04X}")
        }
        ErrorKind::InvalidEscape(c) | ErrorKind::InvalidHexEscape(c) => format!(
            "{c:?} does not belong in a \\ escape; for a plain backslash write \\\\ or use '…' quotes"
        ),
        ErrorKind::InvalidEscapeValue(value) => format!("{value:#x} is not a Unicode character"),
        ErrorKind::Unexpected(c) => format!("{c:?} does not belong here"),
        ErrorKind::InvalidNumber => {
            "not a number; text goes in quotes, a time like \"10m\" and a size like \"1MiB\" too"
                .into()
        }
        ErrorKind::Wanted { expected, found } => {
            let hint = if *expected == "newline" { "; text goes in quotes" } else { "" };
            format!("expected {expected}, found {found}{hint}")
        }
        ErrorKind::DuplicateKey { key: name, first }
        | ErrorKind::DuplicateTable { name, first } => {
            let (name, line) = (quoted(name), first_line(first));
            format!("{name} is set twice, first in line {line}; remove one, or join them")
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
