//! One principal that does its worst costs the others neither their memory nor their time: replies that nobody
//! reads, bodies that stall, work that grows with what was stored, and all of it at once. One at a time,
//! since each measures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::{alone, util};

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use util::api::id_of;
use util::http::chat;
use util::principals::{
    alice_and_bob, api, at_once, configuration, first_words, key_of, launch, memory, offer, p99,
    reset_peak, used,
};
use util::{
    Caller, DEADLINE, Gate, Gateway, Home, Target, Upstream, full, pause, report, rounds, script,
};

const CHAT: &str = "/v1/chat/completions";
/// What bodies and answers in flight may take, and what threads and their buffers take beside, in kB.
const BUFFERED: u64 = (64 + 16) << 10;

/// What 99 of 100 requests of others may take: more on a machine that runs other tests beside.
fn bound() -> Duration {
    Duration::from_millis(if full() && !cfg!(debug_assertions) { 50 } else { 500 })
}

/// A connection of a principal's, kept alive.
fn caller(gateway: &Gateway, name: &str) -> Caller {
    let key = if name == "owner" { gateway.home().api_key() } else { key_of(name) };
    Caller::tcp(gateway.address(), &format!("Bearer {key}")).unwrap()
}

/// Bob and the owner ask for this and that as long as `more` says so; none of it may be refused. How long
/// each took.
#[track_caller]
fn others(gateway: &Gateway, mut more: impl FnMut(usize) -> bool) -> Vec<Duration> {
    let (mut times, mut refused) = (Vec::new(), Vec::new());
    let message = r#"{"text":"hi"}"#;
    while more(times.len()) {
        let session = format!("/v1/sessions/s{}/messages", times.len() % 50);
        for (method, path, body) in [
            ("POST", session.as_str(), message),
            ("GET", "/v1/sessions", ""),
            ("GET", "/v1/models", ""),
            ("GET", "/health", ""),
        ] {
            for name in ["bob", "owner"] {
                let began = Instant::now();
                let answer = api(gateway, name).call(method, path, &[], body);
                times.push(began.elapsed());
                if answer.status() >= 300 {
                    refused.push(format!("{name}: {method} {path}: {}", answer.text()));
                }
            }
        }
        pause(Duration::from_millis(5));
    }
    let count = refused.len();
    refused.truncate(5);
    assert!(refused.is_empty(), "{count} of {} were refused: {refused:#?}", times.len());
    times
}

// --------------------------------------------------------------------------- memory ----

/// An agent that says eight megabytes where it is asked for them, and else what it was told.
fn agent() -> String {
    script(
        "read word; case $word in big*) head -c 8000000 /dev/zero | tr '\\0' x;; *) echo \"$word\";; esac",
    )
}

#[test]
fn replies_that_one_principal_asks_for_and_does_not_read_stay_within_the_budget() {
    let _alone = alone();
    let target = Target::answering(|_, _| 400.into());
    let keys = [("alice", "role = \"operator\""), ("bob", "")];
    let gateway = launch(&keys, &format!("{}{}", agent(), target.config("hook", ""))).start();
    let alice = api(&gateway, "alice");
    let id = alice.deliver("s", "big\n", "hook");
    alice.finished(&id);
    target.wait_for(1);
    let under_key = [("Idempotency-Key", "c"), ("X-Hermes-Session-Id", "r")];
    let again = chat("big\n", false);
    assert_eq!(alice.call("POST", CHAT, &under_key, &again).reply().len(), 8_000_000);
    let input = json!({ "input": "big\n" });
    let response = alice.post("/v1/responses", &input).json()["id"].as_str().unwrap().to_owned();
    let mut complaints = Vec::new();
    for (line, fields, body) in [
        (format!("GET /v1/messages/{id}"), &[][..], ""),
        (format!("GET /v1/messages/{id}?wait=1"), &[], ""),
        (format!("GET /v1/responses/{response}"), &[], ""),
        (format!("POST {CHAT}"), &under_key, &again),
        ("GET /v1/sessions/s/events".to_owned(), &[("Last-Event-ID", "1")], ""),
        ("GET /v1/dead-letters".to_owned(), &[], ""),
    ] {
        let before = reset_peak(&gateway);
        let open: Vec<TcpStream> = (0..rounds(12, 40))
            .filter_map(|_| offer(&gateway, "alice", &line, fields, body))
            .collect();
        let mut times = others(&gateway, |asked| asked < 160);
        let peak = memory(&gateway, "VmHWM:").saturating_sub(before);
        let slow = p99(&mut times);
        report(&format!("{line}: {} unread take {peak} kB; p99 of others {slow:?}", open.len()));
        if peak > BUFFERED || slow > bound() {
            complaints.push(format!("{line}: {peak} kB, {slow:?}"));
        }
        // Whoever reads gets all of it.
        let mut last = open.into_iter().next_back().unwrap();
        assert!(line.contains("events") || whole(&mut last) >= 8_000_000, "{line}");
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// How many bytes an answer has, its head included.
fn whole(stream: &mut TcpStream) -> usize {
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let (mut count, mut bytes) = (0, [0; 64 << 10]);
    let deadline = Instant::now() + DEADLINE;
    while count < 8_000_000 && Instant::now() < deadline {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(_) => {}
        }
    }
    count
}

/// Sends all of a body of 1 MiB but its end; the connection stays open.
fn stalled(gateway: &Gateway) -> Option<TcpStream> {
    let body = chat(&"x".repeat((1 << 20) - 200), false);
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        key_of("alice"),
        body.len()
    );
    let mut stream = TcpStream::connect(gateway.address()).ok()?;
    stream.set_write_timeout(Some(Duration::from_millis(200))).ok()?;
    stream.write_all(head.as_bytes()).ok()?;
    // What the gateway does not take now waits in the kernel, or is not sent.
    let _ = stream.write_all(&body.as_bytes()[..body.len() - 10]);
    Some(stream)
}

