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
    /// The path, percent-decoded once; `*` for `OPTIONS *`. It has no `.` or `..` segment, no
    /// encoded backslash and no control character but [`SLASH`](super::SLASH), an encoded slash.
    pub path: String,
    /// What follows the `?`, as it was sent.
    pub query: Option<String>,
    /// `host[:port]` of the target, else of the Host field. Always there in HTTP/1.1.
    pub host: Option<String>,
    pub(super) names: String,
    pub(super) values: Vec<u8>,
    /// Where the name and the value of each field end.
    pub(super) ends: Vec<(usize, usize)>,
    /// As it was sent.
    #[cfg(any(test, fuzzing))]
    pub(super) head: Box<[u8]>,
}

impl Request {
    /// How long its body may be, at most so many bytes.
    pub fn announced(&self, most: usize) -> usize {
        match self.framing {
            BodyFraming::None => 0,
            BodyFraming::Length(length) => usize::try_from(length).unwrap_or(most).min(most),
            BodyFraming::Chunked => most,
        }
    }

    /// The first field of that name, in any case. Values may hold bytes beyond ASCII.
    /// Authorization, Content-Type, Host, Origin and the framing fields occur once at most.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Like [`Request::header`]; `None` too when the value is not UTF-8, so never take `None`
    /// for "was not sent" where that allows something.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.header(name)?).ok()
    }

    /// All fields in their order, values without the white space around them.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut start = (0, 0);
        self.ends.iter().map(move |end| {
            let (name, value) = std::mem::replace(&mut start, *end);
            (&self.names[name..end.0], &self.values[value..end.1])
        })
    }
}
