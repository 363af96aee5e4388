//! A gateway that does not run, one that does not answer, and one that does; also for the tests of `send`.
use super::*;
use crate::lifecycle::instance_lock::InstanceLock;
use crate::name::Name;
use crate::testing::TempDir;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;
use std::time::Duration;

pub fn dirs(root: &TempDir) -> Dirs {
    Dirs {
        config_file: root.path().join("c.toml"),
        state: root.path().join("state/gw/coder"),
        runtime: root.path().join("run/gw/coder"),
        data: root.path().join("data/gw/coder"),
    }
}

pub fn hold(dirs: &Dirs) -> InstanceLock {
    InstanceLock::take(&Name::parse("coder").unwrap(), dirs, Vec::new()).unwrap()
}

/// A gateway that answers one request after the other with these bytes and hangs up; gives the
/// requests.
pub fn fake(dirs: &Dirs, answers: &[&str]) -> JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(dirs.control_socket()).unwrap();
    let answers: Vec<String> = answers.iter().map(|&a| a.to_owned()).collect();
    std::thread::spawn(move || {
        let mut seen = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            seen.push(request(&mut stream));
            let _ = stream.write_all(answer.as_bytes());
        }
        seen
    })
}

fn request(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).unwrap();
        bytes.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert!(count > 0, "{text}");
            continue;
        };
        let length = head
            .lines()
            .find_map(|l| l.strip_prefix("Content-Length: "))
            .map_or(0, |l| l.parse().unwrap());
        if body.len() >= length || count == 0 {
            return text;
        }
    }
}

pub fn json(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[test]
fn a_gateway_whose_lock_nobody_holds_is_not_running() {
    let root = TempDir::new("control");
    let dirs = dirs(&root);
    assert!(matches!(fetch_status(&dirs, soon()), Err(NoAnswer::NotRunning)));
    // What a dead gateway left behind is no gateway.
    drop(hold(&dirs));
    drop(UnixListener::bind(dirs.control_socket()).unwrap());
    assert!(matches!(fetch_status(&dirs, soon()), Err(NoAnswer::NotRunning)));
    assert!(matches!(contact(&dirs, soon(), ""), Err(NoAnswer::NotRunning)));
}

#[test]
fn a_status_comes_through_the_control_socket() {
    let root = TempDir::new("control");
    let dirs = dirs(&root);
    let _held = hold(&dirs);
    let server = fake(&dirs, &[&json("200 OK", r#"{"state":"serving"}"#)]);
    let Ok((holder, status)) = fetch_status(&dirs, soon()) else {
        panic!();
    };
    assert_eq!(status["state"], "serving");
    assert!(holder.is_some());
    let seen = server.join().unwrap();
    assert!(seen[0].starts_with("GET /v1/status HTTP/1.1\r\nHost: localhost\r\n"));
}

#[test]
fn a_gateway_that_does_not_listen_yet_is_waited_for() {
    let root = TempDir::new("control");
    let dirs = dirs(&root);
    let _held = hold(&dirs);
    let place = dirs.clone();
    let asking = std::thread::spawn(move || fetch_status(&place, soon()));
    let server = fake(&dirs, &["", &json("200 OK", "{}")]);
    assert!(asking.join().unwrap().is_ok());
    assert_eq!(server.join().unwrap().len(), 2, "hung up on once");
}

#[test]
fn a_lock_holder_that_does_not_answer_is_unresponsive() {
    let root = TempDir::new("control");
    let dirs = dirs(&root);
    let _held = hold(&dirs);
    let short = || Instant::now() + Duration::from_millis(60);
    assert!(matches!(fetch_status(&dirs, short()), Err(NoAnswer::Unresponsive { .. })));
    let _listener = UnixListener::bind(dirs.control_socket()).unwrap();
    let Err(NoAnswer::Unresponsive { why, holder }) = fetch_status(&dirs, short()) else {
        panic!();
    };
    assert!(why.contains("no answer in time"), "{why}");
    assert!(holder.is_some());
}

#[test]
fn an_answer_that_is_no_json_object_is_no_status() {
    for answer in [json("200 OK", "[]"), json("500 No", "{}"), "x".into()] {
        let root = TempDir::new("control");
        let dirs = dirs(&root);
        let _held = hold(&dirs);
        let _server = fake(&dirs, &[&answer]);
        let deadline = Instant::now() + Duration::from_millis(60);
        assert!(matches!(fetch_status(&dirs, deadline), Err(NoAnswer::Unresponsive { .. })));
    }
}
