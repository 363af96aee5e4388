//! Attempts against servers and commands that are really there.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::{DeliveryResult, Payload, send};
use crate::config::{Secret, Target, Url};
use crate::digest::{hmac_sha256, to_base64};
use crate::subprocess::Children;
use crate::sys::fd::EventFd;

pub const PAYLOAD: Payload<'_> = Payload {
    id: "01J",
    session: Some("work"),
    principal: "owner",
    status: "done",
    text: "the reply",
    attempt: 2,
    created_at: "2026-11-22T18:54:55.123Z",
    finished_at: "2026-11-22T18:54:56.000Z",
};

/// Answers one request, and keeps it.
pub struct Server {
    pub address: SocketAddr,
    requests: Receiver<String>,
}

impl Server {
    pub fn start(answer: &str) -> Server {
        let answer = answer.to_owned();
        Server::with(move |stream| stream.write_all(answer.as_bytes()).unwrap())
    }

    fn with(then: impl FnOnce(&mut TcpStream) + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = channel();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let request = read(&mut stream);
            then(&mut stream);
            sender.send(request).unwrap();
        });
        Server { address, requests }
    }

    pub fn request(&self) -> String {
        self.requests.recv_timeout(Duration::from_secs(20)).unwrap()
    }
}

/// A request with a Content-Length.
fn read(stream: &mut TcpStream) -> String {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
            if bytes.len() >= head.len() + 4 + length {
                return String::from_utf8(bytes).unwrap();
            }
        }
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "the request is cut short");
        bytes.extend_from_slice(&chunk[..count]);
    }
}

fn hook(url: &str) -> Target {
    Target { url: Some(Url::parse(url).unwrap()), ..Target::new("hook") }
}

fn script(script: &str) -> Target {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).into();
    Target { command, ..Target::new("ops") }
}

fn try_it(target: &Target) -> DeliveryResult {
    send(target, &PAYLOAD, &Children::new(None), EventFd::new().unwrap().as_fd())
}

fn answered(answer: &str) -> DeliveryResult {
    let server = Server::start(answer);
    try_it(&hook(&format!("http://{}/x", server.address)))
}

#[track_caller]
fn deferred(sent: &DeliveryResult, words: &str) -> Option<Duration> {
    match sent {
        DeliveryResult::Deferred(why, retry_after) if why.contains(words) => *retry_after,
        other => panic!("{other:?}, not {words}"),
    }
}

#[test]
fn a_callback_is_posted_and_signed() {
    let server = Server::start("HTTP/1.1 204 No Content\r\n\r\n");
    let mut target = hook(&format!("http://{}/x/y?z=1", server.address));
    target.secret = Some(Secret::parse("whsec_c2VjcmV0").unwrap());
    assert_eq!(try_it(&target), DeliveryResult::Delivered);
    let request = server.request();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let host = format!("POST /x/y?z=1 HTTP/1.1\r\nHost: {}\r\n", server.address);
    assert!(head.starts_with(&host), "{head}");
    let field = |name: &str| {
        let start = format!("{name}: ");
        let mut found = head.lines().filter_map(|line| line.strip_prefix(&start));
        let value = found.next().unwrap_or_else(|| panic!("no {name} in {head}"));
        assert!(found.next().is_none());
        value
    };
    assert_eq!((field("Content-Type"), field("Connection")), ("application/json", "close"));
    assert!(field("User-Agent").starts_with("hermes-gateway/"));
    let (id, time) = (field("webhook-id"), field("webhook-timestamp"));
    assert_eq!(id, "01J");
    let signed = format!("{id}.{time}.{body}");
    let signature = to_base64(&hmac_sha256(b"secret", &[signed.as_bytes()]).unwrap());
    assert_eq!(field("webhook-signature"), format!("v1,{signature}"));
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let data = &body["data"];
    assert_eq!(body["type"], "message.done");
    assert_eq!((&data["session"], &data["reply"]), (&"work".into(), &"the reply".into()));
    assert_eq!((field("webhook-attempt"), &data["created_at"]), ("2", &PAYLOAD.created_at.into()));
}

