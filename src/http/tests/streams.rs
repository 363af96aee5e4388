//! Responses in pieces: framing, ends, broken ends. How a client sees them: `outbound`'s tests.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use super::super::{Closed, Connection, Response, sse};
use super::server::{SHORT, serve, tcp, unix};
use super::test_limits;
use crate::config::Limits;

/// `/whole` ends as it should, `/broken` does not.
pub fn stream(connection: &mut Connection) -> Result<(), Closed> {
    while let Some(request) = connection.next_request()? {
        let whole = request.path == "/whole";
        let mut stream = connection
            .start_stream(&request, Response::new(200, "text/event-stream", b"".as_slice()))?;
        for word in ["one", "two\nlines"] {
            let mut event = Vec::new();
            sse::write_data(&mut event, word);
            stream.send(&event)?;
        }
        stream.send(b"")?;
        if whole {
            stream.finish()?;
        }
    }
    Ok(())
}

#[test]
fn http_1_0_gets_no_chunks_and_a_reset_when_broken() {
    let (mut client, socket) = tcp();
    let server = serve(socket, test_limits(), stream);
    write!(client, "GET /whole HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    assert!(all.contains("\r\nConnection: close\r\n") && !all.contains("Transfer-Encoding"));
    assert!(all.ends_with("\r\n\r\ndata: one\n\ndata: two\ndata: lines\n\n"));
    drop(client);
    assert!(server.join().is_ok());

    let (mut client, socket) = tcp();
    let server = serve(socket, test_limits(), stream);
    write!(client, "GET /broken HTTP/1.0\r\n\r\n").unwrap();
    let error = client.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(server.join().is_ok());
}

#[test]
fn head_gets_no_pieces() {
    let (mut client, socket) = unix();
    let _server = serve(socket, test_limits(), stream);
    write!(client, "HEAD /whole HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    write!(client, "HEAD /whole HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 2);
    assert!(!all.contains("data:") && all.ends_with("\r\n\r\n"));
}

#[test]
fn a_reader_that_stops_is_cut_off() {
    let (mut client, socket) = unix();
    let limits = Limits { write_timeout: SHORT, ..test_limits() };
    let server = serve(socket, limits, |connection| {
        let request = connection.next_request()?.unwrap();
        let mut stream =
            connection.start_stream(&request, Response::new(200, "text/plain", b"".as_slice()))?;
        loop {
            stream.send(&[b'x'; 1000])?;
        }
    });
    write!(client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    match server.join() {
        Err(Closed::Io(error)) => assert_eq!(error.kind(), ErrorKind::TimedOut),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_piece_is_one_write() {
    use super::fake::Fake;
    let fake = Fake::new(&[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"]);
    let log = Arc::clone(&fake.log);
    let mut connection = Connection::new(Box::new(fake), test_limits(), Arc::default()).unwrap();
    let request = connection.next_request().unwrap().unwrap();
    let mut stream = connection
        .start_stream(&request, Response::new(200, "text/plain", b"".as_slice()))
        .unwrap();
    for piece in [b"0123456789abcdef".as_slice(), b"x"] {
        stream.send(piece).unwrap();
    }
    stream.finish().unwrap();
    let log = log.lock().unwrap();
    assert_eq!(log.writes, 4);
    assert!(log.written.ends_with(b"\r\n\r\n10\r\n0123456789abcdef\r\n1\r\nx\r\n0\r\n\r\n"));
}
