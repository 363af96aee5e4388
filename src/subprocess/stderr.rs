//! What a child writes on stderr: lines for the log, as many as are bearable, and the end of it for error
//! messages.

use super::child::keep_tail;
use crate::escape::last_line;
use crate::limits::MAX_STDERR_TAIL;

/// Longer lines are cut: a log line, not a document.
const MAX_STDERR_LINE: usize = 2048;

/// How much a child may put into the log, until that is renewed.
const MAX_STDERR_LOGGED: usize = 64 << 10;

/// The end of what a child wrote on stderr, for error messages, and its lines for the log.
#[derive(Debug, Default)]
pub struct StderrTail {
    line: Vec<u8>,
    tail: Vec<u8>,
    logged: usize,
}

impl StderrTail {
    /// Takes bytes and hands every whole line to `log`.
    pub fn push(&mut self, bytes: &[u8], log: &mut dyn FnMut(&str)) {
        keep_tail(&mut self.tail, bytes, MAX_STDERR_TAIL);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = MAX_STDERR_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if text.len() < piece.len() {
                self.end_line(log);
            }
        }
    }

    /// The last line, when no line feed ended it.
    pub fn finish(&mut self, log: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            self.end_line(log);
        }
    }

    /// Allows as much to be logged again.
    pub fn renew(&mut self) {
        self.logged = 0;
    }

    /// The last line; empty when nothing was written.
    pub fn tail(&self) -> String {
        last_line(&self.tail)
    }

    fn end_line(&mut self, log: &mut dyn FnMut(&str)) {
        let before = self.logged;
        self.logged = before.saturating_add(self.line.len() + 1);
        if self.logged <= MAX_STDERR_LOGGED {
            log(&String::from_utf8_lossy(&self.line));
        } else if before <= MAX_STDERR_LOGGED {
            log("(more on stderr; it is not logged for now)");
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_the_log_are_bounded() {
        let mut lines = Vec::new();
        let mut log = |line: &str| lines.push(line.to_owned());
        let mut stderr = StderrTail::default();
        stderr.push(b"one\ntw", &mut log);
        stderr.push(b"o\n", &mut log);
        stderr.push(&vec![b'x'; 10_000], &mut log);
        stderr.push(b"\nlast", &mut log);
        stderr.finish(&mut log);
        assert_eq!((stderr.tail.len(), stderr.tail().as_str()), (MAX_STDERR_TAIL, "last"));
        assert_eq!((lines[0].as_str(), lines[1].as_str()), ("one", "two"));
        assert_eq!((lines[2].len(), lines[3].as_str()), (MAX_STDERR_LINE, "last"));
    }

    #[test]
    fn a_flood_is_logged_up_to_its_bound() {
        let mut count = 0;
        let mut stderr = StderrTail::default();
        for _ in 0..100 {
            stderr.push(&b"0123456789abcde\n".repeat(1024), &mut |_| count += 1);
        }
        assert_eq!(count, MAX_STDERR_LOGGED / 16 + 1);
    }
}
