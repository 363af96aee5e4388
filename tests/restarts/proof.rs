//! `run --check` goes through a whole start and takes nothing, also beside a gateway that runs; and by it a
//! program proves that it could take over, or what is wrong with it is said.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use util::http::Connection;
use util::programs::{self, BROKEN};
use util::{DEADLINE, Gateway, Home, Outcome, Process, binary, eventually, sys};

/// A key that is long enough.
const KEY: &str = "0123456789abcdef0123456789abcdef";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Writes a file with this mode.
fn write(file: &Path, text: &str, mode: u32) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
    fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
}

/// Every file below a directory, with all that a writer would change.
fn everything(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, [i64; 4], u64, u32)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if meta.is_dir() {
            found.extend(everything(&path));
        }
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        found.insert(path, (bytes, times, meta.ino(), meta.mode()));
    }
    found
}

/// The line of a check that found all as it should be.
#[track_caller]
fn line(outcome: &Outcome) -> Value {
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome:?}");
    let line: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&line["ready"], &line["version"]), (&json!(true), &json!(VERSION)), "{line}");
    assert_eq!(line["handover"], 1, "{line}");
    line
}

/// A check and a start refuse this home with this status and in the same words, and the check changes
/// nothing.
#[track_caller]
fn refused(home: &Home, code: i32, words: &[&str]) {
    let before = everything(home.path());
    let check = home.run(&["run", "--check"]).assert_code(code);
    assert_eq!(everything(home.path()), before, "a check changes nothing");
    assert_eq!(check.stdout, "");
    let run = Process::spawn(&mut home.command(&["run"])).finish(DEADLINE).assert_code(code);
    for word in words {
        assert!(check.stderr.contains(word), "no {word:?} in: {}", check.stderr);
    }
    for line in check.stderr.lines() {
        let line = line.strip_prefix("hermes-gateway: ").unwrap_or(line);
        assert!(run.stderr.contains(line), "no {line:?} in: {}", run.stderr);
    }
}

