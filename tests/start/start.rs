//! What a start takes hold of and what it refuses: the name, the port, the key, its directories. And
//! what a reload changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use util::{DEADLINE, Gate, Gateway, Home, Outcome, eventually, sys};

/// A start that must fail with this status and these words.
#[track_caller]
fn refused(home: &Home, settings: &[(&str, &str)], code: i32, words: &[&str]) -> Outcome {
    let mut launch = home.launch();
    for (key, value) in settings {
        launch = launch.set(key, value);
    }
    let outcome = launch.spawn().finish(DEADLINE).assert_code(code);
    for word in words {
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
    outcome
}

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

// --------------------------------------------------------- one of a name, one port ----

#[test]
fn the_second_of_a_name_is_told_who_is_first() {
    let first = Gateway::start();
    let holder = format!("pid {}", first.pid());
    refused(first.home(), &[], 69, &[&holder, "already running"]);
    // It has taken nothing from the first one.
    first.control().get("/health", &[]).assert_status(200);
    // Nor does a lock that is left behind keep anybody out.
    first.signal(libc::SIGKILL);
    first.wait_for_exit(DEADLINE);
    let second = first.home().start();
    // Entered when READY=1 was said already.
    eventually("the entry", || {
        (second.status()["last_stop"]["verdict"] == "unclean exit").then_some(())
    });
}

#[test]
fn two_names_are_two_gateways() {
    let (one, two) = (Home::named("one"), Home::named("two"));
    let (one, two) = (one.start(), two.start());
    assert_eq!(one.status()["name"], "one");
    assert_eq!(two.status()["name"], "two");
}

#[test]
fn who_holds_the_port_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let named = format!("pid {}", std::process::id());
    let home = Home::new();
    let settings = [("http.listen", address.as_str())];
    refused(&home, &settings, 69, &[&address, &named, "http.listen"]);
    drop(holder);
    let gateway = home.launch().set("http.listen", &address).start();
    assert_eq!(gateway.address().to_string(), address);
}

#[test]
fn a_port_is_free_again_as_soon_as_its_gateway_has_ended() {
    let home = Home::new();
    let first = home.start();
    let address = first.address().to_string();
    let mut served = first.connect();
    served.get("/health", &[]).assert_status(200);
    first.signal(libc::SIGKILL);
    first.wait_for_exit(DEADLINE);
    let second = home.launch().set("http.listen", &address).start();
    second.connect().get("/health", &[]).assert_status(200);
}

// --------------------------------------------------------------------- the key ----

#[test]
fn the_key_is_made_once_for_its_owner_alone() {
    let home = Home::new();
    let gateway = home.start();
    let file = home.state_dir().join("api.key");
    assert_eq!(mode(&file), 0o600);
    let key = home.api_key();
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    assert!(key.len() == 64 && key.chars().all(hex), "{}", key.len());
    let said = format!("{}{}", gateway.stdout(), gateway.stderr());
    assert!(!said.contains(&key), "the key itself is in the log");
    gateway.signal(libc::SIGINT);
    gateway.wait_for_exit(DEADLINE);
    let again = home.start();
    assert_eq!(home.api_key(), key);
    let other = Gateway::start();
    assert_ne!(other.home().api_key(), key);
    drop(again);
}

#[test]
fn where_a_new_key_is_kept_is_said() {
    let home = Home::new();
    let gateway = home.start();
    let file = home.state_dir().join("api.key");
    // Under a service manager and in a pipe too: nobody would know otherwise.
    gateway.wait_for_log(file.to_str().unwrap(), Duration::from_secs(2));
}

#[test]
fn a_key_that_is_no_secret_is_refused() {
    let home = Home::new();
    home.start();
    let file = home.state_dir().join("api.key");
    for bits in [0o640, 0o604, 0o644, 0o620] {
        fs::set_permissions(&file, Permissions::from_mode(bits)).unwrap();
        refused(&home, &[], 78, &["api.key", &format!("{bits:o}"), "chmod"]);
    }
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    for text in ["", "\n", "short\n", "0123456789abcdef 0123456789abcdef 0123456789abcdef\n"] {
        fs::write(&file, text).unwrap();
        let outcome = refused(&home, &[], 78, &["api.key"]);
        let word = text.trim();
        assert!(word.is_empty() || !outcome.stderr.contains(word), "{}", outcome.stderr);
    }
    fs::remove_file(&file).unwrap();
    symlink("/etc/hostname", &file).unwrap();
    refused(&home, &[], 78, &["api.key"]);
    fs::remove_file(&file).unwrap();
    home.start();
}

