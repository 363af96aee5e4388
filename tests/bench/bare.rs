//! The floor that the gateway is measured against: HTTP/1.1 with keep-alive, a thread per
//! connection, and nothing else. It parses no more than it must and answers everything alike.

use std::env;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::thread;

const STACK: usize = 64 * 1024;
const MAX_HEAD: usize = 8 * 1024;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 15\r\n\
    \r\n\
    {\"status\":\"ok\"}";

fn main() -> std::io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address)?;
    let status = format!("READY=1\nSTATUS={}", listener.local_addr()?);
    if let Some(socket) = env::var_os("NOTIFY_SOCKET") {
        UnixDatagram::unbound()?.send_to(status.as_bytes(), socket)?;
    }
    for stream in listener.incoming() {
        let stream = stream?;
        thread::Builder::new().stack_size(STACK).spawn(move || serve(stream))?;
    }
    Ok(())
}

/// Answers requests without a body until the peer closes or misbehaves.
fn serve(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut buffer = [0; MAX_HEAD];
    let mut filled = 0;
    loop {
        let end = loop {
            match end_of_head(&buffer[..filled]) {
                Some(end) => break end,
                None if filled == MAX_HEAD => return None,
                None => match stream.read(&mut buffer[filled..]).ok()? {
                    0 => return None,
                    length => filled += length,
                },
            }
        };
        if !buffer.starts_with(b"GET ") {
            return None;
        }
        stream.write_all(ANSWER).ok()?;
        buffer.copy_within(end..filled, 0);
        filled -= end;
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}
