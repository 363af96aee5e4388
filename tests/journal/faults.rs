//! A disk that fails: every single system call on the journal once, and again with each error; a
//! disk that is full, cannot be written, or has a cap; no descriptors left; a journal cut off at any
//! byte. What was answered with 2xx is there after the next start and ends well, everything else
//! is a clean error, nothing hangs, and nothing panics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use util::fault::{self, Fault, SHORT, When};
use util::http::Response;
use util::{Caller, DEADLINE, Gate, Gateway, Home, Private, Tmpfs, eventually, full, pause, sys};

/// What a gateway may end with: planned, failed, unavailable, again, configuration, terminated.
const DOCUMENTED: [i32; 6] = [0, 1, 69, 75, 78, 143];

// ----------------------------------------------------- every call, once, each error ----

/// A message of the workload.
struct Post {
    session: &'static str,
    key: &'static str,
    text: String,
    /// Where it was acknowledged.
    id: Option<String>,
}

/// A refusal in words, as it should be.
#[track_caller]
fn assert_clean(answer: &Response, what: &str) {
    let status = answer.status();
    assert!([429, 500, 503, 507].contains(&status), "{what}: {:?} {}", answer.head, answer.text());
    let words = answer.json()["error"]["message"].as_str().unwrap_or("").to_owned();
    assert!(!words.is_empty(), "{what}: {}", answer.text());
    if [429, 507].contains(&status) {
        assert!(answer.field("retry-after").is_some(), "{what}: {:?}", answer.head);
    }
}

/// Asks over a connection that may have ended, since the gateway may.
fn ask(
    caller: &mut Option<Caller>,
    gateway: &Gateway,
    (method, target): (&str, &str),
    fields: &[(&str, &str)],
    body: &str,
) -> io::Result<Response> {
    let connected = match caller.take() {
        Some(connected) => Ok(connected),
        None => Caller::unix(&gateway.home().control_socket()),
    };
    let mut connected = connected?;
    let answer = connected.ask(method, target, fields, body)?;
    *caller = Some(connected);
    Ok(answer)
}

/// Five messages in two sessions, their results, a compaction, three more, and a stop.
fn work(gateway: Gateway) -> Vec<Post> {
    let names = [("a", "k0"), ("b", "k1"), ("a", "k2"), ("b", "k3"), ("a", "k4")];
    let more = [("b", "k5"), ("a", "k6"), ("b", "k7")];
    // Half of a long record reaches behind the one that comes after it.
    let text = |key: &str| key.repeat(if ["k1", "k5"].contains(&key) { 2000 } else { 2 });
    let make = |(session, key)| Post { session, key, text: text(key), id: None };
    let mut posts: Vec<Post> = names.into_iter().chain(more).map(make).collect();
    let mut caller = None;
    for number in 0..posts.len() {
        if number == names.len() {
            for id in posts.iter().filter_map(|post| post.id.as_deref()) {
                let target = format!("/v1/messages/{id}?wait=1");
                let answer = ask(&mut caller, &gateway, ("GET", &target), &[], "");
                if let Some(refused) = answer.ok().filter(|answer| answer.status() != 200) {
                    assert_clean(&refused, &target);
                }
            }
            let target = ("POST", "/v1/journal/compact");
            let answer = ask(&mut caller, &gateway, target, &[], "{}");
            if let Some(refused) = answer.ok().filter(|answer| answer.status() != 200) {
                assert_clean(&refused, "compact");
            }
        }
        let post = &mut posts[number];
        let target = format!("/v1/sessions/{}/messages", post.session);
        let fields = [("Idempotency-Key", post.key)];
        let body = serde_json::json!({ "text": post.text }).to_string();
        // No answer: the gateway has ended, or is about to.
        if let Ok(answer) = ask(&mut caller, &gateway, ("POST", &target), &fields, &body) {
            match answer.status() {
                200 | 202 => post.id = Some(answer.json()["id"].as_str().unwrap().to_owned()),
                _ => assert_clean(&answer, post.key),
            }
        }
    }
    drop(caller);
    let journal = gateway.home().state_dir().join("journal");
    let fatal = format!("fdatasync {}", journal.display());
    let broken = fault::hits(gateway.home()).contains(&fatal);
    if !broken && gateway.is_running() {
        // It may end just now, by itself.
        let _ = sys::kill(gateway.pid(), libc::SIGINT);
    }
    let end = gateway.into_process().finish(DEADLINE);
    assert!(DOCUMENTED.contains(&end.code()), "exit status {}: {}", end.code(), end.stderr);
    assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
    assert!(!broken || end.code() != 0, "a sync has failed, and it ends with 0: {}", end.stderr);
    posts
}

