//! Lines that a child prints and reads: collected from what its pipes bring, and written as far as they take it.

use std::io::{ErrorKind, PipeWriter, Write};

/// More room than this is not kept for lines to come.
const KEPT: usize = 128 << 10;

/// Bytes of a stream, on their way to be lines.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// Where the first line begins that was not taken, and how far its end was searched for.
    begin: usize,
    searched: usize,
}

impl LineBuffer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next line that is whole, without its end. Is asked for until there is none.
    pub fn next_line(&mut self) -> Option<&[u8]> {
        if let Some(at) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
            let (begin, end) = (self.begin, self.searched + at);
            (self.begin, self.searched) = (end + 1, end + 1);
            return Some(&self.bytes[begin..end]);
        }
        self.bytes.drain(..std::mem::take(&mut self.begin));
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT {
            // It may have been long.
            self.bytes = Vec::new();
        }
        self.searched = self.bytes.len();
        None
    }

    /// The beginning of a line, once no whole one is left.
    pub fn rest(&self) -> &[u8] {
        &self.bytes
    }
}

/// Writes what a pipe takes at once. What a process that reads no more is sent counts as written: its end
/// is seen elsewhere.
pub fn write_some(mut pipe: &PipeWriter, bytes: &[u8]) -> usize {
    match pipe.write(bytes) {
        Ok(count) => count,
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
        Err(_) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let all = b"one\n\ntwo\nrest";
        for split in 0..=all.len() {
            let (mut buffer, mut lines) = (LineBuffer::default(), Vec::new());
            for bytes in [&all[..split], &all[split..]] {
                buffer.push(bytes);
                while let Some(line) = buffer.next_line() {
                    lines.push(line.to_vec());
                }
            }
            assert_eq!(lines, [&b"one"[..], b"", b"two"], "split at {split}");
            assert_eq!(buffer.rest(), b"rest");
        }
    }
}