#[test]
fn a_check_of_a_first_start_makes_nothing() {
    let home = Home::new();
    for args in [&["run", "--check"][..], &["run", "--ephemeral", "--check"], &["--check"]] {
        let before = everything(home.path());
        let outcome = home.run(args).assert_code(0);
        assert!(line(&outcome)["listen"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert_eq!(outcome.stderr, "");
        assert_eq!(everything(home.path()), before);
    }
}

#[test]
fn what_a_start_refuses_a_check_refuses_in_the_same_words() {
    let home = Home::new();
    home.configure("[http]\nlissten = 1\n");
    refused(&home, 78, &["default.toml:2:1: unknown key"]);
    home.configure("[http]\nlisten = \"203.0.113.77:1\"\n");
    refused(&home, 69, &["203.0.113.77:1 is not an address of this machine", "default.toml:2"]);
    // What `--set` says counts before the file.
    let set = ["run", "--check", "--set", "http.listen=127.0.0.1:1"];
    line(&home.run(&set).assert_code(0));
    let wrong = home.path().join("other.toml");
    write(&wrong, "[agent]\nurl = 3\n", 0o600);
    let other = ["run", "--check", "--config", wrong.to_str().unwrap()];
    assert!(home.run(&other).assert_code(78).stderr.contains("other.toml:2"));

    // As the unit's own process would, and as a child of it: a unit that has a file means it.
    home.configure("");
    let unit = std::process::id().to_string();
    let mut child = home.command(&["run", "--check"]);
    let said = Process::spawn(child.env("SYSTEMD_EXEC_PID", unit)).finish(DEADLINE);
    assert!(said.assert_code(78).stderr.contains("default.toml"));
    line(&home.run(&["run", "--check"]).assert_code(0));

    let home = Home::new();
    write(&home.path().join("secret"), "whsec_!", 0o600);
    let secret = home.path().join("secret");
    home.configure(&format!("[deliver.x]\nurl='http://127.0.0.1:1/'\nsecret_file={secret:?}\n"));
    refused(&home, 78, &["default.toml:3"]);

    let home = Home::new();
    home.configure("[http]\nlisten = \"127.0.0.1:0\"\n");
    for (key, mode) in [("short\n", 0o600), (KEY, 0o644)] {
        write(&home.state_dir().join("api.key"), key, mode);
        refused(&home, 78, &["api.key cannot be used"]);
    }
}

#[test]
fn a_directory_that_a_start_cannot_use_is_refused() {
    let home = Home::new();
    fs::create_dir_all(home.state_dir().parent().unwrap()).unwrap();
    symlink("/nowhere", home.state_dir()).unwrap();
    refused(&home, 78, &["cannot use", "is not a directory"]);
    fs::remove_file(home.state_dir()).unwrap();
    write(&home.state_dir(), "", 0o600);
    refused(&home, 78, &["cannot use", "is not a directory"]);
    fs::remove_file(home.state_dir()).unwrap();
    if sys::uid() == 0 {
        fs::create_dir(home.state_dir()).unwrap();
        std::os::unix::fs::chown(home.state_dir(), Some(54_321), None).unwrap();
        refused(&home, 78, &["belongs to uid 54321"]);
    }
}

/// A home in which a message was answered.
#[track_caller]
fn used_home() -> Home {
    let gateway = Gateway::start();
    let api = gateway.api();
    let id = api.accepted("s", "hello");
    api.reply(&id);
    let home = gateway.end(libc::SIGKILL);
    home.configure("[http]\nlisten = \"127.0.0.1:0\"\n");
    home
}

/// A journal as a newer gateway would write it.
fn newer(journal: &str) -> String {
    let header = r#"9684856b 0 {"format":"hermes-gateway journal","version":3,"base":1,"kept":0}"#;
    format!("{header}\n{}", journal.split_once('\n').unwrap().1)
}

#[test]
fn a_journal_that_a_start_cannot_read_is_refused() {
    let home = used_home();
    let journal = home.state_dir().join("journal");
    let good = fs::read(&journal).unwrap();
    line(&home.run(&["run", "--check"]).assert_code(0));
    // A byte in the middle of the second line.
    let mut damaged = good.clone();
    let at = damaged.iter().position(|byte| *byte == b'\n').unwrap() + 30;
    damaged[at] ^= 1;
    fs::write(&journal, &damaged).unwrap();
    refused(&home, 78, &["is damaged at byte", "journal repair"]);
    let text = String::from_utf8(good.clone()).unwrap();
    fs::write(&journal, newer(&text)).unwrap();
    refused(&home, 78, &["version 3", "use the gateway that wrote it"]);
    // What was never acknowledged is cut off by a start, and no fault.
    fs::write(&journal, [good.trim_ascii_end(), b"\n0123 half a rec"].concat()).unwrap();
    let before = everything(home.path());
    line(&home.run(&["run", "--check"]).assert_code(0));
    assert_eq!(everything(home.path()), before, "nothing is cut off");
    fs::rename(&journal, home.state_dir().join("journal.saved-1")).unwrap();
    refused(&home, 78, &["was removed or replaced"]);
}

#[test]
fn beside_a_live_gateway_a_check_changes_nothing_and_takes_nothing() {
    let gateway = Gateway::start();
    let (api, home) = (gateway.api(), gateway.home());
    for number in 0..20 {
        api.reply(&api.accepted(&format!("s{number}"), "hello"));
    }
    gateway.ask("and one without a record");
    // The last mark is written a moment after the last message.
    let all =
        || everything(&home.path().join("s")).into_iter().chain(everything(&home.path().join("r")));
    let marked = || home.journal_text().lines().last().unwrap().contains("\"mark\"");
    eventually("the gateway rests", || marked().then_some(()));
    let before: BTreeMap<_, _> = all().collect();
    let status = |value: Value| {
        let parts = ["pid", "since", "state", "sessions", "journal", "listen"];
        parts.map(|part| value[part].clone())
    };
    let lived = status(gateway.status());
    // Its own port is taken, by the gateway itself.
    let port = gateway.address().to_string();
    let args = ["run", "--check", "--set", &format!("http.listen={port}")];
    let outcome = home.run(&args).assert_code(0);
    assert_ne!(line(&outcome)["listen"], port.as_str());
    let mut holding = hold(home);
    let address = listen(&holding);
    let health = Connection::tcp(&*address).get("/health", &[]).assert_status(200).json();
    assert_eq!(health, json!({"status": "ok", "version": VERSION}));
    let authorization = gateway.authorization();
    for (method, target) in [
        ("POST", "/v1/messages"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/status"),
        ("DELETE", "/v1/sessions/s1"),
        ("POST", "/health"),
    ] {
        let fields = [("Authorization", &*authorization), ("Content-Type", "application/json")];
        let body = util::http::chat("x", false);
        let mut connection = Connection::tcp(&*address);
        connection.send(&util::http::request(method, target, &fields, body.as_bytes()));
        assert_eq!(connection.response().status(), 503, "{method} {target}");
    }
    assert_eq!(all().collect::<BTreeMap<_, _>>(), before);
    assert_eq!(status(gateway.status()), lived);
    // Its end is the end of its input.
    drop(holding.stdin.take());
    assert_eq!(holding.wait().unwrap().code(), Some(0));
    TcpListener::bind(&*address).unwrap();
    assert_eq!(all().collect::<BTreeMap<_, _>>(), before);
    assert_eq!(gateway.ask("still there").status(), 200);
}

/// A check that serves until its stdin ends.
fn hold(home: &Home) -> std::process::Child {
    let mut command = home.command(&["run", "--check", "--hold"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Where it serves, as its line says.
fn listen(holding: &std::process::Child) -> String {
    use std::io::BufRead;
    use std::os::fd::AsFd;
    let stdout = holding.stdout.as_ref().unwrap().as_fd().try_clone_to_owned().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(fs::File::from(stdout)).read_line(&mut line).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    line["listen"].as_str().unwrap().to_owned()
}

#[test]
fn a_journal_that_is_being_written_is_no_fault() {
    let gateway = Gateway::start();
    let (api, over) = (gateway.api(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut sent = 0;
            while !over.load(Ordering::SeqCst) {
                api.accepted(&format!("s{}", sent % 7), &"long ".repeat(200));
                sent += 1;
            }
            sent
        });
        for _ in 0..util::rounds(15, 100) {
            let outcome = gateway.home().run(&["run", "--check"]);
            if outcome.code() != 0 {
                over.store(true, Ordering::SeqCst);
            }
            line(&outcome.assert_code(0));
        }
        over.store(true, Ordering::SeqCst);
        assert!(writer.join().unwrap() > 0);
    });
}

#[test]
fn a_check_that_holds_ends_with_an_empty_input() {
    let home = Home::new();
    let mut command = home.command(&["run", "--check", "--hold"]);
    let outcome = Process::spawn(command.stdin(Stdio::null())).finish(DEADLINE).assert_code(0);
    line(&outcome);
    for args in [
        &["run", "--hold"][..],
        &["run", "--program", "x"],
        &["run", "--check", "--hold", "--program", "x"],
    ] {
        home.run(args).assert_code(64);
    }
}

/// Has a program prove itself.
#[track_caller]
fn prove(home: &Home, program: &Path, more: &[&str]) -> Outcome {
    let check = ["run", "--check", "--program", program.to_str().unwrap()];
    let before = everything(&home.path().join("s"));
    let outcome = home.run(&[&check[..], more].concat());
    assert_eq!(everything(&home.path().join("s")), before);
    outcome
}

#[test]
fn each_broken_program_is_refused_and_said() {
    let home = used_home();
    let program = home.path().join("next");
    for (kind, words) in BROKEN {
        if program.is_dir() {
            fs::remove_dir(&program).unwrap();
        }
        programs::put(kind, &program);
        let timeout = if *kind == "hang" { "1s" } else { "20s" };
        let set = format!("restart.start_timeout={timeout}");
        let outcome = prove(&home, &program, &["--set", &set]).assert_code(1);
        let said = outcome.stderr.trim_end();
        let begin = format!("hermes-gateway: {} cannot take over: ", program.display());
        assert!(said.starts_with(&begin) && said.contains(words), "{kind}: {said}");
        assert_eq!((said.lines().count(), &*outcome.stdout), (1, ""), "{kind}: {said}");
        if *kind == "hang" {
            assert!(said.contains("within 1s (restart.start_timeout): pid "), "{said}");
            let pid = said.rsplit_once("pid ").unwrap().1.trim_end_matches('.');
            let gone = sys::kill(pid.parse().unwrap(), 0).is_err();
            assert!(gone, "it is killed");
        }
    }
    // One that is still being written.
    programs::put("good", &program);
    let _open = fs::OpenOptions::new().write(true).open(&program).unwrap();
    let said = prove(&home, &program, &[]).assert_code(1).stderr;
    assert!(said.contains("it cannot be executed: Text file busy"), "{said}");
}

#[test]
fn what_is_proven_is_the_file_that_was_opened() {
    let home = used_home();
    let program = home.path().join("next");
    for kind in ["good", "deleted"] {
        programs::put(kind, &program);
        let outcome = prove(&home, &program, &[]).assert_code(0);
        let line: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(line, json!({"ready": true, "version": "9.9.9", "handover": 1}));
        assert_eq!(program.exists(), kind == "good");
    }
}

#[test]
fn our_own_program_proves_itself_with_what_it_was_told() {
    let home = used_home();
    // By a link, as an upgrade moves it.
    let link = home.path().join("hermes-gateway");
    symlink(binary(), &link).unwrap();
    let outcome = prove(&home, &link, &[]).assert_code(0);
    let proven: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(proven, json!({"ready": true, "version": VERSION, "handover": 1}));
    let said = prove(&home, &link, &["--set", "http.listen=203.0.113.77:1"]).assert_code(1).stderr;
    let words = "it exited with status 69 before it was ready: 203.0.113.77:1 is not an address";
    assert!(said.contains(words), "{said}");
    let journal = home.state_dir().join("journal");
    let text = home.journal_text();
    fs::write(&journal, newer(&text)).unwrap();
    let said = prove(&home, &link, &[]).assert_code(1).stderr;
    assert!(
        said.contains("it exited with status 78 before it was ready: ")
            && said.contains("version 3"),
        "{said}"
    );
}

#[test]
fn a_program_is_given_our_arguments_and_no_word_of_the_service_manager() {
    let home = Home::named("coder");
    let program = home.path().join("next");
    programs::put("environment", &program);
    let mut command: Command =
        home.command(&["run", "--ephemeral", "--set", "log.level=debug", "--check", "--program"]);
    command.arg(&program);
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC"] {
        command.env(name, "1");
    }
    command.env("INVOCATION_ID", "x").env("OWN", "y");
    let said = Process::spawn(&mut command).finish(DEADLINE).assert_code(1).stderr;
    for absent in ["NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_"] {
        assert!(!said.contains(absent), "{said}");
    }
    assert!(said.contains(" INVOCATION_ID OWN PATH "), "{said}");
    let called = binary();
    let words = format!(
        "| {} -p coder run --ephemeral --set log.level=debug --check --hold | leads: true",
        called.display()
    );
    assert!(said.contains(&words), "no {words:?} in {said}");
}
