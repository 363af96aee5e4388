//! Bodies: which framing is accepted, and what each makes of the bytes that follow.

use super::super::body::Decoder;
use super::{Case, hold};

#[rustfmt::skip]
const LENGTHS: &[Case] = &[
    ("a length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST / hello"),
    ("a length on GET", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "GET / hello"),
    ("length 0", b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "POST /1 | GET /2"),
    ("what follows is the next request", b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "POST /1 hello | GET /2"),
    ("line ends in a body", b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "POST /1 \r\n\r\n | GET /2"),
    ("no body without framing", b"POST /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "POST /1 | GET /2"),
    ("leading zeros", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0005\r\n\r\nhello", "POST / hello"),
    ("in 1.0", b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", "POST / hello"),
    ("cut short", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nhello", "400"),
    ("exactly the cap", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 64\r\n\r\n0123456789012345678901234567890123456789012345678901234567890123", "POST / 0123456789012345678901234567890123456789012345678901234567890123"),
    ("over the cap", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65\r\n\r\n", "413"),
    ("far over the cap", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n", "413"),
    ("overflow", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", "400"),
    ("a plus (CVE-2021-32715)", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", "400"),
    ("a minus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello", "400"),
    ("hexadecimal", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", "400"),
    ("underscore", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nhellohello", "400"),
    ("a fraction", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\nhello", "400"),
    ("a space within", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 0\r\n\r\nhellohello", "400"),
    ("empty", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", "400"),
    ("a word", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: five\r\n\r\nhello", "400"),
    ("digits beyond ASCII", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xd9\xa5\r\n\r\nhello", "400"),
    ("a list", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", "400"),
    ("a list that ends in a comma", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,\r\n\r\nhello", "400"),
    ("twice", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "400"),
    ("twice and equal", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\nhello", "400"),
    ("VT before it", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \x0b5\r\n\r\nhello", "400"),
    ("space before the colon", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello", "400"),
    ("expected and sent", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\nhello", "POST / hello"),
    ("expected without a body", b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", "GET /"),
    ("expected in 1.0", b"POST / HTTP/1.0\r\nExpect: tea\r\nContent-Length: 5\r\n\r\nhello", "POST / hello"),
    ("another expectation", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: tea\r\n\r\nhello", "417"),
    ("two expectations", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue, tea\r\n\r\nhello", "417"),
];

#[rustfmt::skip]
const CODINGS: &[Case] = &[
    ("chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "POST / hello"),
    ("names are case-insensitive", b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n", "POST /"),
    ("with a length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
    ("with a length after it", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "400"),
    ("with length 0", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", "400"),
    ("unknown with a length", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n", "400"),
    ("in 1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
    ("identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", "501"),
    ("gzip", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "501"),
    ("gzip and chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"),
    ("gzip and chunked in two lines", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
    ("chunked twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "400"),
    ("chunked in two lines", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
    ("chunked not last", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", "400"),
    ("chunked and identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400"),
    ("almost chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "501"),
    ("with a parameter", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;x=1\r\n\r\n0\r\n\r\n", "400"),
    ("a comma before", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", "400"),
    ("a comma after", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", "400"),
    ("in quotes", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", "400"),
    ("empty", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", "400"),
    ("VT before it", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "400"),
    ("space before the colon", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400"),
    ("a folded value", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", "400"),
];

/// The head that comes before each case of [`CHUNKS`].
const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[rustfmt::skip]
const CHUNKS: &[Case] = &[
    ("empty", b"0\r\n\r\n", "POST /"),
    ("two chunks", b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "POST / hello world"),
    ("what follows is the next request", b"1\r\nx\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "POST / x | GET /2"),
    ("upper and lower digits", b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "POST / 01234567890123456789"),
    ("leading zeros", b"0005\r\nhello\r\n000\r\n\r\n", "POST / hello"),
    ("sixteen digits", b"0000000000000005\r\nhello\r\n0\r\n\r\n", "POST / hello"),
    ("seventeen digits", b"00000000000000005\r\nhello\r\n0\r\n\r\n", "400"),
    ("overflow", b"10000000000000005\r\nhello\r\n0\r\n\r\n", "400"),
    ("the largest size", b"ffffffffffffffff\r\n", "413"),
    ("over the cap at once", b"41\r\nx", "413"),
    ("over the cap in sum", b"40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n1\r\nx\r\n0\r\n\r\n", "413"),
    ("0x (CVE-2023-38697)", b"0x5\r\nhello\r\n0\r\n\r\n", "400"),
    ("plus", b"+5\r\nhello\r\n0\r\n\r\n", "400"),
    ("minus", b"-5\r\nhello\r\n0\r\n\r\n", "400"),
    ("underscore", b"0_5\r\nhello\r\n0\r\n\r\n", "400"),
    ("space before", b" 5\r\nhello\r\n0\r\n\r\n", "400"),
    ("space after", b"5 \r\nhello\r\n0\r\n\r\n", "400"),
    ("tab after", b"5\t\r\nhello\r\n0\r\n\r\n", "400"),
    ("no size", b"\r\nhello\r\n0\r\n\r\n", "400"),
    ("no digit", b"g\r\nhello\r\n0\r\n\r\n", "400"),
    ("size ends in a bare LF", b"5\nhello\r\n0\r\n\r\n", "400"),
    ("size ends in a bare CR", b"5\rhello\r\n0\r\n\r\n", "400"),
    ("NUL after the size", b"5\0\r\nhello\r\n0\r\n\r\n", "400"),
    ("longer than its size", b"4\r\nhello\r\n0\r\n\r\n", "400"),
    ("shorter than its size", b"6\r\nhello\r\n0\r\n\r\n", "400"),
    ("no line end after the data", b"5\r\nhello0\r\n\r\n", "400"),
    ("a bare LF after the data", b"5\r\nhello\n0\r\n\r\n", "400"),
    ("two bytes instead of CR LF", b"5\r\nhelloXX0\r\n\r\n", "400"),
    ("cut short in the size", b"5", "400"),
    ("cut short in the data", b"5\r\nhell", "400"),
    ("cut short before the last chunk", b"5\r\nhello\r\n", "400"),
    ("cut short before the last line", b"5\r\nhello\r\n0\r\n", "400"),
    ("extension", b"5;a\r\nhello\r\n0;b=c;d=\"e\\\"; f\"\r\n\r\n", "POST / hello"),
    ("extension without a name", b"5;\r\nhello\r\n0\r\n\r\n", "400"),
    ("extension without a value", b"5;a=\r\nhello\r\n0\r\n\r\n", "400"),
    ("extension with a space", b"5; a\r\nhello\r\n0\r\n\r\n", "400"),
    ("extension after a space", b"5 ;a\r\nhello\r\n0\r\n\r\n", "400"),
    ("extension without a semicolon", b"5 a\r\nhello\r\n0\r\n\r\n", "400"),
    ("bare CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n", "400"),
    ("bare LF in an extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n", "400"),
    ("bare LF ends an extension", b"5;a\nhello\r\n0\r\n\r\n", "400"),
    ("CR LF in quotes", b"5;a=\"\r\nhello\r\n0\r\n\r\n", "400"),
    ("NUL in quotes", b"5;a=\"\0\"\r\nhello\r\n0\r\n\r\n", "400"),
    ("escaped LF in quotes", b"5;a=\"\\\n\"\r\nhello\r\n0\r\n\r\n", "400"),
    ("more after quotes", b"5;a=\"b\"c\r\nhello\r\n0\r\n\r\n", "400"),
    ("trailers are dropped", b"0\r\nX: y\r\nContent-Length: 9\r\nZ:\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "POST / | GET /2"),
    ("trailer without a colon", b"0\r\nX\r\n\r\n", "400"),
    ("trailer without a name", b"0\r\n: y\r\n\r\n", "400"),
    ("trailer with a space", b"0\r\nX : y\r\n\r\n", "400"),
    ("folded trailer", b"0\r\nX: y\r\n z\r\n\r\n", "400"),
    ("bare LF in a trailer", b"0\r\nX: y\nZ: z\r\n\r\n", "400"),
    ("bare LF at the end", b"0\r\n\n", "400"),
    ("bare CR at the end", b"0\r\n\rGET", "400"),
    ("NUL in a trailer", b"0\r\nX: \0\r\n\r\n", "400"),
    ("a request in place of the end", b"0\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
];

/// The cases of [`CHUNKS`] as whole requests.
fn chunk_cases() -> Vec<Case> {
    let with_head = |&(name, bytes, expected): &Case| -> Case {
        (name, [CHUNKED, bytes].concat().leak(), expected)
    };
    CHUNKS.iter().map(with_head).collect()
}

pub fn all() -> impl Iterator<Item = Case> {
    LENGTHS.iter().chain(CODINGS).copied().chain(chunk_cases())
}

#[test]
fn content_lengths_are_parsed_strictly() {
    hold(LENGTHS);
}

#[test]
fn transfer_codings_are_parsed_strictly() {
    hold(CODINGS);
}

#[test]
fn chunks_are_parsed_strictly() {
    hold(&chunk_cases());
}

/// A client that sends something else may wait with the line end for ever.
#[test]
fn what_begins_no_chunk_is_refused_before_its_line_ends() {
    for (bytes, good) in [("{\"a\":1}", 0), ("5 ", 1), ("xyz", 0), ("11111111111111111", 16)] {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        assert_eq!(decoder.decode(&bytes.as_bytes()[..good], &mut out, 100), Ok(good), "{bytes}");
        let refused = decoder.decode(&bytes.as_bytes()[good..], &mut out, 100).unwrap_err();
        assert_eq!(refused.status, 400, "{bytes}");
    }
}
