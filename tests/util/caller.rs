//! A client that outlives what it talks to: no answer is a result too, and no reason to panic.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::http::{self, Head, Response};

/// A request that takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(5);

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One connection to the gateway, kept alive.
pub struct Caller {
    stream: Box<dyn Stream>,
    authorization: String,
}

impl Caller {
    /// Over TCP, with the value of its `Authorization`.
    pub fn tcp(address: SocketAddr, authorization: &str) -> io::Result<Caller> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Caller { stream: Box::new(stream), authorization: authorization.to_owned() })
    }

    /// Over the control socket.
    pub fn unix(path: &Path) -> io::Result<Caller> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Caller { stream: Box::new(stream), authorization: String::new() })
    }

    /// One request, and its whole answer. An error means that none came; the test fails where none
    /// came because the gateway took too long.
    #[track_caller]
    pub fn ask(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        json: &str,
    ) -> io::Result<Response> {
        let answer = self.try_ask(method, target, fields, json);
        if let Err(error) = &answer {
            assert!(!is_late(error), "{method} {target} hangs for {PATIENCE:?}");
        }
        answer
    }

    /// The same, where the caller judges what takes too long: see [`is_late`].
    pub fn try_ask(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        json: &str,
    ) -> io::Result<Response> {
        let mut all = fields.to_vec();
        if !json.is_empty() {
            all.push(("Content-Type", "application/json"));
        }
        if !self.authorization.is_empty() {
            all.push(("Authorization", &self.authorization));
        }
        let request = http::request(method, target, &all, json.as_bytes());
        self.stream.write_all(&request).and_then(|()| self.answer())
    }

    /// A message, under a key of its own.
    #[track_caller]
    pub fn post_message(&mut self, session: &str, key: &str, text: &str) -> io::Result<Response> {
        let body = serde_json::json!({ "text": text }).to_string();
        let target = format!("/v1/sessions/{session}/messages");
        self.ask("POST", &target, &[("Idempotency-Key", key)], &body)
    }

    fn answer(&mut self) -> io::Result<Response> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            self.read_more(&mut bytes)?;
        };
        let mut body = bytes.split_off(end + 4);
        let head = parse(&String::from_utf8_lossy(&bytes[..end])).unwrap_or_else(|| {
            panic!("no head of a response: {:?}", String::from_utf8_lossy(&bytes))
        });
        let length = head.field("content-length").and_then(|length| length.parse().ok());
        let length: usize = length.unwrap_or_else(|| panic!("no Content-Length: {head:?}"));
        while body.len() < length {
            self.read_more(&mut body)?;
        }
        assert_eq!(body.len(), length, "more than the answer: {head:?}");
        Ok(Response { head, body })
    }

    fn read_more(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        let mut bytes = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    into.extend(&bytes[..length]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether no answer came for as long as [`PATIENCE`].
pub fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn parse(head: &str) -> Option<Head> {
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let fields = lines.map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Some(Head { status, fields: fields.collect::<Option<_>>()? })
}
