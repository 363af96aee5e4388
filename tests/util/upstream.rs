//! An OpenAI-compatible server of the test's own: the test says itself, byte by byte, what it does.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::{Value, json};

use super::{DEADLINE, Process, TempDir};

/// A server whose connections the test takes one by one.
pub struct Upstream {
    address: SocketAddr,
    accepted: Receiver<TcpStream>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(field, _)| field == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} came twice: {self:?}");
        value
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }

    /// The messages as `role:content`, separated by `|`.
    #[track_caller]
    pub fn messages(&self) -> String {
        let body = self.json();
        let all = body["messages"].as_array().unwrap_or_else(|| panic!("no messages: {body}"));
        let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let all = all.iter().map(|m| format!("{}:{}", word(&m["role"]), word(&m["content"])));
        all.collect::<Vec<_>>().join("|")
    }
}

/// Fails the test unless this is a chat that a strict server takes: members and forms of OpenAI's API
/// alone, and each tool call with its result right behind it.
#[track_caller]
pub fn assert_chat(chat: &Value) {
    const KNOWN: &str = "model stream stream_options messages temperature top_p max_tokens user \
        service_tier safety_identifier prompt_cache_key tools tool_choice parallel_tool_calls response_format verbosity \
        reasoning_effort";
    let has_only = |value: &Value, known: &str| {
        let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
        let strange = object.keys().find(|name| !known.split_whitespace().any(|it| it == *name));
        assert!(strange.is_none(), "{strange:?} in {value}");
        assert!(object.values().all(|value| !value.is_null()) || value["role"] == "assistant");
    };
    let is_function = |value: &Value, known: &str| {
        has_only(value, "type function");
        assert_eq!(value["type"], "function", "{value}");
        has_only(&value["function"], known);
        assert!(value["function"]["name"].is_string(), "{value}");
    };
    has_only(chat, KNOWN);
    let tools = chat["tools"].as_array();
    for tool in tools.into_iter().flatten() {
        is_function(tool, "name description parameters strict");
    }
    assert!(tools.is_none_or(|tools| !tools.is_empty()), "{chat}");
    if tools.is_none() {
        assert!(chat["tool_choice"].is_null() && chat["parallel_tool_calls"].is_null(), "{chat}");
    }
    match &chat["tool_choice"] {
        Value::Null => {}
        Value::String(word) => assert!(["auto", "none", "required"].contains(&word.as_str())),
        choice if choice["type"] == "allowed_tools" => {
            has_only(choice, "type allowed_tools");
            has_only(&choice["allowed_tools"], "mode tools");
            let allowed = choice["allowed_tools"]["tools"].as_array();
            allowed.unwrap().iter().for_each(|tool| is_function(tool, "name"));
        }
        choice => is_function(choice, "name"),
    }
    match &chat["response_format"] {
        Value::Null => {}
        format if format["type"] == "json_schema" => {
            has_only(format, "type json_schema");
            has_only(&format["json_schema"], "name description schema strict");
            assert!(format["json_schema"]["name"].is_string(), "{format}");
        }
        format => assert_eq!(*format, json!({ "type": "json_object" })),
    }
    assert_messages(chat["messages"].as_array().unwrap_or_else(|| panic!("no messages: {chat}")));
}

#[track_caller]
fn assert_messages(messages: &[Value]) {
    let mut open: Vec<&Value> = Vec::new();
    for message in messages {
        let (role, content) = (message["role"].as_str().unwrap_or_default(), &message["content"]);
        let names: Vec<&str> = message.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            role == "tool",
            !open.is_empty(),
            "calls without results, or the reverse: {messages:?}"
        );
        match role {
            "system" | "developer" => assert!(content.is_string() && names.len() == 2, "{message}"),
            "user" => {
                assert_eq!(names.len(), 2, "{message}");
                for part in content.as_array().into_iter().flatten() {
                    let kind = part["type"].as_str().unwrap_or_default();
                    assert!(["text", "image_url", "file", "input_audio"].contains(&kind), "{part}");
                    assert!(part[kind].is_object() || (kind == "text" && part["text"].is_string()));
                }
                assert!(content.is_string() || !content.as_array().unwrap().is_empty());
            }
            "assistant" => {
                let calls = message["tool_calls"].as_array();
                assert_eq!(names.len(), if calls.is_some() { 3 } else { 2 }, "{message}");
                assert!(content.is_string() || (content.is_null() && calls.is_some()), "{message}");
                open.extend(calls.into_iter().flatten().map(|call| &call["id"]));
                for call in calls.into_iter().flatten() {
                    assert!(call["id"].is_string() && call["type"] == "function", "{call}");
                    let function = &call["function"];
                    assert!(function["name"].is_string() && function["arguments"].is_string());
                }
            }
            "tool" => {
                assert!(content.is_string() && names.len() == 3, "{message}");
                let at = open.iter().position(|id| **id == message["tool_call_id"]);
                open.remove(at.unwrap_or_else(|| panic!("no such call: {message}")));
            }
            role => panic!("role {role:?}"),
        }
    }
    assert!(open.is_empty(), "calls without results: {messages:?}");
}

