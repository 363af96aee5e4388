//! A small client: for our own control socket, and for plain HTTP servers on TCP.
//!
//! As strict as the server: a response that two readers could take differently is an error.

use std::io::{self, Write};
use std::time::{Duration, Instant};

pub use crate::http::Closed as Error;
use crate::http::{
    BodyFraming, BodyReader, Fields, Refusal, Scan, Socket, TOO_LARGE, Transport, Version, bad,
    is_token, is_value_byte, sse,
};
use crate::limits::MAX_FIELDS;

/// Interim responses (1xx) that may precede one response; one is usual, more is a game.
const MAX_INTERIM: usize = 4;

/// What is asked of a server; a body comes with its length.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: Option<&'a [u8]>,
}

/// The client's side of a connection.
pub struct Client<'s> {
    transport: Transport<'s>,
    host: String,
    /// The last answer has been read to its end, and the connection goes on.
    reusable: bool,
}

impl<'s> Client<'s> {
    /// `host` goes into the Host field: `localhost` on a unix socket, `host[:port]` on TCP.
    pub fn new(
        socket: impl Socket + 's,
        host: &str,
        write_timeout: Duration,
    ) -> io::Result<Client<'s>> {
        Ok(Client {
            transport: Transport::new(Box::new(socket), write_timeout)?,
            host: host.to_owned(),
            reusable: true,
        })
    }

    /// Whether the connection can take another request: all of the last answer was read, and nothing
    /// more came.
    pub fn is_reusable(&self) -> bool {
        self.reusable && self.transport.data().is_empty()
    }

    /// Whether there is anything of an answer.
    pub fn has_answered(&self) -> bool {
        !self.transport.data().is_empty()
    }

    /// Sends a request and waits for the head of its response until `deadline`. The connection
    /// takes another request once the body has been read to its end.
    ///
    /// # Errors
    /// InvalidInput for a target or field that would break the framing, NotConnected where the
    /// last answer was not read to its end or ended the connection; else see [`Error`].
    pub fn send(
        &mut self,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<Response<'_, 's>, Error> {
        let Request { method, target, headers, body } = *request;
        let sound = is_token(method.as_bytes())
            && target.bytes().all(|b| b.is_ascii_graphic())
            && !target.is_empty()
            && headers.iter().all(|(n, v)| is_token(n.as_bytes()) && v.bytes().all(is_value_byte));
        if !sound {
            return Err(Error::Io(io::ErrorKind::InvalidInput.into()));
        }
        if !std::mem::take(&mut self.reusable) {
            return Err(Error::Io(io::ErrorKind::NotConnected.into()));
        }
        let mut out = Vec::with_capacity(512 + body.map_or(0, <[u8]>::len));
        write!(out, "{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.host)?;
        for (name, value) in headers {
            write!(out, "{name}: {value}\r\n")?;
        }
        if let Some(body) = body {
            write!(out, "Content-Length: {}\r\n", body.len())?;
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body.unwrap_or_default());
        // A server may refuse and stop reading before the body is through: its answer counts.
        self.transport.begin_message();
        let sent = self.transport.write(&out);
        let (read, head) = (sent.is_ok(), self.read_head(method, deadline));
        let head = head.map_err(|error| sent.err().map_or(error, Error::Io));
        let (status, headers, framing, last) = head?;
        let keep_alive = read && !last;
        // There may be nothing to read.
        self.reusable = keep_alive && framing == Some(BodyFraming::None);
        Ok(Response { status, headers, body: BodyReader::new(framing), keep_alive, client: self })
    }

    fn read_head(&mut self, method: &str, deadline: Instant) -> Result<Head, Error> {
        for _ in 0..=MAX_INTERIM {
            let mut scan = Scan::default();
            let length = loop {
                if let Some(length) = scan.advance(self.transport.data())? {
                    break length;
                }
                self.transport.fill(deadline)?;
            };
            let head = parse(&self.transport.data()[..length], method)?;
            self.transport.consume(length);
            if head.0 >= 200 {
                return Ok(head);
            }
        }
        Ok(bad("too many interim responses")?)
    }
}

/// Status, fields, framing (`None`: up to the end of the connection, RFC 9112 section 6.3), and whether
/// the connection ends with it (section 9.3).
type Head = (u16, Kept, Option<BodyFraming>, bool);

/// The fields of a response that anybody reads, or passes on: a body needs those that say how to read it.
pub const KEPT: [&str; 4] =
    ["Content-Type", "Content-Encoding", "Content-Disposition", "Retry-After"];

/// Their values.
type Kept = [Option<String>; KEPT.len()];

fn parse(bytes: &[u8], method: &str) -> Result<Head, Refusal> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut slots);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) | Err(_) => return bad("the head"),
    }
    let status = parsed.code.unwrap_or(0);
    if !(100..=599).contains(&status) {
        return bad("the status");
    }
    let fields = Fields::gather(parsed.headers)?;
    let bodiless = method == "HEAD" || status < 200 || matches!(status, 204 | 304);
    let framing = match fields.framing(Version::Http11)? {
        _ if bodiless => Some(BodyFraming::None),
        BodyFraming::None => None,
        known @ (BodyFraming::Length(_) | BodyFraming::Chunked) => Some(known),
    };
    // HTTP/1.0 would have to ask for more; it is not worth the trouble.
    let last = fields.close || parsed.version != Some(1) || framing.is_none();
    let value = |name: &str| {
        let field = parsed.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        field.map(|field| String::from_utf8_lossy(field.value).into_owned())
    };
    Ok((status, KEPT.map(value), framing, last))
}

