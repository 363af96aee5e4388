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

/// What a walk has found.
#[derive(Debug)]
pub struct Walked {
    pub records: u64,
    pub first: Option<u64>,
    /// The number of the last record that there ever was.
    pub last: u64,
    /// Where the last whole record ends.
    pub end: u64,
    /// What is behind it: a record that was not written to its end. `true`: it has an LF.
    pub tail: Option<(u64, bool)>,
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
) -> Result<Walked, Damage> {
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
    let mut walked = Walked { records: 0, first: None, last: 0, end: lines.at, tail: None };
    loop {
        let kept = walked.records < header.kept;
        if !kept {
            // A compaction may have kept nothing: its base still says how far the numbers got.
            walked.last = walked.last.max(header.base - 1);
        }
        let next = walked.last + 1;
        let Some((at, line)) = lines.next().map_err(io)? else { break };
        match parse(line) {
            Ok((number, json)) => {
                if if kept { number < next || number >= header.base } else { number != next } {
                    let reason = format!("the record there has the number {number}");
                    return Err(damage(at, next, reason));
                }
                visit(number, at, json).map_err(|reason| damage(at, next, reason))?;
                walked.records += 1;
                walked.first.get_or_insert(number);
                walked.last = number;
                walked.end = at + line.len() as u64;
            }
            // What a compaction kept was synced before it got its name: that cannot be torn.
            Err(_) if !kept && at + line.len() as u64 == length => {
                walked.tail = Some((length - at, line.ends_with(b"\n")));
                break;
            }
            Err(reason) => return Err(damage(at, next, reason.to_owned())),
        }
    }
    if walked.records < header.kept {
        let reason = format!("{} records should follow", header.kept - walked.records);
        return Err(damage(walked.end, walked.last + 1, reason));
    }
    Ok(walked)
}
