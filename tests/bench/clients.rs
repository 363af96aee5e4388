//! What the benchmark's clients share: a connection and a thread for each, and an HTTP request with its
//! whole answer. A client in Python would be slower than the servers.
#![allow(dead_code, reason = "not every client speaks HTTP")]

use std::io::{Error, Result, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::Duration;

#[path = "framing.rs"]
mod framing;

const STACK: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(20);

/// So many connections: one that fails ends it all, and nobody waits for it.
pub fn connect(address: &str, clients: usize) -> Result<Vec<TcpStream>> {
    let address = address.to_socket_addrs()?.next().ok_or(Error::other("no address"))?;
    let connect = |_| {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    (0..clients).map(connect).collect()
}

/// Runs a client on each, all at once.
pub fn together<C: Send, T: Send>(
    connections: Vec<C>,
    client: impl Fn(usize, C) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let client = &client;
    thread::scope(|scope| {
        let spawn = |(number, connection)| {
            let builder = thread::Builder::new().stack_size(STACK);
            builder.spawn_scoped(scope, move || client(number, connection))
        };
        let threads = connections.into_iter().enumerate().map(spawn).collect::<Result<Vec<_>>>()?;
        threads.into_iter().map(|thread| thread.join().expect("a client")).collect()
    })
}

pub fn number(word: &str) -> usize {
    word.parse().expect("a number")
}

pub fn post(target: &str, key: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\n\
         Host: localhost\r\n\
         Authorization: Bearer {key}\r\n\
         Content-Type: application/json\r\n\
         Content-Length: {}\r\n\
         \r\n{body}",
        body.len()
    )
}

/// One request, and its whole answer, which must be a good one.
pub fn ask(stream: &mut TcpStream, request: &str) -> Result<()> {
    stream.write_all(request.as_bytes())?;
    let mut buffer = Vec::new();
    let end = framing::message(stream, &mut buffer).map(|(_, end)| end);
    if end != Some(buffer.len()) || !buffer.starts_with(b"HTTP/1.1 20") {
        return Err(Error::other(format!("no good answer: {}", String::from_utf8_lossy(&buffer))));
    }
    Ok(())
}
