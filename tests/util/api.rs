//! A client of the messages' API that expects answers: each request on a connection of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{self, Connection, Response};
use super::{DEADLINE, Gateway, Home};

/// What is asked, and with which key.
#[derive(Clone)]
pub struct Api {
    address: SocketAddr,
    authorization: String,
}

impl Gateway {
    /// The messages' API over TCP, with the gateway's own key.
    #[track_caller]
    pub fn api(&self) -> Api {
        Api { address: self.address(), authorization: self.authorization() }
    }

    /// Ends it with this signal, and starts it again in the same home.
    #[track_caller]
    pub fn reborn_after(self, signal: i32) -> Gateway {
        self.end(signal).start()
    }

    /// Ends it with this signal; its home is left.
    #[track_caller]
    pub fn end(self, signal: i32) -> Home {
        self.signal(signal);
        self.wait_for_exit(DEADLINE);
        self.home().clone()
    }
}

/// The path of a session, its key percent-encoded but for slashes.
pub fn session_path(session: &str) -> String {
    let mut path = "/v1/sessions/".to_owned();
    for byte in session.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            path.push(byte.into());
        } else {
            path += &format!("%{byte:02X}");
        }
    }
    path
}

impl Api {
    pub fn new(address: SocketAddr, key: &str) -> Api {
        Api { address, authorization: format!("Bearer {key}") }
    }

    /// A request whose answer the caller reads.
    #[track_caller]
    pub fn begin(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Connection {
        let mut all = fields.to_vec();
        if !self.authorization.is_empty() {
            all.push(("Authorization", &self.authorization));
        }
        let has_type = fields.iter().any(|(name, _)| *name == "Content-Type");
        if !body.is_empty() && !has_type {
            all.push(("Content-Type", "application/json"));
        }
        let mut connection = Connection::tcp(self.address);
        connection.send(&http::request(method, target, &all, body.as_bytes()));
        connection
    }

    #[track_caller]
    pub fn call(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Response {
        self.begin(method, target, fields, body).response()
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.call("GET", target, &[], "")
    }

    #[track_caller]
    pub fn delete(&self, target: &str) -> Response {
        self.call("DELETE", target, &[], "")
    }

    #[track_caller]
    pub fn post(&self, target: &str, body: &Value) -> Response {
        self.call("POST", target, &[], &body.to_string())
    }

    /// A message for a session.
    #[track_caller]
    pub fn send(&self, session: &str, text: &str) -> Response {
        self.send_json(session, &json!({ "text": text }))
    }

    /// A message for a session, with whatever the body says.
    #[track_caller]
    pub fn send_json(&self, session: &str, body: &Value) -> Response {
        self.post(&format!("{}/messages", session_path(session)), body)
    }

    /// A message for a session, under an idempotency key.
    #[track_caller]
    pub fn send_keyed(&self, session: &str, key: &str, text: &str) -> Response {
        let target = format!("{}/messages", session_path(session));
        let body = json!({ "text": text }).to_string();
        self.call("POST", &target, &[("Idempotency-Key", key)], &body)
    }

    /// A message that must be accepted; its id.
    #[track_caller]
    pub fn accepted(&self, session: &str, text: &str) -> String {
        id_of(&self.send(session, text).assert_status(202).json())
    }

    /// A message whose reply goes to this target; its id.
    #[track_caller]
    pub fn deliver(&self, session: &str, text: &str, target: &str) -> String {
        let body = json!({ "text": text, "deliver": target });
        id_of(&self.send_json(session, &body).assert_status(202).json())
    }

    /// The message's record.
    #[track_caller]
    pub fn message(&self, id: &str) -> Value {
        self.get(&format!("/v1/messages/{id}")).assert_status(200).json()
    }

    /// The message's record, once it is done, has failed or was cancelled.
    #[track_caller]
    pub fn finished(&self, id: &str) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let message = self.get(&format!("/v1/messages/{id}?wait=5")).assert_status(200).json();
            if is_finished(&message) {
                return message;
            }
            assert!(Instant::now() < deadline, "it does not finish: {message}");
        }
    }

    /// The reply of a message, which must come to a good end.
    #[track_caller]
    pub fn reply(&self, id: &str) -> String {
        let message = self.finished(id);
        assert_eq!(message["status"], "done", "{message}");
        message["reply"].as_str().unwrap_or_else(|| panic!("no reply: {message}")).to_owned()
    }

