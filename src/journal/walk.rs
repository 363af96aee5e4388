//! Through a whole journal: every line is looked at, and the first that is wrong ends the walk.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::exit::Exit;

use super::line::{Header, Lines, parse};

/// Why a journal cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Damage {
    pub path: PathBuf,
    /// The byte from which on it is damaged, and the number of the record that should be there;
    /// `None` where nothing is wrong inside the file.
    pub place: Option<(u64, u64)>,
    pub reason: String,
}

impl Damage {
    /// What a process ends with for it: a damaged file needs an operator and no other start.
    pub fn exit(&self) -> Exit {
        if self.place.is_some() { Exit::Config } else { Exit::Failed }
    }

    pub fn io(path: &Path, e: &io::Error) -> Damage {
        Damage { path: path.to_owned(), place: None, reason: e.to_string() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, reason) = (self.path.display(), &self.reason);
        match self.place {
            None => write!(f, "{path}: {reason}"),
            Some((offset, number)) => write!(
                f,
                "{path} is damaged at byte {offset}, where record {number} should be: {reason}. \
                 Nothing was changed. `hermes-gateway journal check` looks at it; \
                 `hermes-gateway journal repair` goes on with what is before that byte, and keeps the file"
            ),
        }
    }
}

/// What a journal holds.
#[derive(Debug)]
pub struct Report {
    pub records: u64,
    pub first: Option<u64>,
    /// The number of the last record that there ever was.
    pub last: u64,
    /// Bytes of whole lines.
    pub bytes: u64,
    /// Offset and length of an incomplete last record behind them: normal while a gateway writes.
    pub torn: Option<(u64, u64)>,
}

/// Shows every record of a file: its number, its offset, its JSON. What is appended meanwhile is not
/// looked at.
///
/// # Errors
/// The first thing that is wrong, unless it can be the trace of a write that was cut short; and what
/// `visit` finds wrong.
pub fn walk(
    path: &Path,
    file: &File,
    visit: &mut dyn FnMut(u64, u64, &str) -> Result<(), String>,
) -> Result<Report, Damage> {
    let io = |e: io::Error| Damage::io(path, &e);
    let damage = |offset: u64, number: u64, reason: String| Damage {
        path: path.to_owned(),
        place: Some((offset, number)),
        reason,
    };
    let length = file.metadata().map_err(io)?.len();
    let mut lines = Lines::new(file, 0, length);
    let first = lines.next().map_err(io)?.map_or(&[][..], |(_, line)| line);
    let header = Header::parse(first).map_err(|(foreign, reason)| Damage {
        place: (!foreign).then_some((0, 0)),
        ..damage(0, 0, reason)
    })?;
    let mut found = Report { records: 0, first: None, last: 0, bytes: lines.at, torn: None };
    loop {
        let kept = found.records < header.kept;
        if !kept {
            // A compaction may have kept nothing: its base still says how far the numbers got.
            found.last = found.last.max(header.base - 1);
        }
        let next = found.last + 1;
        let Some((at, line)) = lines.next().map_err(io)? else { break };
        match parse(line) {
            Ok((number, json)) => {
                let gap = if kept { number >= header.base } else { number > next };
                if gap || number < next {
                    let reason = format!("the record there has the number {number}");
                    return Err(damage(at, next, reason));
                }
                visit(number, at, json).map_err(|reason| damage(at, next, reason))?;
                found.records += 1;
                found.first.get_or_insert(number);
                found.last = number;
                found.bytes = at + line.len() as u64;
            }
            // What a compaction kept was synced before it got its name: that cannot be torn.
            Err(_) if !kept && at + line.len() as u64 == length => {
                found.torn = Some((at, length - at));
                break;
            }
            Err(reason) => return Err(damage(at, next, reason.to_owned())),
        }
    }
    if found.records < header.kept {
        let reason = format!("{} records should follow", header.kept - found.records);
        return Err(damage(found.bytes, found.last + 1, reason));
    }
    Ok(found)
}