#[test]
fn a_key_file_of_the_configuration_must_be_there() {
    let home = Home::new();
    let file = home.path().join("my.key");
    let settings = [("http.key_file", file.to_str().unwrap())];
    refused(&home, &settings, 78, &["my.key"]);
    assert!(!file.exists());
    fs::write(&file, "k".repeat(40) + "\n").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let gateway = home.launch().set(settings[0].0, settings[0].1).start();
    let bearer = format!("Bearer {}", "k".repeat(40));
    let fields = [("Authorization", bearer.as_str())];
    gateway.connect().get("/v1/models", &fields).assert_status(200);
}

// ---------------------------------------------------------- what a failed start leaves ----

/// The history, as the command tells it.
#[track_caller]
fn history(home: &Home) -> String {
    home.run(&["history", "--json"]).assert_code(0).stdout
}

#[test]
fn a_start_that_fails_is_recorded_as_one_with_its_exit_status_and_reason() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    fs::create_dir_all(home.state_dir()).unwrap();
    let journal = home.state_dir().join("journal");
    let cases: [(&str, &str, i32, &str); 5] = [
        ("[agent]\nmodle = 1\n", "127.0.0.1:0", 78, "modle"),
        ("", &address, 69, "http.listen (it was set by --set http.listen="),
        ("[http]\nkey_file = \"/nowhere\"\n", "127.0.0.1:0", 78, "/nowhere"),
        ("# journal\n", "127.0.0.1:0", 78, "/journal"),
        ("# runtime\n", "127.0.0.1:0", 78, "symlink"),
    ];
    for (config, listen, code, reason) in cases {
        home.configure(config);
        if config.contains("journal") {
            fs::write(&journal, "what is this\n").unwrap();
        } else if config.contains("runtime") {
            fs::remove_file(&journal).unwrap();
            fs::remove_dir_all(home.runtime_dir()).unwrap();
            symlink(home.path(), home.runtime_dir()).unwrap();
        }
        refused(&home, &[("http.listen", listen)], code, &[reason]);
        let last = history(&home).lines().last().unwrap_or_default().to_owned();
        assert!(last.contains("\"failed start\"") && last.contains(reason), "{last}");
        assert!(last.contains(&format!("\"exit\":{code}")), "{last}");
        if !config.contains("runtime") {
            let status = home.run(&["status"]).assert_code(3).stdout;
            assert!(status.contains("failed start") && status.contains(reason), "{status}");
        }
    }
    fs::remove_file(home.runtime_dir()).unwrap();
    home.configure("");
    let gateway = home.start();
    assert!(!history(&home).contains("unclean exit"), "{}", history(&home));
    assert!(!gateway.stderr().contains("unclean exit"));
}

#[test]
fn a_start_that_another_gateway_refuses_writes_nothing_into_its_history() {
    let first = Gateway::start();
    let home = first.home();
    refused(home, &[], 69, &["already running"]);
    home.configure("[agent]\nmodle = 1\n");
    refused(home, &[], 69, &["already running"]);
    assert!(!home.state_dir().join("history.jsonl").exists());
    let run = fs::read_to_string(home.state_dir().join("run.json")).unwrap();
    assert!(run.contains(&format!("\"pid\":{}", first.pid())), "{run}");
}

/// A child of a gateway that was killed, or of one that has just ended, may hold it for a moment.
#[test]
fn a_start_that_is_killed_while_it_waits_for_the_lock_writes_nothing() {
    let home = Home::new();
    drop(home.start());
    let state = fs::File::open(home.state_dir()).unwrap();
    sys::flock(&state).unwrap();
    let second = home.launch().spawn();
    let lock = home.runtime_dir().join("lock");
    let open = |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|to| to == lock);
    eventually("it waits", || {
        fs::read_dir(format!("/proc/{}/fd", second.pid())).ok()?.flatten().any(open).then_some(())
    });
    second.signal(libc::SIGTERM);
    second.wait_for_exit(DEADLINE);
    assert!(!home.state_dir().join("history.jsonl").exists(), "{}", history(&home));
}

#[test]
fn a_start_that_is_stopped_leaves_no_unclean_exit_behind() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let home = Home::new();
        home.configure("");
        let mut lease = sys::Lease::take(&home.config_file()).unwrap();
        let process = home.launch().spawn();
        lease.wait_until_asked(DEADLINE).unwrap();
        assert!(home.state_dir().join("run.json").exists());
        process.signal(signal);
        process.wait_for_exit(DEADLINE);
        drop(lease);
        home.start();
        assert!(!history(&home).contains("unclean exit"), "{}", history(&home));
    }
}

