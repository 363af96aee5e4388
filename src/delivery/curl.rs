//! Callbacks over https, by the system's curl: no TLS is linked. What could be secret, the URL, the
//! headers and the body, goes to its stdin as a configuration (curl(1), `--config`), nothing to its
//! arguments, which all users can read.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Sent;
use super::callback::Post;
use super::judge::{Seen, judge, quoting};
use crate::limits::{
    CONNECT_PATIENCE, CURL_MARGIN, CURL_PIECE, KILL_AFTER, MAX_CURL_OUTPUT, MAX_STDERR_TAIL,
};
use crate::subprocess::{Children, How, Order, Program, converse, environment, find_program};

pub fn send(post: &Post<'_>, children: &Arc<Children>, cut: BorrowedFd<'_>) -> Sent {
    let trouble = |why: &str| judge(Seen::Trouble(why), post.now);
    let curl = match find_program("curl") {
        Ok(curl) => curl,
        Err(e) => return trouble(&format!("https takes curl: {e}")),
    };
    // -q: no .curlrc, and only as the first.
    let environment = environment(&post.target.env, &post.target.pass_env);
    let curl = Program::with_environment(curl, environment).args(["-q", "--config", "-"]);
    let input = configuration(post, "https");
    let order = Order {
        input: Some(&input),
        own_group: true,
        shielded: false,
        deadline: Instant::now() + post.target.timeout + CURL_MARGIN,
        grace: KILL_AFTER,
        cut: Some(cut),
        limits: (MAX_CURL_OUTPUT, MAX_STDERR_TAIL),
    };
    let ended = match converse(children, &curl, order) {
        Ok(ended) => ended,
        Err(e) => return trouble(&format!("curl cannot be run: {e}")),
    };
    if let How::Cut = ended.how {
        return Sent::Cut;
    }
    match response(&String::from_utf8_lossy(&ended.stdout)) {
        Some((status, after)) => judge(Seen::Response(status, after), post.now),
        None => trouble(&quoting("no answer", &ended.stderr)),
    }
}

/// The heads go to stdout, and nothing else does. `scheme` is the only one that it may speak.
fn configuration(post: &Post<'_>, scheme: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(post.body.len() + 2048);
    for flag in ["silent", "show-error", "globoff", "path-as-is", "suppress-connect-headers"] {
        text.extend_from_slice(flag.as_bytes());
        text.push(b'\n');
    }
    let timeout = post.target.timeout;
    let mut put = |name: &str, value: &[u8]| setting(&mut text, name, value);
    put("proto", format!("={scheme}").as_bytes());
    put("output", b"/dev/null");
    put("dump-header", b"-");
    put("max-time", seconds(timeout).as_bytes());
    put("connect-timeout", seconds(timeout.min(CONNECT_PATIENCE)).as_bytes());
    put("url", post.url.to_string().as_bytes());
    for (name, value) in &post.headers {
        put("header", format!("{name}: {value}").as_bytes());
    }
    // Not "Expect: 100-continue", at which some servers stumble and others wait.
    put("header", b"Expect:");
    // Older ones take lines of 100 KiB. Pieces of `json` are joined as they are, but that takes curl
    // 7.82; `data-binary`, of one piece, works for short replies with any.
    let pieces = post.body.as_bytes().chunks(CURL_PIECE);
    let option = if pieces.len() > 1 { "json" } else { "data-binary" };
    for piece in pieces {
        put(option, piece);
    }
    text
}

fn seconds(time: Duration) -> String {
    format!("{}.{:03}", time.as_secs(), time.subsec_millis())
}

/// `name = "value"`: in quotes a backslash takes its special sense from the next character, and
/// only a line feed ends the line.
fn setting(text: &mut Vec<u8>, name: &str, value: &[u8]) {
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b" = \"");
    for byte in value {
        match byte {
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\r' => text.extend_from_slice(b"\\r"),
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', *byte]),
            _ => text.push(*byte),
        }
    }
    text.extend_from_slice(b"\"\n");
}

/// The last response's status and Retry-After: interim ones come before it.
fn response(heads: &str) -> Option<(u16, Option<&str>)> {
    let mut found = None;
    for line in heads.lines() {
        if line.starts_with("HTTP/") {
            let status = line.split(' ').nth(1)?.parse().ok()?;
            found = Some((status, None)).filter(|_| status >= 200);
        } else if let Some((status, _)) = found
            && let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("retry-after")
        {
            found = Some((status, Some(value.trim())));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Target, Url};
    use crate::delivery::tests::{PARCEL, Server};
    use std::time::UNIX_EPOCH;

    #[test]
    fn nothing_leaves_its_quotes() {
        let mut text = Vec::new();
        setting(&mut text, "url", b"a\"\\b\r\nproto = \"=file\"\tc");
        assert_eq!(text, b"url = \"a\\\"\\\\b\\r\\nproto = \\\"=file\\\"\tc\"\n");
    }

    #[test]
    fn heads() {
        assert_eq!(response("HTTP/1.1 200 OK\r\nA: b\r\n\r\n"), Some((200, None)));
        let interim = "HTTP/1.1 100 Continue\r\nRetry-After: 1\r\n\r\n";
        assert_eq!(response(interim), None);
        let busy = "HTTP/2 503 \r\nretry-after: 7\r\n\r\n";
        assert_eq!(response(&format!("{interim}{busy}")), Some((503, Some("7"))));
        assert_eq!(response(""), None);
        assert_eq!(response("HTTP/1.1\r\n"), None);
    }

    /// The same configuration, but over plain HTTP: what curl makes of it.
    fn through_curl(text: &str) -> (String, String) {
        let server =
            Server::start("HTTP/1.1 429 No\r\nRetry-After: 9\r\nContent-Length: 2\r\n\r\nno");
        let target = Target::new("hook");
        let url = Url::parse(&format!("http://{}/a/../b?c=d", server.address)).unwrap();
        let parcel = crate::delivery::Parcel { text, ..PARCEL };
        let post = Post::new(&target, &url, &parcel, UNIX_EPOCH);
        let program = Program::with_environment(find_program("curl").unwrap(), Vec::new());
        let input = configuration(&post, "http");
        let order = Order {
            input: Some(&input),
            own_group: true,
            shielded: false,
            deadline: Instant::now() + Duration::from_secs(20),
            grace: Duration::ZERO,
            cut: None,
            limits: (MAX_CURL_OUTPUT, 1000),
        };
        let ended =
            converse(&Children::new(), &program.args(["-q", "--config", "-"]), order).unwrap();
        let heads = String::from_utf8(ended.stdout).unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(response(&heads), Some((429, Some("9"))), "{heads}{said}");
        (server.request(), post.body)
    }

    #[test]
    fn curl_sends_what_it_is_given() {
        if find_program("curl").is_err() {
            return;
        }
        let long = "\u{1}\"\\\n@äß€".repeat(30_000);
        for text in ["@/etc/passwd", "\"\n\\x\ty\r", &long] {
            let (request, body) = through_curl(text);
            let (head, sent) = request.split_once("\r\n\r\n").unwrap();
            assert!(sent == body, "{} bytes for {}", sent.len(), body.len());
            assert!(head.starts_with("POST /a/../b?c=d HTTP/1.1\r\n"), "{head}");
            let head = head.to_ascii_lowercase();
            assert!(head.contains("\r\nwebhook-id: 01j\r\n") && !head.contains("expect"), "{head}");
            assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
        }
    }
}
