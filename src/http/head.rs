//! Request heads: bytes → [`Request`], or the reason why not. Pure.
//!
//! `httparse` reads lines and fields; what it tolerates and what frames the body is judged here
//! (RFC 9112; shared facts: every bug named there was a parser that was kinder than its neighbour).

use std::mem::MaybeUninit;

use super::request::{BodyFraming, Method, Request, Version};
use super::scan::Scan;
use super::{Refusal, bad, is_token, number, target};
use crate::limits::{MAX_FIELDS, MAX_TARGET};
use crate::sys::gather::Gather;

/// Reads a head, with its length, from the beginning of `bytes`, which must start with all that earlier
/// calls with the same `scan` were given. `None`: it has not come to its end.
///
/// Out of line, as whatever takes much of the stack: that of a connection which waits is to be small.
#[inline(never)]
pub fn parse(scan: &mut Scan, bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    let Some(length) = scan.advance(bytes)? else { return Ok(None) };
    read(&bytes[..length]).map(|request| Some((request, length)))
}

fn read(head: &[u8]) -> Result<Request, Refusal> {
    let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut slots) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return bad("The request head is malformed."),
        Err(error) => return Err(explain(error, head)),
    }
    let (Some(method), Some(uri), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return bad("The request line is malformed.");
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    if method == "CONNECT" {
        return Err(Refusal::new(501, "CONNECT is not supported: this is not a proxy."));
    }
    if uri.len() > MAX_TARGET {
        return Err(Refusal::new(414, "The target is longer than 8 KiB."));
    }
    let method = Method::new(method);
    let (authority, path, query) = target::split(uri, method == Method::Options)?;
    // An http URL with an empty path means the root (RFC 9110 section 4.2.3).
    let path = if path.is_empty() { "/" } else { path };
    let path = target::decode(path)?.unwrap_or_else(|| path.to_owned());
    let fields = Fields::gather(parsed.headers)?;
    let host = fields.host(version)?;
    let framing = fields.framing(version)?;
    // The target's host outranks the field (RFC 9112 section 3.2.2).
    let host = authority.map(str::as_bytes).or(host);
    let (mut names, mut values) = (String::new(), Vec::with_capacity(head.len()));
    let mut add = |field: &httparse::Header<'_>| {
        names += field.name;
        values.extend_from_slice(field.value);
        (names.len(), values.len())
    };
    let ends = parsed.headers.iter().map(&mut add).gather();
    Ok(Request {
        method,
        version,
        framing,
        keep_alive: !fields.close && (version == Version::Http11 || fields.persist),
        expect_continue: fields.expect_continue(version)? && framing != BodyFraming::None,
        path,
        query: query.map(str::to_owned),
        host: host.map(|host| String::from_utf8_lossy(host).into_owned()),
        names,
        values,
        ends,
        #[cfg(any(test, fuzzing))]
        head: head.into(),
    })
}

/// A reader of the first and a reader of the last of two would differ.
const ONCE: [&str; 7] = [
    "host",
    "content-length",
    "transfer-encoding",
    "expect",
    "authorization",
    "content-type",
    "origin",
];

/// The fields that frame a message or that two readers must not read differently.
pub struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    coding: Option<&'a [u8]>,
    expect: Option<&'a [u8]>,
    pub close: bool,
    persist: bool,
}

impl<'a> Fields<'a> {
    pub fn gather(fields: &[httparse::Header<'a>]) -> Result<Fields<'a>, Refusal> {
        let mut once = [None; ONCE.len()];
        let (mut close, mut persist) = (false, false);
        for field in fields {
            let known = ONCE.iter().position(|name| field.name.eq_ignore_ascii_case(name));
            // Twice is refused where the values are equal too: a proxy in front may have used the
            // first and a reader behind us the last.
            if known.is_some_and(|at| once[at].replace(field.value).is_some()) {
                return bad("A header field that may occur once occurs twice.");
            }
            if field.name.eq_ignore_ascii_case("connection") {
                for option in field.value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                    close |= option.eq_ignore_ascii_case(b"close");
                    persist |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        let [host, length, coding, expect, ..] = once;
        Ok(Fields { host, length, coding, expect, close, persist })
    }

    fn host(&self, version: Version) -> Result<Option<&'a [u8]>, Refusal> {
        match (self.host, version) {
            (Some(host), _) if !target::is_authority(host) => bad("The Host is not valid."),
            (None, Version::Http11) => bad("The Host header is missing."),
            (host, Version::Http10 | Version::Http11) => Ok(host),
        }
    }

    /// RFC 9112 section 6.3, without the choices that it leaves to a server.
    pub fn framing(&self, version: Version) -> Result<BodyFraming, Refusal> {
        match (self.length, self.coding, version) {
            (None, None, _) => Ok(BodyFraming::None),
            (Some(length), None, _) => number(length)
                .map(BodyFraming::Length)
                .ok_or(Refusal::new(400, "The Content-Length is not a number.")),
            (Some(_), Some(_), _) => bad("Both Content-Length and Transfer-Encoding."),
            (None, Some(_), Version::Http10) => bad("Transfer-Encoding in HTTP/1.0."),
            (None, Some(coding), Version::Http11) => {
                transfer_coding(coding).map(|()| BodyFraming::Chunked)
            }
        }
    }

    /// RFC 9110 section 10.1.1: an expectation in HTTP/1.0 is ignored.
    fn expect_continue(&self, version: Version) -> Result<bool, Refusal> {
        match self.expect.filter(|_| version == Version::Http11) {
            Some(what) if !what.eq_ignore_ascii_case(b"100-continue") => {
                Err(Refusal::new(417, "The only supported Expect is 100-continue."))
            }
            expect => Ok(expect.is_some()),
        }
    }
}

/// `chunked` and nothing else.
fn transfer_coding(value: &[u8]) -> Result<(), Refusal> {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if is_chunked(value) {
        return Ok(());
    }
    let mut codings = value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    let last = codings.next_back().unwrap_or_default();
    if !is_token(last) || !codings.clone().all(is_token) || codings.any(is_chunked) {
        return bad("The Transfer-Encoding is malformed.");
    }
    Err(Refusal::new(501, "The only supported Transfer-Encoding is chunked."))
}

/// Turns the reader's error into ours.
fn explain(error: httparse::Error, head: &[u8]) -> Refusal {
    let reason = match error {
        httparse::Error::Version if names_other_version(head) => {
            return Refusal::new(505, "The only supported versions are HTTP/1.1 and HTTP/1.0.");
        }
        httparse::Error::HeaderName => "A header field's name is malformed.",
        httparse::Error::HeaderValue => "A header field's value is malformed.",
        // The scan has counted the fields.
        _ => "The request line is malformed.",
    };
    Refusal::new(400, reason)
}

/// Whether the request line has three parts and the last is a well-formed version (`HTTP/2.0`).
fn names_other_version(head: &[u8]) -> bool {
    let line = head.strip_prefix(b"\r\n").unwrap_or(head);
    let line = line.split(|&b| b == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|&b| b == b' ').skip(2);
    let digits = parts.next().and_then(|version| version.strip_prefix(b"HTTP/"));
    let is_version = matches!(digits, Some([b'0'..=b'9', b'.', b'0'..=b'9']));
    is_version && parts.next().is_none()
}