impl Upstream {
    #[track_caller]
    pub fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("an address");
        let (sender, accepted) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if sender.send(stream).is_err() {
                    return;
                }
            }
        });
        Upstream { address, accepted }
    }

    /// Answers by itself from now on, as a model would that does what it is given: calls each tool, says
    /// what came back, keeps to a schema, and sees pictures. What [`assert_chat`] does not take is
    /// answered with 400.
    pub fn obey(self) {
        thread::spawn(move || {
            for stream in self.accepted {
                thread::spawn(move || {
                    let mut line = Line::of(stream);
                    while let Some(asked) = line.next_request() {
                        line.obey(&asked.json());
                    }
                });
            }
        });
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The agent's part of a configuration, with these further lines in `[agent]`.
    pub fn config(&self, more: &str) -> String {
        format!("[agent]\nurl = \"http://{}/v1\"\nmodel = \"m\"\n{more}\n", self.address)
    }

    /// The next connection.
    #[track_caller]
    pub fn accept(&self) -> Line {
        let stream = self.accepted.recv_timeout(DEADLINE).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Line::of(stream)
    }

    /// The next connection, whenever it comes; `None` once there is none any more.
    pub fn next(&self) -> Option<Line> {
        self.accepted.recv().ok().map(Line::of)
    }

    /// Fails the test if there was another connection.
    #[track_caller]
    pub fn assert_alone(&self) {
        assert!(self.accepted.try_recv().is_err(), "there is one more connection");
    }
}