// ------------------------------------------------------------------ directories ----

#[test]
fn directories_that_are_symlinks_are_refused() {
    for which in [Home::state_dir, Home::runtime_dir] {
        let home = Home::new();
        let dir = which(&home);
        let elsewhere = home.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::create_dir_all(dir.parent().unwrap()).unwrap();
        symlink(&elsewhere, &dir).unwrap();
        refused(&home, &[], 78, &[dir.to_str().unwrap(), "symlink"]);
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
}

#[test]
fn a_lock_that_is_a_symlink_is_refused() {
    let home = Home::new();
    fs::create_dir_all(home.runtime_dir()).unwrap();
    let elsewhere = home.path().join("elsewhere");
    symlink(&elsewhere, home.runtime_dir().join("lock")).unwrap();
    refused(&home, &[], 1, &["lock"]);
    assert!(!elsewhere.exists());
}

#[test]
fn directories_that_are_too_open_are_narrowed() {
    let home = Home::new();
    fs::create_dir_all(home.state_dir()).unwrap();
    fs::set_permissions(home.state_dir(), Permissions::from_mode(0o755)).unwrap();
    let _gateway = home.start();
    assert_eq!(mode(&home.state_dir()), 0o700);
    assert_eq!(mode(&home.runtime_dir()), 0o700);
}

#[test]
fn directories_of_somebody_else_are_refused() {
    if sys::uid() != 0 {
        return util::skip("only root can give a directory to another user");
    }
    let home = Home::new();
    fs::create_dir_all(home.state_dir()).unwrap();
    std::os::unix::fs::chown(home.state_dir(), Some(4242), None).unwrap();
    refused(&home, &[], 78, &["4242"]);
}

// ------------------------------------------------------------------------ reload ----

#[test]
fn a_reload_counts_for_the_next_turn_and_not_for_the_present_one() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let begun = home.path().join("begun");
    let script = format!("touch {}; {}; echo old", begun.display(), gate.wait());
    home.configure(&format!("[agent]\ncommand = [\"sh\", \"-c\", {script:?}]\n"));
    let gateway = home.start();
    let mut turn = gateway.begin("x", false);
    // A turn counts as running before its agent is chosen.
    eventually("the agent", || begun.exists().then_some(()));
    home.configure("[agent]\ncommand = [\"echo\", \"new\"]\n");
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("the configuration was read again", DEADLINE);
    assert_eq!(gateway.ask("x").reply(), "new");
    gate.open();
    assert_eq!(turn.response().reply(), "old");
}

#[test]
fn a_wrong_configuration_changes_nothing() {
    let home = Home::new();
    home.configure("[agent]\ncommand = [\"echo\", \"old\"]\n");
    let gateway = home.start();
    // Each is waited for by its own words: a reload that lags behind would read the next file.
    for (wrong, words) in [
        (
            "[agent]\ncommand = [\"echo\", \"new\"]\n[stop]\ndrain_timeout = \"never\"\n",
            "\"never\"",
        ),
        ("[agent]\ncommand = [\"echo\", \"new\"\n", "expected"),
        ("\u{0}", "does not belong here"),
    ] {
        home.configure(wrong);
        gateway.signal(libc::SIGHUP);
        gateway.wait_for_log(words, DEADLINE);
        assert_eq!(gateway.ask("x").reply(), "old");
    }
    // What is bound stays bound, and the log says so.
    let address = gateway.address();
    home.configure("[agent]\ncommand = [\"echo\", \"new\"]\n[log]\ntarget = \"syslog\"\n");
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("log.target has changed: restart the gateway to apply it", DEADLINE);
    gateway.wait_for_log("the configuration was read again", DEADLINE);
    assert_eq!(gateway.ask("x").reply(), "new");
    assert_eq!(gateway.address(), address);
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 0);
}

/// A full pipe that nobody reads, as standard error.
const FULL: &str =
    "mkdir -p \"${0%/*}\"; mkfifo \"$0\"; exec 2<>\"$0\"; head -c 65536 /dev/zero >&2; exec \"$@\"";

#[test]
fn a_log_that_nobody_reads_does_not_hold_it_up() {
    let home = Home::new();
    let fifo = home.config_file().with_file_name("fifo");
    let through = ["sh", "-c", FULL, fifo.to_str().unwrap()];
    let gateway = home.launch().through(&through).start();
    assert_eq!(gateway.ask("x").reply(), "x");
    gateway.signal(libc::SIGTERM);
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
}
