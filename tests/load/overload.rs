//! More clients than the gateway has room for, and slow ones: good clients are served all the same, the slow are
//! gone at their deadlines, and whatever runs short, the control socket answers. One at a time, since
//! each measures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::{alone, util};

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use util::{Api, DEADLINE, Gateway, Home, Process, eventually, full, pause, report, rounds, skip};

/// A number from a line of /proc/PID/status, in kB.
fn memory(gateway: &Gateway, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

/// What the process has used of a processor so far (proc(5), fields 14 and 15 of its stat).
fn used(gateway: &Gateway) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Asks good questions, each on a connection of its own, while `more` says so: how many, and the time
/// that 99 of 100 took at most. Each must be answered.
fn good_clients(api: &Api, mut more: impl FnMut(usize) -> bool) -> (usize, Duration) {
    let body = util::http::chat("hi", false);
    let mut times = Vec::new();
    while more(times.len()) {
        let began = Instant::now();
        let response = api.call("POST", "/v1/chat/completions", &[], &body);
        assert_eq!(response.reply(), "hi");
        times.push(began.elapsed());
        // They ask often, and leave the processor to what is measured.
        pause(Duration::from_millis(3));
    }
    times.sort_unstable();
    (times.len(), times[times.len() * 99 / 100])
}

/// What good clients may wait while slow ones are there: twice what they do without; a debug build, or a
/// machine that runs other tests beside, is no measure.
fn bound(idle: Duration) -> Duration {
    let strict = full() && !cfg!(debug_assertions);
    (idle * 2).max(Duration::from_millis(if strict { 20 } else { 2000 }))
}

/// Connections that send this and nothing more.
fn crowd(address: SocketAddr, count: usize, first: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(first);
        stream
    };
    (0..count).map(connect).collect()
}

/// What comes until the end of a connection, which must come.
fn until_end(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        Err(e) => panic!("it was not ended: {e}"),
    }
    all
}

#[test]
fn slow_heads_bodies_and_readers_of_slowhttptest() {
    let _alone = alone();
    if !Path::new("/usr/bin/slowhttptest").exists() {
        return skip("there is no slowhttptest: tests/run installs it");
    }
    let gateway = Home::new().launch().set("limits.head_timeout", "5s").start();
    let api = gateway.api();
    let (_, idle) = good_clients(&api, |asked| asked < 300);
    let connections = rounds(300, 2000);
    for (kind, target) in [("-H", "/v1/models"), ("-B", "/v1/chat/completions"), ("-X", "/health")]
    {
        let url = format!("http://{}{target}", gateway.address());
        let mut attack = Command::new("slowhttptest");
        attack.args([
            kind,
            "-i",
            "2",
            "-l",
            &rounds(7, 12).to_string(),
            "-p",
            "3",
            "-v",
            "0",
            "-u",
            &url,
        ]);
        attack.args(["-c", &connections.to_string(), "-r", &(connections / 2).to_string()]);
        if kind == "-X" {
            attack.args("-w 1 -y 2 -n 2 -z 1 -k 3".split(' '));
        }
        let attack = Process::spawn(&mut attack);
        let (asked, slow) = good_clients(&api, |_| attack.is_running());
        let rss = memory(&gateway, "VmRSS:");
        report(&format!("{kind}: {asked} good ones, p99 {slow:?} (idle {idle:?}), RSS {rss} kB"));
        assert!(asked > 100 && slow <= bound(idle), "{kind}: {asked} in {slow:?}, idle {idle:?}");
        assert!(rss <= 128 << 10, "{kind}: {rss} kB");
        eventually("the slow ones have gone", || {
            (gateway.status()["connections"] == 0).then_some(())
        });
    }
}

