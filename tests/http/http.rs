//! The front door from outside: who gets in, what is answered, and clients as they are in the world.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use util::http::{Connection, chat, request};
use util::{DEADLINE, Gateway, Home, Process, eventually, pause};

#[test]
fn without_a_key_known_and_unknown_paths_look_the_same() {
    let gateway = Gateway::start();
    let mut answers = Vec::new();
    for path in ["/v1/models", "/v1/status", "/nowhere", "/", "/admin"] {
        let response = gateway.connect().get(path, &[]);
        assert_eq!(response.field("www-authenticate"), Some("Bearer"), "{path}: {response:?}");
        answers.push(response.error(401));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    for wrong in ["", "Bearer", "Bearer ", "Bearer x", "Basic x", "bearer 0"] {
        let fields = [("Authorization", wrong)];
        gateway.connect().get("/v1/models", &fields).assert_status(401);
    }
    let shorter = gateway.authorization();
    let shorter = &shorter[..shorter.len() - 1];
    let longer = gateway.authorization() + "0";
    for wrong in [shorter, &longer] {
        let fields = [("Authorization", wrong)];
        gateway.connect().get("/v1/models", &fields).assert_status(401);
    }
    gateway.connect().post("/v1/chat/completions", &[], &chat("x", false)).assert_status(401);
}

#[test]
fn with_the_key_each_path_says_what_it_is() {
    let gateway = Gateway::start();
    let key = gateway.authorization();
    let key = [("Authorization", key.as_str())];
    // One connection for all of it: it is kept alive.
    let mut connection = gateway.connect();
    connection.get("/nowhere", &key).error(404);
    let models = connection.get("/v1/models", &key).assert_status(200).json();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], "default");
    let status = connection.get("/v1/status", &key).assert_status(200).json();
    assert_eq!(status["state"], "serving");
    assert_eq!(status["pid"], gateway.pid());
    for field in ["name", "version", "since", "listen", "agent"] {
        assert!(status[field].is_string(), "{field}: {status}");
    }
    for (method, path, allow) in [
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("GET", "/v1/chat/completions", "POST"),
    ] {
        connection.send(&request(method, path, &key, b""));
        let response = connection.response();
        assert_eq!(response.field("allow"), Some(allow), "{method} {path}");
        response.assert_status(405);
    }
    connection.send(&request("HEAD", "/v1/models", &key, b""));
    let head = connection.head();
    assert_eq!(head.status, 200);
    connection.get("/health", &[]).assert_status(200);
}

#[test]
fn health_and_ready_need_no_key() {
    let gateway = Gateway::start();
    assert_eq!(gateway.connect().get("/health", &[]).assert_status(200).json()["status"], "ok");
    assert_eq!(gateway.connect().get("/ready", &[]).assert_status(200).json()["status"], "ready");
}

#[test]
fn foreign_names_and_pages_are_kept_out() {
    let home = Home::new();
    home.configure("[http]\nallowed_hosts = [\"gateway.example\"]\n");
    let gateway = home.start();
    let ask = |host: &str, origin: &str| {
        let mut connection = gateway.connect();
        let origin =
            if origin.is_empty() { String::new() } else { format!("Origin: {origin}\r\n") };
        let bytes = format!("GET /health HTTP/1.1\r\nHost: {host}\r\n{origin}\r\n");
        connection.send(bytes.as_bytes());
        connection.response().status()
    };
    let own = gateway.address().to_string();
    assert_eq!(ask(&own, ""), 200);
    assert_eq!(ask("gateway.example", ""), 200);
    assert_eq!(ask("evil.example", ""), 421);
    assert_eq!(ask("localhost.evil.example", ""), 421);
    assert_eq!(ask(&own, &format!("http://{own}")), 200);
    assert_eq!(ask(&own, "http://evil.example"), 403);
    assert_eq!(ask(&own, "null"), 403);
    assert_eq!(ask(&own, "http://localhost:1"), 403);
}

