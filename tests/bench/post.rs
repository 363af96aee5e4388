//! Clients that post messages, each on a connection of its own, one message after the other, each in
//! a session of its own: a client in Python would be slower than the gateway.

use std::env;
use std::io::{Error, Read, Result, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const STACK: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, key, clients, count, size, query] = &arguments[..] else {
        return Err(Error::other("post ADDRESS KEY CLIENTS COUNT SIZE QUERY"));
    };
    let [clients, count, size] =
        [clients, count, size].map(|number| number.parse::<usize>().expect("a number"));
    // Before any of them asks: one that cannot connect ends it all, and nobody waits for it.
    let streams = (0..clients).map(|_| connect(address)).collect::<Result<Vec<TcpStream>>>()?;
    let next = AtomicUsize::new(0);
    let client = |number: usize, mut stream: TcpStream| {
        let request = request(number, key, size, query);
        while next.fetch_add(1, Ordering::Relaxed) < count {
            ask(&mut stream, request.as_bytes())?;
        }
        Ok::<(), Error>(())
    };
    let client = &client;
    let began = Instant::now();
    let took = thread::scope(|scope| {
        let spawn = |(number, stream)| {
            let builder = thread::Builder::new().stack_size(STACK);
            builder.spawn_scoped(scope, move || client(number, stream))
        };
        let threads = streams.into_iter().enumerate().map(spawn).collect::<Result<Vec<_>>>()?;
        for thread in threads {
            thread.join().expect("a client")?;
        }
        Ok::<Duration, Error>(began.elapsed())
    })?;
    println!("{}", took.as_secs_f64());
    Ok(())
}

fn connect(address: &str) -> Result<TcpStream> {
    let address = address.to_socket_addrs()?.next().ok_or(Error::other("no address"))?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn request(number: usize, key: &str, size: usize, query: &str) -> String {
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(size));
    format!(
        "POST /v1/sessions/s{number}/messages{query} HTTP/1.1\r\n\
         Host: localhost\r\n\
         Authorization: Bearer {key}\r\n\
         Content-Type: application/json\r\n\
         Content-Length: {}\r\n\
         \r\n{body}",
        body.len()
    )
}

/// One request, and its whole answer, which must be a good one.
fn ask(stream: &mut TcpStream, request: &[u8]) -> Result<()> {
    stream.write_all(request)?;
    let (mut buffer, mut filled, mut whole) = ([0; 16 * 1024], 0, usize::MAX);
    while filled < whole {
        let length = stream.read(&mut buffer[filled..])?;
        if length == 0 {
            return Err(Error::other("closed in the middle of an answer"));
        }
        filled += length;
        let text = &buffer[..filled];
        if let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") {
            whole = end + 4 + content_length(&text[..end]).ok_or(Error::other("no length"))?;
        }
    }
    if !buffer.starts_with(b"HTTP/1.1 20") || filled > whole {
        return Err(Error::other(String::from_utf8_lossy(&buffer[..filled]).into_owned()));
    }
    Ok(())
}

fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?.to_ascii_lowercase();
    let (_, rest) = head.split_once("content-length:")?;
    rest.lines().next()?.trim().parse().ok()
}
