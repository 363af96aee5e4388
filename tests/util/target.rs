//! A receiver of deliveries: an HTTP server of the test's own that notes what it is sent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DEADLINE, Process};

/// A POST as it came.
#[derive(Clone, Debug)]
pub struct Received {
    pub target: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub at: Instant,
}

impl Received {
    #[track_caller]
    pub fn field(&self, name: &str) -> &str {
        let mut found = self.fields.iter().filter(|(field, _)| field == name);
        let (_, value) = found.next().unwrap_or_else(|| panic!("no {name}: {self:?}"));
        assert!(found.next().is_none(), "{name} came twice: {self:?}");
        value
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }

    /// Fails the test unless its Standard Webhooks signature is this secret's ("whsec_…"). Judged
    /// by Python's hmac: nothing that the gateway shares.
    #[track_caller]
    pub fn assert_signed(&self, secret: &str) {
        let script = "import base64, hmac, sys\n\
                      secret, id, time, want = sys.argv[1:5]\n\
                      key = base64.b64decode(secret.removeprefix('whsec_'))\n\
                      said = f'{id}.{time}.'.encode() + bytes.fromhex(sys.argv[5])\n\
                      mine = base64.b64encode(hmac.digest(key, said, 'sha256')).decode()\n\
                      sys.exit(0 if f'v1,{mine}' in want.split(' ') else f'not {mine}')";
        let body: String = self.body.iter().map(|byte| format!("{byte:02x}")).collect();
        let [id, time, signature] =
            ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| self.field(name));
        let time_is_now = std::time::UNIX_EPOCH
            .elapsed()
            .is_ok_and(|now| time.parse().is_ok_and(|at: u64| now.as_secs().abs_diff(at) < 60));
        assert!(time_is_now, "a strange time: {time}");
        let args = ["-c", script, secret, id, time, signature, &body];
        Process::spawn(Command::new("python3").args(args)).finish(DEADLINE).assert_code(0);
    }
}

/// An answer: its status, and further header fields.
#[derive(Clone, Debug)]
pub struct Answer(pub u16, pub Vec<(&'static str, String)>);

impl From<u16> for Answer {
    fn from(status: u16) -> Answer {
        Answer(status, Vec::new())
    }
}

#[derive(Default)]
struct Shelf {
    received: Mutex<Vec<Received>>,
    news: Condvar,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Vec<Received>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that listens for as long as the test runs.
pub struct Target {
    address: SocketAddr,
    shelf: Arc<Shelf>,
}

impl Target {
    /// Takes everything.
    #[track_caller]
    pub fn start() -> Target {
        Target::answering(|_, _| 204.into())
    }

    /// Answers what this says of a request and its number, counted from 1. It may take its time.
    #[track_caller]
    pub fn answering(
        answer: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static,
    ) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("an address");
        let shelf = Arc::new(Shelf::default());
        let (shelves, answer) = (Arc::clone(&shelf), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), shelf, answer) =
                    (stream, Arc::clone(&shelves), Arc::clone(&answer))
                else {
                    continue;
                };
                thread::spawn(move || serve(stream, &shelf, answer.as_ref()));
            }
        });
        Target { address, shelf }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its part of a configuration, under this name, with this further line.
    pub fn config(&self, name: &str, more: &str) -> String {
        let url = format!("http://{}/hook", self.address);
        format!("[deliver.{name}]\nurl = \"{url}\"\n{more}\n")
    }

    /// What came so far.
    pub fn received(&self) -> Vec<Received> {
        self.shelf.lock().clone()
    }

    /// Waits until so many have come, and returns all.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        let deadline = Instant::now() + DEADLINE;
        let mut received = self.shelf.lock();
        while received.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(left > Duration::ZERO, "{} instead of {count}: {received:?}", received.len());
            let waited = self.shelf.news.wait_timeout(received, left);
            received = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        received.clone()
    }
}

/// Serves one connection; a peer that dies in the middle of a request has sent none.
fn serve(mut stream: TcpStream, shelf: &Shelf, answer: &dyn Fn(usize, &Received) -> Answer) {
    let mut buffer = Vec::new();
    while let Some(received) = read(&mut stream, &mut buffer) {
        let number = {
            let mut all = shelf.lock();
            all.push(received.clone());
            shelf.news.notify_all();
            all.len()
        };
        let Answer(status, fields) = answer(number, &received);
        let mut head = format!("HTTP/1.1 {status} So\r\n");
        if status != 204 {
            head += "Content-Length: 0\r\n";
        }
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        if stream.write_all((head + "\r\n").as_bytes()).is_err() {
            return;
        }
    }
}

fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Received> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        more(stream, buffer)?;
    };
    let head = String::from_utf8(buffer.drain(..end + 4).collect()).ok()?;
    let mut lines = head.lines();
    let target = lines.next()?.strip_prefix("POST ")?.split(' ').next()?.to_owned();
    let fields = lines.filter_map(|line| line.split_once(':'));
    let fields: Vec<(String, String)> =
        fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let length = fields.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
    while buffer.len() < length {
        more(stream, buffer)?;
    }
    let body = buffer.drain(..length).collect();
    Some(Received { target, fields, body, at: Instant::now() })
}

fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut bytes = [0; 16 * 1024];
    let length = stream.read(&mut bytes).ok().filter(|length| *length > 0)?;
    buffer.extend(&bytes[..length]);
    Some(())
}
