//! A part of a journal, piece by piece: whole records, and what is damaged between them. Behind damage
//! it goes on at the next place where a whole record begins.

use std::fs::File;
use std::io;

use super::line::{Entry, Lines, check, entry, whole_within};

/// A record, or damage.
pub struct Piece<'a> {
    pub at: u64,
    pub end: u64,
    pub record: Result<Entry<'a>, &'static str>,
    /// Nothing but NULs.
    pub nuls: bool,
    /// It ends a line.
    pub ends_line: bool,
}

/// The pieces of a part of a file.
pub struct Pieces<'a> {
    lines: Lines<'a>,
    /// Where the line begins that is looked at.
    start: u64,
    /// Where the rest of it does, which is a whole record; 0: nothing is left of it.
    rest: usize,
}

impl<'a> Pieces<'a> {
    pub fn new(file: &'a File, at: u64, end: u64) -> Pieces<'a> {
        Pieces { lines: Lines::new(file, at, end), start: at, rest: 0 }
    }

    /// The next piece; `None`: there are no more.
    pub fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        let from = std::mem::take(&mut self.rest);
        if from == 0 {
            match self.lines.next()? {
                Some((at, _)) => self.start = at,
                None => return Ok(None),
            }
        }
        let end = self.lines.at;
        let line = &mut self.lines.line[from..];
        let at = self.start + from as u64;
        let (nuls, ends_line) = (line.is_empty(), line.ends_with(b"\n"));
        let record = match check(line) {
            Ok(found) => entry(line, found),
            Err(why) => {
                if let Some(within) = whole_within(line) {
                    self.rest = from + within;
                    let (end, ends_line) = (at + within as u64, false);
                    return Ok(Some(Piece { at, end, record: Err(why), nuls, ends_line }));
                }
                Err(why)
            }
        };
        Ok(Some(Piece { at, end, record, nuls, ends_line }))
    }
}
