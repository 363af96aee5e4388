//! Text that outsiders had a hand in, made safe for logs and terminals. Pure.

use std::{fmt::Display, path::Path};

use crate::limits::MAX_STDERR_TAIL;
use crate::sys::gather::Gather;

/// `text` with every control character written as `\u{…}` (line feed, escape sequences, the C1
/// range, bidirectional overrides), so that it can neither break a line nor move a cursor.
/// What is escaped already stays as it is. `one_word`: spaces, quotes and `=` too, for `key=value` lines.
pub fn escaped(text: &str, one_word: bool) -> String {
    if !one_word && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return text.to_owned();
    }
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

/// The last line of what a program said that is no frame of a traceback (those are indented), with file
/// names in place of absolute paths: a client's business is what went wrong, and not where.
pub fn last_line(said: &[u8]) -> String {
    const ENDS: &[char] =
        &[' ', '\t', '"', '\'', '`', '(', ')', '[', ']', '<', '>', ',', ';', ':', '='];
    let text = String::from_utf8_lossy(said);
    let lines = || text.lines().rev().filter(|line| !line.trim().is_empty());
    let frame = |line: &str| line.starts_with([' ', '\t']) || line.starts_with("Node.js v");
    let line = lines().find(|line| !frame(line) && !line.starts_with("note: "));
    let line = line.or_else(|| lines().next()).unwrap_or_default();
    let named = |word: &'_ str| {
        let absolute =
            word.starts_with('/') && (!word.starts_with("//") || word.starts_with("///"));
        let path = word.trim_end_matches(ENDS).trim_end_matches('/');
        let name = path.rfind('/').filter(|_| absolute || word.starts_with("~/"));
        word[name.map_or(0, |slash| slash + 1)..].to_owned()
    };
    line.trim().split_inclusive(ENDS).map(named).gather().concat()
}

/// At most so many characters of a text.
pub fn first_chars(text: &str, most: usize) -> String {
    let end = text.char_indices().nth(most).map_or(text.len(), |(at, _)| at);
    text[..end].to_owned()
}

/// What a program said, on one line: its lines that are not empty.
pub fn one_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    text.lines().map(str::trim).filter(|l| !l.is_empty()).gather().join(" / ")
}

/// Words with the last line of what a program said.
pub fn quoting(words: &str, said: &[u8]) -> String {
    let said = last_line(&said[said.len().saturating_sub(MAX_STDERR_TAIL)..]);
    let colon = if said.is_empty() { "" } else { ": " };
    escaped(&format!("{words}{colon}{said}"), false)
}

/// `1 message`, `2 messages`.
pub fn counted(count: &dyn Display, noun: &str) -> String {
    let count = count.to_string();
    let ending = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// The bytes of a text with those as %XX that are not `plain`, which ASCII alone may be.
pub fn percent_encoded(text: &[u8], plain: &dyn Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text {
        match plain(byte) {
            true => out.push(char::from(byte)),
            false => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// `text` as a JSON string, quotes included.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// A path as one word for a shell, safe to print.
pub fn shell_word(path: &Path) -> String {
    let text = escaped(&path.display().to_string(), false);
    let plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        assert_eq!(shell_word(Path::new("/a b/it's")), r"'/a b/it'\''s'");
        assert_eq!(shell_word(Path::new("/a/b.toml")), "/a/b.toml");
    }

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
    fn of_a_traceback_the_last_line_is_told_without_paths() {
        let python = "Traceback (most recent call last):\n  File \"/srv/op/agent.py\", line 3, in \
                      <module>\n    open('/srv/op/x')\nFileNotFoundError: [Errno 2] No such file: \
                      '/srv/op/.secret/x.db'\n\n";
        let node = "/srv/app/x.js:3\nthrow new Error('boom')\n^\n\nError: boom\n    at \
                    Object.<anonymous> (/srv/app/x.js:3:7)\n\nNode.js v22.1.0\n";
        let rust =
            "thread 'main' panicked at src/main.rs:2:5:\nboom\nnote: run with RUST_BACKTRACE=1\n";
        for (said, told) in [
            (python, "FileNotFoundError: [Errno 2] No such file: 'x.db'"),
            (node, "Error: boom"),
            (rust, "boom"),
            ("", ""),
            ("\n \n", ""),
            ("  indented /a/b alone\n", "indented b alone"),
            (
                "cannot open ~/.config/x/y.toml: /etc/z/ is a directory",
                "cannot open y.toml: z/ is a directory",
            ),
            (
                "see https://a.example/b/c and/or file:///srv/op/x 1/2 /",
                "see https://a.example/b/c and/or file:x 1/2 /",
            ),
            ("key=/run/secrets/k,(/a/b.c:3)", "key=k,(b.c:3)"),
        ] {
            assert_eq!(last_line(said.as_bytes()), told);
        }
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(&1, "connection"), "1 connection");
        assert_eq!(counted(&0, "turn") + &counted(&11, "turn"), "0 turns11 turns");
    }
}
