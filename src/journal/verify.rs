//! Through a whole journal: every line is looked at, and the first that is wrong ends the walk.
//!
//! Whether what is wrong is the trace of a power cut or damage is told by what is whole behind it: a
//! record says how far the journal was durable when it was written. Only what was durable was ever
//! acknowledged.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::exit::Exit;

use super::line::{Entry, Header, Lines};
use super::pieces::Pieces;
use super::record;

/// Why a journal cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Corruption {
    pub path: PathBuf,
    /// The byte from which on it is damaged, and the number of the record that should be there;
    /// `None` where nothing is wrong inside the file.
    pub place: Option<(u64, u64)>,
    pub reason: String,
    /// A newer gateway wrote it.
    newer: bool,
}

impl Corruption {
    /// What a process ends with for it: a damaged file needs an operator and no other start, and so
    /// does one that is not for us.
    pub fn exit(&self) -> Exit {
        if self.place.is_some() || self.newer { Exit::Config } else { Exit::Failed }
    }

    /// What only a newer gateway understands is good, and nothing to cut off.
    fn by_newer(self, newer: bool) -> Corruption {
        Corruption { place: self.place.filter(|_| !newer), newer, ..self }
    }

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
                "{path} is damaged at byte {offset}, where record {number} should be: {reason}. \
                 Nothing was changed. `journal check` looks at it; \
                 `journal repair` goes on with what is before that byte, and keeps the file"
            ),
        }
    }
}

/// What a journal holds.
#[derive(Debug, Default)]
pub struct Report {
    pub version: u64,
    pub records: u64,
    pub first: Option<u64>,
    /// The number of the last record that there ever was.
    pub last: u64,
    /// All up to this number is known to have been durable by what the file says.
    pub marked: u64,
    /// Where the first record begins, and where the last one ends.
    pub start: u64,
    pub bytes: u64,
    /// Offset and length of what was never acknowledged behind them: normal while a gateway writes.
    pub torn: Option<(u64, u64)>,
}

/// Shows every record of a file: its number, its offset, its JSON; not the journal's own marks. What
/// is appended meanwhile is not looked at.
///
/// # Errors
/// The first thing that is wrong, unless it can be the trace of writes that were cut short; and what
/// `visit` finds wrong.
pub fn verify(
    path: &Path,
    file: &File,
    visit: &mut dyn FnMut(u64, u64, &str) -> Result<(), String>,
) -> Result<Report, Corruption> {
    let io = |e: io::Error| Corruption::io(path, &e);
    let damage = |offset: u64, number: u64, reason: String| Corruption {
        path: path.to_owned(),
        place: Some((offset, number)),
        reason,
        newer: false,
    };
    let length = file.metadata().map_err(io)?.len();
    let mut lines = Lines::new(file, 0, length);
    let first = lines.next().map_err(io)?.map_or(&[][..], |(_, line)| &*line);
    let header =
        Header::parse(first).map_err(|(foreign, reason)| damage(0, 0, reason).by_newer(foreign))?;
    let (version, start) = (header.version, lines.at);
    let mut found = Report { version, start, bytes: start, ..Report::default() };
    let mut pieces = Pieces::new(file, lines.at, length);
    loop {
        let kept = found.records < header.kept;
        if !kept {
            // A compaction may have kept nothing: its base still says how far the numbers got.
            found.last = found.last.max(header.base - 1);
            found.marked = found.marked.max(header.base - 1);
        }
        let next = found.last + 1;
        let Some(piece) = pieces.next().map_err(io)? else { break };
        let (at, end) = (piece.at, piece.end);
        let reason = match piece.record {
            Ok(entry) => {
                let number = entry.number;
                let gap = if kept { number >= header.base } else { number > next };
                if !gap && number >= next {
                    if entry.is_mark() {
                        found.marked = entry.durable.map_or(0, |durable| durable + 1);
                    } else {
                        let result = visit(number, at, entry.json);
                        let newer = || record::is_essential(entry.json);
                        result.map_err(|why| damage(at, next, why).by_newer(newer()))?;
                        found.first.get_or_insert(number);
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
        let behind = behind(file, at, length).map_err(io)?;
        let durable = if header.version == 1 { behind.lines } else { behind.durable >= next };
        if kept || durable {
            return Err(damage(at, next, reason));
        }
        found.torn = (!behind.nuls).then_some((at, length - at));
        break;
    }
    if found.records < header.kept {
        let reason = format!("records that should follow: {}", header.kept - found.records);
        return Err(damage(found.bytes, found.last + 1, reason));
    }
    Ok(found)
}

/// What there is from a damaged place on.
struct Behind {
    /// The highest number that a whole record says was durable.
    durable: u64,
    /// There is more than one line. Records of version 1 do not say what was durable: there only the
    /// last line can have been cut short.
    lines: bool,
    /// There is nothing but NULs: the end of the journal.
    nuls: bool,
}

fn behind(file: &File, at: u64, length: u64) -> io::Result<Behind> {
    let mut found = Behind { durable: 0, lines: false, nuls: true };
    let mut pieces = Pieces::new(file, at, length);
    while let Some(piece) = pieces.next()? {
        if let Ok(Entry { number, durable: Some(durable), .. }) = piece.record {
            // None is written that says it of itself.
            found.durable = found.durable.max(if durable < number { durable } else { 0 });
        }
        found.lines |= piece.ends_line && piece.end < length;
        found.nuls &= piece.nuls;
    }
    Ok(found)
}
