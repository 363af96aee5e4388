//! Verifies a whole journal: every line is looked at, and the first that is wrong ends it.
//!
//! Whether what is wrong is the trace of a power cut or corruption is told by what is whole behind it:
//! a record says how far the journal was durable when it was written. Only what was durable was ever
//! acknowledged.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Visit;
use super::framing::{Entry, Header};
use super::parse::is_essential;
use super::scanner::{Part, Scanner};
use super::writer::{Index, index_offset};
use crate::sys::fs as files;

/// Why a journal cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Corruption {
    pub path: PathBuf,
    /// The byte from which on it is corrupt, and the number of the record that should be there;
    /// `None` where nothing is wrong inside the file.
    pub place: Option<(u64, u64)>,
    pub reason: String,
    /// A newer gateway wrote it, which is nothing to cut off.
    pub newer: bool,
}

impl Corruption {
    pub fn io(path: &Path, e: &io::Error) -> Corruption {
        Corruption { path: path.to_owned(), place: None, reason: e.to_string(), newer: false }
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, reason) = (self.path.display(), &self.reason);
        match self.place {
            None => write!(f, "{path}: {reason}"),
            Some((offset, number)) => write!(
                f,
                "{path} is damaged at byte {offset}, where record {number} should be: {reason}"
            ),
        }
    }
}

/// What is said of one corrupt place.
pub fn invalid(at: u64, why: &str) -> io::Error {
    let why = format!("the journal is damaged at byte {at}: {why}");
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The same while all else goes on.
pub fn one_lost(at: u64, why: &str) -> String {
    format!(
        "{}. Only the message of that record is lost, and the gateway goes on; but a start rejects the \
         journal until a compaction removes the record, once its message is forgotten",
        invalid(at, why)
    )
}

/// What a journal holds.
#[derive(Debug, Default)]
pub struct Report {
    pub version: u64,
    pub records: u64,
    /// The number of the last record that there ever was.
    pub last: u64,
    /// All up to this number is known to have been durable by what the file says.
    pub known_durable: u64,
    pub(super) index: Index,
    /// Where the first record begins, and where the last one ends.
    pub start: u64,
    pub bytes: u64,
    /// Offset and length of what was never acknowledged behind them: normal while a gateway writes.
    pub torn: Option<(u64, u64)>,
}

/// Reads the journal at `path` and shows every record. Nothing is written, so also a live gateway's
/// can be read.
///
/// # Errors
/// As with [`verify`].
pub fn inspect(path: &Path, visit: Visit<'_>) -> Result<Report, Corruption> {
    let file = files::open_own(path).map_err(|e| Corruption::io(path, &e))?;
    verify(path, &file, visit)
}

/// Shows every record of a file: its number and its JSON; not the journal's own checkpoints. What is
/// appended meanwhile is not looked at.
///
/// # Errors
/// The first thing that is wrong, unless it can be the trace of writes that were cut short; and what
/// `visit` finds wrong.
pub fn verify(path: &Path, file: &File, visit: Visit<'_>) -> Result<Report, Corruption> {
    let io = |e: io::Error| Corruption::io(path, &e);
    let corrupt = |offset: u64, number: u64, reason: String, newer: bool| {
        let place = (!newer).then_some((offset, number));
        Corruption { path: path.to_owned(), place, reason, newer }
    };
    let length = file.metadata().map_err(io)?.len();
    let mut scanner = Scanner::new(Part { file, at: 0, end: length });
    let (first, start) = scanner.header().map_err(io)?;
    let header = Header::parse(first).map_err(|(newer, reason)| corrupt(0, 0, reason, newer))?;
    let mut found = Report { version: header.version, start, bytes: start, ..Report::default() };
    loop {
        let kept = found.records < header.kept;
        if !kept {
            // A compaction may have kept nothing: its base still says how far the numbers got.
            found.last = found.last.max(header.base - 1);
            found.known_durable = found.known_durable.max(header.base - 1);
        }
        let next = found.last + 1;
        let Some(segment) = scanner.next().map_err(io)? else { break };
        let (at, end) = (segment.at, segment.end);
        let is_record = segment.record.is_ok();
        let reason = match segment.record {
            Ok(entry) => {
                let number = entry.number;
                let gap = if kept { number >= header.base } else { number > next };
                if !gap && number >= next {
                    if entry.is_checkpoint() {
                        found.known_durable = entry.durable.map_or(0, |durable| durable + 1);
                    } else {
                        index_offset(&mut found.index, number, at);
                        visit(number, entry.json)
                            .map_err(|why| corrupt(at, next, why, is_essential(entry.json)))?;
                    }
                    found.records += 1;
                    found.last = number;
                    found.bytes = end;
                    continue;
                }
                format!("the record there has the number {number}")
            }
            Err(reason) => reason.to_owned(),
        };
        // What a compaction kept was synced before it got its name: that cannot be torn.
        let (places, last, durable, lines) = behind(file, at, length).map_err(io)?;
        // A gateway that runs writes where there were NULs, in order: what is behind came later.
        let mut again = Scanner::new(Part { file, at, end: length });
        if !is_record && again.next().map_err(io)?.is_some_and(|segment| segment.record.is_ok()) {
            scanner = Scanner::new(Part { file, at, end: length });
            continue;
        }
        // Records of version 1 do not say what was durable: there only the last can have been cut short,
        // which leaves no line end.
        let acknowledged = if header.version == 1 { lines } else { durable >= next };
        if kept || acknowledged {
            return Err(corrupt(at, next, reason, false));
        }
        found.torn = (places > 0).then_some((at, last - at));
        break;
    }
    if found.records < header.kept {
        let reason = format!("records that should follow: {}", header.kept - found.records);
        return Err(corrupt(found.bytes, found.last + 1, reason, false));
    }
    Ok(found)
}

/// Whether a line ends here, with something behind it.
fn ends_line(file: &File, end: u64, length: u64) -> io::Result<bool> {
    let mut last = [0];
    file.read_exact_at(&mut last, end - 1)?;
    Ok(end < length && last == *b"\n")
}

/// What there is from a corrupt place on: how many records and places that are none, NULs aside, which
/// are the end of the journal; where the last of them ends; the highest number that a whole record says
/// was durable; and whether a line ends there with something behind it.
fn behind(file: &File, at: u64, length: u64) -> io::Result<(u64, u64, u64, bool)> {
    let (mut places, mut last, mut highest, mut lines) = (0, at, 0, false);
    let mut scanner = Scanner::new(Part { file, at, end: length });
    while let Some(segment) = scanner.next()? {
        if let Ok(Entry { number, durable: Some(durable), .. }) = segment.record {
            // None is written that says it of itself.
            highest = highest.max(if durable < number { durable } else { 0 });
        }
        if !segment.nuls {
            (places, last) = (places + 1, segment.end);
        }
        lines |= !segment.nuls && ends_line(file, segment.end, length)?;
    }
    Ok((places, last, highest, lines))
}
