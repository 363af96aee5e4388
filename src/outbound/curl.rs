//! https, by the system's curl: no TLS is linked. What could be secret goes to it by its stdin, URL and
//! headers as a configuration (curl(1), `--config`), and by a file in memory, the body; nothing by its
//! arguments, which all users can read. Its stdout is the response as it came, which [`Client`] reads like any other.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::{Client, Request};
use crate::cancel::Cancel;
use crate::config::Url;
use crate::escape::{one_line, quoting};
use crate::http::Socket;
use crate::limits::{CONNECT_TIMEOUT, MAX_STDERR_TAIL, WRITE_TIMEOUT};
use crate::subprocess::{
    Child, ChildEvent, ChildKind, Children, Environment, ExitReason, Program, RunOptions,
    find_program, keep_tail,
};
use crate::sys::fd::memory_file;
use crate::sys::process::Status;

/// Between the end that we make and curl's own time-out, which is for a gateway that has died.
const CURL_MARGIN: Duration = Duration::from_secs(1);

/// Its exit statuses that say that there was no connection on which the request could have gone (libcurl-errors(3)):
/// no name, no TCP, no TLS, no proxy, or nothing of the program's own that it takes.
const UNSENT: [i32; 20] = [1, 2, 3, 4, 5, 6, 7, 27, 35, 51, 53, 54, 58, 59, 60, 66, 77, 83, 91, 97];

/// That of a time-out, and what curl says of one before there was a connection: no name, no TCP, no TLS, no proxy.
const TIMED_OUT: i32 = 28;
const UNCONNECTED: [&str; 5] =
    ["Resolving", "Connection time", "Failed to connect", "SSL connection time", "Proxy CONNECT"];

/// Whether the request has certainly not left. `said`: on its stderr.
fn is_unsent(code: i32, said: &[u8]) -> bool {
    let said = String::from_utf8_lossy(said);
    UNSENT.contains(&code) || code == TIMED_OUT && UNCONNECTED.iter().any(|it| said.contains(it))
}

/// Starts curl with these variables and hands it the request for the URL's host; what the client is told to
/// send after that is not read. Curl ends with the client.
pub fn client<'s>(
    children: &Arc<Children>,
    environment: Environment,
    (url, request): (&Url, &Request<'_>),
    cancel: &Cancel<'s>,
) -> io::Result<Client<'s>> {
    let curl = find_program("curl")
        .map_err(|e| io::Error::new(e.kind(), format!("https takes curl: {e}")))?;
    let body = request.body.map(memory_file).transpose()?.map(Arc::new);
    let number = body.as_ref().map(|file| file.as_raw_fd());
    // -q: no .curlrc, and only as the first.
    let curl =
        Program::with_environment(curl, environment).args(["-q", "--config", "-"]).keeping(body);
    let input = configuration(url, request, number, cancel.deadline);
    let (input, grace) = (Some(input.into()), Duration::ZERO);
    let options = RunOptions { kind: ChildKind::Helper, input, cancel: *cancel, grace };
    let (child, until) = (children.spawn(&curl, options)?, Cell::new(cancel.deadline));
    Client::new(CurlStream { child, stderr: Vec::new(), until }, "", WRITE_TIMEOUT.default)
}