/// The next start, with a disk that is whole again, and what became of the messages.
fn look(home: &Home, posts: &[Post]) {
    let gateway = home.start();
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    let mut ids: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for post in posts {
        let id = post.id.clone().unwrap_or_else(|| {
            let answer = caller.post_message(post.session, post.key, &post.text).unwrap();
            assert!([200, 202].contains(&answer.status()), "{}: {}", post.key, answer.text());
            answer.json()["id"].as_str().unwrap().to_owned()
        });
        let message = eventually("its end", || {
            let target = format!("/v1/messages/{id}?wait=2");
            let answer = caller.ask("GET", &target, &[], "").unwrap();
            let message = answer.assert_status(200).json();
            let over = message["finished_at"].is_string();
            over.then_some(message)
        });
        assert_eq!(message["status"], "done", "{}: {message}", post.key);
        assert_eq!(message["reply"], post.text.as_str(), "{}: {message}", post.key);
        ids.entry(post.session).or_default().insert(id);
    }
    // One message under each key, and no other.
    for (session, ids) in ids {
        let target = format!("/v1/sessions/{session}");
        let known = caller.ask("GET", &target, &[], "").unwrap().assert_status(200).json();
        let known: Vec<&str> = known["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["id"].as_str().unwrap())
            .filter(|id| {
                // That the disk's failure has cut a turn short is said by a message of the gateway's own.
                let message = caller.ask("GET", &format!("/v1/messages/{id}"), &[], "");
                let message = message.unwrap().assert_status(200).json();
                !message["reply"].as_str().unwrap_or("").starts_with("the turn of message ")
            })
            .collect();
        let expected = posts.iter().filter(|post| post.session == session).count();
        assert_eq!(ids.len(), expected, "ids in {session}: {ids:?}");
        let unique: BTreeSet<String> = known.iter().map(|id| (*id).to_owned()).collect();
        assert_eq!((unique.len(), &unique), (known.len(), &ids), "messages in {session}");
    }
    drop(caller);
    gateway.signal(libc::SIGINT);
    let end = gateway.into_process().finish(DEADLINE).assert_code(0);
    assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
}

/// A home whose gateway has its key already: what is made to fail is the journal.
fn home() -> Home {
    static KEY: OnceLock<String> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let gateway = Gateway::start();
        gateway.home().api_key()
    });
    let home = Home::new();
    for dir in [home.state_dir().parent().unwrap(), &home.state_dir()] {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
    }
    let file = home.state_dir().join("api.key");
    fs::write(&file, format!("{key}\n")).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    home
}

/// The workload under a fault, and what it leaves. False where the fault has hit nothing.
fn survives(fault: Fault) -> bool {
    let home = home();
    let posts = match fault.into(home.launch(), &home).try_start() {
        Ok(gateway) => work(gateway),
        Err(end) => {
            // Another start may go better.
            assert!([1, 69, 75].contains(&end.code()), "{}: {}", end.code(), end.stderr);
            assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
            Vec::new()
        }
    };
    let hit = !fault::hits(&home).is_empty();
    assert!(hit || posts.iter().all(|post| post.id.is_some()), "nothing failed, but for a message");
    look(&home, &posts);
    hit
}

/// More calls than the workload has.
const ENOUGH: u32 = 400;

/// Fails the first call of a kind, then the second, and so on until there is none left; with each of
/// these errors. `least`: so many there must have been at least.
fn sweep(call: &'static str, errors: &[i32], least: u32) {
    sweep_on("journal", call, errors, least);
}

fn sweep_on(on: &'static str, call: &'static str, errors: &[i32], least: u32) {
    for (place, error) in errors.iter().copied().enumerate() {
        let mut number = 1;
        loop {
            assert!(number < ENOUGH, "there is no end to the calls of {call}");
            let fault = Fault { call, error, when: When::Once(number), on };
            let hit = std::panic::catch_unwind(|| survives(fault));
            let Ok(hit) = hit else { panic!("{fault:?}") };
            if !hit {
                break;
            }
            // In short, not every call with every error.
            number += if full() || number < 4 || error == SHORT {
                1
            } else {
                3 + u32::try_from(place).unwrap()
            };
        }
        println!("{call}, error {error}: up to call {number}");
        assert!(number > least, "only {number} calls of {call} could be made to fail");
    }
}

