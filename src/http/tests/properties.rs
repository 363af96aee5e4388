//! What must hold for any bytes at all: asked by the fuzzer (tests/fuzz), and here of what it found
//! worth to keep.

use super::super::body::Decoder;
use super::super::head;
use super::super::request::{BodyFraming, Request, Version};
use super::super::scan::Scan;
use super::super::{Refusal, sse, target};
use super::{corpus, fake};
use crate::limits::{MAX_EVENT, MAX_FIELDS, MAX_HEAD, MAX_TARGET};

/// All that a request says, in an order that can be compared.
fn told(request: &Request) -> String {
    let fields: Vec<_> = request.headers().collect();
    let Request { version, framing, keep_alive, expect_continue, .. } = request;
    let (method, path) = (corpus::method(request), &request.path);
    let line = (method, path, request.query.as_deref(), request.host.as_deref(), version);
    format!("{line:?} {framing:?} {keep_alive} {expect_continue} {fields:?}")
}

/// What came of reading a head.
type Verdict = Result<Option<(Request, usize)>, Refusal>;

/// A verdict, and how long the head was.
fn judged(verdict: &Verdict) -> Option<Result<(String, usize), Refusal>> {
    let complete = |(request, length): &(Request, usize)| (told(request), *length);
    verdict.as_ref().map(|head| head.as_ref().map(complete)).map_err(|refusal| *refusal).transpose()
}

/// A head: one verdict however it comes in, and what is accepted is harmless and says the same when
/// it is written down again.
pub fn head(bytes: &[u8]) {
    let whole = head::parse(&mut Scan::default(), bytes);
    let expected = judged(&whole);
    let mut scan = Scan::default();
    let mut seen = (1..=bytes.len()).map(|end| (end, head::parse(&mut scan, &bytes[..end])));
    let first = seen.find_map(|(end, verdict)| judged(&verdict).map(|judged| (end, judged)));
    assert_eq!(first.as_ref().map(|(_, verdict)| verdict), expected.as_ref(), "byte by byte");
    // A partial verdict is one about as many bytes as a head may have, and no more.
    assert!(expected.is_some() || bytes.len() <= MAX_HEAD);
    let Ok(Some((request, length))) = whole else { return };
    assert_eq!(first.map(|(end, _)| end), Some(length), "the verdict needed more than the head");
    harmless(&request);
    let again = written(&request, &bytes[..length]);
    let reread = head::parse(&mut Scan::default(), &again);
    let expected = Some(Ok((told(&request), again.len())));
    // White space that was trimmed may make it shorter; the space after a colon longer.
    assert!(judged(&reread) == expected || again.len() > MAX_HEAD, "{reread:?}");
}

fn harmless(request: &Request) {
    let path = &request.path;
    assert!(request.head.len() <= MAX_HEAD && path.len() <= MAX_TARGET);
    assert!(path.starts_with('/') || path == "*", "{path:?}");
    let acts = |c: char| c.is_control() && c != target::SLASH;
    assert!(!path.contains(acts) && !path.contains('\\'), "{path:?}");
    assert!(
        path.split(['/', target::SLASH]).all(|segment| segment != "." && segment != ".."),
        "{path:?}"
    );
    let host = request.host.as_deref();
    assert!(host.is_none_or(|host| target::is_authority(host.as_bytes())), "{host:?}");
    assert!(host.is_some() || request.version == Version::Http10);
    assert!(request.headers().count() <= MAX_FIELDS);
    let coded = request.header("transfer-encoding").is_some();
    let long = request.header("content-length").is_some();
    let framing = match request.framing {
        BodyFraming::None => (false, false),
        BodyFraming::Length(_) => (false, true),
        BodyFraming::Chunked => (true, false),
    };
    assert_eq!((coded, long), framing);
    for (name, value) in request.headers() {
        let bare = value.iter().all(|b| !matches!(b, b'\r' | b'\n' | 0));
        assert!(bare && value.trim_ascii() == value && !name.is_empty(), "{name:?}: {value:?}");
    }
}

