//! Clients of NATS that publish to a stream, each on a connection of its own, one message after the other,
//! and wait for the acknowledgement of each. It prints the seconds that all of them took.

use std::env;
use std::io::{Error, Read, Result, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

#[path = "clients.rs"]
mod clients;

const STREAM: &str =
    r#"{"name":"bench","subjects":["bench.*"],"storage":"file","retention":"limits"}"#;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, clients, count, size] = &arguments[..] else {
        return Err(Error::other("publish ADDRESS CLIENTS COUNT SIZE"));
    };
    let [clients, count, size] = [clients, count, size].map(|word| clients::number(word));
    let streams = clients::connect(address, clients)?;
    let open = |(number, stream)| Client::open(number, stream);
    let mut clients = streams.into_iter().enumerate().map(open).collect::<Result<Vec<_>>>()?;
    clients[0].request("$JS.API.STREAM.CREATE.bench", STREAM)?;
    let (next, payload) = (AtomicUsize::new(0), "x".repeat(size));
    let began = Instant::now();
    clients::together(clients, |number, mut client| {
        let subject = format!("bench.s{number}");
        while next.fetch_add(1, Ordering::Relaxed) < count {
            client.request(&subject, &payload)?;
        }
        Ok(())
    })?;
    println!("{}", began.elapsed().as_secs_f64());
    Ok(())
}

struct Client {
    inbox: String,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn open(number: usize, mut stream: TcpStream) -> Result<Client> {
        let inbox = format!("_INBOX.{number}");
        write!(stream, "CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {inbox} 1\r\n")?;
        Ok(Client { inbox, stream, buffer: Vec::new() })
    }

    /// One message, and what comes back to the inbox, which must not be an error.
    fn request(&mut self, subject: &str, payload: &str) -> Result<()> {
        let head = format!("PUB {subject} {} {}\r\n", self.inbox, payload.len());
        self.stream.write_all([head.as_str(), payload, "\r\n"].concat().as_bytes())?;
        loop {
            let line = self.line()?;
            if let Some(rest) = line.strip_prefix("MSG ") {
                let length = clients::number(rest.split(' ').next_back().unwrap_or_default());
                while self.buffer.len() < length + 2 {
                    self.fill()?;
                }
                let body: Vec<u8> = self.buffer.drain(..length + 2).collect();
                let body = String::from_utf8_lossy(&body).into_owned();
                return if body.contains("\"error\"") { Err(Error::other(body)) } else { Ok(()) };
            } else if line == "PING" {
                self.stream.write_all(b"PONG\r\n")?;
            } else if line.starts_with('-') {
                return Err(Error::other(line));
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = self.buffer.drain(..at + 2).take(at).collect();
                return String::from_utf8(line).map_err(Error::other);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<()> {
        let mut piece = [0; 4096];
        let count = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..count]);
        if count == 0 { Err(Error::other("closed in the middle of an answer")) } else { Ok(()) }
    }
}