#[test]
fn a_failed_sync_ends_the_gateway_and_loses_nothing() {
    sweep("fdatasync", &[libc::EIO, libc::ENOSPC], 8);
}

#[test]
fn a_sync_of_a_new_file_or_a_directory_fails() {
    sweep("fsync", &[libc::EIO], 2);
}

#[test]
fn a_failed_write_is_refused_and_loses_nothing() {
    sweep("write", &[libc::ENOSPC, libc::EIO, SHORT], 12);
}

#[test]
fn a_failed_read_is_an_error_of_its_request_only() {
    sweep("read", &[libc::EIO], 4);
}

#[test]
fn a_failed_open_is_survived() {
    sweep("openat", &[libc::EMFILE, libc::EIO], 2);
}

#[test]
fn a_failed_rename_keeps_the_old_file() {
    sweep("rename", &[libc::EIO, libc::ENOSPC], 1);
}

#[test]
fn an_allocation_or_a_truncation_fails() {
    sweep("fallocate", &[libc::ENOSPC, libc::EIO], 0);
    // There is none unless a write has failed too.
    sweep("ftruncate", &[libc::EIO], 0);
}

/// Every file of the state directory: transcripts, the record of the run, the history.
#[test]
fn a_call_on_any_file_fails() {
    let errors: &[i32] = if full() { &[libc::EIO, libc::ENOSPC] } else { &[libc::ENOSPC] };
    for call in ["write", "openat", "fsync", "rename"] {
        sweep_on("", call, errors, 2);
    }
}

/// From one call on, everything that would write fails, until the next start.
#[test]
fn after_a_disk_has_failed_nothing_acknowledged_is_lost() {
    let step = if full() { 1 } else { 4 };
    for error in [libc::EIO, libc::EROFS, libc::ENOSPC] {
        for number in (1..60).step_by(step) {
            let call = "write+ftruncate+fallocate+fdatasync+fsync+rename";
            let fault = Fault { call, error, when: When::From(number), on: "journal" };
            let hit = std::panic::catch_unwind(|| survives(fault));
            let Ok(hit) = hit else { panic!("{fault:?}") };
            if !hit {
                break;
            }
        }
    }
}

/// After a failed sync the page cache shows, as clean, what the disk never got: whoever reads the
/// journal next must see the disk.
#[test]
fn what_the_disk_did_not_keep_leaves_the_page_cache() {
    let home = home();
    let broken = home.path().join("broken");
    let when = When::While(&broken);
    let fault = Fault { call: "fdatasync+fadvise", error: libc::EIO, when, on: "journal" };
    let gateway = fault.into(home.launch(), &home).start();
    fs::write(&broken, "").unwrap();
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    // It may end before its answer has left.
    if let Ok(answer) = caller.post_message("s", "k", "text") {
        assert_clean(&answer, "a sync that failed");
    }
    assert_ne!(gateway.wait_for_exit(DEADLINE), 0);
    let journal = home.state_dir().join("journal");
    let calls = ["fdatasync", "fadvise"].map(|call| format!("{call} {}", journal.display()));
    let hits = fault::hits(&home);
    assert!(hits.starts_with(&calls), "it is still in the cache: {hits:?}");
}

// ------------------------------------------------------------------ no room, no disk ----

/// Longer queues than any of these tests fills.
const QUEUE: [(&str, &str); 2] =
    [("limits.max_queue", "100000"), ("limits.max_queue_per_session", "100000")];

/// A gateway whose single turn waits at the gate; the reply is the number of bytes in the message.
#[track_caller]
fn waiting(home: &Home, settings: &[(&str, &str)]) -> (Gateway, Gate) {
    let gate = Gate::closed(home.path());
    let script = format!("{}; wc -c", gate.wait());
    home.configure(&format!("[agent]\ncommand = [\"sh\", \"-c\", {script:?}]\n"));
    let launch = home.launch().set("limits.max_turns", "1");
    let launch =
        QUEUE.iter().chain(settings).fold(launch, |launch, (key, value)| launch.set(key, value));
    (launch.start(), gate)
}