/// The response goes to stdout as it comes, chunks and all. The URL's scheme is the only one that it
/// may speak. `body`: the number of the file that has it.
fn configuration(
    url: &Url,
    request: &Request<'_>,
    body: Option<RawFd>,
    deadline: Instant,
) -> Vec<u8> {
    let timeout = deadline.saturating_duration_since(Instant::now());
    let mut text = Vec::with_capacity(2048);
    text.extend_from_slice(
        b"silent\nshow-error\ngloboff\npath-as-is\nsuppress-connect-headers\nhttp1.1\nraw\ninclude\n\
          no-buffer\n",
    );
    let mut put = |name: &str, value: &[u8]| setting(&mut text, name, value);
    put("proto", if url.secure { b"=https" } else { b"=http" });
    // It is ended at the deadline anyhow, unless the gateway itself ends before that.
    let [whole, connect] = [timeout + CURL_MARGIN, timeout.min(CONNECT_TIMEOUT)]
        .map(|time| format!("{}.{:03}", time.as_secs(), time.subsec_millis()));
    put("max-time", whole.as_bytes());
    put("connect-timeout", connect.as_bytes());
    put("request", request.method.as_bytes());
    put("url", format!("{}{}", url.origin(), request.target).as_bytes());
    for (name, value) in request.headers {
        put("header", format!("{name}: {value}").as_bytes());
    }
    // Not "Expect: 100-continue", at which some servers stumble and others wait.
    put("header", b"Expect:");
    if let Some(number) = body {
        // Not that of a form, which curl takes a body for.
        if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Content-Type")) {
            put("header", b"Content-Type:");
        }
        put("data-binary", format!("@/proc/self/fd/{number}").as_bytes());
    }
    text
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

/// A running curl, as a socket of which only the reading side is left.
struct CurlStream<'s> {
    child: Child<'s>,
    /// The end of what it said there.
    stderr: Vec<u8>,
    /// The end of the read time-out.
    until: Cell<Instant>,
}

impl Socket for CurlStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reason = loop {
            match self.child.next(buffer, Some(self.until.get()))? {
                ChildEvent::Stdout(count) => return Ok(count),
                ChildEvent::Stderr(count) => {
                    keep_tail(&mut self.stderr, &buffer[..count], MAX_STDERR_TAIL);
                }
                ChildEvent::TimedOut => return Err(ErrorKind::WouldBlock.into()),
                ChildEvent::Ended(reason) => break reason,
            }
        };
        let end = match reason {
            ExitReason::Exited(Status::Exited(0)) => return Ok(0),
            ExitReason::Exited(Status::Exited(code)) => format!("exit status {code}"),
            ExitReason::Exited(Status::Signalled(signal)) => format!("signal {signal}"),
            ExitReason::Cancelled(_) => return Err(ErrorKind::ConnectionAborted.into()),
        };
        let words = quoting(&format!("curl ended with {end}"), one_line(&self.stderr).as_bytes());
        let unsent = matches!(reason, ExitReason::Exited(Status::Exited(code))
            if is_unsent(code, &self.stderr));
        let kind = if unsent { ErrorKind::NotConnected } else { ErrorKind::Other };
        Err(io::Error::new(kind, words))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Curl has the request already.
        Ok(bytes.len())
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.until.set(Instant::now() + timeout);
        Ok(())
    }
}

