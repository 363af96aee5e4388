//! The corpus of raw bytes (tests/http-corpus) against the real program over TCP, each case sent
//! whole and byte by byte. The unit tests of src/http cut each case everywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../http-corpus/read.rs"]
mod read;
use crate::util;

use std::net::SocketAddr;
use std::thread;

use read::{Answer, Case, End};
use util::http::{Connection, Response, request};
use util::{Gateway, Home};

/// Whether the gateway understood the request: it says something of its own, if only that a key is
/// missing. What its HTTP server refuses has no code and ends the connection.
fn is_accepted(response: &Response, has_body: bool) -> bool {
    match response.status() {
        200 | 204 | 401 | 403 | 404 | 405 | 421 | 429 => true,
        400 | 415 => has_body && response.json()["error"]["code"].is_string(),
        _ => false,
    }
}

/// The next answer, without those that only say to go on.
fn next(connection: &mut Connection, has_body: bool) -> Response {
    loop {
        let response = if has_body {
            connection.response()
        } else {
            Response { head: connection.head(), body: Vec::new() }
        };
        if response.status() >= 200 {
            return response;
        }
    }
}

/// Sends a case in these pieces; says what differs from what the corpus expects.
fn fault(address: SocketAddr, case: &Case, pieces: &[&[u8]]) -> Option<String> {
    let mut connection = Connection::tcp(address);
    // What is refused early is not read to its end.
    let _ = pieces.iter().all(|piece| connection.offer(piece));
    if case.end == End::Eof {
        connection.finish_sending();
    }
    for (number, Answer { status, seen }) in case.answers.iter().enumerate() {
        let has_body = !seen.starts_with("HEAD ");
        let response = next(&mut connection, has_body);
        let as_expected = if *status == 200 {
            is_accepted(&response, has_body)
        } else {
            response.status() == *status && response.json()["error"]["code"].is_null()
        };
        if !as_expected {
            return Some(format!("answer {number} is {:?}, {}", response.head, response.text()));
        }
    }
    if case.end == End::Open {
        connection.send(&request("GET", "/health", &[], b""));
        let status = connection.response().status();
        return (status != 200).then(|| format!("the next request gets {status}"));
    }
    let rest = connection.until_close();
    (!rest.is_empty()).then(|| format!("more came: {}", String::from_utf8_lossy(&rest)))
}

#[test]
fn the_corpus_holds_over_tcp() {
    let home = Home::new();
    home.configure(&format!("[limits]\nmax_body = \"{}KiB\"\n", read::CAP / 1024));
    let gateway: Gateway = home.start();
    let (address, key) = (gateway.address(), home.api_key());
    let mut cases = read::all();
    for case in &mut cases {
        case.bytes = with_key(&case.bytes, key.as_bytes());
    }
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let work = |worker: usize| {
        let mut faults = Vec::new();
        for case in cases.iter().skip(worker).step_by(workers) {
            let single: Vec<&[u8]> = case.bytes.chunks(1).collect();
            for (how, pieces) in [("whole", vec![case.bytes.as_slice()]), ("in bytes", single)] {
                let fault = fault(address, case, &pieces);
                faults.extend(fault.map(|fault| format!("{} ({how}): {fault}", case.name)));
            }
        }
        faults
    };
    let faults: Vec<String> = thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = (0..workers).map(|w| scope.spawn(move || work(w))).collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    });
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

/// The bytes with the gateway's key, which is as long, in place of the corpus' own.
fn with_key(bytes: &[u8], key: &[u8]) -> Vec<u8> {
    assert_eq!(key.len(), read::KEY.len());
    let mut bytes = bytes.to_vec();
    let ours = read::KEY.as_bytes();
    while let Some(at) = bytes.windows(ours.len()).position(|window| window == ours) {
        bytes[at..at + key.len()].copy_from_slice(key);
    }
    bytes
}