/// Posts until one is refused, and returns the ids of those that were not, and the refusal.
#[track_caller]
fn post_until_refused(caller: &mut Caller, prefix: &str, text: &str) -> (Vec<String>, Response) {
    let mut ids = Vec::new();
    for number in 0..1000 {
        let answer = caller.post_message("s", &format!("{prefix}{number}"), text).unwrap();
        if answer.status() != 202 {
            return (ids, answer);
        }
        ids.push(answer.json()["id"].as_str().unwrap().to_owned());
    }
    panic!("it took {} messages of {} bytes", ids.len(), text.len());
}

/// Waits until all of these are done.
#[track_caller]
fn assert_all_done(caller: &mut Caller, ids: &[String], text: &str) {
    for id in ids {
        let message = eventually("its end", || {
            let target = format!("/v1/messages/{id}?wait=2");
            let answer = caller.ask("GET", &target, &[], "").unwrap().assert_status(200);
            let message = answer.json();
            message["finished_at"].is_string().then_some(message)
        });
        assert_eq!(message["status"], "done", "{message}");
        assert_eq!(message["reply"].as_str().unwrap().trim(), text.len().to_string(), "{message}");
    }
}

/// All three places say that it is degraded, and why.
#[track_caller]
fn assert_degraded(gateway: &Gateway, caller: &mut Caller, why: &str) {
    let ready = caller.ask("GET", "/ready", &[], "").unwrap().assert_status(503).json();
    assert_eq!(ready["status"], "degraded", "{ready}");
    let reason = ready["reason"].as_str().unwrap_or("").to_owned();
    assert!(reason.contains(why), "{ready}");
    let status = gateway.status();
    assert!(status["degraded"].as_str().is_some_and(|said| said.contains(why)), "{status}");
    let said = gateway.home().run(&["status"]).stdout;
    assert!(said.contains("degraded") && said.contains(why), "{said}");
}

/// It takes new work again, by itself.
#[track_caller]
fn assert_recovers(gateway: &Gateway, caller: &mut Caller) {
    eventually("it is ready again", || {
        let ready = caller.ask("GET", "/ready", &[], "").unwrap();
        (ready.status() == 200).then_some(())
    });
    caller.post_message("s", "after", "after").unwrap().assert_status(202);
    assert!(gateway.status()["degraded"].is_null());
}