    /// Waits until the record of a message is as it should be. The answer is awaited, not the time.
    #[track_caller]
    pub fn until(&self, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        super::eventually(what, || Some(self.message(id)).filter(|message| is(message)))
    }

    /// Waits until the first delivery of a message has this status.
    #[track_caller]
    pub fn until_delivery(&self, id: &str, status: &str) -> Value {
        let what = format!("a delivery that is {status}");
        let message = self.until(id, &what, |message| message["deliveries"][0]["status"] == status);
        message["deliveries"][0].clone()
    }

    /// The events of a session, from behind this one.
    #[track_caller]
    pub fn events(&self, session: &str, last: Option<u64>) -> Events {
        let last = last.map(|last| last.to_string());
        let fields: Vec<(&str, &str)> =
            last.iter().map(|last| ("Last-Event-ID", last.as_str())).collect();
        let target = format!("{}/events", session_path(session));
        let mut connection = self.begin("GET", &target, &fields, "");
        let head = connection.head();
        assert_eq!(head.status, 200, "{head:?}");
        let kind = head.field("content-type").unwrap_or("");
        assert!(kind.starts_with("text/event-stream"), "{head:?}");
        let chunked = head.field("transfer-encoding") == Some("chunked");
        Events { connection, chunked, text: String::new() }
    }
}

/// The id in the answer to a message.
#[track_caller]
pub fn id_of(answer: &Value) -> String {
    let id = answer["id"].as_str().unwrap_or_else(|| panic!("no id: {answer}"));
    assert!(id.len() == 26 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id:?}");
    id.to_owned()
}

pub fn is_finished(message: &Value) -> bool {
    ["done", "failed", "cancelled"].iter().any(|status| message["status"] == *status)
}

/// What an error says in OpenAI's shape: its code. Its words must not be empty.
#[track_caller]
pub fn code_of(response: Response, status: u16) -> String {
    let json = response.assert_status(status).json();
    let words = json["error"]["message"].as_str().unwrap_or("");
    assert!(!words.is_empty() && json["error"]["type"].is_string(), "{json}");
    json["error"]["code"].as_str().unwrap_or("").to_owned()
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The number of its record; a piece of a reply has none.
    pub id: Option<u64>,
    pub kind: String,
    pub data: Value,
}

/// An open stream of events.
pub struct Events {
    connection: Connection,
    chunked: bool,
    text: String,
}

impl Events {
    /// The next event; `None` at the end of the stream. Comments are passed over.
    #[track_caller]
    pub fn next_event(&mut self) -> Option<Event> {
        // Comments alone keep a read from running into its limit.
        let deadline = Instant::now() + 3 * DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "comments come, and no event");
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let lines = || event.lines().filter(|line| !line.starts_with(':'));
                let field = |name: &str| {
                    let values = lines().filter_map(|line| line.strip_prefix(name));
                    let values: Vec<&str> =
                        values.map(|v| v.strip_prefix(' ').unwrap_or(v)).collect();
                    (!values.is_empty()).then(|| values.join("\n"))
                };
                let Some(data) = field("data:") else { continue };
                let data = serde_json::from_str(&data);
                return Some(Event {
                    id: field("id:").map(|id| id.parse().expect("a number")),
                    kind: field("event:").unwrap_or_default(),
                    data: data.unwrap_or_else(|e| panic!("no JSON ({e}) in {event:?}")),
                });
            }
            assert!(self.chunked, "an event stream over HTTP/1.1 comes in chunks");
            let chunk = self.connection.chunk()?;
            self.text += &String::from_utf8(chunk).expect("events in UTF-8");
        }
    }

    /// The next event that is a record.
    #[track_caller]
    pub fn next_record(&mut self) -> Event {
        loop {
            let event = self.next_event().expect("another event");
            if event.kind != "delta" {
                return event;
            }
        }
    }

    /// All records up to and with the first of this kind.
    #[track_caller]
    pub fn records_until(&mut self, kind: &str) -> Vec<Event> {
        let mut records = Vec::new();
        loop {
            records.push(self.next_record());
            if records.last().is_some_and(|event| event.kind == kind) {
                return records;
            }
        }
    }

    pub fn set_read_limit(&self, limit: Duration) {
        self.connection.set_read_limit(limit);
    }
}
