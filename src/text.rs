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
    serde_json::to_string(text).unwrap_or_default()
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
}
