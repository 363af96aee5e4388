//! A pause, and connections that are handed over: no byte is lost, none comes twice, and clients see
//! nothing but a wait.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::sync::OnceLock;
use std::thread;

use serde_json::Value;

use super::*;
use crate::agent::Agent;
use crate::api::{Facts, Keyring};
use crate::config::Secret;
use crate::http::IDLE_AFTER;
use crate::journal::FileJournal;
use crate::journal::record::Record;
use crate::session::{Hub, MessageTable, Settings, SystemClocks, Transcripts};
use crate::subprocess::Children;
use crate::sys::fd::EventFd;
use crate::sys::poll::{Interest, poll};
use crate::testing::{Random, TempDir, rounds};

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// What all processes of a test share.
struct Host {
    dir: TempDir,
    tcp: TcpListener,
    control: UnixListener,
    config: Config,
}

/// What is one process of a gateway.
struct Image {
    service: Arc<Service>,
    listeners: Listeners,
}

impl Host {
    /// With the echo agent, or one in shell that runs a turn when there is a file `gate`.
    fn new(gated: bool) -> Host {
        let dir = TempDir::new("handover");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let control = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        tcp.set_nonblocking(true).unwrap();
        socket::set_backlog(tcp.as_fd(), 4096).unwrap();
        control.set_nonblocking(true).unwrap();
        let mut config = Config::default();
        if gated {
            config.limits.max_turns = 1;
            let gate = dir.path().join("gate");
            let script =
                format!("cat; until [ -e {} ]; do sleep 0.01; done", gate.to_str().unwrap());
            config.agent.command = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
        }
        Host { dir, tcp, control, config }
    }

    fn open_gate(&self) {
        fs::write(self.dir.path().join("gate"), "").unwrap();
    }

    /// A process that goes on with the journal.
    fn start(&self) -> Image {
        let (children, wake) = (Children::new(None), Arc::new(EventFd::new().unwrap()));
        let mut table = MessageTable::default();
        let mut read =
            |number: u64, json: &str| table.apply(number, &Record::parse(json)?, json.len());
        let (journal, _) = FileJournal::open(self.dir.path(), 1 << 26, &mut read).unwrap();
        let agent = Agent::new(
            self.config.agent.clone(),
            Arc::clone(&children),
            std::path::Path::new(""),
            (0, 0),
        );
        let settings = Settings { config: self.config.clone(), agent };
        let transcripts = Transcripts::new(self.dir.path().join("sessions"));
        let shared = (children, Arc::clone(&wake));
        let clocks = Box::new(SystemClocks);
        let hub = Hub::new(Box::new(journal), table, transcripts, settings, shared, clocks);
        let facts = Facts {
            name: "test".to_owned(),
            listen: self.tcp.local_addr().unwrap().to_string(),
            unit: OnceLock::new(),
            since: String::new(),
            began: Instant::now(),
        };
        let keys = Keyring::new(&Secret::client(KEY).unwrap(), &self.config).unwrap();
        let service = Arc::new(Service::new(facts, keys, hub.unwrap(), wake));
        service.ready.store(true, Ordering::SeqCst);
        service.hub.open();
        let listeners = [self.tcp.try_clone().unwrap()].map(|tcp| {
            let control = self.control.try_clone().unwrap();
            Listeners::new(Bound {
                tcp,
                foreign: false,
                kept: false,
                control,
                waiting: Default::default(),
            })
            .unwrap()
        });
        let [listeners] = listeners;
        Image { service, listeners }
    }

