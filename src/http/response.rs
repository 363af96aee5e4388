//! Responses: what a handler says → the bytes that go out.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::request::Version;
use super::{is_token, is_value_byte};
use crate::limits::WRITE_CHUNK;
use crate::stored_text::{PLACEHOLDER, StoredText};
use crate::sys::clock::Utc;
use crate::threads::lock;

/// On every response: browsers must not guess a type, show an answer as a page or let another page
/// have it (OWASP's list for REST), and nothing here may be kept by a cache.
const SECURITY_FIELDS: &[u8] = b"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n\
    Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\n";

/// A whole response. Date, Content-Length, Connection and the security fields are added when it is
/// written; a field that could break out of its line turns the response into a bare 500.
#[derive(Debug, Default)]
pub struct Response {
    pub status: u16,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Cow<'static, [u8]>,
    /// For each [`PLACEHOLDER`] in the body, where there are any.
    extents: Vec<StoredText>,
    pub(super) close: bool,
}

impl Response {
    /// Without body and type.
    pub fn empty(status: u16) -> Response {
        Response { status, ..Response::default() }
    }

    /// Without a type.
    pub fn of(status: u16, body: impl Into<Cow<'static, [u8]>>) -> Response {
        Response { status, body: body.into(), ..Response::default() }
    }

    pub fn new(
        status: u16,
        content_type: &'static str,
        body: impl Into<Cow<'static, [u8]>>,
    ) -> Response {
        Response::of(status, body).header("Content-Type", content_type)
    }

