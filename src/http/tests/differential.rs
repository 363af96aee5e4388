//! Whatever we accept, others frame in the same way: `httparse` with a plain reader on top, and
//! Python's h11. They may refuse more than we do, for reasons that are listed; never read otherwise.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use super::super::request::{Request, Version};
use super::super::{Connection, Response, ShutdownFlag};
use super::corpus;
use super::fake::Fake;
use super::mutations::{SEED, damage};
use super::test_limits;
use crate::testing::{Random, rounds};

/// How a reader took a connection's bytes apart.
#[derive(Debug, PartialEq, Eq)]
struct Framed {
    messages: Vec<Message>,
    /// `more`, `closed`, or `error=` and why.
    end: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Message {
    method: Vec<u8>,
    target: Vec<u8>,
    version: Vec<u8>,
    /// Names in lower case; so are codings, which h11 tells in lower case.
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    /// Where the next message begins.
    end: usize,
}

fn field(name: &str, value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let name = name.to_ascii_lowercase().into_bytes();
    let is_coding = name == b"transfer-encoding";
    let value = if is_coding { value.to_ascii_lowercase() } else { value.to_vec() };
    (name, value)
}

// ------------------------------------------------------------------------ ours ----

fn ours(bytes: &[u8]) -> Vec<Message> {
    let fake = Fake::new(&[bytes]);
    let log = Arc::clone(&fake.log);
    let mut connection =
        Connection::new(Box::new(fake), test_limits(), Arc::<ShutdownFlag>::default()).unwrap();
    let mut messages = Vec::new();
    while let Ok(Some(request)) = connection.next_request() {
        let Ok(body) = connection.read_body(&request, usize::MAX) else { break };
        let end = log.lock().unwrap().given - connection.transport.data().len();
        messages.push(message(&request, body, end));
        connection.respond(&request, Response::text(200, "fine")).unwrap();
    }
    messages
}

fn message(request: &Request, body: Vec<u8>, end: usize) -> Message {
    let version = match request.version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
    };
    Message {
        method: corpus::method(request).into(),
        target: corpus::target(request).into(),
        version: version.into(),
        fields: request.headers().map(|(name, value)| field(name, value)).collect(),
        body,
        end,
    }
}

// -------------------------------------------------------------------- httparse ----

fn httparse(bytes: &[u8]) -> Framed {
    let mut messages = Vec::new();
    let mut at = 0;
    loop {
        match one_by_httparse(bytes, at) {
            Ok(message) => {
                at = message.end;
                messages.push(message);
            }
            Err(end) => return Framed { messages, end },
        }
    }
}

fn one_by_httparse(bytes: &[u8], at: usize) -> Result<Message, String> {
    let mut slots = [httparse::EMPTY_HEADER; 200];
    let mut head = httparse::Request::new(&mut slots);
    let length = complete(head.parse(&bytes[at..]))?;
    let fields: Vec<_> = head.headers.iter().map(|f| field(f.name, f.value)).collect();
    let value = |name: &[u8]| fields.iter().find(|(n, _)| n == name).map(|(_, value)| value);
    let (mut end, mut body) = (at + length, Vec::new());
    if value(b"transfer-encoding").is_some_and(|coding| coding.ends_with(b"chunked")) {
        end = chunks(bytes, end, &mut body)?;
    } else if let Some(length) = value(b"content-length") {
        let length = std::str::from_utf8(length).ok().and_then(|text| text.parse::<usize>().ok());
        let length = length.ok_or("error=length")?;
        body = part(bytes, end, length)?.to_vec();
        end += length;
    }
    Ok(Message {
        method: head.method.unwrap().into(),
        target: head.path.unwrap().into(),
        version: format!("1.{}", head.version.unwrap()).into_bytes(),
        fields,
        body,
        end,
    })
}

fn complete<T>(result: Result<httparse::Status<T>, impl ToString>) -> Result<T, String> {
    match result {
        Ok(httparse::Status::Complete(found)) => Ok(found),
        Ok(httparse::Status::Partial) => Err("more".to_owned()),
        Err(error) => Err(format!("error={}", error.to_string())),
    }
}

fn part(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], String> {
    bytes.get(at..at.saturating_add(length)).ok_or_else(|| "more".to_owned())
}

fn chunks(bytes: &[u8], mut at: usize, body: &mut Vec<u8>) -> Result<usize, String> {
    loop {
        let size = httparse::parse_chunk_size(&bytes[at..]).map_err(|_| "a chunk's size");
        let (line, size) = complete(size)?;
        at += line;
        if size == 0 {
            let mut slots = [httparse::EMPTY_HEADER; 3000];
            let (length, _) = complete(httparse::parse_headers(&bytes[at..], &mut slots))?;
            return Ok(at + length);
        }
        let size = usize::try_from(size).map_err(|_| "error=size")?;
        body.extend_from_slice(part(bytes, at, size)?);
        at += size;
        if part(bytes, at, 2)? != b"\r\n" {
            return Err("error=chunk".to_owned());
        }
        at += 2;
    }
}

// ------------------------------------------------------------------------- h11 ----

