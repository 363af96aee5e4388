//! Server-sent events (WHATWG HTML, section 9.2): their text, written and read. Pure.

use memchr::memchr2;

use super::{Refusal, bad};
use crate::limits::{MAX_CHUNK, MAX_EVENT};

/// One event. Line ends in `data` (LF, CR LF, CR) come out as LF on the other side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `event:`; empty means `message`.
    pub name: String,
    /// `id:`; empty when none was given with this event.
    pub id: String,
    pub data: String,
}

/// Appends an event with `data` and neither name nor id.
pub fn write_data(out: &mut Vec<u8>, data: &str) {
    write_lines(out, "data: ", data);
    out.push(b'\n');
}

/// Appends an event with a name and, where it is not empty, an id. Neither has line ends in it.
pub fn write_event(out: &mut Vec<u8>, name: &str, id: &str, data: &str) {
    write_lines(out, "event: ", name);
    if !id.is_empty() {
        write_lines(out, "id: ", id);
    }
    write_data(out, data);
}

fn write_lines(out: &mut Vec<u8>, prefix: &str, text: &str) {
    let mut rest = text;
    loop {
        let end = memchr2(b'\r', b'\n', rest.as_bytes()).unwrap_or(rest.len());
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(&rest.as_bytes()[..end]);
        out.push(b'\n');
        let Some(after) = rest.get(end..).filter(|after| !after.is_empty()) else { return };
        rest = after.strip_prefix("\r\n").unwrap_or(&after[1..]);
    }
}

/// A text in chunks that clients take for one event.
pub fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (chunk, after) = rest.split_at(rest.floor_char_boundary(MAX_CHUNK));
        rest = after;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Puts events together from bytes as they come.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
    /// The byte before was a CR, so an LF now belongs to it.
    after_cr: bool,
    has_data: bool,
    event: Event,
}

impl Reader {
    /// Reads `bytes` up to the end of the first event in them. Returns how many were used.
    ///
    /// # Errors
    /// An event longer than [`MAX_EVENT`]: the reader is of no use any more.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(usize, Option<Event>), Refusal> {
        for (at, &byte) in bytes.iter().enumerate() {
            let belongs_to_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if belongs_to_cr => {}
                b'\r' | b'\n' => {
                    if let Some(event) = self.end_line() {
                        return Ok((at + 1, Some(event)));
                    }
                }
                _ if self.line.len() + self.event.data.len() >= MAX_EVENT => {
                    return bad("an event is too long");
                }
                _ => self.line.push(byte),
            }
        }
        Ok((bytes.len(), None))
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                self.event.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.event.name),
            "id" => value.clone_into(&mut self.event.id),
            // Comments (an empty field name), `retry` and what the format does not know.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8]) -> Vec<Event> {
        let (mut reader, mut events, mut rest) = (Reader::default(), Vec::new(), bytes);
        while !rest.is_empty() {
            let (used, event) = reader.read(rest).unwrap();
            events.extend(event);
            rest = &rest[used..];
        }
        events
    }

    #[test]
    fn line_ends_in_data_become_lines() {
        let mut out = Vec::new();
        write_data(&mut out, "a\nb\r\nc\rd\n");
        assert_eq!(out, b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n");
        assert_eq!(read_all(&out)[0].data, "a\nb\nc\nd\n");
    }

    #[test]
    fn empty_data_is_an_event_too() {
        let mut out = Vec::new();
        write_data(&mut out, "");
        assert_eq!(out, b"data: \n\n");
        assert_eq!(read_all(&out), [Event::default()]);
    }

    #[test]
    fn events_are_read_with_any_line_end_however_split() {
        let text = b"event: e\r\ndata: a\rdata:b\n\r\n: c\n\ndata: \xc3\xa4\n\n";
        let whole = read_all(text);
        assert_eq!(whole.len(), 2);
        assert_eq!((whole[0].name.as_str(), whole[0].data.as_str()), ("e", "a\nb"));
        for split in 0..text.len() {
            let mut reader = Reader::default();
            let mut events = Vec::new();
            for mut part in [&text[..split], &text[split..]] {
                while !part.is_empty() {
                    let (used, event) = reader.read(part).unwrap();
                    events.extend(event);
                    part = &part[used..];
                }
            }
            assert_eq!(events, whole, "split at {split}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let line = format!("data: {}\n", "x".repeat(1000));
        let mut reader = Reader::default();
        let verdict = (0..2000).find_map(|_| reader.read(line.as_bytes()).err());
        assert!(verdict.is_some_and(|refusal| refusal.reason.contains("too long")));
    }
}
