//! The client: round trips with our server, and answers that it must not believe.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Error;
use super::{Client, Request};
use crate::http::TOO_LARGE;
use crate::http::tests::fake::Fake;
use crate::http::tests::server::{SHORT, echo, serve, unix};
use crate::http::tests::streams::stream;
use crate::http::tests::test_limits;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn get(target: &str) -> Request<'_> {
    Request { method: "GET", target, headers: &[], body: None }
}

#[test]
fn bodies_come_back_over_one_connection() {
    let (client, socket) = unix();
    let server = serve(socket, test_limits(), echo);
    let mut client =
        Client::new(Arc::new(client), "localhost", test_limits().write_timeout).unwrap();
    for size in [0, 1, 2000, 70_000, 1_000_000, 5] {
        let body = vec![b'b'; size];
        let fields = [("Content-Type", "text/plain")];
        let (method, target) = ("POST", "/x?y");
        let call = Request { method, target, headers: &fields, body: Some(&body) };
        let answer = client.send(&call, soon()).unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body(1 << 20, soon()).unwrap() == body, "{size} bytes");
    }
    let answer = client.send(&get("/"), soon()).unwrap();
    assert_eq!(answer.body(0, soon()).unwrap(), b"");
    drop(client);
    assert!(server.join().is_ok());
}

#[test]
fn events_arrive_and_the_connection_goes_on() {
    let (client, socket) = unix();
    let server = serve(socket, test_limits(), stream);
    let mut client =
        Client::new(Arc::new(client), "localhost", test_limits().write_timeout).unwrap();
    for _ in 0..2 {
        let answer = client.send(&get("/whole"), soon()).unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        let mut events = answer.events();
        assert_eq!(events.next(soon()).unwrap().unwrap().data, "one");
        assert_eq!(events.next(soon()).unwrap().unwrap().data, "two\nlines");
        assert!(events.next(soon()).unwrap().is_none());
    }
    drop(client);
    assert!(server.join().is_ok());
}

#[test]
fn a_broken_stream_is_not_taken_for_a_whole_one() {
    let (client, socket) = unix();
    let server = serve(socket, test_limits(), stream);
    let mut client =
        Client::new(Arc::new(client), "localhost", test_limits().write_timeout).unwrap();
    let answer = client.send(&get("/broken"), soon()).unwrap();
    let mut events = answer.events();
    assert!(events.next(soon()).unwrap().is_some());
    assert!(events.next(soon()).unwrap().is_some());
    assert!(matches!(events.next(soon()), Err(Error::CutShort)));
    assert!(server.join().is_ok());
}

#[test]
fn what_would_break_the_framing_is_not_sent() {
    let mut client = Client::new(Fake::new(&[]), "a", SHORT).unwrap();
    for (method, target, name, value) in [
        ("GET", "/ HTTP/1.1\r\nX: y", "A", "b"),
        ("GET", "/a b", "A", "b"),
        ("GET", "", "A", "b"),
        ("G T", "/", "A", "b"),
        ("GET", "/", "A\r\n", "b"),
        ("GET", "/", "A", "b\r\nC: d"),
    ] {
        let sent =
            client.send(&Request { method, headers: &[(name, value)], ..get(target) }, soon());
        let Err(Error::Io(error)) = sent else {
            panic!("{method} {target} {name} {value}");
        };
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn an_unread_answer_is_not_taken_for_the_next_one() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".as_slice();
    let mut client = Client::new(Fake::new(&[answer, answer]), "a", SHORT).unwrap();
    assert_eq!(client.send(&get("/"), soon()).unwrap().status, 200);
    let second = client.send(&get("/"), soon());
    assert!(matches!(second, Err(Error::Io(_))));
}

#[test]
fn a_silent_server_has_a_deadline() {
    let (client, _server) = unix();
    let mut client = Client::new(Arc::new(client), "a", SHORT).unwrap();
    let answer = client.send(&get("/"), Instant::now() + SHORT);
    assert!(matches!(answer, Err(Error::TimedOut)));
}

/// The body, or what is wrong, of an answer that comes whole, byte by byte and cut everywhere.
#[track_caller]
fn reads(method: &str, bytes: &[u8]) -> String {
    let read = |pieces: &[&[u8]]| {
        let mut client = Client::new(Fake::new(pieces), "a", SHORT).unwrap();
        let answer = client.send(&Request { method, ..get("/") }, soon());
        match answer.and_then(|answer| answer.body(20, soon())) {
            Ok(body) => String::from_utf8(body).unwrap(),
            Err(Error::Refused(TOO_LARGE)) => "too large".to_owned(),
            Err(Error::Refused(_)) => "malformed".to_owned(),
            Err(Error::CutShort) => "cut short".to_owned(),
            Err(other) => panic!("{other}"),
        }
    };
    let whole = read(&[bytes]);
    assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), whole);
    for at in 1..bytes.len() {
        let (head, tail) = bytes.split_at(at);
        assert_eq!(read(&[head, tail]), whole, "cut at {at}");
    }
    whole
}

#[test]
fn answers_are_parsed_strictly() {
    #[rustfmt::skip]
    let cases: &[(&str, &[u8], &str)] = &[
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "hi"),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\nhi", "hi"),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", ""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\nrest", ""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", ""),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", "cut short"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", "cut short"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Le", "cut short"),
        ("GET", b"", "cut short"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n", "too large"),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\n123456789012345678901", "too large"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi", "malformed"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "malformed"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi", "malformed"),
        ("GET", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "malformed"),
        ("GET", b"HTTP/1.1 200 OK\nX: a\r\n\r\n", "malformed"),
        ("GET", b"HTTP/1.1 999 Odd\r\n\r\n", "malformed"),
        ("GET", b"HTTP/2 200\r\n\r\n", "malformed"),
        ("GET", b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", "malformed"),
    ];
    for (method, bytes, expected) in cases {
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(reads(method, bytes), *expected, "{text:?}");
    }
}