    fn connect(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.tcp.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, read: Vec::new() }
    }

    fn connect_control(&self) -> Client<UnixStream> {
        let stream = UnixStream::connect(self.dir.path().join("control.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, read: Vec::new() }
    }
}

impl Image {
    /// Waits for something, as the main loop does.
    fn until(&self, what: &str, accepts: bool, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
            if accepts {
                self.listeners.accept(&self.service, true).unwrap();
            }
            let wake = Interest::read(self.service.wake.as_fd());
            poll(&mut [wake], Some(Duration::from_millis(5))).unwrap();
            self.service.wake.clear();
        }
    }

    fn count(&self) -> usize {
        self.service.connections.count() + self.service.control_connections.load(Ordering::SeqCst)
    }

    fn until_connected(&self, count: usize) {
        self.until("connected", true, || self.count() == count);
    }

    fn until_parked(&self, count: usize) {
        let parked = || self.service.shutdown.parked.load(Ordering::SeqCst);
        self.until("parked", true, || parked() == count);
    }

    /// All of a restart but the exec.
    fn hand_over(&self) -> Vec<HandedOver> {
        self.service.pause();
        self.until("quiet", true, || self.service.is_quiet());
        self.listeners.hand_over(&self.service);
        self.until("handed over", false, || self.service.is_handed_over());
        assert_eq!(self.service.hub.busy(), 0);
        self.service.hub.close(true);
        let all = self.service.take_handed_over();
        // Over the exec and back.
        let over = all.into_iter().map(|one| (one.to_json(), one.socket));
        over.map(|(json, socket)| HandedOver::from_json(socket, &json).unwrap()).collect()
    }
}

struct Client<S> {
    stream: S,
    /// What has come of the next response.
    read: Vec<u8>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn content(&self) -> String {
        assert_eq!(self.status, 200, "{}{}", self.head, self.body);
        let content = self.json()["choices"][0]["message"]["content"].clone();
        content.as_str().unwrap().to_owned()
    }
}

impl<S: Read + Write> Client<S> {
    fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).unwrap();
    }

    fn read_some(&mut self) -> usize {
        let mut piece = [0; 4096];
        let count = self.stream.read(&mut piece).unwrap();
        self.read.extend_from_slice(&piece[..count]);
        count
    }

    /// The next line, without its end.
    fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.read.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..at + 2).take(at).collect();
                return String::from_utf8(line).unwrap();
            }
            assert!(self.read_some() > 0, "the connection has ended: {:?}", self.read);
        }
    }

    fn head(&mut self) -> String {
        let lines = std::iter::repeat_with(|| self.line()).take_while(|line| !line.is_empty());
        lines.map(|line| line + "\r\n").collect()
    }

    fn take(&mut self, count: usize) -> String {
        while self.read.len() < count {
            assert!(self.read_some() > 0, "the connection has ended");
        }
        String::from_utf8(self.read.drain(..count).collect()).unwrap()
    }

    /// The next response.
    fn answer(&mut self) -> Answer {
        let head = self.head();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let body = self.take(length.unwrap_or_else(|| panic!("{head}")).parse().unwrap());
        Answer { status, head, body }
    }

    /// The rest of a body in chunks, each with its own event.
    fn chunks(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line(), 16).unwrap();
            let chunk = self.take(size + 2);
            if size == 0 {
                return all;
            }
            all.push(chunk);
        }
    }
}

fn request(method: &str, target: &str, body: &str, fields: &str) -> String {
    let length = if method == "GET" {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    };
    format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n{length}{fields}\r\n{body}"
    )
}

fn get(target: &str) -> String {
    request("GET", target, "", "")
}

fn chat(text: &str, fields: &str) -> String {
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    request("POST", "/v1/chat/completions", &body, fields)
}

