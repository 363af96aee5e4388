//! A request whose head has been read and found acceptable.

/// RFC 9110 section 9; names are case-sensitive, so `get` is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Delete,
    Options,
    Other,
}

impl Method {
    pub fn new(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            _ => Method::Other,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// How the end of a body is found (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    None,
    Length(u64),
    Chunked,
}

/// A part of the head, by position: a head is at most 16 KiB long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    start: u16,
    length: u16,
}

impl Span {
    /// Where `part`, a slice of `whole`, lies in it.
    pub(super) fn of(whole: &[u8], part: &[u8]) -> Span {
        let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
        Span {
            start: u16::try_from(start).unwrap_or(u16::MAX),
            length: u16::try_from(part.len()).unwrap_or(0),
        }
    }

    pub(super) fn bytes(self, whole: &[u8]) -> &[u8] {
        let start = usize::from(self.start);
        whole.get(start..start + usize::from(self.length)).unwrap_or_default()
    }

    fn text(self, whole: &[u8]) -> &str {
        std::str::from_utf8(self.bytes(whole)).unwrap_or_default()
    }
}

/// A request's head. Owns its bytes, so the connection is free to read the body meanwhile.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    pub version: Version,
    pub framing: BodyFraming,
    /// The client allows another request after this one.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    pub(super) head: Box<[u8]>,
    pub(super) fields: Box<[(Span, Span)]>,
    pub(super) path: Span,
    /// The path, where there was something to decode.
    pub(super) decoded: Option<String>,
    pub(super) query: Option<Span>,
    pub(super) host: Option<Span>,
}

impl Request {
    /// The path, percent-decoded once; `*` for `OPTIONS *`. It has no `.` or `..` segment, no
    /// encoded backslash and no control character but [`SLASH`](super::SLASH), an encoded slash.
    pub fn path(&self) -> &str {
        self.decoded.as_deref().unwrap_or_else(|| self.path.text(&self.head))
    }

    /// How long its body may be, at most so many bytes.
    pub fn announced(&self, most: usize) -> usize {
        match self.framing {
            BodyFraming::None => 0,
            BodyFraming::Length(length) => usize::try_from(length).unwrap_or(most).min(most),
            BodyFraming::Chunked => most,
        }
    }

    /// What follows the `?`, as it was sent.
    pub fn query(&self) -> Option<&str> {
        self.query.map(|span| span.text(&self.head))
    }

    /// `host[:port]` of the target, else of the Host field. Always there in HTTP/1.1.
    pub fn host(&self) -> Option<&str> {
        self.host.map(|span| span.text(&self.head))
    }

    /// The first field of that name, in any case. Values may hold bytes beyond ASCII.
    /// Authorization, Content-Type, Host, Origin and the framing fields occur once at most.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Like [`Request::header`]; `None` too when the value is not UTF-8, so never take `None`
    /// for "was not sent" where that opens a door.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.header(name)?).ok()
    }

    /// All fields in their order, values without the white space around them.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|(name, value)| (name.text(&self.head), value.bytes(&self.head)))
    }
}
