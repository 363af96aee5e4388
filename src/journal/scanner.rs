//! A part of a journal file, read in order: whole records, and what is corrupt between them. Behind
//! that it goes on at the next place where a whole record begins.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

use super::framing::{AROUND, Entry, check, entry, whole_within};
use crate::limits::{JOURNAL_BUFFER, MAX_RECORD};

/// A record, or bytes that are none.
pub struct Segment<'a> {
    pub at: u64,
    /// Without the NULs at the end of a line that has no line feed.
    pub end: u64,
    pub record: Result<Entry<'a>, &'static str>,
    /// Nothing but NULs.
    pub nuls: bool,
}

/// Whatever else is done with the file meanwhile. No more than twice the longest line is held in
/// memory: two whose line feed is corrupt.
pub struct Scanner<'a> {
    from: BufReader<Part<'a>>,
    line: Vec<u8>,
    /// Where the line begins, and where the next one does.
    start: u64,
    end: u64,
    /// Where the rest of the line begins, which is a whole record; 0: nothing is left of it.
    rest: usize,
}

/// A part of a file.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub file: &'a File,
    pub at: u64,
    pub end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at))
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.file.read_at(&mut buffer[..left], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<'a> Scanner<'a> {
    pub fn new(part: Part<'a>) -> Scanner<'a> {
        let from = BufReader::with_capacity(JOURNAL_BUFFER, part);
        Scanner { from, line: Vec::new(), start: part.at, end: part.at, rest: 0 }
    }

    /// Reads a line with its LF. Without one it is the last of the part, or longer than a line may
    /// be; an empty one was NULs, of which there may be any number. `false`: there are no more.
    fn read_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.start = self.end;
        loop {
            let buffer = self.from.fill_buf()?;
            let nuls = buffer.iter().take_while(|byte| **byte == 0).count();
            let last = nuls < buffer.len() || nuls == 0;
            self.from.consume(nuls);
            self.end += nuls as u64;
            if last {
                break;
            }
        }
        if self.end == self.start {
            let cap = (2 * (MAX_RECORD + AROUND)) as u64;
            self.end += self.from.by_ref().take(cap).read_until(b'\n', &mut self.line)? as u64;
        }
        Ok(self.end > self.start)
    }

    /// The next line as it is, and where it ends: the header is the first.
    pub fn header(&mut self) -> io::Result<(&[u8], u64)> {
        self.read_line()?;
        Ok((&self.line, self.end))
    }

    /// The next segment; `None`: there are no more.
    pub fn next(&mut self) -> io::Result<Option<Segment<'_>>> {
        let from = std::mem::take(&mut self.rest);
        if from == 0 && !self.read_line()? {
            return Ok(None);
        }
        let (at, mut end) = (self.start + from as u64, self.end);
        let line = &mut self.line[from..];
        let nuls = line.is_empty();
        let record = match check(line) {
            Ok(found) => entry(line, found),
            Err(why) => {
                if let Some(within) = whole_within(line) {
                    self.rest = from + within;
                    end = at + within as u64;
                } else if !nuls {
                    end -= line.iter().rev().take_while(|byte| **byte == 0).count() as u64;
                }
                Err(why)
            }
        };
        Ok(Some(Segment { at, end, record, nuls }))
    }
}
