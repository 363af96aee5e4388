//! A record with a long text, read without that: it stays in the file, and is sent from there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::framing::{CRC, HEAD, durable, hexadecimal};
use crate::limits::{JOURNAL_BUFFER, LONG_RECORD};
use crate::stored_text::StoredText;

/// The JSON of record `wanted`, with nothing in its reply, and what is in that. `from` and `end` are
/// places that follow each other in the index: less than a step is before a long record and behind it.
/// `None`: it is not there, corrupt, or has no reply, as a read of the whole finds out, for which `room`
/// is asked first unless the record is short.
pub fn read(
    file: &Arc<File>,
    (from, end): (u64, u64),
    wanted: u64,
    room: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<Option<(String, StoredText)>> {
    if end - from < LONG_RECORD {
        return Ok(None);
    }
    let number = format!(" {wanted} {{");
    let (mut head, mut tail) = (vec![0; JOURNAL_BUFFER], vec![0; JOURNAL_BUFFER]);
    file.read_exact_at(&mut head, from)?;
    let tail_at = end - JOURNAL_BUFFER as u64;
    file.read_exact_at(&mut tail, tail_at)?;
    let mut starts = (0..head.len()).filter(|at| *at == 0 || head[at - 1] == b'\n');
    let is_it = |line: &[u8]| line.starts_with(number.as_bytes());
    let start = starts.find(|at| head.get(at + HEAD - 1..).is_some_and(is_it));
    if start.is_some_and(|start| head[start..].contains(&b'\n')) {
        return Ok(None);
    }
    let found = || {
        let start = start?;
        // Quotes within a text are escaped: there is only one such place.
        let begin = start + place(&head[start..], br#","reply":""#)? + br#","reply":""#.len();
        let line = place(&tail, b"\n")?;
        let json = &tail[..line];
        let (comma, _) = durable(json)?;
        let ends = place(json, br#"","report":""#).unwrap_or(comma - 1);
        let json = [&head[start + HEAD + number.len() - 2..begin], &json[ends..comma], b"}"];
        let text = from + begin as u64..tail_at + ends as u64;
        let body = from + (start + HEAD) as u64..tail_at + line as u64;
        Some((start, String::from_utf8(json.concat()).ok()?, text, body))
    };
    let Some((start, json, text, body)) = found() else { return room(end - from).map(|()| None) };
    let body = StoredText::File(Arc::clone(file), body);
    let (mut sum, mut quotes, mut escape) = (CRC.digest(), 0, false);
    body.chunks(JOURNAL_BUFFER, &mut |piece| {
        sum.update(piece);
        quotes += count_quotes(piece, &mut escape);
        Ok(())
    })?;
    // A report so long that it was not seen has more than those of the journal's own member.
    let around = count_quotes(json.as_bytes(), &mut false);
    let whole = hexadecimal(sum.finalize()) == head[start..start + HEAD - 1];
    if whole && quotes == around + 2 {
        return Ok(Some((json, StoredText::File(Arc::clone(file), text))));
    }
    room(end - from).map(|()| None)
}

/// Counts the quotes that are not escaped. `escape`: whether the byte before these escapes the first.
fn count_quotes(bytes: &[u8], escape: &mut bool) -> usize {
    let is_plain_quote = |byte: &&u8| {
        let escaped = std::mem::take(escape);
        *escape = **byte == b'\\' && !escaped;
        **byte == b'"' && !escaped
    };
    bytes.iter().filter(is_plain_quote).count()
}

fn place(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