fn message(text: &str, session: &str, query: &str) -> String {
    let body = format!(r#"{{"text":"{text}","session":"{session}"}}"#);
    request("POST", &format!("/v1/messages{query}"), &body, "")
}

#[test]
fn what_is_between_requests_or_parked_goes_on_as_if_nothing_was() {
    let host = Host::new(false);
    let first = host.start();
    let (mut idle, mut new, mut partial) = (host.connect(), host.connect(), host.connect());
    let (mut whole, mut half, mut none) = (host.connect(), host.connect(), host.connect());
    let (mut pipelined, mut control) = (host.connect(), host.connect_control());
    let mut control_idle = host.connect_control();
    first.until_connected(9);
    idle.send(&get("/v1/models"));
    assert_eq!(idle.answer().status, 200);
    control_idle.send("GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(control_idle.answer().status, 200);
    first.service.pause();
    let (partial_text, half_text, none_text) = (chat("p", ""), chat("half", ""), chat("none", ""));
    partial.send(&partial_text[..30]);
    whole.send(&chat("whole", ""));
    half.send(&half_text[..half_text.len() - 9]);
    none.send(&none_text[..none_text.find("\r\n\r\n").unwrap() + 4]);
    pipelined.send(&(get("/v1/models") + &chat("second", "") + &chat("third", "")));
    control.send(&chat("control", ""));
    assert_eq!(pipelined.answer().status, 200);
    first.until_parked(5);
    let begun = Instant::now();
    let all = first.hand_over();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!((all.len(), first.count()), (9, 0));
    let parked = all.iter().filter(|one| one.unread.starts_with(b"POST")).count();
    assert_eq!(parked, 6, "their bytes are there from the first one on");
    assert_eq!(all.iter().filter(|one| one.new).count(), 6);
    let known = all.iter().filter(|one| one.principal.as_deref() == Some("owner")).count();
    assert_eq!(known, 5, "the one that was idle, and those whose key was parked");
    half.send(&half_text[half_text.len() - 9..]);
    none.send(&none_text[none_text.find("\r\n\r\n").unwrap() + 4..]);
    new.send(&chat("new", ""));
    partial.send(&partial_text[30..]);
    idle.send(&chat("idle", ""));
    control_idle.send(&chat("control idle", ""));
    let second = host.start();
    second.listeners.resume(all, &second.service);
    assert_eq!(second.count(), 9);
    for (client, text) in [
        (&mut idle, "idle"),
        (&mut new, "new"),
        (&mut partial, "p"),
        (&mut whole, "whole"),
        (&mut half, "half"),
        (&mut none, "none"),
        (&mut pipelined, "second"),
    ] {
        let answer = client.answer();
        assert_eq!(answer.content(), text);
        assert!(!answer.head.contains("Connection: close"), "{}", answer.head);
    }
    assert_eq!(pipelined.answer().content(), "third");
    assert_eq!(control.answer().content(), "control");
    assert_eq!(control_idle.answer().content(), "control idle");
    idle.send(&get("/v1/models"));
    assert_eq!(idle.answer().status, 200, "and goes on after that");
    assert_eq!(second.service.connections.held(), [("owner".to_owned(), 7)]);
}

#[test]
fn a_pause_that_is_given_up_leaves_no_trace() {
    let host = Host::new(false);
    let image = host.start();
    let mut clients: Vec<_> = (0..4).map(|_| host.connect()).collect();
    image.until_connected(4);
    // Before anything was handed over, and after it.
    for handed_over in [0, 4] {
        image.service.prepare_handover();
        image.service.pause();
        clients.iter_mut().for_each(|client| client.send(&chat("again", "")));
        image.until_parked(4);
        clients[0].stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert!(clients[0].stream.read(&mut [0]).is_err(), "nothing comes during the pause");
        clients[0].stream.set_read_timeout(Some(PATIENCE)).unwrap();
        if handed_over > 0 {
            image.listeners.hand_over(&image.service);
            image.until("handed over", false, || image.service.is_handed_over());
        }
        let all = image.service.resume();
        assert_eq!(all.len(), handed_over);
        image.listeners.resume(all, &image.service);
        for client in &mut clients {
            assert_eq!(client.answer().content(), "again");
            client.send(&chat("then", ""));
            assert_eq!(client.answer().content(), "then");
        }
        assert_eq!(image.count(), 4);
    }
}

#[test]
fn a_stop_during_a_pause_answers_what_was_parked_as_a_drain_does() {
    let host = Host::new(false);
    let image = host.start();
    let mut client = host.connect();
    image.until_connected(1);
    image.service.pause();
    client.send(&chat("late", ""));
    image.until_parked(1);
    let mut stranger = host.connect();
    stranger.send(&chat("x", "").replace(KEY, "wrong"));
    image.until("accepted", true, || image.count() == 2);
    assert_eq!(stranger.answer().status, 401, "who has no key is told so at once");
    image.service.shutdown.close(false);
    image.service.hub.drain();
    let answer = client.answer();
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &"gateway_stopping".into()));
    assert!(answer.head.contains("Connection: close"), "{}", answer.head);
    assert!(image.service.resume().is_empty());
    assert!(image.service.shutdown.is_closing(), "nothing undoes a stop");
}

