//! `config check` says what a start says, in the same words and with the same exit status; and both
//! warn alike of what can hardly work. What is wrong with an agent's program is named where its turn
//! fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use util::fault::{Fault, HANG, When};
use util::{DEADLINE, Home};

/// A key that is long enough.
const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Writes a file with this mode.
fn write(file: &Path, text: &str, mode: u32) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
    fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
}

/// `config check`, and a start, refuse this home with this status and these words, both in the same
/// lines.
#[track_caller]
fn refused(home: &Home, code: i32, words: &[&str]) {
    let before = fs::exists(home.state_dir()).unwrap();
    let check = home.run(&["config", "check"]).assert_code(code);
    assert_eq!(fs::exists(home.state_dir()).unwrap(), before, "a check makes nothing");
    let run = home.launch().spawn().finish(DEADLINE).assert_code(code);
    for word in words {
        assert!(check.stderr.contains(word), "no {word:?} in: {}", check.stderr);
    }
    for line in check.stderr.lines() {
        let line = line.strip_prefix("hermes-gateway: ").unwrap_or(line);
        assert!(run.stderr.contains(line), "no {line:?} in: {}", run.stderr);
    }
}

#[test]
fn what_a_start_refuses_a_check_refuses_in_the_same_words() {
    // What of DIR/key is wrong, by its content and mode, and what is said of that.
    let short = ("short\n", 0o600, "needs 32");
    let open = (KEY, 0o644, "is open to other users");
    let missing = ("", 0, "");
    for (name, toml, keys) in [
        ("http.key_file", "[http]\nkey_file = 'DIR/key'\n", &[missing, short, open][..]),
        (":2:1", "[keys.alice]\nfile = 'DIR/key'\n", &[missing, short, open][..]),
        (
            ":3:1",
            "[agent]\nurl = 'http://127.0.0.1:1/v1'\nkey_file = 'DIR/key'\n",
            &[missing, ("two words", 0o600, "one word"), open][..],
        ),
        (
            ":3:1",
            "[deliver.x]\nurl = 'http://127.0.0.1:1/'\nsecret_file = 'DIR/key'\n",
            &[missing, ("whsec_!", 0o600, "base64"), open][..],
        ),
    ] {
        for (content, mode, words) in keys {
            let home = Home::new();
            let dir = home.path().display().to_string();
            if *mode != 0 {
                write(&home.path().join("key"), content, *mode);
            }
            home.configure(&toml.replace("DIR", &dir));
            let place = if name.starts_with(':') { name } else { "" };
            refused(&home, 78, &[&format!("{dir}/key"), words, place]);
        }
    }
}

#[test]
fn the_keys_that_are_there_are_checked_against_each_other() {
    // The gateway's own, which it made at its first start.
    for (content, mode) in [("short\n", 0o600), (KEY, 0o644), ("", 0o600)] {
        let home = Home::new();
        write(&home.state_dir().join("api.key"), content, mode);
        refused(&home, 78, &["api.key cannot be used"]);
    }
    let home = Home::new();
    write(&home.state_dir().join("api.key"), KEY, 0o600);
    write(&home.path().join("alice"), KEY, 0o600);
    let alice = home.path().join("alice");
    home.configure(&format!("[keys.alice]\nfile = {alice:?}\n"));
    refused(&home, 78, &["default.toml:2:1", "has the gateway's own key"]);
    home.configure(&format!("[keys.alice]\nfile = {alice:?}\n[keys.bob]\nfile = {alice:?}\n"));
    refused(&home, 78, &["default.toml:4:1", "same key as keys.alice"]);
}

#[test]
fn mistakes_in_the_configuration_are_refused_with_their_place() {
    for (toml, words) in [
        ("[http]\nlissten = 1\n", ":2:1: unknown key"),
        (
            "[keys.alice]\nfile = '/k'\n[session]\noperators = ['alise']\n",
            ":4:1: session.operators has \"alise\", but there is no [keys.NAME] of that name; did you mean \"alice\"?",
        ),
        (
            "[agent]\nurl = 'https://a/v1/chat/completions'\n",
            ":2:7: agent.url is \"https://a/v1/chat/completions\"; it must be a base, without \
             /chat/completions (write \"https://a/v1\")",
        ),
    ] {
        let home = Home::new();
        home.configure(toml);
        refused(&home, 78, &[words]);
    }
}

#[test]
fn a_check_of_what_works_says_nothing_and_makes_nothing() {
    let home = Home::new();
    write(&home.path().join("alice"), KEY, 0o600);
    let alice = home.path().join("alice");
    home.configure(&format!(
        "[agent]\ncommand = ['cat']\n[keys.alice]\nfile = {alice:?}\n\
         [session]\noperators = ['owner', 'alice']\n"
    ));
    let outcome = home.run(&["config", "check"]).assert_code(0);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
    assert!(!home.state_dir().exists() && !home.runtime_dir().exists());
    // Beside one that runs, too.
    let gateway = home.start();
    home.run(&["config", "check"]).assert_code(0);
    assert_eq!(gateway.status()["warnings"], json!([]));
    assert_eq!(home.run(&["config", "check"]).stderr, "");
}

// ------------------------------------------------------------------------ warnings ----