#[test]
fn answers_are_classified_as_done_temporary_or_permanent() {
    assert_eq!(
        answered("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        DeliveryResult::Delivered
    );
    let after = answered("HTTP/1.1 503 No\r\nretry-after: 7\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(deferred(&after, "503"), Some(Duration::from_secs(7)));
    let moved = answered("HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n");
    assert!(matches!(moved, DeliveryResult::Refused(why) if why.contains("302")));
    assert!(matches!(answered("HTTP/1.1 404 No\r\n\r\n"), DeliveryResult::Refused(_)));
    deferred(&answered("HTTP/1.1 2"), "cut short");
    deferred(&answered("SSH-2.0-x\r\n\r\n"), "not an acceptable answer");
}

#[test]
fn a_refused_connection_is_an_error_that_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    deferred(&try_it(&hook(&format!("http://{address}/"))), "refused");
    // RFC 2606 section 2: never a name.
    deferred(&try_it(&hook("http://nobody.invalid/")), "");
}

#[test]
fn a_server_that_says_nothing_meets_the_deadline_and_the_cut() {
    let silent = || Server::with(|stream| drop(stream.read(&mut [0])));
    let server = silent();
    let mut target = hook(&format!("http://{}/", server.address));
    target.timeout = Duration::from_millis(100);
    let began = Instant::now();
    deferred(&try_it(&target), "timeout");
    assert!(began.elapsed() < Duration::from_secs(10));

    let cut = std::sync::Arc::new(EventFd::new().unwrap());
    let raiser = std::sync::Arc::clone(&cut);
    let server = Server::with(move |stream| {
        raiser.notify();
        drop(stream.read(&mut [0]));
    });
    let target = hook(&format!("http://{}/", server.address));
    assert_eq!(send(&target, &PAYLOAD, &Children::new(None), cut.as_fd()), DeliveryResult::Aborted);
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_server_that_does_not_read_meets_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut target = hook(&format!("http://{}/", listener.local_addr().unwrap()));
    target.timeout = Duration::from_millis(200);
    let text = "x".repeat(32 << 20);
    let (payload, cut) = (Payload { text: &text, ..PAYLOAD }, EventFd::new().unwrap());
    let began = Instant::now();
    deferred(&send(&target, &payload, &Children::new(None), cut.as_fd()), "timeout");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn https_goes_through_curl() {
    // No TLS is spoken there: curl says so, and nothing was sent in the clear.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        first[0]
    });
    if crate::subprocess::find_program("curl").is_err() {
        return;
    }
    deferred(&try_it(&hook(&format!("https://{address}/"))), "curl: (35)");
    // A handshake record (RFC 8446 section 5.1).
    assert_eq!(server.join().unwrap(), 22);
}

#[test]
fn a_command_has_the_reply_and_the_facts() {
    let test = "test \"$(cat)\" = 'the reply' && \
                test \"$HERMES_DELIVERY_ID/$HERMES_DELIVERY_ATTEMPT/$HERMES_DELIVERY_TARGET\" = 01J/2/ops && \
                test \"$HERMES_DELIVERY_STATUS/$HERMES_MESSAGE_ID\" = done/01J && \
                test \"$HERMES_SESSION/$HERMES_PRINCIPAL/$ROOM\" = work/owner/x && \
                test -z \"$CARGO_MANIFEST_DIR\" || { env >&2; exit 1; }";
    let mut target = script(test);
    target.env.insert("ROOM".to_owned(), "x".to_owned());
    assert_eq!(try_it(&target), DeliveryResult::Delivered);
}

#[test]
fn exit_statuses_of_commands_are_classified() {
    assert_eq!(try_it(&script("exec 0<&-; exit 0")), DeliveryResult::Delivered);
    deferred(&try_it(&script("echo later >&2; exit 75")), "exit status 75: later");
    deferred(&try_it(&script("kill -9 $$")), "signal 9");
    let refused = try_it(&script("echo no >&2; exit 3"));
    assert_eq!(refused, DeliveryResult::Refused("exit status 3: no".to_owned()));
    let missing = Target { command: vec!["/no/such".to_owned()], ..script("") };
    deferred(&try_it(&missing), "/no/such cannot be run");
    let slow =
        Target { timeout: Duration::from_millis(50), ..script("echo x >&2; exec sleep 600") };
    deferred(&try_it(&slow), "timeout");
}

#[test]
fn a_command_ends_with_the_gateway() {
    let cut = EventFd::new().unwrap();
    cut.notify();
    let children = Children::new(None);
    assert_eq!(send(&script("exit 0"), &PAYLOAD, &children, cut.as_fd()), DeliveryResult::Aborted);
    let cut = EventFd::new().unwrap();
    let fifo = crate::testing::TempDir::new("cut");
    let path = fifo.path().join("begun");
    let target = script(&format!("mkfifo {0}; : >{0}; exec sleep 600", path.display()));
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&target, &PAYLOAD, &children, cut.as_fd()));
        while std::fs::read(&path).is_err() {
            thread::yield_now();
        }
        cut.notify();
        assert_eq!(sending.join().unwrap(), DeliveryResult::Aborted);
    });
}
