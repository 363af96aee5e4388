//! A record with a long reply, read without the reply: that stays in the file, and is sent from there.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use super::line::{CRC, HEAD, Part, durable, number};
use crate::extent::Extent;
use crate::limits::JOURNAL_BUFFER;

/// The JSON of record `wanted`, with nothing in its reply, and what is in it. `None`: it is not there,
/// damaged, or has none, as a read of the whole finds out.
pub fn read(
    file: &Arc<File>,
    (mut at, end): (u64, u64),
    wanted: u64,
) -> io::Result<Option<(String, Extent)>> {
    let mut from = BufReader::with_capacity(JOURNAL_BUFFER, Part { file, at, end });
    let mut head = Vec::new();
    loop {
        head.clear();
        // The checksum, and the number.
        for word in [HEAD as u64, 21] {
            from.by_ref().take(word).read_until(b' ', &mut head)?;
        }
        at += head.len() as u64;
        let found = head.get(HEAD..head.len().saturating_sub(1)).and_then(number);
        if found.is_none_or(|found| found > wanted) {
            return Ok(None);
        } else if found == Some(wanted) {
            break;
        }
        at += from.skip_until(b'\n')? as u64;
    }
    let mut sum = CRC.digest();
    sum.update(&head[HEAD..]);
    let (mut json, mut text) = (Vec::new(), Text::default());
    loop {
        let buffer = from.fill_buf()?;
        let length = buffer.iter().position(|byte| *byte == b'\n');
        let piece = &buffer[..length.unwrap_or(buffer.len())];
        sum.update(piece);
        piece.iter().for_each(|byte| text.push(*byte, &mut json));
        let count = piece.len();
        from.consume(count);
        match (length, count) {
            (Some(_), _) => break,
            (None, 0) => return Ok(None),
            (None, _) => {}
        }
    }
    let (Some((comma, _)), Some((start, end))) = (durable(&json), text.found) else {
        return Ok(None);
    };
    json.truncate(comma);
    json.push(b'}');
    let whole = format!("{:08x} ", sum.finalize()).as_bytes() == &head[..HEAD];
    let json = String::from_utf8(json).ok().filter(|_| whole);
    Ok(json.map(|json| (json, Extent::File(Arc::clone(file), at + start..at + end))))
}

/// Where the inside of the reply is.
#[derive(Default)]
struct Text {
    at: u64,
    quote: bool,
    escape: bool,
    start: Option<u64>,
    found: Option<(u64, u64)>,
}

impl Text {
    /// Appends what is not inside of it to `json`.
    fn push(&mut self, byte: u8, json: &mut Vec<u8>) {
        let escaped = std::mem::take(&mut self.escape);
        self.escape = byte == b'\\' && !escaped;
        let ends = byte == b'"' && !escaped;
        self.quote ^= ends;
        if let Some(start) = self.start.take_if(|_| ends) {
            self.found = Some((start, self.at));
        }
        if self.start.is_none() {
            json.push(byte);
        }
        self.at += 1;
        // Within a text the quotes are escaped.
        if ends && self.quote && self.found.is_none() && json.ends_with(br#","reply":""#) {
            self.start = Some(self.at);
        }
    }
}