/// The same by clients that have a key, whom slowhttptest cannot play.
#[test]
fn slow_clients_with_a_key_are_gone_at_their_deadlines() {
    let _alone = alone();
    let gateway = Home::new()
        .launch()
        .set("limits.body_timeout", "4s")
        .set("limits.write_timeout", "2s")
        .set("limits.max_body", "8MiB")
        .start();
    let api = gateway.api();
    let (_, idle) = good_clients(&api, |asked| asked < 300);
    let fields = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Authorization: {}\r\n",
        gateway.authorization()
    );
    let half = format!("{fields}Content-Length: 100000\r\n\r\n{{\"messages\":");
    let mut bodies = crowd(gateway.address(), rounds(300, 2000), half.as_bytes());
    let text = util::http::chat(&"x".repeat(7 << 20), false);
    let whole = format!("{fields}Content-Length: {}\r\n\r\n{text}", text.len());
    // What the readers send takes the room that those shall have.
    eventually("the slow ones have begun", || {
        let status = gateway.status();
        let owner = status["principals"].as_array()?.iter().find(|it| it["name"] == "owner")?;
        (owner["connections"].as_u64()? >= 300).then_some(())
    });
    let readers = crowd(gateway.address(), rounds(10, 40), whole.as_bytes());
    let (asked, slow) = good_clients(&api, |asked| asked < 100);
    report(&format!("{asked} good ones, p99 {slow:?} (idle {idle:?})"));
    assert!(slow <= bound(idle), "{asked} in {slow:?}, idle {idle:?}");
    // Those for which limits.max_buffered has no room wait for it, and are told so.
    let mut late = 0;
    for stream in &mut bodies {
        let told = until_end(stream);
        let is_late = told.starts_with(b"HTTP/1.1 408 ");
        late += usize::from(is_late);
        let is_full = told.starts_with(b"HTTP/1.1 429 ");
        assert!(is_late || is_full, "{:?}", String::from_utf8_lossy(&told));
    }
    assert!(late >= 300, "{late} had their body's time");
    // Who reads nothing is cut off, in the middle of the answer.
    eventually("the readers have been cut off", || {
        (gateway.status()["connections"] == 0).then_some(())
    });
    drop(readers);
}

#[test]
fn thousands_of_connections_keep_nobody_out() {
    let _alone = alone();
    let many = rounds(1200, 8000);
    util::sys::raise_descriptors();
    // Nobody leaves by a deadline here.
    let gateway = Home::new().launch().set("limits.head_timeout", "60s").start();
    let api = gateway.api();
    let idle = crowd(gateway.address(), many / 2, b"");
    let started =
        crowd(gateway.address(), many / 2, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n");
    let (_, slow) = good_clients(&api, |asked| asked < 300);
    let without_key = memory(&gateway, "VmRSS:");
    eventually("no more without a key stay than may", || {
        assert_eq!(gateway.ask("x").reply(), "x");
        let left = gateway.status()["connections"].as_u64()?;
        (left <= 1001).then_some(())
    });
    drop((idle, started));
    // Those that have a key stay, all of them.
    let fields = [("Authorization", gateway.authorization())];
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let ask = util::http::request("GET", "/v1/models", &fields, b"");
    let before = memory(&gateway, "VmRSS:");
    let mut known = crowd(gateway.address(), many, &ask);
    let answered = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut piece = [0; 4096];
        matches!(stream.read(&mut piece), Ok(count) if piece[..count].starts_with(b"HTTP/1.1 200 "))
    };
    let served = known.iter_mut().filter_map(|stream| answered(stream).then_some(())).count();
    assert!(served * 100 >= many * 99, "{served} of {many}");
    let each = (memory(&gateway, "VmRSS:").saturating_sub(before)) / many as u64;
    let (_, beside) = good_clients(&api, |asked| asked < 100);
    // And are served again, on the same connections.
    let again = known.iter_mut().filter_map(|stream| {
        stream.write_all(&ask).ok()?;
        answered(stream).then_some(())
    });
    let again = again.count();
    assert!(again * 100 >= many * 99, "{again} of {many}");
    report(&format!(
        "p99 {slow:?} beside {many} without a key ({without_key} kB), {beside:?} beside {served} that are known, \
         {each} kB each"
    ));
    // A debug build's threads use more of their stacks.
    assert!(each <= if cfg!(debug_assertions) { 40 } else { 24 }, "{each} kB");
}

/// Asks at the control socket now and then: how many answers there were, and what the gateway has used of
/// a processor meanwhile.
fn asked_for_two_seconds(gateway: &Gateway) -> (usize, Duration) {
    let (began, before) = (Instant::now(), used(gateway));
    let mut asked = 0;
    while began.elapsed() < Duration::from_secs(2) {
        gateway.status();
        asked += 1;
        pause(Duration::from_millis(100));
    }
    (asked, used(gateway) - before)
}

