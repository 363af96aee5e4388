//! The text of the journal: a record a line, `crc32c SP number SP json LF`, behind a header of the
//! same shape with number 0. Pure.
#![forbid(unsafe_code)]

use serde_json::Value;

/// The version that this program writes, and the only one that it reads.
pub const VERSION: u64 = 1;

const FORMAT: &str = "hermes-gateway journal";

/// The first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The number from which on there is no gap.
    pub base: u64,
    /// How many records with smaller numbers follow first: what a compaction has kept.
    pub kept: u64,
}

impl Header {
    /// Always of the same length, so that it can be written over in its place.
    pub fn line(self) -> Vec<u8> {
        let Header { base, kept } = self;
        let json = format!(
            r#"{{"format":"{FORMAT}","version":{VERSION},"base":{base:>20},"kept":{kept:>20}}}"#
        );
        line(0, &json)
    }

    /// Reads the first line, without its line feed.
    pub fn parse(bytes: &[u8]) -> Result<Header, String> {
        let (number, json) = parse(bytes)?;
        let value: Value = serde_json::from_str(json).unwrap_or_default();
        if number != 0 || value["format"] != FORMAT {
            return Err("the first line is not the header of a journal".to_owned());
        }
        if value["version"] != VERSION {
            return Err(format!(
                "it has version {}, and this program reads version {VERSION}",
                value["version"]
            ));
        }
        match (value["base"].as_u64(), value["kept"].as_u64()) {
            (Some(base), Some(kept)) if base > 0 => Ok(Header { base, kept }),
            _ => Err("its header lacks \"base\" or \"kept\"".to_owned()),
        }
    }
}

/// A record as its line.
pub fn line(number: u64, json: &str) -> Vec<u8> {
    let body = format!("{number} {json}");
    let crc = crc32c::crc32c(body.as_bytes());
    let mut line = Vec::with_capacity(body.len() + 10);
    line.extend_from_slice(format!("{crc:08x} ").as_bytes());
    line.extend_from_slice(body.as_bytes());
    line.push(b'\n');
    line
}

/// Reads a line, without its line feed.
pub fn parse(bytes: &[u8]) -> Result<(u64, &str), String> {
    let wrong = || "the line is not \"crc number json\"".to_owned();
    let (crc, body) = bytes.split_at_checked(9).ok_or_else(wrong)?;
    let crc = std::str::from_utf8(crc).ok().and_then(|crc| crc.strip_suffix(' '));
    // Only what we would write: no sign, no capitals.
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let crc = crc.filter(|crc| crc.bytes().all(is_digit)).ok_or_else(wrong)?;
    if u32::from_str_radix(crc, 16).ok() != Some(crc32c::crc32c(body)) {
        return Err("its checksum is wrong".to_owned());
    }
    let (number, json) =
        std::str::from_utf8(body).ok().and_then(|b| b.split_once(' ')).ok_or_else(wrong)?;
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|_| plain).ok_or_else(wrong)?;
    Ok((number, json))
}
