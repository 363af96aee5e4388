//! As little of HTTP as the benchmark's peers and clients need: a head, a Content-Length, a body.
#![allow(dead_code, reason = "not every program both reads and answers")]

use std::io::{Read, Write};
use std::net::TcpStream;

/// Reads until a whole message is in `buffer`: where its body begins, and where it ends.
pub fn message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(usize, usize)> {
    let mut piece = [0; 4096];
    loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..at]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let end =
                at + 4 + length.map_or(Some(0), |length| length.trim().parse::<usize>().ok())?;
            if buffer.len() >= end {
                return Some((at + 4, end));
            }
        }
        match stream.read(&mut piece).ok()? {
            0 => return None,
            count => buffer.extend_from_slice(&piece[..count]),
        }
    }
}

pub fn answer(stream: &mut TcpStream, body: &[u8]) -> Option<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).ok()
}
