//! Reading a journal from one end to the other, in bounded memory, and saying what is wrong with it.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{Header, parse};
use crate::exit::Exit;
use crate::limits::{LARGE_READ, MAX_RECORD};
use crate::text::escaped;

/// A part of a file, read without its position.
#[derive(Debug)]
pub struct Range {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Range {
    pub fn new(file: Arc<File>, at: u64, end: u64) -> Range {
        Range { file, at, end }
    }
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// The lines of a range with their offsets.
pub struct Lines {
    from: BufReader<Range>,
    /// Where the next line begins.
    pub at: u64,
    line: Vec<u8>,
}

/// What comes next in a file.
pub enum Next<'a> {
    /// A line without its line feed, and where it begins.
    Line(u64, &'a [u8]),
    /// The rest has no line feed; or, of a line that is too long, not within the bound.
    Rest {
        too_long: bool,
    },
    End,
}

impl Lines {
    pub fn new(range: Range, buffer: usize) -> Lines {
        Lines { at: range.at, from: BufReader::with_capacity(buffer, range), line: Vec::new() }
    }

    pub fn next(&mut self) -> io::Result<Next<'_>> {
        self.line.clear();
        let most = MAX_RECORD as u64 + 1;
        let count = (&mut self.from).take(most).read_until(b'\n', &mut self.line)?;
        match self.line.split_last() {
            None => Ok(Next::End),
            Some((b'\n', line)) => {
                let at = self.at;
                self.at += count as u64;
                Ok(Next::Line(at, line))
            }
            Some(_) => Ok(Next::Rest { too_long: count as u64 == most }),
        }
    }
}

/// What is wrong with a journal.
#[derive(Debug)]
pub struct Damage {
    pub path: PathBuf,
    pub offset: u64,
    /// The number of the record that should be there.
    pub expected: u64,
    pub why: String,
    /// It could not be read at all; trying again may help.
    passing: bool,
}

impl Damage {
    /// The disk or the system refused.
    pub fn io(path: &Path, error: &io::Error) -> Damage {
        let (path, why) = (path.to_owned(), error.to_string());
        Damage { path, offset: 0, expected: 0, why, passing: true }
    }

    /// What a process ends with for it: a damaged file needs an operator, not another start.
    pub fn exit(&self) -> Exit {
        if self.passing { Exit::Failed } else { Exit::Config }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { path, offset, expected, why, passing } = self;
        let (path, why) = (path.display(), escaped(why, false));
        if *passing {
            return write!(f, "the journal {path} cannot be used: {why}");
        }
        write!(
            f,
            "the journal {path} is damaged at byte {offset}, where record {expected} should be: {why}\n\
             nothing was changed; `hermes-gateway journal check` looks again, `journal dump` shows \
             what is before it, `journal repair` cuts off what follows and keeps it beside the file"
        )
    }
}

/// The incomplete end of a journal: what a power cut or a kill left of the last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    pub offset: u64,
    pub length: u64,
    /// It has its line feed, and a wrong checksum.
    pub looks_whole: bool,
}

/// A journal that was read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    pub header: Header,
    pub records: u64,
    /// The number of the last record, or the one before the first.
    pub last: u64,
    /// Where the good part ends.
    pub end: u64,
    pub torn: Option<Torn>,
}

/// Shows all records of a file, each with its offset.
///
/// # Errors
/// The place of the damage: anything but an incomplete last record, or what `visit` says of one.
pub fn walk(
    path: &Path,
    file: &Arc<File>,
    visit: &mut dyn FnMut(u64, u64, &str) -> Result<(), String>,
) -> Result<Walked, Damage> {
    let size = file.metadata().map_err(|e| Damage::io(path, &e))?.len();
    let mut lines = Lines::new(Range::new(Arc::clone(file), 0, size), LARGE_READ);
    let damage = |offset, expected, why: String| Damage {
        path: path.to_owned(),
        offset,
        expected,
        why,
        passing: false,
    };
    let header = match lines.next().map_err(|e| Damage::io(path, &e))? {
        Next::Line(_, line) => Header::parse(line).map_err(|why| damage(0, 0, why))?,
        Next::Rest { .. } | Next::End => return Err(damage(0, 0, "it has no header".to_owned())),
    };
    let mut walked = Walked { header, records: 0, last: 0, end: lines.at, torn: None };
    loop {
        let expected = walked.expected();
        let offset = lines.at;
        let torn = |looks_whole| Torn { offset, length: size - offset, looks_whole };
        match lines.next().map_err(|e| Damage::io(path, &e))? {
            Next::End => break,
            Next::Rest { too_long: false } => {
                walked.torn = Some(torn(false));
                break;
            }
            Next::Rest { too_long: true } => {
                return Err(damage(offset, expected, "the line does not end".to_owned()));
            }
            Next::Line(offset, line) => {
                let after = offset + line.len() as u64 + 1;
                match parse(line) {
                    Err(_) if after == size => {
                        walked.torn = Some(torn(true));
                        break;
                    }
                    Err(why) => return Err(damage(offset, expected, why)),
                    Ok((number, json)) => {
                        let placed = walked.place(number);
                        placed
                            .and_then(|()| visit(offset, number, json))
                            .map_err(|why| damage(offset, expected, why))?;
                    }
                }
                walked.end = after;
            }
        }
    }
    if walked.records < header.kept {
        let why = format!(
            "{} of {} compacted records are missing",
            header.kept - walked.records,
            header.kept
        );
        return Err(damage(walked.end, walked.expected(), why));
    }
    walked.last = walked.last.max(header.base - 1);
    Ok(walked)
}

impl Walked {
    /// The number that comes next; among compacted records the least that it can be.
    fn expected(&self) -> u64 {
        let gapless = self.records >= self.header.kept;
        let least = if gapless { self.header.base } else { 1 };
        least.max(self.last + 1)
    }

    /// Takes the next record's number.
    fn place(&mut self, number: u64) -> Result<(), String> {
        let gapless = self.records >= self.header.kept;
        let fits = if gapless {
            number == self.expected()
        } else {
            number > self.last && number < self.header.base
        };
        if !fits {
            return Err(format!("record {number} is there instead"));
        }
        (self.records, self.last) = (self.records + 1, number);
        Ok(())
    }
}