#[test]
fn bodies_that_are_no_chat_are_refused_in_words() {
    let gateway = Gateway::start();
    let key = gateway.authorization();
    let key = ("Authorization", key.as_str());
    let send = |kind: &str, body: &str| {
        let mut connection = gateway.connect();
        let fields = [key, ("Content-Type", kind)];
        connection.send(&request("POST", "/v1/chat/completions", &fields, body.as_bytes()));
        connection.response()
    };
    send("text/plain", &chat("x", false)).error(415);
    send("application/x-www-form-urlencoded", "a=b").error(415);
    send("application/json; charset=utf-8", &chat("x", false)).assert_status(200);
    for body in ["{", "[]", "{}", "null", "{\"messages\":[]}", "{\"messages\":7}", "\u{feff}{}"] {
        let json = send("application/json", body).assert_status(400).json();
        for field in ["message", "type", "code"] {
            assert!(json["error"][field].is_string(), "{body}: {json}");
        }
    }
    let deep = "[".repeat(100_000);
    send("application/json", &deep).error(400);
    let mut connection = gateway.connect();
    let huge = "x".repeat(2 << 20);
    let fields = [key, ("Content-Type", "application/json"), ("Content-Length", "2097152")];
    connection.send(&request("POST", "/v1/chat/completions", &fields, b""));
    connection.response().error(413);
    drop(huge);
}

#[test]
fn a_chat_is_answered_whole_or_streamed_as_it_asks() {
    let gateway = Gateway::start();
    let whole = gateway.ask("hello").assert_status(200).json();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    let response = gateway.begin("hello", true).response().assert_status(200);
    let text = response.text();
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.last(), Some(&"data: [DONE]"));
    let mut content = String::new();
    for event in &events[..events.len() - 1] {
        let json: serde_json::Value =
            serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(json["object"], "chat.completion.chunk");
        content += json["choices"][0]["delta"]["content"].as_str().unwrap_or("");
    }
    assert_eq!(content, "hello");
}

#[test]
fn turns_of_one_session_take_their_turn() {
    let home = Home::new();
    let log = home.path().join("log");
    let script = format!(
        "read -r x; echo begin $x >> {0}; echo end $x >> {0}; echo $HERMES_SESSION",
        log.display()
    );
    home.configure(&format!(
        "[agent]\ncommand = [\"sh\", \"-c\", {script:?}]\n[limits]\nmax_turns = 8\n"
    ));
    let gateway = home.start();
    let key = gateway.authorization();
    let fields = [
        ("Authorization", key.as_str()),
        ("X-Hermes-Session-Id", "a/..b/c d"),
        ("Content-Type", "application/json"),
    ];
    let turns: Vec<Connection> = (0..8)
        .map(|number| {
            let mut connection = gateway.connect();
            let body = chat(&format!("{number}\n"), false);
            connection.send(&request("POST", "/v1/chat/completions", &fields, body.as_bytes()));
            connection
        })
        .collect();
    for mut turn in turns {
        assert_eq!(turn.response().reply(), "a/..b/c d");
    }
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.chunks(2) {
        assert_eq!(pair[0].strip_prefix("begin"), pair[1].strip_prefix("end"), "{text}");
    }
}

#[test]
fn curl_gets_along_with_it() {
    let gateway = Gateway::start();
    let curl = |args: &[&str]| {
        let url = format!("http://{}/v1/chat/completions", gateway.address());
        let key = format!("Authorization: {}", gateway.authorization());
        let mut command = Command::new("curl");
        command.args([
            "-sS",
            "--max-time",
            "20",
            "-H",
            &key,
            "-H",
            "Content-Type: application/json",
        ]);
        Process::spawn(command.args(args).arg(url)).finish(DEADLINE).assert_code(0).stdout
    };
    let whole = curl(&["-d", &chat("from curl", false)]);
    assert!(whole.contains("\"content\":\"from curl\""), "{whole}");
    let stream = curl(&["-N", "-d", &chat("from curl", true)]);
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
    // More than a kilobyte: curl waits for "100 Continue" before it sends the body.
    let long = chat(&"x".repeat(500_000), false);
    let file = gateway.home().path().join("body");
    fs::write(&file, long).unwrap();
    let data = format!("@{}", file.display());
    let whole = curl(&["-H", "Expect: 100-continue", "--data-binary", &data]);
    assert!(whole.len() > 500_000, "{}", whole.len());
}

