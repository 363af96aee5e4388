//! Text that is not TOML, places, and input that is out to break the reader.

use super::{FULL, error, errors_of, good, lines_of, set_error, sources};
use crate::config::load::from_bytes;
use crate::limits;
use crate::testing::rounds;

#[test]
fn errors_of_syntax_name_line_and_column() {
    error("[http]\nlisten = \"a\nb\"", "2:12: the string has no closing quote");
    error("[http]\r\nlisten = \"a\r\n", "2:12: the string has no closing quote");
    error("a = '''\n\n", "1:5: the string has no closing quote");
    error("[http]\nlisten = a", "2:10: text needs quotes, like \"text\"");
    error("é = 1", "1:1: 'é' does not belong here");
    error("a\0 = 1", "1:2: '\\0' does not belong here");
    error("# a\0", "1:4: '\\0' does not belong here");
    error("a = \"\0\"", "1:5: a string cannot hold '\\0'; write it as an escape, like \\u0000");
    error(
        "a = \"\\d\"",
        "1:7: 'd' does not belong in a \\ escape; for a plain backslash write \\\\ or use '…' quotes",
    );
    error("a = \"\\uD800\"", "1:7: 0xd800 is not a Unicode character");
    error(
        "[http]\nlisten = 127.0.0.1:8642",
        "2:15: expected newline, found a period; text goes in quotes",
    );
    let number =
        "not a number; text goes in quotes, a time like \"10m\" and a size like \"1MiB\" too";
    error("a = 10m", &format!("1:5: {number}"));
    error("a = 9223372036854775808", &format!("1:5: {number}"));
    error("a = 2026-01-01", &format!("1:5: {number}"));
    error("a 1", "1:3: expected an equals, found an identifier");
    error("[http\n", "1:6: expected a right bracket, found a newline");
    error("a = [1,", "1:8: the file ends where a value should stand");
    error(
        "[http]\nlisten = \"a\"\n\"listen\" = \"b\"",
        "3:1: \"listen\" is set twice, first in line 2; remove one, or join them",
    );
    error(
        "[http]\n[log]\n[http]\n",
        "3:1: \"http\" is set twice, first in line 1; remove one, or join them",
    );
    error("[[a.b]]\n[[a]]\n", "2:1: a section cannot also be a list; write it as [name]");
    error("a = 1\na.b = 2", "2:1: this key continues one that has a value already, in line 1");
    error("\"\"\"a\"\"\" = 1", "1:1: a key cannot have several lines");
}

#[test]
fn bytes_that_are_no_text() {
    let byte = "byte 0xff is not UTF-8; save the file as UTF-8";
    assert_eq!(errors_of(b"# \xc3\xa9\n# \xc3\xa9 \xff", &[]), [format!("2:5: {byte}")]);
    assert_eq!(errors_of(b"\xff\xfea", &[]), [format!("1:1: {byte}")]);
    // UTF-16 without anything above ASCII is text with NULs.
    assert_eq!(errors_of(b"a\0=\0", &[]), ["1:2: '\\0' does not belong here"]);
}

#[test]
fn marks_and_line_ends_of_other_systems() {
    let windows = "\u{feff}".to_owned() + &FULL.replace('\n', "\r\n");
    assert_eq!(good(&windows, &[]).config, good(FULL, &[]).config);
    error("\u{feff}a = ", "1:5: the file ends where a value should stand");
    error(
        "[http]\r\nlisten = 1.\r\n",
        "2:12: not a number; text goes in quotes, a time like \"10m\" and a size like \"1MiB\" too",
    );
}

#[test]
fn places_of_strings_in_every_quote() {
    let fault =
        "http.listen is \"x\"; it must be an IP address and a port, like \"127.0.0.1:8642\"";
    for text in ["\"x\"", "'x'", "\"\"\"x\"\"\"", "\"\\u0078\""] {
        error(&format!("[http]\nlisten =  {text}"), &format!("2:11: {fault}"));
    }
    // A line break behind three quotes is no part of the text.
    for text in ["'''\nx'''", "\"\"\"\r\nx\"\"\""] {
        error(&format!("[http]\nlisten =  {text}"), &format!("3:1: {fault}"));
    }
    error("[http]\nlisten =  \"\"", &format!("2:11: {}", fault.replace("\"x\"", "\"\"")));
    error(
        "[http]\nallowed_hosts = [ # \"\n\"\"]",
        "3:1: http.allowed_hosts has \"\"; it must be a host name or an IP address without scheme, \
         port, path, brackets or wildcard, like \"gateway.example.org\" or \"::1\"",
    );
}

#[test]
fn deep_nesting_is_rejected() {
    for (before, deep, line) in [("x = ", "[", 1), ("x = ", "{a=", 1), ("", "[", 1), ("", "a.", 1)]
    {
        let text = before.to_owned() + &deep.repeat(100_000);
        let lines = errors_of(text.as_bytes(), &[]);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with(&format!("{line}:")), "{lines:?}");
    }
    let text = format!("x = {}", "[".repeat(100_000));
    assert_eq!(errors_of(text.as_bytes(), &[]), ["1:133: nested too deeply"]);
    set_error(
        &format!("agent.command={}", "[".repeat(100_000)),
        &format!(
            "--set agent.command={}…: agent.command must be written \
             like [\"my-agent\", \"--flag\"]; got text that is not TOML",
            "[".repeat(limits::MAX_SHOWN_VALUE - "agent.command=".len())
        ),
    );
}

/// Every prefix, and changed bytes (each third one, or under `tests/run --full` all): each either loads or has an error with
/// a place, and what loads can be rendered and loaded again.
#[test]
fn no_input_brings_it_down() {
    let load = |bytes: &[u8]| match from_bytes(Some(bytes), &sources(&[])) {
        Ok(loaded) => {
            let rendered = loaded.render();
            assert!(from_bytes(Some(rendered.as_bytes()), &sources(&[])).is_ok(), "{rendered}");
        }
        Err(error) => {
            for line in lines_of(&error) {
                assert!(line.starts_with("/etc/coder.toml:"), "{line}");
                assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
    };
    let sample = FULL.as_bytes();
    for end in 0..sample.len() {
        load(&sample[..end]);
        load(&sample[end..]);
    }
    let mut bytes = sample.to_vec();
    for at in (0..bytes.len()).step_by(rounds(3, 1)) {
        let kept = bytes[at];
        for other in [0, b'\n', b'\r', b'"', b'\'', b'[', b']', b'{', b'.', b'=', b'#', b'\\', 0xff]
        {
            bytes[at] = other;
            load(&bytes);
        }
        for bit in 0..8 {
            bytes[at] = kept ^ (1 << bit);
            load(&bytes);
        }
        bytes[at] = kept;
    }
    for argument in ["http.listen=", "agent.env.A=", "agent.command=", "limits.max_body="] {
        for end in 0..sample.len() {
            let Ok(text) = std::str::from_utf8(&sample[end..]) else {
                continue;
            };
            let value: String = text.chars().take(40).collect();
            let argument = argument.to_owned() + &value;
            drop(from_bytes(None, &sources(&[&argument])));
        }
    }
}
