//! A long JSON text that is sent from where it lies, a buffer at a time, instead of being
//! loaded: the inside of a string, escaped already.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};

use crate::escape::quoted;
use crate::limits::MAX_CHUNK;

/// What stands for a stored text in one around it: JSON has it only escaped.
pub const PLACEHOLDER: char = '\0';

/// Where it lies. A file stays what it is, also when another has taken its name.
#[derive(Clone, Debug)]
pub enum StoredText {
    File(Arc<File>, Range<u64>),
    Memory(Arc<String>),
}

impl StoredText {
    pub fn len(&self) -> u64 {
        match self {
            StoredText::File(_, range) => range.end - range.start,
            StoredText::Memory(text) => text.len() as u64,
        }
    }

    /// Appends at most `most` bytes from `at` on to `out`.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than it was.
    pub fn read(&self, at: u64, most: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        match self {
            StoredText::File(file, range) => {
                let left = usize::try_from(self.len() - at).map_or(most, |left| left.min(most));
                out.resize(start + left, 0);
                file.read_exact_at(&mut out[start..], range.start + at)
            }
            StoredText::Memory(text) => {
                let rest = usize::try_from(at).ok().and_then(|at| text.as_bytes().get(at..));
                let rest = rest.unwrap_or_default();
                out.extend_from_slice(&rest[..rest.len().min(most)]);
                Ok(())
            }
        }
    }

    /// Shows all of it in chunks.
    ///
    /// # Errors
    /// As above, and what `visit` says.
    pub fn chunks(
        &self,
        most: usize,
        visit: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let (mut at, mut chunk) = (0, Vec::new());
        while at < self.len() {
            chunk.clear();
            self.read(at, most, &mut chunk)?;
            at += chunk.len() as u64;
            visit(&chunk)?;
        }
        Ok(())
    }

    /// The same as the text that it was before it was escaped.
    ///
    /// # Errors
    /// As above.
    pub fn text_chunks(&self, visit: &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<()> {
        let mut at = 0;
        while at < self.len() {
            let mut json = vec![b'"'];
            self.read(at, MAX_CHUNK, &mut json)?;
            // What is cut within a character or an escape is no JSON.
            let text = loop {
                json.push(b'"');
                let text = std::str::from_utf8(&json).ok();
                match text.and_then(|text| serde_json::from_str::<String>(text).ok()) {
                    Some(text) => break text,
                    None if json.len() > 3 => json.truncate(json.len() - 2),
                    None => return Err(io::ErrorKind::InvalidData.into()),
                }
            };
            at += json.len() as u64 - 2;
            visit(&text)?;
        }
        Ok(())
    }
}

/// A text as JSON has it, without the quotes.
pub fn inside(text: &str) -> String {
    let json = quoted(text);
    json[1..json.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_cut_within_no_character_and_no_escape() {
        for shift in 0..14 {
            let text = "x".repeat(shift) + &"ä\"\\\u{1}\u{1f600}\n".repeat(4 * MAX_CHUNK / 10);
            let json = quoted(&text);
            let surrogates = json.replace('\u{1f600}', r"\ud83d\ude00");
            for json in [json, surrogates] {
                let inside = json[1..json.len() - 1].to_owned();
                let (stored, mut whole) = (StoredText::Memory(Arc::new(inside)), String::new());
                let mut add = |chunk: &str| {
                    assert!(!chunk.is_empty() && chunk.len() <= MAX_CHUNK);
                    whole += chunk;
                    Ok(())
                };
                stored.text_chunks(&mut add).unwrap();
                assert!(whole == text, "{shift}");
            }
        }
    }
}
