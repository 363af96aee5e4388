//! The clients that must not notice a restart see what they are there to see: on records made up, on servers
//! that do one thing wrong, and on a gateway that goes away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use util::restart_clients::record::{
    Acknowledged, Event, Last, Limits, Record, Sample, Summary, Window,
};
use util::restart_clients::wire::Failure;
use util::restart_clients::{
    Clients, EVENTS, KEPT_BUSY, KEPT_CHAT, KEPT_SLOW, NEW_CHAT, NEW_HEALTH, NEW_MESSAGE, Server,
    WAIT,
};
use util::{Home, report};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server that does with each connection what `serve` says, for as long as the test runs.
fn server(serve: impl Fn(&mut TcpStream, u64) + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = std::sync::Arc::new(serve);
    let number = AtomicU64::new(0);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (serve, number) = (serve.clone(), number.fetch_add(1, Ordering::Relaxed));
            thread::spawn(move || {
                let mut stream = stream;
                serve(&mut stream, number);
            });
        }
    });
    Server { address, key: None, chats: false, messages: false, pause: Duration::ZERO }
}

/// One request; false when there is none any more.
fn request(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    let mut byte = [0; 512];
    while !seen.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(count @ 1..) => seen.extend_from_slice(&byte[..count]),
            _ => return false,
        }
    }
    true
}

fn serve_well(stream: &mut TcpStream) {
    while request(stream) && stream.write_all(ANSWER).is_ok() {}
}

/// What the clients see of such a server: of all kinds together.
#[track_caller]
fn seen(server: Server) -> Summary {
    let clients = Clients::start(server);
    clients.served(&clients.steady(), 5).unwrap();
    clients.finish()
}

#[test]
fn a_good_server_has_no_problem() {
    let summary = seen(server(|stream, _| serve_well(stream)));
    assert_eq!(summary.problems(Limits::default()), [""; 0]);
    assert!(summary.kinds[NEW_HEALTH].requests > 5, "{summary}");
    assert_eq!(summary.total().retried, 0, "{summary}");
}

#[test]
fn each_thing_that_a_server_does_wrong_is_seen() {
    // Every third connection, so that each kind is served as well; of the kept ones each, since few are opened.
    type Case = (fn(&mut TcpStream), fn(&Summary) -> u64);
    let cases: [Case; 5] = [
        (|stream| assert!(request(stream)), |s| s.total().reset),
        (
            |stream| {
                request(stream);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
            },
            |s| s.total().cut,
        ),
        (
            |stream| {
                request(stream);
                let head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
                let _ = stream.write_all(head);
            },
            |s| s.total().unavailable,
        ),
        (
            |stream| {
                request(stream);
                let _ = stream.write_all(b"nonsense\r\n\r\n");
            },
            |s| s.total().wrong,
        ),
        (
            |stream| {
                request(stream);
                let _ = stream.write_all(ANSWER);
            },
            |s| s.total().retried,
        ),
    ];
    for (number, (bad, count)) in cases.into_iter().enumerate() {
        let summary = seen(server(move |stream, turn| {
            if number == 4 || turn.is_multiple_of(3) { bad(stream) } else { serve_well(stream) }
        }));
        assert!(count(&summary) > 0, "case {number}:\n{summary}");
        // A kept connection that is closed between two requests is the only thing that is allowed.
        let problems = summary.problems(Limits::default());
        assert_eq!(problems.is_empty(), number == 4, "case {number}: {problems:#?}\n{summary}");
    }
}

#[test]
fn a_gateway_that_goes_away_is_noticed_and_one_that_stays_is_not() {
    let home = Home::new();
    let limits = "[limits]\nmax_queue_per_session = 1000\n";
    home.configure(limits);
    let gateway = home.start();
    let server = gateway.for_clients();
    let clients = Clients::start(server.clone());
    clients.served(&clients.steady(), 5).unwrap();
    let summary = clients.finish();
    report(&format!("a gateway that stays: {summary}"));
    assert_eq!(summary.problems(Limits::default()), [""; 0], "{summary}");
    let kinds = [NEW_HEALTH, NEW_CHAT, NEW_MESSAGE, KEPT_BUSY, KEPT_SLOW, KEPT_CHAT, WAIT, EVENTS];
    for kind in kinds {
        assert!(summary.kinds[kind].requests > 0, "{kind}: {summary}");
    }
    assert!(summary.messages > 10 && summary.events > 10, "{summary}");

    let clients = Clients::start(server);
    clients.served(&clients.steady(), 5).unwrap();
    let address = gateway.address();
    let mut gateway = Some(gateway);
    let down = clients.through(|| {
        let running = gateway.take().unwrap();
        running.signal(libc::SIGKILL);
        running.wait_for_exit(util::DEADLINE);
        let dead = Instant::now();
        // Until somebody has noticed.
        util::pause(Duration::from_millis(100));
        gateway = Some(home.launch().set("http.listen", &address.to_string()).start());
        Some(dead)
    });
    down.unwrap();
    let summary = clients.finish();
    report(&format!("a gateway that was away: {summary}"));
    assert!(summary.total().refused > 0, "{summary}");
    let problems = summary.problems(Limits { repeated_turns: true, ..Limits::default() });
    assert!(problems.iter().any(|problem| problem.contains("refused")), "{problems:#?}");
    // What was acknowledged is there, and the events went on where they had stopped.
    assert_eq!(summary.without_reply, [""; 0], "{summary}");
    let events = summary.events_doubled.len() + summary.events_lost.len();
    assert_eq!(events, 0, "{:?} {:?}", summary.events_doubled, summary.events_lost);
}