#[test]
fn bodies_of_one_principal_that_stall_stay_within_the_budget_and_others_are_read() {
    let _alone = alone();
    let gateway = alice_and_bob("").arg("--ephemeral").start();
    others(&gateway, |asked| asked < 40);
    let before = reset_peak(&gateway);
    let open = Mutex::new(Vec::new());
    at_once(10, |_| {
        for _ in 0..rounds(15, 25) {
            let stream = stalled(&gateway);
            open.lock().unwrap().extend(stream);
        }
    });
    let mut times = others(&gateway, |asked| asked < 160);
    let large = chat(&"y".repeat(1_000_000), false);
    for name in ["bob", "owner"] {
        let began = Instant::now();
        assert_eq!(api(&gateway, name).call("POST", CHAT, &[], &large).reply().len(), 1_000_000);
        times.push(began.elapsed());
    }
    let peak = memory(&gateway, "VmHWM:").saturating_sub(before);
    let (slow, count) = (p99(&mut times), open.lock().unwrap().len());
    report(&format!("{count} stalled bodies take {peak} kB; p99 of others {slow:?}"));
    assert!(peak <= BUFFERED, "{count} stalled bodies take {peak} kB");
    assert!(slow <= bound(), "{slow:?}");
}

#[test]
fn texts_of_chats_that_wait_for_their_turn_stay_within_the_budget() {
    let _alone = alone();
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&configuration(&home, &[("alice", ""), ("bob", "")], &gate.agent()));
    let gateway = home.launch().start();
    let before = reset_peak(&gateway);
    let body = chat(&"x".repeat((1 << 20) - 200), false);
    let line = format!("POST {CHAT}");
    let open = Mutex::new(Vec::new());
    at_once(10, |_| {
        for _ in 0..10 {
            let stream = offer(&gateway, "alice", &line, &[], &body);
            open.lock().unwrap().extend(stream);
        }
    });
    others(&gateway, |asked| asked < 160);
    let (peak, count) =
        (memory(&gateway, "VmHWM:").saturating_sub(before), open.lock().unwrap().len());
    report(&format!("{count} chats of 1 MiB that wait take {peak} kB"));
    assert!(peak <= BUFFERED, "{count} chats that wait take {peak} kB");
    gate.open();
}

#[test]
fn a_long_message_that_many_event_streams_tell_of_stays_within_the_budget() {
    let _alone = alone();
    let gateway = alice_and_bob("").start();
    let line = "GET /v1/sessions/s/events";
    let mut open: Vec<TcpStream> =
        (0..100).filter_map(|_| offer(&gateway, "alice", line, &[], "")).collect();
    open.retain_mut(|stream| first_words(stream).is_some_and(|(status, _)| status == 200));
    let before = reset_peak(&gateway);
    api(&gateway, "alice").send("s", &"x".repeat(1_000_000)).assert_status(202);
    others(&gateway, |asked| asked < 160);
    let (peak, count) = (memory(&gateway, "VmHWM:").saturating_sub(before), open.len());
    report(&format!("a message of 1 MB to {count} event streams takes {peak} kB"));
    assert!(peak <= BUFFERED, "{count} event streams take {peak} kB");
}

#[test]
fn a_body_without_a_key_is_refused_before_it_is_read() {
    let gateway = alice_and_bob("").arg("--ephemeral").start();
    let mut stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: 1000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(first_words(&mut stream).expect("an answer").0, 401);
}