#[test]
fn python_gets_along_with_it() {
    let gateway = Gateway::start();
    let script = r#"
import http.client, json, sys
host, key = sys.argv[1:]
c = http.client.HTTPConnection(host, timeout=20)
for stream in (False, True, False):
    body = json.dumps({"stream": stream, "messages": [{"role": "user", "content": "from python"}]})
    c.request("POST", "/v1/chat/completions", body,
              {"Authorization": key, "Content-Type": "application/json"})
    r = c.getresponse()
    text = r.read().decode()
    print(r.status, "from python" in text, text.endswith("data: [DONE]\n\n"))
"#;
    let mut command = Command::new("python3");
    command.args(["-c", script, &gateway.address().to_string(), &gateway.authorization()]);
    let said = Process::spawn(&mut command).finish(DEADLINE).assert_code(0).stdout;
    assert_eq!(said, "200 True False\n200 True True\n200 True False\n");
}

// ---------------------------------------------------------------- out of room ----

/// Processor time that it has used so far, in ticks of 10 ms.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn connections_beyond_the_descriptors_are_turned_away() {
    let home = Home::new();
    let limit = ["prlimit", "--nofile=256"];
    let gateway = home.launch().set("limits.max_turns", "2").through(&limit).start();
    let mut connections: Vec<Connection> = (0..150).map(|_| gateway.connect()).collect();
    // The operator's door stays open.
    let count = eventually("all are seen", || {
        let count = gateway.status()["connections"].as_u64().unwrap();
        (count > 20).then_some(count)
    });
    assert!(count < 128, "{count}");
    connections.last_mut().unwrap().response().error(503);
    connections.clear();
    eventually("room again", || (gateway.status()["connections"] == 0).then_some(()));
    assert_eq!(gateway.ask("x").reply(), "x");
}

#[test]
fn without_descriptors_it_rests_and_recovers() {
    let home = Home::new();
    let limit = ["prlimit", "--nofile=24"];
    let gateway = home.launch().through(&limit).start();
    let held: Vec<Connection> = (0..30).map(|_| gateway.control()).collect();
    gateway.wait_for_log("cannot accept connections", DEADLINE);
    let before = ticks(gateway.pid());
    // The case is the time itself: one that spins burns all of it.
    pause(Duration::from_millis(500));
    let burnt = ticks(gateway.pid()) - before;
    assert!(burnt <= 10, "{burnt} of 50 ticks");
    let lines = gateway.stderr().matches("cannot accept").count();
    assert!(lines < 50, "{lines} lines in the log");
    drop(held);
    gateway.connect().get("/health", &[]).assert_status(200);
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
}

/// With its last descriptor it serves whoever comes, and closes nobody for those who do not.
#[test]
fn with_one_descriptor_left_everybody_is_answered() {
    let home = Home::new();
    let gateway = home.launch().through(&["prlimit", "--nofile=24"]).start();
    let mut held = Vec::new();
    loop {
        for _ in 0..5 {
            let mut client = TcpStream::connect(gateway.address()).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            client
                .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .unwrap();
            let mut answer = Vec::new();
            match client.read_to_end(&mut answer) {
                Ok(_) => assert!(answer.starts_with(b"HTTP/1.1 200"), "{} held", held.len()),
                // There is none left: it waits until there is.
                Err(e) => {
                    assert!(held.len() > 3, "{e}, {} held", held.len());
                    return drop(held);
                }
            }
        }
        let mut control = gateway.control();
        control.get("/health", &[]).assert_status(200);
        held.push(control);
    }
}

#[test]
fn a_kill_without_descriptors_is_still_judged() {
    let home = Home::new();
    let gateway = home.launch().through(&["prlimit", "--nofile=24"]).start();
    let _held: Vec<Connection> = (0..30).map(|_| gateway.control()).collect();
    gateway.wait_for_log("cannot accept connections", DEADLINE);
    gateway.signal(libc::SIGTERM);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
}