/// A record in which nothing is wrong, with a restart from 1 s to 2 s, the process dead at 1.1 s.
fn record() -> (Record, Instant) {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut record = Record::default();
    record.windows.push(Window { began: at(1000), dead: Some(at(1100)), ended: at(2000) });
    let message = |text: &str, id: &str| Acknowledged { id: id.into(), text: text.into() };
    record.acknowledged = vec![message("a", "1"), message("b", "2")];
    for message in &record.acknowledged {
        let last = Last { done: true, reply: message.text.clone(), attempts: 1 };
        record.last.insert(message.id.clone(), last);
    }
    let event = |id, kind: &str| Event { id, kind: kind.into(), message: "1".into() };
    record.events = vec![event(3, "accepted"), event(4, "started"), event(5, "done")];
    record.replay = record.events.clone();
    (record, start)
}

fn sample(began: Instant, took: u64, failure: Option<Failure>) -> Sample {
    Sample { kind: NEW_HEALTH, began, took: Duration::from_millis(took), failure, waited: true }
}

#[test]
fn what_a_kill_takes_with_it_is_told_apart_from_what_it_should_not() {
    let (mut record, start) = record();
    let at = |ms| start + Duration::from_millis(ms);
    assert_eq!(record.summary().problems(Limits::default()), [""; 0]);
    // In its hands when it died: allowed. Behind that, or where nobody died: not.
    record.add(sample(at(1050), 70, Some(Failure::Reset)));
    record.add(sample(at(950), 100, Some(Failure::Cut)));
    assert_eq!(record.summary().problems(Limits::default()), [""; 0]);
    assert_eq!(record.summary().total().killed, 2);
    for (began, failure) in [
        (1150, Failure::Reset),
        (1150, Failure::Cut),
        (100, Failure::Cut),
        (1050, Failure::Refused),
        (1050, Failure::Unavailable),
        (1050, Failure::Late),
    ] {
        let mut record = Record { windows: record.windows.clone(), ..Record::default() };
        record.add(sample(at(began), 20, Some(failure.clone())));
        let problems = record.summary().problems(Limits::default());
        assert!(!problems.is_empty(), "{failure:?} from {began} ms");
    }
}

#[test]
fn the_longest_wait_in_a_restart_is_held_against_the_limit_and_a_calm_one_is_not() {
    let (mut record, start) = record();
    let at = |ms| start + Duration::from_millis(ms);
    record.add(sample(at(3000), 900, None));
    let limits = Limits { longest: Some(Duration::from_millis(500)), ..Limits::default() };
    assert_eq!(record.summary().problems(limits), [""; 0]);
    record.add(sample(at(1900), 600, None));
    assert_eq!(record.summary().problems(limits).len(), 1);
    let tally = record.summary().total();
    assert_eq!((tally.longest.as_millis(), tally.calm.as_millis()), (600, 900));
}

#[test]
fn lost_doubled_and_wrong_messages_and_events_are_found() {
    type Change = fn(&mut Record);
    let changes: [(Change, &str); 9] = [
        (|r| drop(r.last.remove("1")), "is unknown"),
        (|r| r.last.get_mut("1").unwrap().done = false, "is not done"),
        (|r| r.last.get_mut("1").unwrap().reply = "z".into(), "has \"z\""),
        (|r| r.acknowledged[1].id = "1".into(), "has the id of another"),
        (|r| r.last.get_mut("1").unwrap().attempts = 2, "ran more than once"),
        (|r| drop(r.events.remove(1)), "never told"),
        (|r| r.events.push(r.events[2].clone()), "told twice"),
        (|r| r.events.swap(0, 1), "told twice"),
        (
            |r| {
                let again = Event { id: 9, ..r.events[2].clone() };
                r.events.push(again);
            },
            "done 2 times",
        ),
    ];
    for (change, words) in changes {
        let (mut record, _) = record();
        change(&mut record);
        let problems = record.summary().problems(Limits::default());
        assert!(problems.iter().any(|problem| problem.contains(words)), "{words}: {problems:?}");
    }
}