// ----------------------------------------------------------- work that grows ----

/// Alice's keyed messages, ten in each of these sessions, all of them answered.
fn fill(gateway: &Gateway, sessions: std::ops::Range<usize>, reset: bool) {
    let next = Mutex::new(sessions);
    at_once(4, |_| {
        let mut alice = caller(gateway, "alice");
        loop {
            let Some(session) = next.lock().unwrap().next() else { return };
            for number in 0..10 {
                let key = format!("{session}-{number}");
                let target = format!("/v1/sessions/s{session}/messages?wait=5");
                let key = [("Idempotency-Key", key.as_str())];
                let answer = alice.ask("POST", &target, &key, r#"{"text":"hi"}"#).unwrap();
                assert!(answer.status() < 300, "{}", answer.text());
            }
            if reset {
                let target = format!("/v1/sessions/s{session}");
                alice.ask("DELETE", &target, &[], "").unwrap().assert_status(200);
            }
        }
    });
}

/// Alice says one thing in each of these sessions, and resets it.
fn say_and_reset(gateway: &Gateway, sessions: std::ops::Range<usize>) {
    let next = Mutex::new(sessions);
    at_once(8, |_| {
        let mut alice = caller(gateway, "alice");
        loop {
            let Some(session) = next.lock().unwrap().next() else { return };
            let target = format!("/v1/sessions/r{session}/messages?wait=5");
            let key = session.to_string();
            let key = [("Idempotency-Key", key.as_str())];
            alice.ask("POST", &target, &key, r#"{"text":"hi"}"#).unwrap().assert_status(200);
            let target = format!("/v1/sessions/r{session}");
            alice.ask("DELETE", &target, &[], "").unwrap().assert_status(200);
        }
    });
}

/// What a compaction costs of a processor, and the longest that others wait beside it.
fn compaction(gateway: &Gateway) -> (Duration, Duration) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let times = scope.spawn(|| others(gateway, |_| !stop.load(Ordering::Relaxed)));
        let before = used(gateway);
        for _ in 0..5 {
            gateway.control().post("/v1/journal/compact", &[], "{}").assert_status(200);
        }
        let cost = used(gateway) - before;
        stop.store(true, Ordering::Relaxed);
        (cost / 5, times.join().unwrap().into_iter().max().unwrap_or_default())
    })
}

#[test]
fn messages_and_resets_of_one_principal_make_no_request_of_others_wait() {
    let _alone = alone();
    let gateway = alice_and_bob("").start();
    let some = rounds(500, 10_000);
    say_and_reset(&gateway, 0..some);
    let (few, _) = compaction(&gateway);
    say_and_reset(&gateway, some..4 * some);
    let (many, longest) = compaction(&gateway);
    report(&format!(
        "a compaction after {some} resets {few:?}, after {} {many:?}; others waited {longest:?}",
        4 * some
    ));
    // Four times as much, and not sixteen times.
    assert!(many <= few * 8 + Duration::from_millis(100), "{few:?}, then {many:?}");
    assert!(longest <= bound(), "{longest:?}");
}

#[test]
fn a_replay_costs_what_its_session_has_and_not_what_the_journal_has() {
    let _alone = alone();
    let gateway = alice_and_bob("").start();
    let alice = api(&gateway, "alice");
    alice.finished(&alice.accepted("mine", "one"));
    fill(&gateway, 0..rounds(200, 5000), false);
    alice.finished(&alice.accepted("mine", "two"));
    let before = used(&gateway);
    for _ in 0..20 {
        let told = alice.events("mine", Some(1)).records_until("done");
        assert!(!told.is_empty(), "{told:?}");
    }
    let each = (used(&gateway) - before) / 20;
    report(&format!("{each:?} of a processor each"));
    assert!(each <= Duration::from_millis(10), "{each:?} of a processor each");
}

#[test]
fn an_upstream_with_sixty_thousand_models_costs_nobody_seconds() {
    let _alone = alone();
    let upstream = Upstream::start();
    let config = upstream.config("").replace("model = ", "# ");
    let gateway = alice_and_bob(&config).start();
    thread::spawn(move || {
        let ids = (0..60_000).map(|n| json!({ "id": format!("m{n}") }));
        let body = json!({ "data": ids.collect::<Vec<_>>() }).to_string();
        loop {
            let mut line = upstream.accept();
            while line.next_request().is_some() {
                line.answer(200, "Content-Type: application/json\r\n", &body);
            }
        }
    });
    let before = used(&gateway);
    let began = Instant::now();
    let mut answer = api(&gateway, "alice").begin("GET", "/v1/models", &[], "");
    answer.set_read_limit(Duration::from_secs(120));
    let answer = answer.response();
    let (took, cost) = (began.elapsed(), used(&gateway) - before);
    let words: String = answer.text().chars().take(200).collect();
    report(&format!("{took:?}, {cost:?} of a processor, {} bytes: {words}", answer.body.len()));
    assert!(cost <= Duration::from_secs(2), "{cost:?} of a processor");
    assert!(answer.body.len() < 16 << 20, "{} bytes", answer.body.len());
}

