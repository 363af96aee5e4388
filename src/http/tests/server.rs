//! The server's side over real sockets: time-outs, closing, draining.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::super::{Closed, Connection, Refusal, Response, ShutdownFlag, Socket};
use super::test_limits;
use crate::config::Limits;

/// Short, for the time-out that a test means to run into.
pub const SHORT: Duration = Duration::from_millis(80);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

pub struct Server {
    thread: JoinHandle<Result<(), Closed>>,
}

impl Server {
    pub fn join(self) -> Result<(), Closed> {
        self.thread.join().unwrap()
    }

    #[track_caller]
    fn refused_with(self, status: u16) {
        match self.join() {
            Err(Closed::Refused(Refusal { status: told, .. })) => assert_eq!(told, status),
            other => panic!("{other:?} instead of {status}"),
        }
    }
}

/// Serves one connection in a thread.
pub fn serve<S>(
    socket: S,
    limits: Limits,
    handler: impl Fn(&mut Connection) -> Result<(), Closed> + Send + 'static,
) -> Server
where
    Arc<S>: Socket + Send + 'static,
{
    serve_behind(Arc::default(), socket, limits, handler)
}

fn serve_behind<S>(
    shutdown: Arc<ShutdownFlag>,
    socket: S,
    limits: Limits,
    handler: impl Fn(&mut Connection) -> Result<(), Closed> + Send + 'static,
) -> Server
where
    Arc<S>: Socket + Send + 'static,
{
    let socket = Arc::new(socket);
    let serve = move || handler(&mut Connection::new(Box::new(socket), limits, shutdown).unwrap());
    let thread = thread::spawn(serve);
    Server { thread }
}

/// Echoes bodies.
pub fn echo(connection: &mut Connection) -> Result<(), Closed> {
    while let Some(request) = connection.next_request()? {
        let body = connection.read_body(&request, usize::MAX)?;
        let response = Response::new(200, "application/octet-stream", body);
        connection.respond(&request, response)?;
    }
    Ok(())
}

/// Answers without a look at the body.
fn ignore(connection: &mut Connection) -> Result<(), Closed> {
    while let Some(request) = connection.next_request()? {
        connection.respond(&request, Response::text(401, "no"))?;
    }
    Ok(())
}

pub fn unix() -> (UnixStream, UnixStream) {
    let (client, server) = UnixStream::pair().unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (client, server)
}

pub fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (client, listener.accept().unwrap().0)
}

/// Reads up to the end of the connection.
fn read_all(client: &mut impl Read) -> String {
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    all
}

