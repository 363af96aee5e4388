//! Lengths at and beyond their limits, the same however the bytes are cut; and the fast path.

use std::sync::Arc;

use super::super::{Connection, Response, ShutdownFlag};
use super::fake::{self, Fake};
use super::test_limits;
use crate::limits::{MAX_FIELDS, MAX_HEAD, MAX_TARGET};

/// The status that `bytes` get, at a few ways of cutting them; `200` for a request.
#[track_caller]
fn status(bytes: &[u8]) -> String {
    let whole = fake::run(&[bytes]);
    for size in [1, 7, 1000, 4096, 8192] {
        let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        assert_eq!(fake::run(&pieces), whole, "in pieces of {size}");
    }
    let outcome = whole.outcome();
    if outcome.starts_with("GET") { "200".to_owned() } else { outcome }
}

fn request(target: usize, fields: &str) -> Vec<u8> {
    let target = "a".repeat(target - 1);
    format!("GET /{target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

#[test]
fn the_length_of_targets_is_limited() {
    assert_eq!(status(&request(MAX_TARGET, "")), "200");
    assert_eq!(status(&request(MAX_TARGET + 1, "")), "414");
    assert_eq!(status(&request(MAX_TARGET + 1000, "")), "414");
    // Also where no line end ever comes.
    assert_eq!(status(&vec![b'A'; MAX_TARGET + 100]), "414");
}

#[test]
fn the_length_of_heads_is_limited() {
    let padding = MAX_HEAD - request(1, "X: \r\n").len();
    let with = |padding: usize| request(1, &format!("X: {}\r\n", "y".repeat(padding)));
    assert_eq!(with(padding).len(), MAX_HEAD);
    assert_eq!(status(&with(padding)), "200");
    assert_eq!(status(&with(padding + 1)), "431");
    let endless = with(2 * MAX_HEAD);
    assert_eq!(status(&endless[..MAX_HEAD + 1]), "431");
}

#[test]
fn the_number_of_fields_is_limited() {
    assert_eq!(status(&request(1, &"X: y\r\n".repeat(MAX_FIELDS - 1))), "200");
    assert_eq!(status(&request(1, &"X: y\r\n".repeat(MAX_FIELDS))), "431");
}

#[test]
fn the_overhead_of_chunks_is_bounded() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extensions = "1;a=bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\nx\r\n".repeat(60);
    assert_eq!(status(&(head.to_owned() + &extensions).into_bytes()), "400");
    let extensions = format!("1;{}\r\nx\r\n", "a".repeat(5000));
    assert_eq!(status(&(head.to_owned() + &extensions).into_bytes()), "431");
    let trailers = format!("0\r\n{}", "X: y\r\n".repeat(2100));
    assert_eq!(status(&(head.to_owned() + &trailers).into_bytes()), "431");
}

#[test]
fn a_request_costs_one_read_and_one_write() {
    const COUNT: usize = 50;
    let request = b"GET /health HTTP/1.1\r\nHost: localhost:8642\r\nAccept: */*\r\n\r\n";
    let fake = Fake::new(&[request.as_slice(); COUNT]);
    let log = Arc::clone(&fake.log);
    let mut connection =
        Connection::new(Box::new(fake), test_limits(), Arc::<ShutdownFlag>::default()).unwrap();
    while let Some(request) = connection.next_request().unwrap() {
        let response = Response::text(200, "fine");
        connection.respond(&request, response).unwrap();
    }
    let log = log.lock().unwrap();
    // One read more, which meets the end.
    assert_eq!((log.reads, log.writes), (COUNT + 1, COUNT));
    assert!(log.settings <= 2, "{} socket options set", log.settings);
}
