//! What is short or broken for a moment costs a moment: errors of the disk at a start, threads that
//! cannot be had, a log that nobody reads, a journal without room.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use util::fault::{self, Fault, When};
use util::sys::Lease;
use util::{
    Caller, DEADLINE, Gateway, Home, Launch, Private, Sandbox, Service, Tmpfs, UNIT, eventually,
    pause,
};

// ------------------------------------------------------------- errors at the start ----

/// A key file of our own with this key in it.
fn key_file(path: &Path, key: char) {
    fs::write(path, format!("{}\n", key.to_string().repeat(64))).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// A home whose configuration names files of keys and secrets: their paths, the configuration's and
/// that of the gateway's own key.
fn furnished() -> (Home, [String; 5]) {
    let home = Home::new();
    let place = |name: &str| home.path().join(name).display().to_string();
    let [client, upstream, secret] = ["client.key", "upstream.key", "secret"].map(place);
    home.configure(&format!(
        "[agent]\nurl = \"http://127.0.0.1:9/v1\"\nkey_file = \"{upstream}\"\n\
         [keys.alice]\nfile = \"{client}\"\n\
         [deliver.hook]\nurl = \"http://127.0.0.1:9/\"\nsecret_file = \"{secret}\"\n"
    ));
    key_file(Path::new(&client), 'a');
    key_file(Path::new(&upstream), 'b');
    let bytes = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    fs::write(&secret, format!("whsec_{bytes}\n")).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    // Makes the gateway's own key.
    drop(home.start());
    let own = home.state_dir().join("api.key").display().to_string();
    let config = home.config_file().display().to_string();
    (home, [config, own, client, upstream, secret])
}

/// What a disk, a network behind it or the system may say for a while.
const PASSING: [i32; 13] = [
    libc::EIO,
    libc::ENOMEM,
    libc::EMFILE,
    libc::ENFILE,
    libc::ESTALE,
    libc::EAGAIN,
    libc::ETIMEDOUT,
    libc::ENOSPC,
    libc::EDQUOT,
    libc::EROFS,
    libc::EBUSY,
    libc::ENOTCONN,
    libc::EREMOTEIO,
];

#[test]
fn an_error_that_may_pass_never_ends_a_start_with_78() {
    let (home, files) = furnished();
    for file in &files {
        for error in PASSING {
            for call in ["openat", "read"] {
                let fault = Fault { call, error, when: When::From(1), on: file };
                let end = fault.into(home.launch(), &home).spawn().finish(DEADLINE);
                assert!(!fault::hits(&home).is_empty(), "{fault:?} has hit nothing");
                assert!([1, 69].contains(&end.code()), "{fault:?}: {}: {}", end.code(), end.stderr);
                let place = Path::new(file).parent().unwrap().display().to_string();
                assert!(end.stderr.contains(&place), "{fault:?}: {}", end.stderr);
                assert!(!end.stderr.contains("configuration is wrong"), "{}", end.stderr);
                if file.contains("api.key") {
                    continue;
                }
                // The check says the same.
                let mut check = home.command(&["config", "check"]);
                check.envs(fault.variables(&home));
                let check = check.output().unwrap();
                assert_eq!(check.status.code(), Some(69), "{fault:?}: {check:?}");
            }
        }
        let fault = Fault { call: "statx", error: libc::ESTALE, when: When::From(1), on: file };
        let end = fault.into(home.launch(), &home).spawn().finish(DEADLINE);
        assert!([1, 69].contains(&end.code()), "{fault:?}: {}: {}", end.code(), end.stderr);
    }
    // None of it has left anything behind.
    home.start();
}

#[test]
fn an_error_that_may_pass_in_the_state_directory_never_ends_a_start_with_78() {
    let (home, _) = furnished();
    for file in ["journal", "history.jsonl", "run.json", "sessions", "lock", ""] {
        for error in [libc::EIO, libc::ENFILE, libc::ESTALE, libc::EROFS] {
            for call in ["openat", "read", "write", "fsync", "rename"] {
                let fault = Fault { call, error, when: When::From(1), on: file };
                if let Err(end) = fault.into(home.launch(), &home).try_start() {
                    let code = end.code();
                    assert!([1, 69].contains(&code), "{fault:?}: {code}: {}", end.stderr);
                }
            }
        }
    }
    home.start();
}

#[test]
fn what_the_operator_must_mend_still_ends_a_start_with_78() {
    let (home, [_, own, client, upstream, _]) = furnished();
    let ends_with_78 = |words: &str| {
        let end = home.launch().spawn().finish(DEADLINE).assert_code(78);
        assert!(end.stderr.contains(words), "{words}: {}", end.stderr);
    };
    for file in [&own, &client] {
        let kept = fs::read(file).unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        ends_with_78("chmod 600");
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        fs::write(file, "short\n").unwrap();
        ends_with_78(file);
        fs::write(file, kept).unwrap();
    }
    for error in [libc::EACCES, libc::EPERM, libc::ELOOP] {
        let fault = Fault { call: "openat", error, when: When::From(1), on: &client };
        fault.into(home.launch(), &home).spawn().finish(DEADLINE).assert_code(78);
    }
    fs::remove_file(&client).unwrap();
    // One that cannot be read now beside one that is not there: somebody has to act.
    let fault = Fault { call: "read", error: libc::EIO, when: When::From(1), on: &upstream };
    fault.into(home.launch(), &home).spawn().finish(DEADLINE).assert_code(78);
    ends_with_78("client.key");
}

#[test]
fn a_disk_that_fails_for_a_while_is_waited_for() {
    fault::library();
    Sandbox::user().run(|manager| {
        let service = Service::install(manager, "", "");
        let (home, config) = (manager.home(), service.config_file().display().to_string());
        let marker = home.join("broken");
        manager.write(&marker, "");
        let when = When::While(&marker);
        let fault = Fault { call: "openat", error: libc::EIO, when, on: &config };
        let [(preload, library), (name, order)] =
            fault.variables_in(&service.state_dir(), &home.join("faults"));
        let text = format!(
            "[Service]\nEnvironment=\"{preload}={library}\"\nEnvironment=\"{name}={order}\"\n"
        );
        manager.write_unit(&format!("{UNIT}.d/30-fault.conf"), &text);
        assert_ne!(manager.systemctl(&["start", UNIT]).code(), 0);
        service.unit().wait_for_journal("status=69");
        service.unit().wait_for(&[("NRestarts", "2")]);
        fs::remove_file(&marker).unwrap();
        service.unit().wait_for(&[("ActiveState", "active")]);
    });
}

// --------------------------------------------------------------------------- threads ----

/// A start of a gateway that gets no thread while the file is there.
fn starving(home: &Home) -> (Launch, PathBuf) {
    let marker = home.path().join("no-threads");
    let error = libc::EAGAIN;
    let fault = Fault { call: "pthread_create", error, when: When::While(&marker), on: "" };
    (fault.into(home.launch(), home), marker)
}

/// Waits until so many more threads were asked for in vain.
fn refusals(home: &Home, more: usize) {
    let before = fault::hits(home).len();
    eventually("threads are asked for", || {
        (fault::hits(home).len() >= before + more).then_some(())
    });
}

fn message(caller: &mut Caller, id: &str) -> serde_json::Value {
    let target = format!("/v1/messages/{id}");
    caller.ask("GET", &target, &[], "").unwrap().assert_status(200).json()
}

fn posted(caller: &mut Caller, session: &str, key: &str) -> String {
    let answer = caller.post_message(session, key, key).unwrap().assert_status(202).json();
    answer["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_message_without_a_thread_for_its_turn_waits_and_loses_no_attempt() {
    let home = Home::new();
    let (launch, marker) = starving(&home);
    let gateway = launch.set("limits.max_attempts", "1").start();
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    message_is_done(&mut caller, "before");
    until_no_turn_has_a_thread(&gateway);
    File::create(&marker).unwrap();
    let ids = ["a", "b", "c"].map(|session| posted(&mut caller, session, session));
    let behind = posted(&mut caller, "a", "behind");
    refusals(&home, 12);
    for id in ids.iter().chain([&behind]) {
        let message = message(&mut caller, id);
        assert!(message["finished_at"].is_null(), "{message}");
        assert!(message["attempts"].as_u64().unwrap() <= 1, "{message}");
    }
    let ready = caller.ask("GET", "/ready", &[], "").unwrap().assert_status(503).json();
    assert!(ready["reason"].as_str().unwrap().contains("no thread for a turn"), "{ready}");
    // Taking one back ends it, and a turn that needs no thread is answered meanwhile.
    caller.ask("DELETE", &format!("/v1/messages/{}", ids[2]), &[], "").unwrap();
    let body = util::http::chat("hi", false);
    caller.ask("POST", "/v1/chat/completions", &[], &body).unwrap().assert_status(200);
    fs::remove_file(&marker).unwrap();
    let freed = Instant::now();
    for id in [&ids[0], &ids[1], &behind] {
        let target = format!("/v1/messages/{id}?wait=10");
        let done = caller.ask("GET", &target, &[], "").unwrap().assert_status(200).json();
        assert_eq!((&done["status"], &done["attempts"]), (&"done".into(), &1.into()), "{done}");
    }
    assert!(freed.elapsed() < Duration::from_secs(5), "{:?}", freed.elapsed());
    assert_eq!(message(&mut caller, &ids[2])["status"], "cancelled");
    eventually("it is ready again", || {
        (caller.ask("GET", "/ready", &[], "").unwrap().status() == 200).then_some(())
    });
    gateway.signal(libc::SIGINT);
    gateway.into_process().finish(DEADLINE).assert_code(0);
}

/// A thread waits for another turn for a moment.
fn until_no_turn_has_a_thread(gateway: &Gateway) {
    let tasks = || fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap().flatten();
    let names = || tasks().filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    eventually("it ends", || names().all(|name| name.trim() != "turn").then_some(()));
}

/// A new message is answered.
#[track_caller]
fn message_is_done(caller: &mut Caller, key: &str) {
    let id = posted(caller, "s", key);
    let target = format!("/v1/messages/{id}?wait=10");
    let done = caller.ask("GET", &target, &[], "").unwrap().assert_status(200).json();
    assert_eq!(done["status"], "done", "{done}");
}

#[test]
fn a_reply_without_a_thread_for_its_delivery_waits() {
    let home = Home::new();
    let sent = home.path().join("sent");
    home.configure(&format!(
        "[deliver.out]\ncommand = [\"sh\", \"-c\", \"cat > {0}.n; mv {0}.n {0}\"]\n",
        sent.display()
    ));
    let (launch, marker) = starving(&home);
    // The turn's thread is there already when threads run out.
    let gate = util::Gate::closed(home.path());
    let agent = format!("[\"sh\", \"-c\", {:?}]", format!("{}; cat", gate.wait()));
    let gateway = launch.set("agent.command", &agent).start();
    let id = gateway.api().deliver("s", "to be sent", "out");
    gateway.wait_for_turns(1);
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    message(&mut caller, &id);
    File::create(&marker).unwrap();
    gate.open();
    refusals(&home, 4);
    let ready = caller.ask("GET", "/ready", &[], "").unwrap().assert_status(503).json();
    assert!(ready["reason"].as_str().unwrap().contains("no thread for a delivery"), "{ready}");
    fs::remove_file(&marker).unwrap();
    eventually("the reply", || sent.exists().then_some(()));
    let message = gateway.api().until_delivery(&id, "delivered");
    assert_eq!(message["attempts"], 1, "{message}");
}

#[test]
fn a_stop_without_threads_waits_for_no_turn_that_has_none() {
    let home = Home::new();
    let (launch, marker) = starving(&home);
    let gateway = launch.set("stop.drain_timeout", "60s").start();
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    message_is_done(&mut caller, "before");
    until_no_turn_has_a_thread(&gateway);
    File::create(&marker).unwrap();
    let id = posted(&mut caller, "s", "during");
    refusals(&home, 2);
    drop(caller);
    gateway.signal(libc::SIGINT);
    gateway.into_process().finish(DEADLINE).assert_code(0);
    fs::remove_file(&marker).unwrap();
    let _gateway = home.start();
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    let target = format!("/v1/messages/{id}?wait=10");
    let done = caller.ask("GET", &target, &[], "").unwrap().assert_status(200).json();
    assert_eq!(done["status"], "done", "{done}");
}

#[test]
fn any_one_thread_that_cannot_be_had_costs_no_message() {
    for number in 1.. {
        let home = Home::new();
        home.configure("[deliver.out]\ncommand = [\"true\"]\n");
        let (call, error) = ("pthread_create", libc::EAGAIN);
        let fault = Fault { call, error, when: When::Once(number), on: "" };
        let launch = fault.into(home.launch(), &home).set("limits.max_attempts", "1");
        let gateway = match launch.try_start() {
            Ok(gateway) => gateway,
            Err(end) => {
                assert!([1, 69].contains(&end.code()), "{number}: {}", end.stderr);
                continue;
            }
        };
        // A connection that got the spare thread ends with its answer.
        let ask = |method: &str, target: &str, body: &str| {
            let mut caller = Caller::unix(&home.control_socket()).unwrap();
            let answer = caller.ask(method, target, &[], body).unwrap();
            (answer.status() < 300).then(|| answer.json())
        };
        for text in [r#"{"text":"one","deliver":"out"}"#, r#"{"text":"two","deliver":"out"}"#] {
            let post = || ask("POST", "/v1/sessions/s/messages", text);
            let id = eventually("it is accepted", post)["id"].as_str().unwrap().to_owned();
            eventually("its delivery", || {
                let message = ask("GET", &format!("/v1/messages/{id}"), "")?;
                assert_ne!(message["status"], "failed", "{number}: {message}");
                (message["deliveries"][0]["status"] == "delivered").then_some(())
            });
        }
        gateway.signal(libc::SIGINT);
        let end = gateway.into_process().finish(DEADLINE).assert_code(0);
        for words in ["could not be synced", "not told of the drain"] {
            assert!(!end.stderr.contains(words), "{number}: {}", end.stderr);
        }
        if fault::hits(&home).is_empty() {
            assert!(number > 6, "only {number} threads were asked for");
            return;
        }
    }
}

#[test]
fn a_turn_does_not_run_without_what_was_said_before_because_descriptors_are_short() {
    let home = Home::new();
    let gateway = home.start();
    message_is_done(&mut Caller::unix(&home.control_socket()).unwrap(), "before");
    gateway.signal(libc::SIGINT);
    gateway.into_process().finish(DEADLINE).assert_code(0);
    let marker = home.path().join("no-descriptors");
    let when = When::While(&marker);
    let fault = Fault { call: "openat", error: libc::EMFILE, when, on: "sessions/" };
    let gateway = fault.into(home.launch(), &home).start();
    File::create(&marker).unwrap();
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    let id = posted(&mut caller, "s", "during");
    refusals(&home, 4);
    let waiting = message(&mut caller, &id);
    assert_eq!((&waiting["status"], &waiting["attempts"]), (&"running".into(), &1.into()));
    caller.ask("GET", "/ready", &[], "").unwrap().assert_status(503);
    fs::remove_file(&marker).unwrap();
    let target = format!("/v1/messages/{id}?wait=10");
    let done = caller.ask("GET", &target, &[], "").unwrap().assert_status(200).json();
    assert_eq!((&done["status"], &done["attempts"]), (&"done".into(), &1.into()), "{done}");
    drop(gateway);
}

#[test]
fn a_chat_that_is_told_to_come_again_for_lack_of_a_descriptor_was_not_accepted() {
    let home = Home::new();
    let marker = home.path().join("no-descriptors");
    let when = When::While(&marker);
    let fault = Fault { call: "eventfd", error: libc::EMFILE, when, on: "" };
    let _gateway = fault.into(home.launch(), &home).start();
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    message_is_done(&mut caller, "before");
    for stream in [false, true] {
        File::create(&marker).unwrap();
        let fields = [("X-Hermes-Session-Id", "s")];
        let body = util::http::chat("hi", stream);
        let chat = caller.ask("POST", "/v1/chat/completions", &fields, &body).unwrap();
        chat.assert_status(503);
        fs::remove_file(&marker).unwrap();
        let session = caller.ask("GET", "/v1/sessions/s", &[], "").unwrap().assert_status(200);
        assert_eq!(session.json()["messages"].as_array().map(Vec::len), Some(1));
    }
}

/// What a new connection over TCP is answered with.
fn status_of_a_new_client(gateway: &Gateway) -> u16 {
    let mut caller = Caller::tcp(gateway.address(), &gateway.authorization()).unwrap();
    caller.ask("GET", "/v1/models", &[], "").map_or(0, |answer| answer.status())
}

#[test]
fn one_connection_without_a_thread_costs_nobody_else_anything() {
    let home = Home::new();
    let (launch, marker) = starving(&home);
    let gateway = launch.start();
    let known = || {
        let mut caller = Caller::tcp(gateway.address(), &gateway.authorization()).unwrap();
        caller.ask("GET", "/v1/models", &[], "").unwrap().assert_status(200);
        caller
    };
    let mut idle: Vec<Caller> = (0..4).map(|_| known()).collect();
    File::create(&marker).unwrap();
    assert_eq!(status_of_a_new_client(&gateway), 503);
    fs::remove_file(&marker).unwrap();
    for caller in &mut idle {
        caller.ask("GET", "/v1/models", &[], "").unwrap().assert_status(200);
    }
    let held: Vec<Caller> = (0..56).map(|_| known()).collect();
    assert_eq!(gateway.status()["connections"], 60);
    drop(held);
}

#[test]
fn new_clients_are_served_as_soon_as_there_are_threads_again() {
    let home = Home::new();
    let (launch, marker) = starving(&home);
    let gateway = launch.start();
    let known = || {
        let mut caller = Caller::tcp(gateway.address(), &gateway.authorization()).unwrap();
        let answer = caller.ask("GET", "/v1/models", &[], "");
        (answer.is_ok_and(|answer| answer.status() == 200)).then_some(caller)
    };
    let idle: Vec<Caller> = (0..20).map(|_| known().unwrap()).collect();
    File::create(&marker).unwrap();
    for _ in 0..10 {
        assert_ne!(status_of_a_new_client(&gateway), 200);
    }
    fs::remove_file(&marker).unwrap();
    let freed = Instant::now();
    let held = eventually("fifty new clients are served, and none leaves for another", || {
        let held = (0..50).map(|_| known()).collect::<Option<Vec<Caller>>>()?;
        (gateway.status()["connections"].as_u64()? >= 50).then_some(held)
    });
    // On a quiet machine within 0.6 s.
    assert!(freed.elapsed() < Duration::from_secs(5), "{:?}", freed.elapsed());
    drop((idle, held));
}

#[test]
fn idle_control_clients_hold_up_no_command_where_threads_are_short() {
    let home = Home::new();
    let (launch, marker) = starving(&home);
    let gateway = launch.start();
    File::create(&marker).unwrap();
    let connect = |first: &[u8]| {
        let mut stream = UnixStream::connect(home.control_socket()).unwrap();
        stream.write_all(first).unwrap();
        stream
    };
    let idle: Vec<UnixStream> = (0..5).map(|_| connect(b"")).collect();
    let slow = connect(b"GET /v1/status HTTP/1.1\r\nHost: lo");
    // One that would wait is told so, and waits for no other thread.
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    let body = util::http::chat("hi", false);
    caller.ask("POST", "/v1/chat/completions", &[], &body).unwrap().assert_status(503);
    for _ in 0..5 {
        assert_eq!(gateway.status()["state"], "serving");
    }
    home.run(&["status"]).assert_code(0);
    home.run(&["stop"]).assert_code(0);
    gateway.into_process().finish(DEADLINE).assert_code(0);
    drop((idle, slow));
}

// ------------------------------------------------------------------------- reloads ----

fn says(word: &str) -> String {
    format!("[agent]\ncommand = [\"echo\", \"{word}\"]\n")
}

/// Puts another file in the place of the configuration, as editors do.
fn replace_configuration(home: &Home, text: &str) {
    let new = home.config_file().with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, home.config_file()).unwrap();
}

const READ_AGAIN: &str = "the configuration was read again";

#[test]
fn of_two_reloads_the_newer_file_counts_however_long_the_older_takes() {
    let home = Home::new();
    home.configure(&says("first"));
    let gateway = home.start();
    replace_configuration(&home, &says("older"));
    let mut lease = Lease::take(&home.config_file()).unwrap();
    gateway.signal(libc::SIGHUP);
    lease.wait_until_asked(DEADLINE).unwrap();
    // The first reload has the older file open now and cannot read it.
    replace_configuration(&home, &says("newer"));
    gateway.signal(libc::SIGHUP);
    // Time for a second one to overtake it.
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(1) && !gateway.stderr().contains(READ_AGAIN) {
        pause(Duration::from_millis(10));
    }
    drop(lease);
    eventually("both are done", || {
        (gateway.stderr().matches(READ_AGAIN).count() == 2).then_some(())
    });
    assert_eq!(gateway.ask("x").reply(), "newer");
}

#[test]
fn a_reload_during_the_start_follows_it() {
    let home = Home::new();
    home.configure(&says("older"));
    let mut lease = Lease::take(&home.config_file()).unwrap();
    let process = home.launch().spawn();
    lease.wait_until_asked(DEADLINE).unwrap();
    replace_configuration(&home, &says("newer"));
    process.signal(libc::SIGHUP);
    process.wait_for_log("a reload was asked for during the start", DEADLINE);
    drop(lease);
    process.wait_for_log(READ_AGAIN, DEADLINE);
    let mut caller = Caller::unix(&home.control_socket()).unwrap();
    let body = util::http::chat("hi", false);
    let answer = caller.ask("POST", "/v1/chat/completions", &[], &body).unwrap();
    assert_eq!(answer.reply(), "newer");
}

#[test]
fn a_reload_without_a_thread_is_tried_again() {
    let home = Home::new();
    home.configure(&says("older"));
    let (launch, marker) = starving(&home);
    let gateway = launch.start();
    home.configure(&says("newer"));
    File::create(&marker).unwrap();
    gateway.signal(libc::SIGHUP);
    refusals(&home, 2);
    fs::remove_file(&marker).unwrap();
    gateway.wait_for_log(READ_AGAIN, DEADLINE);
    assert_eq!(gateway.ask("x").reply(), "newer");
}

#[test]
fn an_error_at_a_reload_that_may_pass_changes_nothing_and_is_said() {
    let home = Home::new();
    home.configure(&says("older"));
    let marker = home.path().join("broken");
    let file = home.config_file().display().to_string();
    let fault = Fault { call: "openat", error: libc::EIO, when: When::While(&marker), on: &file };
    let gateway = fault.into(home.launch(), &home).start();
    home.configure(&says("newer"));
    File::create(&marker).unwrap();
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("Input/output error", DEADLINE);
    gateway.wait_for_log("the configuration stays as it was", DEADLINE);
    assert_eq!(gateway.ask("x").reply(), "older");
    fs::remove_file(&marker).unwrap();
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log(READ_AGAIN, DEADLINE);
    assert_eq!(gateway.ask("x").reply(), "newer");
}

// ----------------------------------------------------------------- room in the journal ----

/// Leaves a journal of messages that gave way to newer ones: too much for a cap of 1 MiB, too little to be
/// worth a compaction without one.
fn leave_dead_bytes(gateway: &Gateway) {
    let mut caller = Caller::unix(&gateway.home().control_socket()).unwrap();
    for _ in 0..30 {
        let body = serde_json::json!({ "model": "default", "input": "x".repeat(15_000) });
        let answer = caller.ask("POST", "/v1/responses", &[], &body.to_string()).unwrap();
        answer.assert_status(200);
    }
    let size = gateway.status()["journal"]["bytes"].as_u64().unwrap();
    assert!(size > 900_000 && size < 1 << 20, "{size}");
}

/// It takes new work within seconds, and not after the keeper's next minute.
#[track_caller]
fn has_room_soon(gateway: &Gateway) {
    let mut caller = Caller::unix(&gateway.home().control_socket()).unwrap();
    eventually("there is room", || {
        let answer = caller.ask("GET", "/ready", &[], "").unwrap();
        (answer.status() == 200).then_some(())
    });
    caller.post_message("s", "after", "after").unwrap().assert_status(202);
}

#[test]
fn a_start_with_a_journal_at_its_cap_makes_room_at_once() {
    let home = Home::new();
    home.configure("[limits]\nkeep_results = 1\n");
    let gateway = home.start();
    leave_dead_bytes(&gateway);
    gateway.signal(libc::SIGINT);
    gateway.into_process().finish(DEADLINE).assert_code(0);
    has_room_soon(&home.launch().set("limits.max_journal", "1MiB").start());
}

#[test]
fn a_journal_that_gets_to_its_cap_makes_room_at_once() {
    let home = Home::new();
    home.configure("[limits]\nkeep_results = 1\n");
    let gateway = home.start();
    leave_dead_bytes(&gateway);
    gateway.signal(libc::SIGINT);
    gateway.into_process().finish(DEADLINE).assert_code(0);
    // Nothing but the cap wakes this one's keeper.
    let gateway = home.start();
    home.configure("[limits]\nkeep_results = 1\nmax_journal = \"1MiB\"\n");
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("the configuration was read again", DEADLINE);
    has_room_soon(&gateway);
}

// ----------------------------------------------------------------- a log nobody reads ----

/// A full pipe that nobody reads, as standard error.
const FULL: &str =
    "mkdir -p \"${0%/*}\"; mkfifo \"$0\"; exec 2<>\"$0\"; head -c 65536 /dev/zero >&2; exec \"$@\"";

/// An agent with forty lines on its stderr; asked to stay, it stays.
const TALKS: &str = "read -r word; for i in $(seq 40); do echo line $i >&2; done; echo told; \
                     if [ \"$word\" = stay ]; then exec sleep 600; fi";

fn talking() -> String {
    format!("[\"sh\", \"-c\", {TALKS:?}]")
}

#[test]
fn a_full_log_costs_lines_and_no_time_and_they_are_counted() {
    let home = Home::new();
    let fifo = home.path().join("log");
    let launch = home.launch().through(&["sh", "-c", FULL, fifo.to_str().unwrap()]);
    let launch = launch.set("agent.command", &talking()).set("stop.drain_timeout", "2s");
    let gateway = launch.start();
    let began = Instant::now();
    assert_eq!(gateway.ask("x\n").reply().trim(), "told");
    // One wait of half a second, not forty.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let mut log = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    let mut read = || {
        let mut bytes = Vec::new();
        let _ = log.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).replace('\0', "")
    };
    read();
    gateway.ask("x\n");
    let said = eventually("the log goes on", || Some(read()).filter(|said| !said.is_empty()));
    let lost =
        said.lines().find_map(|line| line.split_once(" lines were lost")?.0.rsplit_once(' '));
    let lost: u32 = lost.unwrap_or_else(|| panic!("{said}")).1.parse().unwrap();
    assert!(lost >= 40, "{said}");
    assert!(said.contains("line 40"), "{said}");
    // And a stop keeps to its time.
    let mut turn = gateway.begin("stay\n", true);
    turn.head();
    turn.chunk();
    let mut fill = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    while fill.write(&[b'x'; 512]).is_ok() {}
    let began = Instant::now();
    gateway.signal(libc::SIGTERM);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn a_syslog_daemon_that_does_not_read_costs_one_wait() {
    Private::new().run(|| {
        let home = Home::new();
        let _mounted = Tmpfs::new(Path::new("/run"), c"size=1m");
        // Hidden, if there is one: the next place that is looked at is /run.
        if Path::new("/dev/log").exists() {
            return util::skip("somebody listens at /dev/log");
        }
        let _daemon = UnixDatagram::bind("/run/log").unwrap();
        let launch = home.launch().set("log.target", "syslog");
        let gateway = launch.set("agent.command", &talking()).start();
        // More than the socket's queue has room for (net.unix.max_dgram_qlen).
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(gateway.ask("x\n").reply().trim(), "told");
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        // What the daemon does not take is on standard error, and nothing is lost.
        let said = gateway.stderr();
        assert!(said.contains("line 40") && !said.contains("were lost"), "{said}");
        gateway.signal(libc::SIGTERM);
        assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
    });
}