// ------------------------------------------------------------------- all at once ----

/// A body of 1 MiB that is a thousand times as much where it is built.
fn bomb() -> String {
    let unit = vec![r#"{"":0}"#; 140_000].join(",");
    format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}],\"zz\":[{unit}]}}")
}

/// One way to do harm, as alice, with the number of its try.
type Harm = Box<dyn Fn(&Gateway, usize) -> Option<TcpStream> + Send + Sync>;

/// All that alice does at once: what each leaves open stays open for a while.
fn harms(id: &str) -> Vec<Harm> {
    let message = format!("GET /v1/messages/{id}");
    let bomb = bomb();
    let get = |line: &'static str, fields: &'static [(&str, &str)]| -> Harm {
        Box::new(move |gateway, _| offer(gateway, "alice", line, fields, ""))
    };
    vec![
        get("GET /v1/sessions/big/events", &[]),
        get("GET /v1/sessions/big/events", &[("Last-Event-ID", "1")]),
        get("GET /v1/models", &[]),
        Box::new(move |gateway, _| offer(gateway, "alice", &message, &[], "")),
        Box::new(|gateway, _| stalled(gateway)),
        Box::new(move |gateway, _| offer(gateway, "alice", &format!("POST {CHAT}"), &[], &bomb)),
        Box::new(|gateway, n| {
            let line = format!("POST /v1/sessions/a{}/messages", n % 100);
            let key = n.to_string();
            let key = [("Idempotency-Key", key.as_str())];
            let body = json!({ "text": "x".repeat(2000), "deliver": "slow" }).to_string();
            first_words(&mut offer(gateway, "alice", &line, &key, &body)?);
            None
        }),
        Box::new(|gateway, n| {
            let line = format!("DELETE /v1/sessions/a{}", n % 100);
            first_words(&mut offer(gateway, "alice", &line, &[], "")?);
            None
        }),
        Box::new(|gateway, _| {
            offer(gateway, "alice", &format!("POST {CHAT}"), &[], &chat("hi\n", true))
        }),
    ]
}

#[test]
fn one_principal_that_does_all_of_it_at_once_refuses_nobody_and_slows_nobody_down() {
    let _alone = alone();
    let target = Target::answering(|_, _| {
        pause(Duration::from_millis(200));
        204.into()
    });
    let keys = [("alice", "role = \"operator\""), ("bob", "")];
    let config = format!("{}{}", agent(), target.config("slow", ""));
    let gateway = launch(&keys, &config)
        .set("limits.max_connections", "200")
        .set("limits.max_queue", "200")
        .set("limits.max_journal", "64MiB")
        .start();
    let alice = api(&gateway, "alice");
    let id = id_of(&alice.send_keyed("big", "big", "big\n").assert_status(202).json());
    alice.finished(&id);
    let harms = harms(&id);
    reset_peak(&gateway);
    let began = Instant::now();
    let time = Duration::from_secs(rounds(3, 60) as u64);
    let is_over = || began.elapsed() > time;
    let mut times = thread::scope(|scope| {
        for harm in &harms {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut open = Vec::new();
                for number in 0.. {
                    if began.elapsed() > time {
                        break;
                    }
                    open.extend(harm(gateway, number));
                    if open.len() > 60 {
                        let oldest: TcpStream = open.remove(0);
                        let _ = oldest.shutdown(Shutdown::Both);
                    }
                    pause(Duration::from_millis(rounds(10, 5) as u64));
                }
            });
        }
        // Once alice holds what she can.
        pause(time / 4);
        others(&gateway, |_| !is_over())
    });
    let peak = memory(&gateway, "VmHWM:");
    let (count, most) = (times.len(), times.iter().max().copied().unwrap());
    let slow = p99(&mut times);
    report(&format!("{count} requests of others, p99 {slow:?}, at most {most:?}, peak {peak} kB"));
    assert!(slow <= bound(), "p99 of others {slow:?}");
    assert!(peak <= 128 << 10, "{peak} kB");
    // And what others were promised comes.
    let bob = api(&gateway, "bob");
    assert_eq!(bob.reply(&bob.accepted("s-last", "last\n")).trim(), "last");
}
