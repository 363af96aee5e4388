//! Clients that must not notice a restart, each with a book of what it saw: one that opens a new connection
//! every millisecond, two that keep theirs, one that follows a session's events, one that waits for replies,
//! and one that posts. Std alone, so that `tests/bench/restarts.rs` can hold other servers against the same
//! clients.

#![allow(dead_code, reason = "each program uses its own part")]

pub mod record;
pub mod wire;

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use record::{Acknowledged, Event, Last, Record, Sample, Summary, Window};
use wire::{Answer, Failure, Wire};

/// The kinds of clients, by what they do and which request it is.
pub const NEW_HEALTH: &str = "new, GET";
pub const NEW_CHAT: &str = "new, chat";
pub const NEW_MESSAGE: &str = "new, message";
pub const KEPT_BUSY: &str = "kept, busy";
pub const KEPT_SLOW: &str = "kept, 50 ms";
pub const KEPT_CHAT: &str = "kept, chat";
pub const EVENTS: &str = "events";
pub const WAIT: &str = "?wait";

/// Those whose answers wait for a turn.
pub const TURNS: [&str; 3] = [NEW_CHAT, KEPT_CHAT, WAIT];

/// So often the connecting client connects.
const EVERY: Duration = Duration::from_millis(1);

/// Of its connections each so many is a chat, and each so many a message.
const CHAT_EVERY: u64 = 10;
const MESSAGE_EVERY: u64 = 20;

/// So many of its connections may be open at once: what two seconds without an answer add up to.
const MAX_OPEN: usize = 2000;

/// As long as a client thread's calls need.
const STACK: usize = 128 * 1024;

/// How long all of what is asked for in the end may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Between two tries of what failed.
const AGAIN: Duration = Duration::from_millis(20);

/// Sessions of the connecting client's messages, so that none of them has a long queue.
const SESSIONS: u64 = 8;

/// Whom the clients talk to.
#[derive(Clone, Debug)]
pub struct Server {
    pub address: SocketAddr,
    /// The gateway's.
    pub key: Option<String>,
    /// It answers chats; and it is a gateway, which echoes them and takes messages.
    pub chats: bool,
    pub messages: bool,
    /// Between two requests of the busy client: without one it takes what the processors have.
    pub pause: Duration,
}

/// What all clients share.
struct Shared {
    server: Server,
    stop: AtomicBool,
    posting: AtomicBool,
    record: Mutex<Record>,
    news: Condvar,
    open: AtomicUsize,
    number: AtomicU64,
    /// Distinguishes the keys and texts of this run from those of an earlier one in the same state.
    run: u32,
    /// The open stream of events, to end it, and whether it has brought all.
    stream: Mutex<Option<TcpStream>>,
    followed: AtomicBool,
}

/// The running clients.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    follower: Option<JoinHandle<()>>,
}

impl Clients {
    /// Starts all kinds that the server has something for.
    pub fn start(server: Server) -> Clients {
        let messages = server.messages;
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let shared = Arc::new(Shared {
            server,
            stop: AtomicBool::new(false),
            posting: AtomicBool::new(true),
            record: Mutex::default(),
            news: Condvar::new(),
            open: AtomicUsize::new(0),
            number: AtomicU64::new(0),
            run: clock.map_or(0, |time| time.subsec_nanos()),
            stream: Mutex::new(None),
            followed: AtomicBool::new(false),
        });
        let mut kinds: Vec<fn(&Arc<Shared>)> = vec![connecting, kept_busy, kept_slow];
        if messages {
            kinds.extend([waiting, posting as fn(&Arc<Shared>)]);
        }
        let spawn = |work: fn(&Arc<Shared>)| {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name("client".to_owned()).stack_size(STACK);
            builder.spawn(move || work(&shared)).expect("a thread")
        };
        let threads = kinds.into_iter().map(spawn).collect();
        let follower = messages.then(|| spawn(following));
        Clients { shared, threads, follower }
    }

