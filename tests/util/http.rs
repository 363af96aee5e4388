//! Raw HTTP for tests: send these bytes, read one response. It checks the framing of what it
//! reads, and repairs nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::DEADLINE;

/// A connection to the gateway, over TCP or the control socket.
pub struct Connection {
    stream: Stream,
    /// Received and not yet used.
    buffer: Vec<u8>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Status line and header fields.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    /// Names in lower case, values trimmed, in the order in which they came.
    pub fields: Vec<(String, String)>,
}

/// A whole response.
#[derive(Debug, Clone)]
pub struct Response {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Head {
    /// The value of a field that must not come twice.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} came twice: {self:?}");
        value
    }
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {:?}", self.text()))
    }

    /// The text of a chat completion, which this must be.
    #[track_caller]
    pub fn reply(self) -> String {
        let json = self.assert_status(200).json();
        let text = json["choices"][0]["message"]["content"].as_str();
        text.unwrap_or_else(|| panic!("no reply: {json}")).to_owned()
    }

    /// The words of an error in OpenAI's shape, which this must be.
    #[track_caller]
    pub fn error(self, status: u16) -> String {
        let json = self.assert_status(status).json();
        let text = json["error"]["message"].as_str();
        text.unwrap_or_else(|| panic!("no error: {json}")).to_owned()
    }

    /// Fails the test, with the body, unless the status is this one.
    #[track_caller]
    pub fn assert_status(self, expected: u16) -> Response {
        assert_eq!(self.status(), expected, "{:?}\n{}", self.head, self.text());
        self
    }
}

/// The bytes of a request; `Host`, and `Content-Length` where there is a body, are filled in.
pub fn request(method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in fields {
        bytes += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        bytes += &format!("Content-Length: {}\r\n", body.len());
    }
    bytes += "\r\n";
    [bytes.as_bytes(), body].concat()
}

/// The body of a chat completion with this user message.
pub fn chat(text: &str, stream: bool) -> String {
    let message = serde_json::json!({ "role": "user", "content": text });
    serde_json::json!({ "model": "default", "stream": stream, "messages": [message] }).to_string()
}

impl Connection {
    #[track_caller]
    pub fn tcp(address: impl ToSocketAddrs) -> Connection {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Connection::over(Stream::Tcp(stream))
    }

    #[track_caller]
    pub fn unix(path: &Path) -> Connection {
        let stream = UnixStream::connect(path)
            .unwrap_or_else(|error| panic!("connect to {}: {error}", path.display()));
        Connection::over(Stream::Unix(stream))
    }

    fn over(stream: Stream) -> Connection {
        let connection = Connection { stream, buffer: Vec::new() };
        connection.set_read_limit(DEADLINE);
        connection
    }

    /// To a peer that may be gone; a single write or read may take as long as `patience`.
    pub fn try_tcp(address: SocketAddr, patience: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Connection { stream: Stream::Tcp(stream), buffer: Vec::new() })
    }

    /// The same over a control socket.
    pub fn try_unix(path: &Path, patience: Duration) -> io::Result<Connection> {
        let stream = UnixStream::connect(path)?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Connection { stream: Stream::Unix(stream), buffer: Vec::new() })
    }

    /// How long a single read may wait for the first byte; [`DEADLINE`] unless set.
    pub fn set_read_limit(&self, limit: Duration) {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(limit)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(limit)),
        }
        .expect("SO_RCVTIMEO");
    }

    /// Sends exactly these bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("send");
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// Sends these bytes to a peer that may have ended the connection; false if it has.
    pub fn offer(&mut self, bytes: &[u8]) -> bool {
        self.try_send(bytes).is_ok()
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) {
        // Fails where the peer has closed already, which is no concern of ours.
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
        };
    }

    /// A GET with these header fields, and its response.
    #[track_caller]
    pub fn get(&mut self, target: &str, fields: &[(&str, &str)]) -> Response {
        self.send(&request("GET", target, fields, b""));
        self.response()
    }

    /// A POST of JSON with these further header fields, and its response.
    #[track_caller]
    pub fn post(&mut self, target: &str, fields: &[(&str, &str)], json: &str) -> Response {
        let fields = [&[("Content-Type", "application/json")][..], fields].concat();
        self.send(&request("POST", target, &fields, json.as_bytes()));
        self.response()
    }

    /// Reads one response: its body by chunks, by Content-Length, or until the peer closes.
    /// For a response to HEAD use [`Connection::head`].
    #[track_caller]
    pub fn response(&mut self) -> Response {
        whole(self.try_response())
    }

    /// The same, where it may not come whole: see [`super::Caller`].
    pub fn try_response(&mut self) -> io::Result<Response> {
        let head = self.try_head()?;
        let mut body = Vec::new();
        if head.status < 200 || head.status == 204 || head.status == 304 {
            // These have no body, whatever they say.
        } else if head.field("transfer-encoding") == Some("chunked") {
            assert_eq!(head.field("content-length"), None, "both framings: {head:?}");
            while let Some(chunk) = self.try_chunk()? {
                body.extend(chunk);
            }
        } else if let Some(length) = head.field("content-length") {
            let length = length.parse().expect("Content-Length is a number");
            body = self.take(length)?;
        } else {
            while self.fill()? {}
            body = std::mem::take(&mut self.buffer);
        }
        Ok(Response { head, body })
    }

    /// Reads the head of a response, and leaves its body to [`Connection::chunk`] and the like.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        whole(self.try_head())
    }

    fn try_head(&mut self) -> io::Result<Head> {
        let status = self.line()?;
        let mut words = status.splitn(3, ' ');
        assert_eq!(words.next(), Some("HTTP/1.1"), "status line {status:?}");
        let status = words
            .next()
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("status line {status:?}"));
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Head { status, fields });
            }
            let (name, value) =
                line.split_once(':').unwrap_or_else(|| panic!("no header field: {line:?}"));
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads the next chunk of a chunked body; `None` is its end.
    #[track_caller]
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        whole(self.try_chunk())
    }

    fn try_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = self.line()?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or(""), 16)
            .unwrap_or_else(|_| panic!("chunk size {size:?}"));
        let chunk = self.take(size)?;
        assert_eq!(self.take(2)?, b"\r\n", "what ends a chunk");
        Ok((size > 0).then_some(chunk))
    }

    /// Reads until the peer closes; fails the test if it does not within the read limit.
    #[track_caller]
    pub fn until_close(&mut self) -> Vec<u8> {
        while whole(self.fill()) {}
        std::mem::take(&mut self.buffer)
    }

    /// Fails the test unless the peer closes without another byte.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        let rest = self.until_close();
        assert!(rest.is_empty(), "more came: {:?}", String::from_utf8_lossy(&rest));
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(end)?;
                self.take(2)?;
                return Ok(String::from_utf8(line).expect("a head in UTF-8"));
            }
            self.need()?;
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.need()?;
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn need(&mut self) -> io::Result<()> {
        if self.fill()? {
            return Ok(());
        }
        let so_far = String::from_utf8_lossy(&self.buffer);
        let why = format!("closed in the middle of a response, after {so_far:?}");
        Err(io::Error::new(ErrorKind::UnexpectedEof, why))
    }

    /// Reads more into the buffer; false when the peer has closed.
    fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 16 * 1024];
        loop {
            let result = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(&mut bytes),
                Stream::Unix(stream) => stream.read(&mut bytes),
            };
            match result {
                Ok(length) => {
                    self.buffer.extend(&bytes[..length]);
                    return Ok(length > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A server that closes on unread input resets: it has closed all the same.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

#[track_caller]
fn whole<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("read: {error}"))
}
