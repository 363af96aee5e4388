//! Heads: the request line, the fields, what they say about framing.

use super::{Case, hold};

#[rustfmt::skip]
const REQUEST_LINES: &[Case] = &[
    ("plain", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /"),
    ("nothing", b"", "-"),
    ("only an empty line", b"\r\n", "-"),
    ("only a CR", b"\r", "-"),
    ("an empty line first", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /"),
    ("an empty line between", b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /1 | GET /2"),
    ("two empty lines first", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("a bare LF first", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("a space first", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("cut short in the line", b"GET / HT", "400"),
    ("cut short in a field", b"GET / HTTP/1.1\r\nHost: a\r\n", "400"),
    ("pipelined", b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nHEAD /2 HTTP/1.1\r\nHost: a\r\n\r\nDELETE /3 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /1 | HEAD /2 | DELETE /3"),
    ("bad after good", b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2\r\n\r\n", "GET /1 | 400"),
    ("nothing after bad", b"GET /1\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("nothing after close", b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /1"),
    ("close among options", b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: TE , Close\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /1"),
    ("close outranks keep-alive", b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /1"),
    ("no version", b"GET /\r\nHost: a\r\n\r\n", "400"),
    ("1.0", b"GET /1 HTTP/1.0\r\n\r\nGET /2 HTTP/1.0\r\n\r\n", "GET /1"),
    ("1.0 that stays", b"GET /1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n", "GET /1 | GET /2"),
    ("version 2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505"),
    ("version 1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "505"),
    ("version 0.9", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", "505"),
    ("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
    ("version 1.10", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", "400"),
    ("version 1", b"GET / HTTP/1\r\nHost: a\r\n\r\n", "400"),
    ("version in lower case", b"GET / http/1.1\r\nHost: a\r\n\r\n", "400"),
    ("another protocol", b"GET / ICE/1.1\r\nHost: a\r\n\r\n", "400"),
    ("a space after the version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "400"),
    ("two spaces", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("two spaces before the version", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("a tab for a space", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("a space in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("method in lower case is another", b"get / HTTP/1.1\r\nHost: a\r\n\r\n", "other /"),
    ("unknown method", b"BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n", "other /pot"),
    ("method with a colon", b"GE:T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("method with a slash", b"GE/T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("no method", b" / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("method beyond ASCII", b"G\xc3\x84T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "501"),
    ("a bare CR in the line", b"GET /\rHTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("CR CR LF", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", "400"),
    ("a bare LF ends the line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", "400"),
    ("only bare LFs", b"GET / HTTP/1.1\nHost: a\n\n", "400"),
    ("the last line end bare", b"GET / HTTP/1.1\r\nHost: a\r\n\n", "400"),
    ("NUL in the line", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("TLS instead", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"),
];

#[rustfmt::skip]
const TARGETS: &[Case] = &[
    ("query", b"GET /a?b=c&d=%20? HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?b=c&d=%20?"),
    ("empty query", b"GET /a? HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?"),
    ("decoded once", b"GET /a%2541%20b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a%41 b"),
    ("decoded text", b"GET /%c3%a4/b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /\u{e4}/b"),
    ("pchar", b"GET /-._~:@!$&'()*+,;= HTTP/1.1\r\nHost: a\r\n\r\n", "GET /-._~:@!$&'()*+,;="),
    ("empty segments stay", b"GET //a// HTTP/1.1\r\nHost: a\r\n\r\n", "GET //a//"),
    ("percent and nothing", b"GET /a% HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("percent and one digit", b"GET /a%4 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("percent and no digits", b"GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("percent and a sign", b"GET /a%+1 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("encoded NUL", b"GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("encoded LF", b"GET /a%0a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("encoded DEL", b"GET /a%7F HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("encoded C1 control", b"GET /a%c2%85 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("dots behind an encoded slash", b"GET /a%2F.. HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("encoded NUL", b"GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("encoded backslash", b"GET /a%5cb HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("overlong slash", b"GET /a%c0%af HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("not UTF-8 when decoded", b"GET /a%ff HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("dot segments", b"GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("a dot segment at the end", b"GET /a/. HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("encoded dot segments", b"GET /a/%2e%2E/b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("names that begin with dots", b"GET /.a/..b/... HTTP/1.1\r\nHost: a\r\n\r\n", "GET /.a/..b/..."),
    ("dots in the query", b"GET /a?/../b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?/../b"),
    ("fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("fragment in the query", b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("beyond ASCII", b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("beyond ASCII in the query", b"GET /?\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("backslash", b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("DEL", b"GET /a\x7f HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("no slash", b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("absolute", b"GET http://b:80/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x?y"),
    ("absolute, no path", b"GET HTTP://b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /"),
    ("absolute, query only", b"GET http://b?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?y"),
    ("absolute without Host", b"GET http://b/ HTTP/1.1\r\n\r\n", "400"),
    ("absolute with a user", b"GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("absolute without a host", b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("absolute, bad port", b"GET http://b:x/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("another scheme", b"GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("authority form", b"GET b:80 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS *"),
    ("GET *", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
];

#[rustfmt::skip]
const FIELDS: &[Case] = &[
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", "400"),
    ("empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "400"),
    ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", "400"),
    ("two equal Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
    ("two Hosts in 1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
    ("bad Host in 1.0", b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n", "400"),
    ("Host with a user", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400"),
    ("Host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400"),
    ("Host with a comma", b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", "400"),
    ("Host with a space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
    ("Host with a port", b"GET / HTTP/1.1\r\nHost: a.b_c-d:8642\r\n\r\n", "GET /"),
    ("Host with an empty port", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "400"),
    ("Host with a signed port", b"GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n", "400"),
    ("Host with a large port", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "400"),
    ("Host with two ports", b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", "400"),
    ("Host is IPv6", b"GET / HTTP/1.1\r\nHost: [::1]:8642\r\n\r\n", "GET /"),
    ("Host is bare IPv6", b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", "400"),
    ("Host is half IPv6", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "400"),
    ("Host is IPv6 and more", b"GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", "400"),
    ("white space around values", b"GET / HTTP/1.1\r\nHost: \t a\t \r\n\r\n", "GET /"),
    ("no white space", b"GET / HTTP/1.1\r\nHost:a\r\n\r\n", "GET /"),
    ("empty value", b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \r\n\r\n", "GET /"),
    ("bytes beyond ASCII in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe4\xff\r\n\r\n", "GET /"),
    ("space before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
    ("tab before the colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\t: y\r\n\r\n", "400"),
    ("space before the first name", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400"),
    ("folded", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", "400"),
    ("folded by a tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n", "400"),
    ("a line of spaces", b"GET / HTTP/1.1\r\nHost: a\r\n  \r\n\r\n", "400"),
    ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", "400"),
    ("no name", b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", "400"),
    ("name beyond ASCII", b"GET / HTTP/1.1\r\nHost: a\r\nX\xe4: y\r\n\r\n", "400"),
    ("name with a space", b"GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n", "400"),
    ("name in quotes", b"GET / HTTP/1.1\r\nHost: a\r\n\"X\": z\r\n\r\n", "400"),
    ("NUL in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n", "400"),
    ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\0\r\n\r\n", "400"),
    ("VT in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x0by\r\n\r\n", "400"),
    ("DEL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", "400"),
    ("a bare CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rZ: z\r\n\r\n", "400"),
    ("a bare LF in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\nZ: z\r\n\r\n", "400"),
    ("two Authorizations", b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\nAuthorization: x\r\n\r\n", "400"),
    ("two Origins", b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: x\r\nOrigin: y\r\n\r\n", "400"),
    ("other fields may repeat", b"GET / HTTP/1.1\r\nHost: a\r\nAccept: x\r\nAccept: y\r\n\r\n", "GET /"),
    ("upgrades are ignored", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n", "GET /"),
];

pub fn all() -> impl Iterator<Item = Case> {
    REQUEST_LINES.iter().chain(TARGETS).chain(FIELDS).copied()
}

#[test]
fn request_lines_are_parsed_strictly() {
    hold(REQUEST_LINES);
}

#[test]
fn request_targets_are_parsed_strictly() {
    hold(TARGETS);
}

#[test]
fn fields_are_parsed_strictly() {
    hold(FIELDS);
}