    /// The kinds that run against this server.
    fn kinds(&self) -> Vec<&'static str> {
        let server = &self.shared.server;
        let mut kinds = vec![NEW_HEALTH, KEPT_BUSY, KEPT_SLOW];
        if server.chats {
            kinds.push(NEW_CHAT);
        }
        if server.messages {
            kinds.extend([NEW_MESSAGE, KEPT_CHAT, WAIT, EVENTS]);
        }
        kinds
    }

    /// Waits until each of these kinds has had so many good answers to requests that began after now; the
    /// kinds for which that did not come in time are the error.
    pub fn served(&self, kinds: &[&'static str], count: usize) -> Result<(), String> {
        let (now, deadline) = (Instant::now(), Instant::now() + DEADLINE);
        self.shared.change(|record| {
            record.since = Some(now);
            record.good.clear();
        });
        loop {
            // Not at each of a thousand answers a second.
            thread::park_timeout(Duration::from_millis(10));
            let good = self.shared.lock().good.clone();
            let is_missing = |kind: &&&str| good.get(*kind).is_none_or(|had| *had < count);
            let missing: Vec<_> = kinds.iter().filter(is_missing).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("not served within {DEADLINE:?}: {missing:?}"));
            }
        }
    }

    /// Kinds that get answers all the time: the stream of events opens only where another has ended.
    pub fn steady(&self) -> Vec<&'static str> {
        self.kinds().into_iter().filter(|kind| *kind != EVENTS).collect()
    }

    /// A restart by these means, until all kinds are served again. If it is a death, the means return when the
    /// process was seen dead.
    pub fn through(&self, restart: impl FnOnce() -> Option<Instant>) -> Result<Duration, String> {
        let began = Instant::now();
        let dead = restart();
        let served = self.served(&self.steady(), 3);
        let ended = Instant::now();
        self.shared.change(|record| record.windows.push(Window { began, dead, ended }));
        served.map(|()| ended - began)
    }

    /// So many messages have been acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.lock().acknowledged.len()
    }

    /// Ends them, waits for what is under way, asks for what became of every message, and reads the events
    /// again. What could not be had is missing in the summary, and so a problem there.
    pub fn finish(self) -> Summary {
        let shared = &self.shared;
        shared.posting.store(false, Ordering::SeqCst);
        shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        let deadline = Instant::now() + DEADLINE;
        while shared.open.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            thread::park_timeout(Duration::from_millis(5));
        }
        if let Some(follower) = self.follower {
            shared.ask_for_all();
            shared.wait_for_followed();
            shared.followed.store(true, Ordering::SeqCst);
            let stream = lock(&shared.stream).take();
            stream.inspect(|stream| drop(stream.shutdown(Shutdown::Both)));
            follower.join().expect("the follower of events");
            shared.read_again();
        }
        shared.lock().summary()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    fn change(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.lock());
        self.news.notify_all();
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// A text that no other message of any run has.
    fn text(&self) -> String {
        format!("t{}-{}", self.run, self.number.fetch_add(1, Ordering::SeqCst))
    }

    fn note(&self, kind: &'static str, began: Instant, failure: Option<Failure>) {
        let took = began.elapsed();
        self.change(|record| record.add(Sample { kind, began, took, failure, waited: true }));
    }

    /// What nobody waited for: a retry, the bad end of a stream, a wrong answer that has been counted.
    fn incident(&self, kind: &'static str, began: Instant, failure: Failure) {
        let (took, failure) = (began.elapsed(), Some(failure));
        self.change(|record| record.add(Sample { kind, began, took, failure, waited: false }));
    }

    /// One request on a connection of its own.
    fn once(&self, kind: &'static str, request: &[u8]) -> Result<Answer, Failure> {
        let began = Instant::now();
        let answer = Wire::connect(self.server.address).and_then(|mut wire| wire.ask(request));
        self.note(kind, began, answer.as_ref().err().cloned());
        answer
    }

    /// One request on a kept connection, or a new one. What RFC 9112, 9.3.1 lets it send again is counted, and
    /// the wait is that for both.
    fn kept(
        &self,
        kind: &'static str,
        wire: &mut Option<Wire>,
        request: &[u8],
    ) -> Result<Answer, Failure> {
        let began = Instant::now();
        loop {
            let answer = match wire {
                Some(wire) => wire.ask(request),
                None => {
                    Wire::connect(self.server.address).and_then(|new| wire.insert(new).ask(request))
                }
            };
            if answer.as_ref().map_or(true, |answer| answer.closes) {
                *wire = None;
            }
            if answer.as_ref().err() == Some(&Failure::ClosedIdle) {
                self.incident(kind, Instant::now(), Failure::ClosedIdle);
                continue;
            }
            self.note(kind, began, answer.as_ref().err().cloned());
            return answer;
        }
    }

    fn get(&self, target: &str, fields: &str) -> Vec<u8> {
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{}{fields}\r\n", self.authorization())
            .into_bytes()
    }

    fn post(&self, target: &str, key: &str, fields: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        let authorization = self.authorization();
        let key =
            if key.is_empty() { String::new() } else { format!("Idempotency-Key: {key}\r\n") };
        format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{authorization}{key}{fields}\r\n{body}"
        )
        .into_bytes()
    }

    fn authorization(&self) -> String {
        let key = self.server.key.as_deref();
        key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"))
    }

    /// What a chat was answered: another text than its own is a wrong answer.
    fn check_chat(&self, kind: &'static str, text: &str, answer: &Answer) {
        let echoes = self.server.messages;
        if answer.status != 200 || echoes && !answer.body.contains(&format!("\"{text}\"")) {
            let why = format!("{} {}", answer.status, answer.body);
            self.incident(kind, Instant::now(), Failure::Wrong(why));
        }
    }

    /// Posts a message until it is acknowledged, each time under the same key; its answer, or none where that
    /// did not come in time.
    fn message(&self, kind: &'static str, session: &str, query: &str) -> Option<(String, Answer)> {
        let text = self.text();
        let target = format!("/v1/sessions/{session}/messages{query}");
        let request = self.post(&target, &text, "", &format!("{{\"text\":\"{text}\"}}"));
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            match self.once(kind, &request) {
                Ok(answer) if [200, 202].contains(&answer.status) => {
                    let id = string(&answer.body, "id").unwrap_or_default();
                    let (known, text) = (id.clone(), text);
                    self.change(|record| record.acknowledged.push(Acknowledged { id, text }));
                    return Some((known, answer));
                }
                Ok(answer) => {
                    let why = format!("{} {}", answer.status, answer.body);
                    self.incident(kind, Instant::now(), Failure::Wrong(why));
                }
                Err(_) => {}
            }
            thread::park_timeout(AGAIN);
        }
        None
    }
}