/// Waits until the gateway serves a new client again, and says how long that took.
fn serves_again(gateway: &Gateway) -> Duration {
    let fields = [("Authorization", gateway.authorization())];
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let ask = util::http::request("GET", "/v1/models", &fields, b"");
    let began = Instant::now();
    eventually("a good client is served", || {
        let mut stream = TcpStream::connect(gateway.address()).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        stream.write_all(&ask).ok()?;
        let mut piece = [0; 64];
        let count = stream.read(&mut piece).ok()?;
        piece[..count].starts_with(b"HTTP/1.1 200 ").then_some(())
    });
    began.elapsed()
}

#[test]
fn without_descriptors_it_does_not_spin_and_the_control_socket_answers() {
    let _alone = alone();
    let gateway = Gateway::start();
    let limit = |limit: &str| {
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--pid", &gateway.pid().to_string(), &format!("--nofile={limit}")]);
        Process::spawn(&mut prlimit).finish(DEADLINE).assert_code(0);
    };
    let mut crowd = crowd(gateway.address(), 60, b"");
    eventually("all have come in", || (gateway.status()["connections"] == 60).then_some(()));
    // No number is free below the lowest free one: the next accept fails, once all is quiet there.
    eventually("an accept fails", || {
        if gateway.stderr().contains("Too many open files") {
            return Some(());
        }
        let is_free = |fd: &u32| !Path::new(&format!("/proc/{}/fd/{fd}", gateway.pid())).exists();
        let lowest = (0..).find(is_free).unwrap();
        // Fewer than it needs for itself would help nobody.
        let enough = lowest >= 50;
        limit(&if enough { format!("{lowest}:4096") } else { "4096:4096".to_owned() });
        crowd.extend(self::crowd(gateway.address(), 1, b""));
        None
    });
    crowd.extend(self::crowd(gateway.address(), 60, b""));
    let (asked, spent) = asked_for_two_seconds(&gateway);
    assert!(asked >= 10, "the control socket answered {asked} times");
    limit("4096:4096");
    let took = serves_again(&gateway);
    report(&format!("{spent:?} of a processor in 2 s, {asked} answers, again after {took:?}"));
    assert!(spent < Duration::from_secs(1), "{spent:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn without_threads_it_does_not_spin_and_the_control_socket_answers() {
    let _alone = alone();
    if util::sys::uid() != 0 {
        return skip("it takes root to be another user");
    }
    // A user that nobody else is: what an earlier run has left is in the limit until it is reaped.
    let uid = 1_000_000 + std::process::id();
    let home = Home::new();
    home.configure("");
    let mut places = vec![home.path().to_owned()];
    while let Some(place) = places.pop() {
        chown(&place, Some(uid), Some(uid)).unwrap();
        if place.is_dir() {
            places.extend(fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
    let user = ["setpriv", &ids[0], &ids[1], "--clear-groups"];
    // So many for all that the user has: the gateway leaves a part of them to others.
    let script = format!(
        "chown {uid} \"$NOTIFY_SOCKET\"; exec {} prlimit --nproc=80:80 \"$@\"",
        user.join(" ")
    );
    let words = ["sh", "-c", &script, "sh"];
    let gateway = home.launch().through(&words).set("limits.max_turns", "2").start();
    let mut others = Command::new(user[0]);
    others.args(&user[1..]).args(["sh", "-c", "for i in $(seq 60); do sleep 600 & done; wait"]);
    let others = Process::spawn(&mut others);
    eventually("the others take their part", || (others.children().len() == 60).then_some(()));
    let crowd = crowd(gateway.address(), 100, b"");
    gateway.wait_for_log("cannot accept connections", DEADLINE);
    let (asked, spent) = asked_for_two_seconds(&gateway);
    let mut end = Command::new("pkill");
    end.args(["-KILL", "-u", &uid.to_string(), "sleep"]);
    Process::spawn(&mut end).finish(DEADLINE).assert_code(0);
    let took = serves_again(&gateway);
    report(&format!("{spent:?} of a processor in 2 s, {asked} answers, again after {took:?}"));
    assert!(asked >= 10 && spent < Duration::from_secs(1), "{asked} answers, {spent:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    drop(crowd);
}
