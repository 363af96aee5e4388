//! Connections that give up their sockets, at whatever point they are.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::super::shutdown_flag::IDLE_AFTER;
use super::super::{Closed, Connection, Response, ShutdownFlag};
use super::server::tcp;
use super::test_limits;
use crate::config::Limits;
use crate::limits::MAX_HEAD;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &[u8] = b"POST /turn HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";

/// Answers until the connection ends; what is handed over.
fn serve(connection: &mut Connection) -> Result<Option<(Vec<u8>, bool)>, Closed> {
    while let Some(request) = connection.next_request()? {
        if request.path == "/turn" && connection.shutdown.holds_requests() {
            connection.park()?;
            continue;
        }
        let body = connection.read_body(&request, 100)?;
        connection.respond(&request, Response::text(200, String::from_utf8(body).unwrap()))?;
    }
    Ok(connection.take_unread())
}

/// Far longer than a test may take: who is not woken waits for that.
fn limits() -> Limits {
    let long = Duration::from_secs(600);
    Limits { head_timeout: long, idle_timeout: long, ..test_limits() }
}

#[test]
fn a_connection_gives_up_its_socket_wherever_it_waits() {
    let partial = &POST[..20];
    // With what comes before it, and how long it waits before it is asked.
    for wait in [Duration::ZERO, IDLE_AFTER / 2, IDLE_AFTER * 2] {
        for (before, sent) in [(0, &b""[..]), (0, partial), (1, b""), (1, partial)] {
            let ((mut client, socket), flag) = (tcp(), Arc::new(ShutdownFlag::default()));
            let its = Arc::clone(&flag);
            let thread = thread::spawn(move || {
                let socket = Box::new(Arc::new(socket));
                serve(&mut Connection::new(socket, limits(), its).unwrap()).unwrap()
            });
            for _ in 0..before {
                client.write_all(GET).unwrap();
                assert!(client.read(&mut [0; 4096]).unwrap() > 0);
            }
            client.write_all(sent).unwrap();
            thread::park_timeout(wait);
            let begun = Instant::now();
            flag.hand_over();
            let (mut unread, new) = thread.join().unwrap().unwrap();
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
            if wait == Duration::ZERO {
                // It may not have been read.
                unread.extend_from_slice(&sent[unread.len()..]);
            }
            assert_eq!((&*unread, new), (sent, before == 0));
        }
    }
}

#[test]
fn a_parked_request_is_kept_from_its_first_byte_and_goes_on_or_is_handed_over() {
    for handed_over in [false, true] {
        let ((mut client, socket), flag) = (tcp(), Arc::new(ShutdownFlag::default()));
        let (its, socket) = (Arc::clone(&flag), Arc::new(socket));
        flag.park();
        client.write_all(&[GET, POST].concat()).unwrap();
        let stream = Arc::clone(&socket);
        let thread = thread::spawn(move || {
            serve(&mut Connection::new(Box::new(stream), limits(), its).unwrap()).unwrap()
        });
        while flag.parked.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        if handed_over {
            flag.hand_over();
            let (unread, new) = thread.join().unwrap().unwrap();
            assert_eq!((&*unread, new), (POST, false));
            let resumed = Arc::new(ShutdownFlag::default());
            let mut next = Connection::new(Box::new(socket), limits(), resumed).unwrap();
            next.restore(unread, new);
            client.shutdown(Shutdown::Write).unwrap();
            assert!(serve(&mut next).unwrap().is_none());
        } else {
            flag.resume();
            client.shutdown(Shutdown::Write).unwrap();
            assert!(thread.join().unwrap().is_none());
            drop(socket);
        }
        assert_eq!(flag.parked.load(Ordering::SeqCst), 0);
        let mut all = String::new();
        client.read_to_string(&mut all).unwrap();
        assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 2, "{all}");
        assert!(all.ends_with("\r\n\r\nabc") && !all.contains("Connection: close"), "{all}");
    }
}

#[test]
fn a_parked_request_whose_connection_is_ended_keeps_no_thread() {
    let ((mut client, socket), flag) = (tcp(), Arc::new(ShutdownFlag::default()));
    let (its, socket) = (Arc::clone(&flag), Arc::new(socket));
    flag.park();
    client.write_all(POST).unwrap();
    let stream = Arc::clone(&socket);
    let thread = thread::spawn(move || {
        serve(&mut Connection::new(Box::new(stream), limits(), its).unwrap())
    });
    while flag.parked.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    // As the table of connections does it.
    socket.shutdown(Shutdown::Both).unwrap();
    assert!(matches!(thread.join().unwrap(), Err(Closed::CutShort)));
    assert_eq!(flag.parked.load(Ordering::SeqCst), 0);
}

#[test]
fn what_a_connection_has_unread_is_no_more_than_two_heads() {
    let ((mut client, socket), flag) = (tcp(), Arc::new(ShutdownFlag::default()));
    let (its, all) = (Arc::clone(&flag), POST.repeat(10_000));
    let thread = thread::spawn(move || {
        serve(&mut Connection::new(Box::new(Arc::new(socket)), limits(), its).unwrap())
    });
    let sender = thread::spawn(move || {
        let _ = client.write_all(&all);
        client
    });
    thread::park_timeout(Duration::from_millis(5));
    flag.park();
    while flag.parked.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    flag.hand_over();
    let (unread, _) = thread.join().unwrap().unwrap().unwrap();
    assert!(unread.starts_with(POST) && unread.len() <= 2 * MAX_HEAD, "{}", unread.len());
    drop(sender.join().unwrap());
}

#[test]
fn a_stop_is_the_last_word() {
    let flag = ShutdownFlag::default();
    flag.park();
    flag.close(false);
    for next in [ShutdownFlag::resume, ShutdownFlag::hand_over, ShutdownFlag::park] {
        next(&flag);
        assert!(flag.is_closing() && !flag.is_handing_over());
    }
}