/// A new connection every millisecond, whatever became of those before.
fn connecting(shared: &Arc<Shared>) {
    let mut due = Instant::now();
    let mut number = 0_u64;
    while !shared.stopped() {
        let now = Instant::now();
        if due > now {
            thread::park_timeout(due - now);
            continue;
        }
        // A client that was late does not hurry: that would be another load.
        due = now.max(due) + EVERY;
        if shared.open.load(Ordering::SeqCst) >= MAX_OPEN {
            shared.change(|record| record.held_back += 1);
            continue;
        }
        number += 1;
        let (own, turn) = (Arc::clone(shared), number);
        shared.open.fetch_add(1, Ordering::SeqCst);
        let work = move || {
            connect_once(&own, turn);
            own.open.fetch_sub(1, Ordering::SeqCst);
        };
        let builder = thread::Builder::new().name("client".to_owned()).stack_size(STACK);
        builder.spawn(work).expect("a thread");
    }
}

fn connect_once(shared: &Shared, number: u64) {
    let messages = shared.server.messages;
    if messages && number.is_multiple_of(MESSAGE_EVERY) {
        let session = format!("n{}", number / MESSAGE_EVERY % SESSIONS);
        shared.message(NEW_MESSAGE, &session, "");
    } else if shared.server.chats && number.is_multiple_of(CHAT_EVERY) {
        let text = shared.text();
        let request = shared.post(CHAT, "", "", &chat(&text));
        if let Ok(answer) = shared.once(NEW_CHAT, &request) {
            shared.check_chat(NEW_CHAT, &text, &answer);
        }
    } else {
        let _ = shared.once(NEW_HEALTH, &shared.get("/health", ""));
    }
}