#[test]
fn warnings_are_told_by_the_check_the_log_the_status_and_the_service_manager() {
    let home = Home::new();
    let program = home.path().join("agent.py");
    write(&program, "#!/no/such/python\n", 0o755);
    home.configure(&format!(
        "[agent]\ncommand = [{program:?}]\n[deliver.x]\nurl = 'http://hook.example/'\n\
         [deliver.y]\ncommand = ['no-such-program']\n"
    ));
    let outcome = home.run(&["config", "check"]).assert_code(0);
    assert_eq!(outcome.stdout, "");
    let file = home.config_file().display().to_string();
    let found: Vec<&str> = outcome.stderr.lines().collect();
    for (line, (place, words)) in found.iter().zip([
        ("2:1: agent.command cannot be executed:", "/no/such/python, cannot be used: No such file"),
        ("4:1: deliver.x.url is at http://hook.example:", "not encrypted"),
        ("6:1: deliver.y.command cannot be executed:", "no no-such-program on PATH"),
    ]) {
        assert!(line.starts_with(&format!("hermes-gateway: warning: {file}:{place}")), "{line}");
        assert!(line.contains(words), "{line}");
    }
    assert_eq!(found.len(), 3, "{found:?}");

    let gateway = home.start();
    let warnings: Vec<&str> =
        found.iter().map(|line| line.strip_prefix("hermes-gateway: warning: ").unwrap()).collect();
    assert_eq!(gateway.status()["warnings"], json!(warnings));
    let status = gateway.wait_for_notification("STATUS=", DEADLINE);
    let expected = format!("STATUS=Serving on {}; warnings: 3; {}", gateway.address(), warnings[0]);
    assert_eq!(status, expected);
    let text = home.run(&["status"]).assert_code(0).stdout;
    let told: Value = serde_json::from_str(&home.run(&["status", "--json"]).stdout).unwrap();
    assert_eq!(told["warnings"], json!(warnings));
    for warning in &warnings {
        gateway.wait_for_log(warning, DEADLINE);
        assert!(text.contains(&format!("  warning  {warning}\n")), "{text}");
    }

    // A reload looks again.
    home.configure("[agent]\ncommand = ['cat']\n");
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("the configuration was read again", DEADLINE);
    assert_eq!(gateway.status()["warnings"], json!([]));
}

#[test]
fn a_disk_that_hangs_under_an_agents_program_holds_up_no_start() {
    let home = Home::new();
    // In a directory of its own: looking at that hangs as well.
    let (program, hang) = (home.path().join("bin/agent"), home.path().join("hang"));
    fs::create_dir(home.path().join("bin")).unwrap();
    write(&program, "#!/bin/sh\ncat\n", 0o755);
    fs::write(&hang, "").unwrap();
    home.configure(&format!("[agent]\ncommand = [{program:?}]\n"));
    let (on, when) = (program.to_str().unwrap(), When::While(&hang));
    let fault = Fault { call: "statx", error: HANG, when, on };
    let gateway = fault.into(home.launch(), &home).start();
    let warning = "the disk with the configured programs does not answer";
    assert_eq!(gateway.status()["warnings"], json!([warning]));
    fs::remove_file(&hang).unwrap();
    assert_eq!(gateway.ask("x").reply(), "x");
}

#[test]
fn a_reload_refuses_what_the_next_start_would_refuse() {
    let home = Home::new();
    let gateway = home.start();
    home.configure("[http]\nkey_file = '/no/such/key'\n[agent]\ncommand = ['false']\n");
    gateway.signal(libc::SIGHUP);
    gateway.wait_for_log("not reloaded: the key file /no/such/key cannot be used", DEADLINE);
    assert_eq!(gateway.ask("x").reply(), "x");
}

// ---------------------------------------------------------- programs that cannot run ----

/// Programs that cannot be executed: content, mode and what is said of them.
const PROGRAMS: [(&str, u32, &str); 4] = [
    ("#!/no/such/interpreter\n", 0o755, "/no/such/interpreter, cannot be used: No such file"),
    ("#!/bin/sh\r\necho\r\n", 0o755, "ends in CRLF: sed -i 's/\\r$//' "),
    ("#!/bin/sh\necho\n", 0o644, "is not executable: chmod +x "),
    ("echo\n", 0o755, "has no #! line: add #!/bin/sh as its first line"),
];

#[test]
fn an_agent_that_cannot_be_executed_is_explained_where_its_turn_fails() {
    for (content, mode, words) in PROGRAMS {
        let home = Home::new();
        let program = home.path().join("agent");
        write(&program, content, mode);
        home.configure(&format!("[agent]\ncommand = [{program:?}]\nretry_for = \"0s\"\n"));
        let outcome = home.run(&["config", "check"]).assert_code(0);
        assert!(outcome.stderr.contains(words), "{words}: {}", outcome.stderr);
        let gateway = home.start();
        let id = gateway.api().accepted("s", "x");
        let message = gateway.api().finished(&id);
        let error = message["error"].to_string();
        let expected = json!(words).to_string();
        assert!(error.contains(expected.trim_matches('"')), "{words}: {message}");
    }
    let home = Home::new();
    home.configure(&format!("[agent]\ncommand = [{:?}]\nretry_for = \"0s\"\n", home.path()));
    let gateway = home.start();
    let error = gateway.ask("x").text();
    assert!(error.contains("is a directory"), "{error}");
}

#[test]
fn a_delivery_command_that_cannot_be_executed_is_explained() {
    for (content, mode, words) in PROGRAMS {
        let home = Home::new();
        let program = home.path().join("notify");
        write(&program, content, mode);
        home.configure(&format!("[deliver.out]\ncommand = [{program:?}]\n"));
        let gateway = home.start();
        let id = gateway.api().deliver("s", "x", "out");
        let message = gateway.api().until(&id, "a failed attempt", |message| {
            message["deliveries"][0]["error"].is_string()
        });
        let error = message["deliveries"][0]["error"].as_str().unwrap();
        assert!(error.contains(words), "{words}: {error}");
    }
}