impl AsFd for CurlStream<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.ended()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::process::{Command, Stdio};
    use std::thread;

    #[test]
    fn nothing_leaves_its_quotes() {
        let mut text = Vec::new();
        setting(&mut text, "url", b"a\"\\b\r\nproto = \"=file\"\tc");
        assert_eq!(text, b"url = \"a\\\"\\\\b\\r\\nproto = \\\"=file\\\"\tc\"\n");
    }

    /// Answers one request; what it was.
    fn server() -> (String, thread::JoinHandle<(String, String)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let mut line = String::new();
                assert!(reader.read_line(&mut line).unwrap() > 0, "{head}");
                if let Some(number) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                    length = number.trim().parse().unwrap();
                }
                head += &line;
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 No\r\nRetry-After: 9\r\n\
                          Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            (head, String::from_utf8(body).unwrap())
        });
        (address, server)
    }

    fn soon() -> Cancel<'static> {
        Cancel::at(Instant::now() + Duration::from_secs(20))
    }

    /// The same configuration, but over plain HTTP: what curl makes of it.
    fn through_curl(body: &str) -> (String, String) {
        let (address, server) = server();
        let url = Url::parse(&format!("http://{address}/a/../b?c=d")).unwrap();
        let headers = [("Content-Type", "application/json"), ("X-Secret", "\"s\\")];
        let (method, target, body) = ("POST", url.target.as_str(), Some(body.as_bytes()));
        let call = Request { method, target, headers: &headers, body };
        let (children, cancel) = (Children::new(None), soon());
        let mut client = client(&children, Environment::new(), (&url, &call), &cancel).unwrap();
        let answer = client.send(&call, cancel.deadline).unwrap();
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("9")));
        assert_eq!(answer.body(10, cancel.deadline).unwrap(), b"no");
        drop(client);
        server.join().unwrap()
    }

    #[test]
    fn curl_sends_what_it_is_given() {
        if find_program("curl").is_err() {
            return;
        }
        let long = crate::escape::quoted(&"\u{1}\"\\\näß€".repeat(30_000));
        for body in ["\"\n\\x\ty\r", &long] {
            let (head, sent) = through_curl(body);
            assert!(sent == body, "{} bytes for {}", sent.len(), body.len());
            assert!(head.starts_with("POST /a/../b?c=d HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("\r\nX-Secret: \"s\\\r\n"), "{head}");
            let head = head.to_ascii_lowercase();
            assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
            assert!(!head.contains("expect") && !head.contains("encoding"), "{head}");
        }
    }

    #[test]
    fn what_goes_wrong_is_said_in_curls_words() {
        if find_program("curl").is_err() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let url = Url::parse(&url).unwrap();
        drop(listener);
        let call = Request { method: "GET", target: "/", headers: &[], body: None };
        let (children, cancel) = (Children::new(None), soon());
        let mut client = client(&children, Environment::new(), (&url, &call), &cancel).unwrap();
        let error = client.send(&call, cancel.deadline).err().unwrap().to_string();
        assert!(error.contains("exit status 7: curl: (7)"), "{error}");
    }

    /// What curl ends with at a server that takes the connection and never says a word.
    fn at_a_silent_server(scheme: &str) -> (i32, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}/", listener.local_addr().unwrap());
        let request = Request { method: "GET", target: "/", headers: &[], body: None };
        let deadline = Instant::now() + Duration::from_millis(300);
        let input = configuration(&Url::parse(&url).unwrap(), &request, None, deadline);
        let mut curl = Command::new("curl");
        curl.args(["-q", "--config", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut curl = curl.spawn().unwrap();
        curl.stdin.take().unwrap().write_all(&input).unwrap();
        let ended = curl.wait_with_output().unwrap();
        (ended.status.code().unwrap(), ended.stderr)
    }

    #[test]
    fn what_timed_out_before_there_was_a_connection_was_not_sent() {
        for (said, unsent) in [
            ("Resolving timed out after 10000 milliseconds", true),
            ("Connection timed out after 10001 milliseconds", true),
            ("Connection timeout after 10001 ms", true),
            ("Failed to connect to a.example port 443 after 9 ms: Timeout was reached", true),
            ("SSL connection timeout", true),
            ("Proxy CONNECT aborted due to timeout", true),
            ("Operation timed out after 30001 milliseconds with 0 bytes received", false),
            ("Operation too slow. Less than 1 bytes/sec transferred the last 9 seconds", false),
            ("Timeout was reached", false),
        ] {
            assert_eq!(is_unsent(28, format!("curl: (28) {said}\n").as_bytes()), unsent, "{said}");
        }
        assert!(is_unsent(7, b"") && !is_unsent(52, b"curl: (52) Failed to connect"));
        if find_program("curl").is_ok() {
            let (code, said) = at_a_silent_server("https");
            let words = String::from_utf8_lossy(&said);
            assert!(code == 28 && is_unsent(code, &said), "{code}: {words}");
            let (code, said) = at_a_silent_server("http");
            let words = String::from_utf8_lossy(&said);
            assert!(code == 28 && !is_unsent(code, &said), "{code}: {words}");
        }
    }
}
