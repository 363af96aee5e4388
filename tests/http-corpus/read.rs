//! The corpus of raw bytes, read: requests that a server is sent, and what it has to make of them.
//!
//! A case in the files beside this one:
//!
//! ```text
//! == its name
//! rfc 9112 3.2                       where it is said
//! > GET /a%20b?c HTTP/1.1\r\n        what is sent, line by line
//! > Host: localhost\r\n\r\n
//! < 200 GET localhost /a\x20b?c     what is answered, in order: to a request that is accepted 200
//! < 400                              with what the server has read, to others their status
//! = closed                           how it ends: open (another request is answered), closed,
//!                                    or eof (the client ends its side, so the server does too)
//! ```
//!
//! What was read is `METHOD HOST PATH[?QUERY][ BODY]`: the host `-` where there is none, the path
//! decoded. Escapes are `\r`, `\n`, `\t`, `\0`, `\\`, `\xHH`, and `\{N*c}` for N times c. In what is
//! sent, `$GET` and `$POST` stand for the first lines of a request that a gateway accepts, `$POST10`
//! for the same in HTTP/1.0, `$KEY` for its key.

// Each program that reads the corpus uses its own part of this.
#![allow(dead_code)]

/// The key that `$KEY` stands for.
pub const KEY: &str = "c0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ff";

/// The largest body that the corpus expects to be accepted.
pub const CAP: usize = 1024;

/// The files, in the order in which they are read.
const FILES: &[(&str, &str)] = &[
    ("request-lines", include_str!("request-lines.txt")),
    ("targets", include_str!("targets.txt")),
    ("fields", include_str!("fields.txt")),
    ("content-length", include_str!("content-length.txt")),
    ("transfer-encoding", include_str!("transfer-encoding.txt")),
    ("chunks", include_str!("chunks.txt")),
    ("connections", include_str!("connections.txt")),
    ("smuggling", include_str!("smuggling.txt")),
    ("clients", include_str!("clients.txt")),
];

#[derive(Clone, Debug)]
pub struct Case {
    /// Its file and name.
    pub name: String,
    pub bytes: Vec<u8>,
    pub answers: Vec<Answer>,
    pub end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// What was read, in the corpus' own words; empty for what is refused.
    pub seen: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Open,
    Closed,
    Eof,
}

/// Every case.
pub fn all() -> Vec<Case> {
    FILES.iter().flat_map(|(file, text)| read(file, text)).collect()
}

fn read(file: &str, text: &str) -> Vec<Case> {
    text.split("\n== ").skip(1).map(|case| read_case(file, case)).collect()
}

fn read_case(file: &str, text: &str) -> Case {
    let mut lines = text.lines();
    let name = format!("{file}: {}", lines.next().unwrap_or_default());
    let (mut bytes, mut answers, mut end, mut rfc) = (Vec::new(), Vec::new(), None, false);
    for line in lines.filter(|line| !line.is_empty()) {
        match line.split_once(' ') {
            Some(("rfc", _)) => rfc = true,
            Some((">", sent)) => bytes.extend(unescape(&expand(sent))),
            Some(("<", answer)) => {
                let (status, seen) = answer.split_once(' ').unwrap_or((answer, ""));
                let status = status.parse().unwrap_or_else(|_| panic!("{name}: {line}"));
                answers.push(Answer { status, seen: seen.to_owned() });
            }
            Some(("=", "open")) => end = Some(End::Open),
            Some(("=", "closed")) => end = Some(End::Closed),
            Some(("=", "eof")) => end = Some(End::Eof),
            Some(_) | None => panic!("{name}: {line:?}"),
        }
    }
    assert!(rfc, "{name}: where is it said?");
    let end = end.unwrap_or_else(|| panic!("{name}: how does it end?"));
    Case { name, bytes, answers, end }
}

fn expand(sent: &str) -> String {
    let post = |version: &str| {
        format!(
            "POST /v1/chat/completions HTTP/{version}\\r\\nHost: localhost\\r\\n\
             Authorization: Bearer {KEY}\\r\\nContent-Type: application/json\\r\\n"
        )
    };
    sent.replace("$GET", "GET / HTTP/1.1\\r\\nHost: localhost\\r\\n")
        .replace("$POST10", &post("1.0"))
        .replace("$POST", &post("1.1"))
        .replace("$KEY", KEY)
}

/// The bytes that a text with escapes stands for.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        assert!(first.is_ascii(), "beyond ASCII: {text}");
        rest = &rest[1..];
        if first != '\\' {
            bytes.push(first as u8);
            continue;
        }
        let kind = rest.chars().next().unwrap_or_else(|| panic!("half an escape: {text}"));
        rest = &rest[1..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let byte = u8::from_str_radix(&rest[..2], 16);
                bytes.push(byte.unwrap_or_else(|_| panic!("no hex: {text}")));
                rest = &rest[2..];
            }
            '{' => {
                let (inside, after) = rest.split_once('}').expect("a closing brace");
                let (count, byte) = inside.split_once('*').expect("N*c");
                let count: usize = count.parse().expect("a number");
                bytes.extend(unescape(byte).repeat(count));
                rest = after;
            }
            _ => panic!("no escape: \\{kind} in {text}"),
        }
    }
    bytes
}

/// Bytes in the corpus' own words: nothing but visible ASCII, long runs told by their length.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = bytes;
    while let Some(&byte) = rest.first() {
        let run = rest.iter().take_while(|&&b| b == byte).count();
        let one = match byte {
            b'\r' => "\\r".to_owned(),
            b'\n' => "\\n".to_owned(),
            b'\t' => "\\t".to_owned(),
            0 => "\\0".to_owned(),
            b'\\' => "\\\\".to_owned(),
            0x21..=0x7e => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        };
        let count = if run >= 32 { run } else { 1 };
        if count > 1 {
            text += &format!("\\{{{run}*{one}}}");
        } else {
            text += &one;
        }
        rest = &rest[count..];
    }
    text
}

/// What a server has read, in the corpus' own words.
pub fn seen(
    method: &str,
    host: Option<&str>,
    path: &str,
    query: Option<&str>,
    body: &[u8],
) -> String {
    // A question mark of the path's own is told from the one before the query.
    let path = escape(path.as_bytes()).replace('?', "\\x3f");
    let query = query.map(|q| format!("?{}", escape(q.as_bytes()))).unwrap_or_default();
    let body = if body.is_empty() { String::new() } else { format!(" {}", escape(body)) };
    let (method, host) = (escape(method.as_bytes()), host.unwrap_or("-"));
    format!("{method} {} {path}{query}{body}", escape(host.as_bytes()))
}