/// A response whose head has come; its body is read with [`Response::body`] or [`Response::events`].
pub struct Response<'c, 's> {
    pub status: u16,
    headers: Kept,
    body: BodyReader,
    /// The connection takes another request once the body is read.
    keep_alive: bool,
    client: &'c mut Client<'s>,
}

impl<'c, 's> Response<'c, 's> {
    /// The first field of that name, which is one of [`KEPT`].
    pub fn header(&self, name: &str) -> Option<&str> {
        let at = KEPT.iter().position(|known| known.eq_ignore_ascii_case(name));
        self.headers[at?].as_deref()
    }

    /// The whole body, at most `cap` bytes, until `deadline`.
    pub fn body(mut self, cap: usize, deadline: Instant) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        self.body.read_all(&mut self.client.transport, &mut body, cap, |_| deadline)?;
        self.client.reusable = self.keep_alive;
        Ok(body)
    }

    /// Hands the body over as it comes, until `deadline`; each piece with whether more is to come, the first
    /// also where it is empty. At most `cap` bytes: of a body that is announced as longer nothing.
    pub fn pieces(
        mut self,
        cap: usize,
        deadline: Instant,
        take: &mut dyn FnMut(&[u8], bool) -> io::Result<()>,
    ) -> Result<(), Error> {
        let (mut piece, mut left, transport) = (Vec::new(), cap, &mut self.client.transport);
        loop {
            let more = self.body.read(transport, &mut piece, left, deadline)?;
            // More than the framing has come yet.
            if !piece.is_empty() || !more {
                left = left.checked_sub(piece.len()).ok_or(TOO_LARGE)?;
                self.client.reusable = !more && self.keep_alive;
                take(&piece, more)?;
                piece.clear();
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// The body as server-sent events.
    pub fn events(self) -> Events<'c, 's> {
        Events { decoded: Vec::new(), used: 0, reader: sse::Reader::default(), response: self }
    }
}

/// Server-sent events as they come.
pub struct Events<'c, 's> {
    /// Content without its framing, of which `used` bytes have been read.
    decoded: Vec<u8>,
    used: usize,
    reader: sse::Reader,
    response: Response<'c, 's>,
}

impl Events<'_, '_> {
    /// Waits for the next event until `deadline`. `None`: the stream has ended, whole.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<sse::Event>, Error> {
        loop {
            let (used, event) = self.reader.read(&self.decoded[self.used..])?;
            self.used += used;
            if event.is_some() {
                return Ok(event);
            }
            self.decoded.clear();
            self.used = 0;
            let Response { client, body, keep_alive, .. } = &mut self.response;
            let transport = &mut client.transport;
            let more = body.read(transport, &mut self.decoded, usize::MAX, deadline)?;
            if !more && self.decoded.is_empty() {
                client.reusable = *keep_alive;
                return Ok(None);
            }
        }
    }
}
