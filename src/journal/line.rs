//! One record, one line: `crc32c SP number SP json LF`, the checksum over `number SP json`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

use crc::{CRC_32_ISCSI, Crc, Table};
use serde_json::Value;

use crate::limits::{JOURNAL_BUFFER, MAX_RECORD};

static CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

const FORMAT: &str = "hermes-gateway journal";
const VERSION: u64 = 1;
/// Checksum, number and separators: no line has more beside its JSON.
const AROUND: usize = 8 + 1 + 20 + 1 + 1;

/// The line of a record.
pub fn line(number: u64, json: &str) -> Vec<u8> {
    let mut line = Vec::with_capacity(json.len() + AROUND);
    line.extend_from_slice(format!("00000000 {number} ").as_bytes());
    line.extend_from_slice(json.as_bytes());
    let sum = format!("{:08x}", CRC.checksum(&line[9..]));
    line[..8].copy_from_slice(sum.as_bytes());
    line.push(b'\n');
    line
}

/// Number and JSON of a line with its LF.
pub fn parse(line: &[u8]) -> Result<(u64, &str), &'static str> {
    let Some(line) = line.strip_suffix(b"\n") else {
        let long = line.len() >= MAX_RECORD;
        return Err(if long { "it is longer than a record may be" } else { "it has no end" });
    };
    let (sum, body) = line.split_at_checked(9).ok_or("it is too short for a record")?;
    let digit = |sum: Option<u32>, byte: &u8| match byte {
        b'0'..=b'9' | b'a'..=b'f' => Some(sum? << 4 | char::from(*byte).to_digit(16)?),
        _ => None,
    };
    let sum = sum.strip_suffix(b" ").and_then(|sum| sum.iter().fold(Some(0), digit));
    if sum.ok_or("it does not begin with a checksum")? != CRC.checksum(body) {
        return Err("its checksum is wrong");
    }
    let body = str::from_utf8(body).map_err(|_| "it is not UTF-8")?;
    let (number, json) = body.split_once(' ').ok_or("it has no number")?;
    let plain =
        number.bytes().all(|b| b.is_ascii_digit()) && (number == "0" || !number.starts_with('0'));
    let number = number.parse().ok().filter(|_| plain).ok_or("it has no number")?;
    Ok((number, json))
}

/// What the first line says: the first `kept` records, all below `base`, are what a compaction
/// kept, with gaps; from `base` on there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub base: u64,
    pub kept: u64,
}

impl Header {
    pub const NEW: Header = Header { base: 1, kept: 0 };

    /// As long for any `kept` of one `base`: it is written again when they have been counted.
    pub fn line(self) -> Vec<u8> {
        let Header { base, kept } = self;
        let json = format!(
            r#"{{"format":"{FORMAT}","version":{VERSION},"base":{base},"kept":{kept:<20}}}"#
        );
        line(0, &json)
    }

    /// Err(true, …): it is whole and not for us; Err(false, …): it is damaged.
    pub fn parse(line: &[u8]) -> Result<Header, (bool, String)> {
        let damaged = |why: &str| (false, format!("the first line is no header: {why}"));
        let (number, json) = parse(line).map_err(damaged)?;
        let value: Value = serde_json::from_str(json).map_err(|_| damaged("it is not JSON"))?;
        if number != 0 || value["format"] != FORMAT {
            return Err(damaged("it names no journal"));
        }
        if value["version"] != VERSION {
            let found = &value["version"];
            let why = format!("has format version {found}; this gateway reads version {VERSION}");
            return Err((true, why));
        }
        match (value["base"].as_u64(), value["kept"].as_u64()) {
            (Some(base), Some(kept)) if base > kept && base <= u64::MAX / 2 => {
                Ok(Header { base, kept })
            }
            _ => Err(damaged("its base and kept make no sense")),
        }
    }
}

/// The lines of a part of a file, whatever else is done with the file meanwhile. No more than the
/// longest line is held in memory.
pub struct Lines<'a> {
    from: BufReader<Part<'a>>,
    line: Vec<u8>,
    /// Where the next line begins.
    pub at: u64,
}

struct Part<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..left], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<'a> Lines<'a> {
    pub fn new(file: &'a File, at: u64, end: u64) -> Lines<'a> {
        let part = Part { file, at, end: end.max(at) };
        Lines { from: BufReader::with_capacity(JOURNAL_BUFFER, part), line: Vec::new(), at }
    }

    /// Where a line begins, and its bytes with the LF. Without one it is the last of the part, or
    /// longer than a line may be.
    pub fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        self.line.clear();
        let cap = (MAX_RECORD + AROUND) as u64;
        let count = self.from.by_ref().take(cap).read_until(b'\n', &mut self.line)?;
        let at = self.at;
        self.at += count as u64;
        Ok((count > 0).then_some((at, &self.line)))
    }
}
