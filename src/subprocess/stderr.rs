//! What a child writes on stderr: lines for the log, as many as are bearable, and the end of it for error
//! messages.

use std::time::{Duration, Instant};

use super::child::keep_tail;
use crate::escape::{counted, last_line};
use crate::limits::MAX_STDERR_TAIL;

/// Longer lines are cut: a log line, not a document.
const MAX_STDERR_LINE: usize = 2048;

/// How much a child may put into the log in so long.
const MAX_STDERR_LOGGED: usize = 64 << 10;
const LOGGED_IN: Duration = Duration::from_secs(60);

/// What a line counts at least: what the log adds to it is as long.
const LEAST_COUNTED: usize = 64;

/// The end of what a child wrote on stderr, for error messages, and its lines for the log.
#[derive(Debug, Default)]
pub struct StderrTail {
    line: Vec<u8>,
    tail: Vec<u8>,
    logged: usize,
    /// Lines that were not.
    left_out: usize,
    /// When that was begun to be counted.
    since: Option<Instant>,
}

impl StderrTail {
    /// Takes bytes and hands every whole line to `log`.
    pub fn push(&mut self, bytes: &[u8], log: &mut dyn FnMut(&str)) {
        if self.since.is_none_or(|since| since.elapsed() >= LOGGED_IN) {
            self.renew(log);
        }
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

    /// The last line, when no line feed ended it, and how much was left out.
    pub fn finish(&mut self, log: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            self.end_line(log);
        }
        self.renew(log);
    }

    /// Says how much was left out, and allows as much to be logged again.
    fn renew(&mut self, log: &mut dyn FnMut(&str)) {
        if self.left_out > 0 {
            log(&format!("({} of stderr left out)", counted(&self.left_out, "line")));
        }
        (self.logged, self.left_out, self.since) = (0, 0, Some(Instant::now()));
    }

    /// The last line; empty when nothing was written.
    pub fn tail(&self) -> String {
        last_line(&self.tail)
    }

    fn end_line(&mut self, log: &mut dyn FnMut(&str)) {
        self.logged += LEAST_COUNTED.max(self.line.len() + 1);
        if self.left_out == 0 && self.logged <= MAX_STDERR_LOGGED {
            log(&String::from_utf8_lossy(&self.line));
        } else {
            if self.left_out == 0 {
                log("(more on stderr; it is not logged for now)");
            }
            self.left_out += 1;
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
    fn a_flood_is_logged_up_to_its_bound_and_what_is_left_out_is_counted() {
        for (line, most) in [("y".to_owned(), 1024), ("x".repeat(1023), 64)] {
            let (mut lines, mut stderr) = (Vec::new(), StderrTail::default());
            let mut log = |line: &str| lines.push(line.to_owned());
            for _ in 0..100 {
                stderr.push(format!("{line}\n").repeat(100).as_bytes(), &mut log);
            }
            stderr.since = Instant::now().checked_sub(LOGGED_IN);
            stderr.push(b"again\n", &mut log);
            stderr.finish(&mut log);
            assert_eq!(lines.len(), most + 3);
            let left_out = format!("({} lines of stderr left out)", 10_000 - most);
            assert_eq!(lines[most + 1..], [left_out.as_str(), "again"]);
            // An end says it, too.
            stderr.push(format!("{line}\n").repeat(most).as_bytes(), &mut |_| {});
            stderr.push(b"one\ntwo", &mut |_| {});
            let mut last = Vec::new();
            stderr.finish(&mut |line| last.push(line.to_owned()));
            assert_eq!(last, ["(2 lines of stderr left out)"]);
        }
    }
}
