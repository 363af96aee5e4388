//! A long piece of JSON text that is sent from where it lies, a buffer at a time, instead of being
//! loaded: the inside of a string, escaped already.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::limits::MAX_PIECE;
use crate::text::quoted;

/// What stands for an extent in a text around it: JSON has it only escaped.
pub const PLACE: char = '\0';

/// Where it lies. A file stays what it is, also when another has taken its name.
#[derive(Clone, Debug)]
pub enum Extent {
    File(Arc<File>, Range<u64>),
    Memory(Arc<String>),
}

impl Extent {
    /// The inside of a text as JSON has it.
    pub fn escaping(text: &str) -> Extent {
        Extent::Memory(Arc::new(inside(text)))
    }

    pub fn len(&self) -> u64 {
        match self {
            Extent::File(_, range) => range.end - range.start,
            Extent::Memory(text) => text.len() as u64,
        }
    }

    /// Appends at most `most` bytes from `at` on to `out`.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than it was.
    pub fn read(&self, at: u64, most: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let left = usize::try_from(self.len() - at).unwrap_or(usize::MAX).min(most);
        match self {
            Extent::File(file, range) => {
                let before = out.len();
                out.resize(before + left, 0);
                file.read_exact_at(&mut out[before..], range.start + at)
            }
            Extent::Memory(text) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX);
                out.extend_from_slice(&text.as_bytes()[from..from + left]);
                Ok(())
            }
        }
    }

    /// Its text in pieces, as it was before it was escaped.
    ///
    /// # Errors
    /// As above, and what `visit` says.
    pub fn texts(&self, visit: &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<()> {
        let (mut at, mut json) = (0, Vec::new());
        while at < self.len() {
            json.clear();
            json.push(b'"');
            self.read(at, MAX_PIECE, &mut json)?;
            // A cut within a character or an escape, of twelve bytes at most, leaves no JSON.
            let text = (0..12).find_map(|_| {
                json.push(b'"');
                let text = serde_json::from_slice::<String>(&json).ok();
                json.truncate(json.len() - if text.is_some() { 1 } else { 2 });
                text
            });
            at += json.len() as u64 - 1;
            visit(&text.ok_or(io::ErrorKind::InvalidData)?)?;
        }
        Ok(())
    }
}

/// A text as JSON has it, without the quotes.
pub fn inside(text: &str) -> String {
    let mut json = quoted(text);
    json.pop();
    json.remove(0);
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_within_no_character_and_no_escape() {
        for shift in 0..14 {
            let text = "x".repeat(shift) + &"ä\"\\\u{1}\u{1f600}\n".repeat(4 * MAX_PIECE / 10);
            let json = quoted(&text);
            let surrogates = json.replace('\u{1f600}', r"\ud83d\ude00");
            for json in [json, surrogates] {
                let inside = json[1..json.len() - 1].to_owned();
                let (extent, mut whole) = (Extent::Memory(Arc::new(inside)), String::new());
                let mut add = |piece: &str| {
                    assert!(!piece.is_empty() && piece.len() <= MAX_PIECE);
                    whole += piece;
                    Ok(())
                };
                extent.texts(&mut add).unwrap();
                assert!(whole == text, "{shift}");
            }
        }
    }
}