/// Sends numbered chats without waiting for the answers, in pieces that have nothing to do with them, and
/// reads what comes.
fn chatter(mut client: Client<TcpStream>, number: usize, count: usize) {
    let mut writer = client.stream.try_clone().unwrap();
    let mut random = Random::new(number as u64 + 1);
    let all: String = (0..count).map(|n| chat(&format!("{number}-{n}"), "")).collect();
    let sender = thread::spawn(move || {
        let mut rest = all.as_bytes();
        while !rest.is_empty() {
            let piece = 1 + random.below(rest.len().min(700));
            writer.write_all(&rest[..piece]).unwrap();
            rest = &rest[piece..];
            poll(&mut [], Some(Duration::from_millis(random.below(3) as u64))).unwrap();
        }
    });
    for n in 0..count {
        assert_eq!(client.answer().content(), format!("{number}-{n}"));
    }
    sender.join().unwrap();
}

#[test]
fn clients_that_go_on_sending_lose_no_byte_and_get_none_twice() {
    let host = Host::new(false);
    let mut image = host.start();
    let clients: Vec<_> = (0..8).map(|_| host.connect()).collect();
    let mut idle: Vec<_> = (0..200).map(|_| host.connect()).collect();
    image.until_connected(208);
    for client in &mut idle[..100] {
        client.send(&get("/v1/models"));
        assert_eq!(client.answer().status, 200);
    }
    let chats = rounds(300, 3000);
    let threads = clients.into_iter().enumerate();
    let threads = threads.map(|(n, client)| thread::spawn(move || chatter(client, n, chats)));
    let threads: Vec<_> = threads.collect();
    let (mut handovers, mut longest) = (0, Duration::ZERO);
    while handovers < 3 || !threads.iter().all(|thread| thread.is_finished()) {
        image.service.prepare_handover();
        poll(&mut [], Some(IDLE_AFTER)).unwrap();
        let begun = Instant::now();
        let all = image.hand_over();
        longest = longest.max(begun.elapsed());
        let next = host.start();
        next.listeners.resume(all, &next.service);
        let held = next.service.connections.held();
        assert!(held[0].0 == "owner" && held[0].1 >= 100, "those that are idle count: {held:?}");
        image = next;
        handovers += 1;
    }
    println!("{handovers} handovers, the longest took {longest:?}");
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for client in &mut idle {
        client.send(&get("/v1/models"));
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn who_waits_is_answered_when_the_restart_comes_and_a_follower_sees_each_event_once() {
    let host = Host::new(true);
    let first = host.start();
    let (mut client, mut waiter, mut follower) = (host.connect(), host.connect(), host.connect());
    first.until_connected(3);
    follower.send(&get("/v1/sessions/s/events"));
    follower.head();
    client.send(&message("one", "s", ""));
    let one = client.answer();
    assert_eq!((one.status, &one.json()["status"]), (202, &"running".into()));
    first.service.pause();
    client.send(&message("two", "s", ""));
    assert_eq!(client.answer().json()["status"], "queued", "accepted during the pause");
    waiter.send(&message("three", "t", "?wait=600"));
    first.until("waits", true, || first.service.hub.waiting() == 1);
    assert!(!first.service.is_quiet(), "a turn runs");
    host.open_gate();
    let all = first.hand_over();
    assert_eq!(all.len(), 3);
    let three = waiter.answer();
    assert_eq!((three.status, &three.json()["status"]), (202, &"queued".into()));
    assert!(!three.head.contains("Connection: close"), "{}", three.head);
    let mut events = follower.chunks();
    let second = host.start();
    second.listeners.resume(all, &second.service);
    let id = three.json()["id"].as_str().unwrap().to_owned();
    waiter.send(&get(&format!("/v1/messages/{id}?wait=60")));
    assert_eq!(waiter.answer().json()["status"], "done");
    let ids = |events: &[String]| -> Vec<u64> {
        let lines = events.iter().flat_map(|event| event.lines());
        lines.filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
    };
    let last = ids(&events).last().unwrap().to_string();
    follower.send(&request(
        "GET",
        "/v1/sessions/s/events",
        "",
        &format!("Last-Event-ID: {last}\r\n"),
    ));
    follower.head();
    second.until("all is done", true, || second.service.hub.busy() == 0);
    let _ = second.hand_over();
    events.extend(follower.chunks());
    let numbers = ids(&events);
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    let mut seen = BTreeMap::<String, usize>::new();
    for event in events.iter().flat_map(|event| event.lines()) {
        if let Some(word) = event.strip_prefix("event: ").filter(|word| *word != "delta") {
            *seen.entry(word.to_owned()).or_default() += 1;
        }
    }
    let seen: Vec<_> = seen.iter().map(|(word, count)| (word.as_str(), *count)).collect();
    assert_eq!(seen, [("accepted", 2), ("done", 2), ("started", 2)]);
}

#[test]
fn a_chat_that_was_read_is_answered_and_what_nobody_waits_for_stays() {
    let host = Host::new(true);
    let first = host.start();
    let (mut client, mut durable, mut plain) = (host.connect(), host.connect(), host.connect());
    first.until_connected(3);
    let mut accepted = Vec::new();
    for (text, session) in [("one", "s"), ("before", "s"), ("other", "t")] {
        client.send(&message(text, session, ""));
        accepted.push(client.answer().json()["id"].as_str().unwrap().to_owned());
    }
    durable.send(&chat("durable", "X-Hermes-Session-Id: s\r\n"));
    first.until("read", true, || first.service.in_flight() == 1);
    plain.send(&chat("plain", ""));
    first.until("waits", true, || first.service.in_flight() == 2);
    first.service.pause();
    host.open_gate();
    assert_eq!(durable.answer().content(), "durable");
    assert_eq!(plain.answer().content(), "plain");
    let all = first.hand_over();
    let second = host.start();
    second.listeners.resume(all, &second.service);
    for (id, attempts) in accepted.iter().zip([1, 1, 1]) {
        client.send(&get(&format!("/v1/messages/{id}?wait=60")));
        let shown = client.answer().json();
        assert_eq!((&shown["status"], &shown["attempts"]), (&"done".into(), &attempts.into()));
    }
}

#[test]
fn a_slow_reader_has_all_of_its_answer_before_its_connection_goes_on() {
    let host = Host::new(false);
    let first = host.start();
    let (mut client, mut slow) = (host.connect(), host.connect());
    first.until_connected(2);
    let text = "x".repeat(900_000);
    client.send(&message(&text, "s", "?wait=60"));
    let id = client.answer().json()["id"].as_str().unwrap().to_owned();
    // More than the buffers of two sockets take.
    let asked = 16;
    slow.send(&get(&format!("/v1/messages/{id}")).repeat(asked));
    first.until("answers", true, || first.service.in_flight() == 1);
    first.service.pause();
    let (mut reader, service) = (slow, Arc::clone(&first.service));
    let reader = thread::spawn(move || {
        for _ in 0..asked {
            assert!(reader.answer().body.len() > 900_000);
        }
        drop(service);
        reader
    });
    let all = first.hand_over();
    assert_eq!(all.len(), 2);
    let second = host.start();
    second.listeners.resume(all, &second.service);
    let mut slow = reader.join().unwrap();
    slow.send(&get("/v1/models"));
    assert_eq!(slow.answer().status, 200);
}