/// The Python that has h11, if there is one: `HERMES_H11` names it, tests/run makes it.
fn python() -> Option<PathBuf> {
    let python = match env::var_os("HERMES_H11") {
        Some(python) => PathBuf::from(python),
        None => {
            let program = env::current_exe().unwrap();
            program.ancestors().nth(3).unwrap().join("h11/bin/python")
        }
    };
    python.exists().then_some(python)
}

fn by_h11(python: &PathBuf, inputs: &[Vec<u8>]) -> Vec<Framed> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http-corpus/frames.py");
    let mut command = Command::new(python);
    let command = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let all: Vec<Framed> = thread::scope(|scope| {
        scope.spawn(move || {
            for input in inputs {
                let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(stdin, "{hex}").unwrap();
            }
        });
        lines.map(|line| framed(&line.unwrap())).collect()
    });
    assert!(child.wait().unwrap().success());
    all
}

fn framed(line: &str) -> Framed {
    let mut words: Vec<&str> = line.split(' ').collect();
    let end = words.pop().unwrap().to_owned();
    Framed { messages: words.into_iter().map(told).collect(), end }
}

fn told(word: &str) -> Message {
    let unhex = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    };
    let parts: Vec<&str> = word.split(':').collect();
    let [method, target, version, fields, body, end] = parts[..] else { panic!("{word}") };
    let fields = fields.split(',').filter_map(|field| field.split_once('='));
    Message {
        method: unhex(method),
        target: unhex(target),
        version: unhex(version),
        fields: fields.map(|(name, value)| (unhex(name), unhex(value))).collect(),
        body: unhex(body),
        end: end.parse().unwrap(),
    }
}

// ------------------------------------------------------------------- the tests ----

/// The corpus, and each of its cases damaged in some ways.
fn inputs() -> Vec<Vec<u8>> {
    let mut random = Random::new(SEED);
    let mut inputs = Vec::new();
    for case in corpus::read::all() {
        let rounds = if case.bytes.len() > 2048 { 1 } else { rounds(8, 24) };
        for round in 0..rounds {
            let mut bytes = case.bytes.clone();
            damage(&mut bytes, 1 + round % 3, &mut random);
            inputs.push(bytes);
        }
        inputs.push(case.bytes);
    }
    inputs
}

/// Holds ours against theirs: every message that both accept is the same, and where they stop
/// earlier, it is for one of these reasons. Each reason must occur.
#[track_caller]
fn compare(inputs: &[Vec<u8>], theirs: &[Framed], reasons: &[&str]) {
    assert_eq!(inputs.len(), theirs.len());
    let (mut wrong, mut alike) = (Vec::new(), 0);
    let mut used: BTreeMap<&str, usize> = reasons.iter().map(|reason| (*reason, 0)).collect();
    for (bytes, theirs) in inputs.iter().zip(theirs) {
        let ours = ours(bytes);
        let both = ours.len().min(theirs.messages.len());
        alike += both;
        if ours[..both] != theirs.messages[..both] {
            wrong.push(format!("{}\n  {ours:?}\n  {theirs:?}", corpus::read::escape(bytes)));
        } else if both < ours.len() {
            match reasons.iter().find(|reason| theirs.end.contains(**reason)) {
                Some(reason) => *used.entry(reason).or_default() += 1,
                None => wrong.push(format!("{}: {}", corpus::read::escape(bytes), theirs.end)),
            }
        }
    }
    assert!(wrong.is_empty(), "{} framed otherwise:\n{}", wrong.len(), wrong.join("\n"));
    assert!(alike > rounds(700, 2000), "only {alike} messages were compared");
    assert!(used.values().all(|count| *count > 0), "a reason that does not occur: {used:?}");
}

#[test]
#[ignore = "for `tests/run --full`: h11 shares no code with ours, httparse reads our heads too"]
fn httparse_frames_alike() {
    let inputs = inputs();
    let theirs: Vec<Framed> = inputs.iter().map(|bytes| httparse(bytes)).collect();
    compare(&inputs, &theirs, &[]);
}

#[test]
fn h11_frames_alike() {
    let Some(python) = python() else {
        let ci = env::var("CI").as_deref() == Ok("true");
        assert!(!ci, "there is no h11: tests/run installs it");
        // Not eprintln!, which the test runner swallows when the test passes.
        let line = b"SKIPPED: h11_frames_alike: there is no h11: tests/run installs it\n";
        return std::io::stderr().write_all(line).unwrap();
    };
    let inputs = inputs();
    let theirs = by_h11(&python, &inputs);
    // Why it refuses what we accept; refusing is no other framing.
    let reasons = [
        // It lets no empty line precede a request (RFC 9112 section 2.2 says SHOULD).
        "error=no_request_line_received",
        // It knows no persistence in HTTP/1.0.
        "closed",
        // It judges trailers as if they were header fields, a coding among them too.
        "error=Only_Transfer-Encoding:_chunked_is_supported",
        // It takes no more than 20 digits, leading zeros included.
        "error=bad_Content-Length",
    ];
    compare(&inputs, &theirs, &reasons);
}