/// Leaves no room on the disk with the state directory.
fn fill(home: &Home) -> std::path::PathBuf {
    let path = home.path().join("s/fill");
    let mut file = File::create(&path).unwrap();
    let error = loop {
        if let Err(error) = file.write_all(&[0; 512]) {
            break error;
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    path
}

#[test]
fn a_full_disk_takes_no_new_work_and_completes_what_there_is() {
    Private::new().run(|| {
        let home = Home::new();
        let _mounted = Tmpfs::new(&home.path().join("s"), c"size=4m,mode=700");
        let (gateway, gate) = waiting(&home, &[]);
        let mut caller = Caller::unix(&home.control_socket()).unwrap();
        let text = "x".repeat(20_000);
        caller.post_message("s", "first", &text).unwrap().assert_status(202);
        let filled = fill(&home);
        let (ids, refused) = post_until_refused(&mut caller, "k", &text);
        let refused = refused.assert_status(507);
        assert!(refused.field("retry-after").is_some(), "{:?}", refused.head);
        assert!(!ids.is_empty(), "nothing was accepted");
        assert_degraded(&gateway, &mut caller, "No space left");
        gate.open();
        assert_all_done(&mut caller, &ids, &text);
        assert_degraded(&gateway, &mut caller, "No space left");
        fs::remove_file(filled).unwrap();
        assert_recovers(&gateway, &mut caller);
        gateway.signal(libc::SIGKILL);
        gateway.wait_for_exit(DEADLINE);
        drop(gateway);
        let _gateway = home.start();
        let mut caller = Caller::unix(&home.control_socket()).unwrap();
        assert_all_done(&mut caller, &ids, &text);
    });
}

#[test]
fn a_disk_that_never_had_room_takes_no_work_and_stops_nothing_else() {
    Private::new().run(|| {
        for size in [c"size=64k,mode=700", c"size=256k,mode=700", c"size=1m,mode=700"] {
            let home = Home::new();
            let _mounted = Tmpfs::new(&home.path().join("s"), size);
            let gateway = home.start();
            let mut caller = Caller::unix(&home.control_socket()).unwrap();
            let text = "x".repeat(4000);
            let (ids, refused) = post_until_refused(&mut caller, "k", &text);
            assert!(refused.assert_status(507).field("retry-after").is_some());
            assert_degraded(&gateway, &mut caller, "No space left");
            for id in ids {
                let target = format!("/v1/messages/{id}?wait=4");
                let done = caller.ask("GET", &target, &[], "").unwrap().assert_status(200).json();
                assert_eq!(done["status"], "done", "{done}");
            }
            // What is not durable needs no disk.
            assert_eq!(gateway.ask("hello").reply(), "hello");
            gateway.signal(libc::SIGINT);
            gateway.into_process().finish(DEADLINE).assert_code(0);
        }
    });
}

#[test]
fn a_disk_that_cannot_be_written_for_a_while() {
    let home = home();
    let marker = home.path().join("read-only");
    // A file that is open for writing keeps a file system from being remounted; what an error makes
    // of one (errors=remount-ro) is this.
    let call = "write+fallocate+openat+rename";
    let fault = Fault { call, error: libc::EROFS, when: When::While(&marker), on: "" };
    let gateway = fault.into(home.launch(), &home).start();
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    let before = caller.post_message("s", "before", "before").unwrap().assert_status(202).json();
    File::create(&marker).unwrap();
    for key in ["during", "still"] {
        let refused = caller.post_message("s", key, "x").unwrap();
        assert_clean(&refused, key);
        assert_eq!(refused.status(), 503, "{}", refused.text());
    }
    assert_degraded(&gateway, &mut caller, "Read-only");
    let target = format!("/v1/messages/{}", before["id"].as_str().unwrap());
    caller.ask("GET", &target, &[], "").unwrap().assert_status(200);
    fs::remove_file(&marker).unwrap();
    assert_recovers(&gateway, &mut caller);
    // What was refused was not taken after all.
    let known = caller.ask("GET", "/v1/sessions/s", &[], "").unwrap().assert_status(200).json();
    assert_eq!(known["messages"].as_array().map(Vec::len), Some(2), "{known}");
}

#[test]
fn a_start_on_a_disk_that_cannot_be_written() {
    Private::new().run(|| {
        let home = Home::new();
        let state = home.path().join("s");
        let _mounted = Tmpfs::new(&state, c"size=8m,mode=700");
        let gateway = home.start();
        let mut caller = Caller::unix(&home.control_socket()).unwrap();
        let answer = caller.post_message("s", "k", "hello").unwrap().assert_status(202).json();
        let target = format!("/v1/messages/{}?wait=4", answer["id"].as_str().unwrap());
        drop((caller, gateway));
        let remount = |how: &str| {
            let done = Command::new("mount").args(["-o", how]).arg(&state).status().unwrap();
            assert!(done.success(), "mount -o {how}");
        };
        remount("remount,ro");
        match home.launch().try_start() {
            // It may run, and say what is wrong.
            Ok(gateway) => {
                let mut caller = Caller::unix(&home.control_socket()).unwrap();
                caller.ask("GET", "/ready", &[], "").unwrap().assert_status(503);
                assert_eq!(caller.post_message("s", "l", "x").unwrap().status(), 503);
                drop(gateway);
            }
            Err(end) => {
                // Another start may find it whole again.
                assert!([1, 69, 75].contains(&end.code()), "{}: {}", end.code(), end.stderr);
                assert!(end.stderr.contains("Read-only file system"), "{}", end.stderr);
                assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
            }
        }
        remount("remount,rw");
        let _gateway = home.start();
        let mut caller = Caller::unix(&home.control_socket()).unwrap();
        let done = caller.ask("GET", &target, &[], "").unwrap().assert_status(200).json();
        assert_eq!(done["reply"], "hello", "{done}");
    });
}

/// Ticks of 10 ms that a process has used.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let words: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    words[11].parse::<u64>().unwrap() + words[12].parse::<u64>().unwrap()
}

#[test]
fn without_descriptors_it_goes_on_later() {
    let home = Home::new();
    let gateway = home.launch().through(&["prlimit", "--nofile=64:64"]).start();
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..200 {
        held.push(TcpStream::connect(gateway.address()).unwrap());
    }
    let mut refused = 0;
    for number in 0..20 {
        let key = format!("k{number}");
        let answer = caller.post_message(&format!("s{number}"), &key, "hi").unwrap();
        if answer.status() == 202 {
            let target = format!("/v1/messages/{}?wait=4", answer.json()["id"].as_str().unwrap());
            let done = caller.ask("GET", &target, &[], "").unwrap().assert_status(200).json();
            assert_eq!(done["reply"], "hi", "{done}");
        } else {
            assert_clean(&answer, &key);
            refused += 1;
        }
    }
    let compacted = caller.ask("POST", "/v1/journal/compact", &[], "{}").unwrap();
    if compacted.status() != 200 {
        assert_clean(&compacted, "compact");
    }
    // A control connection that comes now is answered, and nobody burns time over those that wait.
    assert_eq!(gateway.status()["turns"]["running"], 0);
    let before = ticks(gateway.pid());
    pause(Duration::from_secs(1));
    let used = ticks(gateway.pid()) - before;
    assert!(used < 20, "it used {used} of 100 ticks for nothing");
    drop(held);
    let answer = caller.post_message("s", "after", "after").unwrap().assert_status(202).json();
    let target = format!("/v1/messages/{}?wait=4", answer["id"].as_str().unwrap());
    let done = caller.ask("GET", &target, &[], "").unwrap().assert_status(200).json();
    assert_eq!(done["reply"], "after", "{done}");
    println!("{refused} of 20 messages were refused");
    gateway.signal(libc::SIGINT);
    assert!(!gateway.into_process().finish(DEADLINE).assert_code(0).stderr.contains("panicked"));
}

#[test]
fn a_journal_at_its_cap_takes_no_new_work_and_completes_what_there_is() {
    let home = Home::new();
    let settings = [("limits.max_journal", "1MiB"), ("limits.keep_results", "1")];
    let (gateway, gate) = waiting(&home, &settings);
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    let text = "x".repeat(20_000);
    let (ids, refused) = post_until_refused(&mut caller, "k", &text);
    let refused = refused.assert_status(507);
    assert!(refused.field("retry-after").is_some(), "{:?}", refused.head);
    assert!(ids.len() > 20, "{}", ids.len());
    // It is ready as long as it takes anything: until not even this is taken.
    post_until_refused(&mut caller, "short", "x").1.assert_status(507);
    assert_degraded(&gateway, &mut caller, "max_journal");
    gate.open();
    assert_all_done(&mut caller, &ids, &text);
    let size = gateway.status()["journal"]["bytes"].as_u64().unwrap();
    assert!(size < 2 << 20, "{size}");
    gateway.signal(libc::SIGINT);
    gateway.into_process().finish(DEADLINE).assert_code(0);
}

#[test]
fn a_journal_at_its_cap_takes_work_again_when_results_are_forgotten() {
    let home = Home::new();
    let settings = [("limits.max_journal", "1MiB"), ("limits.keep_results", "1")];
    let (gateway, gate) = waiting(&home, &settings);
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    // Without a key nothing has to be kept.
    let body = serde_json::json!({ "text": "x".repeat(20_000) }).to_string();
    let refused = (0..1000).find_map(|_| {
        let answer = caller.ask("POST", "/v1/sessions/s/messages", &[], &body).unwrap();
        (answer.status() != 202).then_some(answer)
    });
    refused.expect("a refusal").assert_status(507);
    gate.open();
    assert_recovers(&gateway, &mut caller);
}

// --------------------------------------------------------------- damaged journals ----

/// A state directory with a journal and nothing else.
struct Specimen(Home);

impl Specimen {
    fn new() -> Specimen {
        Specimen(home())
    }

    fn run(&self, action: &str) -> Output {
        let output = self.0.command(&["journal", action]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{said}");
        output
    }

    /// What is said of this journal: a beginning of `whole`'s records, or a refusal with the place.
    /// Returns how many records there are.
    fn examine(&self, bytes: &[u8], whole: &str, what: &str) -> usize {
        let file = self.0.state_dir().join("journal");
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let checked = self.run("check");
        let dumped = self.run("dump");
        let records = String::from_utf8_lossy(&dumped.stdout);
        assert!(whole.starts_with(&*records), "{what}: invented: {records}");
        let said = String::from_utf8_lossy(&checked.stderr);
        match checked.status.code() {
            Some(0) => {}
            Some(78) => assert!(said.contains("damaged at byte "), "{what}: {said}"),
            code => panic!("{what}: exit status {code:?}: {said}"),
        }
        assert_eq!(fs::read(&file).unwrap(), bytes, "{what}: it was written to");
        records.lines().count()
    }
}

/// A journal of a gateway's own making, of about this size, and the dump of it.
fn journal_of(size: u64) -> (Vec<u8>, String) {
    let home = Home::new();
    let gateway = home.start();
    let file = home.state_dir().join("journal");
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    for number in 0.. {
        let key = format!("k{number}");
        let answer = caller.post_message("s", &key, "a text with an ä").unwrap().assert_status(202);
        let target = format!("/v1/messages/{}?wait=4", answer.json()["id"].as_str().unwrap());
        caller.ask("GET", &target, &[], "").unwrap().assert_status(200);
        if home.journal_text().len() as u64 > size {
            break;
        }
    }
    gateway.signal(libc::SIGINT);
    gateway.into_process().finish(DEADLINE).assert_code(0);
    let dump = home.run(&["journal", "dump"]).assert_code(0).stdout;
    (fs::read(file).unwrap(), dump)
}

/// How many whole records there are: neither the header nor the journal's own marks.
fn records_in(bytes: &[u8]) -> usize {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let lines = lines.skip(1).map(String::from_utf8_lossy);
    lines.filter(|line| !line.contains(r#"{"t":"mark""#)).count()
}

/// Does it to every `step`-th byte of a journal, by two threads.
fn for_bytes(size: u64, step: usize, examine: impl Fn(&Specimen, &[u8], &str, usize) + Sync) {
    let (journal, dump) = journal_of(size);
    assert!(dump.lines().count() > 2, "{dump}");
    thread::scope(|scope| {
        for half in 0..2 {
            let (journal, dump, examine) = (&journal, &dump, &examine);
            scope.spawn(move || {
                let specimen = Specimen::new();
                for at in (half * step..journal.len()).step_by(2 * step) {
                    examine(&specimen, journal, dump, at);
                }
            });
        }
    });
}

#[test]
fn a_journal_cut_off_at_any_byte_is_a_beginning() {
    let (size, step) = if full() { (64 << 10, 3) } else { (700, 5) };
    for_bytes(size, step, |specimen, journal, dump, at| {
        let count = specimen.examine(&journal[..at], dump, &format!("cut off at {at}"));
        assert_eq!(count, records_in(&journal[..at]), "records of {at} bytes");
    });
}

#[test]
fn a_journal_with_any_bit_flipped_is_a_beginning() {
    let (size, step) = if full() { (64 << 10, 7) } else { (700, 9) };
    for_bytes(size, step, |specimen, journal, dump, at| {
        let mut bytes = journal.to_vec();
        bytes[at] ^= 1 << (at / step % 8);
        let count = specimen.examine(&bytes, dump, &format!("bit {} of byte {at}", at / step % 8));
        assert_eq!(count, records_in(&journal[..at]), "records before byte {at}");
    });
}

#[test]
fn a_start_behind_a_cut_goes_on_from_the_beginning_that_there_is() {
    let (journal, dump) = journal_of(700);
    let whole: Vec<&str> = dump.lines().collect();
    let header = journal.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let step = if full() { 1 } else { 41 };
    for at in (header..journal.len()).step_by(step) {
        let home = home();
        let file = home.state_dir().join("journal");
        fs::write(&file, &journal[..at]).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let gateway = home.start();
        let mut caller = Caller::unix(&home.control_socket()).unwrap();
        let answer = caller.post_message("s", "new", "new").unwrap().assert_status(202).json();
        let target = format!("/v1/messages/{}?wait=4", answer["id"].as_str().unwrap());
        let done = caller.ask("GET", &target, &[], "").unwrap().assert_status(200).json();
        assert_eq!(done["reply"], "new", "{done}");
        gateway.signal(libc::SIGINT);
        gateway.into_process().finish(DEADLINE).assert_code(0);
        let now = home.run(&["journal", "dump"]).assert_code(0).stdout;
        let left = records_in(&journal[..at]);
        let kept: Vec<&str> = now.lines().take(left).collect();
        assert_eq!(kept, whole[..left], "cut off at {at}");
    }
}