const CHAT: &str = "/v1/chat/completions";

fn chat(text: &str) -> String {
    format!("{{\"model\":\"default\",\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}")
}

/// One request behind the other on a connection that is kept, with the pause that is set.
fn kept_busy(shared: &Arc<Shared>) {
    let (request, mut wire) = (shared.get("/health", ""), None);
    while !shared.stopped() {
        if shared.kept(KEPT_BUSY, &mut wire, &request).is_err() {
            thread::park_timeout(AGAIN);
        }
        if shared.server.pause > Duration::ZERO {
            thread::park_timeout(shared.server.pause);
        }
    }
}

/// Requests with a pause between them, in turns for itself and a chat under a key.
fn kept_slow(shared: &Arc<Shared>) {
    let (health, mut wire) = (shared.get("/health", ""), None);
    let messages = shared.server.messages;
    while !shared.stopped() {
        let _ = shared.kept(KEPT_SLOW, &mut wire, &health);
        thread::park_timeout(Duration::from_millis(50));
        if !messages {
            continue;
        }
        let text = shared.text();
        let request = shared.post(CHAT, &text, "X-Hermes-Session-Id: kept\r\n", &chat(&text));
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Ok(answer) = shared.kept(KEPT_CHAT, &mut wire, &request) {
                shared.check_chat(KEPT_CHAT, &text, &answer);
                break;
            }
            thread::park_timeout(AGAIN);
        }
        thread::park_timeout(Duration::from_millis(50));
    }
}

/// Messages with `?wait`, each asked for until its reply is there.
fn waiting(shared: &Arc<Shared>) {
    while !shared.stopped() {
        let Some((id, mut answer)) = shared.message(WAIT, "wait", "?wait=5") else { continue };
        let request = shared.get(&format!("/v1/messages/{id}?wait=5"), "");
        let deadline = Instant::now() + DEADLINE;
        while string(&answer.body, "status").as_deref() != Some("done") && Instant::now() < deadline
        {
            match shared.once(WAIT, &request) {
                Ok(next) => answer = next,
                Err(_) => thread::park_timeout(AGAIN),
            }
        }
        thread::park_timeout(AGAIN);
    }
}

const FOLLOWED: &str = "followed";

