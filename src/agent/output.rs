//! What an agent prints, made into text: UTF-8 across the borders of reads, and no line feeds at
//! the end, as a shell's `$(…)` has it.

use crate::escape::last_line;
use crate::limits::MAX_STDERR_TAIL;
use crate::subprocess::keep_tail;

/// Longer lines are cut: a log line, not a document.
const MAX_STDERR_LINE: usize = 2048;

/// How much one turn may put into the log.
const MAX_STDERR_LOGGED: usize = 64 << 10;

/// Turns bytes into text piece by piece. What is no UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
pub struct Utf8Stream {
    /// The beginning of a character whose end has not come yet (at most 3 bytes).
    partial: Vec<u8>,
    /// Line feeds that are kept back until something follows them.
    line_feeds: usize,
}

impl Utf8Stream {
    /// The text that these bytes complete; may be empty.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let all = [&self.partial, bytes].concat();
        let last = all.utf8_chunks().last().map_or(&[][..], |last| last.invalid());
        let is_partial = std::str::from_utf8(last).is_err_and(|e| e.error_len().is_none());
        let whole = all.len() - if is_partial { last.len() } else { 0 };
        self.partial = all[whole..].to_vec();
        let mut text = "\n".repeat(self.line_feeds) + &String::from_utf8_lossy(&all[..whole]);
        let kept = text.trim_end_matches('\n').len();
        self.line_feeds = text.len() - kept;
        text.truncate(kept);
        text
    }

    /// What is left at the end: a character that was cut off.
    pub fn finish(&mut self) -> String {
        if self.partial.is_empty() {
            return String::new();
        }
        self.partial.clear();
        "\n".repeat(self.line_feeds) + "\u{fffd}"
    }
}

/// The end of what an agent wrote on stderr, for error messages, and its lines for the log.
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
    fn characters_survive_every_split() {
        let whole = "aß€😀\n\nb\n".as_bytes();
        for split in 0..=whole.len() {
            let mut text = Utf8Stream::default();
            let mut got = text.push(&whole[..split]);
            got += &text.push(&whole[split..]);
            got += &text.finish();
            assert_eq!(got, "aß€😀\n\nb", "split at {split}");
        }
    }

    #[test]
    fn what_is_no_text_is_replaced() {
        let mut text = Utf8Stream::default();
        assert_eq!(text.push(b"a\xffb\xe2\x82"), "a\u{fffd}b");
        assert_eq!(text.finish(), "\u{fffd}");
        assert_eq!(text.push(b"\n"), "");
        assert_eq!(text.finish(), "");
    }

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
