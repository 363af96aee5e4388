//! The request target (RFC 9112 section 3.2): its forms, its authority, its path decoded once.
//!
//! Refused rather than interpreted: an encoded backslash and `.` or `..` segments, since a proxy in
//! front and a route behind could read them differently. An encoded slash separates nothing: it is
//! [`SLASH`] in what is decoded.

use std::net::Ipv6Addr;

use super::{Refusal, bad, number};

/// An encoded slash (`%2F`), which belongs to a name in the path; no other control character is in one.
pub const SLASH: char = '\0';

/// A target's authority, path and query. The path is still encoded, and empty for an absolute form
/// without one.
pub type Parts<'a> = (Option<&'a str>, &'a str, Option<&'a str>);

/// Takes `target` apart. `options`: the method is OPTIONS, which may ask for `*`.
pub fn split(target: &str, options: bool) -> Result<Parts<'_>, Refusal> {
    if target == "*" && options {
        return Ok((None, target, None));
    }
    if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return bad("The target has a fragment or a character that must be percent-encoded.");
    }
    let (authority, rest) = if target.starts_with('/') {
        (None, target)
    } else {
        let (scheme, rest) = target
            .split_once("://")
            .ok_or(Refusal::new(400, "The target is not a path or http:// URL."))?;
        if !scheme.eq_ignore_ascii_case("http") {
            return bad("The target's scheme is not http.");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if !is_authority(authority.as_bytes()) {
            return bad("The target's host is not valid.");
        }
        (Some(authority), rest)
    };
    let parts = rest.split_once('?');
    let (path, query) = parts.map_or((rest, None), |(path, query)| (path, Some(query)));
    Ok((authority, path, query))
}

/// Decodes `%XX` once; `None` where there is nothing to decode.
pub fn decode(path: &str) -> Result<Option<String>, Refusal> {
    // pchar, and the slash (RFC 3986 section 3.3).
    let is_path_byte = |b: u8| b.is_ascii_alphanumeric() || b"/-._~:@!$&'()*+,;=%".contains(&b);
    if !path.bytes().all(is_path_byte) {
        return bad("The path has a character that must be percent-encoded.");
    }
    let decoded = if path.contains('%') { Some(decode_percent(path.as_bytes())?) } else { None };
    let segments = decoded.as_deref().unwrap_or(path);
    if has_dot_segment(segments) {
        return bad("The path has . or .. segments.");
    }
    Ok(decoded)
}

/// Whether a part between slashes is `.` or `..`, which clients and proxies take out of a path.
pub fn has_dot_segment(path: &str) -> bool {
    path.contains('.') && path.split(['/', SLASH]).any(|part| part == "." || part == "..")
}

fn decode_percent(path: &[u8]) -> Result<String, Refusal> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = (bytes.next().and_then(hex), bytes.next().and_then(hex));
        let (Some(high), Some(low)) = digits else {
            return bad("A % in the path is not followed by two hexadecimal digits.");
        };
        match high << 4 | low {
            b'\\' => return bad("The path has an encoded backslash."),
            0 => return bad("The decoded path has control characters."),
            b'/' => out.push(SLASH as u8),
            byte => out.push(byte),
        }
    }
    let refusal = Refusal::new(400, "The decoded path is not UTF-8 text.");
    let text = String::from_utf8(out).map_err(|_| refusal)?;
    if text.contains(|c: char| c.is_control() && c != SLASH) {
        return bad("The decoded path has control characters.");
    }
    Ok(text)
}

/// `host[:port]` of RFC 9110 section 7.2, narrower: a name of letters, digits, `-`, `.`, `_`,
/// `~`, or an IPv6 address in brackets; no user, and a port, where there is a colon.
pub fn is_authority(authority: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(authority) else { return false };
    let (host_is_valid, rest) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else { return false };
        (address.parse::<Ipv6Addr>().is_ok(), rest)
    } else {
        let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        // 255: RFC 1035 section 2.3.4.
        ((1..=255).contains(&host.len()) && host.bytes().all(allowed), rest)
    };
    let port = || number(rest.strip_prefix(':')?.as_bytes());
    host_is_valid && (rest.is_empty() || port().is_some_and(|port| port <= u16::MAX.into()))
}

/// The value of a hexadecimal digit.
pub fn hex(digit: &u8) -> Option<u8> {
    u8::try_from(char::from(*digit).to_digit(16)?).ok()
}