/// The request line as it was, and the fields as they were understood.
fn written(request: &Request, head: &[u8]) -> Vec<u8> {
    let line = head.strip_prefix(b"\r\n").unwrap_or(head);
    let end = line.iter().position(|&byte| byte == b'\r').unwrap_or(line.len());
    let mut out = [&line[..end], b"\r\n"].concat();
    for (name, value) in request.headers() {
        out.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// The content, the bytes used, and whether it came to its end; or the content up to the refusal.
type Unchunked = Result<(Vec<u8>, usize, bool), (Vec<u8>, Refusal)>;

/// Takes the coding off in pieces.
fn unchunk(pieces: &[&[u8]], cap: usize) -> Unchunked {
    let (mut decoder, mut out, mut used) = (Decoder::default(), Vec::new(), 0);
    for piece in pieces {
        match decoder.decode(piece, &mut out, cap) {
            Ok(count) => used += count,
            Err(refusal) => return Err((out, refusal)),
        }
        assert!(out.len() <= cap && out.len() <= used);
        if decoder.is_done() {
            break;
        }
    }
    Ok((out, used, decoder.is_done()))
}

/// A chunked body: the same content and the same end however it comes in, never more than the cap.
pub fn chunked(bytes: &[u8]) {
    const CAP: usize = 4096;
    let whole = unchunk(&[bytes], CAP);
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    assert_eq!(unchunk(&[head, tail], CAP), whole, "in halves");
    for size in [1, 3] {
        let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        assert_eq!(unchunk(&pieces, CAP), whole, "in pieces of {size}");
    }
    let Ok((content, used, true)) = whole else { return };
    assert!(bytes[..used].ends_with(b"\r\n"));
    assert_eq!(unchunk(&[&bytes[..used]], CAP), Ok((content.clone(), used, true)));
    assert!(!matches!(unchunk(&[&bytes[..used - 1]], CAP), Ok((_, _, true)) | Err(_)));
    let mut coded = b"0\r\n\r\n".to_vec();
    if !content.is_empty() {
        let size = format!("{:x}\r\n", content.len());
        coded = [size.as_bytes(), &content, b"\r\n", &coded].concat();
    }
    let again = unchunk(&[&coded], CAP);
    assert_eq!(again, Ok((content, coded.len(), true)));
}

/// A whole connection: the same requests, answers and end however the bytes come in.
pub fn connection(bytes: &[u8]) {
    let whole = fake::run(&[bytes]);
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    assert_eq!(fake::run(&[head, tail]), whole, "in halves");
    for size in [1, 7] {
        let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        assert_eq!(fake::run(&pieces), whole, "in pieces of {size}");
    }
}

fn events(pieces: &[&[u8]]) -> Result<Vec<sse::Event>, Refusal> {
    let (mut reader, mut events) = (sse::Reader::default(), Vec::new());
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (used, event) = reader.read(rest)?;
            assert!(used > 0 && used <= rest.len());
            events.extend(event);
            rest = &rest[used..];
        }
    }
    Ok(events)
}

/// Server-sent events: the same however they come in, and the same when they are written again.
pub fn sse(bytes: &[u8]) {
    let whole = events(&[bytes]);
    assert_eq!(events(&bytes.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    assert_eq!(events(&[head, tail]), whole, "in halves");
    let Ok(all) = whole else { return assert!(bytes.len() > MAX_EVENT) };
    for event in all {
        let mut out = Vec::new();
        sse::write_event(&mut out, &event.name, &event.id, &event.data);
        assert_eq!(events(&[&out]), Ok(vec![event]));
    }
}

/// Inputs that the fuzzer found to lead somewhere of their own: one a line, in hexadecimal.
#[test]
fn what_the_fuzzer_kept_holds() {
    type Seeds = (&'static str, fn(&[u8]));
    let all: [Seeds; 4] = [
        (include_str!("../../../tests/fuzz/seeds/head"), head),
        (include_str!("../../../tests/fuzz/seeds/chunked"), chunked),
        (include_str!("../../../tests/fuzz/seeds/connection"), connection),
        (include_str!("../../../tests/fuzz/seeds/sse"), sse),
    ];
    for (seeds, holds) in all {
        assert!(seeds.lines().count() > 20);
        for line in seeds.lines() {
            let pairs = line.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
            let bytes: Vec<u8> = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
            holds(&bytes);
        }
    }
}

/// The properties hold for the corpus too.
#[test]
fn the_corpus_has_the_properties() {
    for case in corpus::read::all() {
        head(&case.bytes);
        chunked(&case.bytes);
        sse(&case.bytes);
        let end = case.bytes.windows(4).position(|four| four == b"\r\n\r\n");
        chunked(&case.bytes[end.map_or(0, |end| end + 4)..]);
    }
}