    pub fn text(status: u16, text: impl Into<String>) -> Response {
        Response::new(status, "text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// Adds a field.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// Puts these in the places of the body, as far as there are places.
    #[must_use]
    pub fn extents(mut self, extents: &mut dyn Iterator<Item = StoredText>) -> Response {
        let places = self.body.iter().filter(|byte| **byte == PLACEHOLDER as u8).count();
        self.extents.extend(extents.take(places));
        self
    }

    /// Memory that it takes until it is sent: what it holds, and buffers for what it does not.
    pub fn held(&self) -> usize {
        self.body.len() + if self.extents.is_empty() { 0 } else { 2 * WRITE_CHUNK }
    }

    /// The parts of the body, and the extent in front of each but the first.
    pub(super) fn parts(
        &self,
        head_only: bool,
    ) -> impl Iterator<Item = (Option<&StoredText>, &[u8])> {
        let is_place = |byte: &u8| *byte == PLACEHOLDER as u8;
        let parts = self.body(head_only).splitn(self.extents.len() + 1, is_place);
        std::iter::once(None).chain(self.extents.iter().map(Some)).zip(parts)
    }

    pub(super) fn fields(mut self, more: impl Iterator<Item = (&'static str, String)>) -> Response {
        self.headers.extend(more.map(|(name, value)| (name, value.into())));
        self
    }

    /// The connection ends after this response.
    #[must_use]
    pub fn close(mut self) -> Response {
        self.close = true;
        self
    }

    /// The content, and whether any goes out to a client that asked with HEAD or got a 204 or 304.
    pub fn body(&self, head_only: bool) -> &[u8] {
        if head_only || matches!(self.status, 204 | 304) { b"" } else { &self.body }
    }

    /// All of it, without extents.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_head(&mut out, Version::Http11, false);
        out.extend_from_slice(&self.body);
        out
    }

    /// Appends the head, empty line included, for a client of this version. `streamed`: the body follows
    /// in pieces, chunked or, in HTTP/1.0, up to the end of the connection.
    pub(super) fn write_head(&self, out: &mut Vec<u8>, version: Version, streamed: bool) {
        // Whether each field stays within its line.
        let is_safe = |(name, value): &(&str, Cow<'_, str>)| {
            is_token(name.as_bytes()) && value.bytes().all(is_value_byte)
        };
        let safe = self.headers.iter().all(is_safe);
        let status = if safe { self.status } else { 500 };
        // Writing into a Vec cannot fail.
        let _ = write!(out, "HTTP/1.1 {status} {}\r\nDate: {}\r\n", phrase(status), date());
        match (streamed, version) {
            (true, Version::Http10) => {}
            (true, Version::Http11) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            (false, _) if matches!(status, 204 | 304) => {}
            (false, Version::Http10 | Version::Http11) => {
                let around = (self.body.len() - self.extents.len()) as u64;
                let length = around + self.extents.iter().map(StoredText::len).sum::<u64>();
                let _ = write!(out, "Content-Length: {length}\r\n");
            }
        }
        for (name, value) in self.headers.iter().filter(|_| safe) {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        out.extend_from_slice(SECURITY_FIELDS);
        out.extend_from_slice(match (self.close, version) {
            (true, Version::Http10 | Version::Http11) => b"Connection: close\r\n\r\n",
            (false, Version::Http10) => b"Connection: keep-alive\r\n\r\n",
            (false, Version::Http11) => b"\r\n",
        });
    }
}

/// Reason phrases (RFC 9110 section 15, RFC 6585); for people, no client reads them.
const PHRASES: &str = "\
    200 OK, 201 Created, 202 Accepted, 204 No Content, 304 Not Modified, 400 Bad Request, \
    401 Unauthorized, 403 Forbidden, 404 Not Found, 405 Method Not Allowed, \
    408 Request Timeout, 409 Conflict, 410 Gone, 411 Length Required, 413 Content Too Large, \
    414 URI Too Long, 415 Unsupported Media Type, 417 Expectation Failed, \
    421 Misdirected Request, 422 Unprocessable Content, 429 Too Many Requests, \
    431 Request Header Fields Too Large, 500 Internal Server Error, 501 Not Implemented, \
    502 Bad Gateway, 503 Service Unavailable, 504 Gateway Timeout, \
    505 HTTP Version Not Supported, 507 Insufficient Storage";

/// The time for a Date field, made once a second.
fn date() -> String {
    static LAST: Mutex<(Duration, String)> = Mutex::new((Duration::MAX, String::new()));
    let now = SystemTime::now();
    let second = Duration::from_secs(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    let mut last = lock(&LAST);
    if last.0 != second {
        *last = (second, Utc::new(now).http_date());
    }
    last.1.clone()
}

fn phrase(status: u16) -> &'static str {
    let pairs = PHRASES.split(", ").filter_map(|pair| pair.split_once(' '));
    let mut of_status = pairs.filter(|(code, _)| code.parse() == Ok(status));
    of_status.next().map_or("Unnamed", |(_, phrase)| phrase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_of(response: &Response) -> String {
        let mut out = Vec::new();
        response.write_head(&mut out, Version::Http11, false);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_response_head_is_framed() {
        let head = head_of(&Response::text(200, "hello").close());
        let (date, rest) = head.split_once("\r\nContent-Length").unwrap();
        assert!(date.starts_with("HTTP/1.1 200 OK\r\nDate: ") && date.ends_with(" GMT"));
        assert_eq!(
            rest,
            ": 5\r\nContent-Type: text/plain; charset=utf-8\r\n\
             X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n\
             Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\n\
             Connection: close\r\n\r\n"
        );
    }

    #[test]
    fn a_field_cannot_leave_its_line() {
        for value in ["a\r\nSet-Cookie: x", "a\n", "a\0", "a\r", "\x7f"] {
            let response = Response::empty(200).header("X-A", value.to_owned());
            let head = head_of(&response);
            assert!(head.starts_with("HTTP/1.1 500 "), "{value:?}");
            assert!(!head.contains("X-A") && !head.contains("Set-Cookie"), "{value:?}");
        }
        for name in ["", "X A", "X:", "X\r\nY"] {
            let head = head_of(&Response::empty(200).header(name, "v"));
            assert!(head.starts_with("HTTP/1.1 500 "), "{name:?}");
        }
    }

    #[test]
    fn no_content_has_neither_body_nor_length() {
        for status in [204, 304] {
            let response = Response::text(status, "x");
            assert!(!head_of(&response).contains("Content-Length"));
            assert_eq!(response.body(false), b"");
        }
        assert_eq!(Response::text(200, "x").body(true), b"");
    }
}
