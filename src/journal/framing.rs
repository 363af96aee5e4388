//! One record, one line: `crc32c SP number SP json LF`, the checksum over `number SP json`.
//!
//! The last member of the JSON is the journal's own, `"d"`: the number of the last record that was
//! durable when this one was written. A start learns from it what may have been acknowledged.

use std::sync::LazyLock;

use crc::{CRC_32_ISCSI, Crc, Table};

use crate::json::{self, member, value};
use crate::limits::MAX_RECORD;

/// Sixteen kilobytes for a thirtieth of the time: a long record's sum is taken under the locks, and a start
/// takes those of all. Filled in at the first use, so that the program file does not hold them.
pub static CRC: LazyLock<Box<Crc<u32, Table<16>>>> =
    LazyLock::new(|| Box::new(Crc::<u32, Table<16>>::new(&CRC_32_ISCSI)));

const FORMAT: &str = r#""hermes-gateway journal""#;
/// Version 1 had no checkpoints, and did not say what was durable.
pub const VERSION: u64 = 2;
/// Before the number: checksum and separator.
pub const HEAD: usize = 8 + 1;
/// Checksum, number, separators and the journal's own member: no line has more beside its JSON.
pub const AROUND: usize = HEAD + 20 + 1 + DURABLE.len() + 20 + 1;
/// No text can hold it as it stands: quotes are escaped there.
const DURABLE: &str = ",\"d\":";
/// A record of the journal's own, of kind `mark`: all before it is durable.
pub const CHECKPOINT: &str = r#"{"t":"mark"}"#;

/// The line of a record. `durable`: what its last member says; the header has none.
pub fn line(number: u64, json: &str, durable: Option<u64>) -> Vec<u8> {
    let mut line = Vec::with_capacity(json.len() + AROUND);
    line.extend_from_slice(format!("00000000 {number} ").as_bytes());
    match durable {
        None => line.extend_from_slice(json.as_bytes()),
        Some(durable) => {
            line.extend_from_slice(json.strip_suffix('}').unwrap_or(json).as_bytes());
            line.extend_from_slice(format!("{DURABLE}{durable}}}").as_bytes());
        }
    }
    let sum = hexadecimal(CRC.checksum(&line[HEAD..]));
    line[..8].copy_from_slice(&sum);
    line.push(b'\n');
    line
}

/// A checksum as a line has it.
pub fn hexadecimal(sum: u32) -> [u8; 8] {
    std::array::from_fn(|at| b"0123456789abcdef"[(sum >> (28 - 4 * at)) as usize & 15])
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub number: u64,
    /// `None`: written by version 1.
    pub durable: Option<u64>,
    /// Without the journal's own member.
    pub json: &'a str,
}

impl Entry<'_> {
    pub fn is_checkpoint(&self) -> bool {
        self.json == CHECKPOINT
    }
}

/// The number of a whole line, and where its JSON begins.
pub fn check(line: &[u8]) -> Result<(u64, usize), &'static str> {
    let Some(line) = line.strip_suffix(b"\n") else {
        let long = line.len() >= MAX_RECORD;
        return Err(if long { "it is longer than a record may be" } else { "it has no end" });
    };
    let (sum, body) = line.split_at_checked(HEAD).ok_or("it is too short for a record")?;
    // Before all of what follows is summed up: a corrupt place may have many that look like a beginning.
    let sum = sum.strip_suffix(b" ").filter(|sum| sum.iter().all(u8::is_ascii_hexdigit));
    if sum.is_none_or(|sum| sum != hexadecimal(CRC.checksum(body))) {
        return Err("its checksum is missing or wrong");
    }
    let space = body.iter().position(|byte| *byte == b' ').ok_or("it has no number")?;
    let number = number(&body[..space]).ok_or("it has no number")?;
    Ok((number, HEAD + space + 1))
}

/// The same of a line that [`check`] has found whole. Its bytes are changed.
pub fn entry(line: &mut [u8], (number, at): (u64, usize)) -> Result<Entry<'_>, &'static str> {
    let end = line.len() - 1;
    let mut json = &mut line[at..end];
    let durable = durable(json);
    if let Some((comma, _)) = durable {
        json[comma] = b'}';
        json = &mut json[..=comma];
    }
    let json = str::from_utf8(json).map_err(|_| "it is not UTF-8")?;
    Ok(Entry { number, durable: durable.map(|(_, number)| number), json })
}

/// Where the journal's own member begins, and its number.
pub fn durable(json: &[u8]) -> Option<(usize, u64)> {
    let rest = json.strip_suffix(b"}")?;
    let digits = rest.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (rest, digits) = rest.split_at(rest.len() - digits);
    Some((rest.strip_suffix(DURABLE.as_bytes())?.len(), number(digits)?))
}

fn number(digits: &[u8]) -> Option<u64> {
    json::number(digits).filter(|(_, length)| *length == digits.len()).map(|(number, _)| number)
}

/// Where in a corrupt line a whole one begins: its line feed was corrupt, or zeros and junk came
/// between. No text of a record can look like the beginning of one: its quotes are escaped.
pub fn whole_within(line: &[u8]) -> Option<usize> {
    let begins = |four: &[u8]| four.starts_with(b" {\"") && four[3].is_ascii_lowercase();
    let spaces = line.windows(4).enumerate().filter(|(_, four)| begins(four));
    let mut starts = spaces.filter_map(|(space, _)| {
        let digits = line[..space].iter().rev().take(20).take_while(|b| b.is_ascii_digit());
        space.checked_sub(digits.count() + HEAD).filter(|from| *from > 0)
    });
    starts.find(|from| check(&line[*from..]).is_ok())
}

/// What the first line says: the first `kept` records, all below `base`, are what a compaction
/// kept, with gaps; from `base` on there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub version: u64,
    pub base: u64,
    pub kept: u64,
}

impl Header {
    pub const NEW: Header = Header { version: VERSION, base: 1, kept: 0 };

    /// As long for any `kept` of one `base`: it is written again when they have been counted.
    pub fn line(self) -> Vec<u8> {
        let Header { version, base, kept } = self;
        let rest = format!(r#""version":{version},"base":{base},"kept":{kept:<20}}}"#);
        line(0, &format!(r#"{{"format":{FORMAT},{rest}"#), None)
    }

    /// Err(true, …): it is whole, and of a newer gateway; Err(false, …): it is corrupt.
    pub fn parse(line: &[u8]) -> Result<Header, (bool, String)> {
        let corrupt = |why: &str| (false, format!("the first line is not a header: {why}"));
        let (number, at) = check(line).map_err(corrupt)?;
        let json = value(&line[at..]).map_err(|e| corrupt(&e))?;
        // Beside the version, all may be anything in one of a newer gateway.
        let text = |name| member(json, name).unwrap_or("null");
        let parsed = |name| text(name).parse().unwrap_or(u64::MAX);
        if number != 0 || text("format") != FORMAT {
            return Err(corrupt("it names no journal"));
        }
        let version = parsed("version");
        if !(1..=VERSION).contains(&version) {
            let versions = format!("this gateway reads versions 1 to {VERSION}");
            let found = text("version");
            return Err((true, format!("has format version {found:.40}; {versions}")));
        }
        let header = Header { version, base: parsed("base"), kept: parsed("kept") };
        let is_possible = header.base > header.kept && header.base <= u64::MAX / 2;
        is_possible.then_some(header).ok_or_else(|| corrupt("its base and kept make no sense"))
    }
}
