//! Text that outsiders had a hand in, made safe for logs and terminals. Pure.
#![forbid(unsafe_code)]

use crate::limits::MAX_STDERR_TAIL;

/// `text` with every control character written as `\u{…}` (line feed, escape sequences, the C1
/// range, bidirectional overrides), so that it can neither break a line nor move a cursor.
/// What is escaped already stays as it is. `one_word`: spaces, quotes and `=` too, for `key=value` lines.
pub fn escaped(text: &str, one_word: bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let acts = c.is_control()
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        let splits = one_word && (c == ' ' || c == '"' || c == '=');
        if acts || splits {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// What a program said, on one line: its lines that are not empty.
pub fn one_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" / ")
}

/// Words with the end of what a program said.
pub fn quoting(words: &str, said: &[u8]) -> String {
    let end = &said[said.len().saturating_sub(MAX_STDERR_TAIL)..];
    let said = one_line(end);
    let colon = if said.is_empty() { "" } else { ": " };
    escaped(&format!("{words}{colon}{said}"), false)
}

/// `text` as a JSON string, quotes included.
pub fn quoted(text: &str) -> String {
    let mut json = String::new();
    quote(&mut json, text);
    json
}

/// Appends `text` as a JSON string; takes memory once, and no more than that needs.
pub fn quote(json: &mut String, text: &str) {
    let escape = |c: char| match c {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\u{8}' => "\\b",
        '\u{c}' => "\\f",
        _ => "\\u00",
    };
    let acts = |c: char| c < ' ' || c == '"' || c == '\\';
    let more: usize = text.chars().filter(|c| acts(*c)).map(|c| 2 * escape(c).len() - 3).sum();
    json.reserve_exact(text.len() + more + 2);
    json.push('"');
    for piece in text.split_inclusive(acts) {
        let plain = piece.trim_end_matches(acts);
        json.push_str(plain);
        if let Some(c) = piece[plain.len()..].chars().next() {
            json.push_str(escape(c));
            if escape(c).len() > 2 {
                json.push_str(&format!("{:02x}", u32::from(c)));
            }
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_gets_through() {
        assert_eq!(escaped("plain ä text", false), "plain ä text");
        assert_eq!(escaped("a\nb\x1b[2J\u{9b}", false), "a\\u{a}b\\u{1b}[2J\\u{9b}");
        assert_eq!(escaped("x verdict=planned", true), "x\\u{20}verdict\\u{3d}planned");
        let once = escaped("a\nb", false);
        assert_eq!(escaped(&once, false), once);
        assert_eq!(escaped("\u{202e}", false), "\\u{202e}");
    }

    #[test]
    fn a_text_as_json_is_read_back_as_it_was_and_fits_its_memory() {
        let all: String = (0..0x300).filter_map(char::from_u32).collect();
        for text in [all.as_str(), "", "\"", "\\\\\n\n\u{1}\u{1f}", "a\"b"] {
            let json = quoted(text);
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
            assert_eq!(
                (json.capacity(), &json),
                (json.len(), &serde_json::Value::from(text).to_string())
            );
        }
    }
}
