//! The corpus of raw bytes (tests/http-corpus), held whole, byte by byte and cut in two.

use std::sync::Arc;
use std::thread;

use super::super::{Closed, Connection, Request, Response, ShutdownFlag};
use super::fake::Fake;
use super::test_limits;
use crate::config::Limits;
use crate::testing::full;

#[path = "../../../tests/http-corpus/read.rs"]
pub mod read;

use read::{Answer, Case, End};

/// What is sent after a case, to see whether it is answered.
const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n";
const PROBED: &str = "GET probe /probe";

/// What came of a case: the answers, how it ended, and all that was written but for dates and
/// interim answers, which depend on when a body comes.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    answers: Vec<Answer>,
    end: End,
    written: String,
}

fn run(case: &Case, pieces: &[&[u8]]) -> Outcome {
    let mut pieces = pieces.to_vec();
    if case.end != End::Eof {
        pieces.push(PROBE);
    }
    let fake = Fake::new(&pieces);
    let log = Arc::clone(&fake.log);
    let limits = Limits { max_body: read::CAP, ..test_limits() };
    let mut connection =
        Connection::new(Box::new(fake), limits, Arc::<ShutdownFlag>::default()).unwrap();
    let mut answers = Vec::new();
    if let Err(closed) = serve(&mut connection, &mut answers) {
        let Closed::Refused(refusal) = closed else { panic!("{}: {closed}", case.name) };
        answers.push(Answer { status: refusal.status, seen: String::new() });
    }
    let probed = answers.last().is_some_and(|last| last.seen == PROBED);
    let end = match case.end {
        End::Eof => End::Eof,
        End::Open | End::Closed if probed => {
            answers.pop();
            End::Open
        }
        End::Open | End::Closed => End::Closed,
    };
    let written = String::from_utf8(log.lock().unwrap().written.clone()).unwrap();
    let written = written.replace("HTTP/1.1 100 Continue\r\n\r\n", "");
    let lines = written.split_inclusive('\n').filter(|line| !line.starts_with("Date: "));
    Outcome { answers, end, written: lines.collect() }
}

fn serve(connection: &mut Connection, answers: &mut Vec<Answer>) -> Result<(), Closed> {
    while let Some(request) = connection.next_request()? {
        let body = connection.read_body(&request, usize::MAX)?;
        let seen = seen(&request, &body);
        answers.push(Answer { status: 200, seen });
        connection.respond(&request, Response::text(200, "fine"))?;
    }
    Ok(())
}

/// The method as it was sent.
pub fn method(request: &Request) -> &str {
    word(request, 0)
}

/// The target as it was sent.
pub fn target(request: &Request) -> &str {
    word(request, 1)
}

fn word(request: &Request, number: usize) -> &str {
    let line = request.head.strip_prefix(b"\r\n").unwrap_or(&request.head);
    let word = line.split(|&byte| byte == b' ').nth(number).unwrap_or_default();
    std::str::from_utf8(word).unwrap()
}

fn seen(request: &Request, body: &[u8]) -> String {
    read::seen(
        method(request),
        request.host.as_deref(),
        &request.path,
        request.query.as_deref(),
        body,
    )
}

/// Where a case is cut in two: where something happens (in line ends, at both ends, and around the sizes
/// of our buffers) and at every 97th byte; under `tests/run --full` everywhere.
fn cuts(bytes: &[u8]) -> Vec<usize> {
    let all = 1..bytes.len();
    if full() {
        return all.collect();
    }
    let near = |at: usize, of: usize| at.abs_diff(of) <= 3;
    let line_end = |at: usize| bytes[at.saturating_sub(2)..=at].contains(&b'\r');
    all.filter(|&at| {
        at < 8 || near(at, bytes.len()) || at % 97 == 0 || near(at % 1024, 0) || line_end(at)
    })
    .collect()
}

/// What is wrong with a case.
fn faults(case: &Case) -> Vec<String> {
    let whole = run(case, &[&case.bytes]);
    let mut faults = Vec::new();
    if whole.answers != case.answers || whole.end != case.end {
        let (answers, end) = (&whole.answers, whole.end);
        faults.push(format!("{}: {answers:?}, then {end:?}", case.name));
    }
    if run(case, &case.bytes.chunks(1).collect::<Vec<_>>()) != whole {
        faults.push(format!("{}: differs byte by byte", case.name));
    }
    let differs = |&at: &usize| {
        let (head, tail) = case.bytes.split_at(at);
        run(case, &[head, tail]) != whole
    };
    if let Some(at) = cuts(&case.bytes).into_iter().find(differs) {
        faults.push(format!("{}: differs when cut at {at}", case.name));
    }
    faults
}

#[test]
fn the_corpus_holds_however_it_is_cut() {
    let cases = read::all();
    assert!(cases.len() > 1000, "{} cases", cases.len());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let faults: Vec<String> = thread::scope(|scope| {
        let work = |worker: usize| {
            let mine = cases.iter().skip(worker).step_by(workers);
            scope.spawn(move || mine.flat_map(faults).collect::<Vec<_>>())
        };
        let handles: Vec<_> = (0..workers).map(work).collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    });
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_case_has_a_name_of_its_own() {
    let cases = read::all();
    let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    let before = names.len();
    names.dedup();
    assert_eq!(names.len(), before);
}