/// Reads one head.
fn read_head(client: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(client.read(&mut byte).unwrap(), 1, "ended after {head:?}");
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn a_head_that_trickles_has_a_total_deadline() {
    let (mut client, socket) = unix();
    let limits = Limits { head_timeout: SHORT, ..test_limits() };
    let begun = Instant::now();
    let server = serve(socket, limits, echo);
    let mut reader = client.try_clone().unwrap();
    let (mut pause, _other_end) = UnixStream::pair().unwrap();
    pause.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let trickle = thread::spawn(move || {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".iter().copied();
        for byte in head.chain(std::iter::repeat(b'y')) {
            // Nothing ever comes here: what passes is the time-out.
            assert!(pause.read(&mut [0]).is_err());
            if client.write_all(&[byte]).is_err() {
                return;
            }
        }
    });
    assert!(read_all(&mut reader).starts_with("HTTP/1.1 408 "));
    server.refused_with(408);
    trickle.join().unwrap();
    assert!(begun.elapsed() >= SHORT);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_idle_connection_ends_in_silence() {
    let limits = Limits { idle_timeout: SHORT, ..test_limits() };
    for sent in ["", "\r\n"] {
        let (mut client, socket) = unix();
        let limits = Limits { head_timeout: SHORT, ..limits.clone() };
        client.write_all(sent.as_bytes()).unwrap();
        let server = serve(socket, limits, echo);
        assert!(server.join().is_ok());
        let mut rest = Vec::new();
        // A unix socket closed with unread input resets; nothing was written in any case.
        let _ = client.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }
}

#[test]
fn silence_has_the_deadline_of_a_head_at_first_and_the_idle_timeout_between_requests() {
    for (sent, idle, head) in
        [(&b""[..], test_limits().idle_timeout, SHORT), (GET, SHORT, test_limits().head_timeout)]
    {
        let (mut client, socket) = unix();
        let begun = Instant::now();
        client.write_all(sent).unwrap();
        let limits = Limits { idle_timeout: idle, head_timeout: head, ..test_limits() };
        let server = serve(socket, limits, echo);
        assert!(server.join().is_ok());
        assert!(begun.elapsed() >= SHORT);
        assert!(begun.elapsed() < idle.max(head) / 2, "{:?}", begun.elapsed());
        assert_eq!(read_all(&mut client).matches("HTTP/1.1").count(), sent.len().min(1));
    }
}

#[test]
fn a_body_that_stalls_has_a_deadline() {
    let limits = Limits { body_timeout: SHORT, ..test_limits() };
    for head in ["Content-Length: 9\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n9\r\n"] {
        let (mut client, socket) = unix();
        let server = serve(socket, limits.clone(), echo);
        write!(client, "POST / HTTP/1.1\r\nHost: a\r\n{head}1234").unwrap();
        assert!(read_all(&mut client).starts_with("HTTP/1.1 408 "));
        server.refused_with(408);
    }
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let (mut client, socket) = unix();
    let limits = Limits { write_timeout: SHORT, ..test_limits() };
    let server = serve(socket, limits, |connection| {
        let request = connection.next_request()?.unwrap();
        let response = Response::new(200, "text/plain", vec![b'x'; 8 << 20]);
        connection.respond(&request, response)
    });
    client.write_all(GET).unwrap();
    match server.join() {
        Err(Closed::Io(error)) => assert_eq!(error.kind(), ErrorKind::TimedOut),
        other => panic!("{other:?}"),
    }
}

#[test]
fn continue_is_said_when_the_body_is_wanted() {
    let (mut client, socket) = unix();
    let _server = serve(socket, test_limits(), echo);
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    client.write_all(head).unwrap();
    assert_eq!(read_head(&mut client), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hiGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let rest = read_all(&mut client);
    assert_eq!(rest.matches("HTTP/1.1 200 OK\r\n").count(), 2);
}

#[test]
fn continue_is_not_said_otherwise() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    let (mut client, socket) = unix();
    let server = serve(socket, test_limits(), ignore);
    client.write_all(head).unwrap();
    let answer = read_head(&mut client);
    // Whether the client still sends its body is unknown: nothing can follow.
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("Connection: close"));
    drop(client);
    assert!(server.join().is_ok());

    let (mut client, socket) = unix();
    let server = serve(socket, Limits { max_body: 1, ..test_limits() }, echo);
    client.write_all(head).unwrap();
    assert!(read_all(&mut client).starts_with("HTTP/1.1 413 "));
    server.refused_with(413);
}

#[test]
fn head_gets_no_body() {
    let (mut client, socket) = unix();
    let _server = serve(socket, test_limits(), ignore);
    client.write_all(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    client.write_all(GET).unwrap();
    let first = read_head(&mut client);
    assert!(first.contains("\r\nContent-Length: 2\r\n"));
    assert!(read_head(&mut client).starts_with("HTTP/1.1 401 "));
}

#[test]
fn http_1_0_is_told_whether_the_connection_stays() {
    let (mut client, socket) = unix();
    let _server = serve(socket, test_limits(), echo);
    client.write_all(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
    assert!(read_head(&mut client).contains("\r\nConnection: keep-alive\r\n"));
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(read_all(&mut client).contains("\r\nConnection: close\r\n"));
}

#[test]
fn a_small_unread_body_is_skipped() {
    let (mut client, socket) = unix();
    let _server = serve(socket, test_limits(), ignore);
    write!(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n").unwrap();
    let head = read_head(&mut client);
    assert!(!head.contains("Connection: close"));
    client.write_all(&[b'x'; 60000]).unwrap();
    client.write_all(GET).unwrap();
    let mut body = [0; 2];
    client.read_exact(&mut body).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 401 "));
}

#[test]
fn a_large_unread_body_does_not_eat_the_answer() {
    let (mut client, socket) = tcp();
    let server = serve(socket, test_limits(), ignore);
    write!(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n").unwrap();
    // All of it, before a look at the answer.
    client.write_all(&vec![b'x'; 900_000]).unwrap();
    let answer = read_all(&mut client);
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("Connection: close"));
    drop(client);
    assert!(server.join().is_ok());
}

#[test]
fn a_drain_tells_busy_connections_to_close() {
    let (mut client, socket) = unix();
    let shutdown = Arc::<ShutdownFlag>::default();
    let closer = Arc::clone(&shutdown);
    let server = serve_behind(shutdown, socket, test_limits(), move |connection| {
        let request = connection.next_request()?.unwrap();
        closer.close(false);
        connection.respond(&request, Response::text(200, "last"))?;
        assert!(connection.next_request()?.is_none());
        Ok(())
    });
    client.write_all(GET).unwrap();
    assert!(read_all(&mut client).contains("\r\nConnection: close\r\n"));
    drop(client);
    assert!(server.join().is_ok());
}

#[test]
fn where_another_process_comes_the_next_request_of_a_connection_is_left_to_it() {
    let (mut client, socket) = tcp();
    let shutdown = Arc::<ShutdownFlag>::default();
    let closer = Arc::clone(&shutdown);
    let server = serve_behind(shutdown, socket, test_limits(), move |connection| {
        let request = connection.next_request()?.unwrap();
        connection.respond(&request, Response::text(200, "first"))?;
        closer.close(true);
        connection.next_request()?.unwrap();
        assert!(connection.leave());
        assert!(connection.next_request()?.is_none());
        Ok(())
    });
    client.write_all(GET).unwrap();
    client.write_all(GET).unwrap();
    let answers = read_all(&mut client);
    assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{answers}");
    assert!(server.join().is_ok());
    // A new one is answered, and so is each where no other process comes.
    for silent in [true, false] {
        let (mut client, socket) = tcp();
        let shutdown = Arc::<ShutdownFlag>::default();
        shutdown.close(silent);
        let server = serve_behind(shutdown, socket, test_limits(), move |connection| {
            let request = connection.next_request()?.unwrap();
            assert!(!connection.leave());
            connection.respond(&request, Response::text(503, "no"))
        });
        client.write_all(GET).unwrap();
        assert!(read_all(&mut client).starts_with("HTTP/1.1 503 "));
        assert!(server.join().is_ok());
    }
}

#[test]
fn a_response_larger_than_a_piece_is_whole() {
    let (mut client, socket) = unix();
    let body = vec![b'z'; 300_000];
    let _server = serve(socket, test_limits(), echo);
    write!(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n").unwrap();
    client.write_all(&body).unwrap();
    read_head(&mut client);
    let mut back = vec![0; body.len()];
    client.read_exact(&mut back).unwrap();
    assert_eq!(back, body);
}