/// Messages for the session whose events are followed.
fn posting(shared: &Arc<Shared>) {
    while shared.posting.load(Ordering::SeqCst) {
        shared.message(NEW_MESSAGE, FOLLOWED, "");
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// The events of a session, from the first, over as many streams as it takes.
fn following(shared: &Arc<Shared>) {
    let mut last = 0;
    loop {
        let began = Instant::now();
        let open = |wire: &Wire| {
            *lock(&shared.stream) = wire.handle();
            !shared.followed.load(Ordering::SeqCst)
        };
        let ended = follow(shared, last, began, &open, &mut |event| {
            last = event.id.max(last);
            shared.change(|record| record.events.push(event));
            true
        });
        if shared.followed.load(Ordering::SeqCst) {
            return;
        }
        match ended {
            Ok(()) => {}
            Err((true, failure)) => shared.incident(EVENTS, began, failure),
            // Before its first message there is no session.
            Err((false, Failure::Wrong(status))) if status == "404" => {}
            Err((false, failure)) => shared.note(EVENTS, began, Some(failure)),
        }
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// One stream, until it ends in order, or until `take` has enough; else whether it had begun, and how it
/// failed.
fn follow(
    shared: &Shared,
    last: u64,
    began: Instant,
    open: &dyn Fn(&Wire) -> bool,
    take: &mut dyn FnMut(Event) -> bool,
) -> Result<(), (bool, Failure)> {
    let target = format!("/v1/sessions/{FOLLOWED}/events");
    let request = shared.get(&target, &format!("Last-Event-ID: {last}\r\n"));
    let mut wire = Wire::connect(shared.server.address).map_err(|failure| (false, failure))?;
    if !open(&wire) {
        return Ok(());
    }
    let (status, fields) = wire.begin(&request).map_err(|failure| (false, failure))?;
    match status {
        200 if fields.iter().any(|field| field.1 == "text/event-stream") => {}
        503 => return Err((false, Failure::Unavailable)),
        _ => return Err((false, Failure::Wrong(status.to_string()))),
    }
    shared.note(EVENTS, began, None);
    let mut text = String::new();
    loop {
        match wire.chunk() {
            Ok(Some(chunk)) => text += &String::from_utf8_lossy(&chunk),
            Ok(None) => return Ok(()),
            Err(failure) => return Err((true, failure)),
        }
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| {
                event.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
            };
            let found = field("id:").and_then(|id| id.parse().ok()).map(|id| Event {
                id,
                kind: field("event:").unwrap_or_default(),
                message: field("data:").and_then(|data| string(&data, "id")).unwrap_or_default(),
            });
            text = rest.to_owned();
            if found.is_some_and(|event| !take(event)) {
                return Ok(());
            }
        }
    }
}

impl Shared {
    /// What the gateway says of every message that it has acknowledged.
    fn ask_for_all(&self) {
        let ids: Vec<String> = self.lock().acknowledged.iter().map(|m| m.id.clone()).collect();
        let deadline = Instant::now() + DEADLINE;
        let mut wire = None;
        for id in ids {
            let request = self.get(&format!("/v1/messages/{id}?wait=20"), "");
            while Instant::now() < deadline {
                let answer = match &mut wire {
                    Some(wire) => Wire::ask(wire, &request),
                    None => Wire::connect(self.server.address)
                        .and_then(|new| wire.insert(new).ask(&request)),
                };
                let Ok(answer) = answer else {
                    wire = None;
                    thread::park_timeout(AGAIN);
                    continue;
                };
                if answer.closes {
                    wire = None;
                }
                let done = string(&answer.body, "status").as_deref() == Some("done");
                let reply = string(&answer.body, "reply").unwrap_or_default();
                let attempts = number(&answer.body, "attempts");
                self.change(|record| {
                    record.last.insert(id.clone(), Last { done, reply, attempts });
                });
                break;
            }
        }
    }

    /// Until the stream has brought the end of every message of its session, or that did not come in time.
    fn wait_for_followed(&self) {
        let replay = self.replayed();
        let newest = replay.iter().map(|event| event.id).max().unwrap_or(0);
        let deadline = Instant::now() + DEADLINE;
        let mut record = self.lock();
        while record.events.last().is_none_or(|event| event.id < newest) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            let waited = self.news.wait_timeout(record, left);
            record = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn read_again(&self) {
        let replay = self.replayed();
        self.change(|record| record.replay = replay);
    }

    /// The session's events in one piece, to the end of the last message that was acknowledged for it.
    fn replayed(&self) -> Vec<Event> {
        let session = self.once(NEW_HEALTH, &self.get(&format!("/v1/sessions/{FOLLOWED}"), ""));
        let Ok(answer) = session else { return Vec::new() };
        let Some(newest) = answer.body.rmatch_indices("\"id\":\"").next() else {
            return Vec::new();
        };
        let newest = answer.body[newest.0 + 6..].split('"').next().unwrap_or("").to_owned();
        let mut events = Vec::new();
        let _ = follow(self, 0, Instant::now(), &|_| true, &mut |event: Event| {
            let last = event.message == newest && event.kind == "done";
            events.push(event);
            !last
        });
        events
    }
}

/// The first string of this name in a JSON text without escapes.
fn string(json: &str, name: &str) -> Option<String> {
    let (_, rest) = json.split_once(&format!("\"{name}\":\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// The first number of this name; 0 where there is none.
fn number(json: &str, name: &str) -> u64 {
    let rest = json.split_once(&format!("\"{name}\":")).map_or("", |(_, rest)| rest);
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().unwrap_or(0)
}