/// A connection to the gateway.
pub struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    pub fn of(stream: TcpStream) -> Line {
        Line { stream, buffer: Vec::new() }
    }

    /// The next request.
    #[track_caller]
    pub fn request(&mut self) -> Asked {
        let asked = self.next_request();
        asked.unwrap_or_else(|| panic!("it ends before a request: {:?}", self.buffer))
    }

    /// The next request; `None` at the end of the connection.
    #[track_caller]
    pub fn next_request(&mut self) -> Option<Asked> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if !self.more() {
                return None;
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end + 4).collect()).expect("UTF-8");
        let mut lines = head.lines();
        let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let fields = lines.filter_map(|line| line.split_once(':'));
        let field =
            |(name, value): (&str, &str)| (name.to_ascii_lowercase(), value.trim().to_owned());
        let mut asked = Asked { method, target, fields: fields.map(field).collect(), body: vec![] };
        let length = asked.field("content-length").map_or(0, |n| n.parse().expect("a number"));
        while self.buffer.len() < length {
            assert!(self.more(), "it ends before the request does: {asked:?}");
        }
        asked.body = self.buffer.drain(..length).collect();
        Some(asked)
    }

    #[track_caller]
    fn more(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        let length = match self.stream.read(&mut bytes) {
            Ok(length) => length,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => 0,
            Err(e) => panic!("the gateway neither speaks nor goes: {e}"),
        };
        self.buffer.extend(&bytes[..length]);
        length > 0
    }

    /// Waits until the gateway has gone; fails the test if it says something before that.
    #[track_caller]
    pub fn assert_gone(mut self) {
        let more = self.more();
        assert!(!more && self.buffer.is_empty(), "it says {:?}", self.buffer);
    }

    /// Sends exactly this.
    pub fn send(&mut self, bytes: &str) {
        // Whoever has gone does not hear it.
        let _ = self.stream.write_all(bytes.as_bytes());
    }

    /// The same with what is no text.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// A whole answer.
    pub fn answer(&mut self, status: u16, fields: &str, body: &str) {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} So\r\nContent-Length: {length}\r\n{fields}\r\n");
        self.send(&(head + body));
    }

    /// Begins a stream of events.
    pub fn begin(&mut self) {
        self.send(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
        );
    }

    /// One event of a stream, in a chunk of its own.
    pub fn event(&mut self, data: &str) {
        let event = format!("data: {data}\n\n");
        self.send(&format!("{:x}\r\n{event}\r\n", event.len()));
    }

    /// An event with a piece of a reply.
    pub fn piece(&mut self, text: &str) {
        self.event(&chunk(&json!({ "content": text }), None));
    }

    /// The last events of a reply, and the end of its stream.
    pub fn end(&mut self) {
        self.event(&chunk(&json!({}), Some("stop")));
        self.event("[DONE]");
        self.send("0\r\n\r\n");
    }

    /// A whole stream of these deltas, with this reason for its end and this usage.
    pub fn deltas(&mut self, deltas: &[Value], finish: &str, usage: &Value) {
        self.begin();
        for delta in deltas {
            self.event(&chunk(delta, None));
        }
        self.event(&chunk(&json!({}), Some(finish)));
        if !usage.is_null() {
            self.event(&json!({ "choices": [], "usage": usage }).to_string());
        }
        self.event("[DONE]");
        self.send("0\r\n\r\n");
    }

    fn obey(&mut self, chat: &Value) {
        if std::panic::catch_unwind(|| assert_chat(chat)).is_err() {
            let error = json!({ "error": { "message": format!("not a chat: {chat}") } });
            return self.answer(400, "", &error.to_string());
        }
        let last = chat["messages"].as_array().and_then(|all| all.last()).unwrap_or(chat);
        let parts = last["content"].as_array().into_iter().flatten();
        let pictures = parts.filter(|part| part["type"] == "image_url").count();
        let usage = json!({ "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3 });
        let tools = chat["tools"].as_array().filter(|_| last["role"] == "user");
        let deltas = if let Some(tools) = tools {
            let delta = |(at, tool): (usize, &Value)| {
                let name = &tool["function"]["name"];
                let call = json!({ "index": at, "id": format!("call_{at}"), "type": "function",
                    "function": { "name": name, "arguments": "{\"city\"" } });
                let rest = json!({ "index": at, "function": { "arguments": ":\"Rome\"}" } });
                [call, rest].map(|piece| json!({ "tool_calls": [piece] }))
            };
            return self.deltas(
                &tools.iter().enumerate().flat_map(delta).collect::<Vec<_>>(),
                "tool_calls",
                &usage,
            );
        } else if chat["response_format"].is_object() {
            [json!({ "content": "{\"city\":" }), json!({ "content": "\"Rome\"}" })]
        } else if last["role"] == "tool" {
            [json!({ "content": "it is " }), json!({ "content": last["content"] })]
        } else {
            [json!({ "content": "pictures: " }), json!({ "content": pictures.to_string() })]
        };
        self.deltas(&deltas, "stop", &usage);
    }

    /// A whole stream with this reply.
    pub fn reply(&mut self, text: &str) {
        self.begin();
        self.piece(text);
        self.end();
    }
}

/// A chunk of a chat completion.
pub fn chunk(delta: &Value, finish: Option<&str>) -> String {
    json!({
        "id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 1, "model": "up/m",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }],
    })
    .to_string()
}

/// TLS in front of an upstream, with a certificate of its own.
pub struct Tls {
    pub port: u16,
    pub certificate: String,
    _bridge: Process,
    _dir: TempDir,
}

impl Tls {
    /// Python's: nothing that curl shares.
    #[track_caller]
    pub fn before(upstream: &Upstream) -> Tls {
        let dir = TempDir::with_mode("", 0o700);
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (certificate, key) = (path("cert.pem"), path("key.pem"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        openssl.args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext"]);
        openssl.args(["subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", &key]);
        openssl.args(["-out", &certificate]);
        Process::spawn(&mut openssl).finish(DEADLINE).assert_code(0);
        let script = "import socket, ssl, sys, threading\n\
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
            context.load_cert_chain(sys.argv[1], sys.argv[2])\n\
            listener = socket.create_server(('127.0.0.1', 0))\n\
            print('port', listener.getsockname()[1], flush=True)\n\
            def pump(a, b):\n\
            \x20   try:\n\
            \x20       while data := a.recv(65536): b.sendall(data)\n\
            \x20   except OSError: pass\n\
            \x20   try: b.shutdown(socket.SHUT_RDWR)\n\
            \x20   except OSError: pass\n\
            def serve(client):\n\
            \x20   try: client = context.wrap_socket(client, server_side=True)\n\
            \x20   except OSError: return\n\
            \x20   server = socket.create_connection(('127.0.0.1', int(sys.argv[3])))\n\
            \x20   threading.Thread(target=pump, args=(server, client)).start()\n\
            \x20   pump(client, server)\n\
            while True:\n\
            \x20   client, _ = listener.accept()\n\
            \x20   threading.Thread(target=serve, args=(client,)).start()\n";
        let upstream = upstream.address.port().to_string();
        let args = ["-c", script, &certificate, &key, &upstream];
        let bridge = Process::spawn(Command::new("python3").args(args));
        let line = bridge.wait_for_output("port ", DEADLINE);
        let port = line.trim().rsplit(' ').next().and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("no port in {line:?}"));
        Tls { port, certificate, _bridge: bridge, _dir: dir }
    }
}
