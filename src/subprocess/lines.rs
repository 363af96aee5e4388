//! Lines that a child prints and reads: collected from what its pipes bring, and written as far as they take it.

use std::io::{ErrorKind, PipeWriter, Write};

/// Bytes of a stream, on their way to be lines.
#[derive(Debug, Default)]
pub struct LineBuffer {
    /// From the first line that was not taken on, and how much of that was searched for its end.
    bytes: Vec<u8>,
    searched: usize,
}

impl LineBuffer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next line that is whole, without its end.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(at) = end.map(|at| self.searched + at) else {
            self.searched = self.bytes.len();
            return None;
        };
        let rest = self.bytes.split_off(at + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        (self.searched, _) = (0, line.pop());
        Some(line)
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
                lines.extend(std::iter::from_fn(|| buffer.next_line()));
            }
            assert_eq!(lines, [&b"one"[..], b"", b"two"], "split at {split}");
            assert_eq!(buffer.rest(), b"rest");
        }
    }
}
