//! Clients' keys: mistakes by their exact text, and the files that hold them.

use super::{error, errors_of, good, set_error};
use crate::config::Role;
use crate::limits::MAX_CLIENT_KEYS;
use crate::sys::fs::create;
use crate::testing::TempDir;
use std::fs;

#[test]
fn names_and_values_of_tables_are_checked() {
    error(
        "[keys.\"a b\"]\nfile = '/a'",
        "1:7: keys has \"a b\"; a key's name must be of letters, digits, _ and -, at most 64",
    );
    error(
        "[keys.owner]\nfile = '/a'",
        "1:7: keys.owner is the gateway's own key: it is in http.key_file",
    );
    error(
        "[keys.alice]\nrole = 'user'",
        "1:7: keys.alice has no file; make one, `openssl rand -hex 32 > FILE; chmod 600 FILE`, and \
         name it: file = \"~/.config/hermes-gateway/alice.key\"",
    );
    error(
        "[keys.alice]\nfile = '/a'\nrole = 'admin'",
        "3:8: keys.alice.role is \"admin\"; it must be one of \"user\", \"operator\"",
    );
    error(
        "[keys.alice]\nfile = '/a'\nroutes = ['chats']",
        "3:11: keys.alice.routes has \"chats\"; there are chat, messages, status, journal, channels",
    );
    error(
        "[keys.alice]\nfile = '/a'\nroutes = ['journal']",
        "3:1: keys.alice.routes has \"journal\", which is for operators; remove it, or write \
         role = \"operator\"",
    );
    error("[keys]\nfile = '/a'", "2:1: file belongs to a key: write it in [keys.NAME]");
    error("[key.x]\n", "1:2: unknown section [key]; did you mean [keys.NAME]?");
    set_error(
        "keys.x=1",
        "--set keys.x=1: keys.x must be a section, written [keys.x]; got an integer",
    );
    for wrong in [
        "*",
        "null",
        "chat.example.org",
        "https://*.example.org",
        "https://a/",
        "https://a:0x1",
        "https://a:+1",
        "https://a:443:443",
        "https://::1",
        "https://[a]",
        "https://a:",
    ] {
        let errors = errors_of(format!("[http]\nallowed_origins = ['{wrong}']").as_bytes(), &[]);
        assert!(errors[0].contains("scheme, host and port of a page"), "{errors:?}");
    }
    let origins = ["HTTPS://Chat.Example.org:443", "http://127.0.0.1:3000", "http://[0::1]:80"];
    let config = good(&format!("[http]\nallowed_origins = {origins:?}"), &[]).config;
    // As browsers write them.
    let sent = ["https://chat.example.org", "http://127.0.0.1:3000", "http://[::1]"];
    assert_eq!(config.http.allowed_origins, sent);
}

#[test]
fn keys_have_a_limit_of_their_own() {
    let key = |number| format!("[keys.k{number}]\nfile = '/k{number}'\n");
    let text: String = (0..MAX_CLIENT_KEYS).map(key).collect();
    assert_eq!(good(&text, &[]).config.keys.iter().count(), MAX_CLIENT_KEYS);
    let more = text + &key(MAX_CLIENT_KEYS);
    let errors = errors_of(more.as_bytes(), &[]);
    assert!(errors[0].contains("more than 256 keys; remove some"), "{errors:?}");
}

#[test]
fn operators_are_those_of_the_role_and_those_named() {
    let text = "[keys.a]\nfile = '/a'\nrole = 'operator'\n[keys.b]\nfile = '/b'\n";
    let config = good(text, &[]).config;
    assert_eq!(config.keys.get("b").unwrap().role, Role::User);
    assert!(config.is_operator("owner") && config.is_operator("a") && !config.is_operator("b"));
    assert!(good(text, &["session.operators=['b']"]).config.is_operator("b"));
}

#[test]
fn targets_of_notices_that_do_not_exist_are_rejected() {
    let target = "[deliver.ops]\nurl = 'http://a/'\n[stop]\n";
    for key in ["notify", "notify_failures"] {
        error(
            &format!("{target}{key} = 'opps'"),
            &format!(
                "4:1: stop.{key} is \"opps\", but there is no [deliver.NAME] or [channel.NAME] of that name; did you mean \"ops\"?"
            ),
        );
        error(
            &format!("{target}{key} = 'a b'"),
            &format!(
                "4:{}: stop.{key} is \"a b\"; a target's name must be of letters, digits, _ and -, at most 64, like \"ops\"",
                key.len() + 4
            ),
        );
        good(&format!("{target}{key} = 'ops'"), &[]);
        good(&format!("{target}{key} = ''"), &[]);
    }
}

#[test]
fn operators_that_do_not_exist_are_rejected() {
    let keys = "[keys.alice]\nfile = '/a'\n[session]\n";
    error(
        &format!("{keys}operators = ['owner', 'alise']"),
        "4:1: session.operators has \"alise\", but there is no [keys.NAME] of that name; did you mean \"alice\"?",
    );
    error(
        &format!("{keys}\noperators = ['telegram:1', 'alice']"),
        "5:1: session.operators has \"telegram:1\", but there is no [keys.NAME] of that name",
    );
}

#[test]
fn targets_that_do_not_exist_are_rejected() {
    let target = "[deliver.chat]\nurl = 'http://127.0.0.1/'\n";
    let key = |targets: &str| format!("{target}[keys.alice]\nfile = '/a'\ntargets = {targets}");
    error(
        &key("['chat', 'chatt']"),
        "5:1: keys.alice.targets has \"chatt\", but there is no [deliver.NAME] or [channel.NAME] of that name; \
         did you mean \"chat\"?",
    );
    error(
        &key("['*']"),
        "5:1: keys.alice.targets has \"*\", but there is no [deliver.NAME] or [channel.NAME] of that name",
    );
    let config = good(&key("['chat']"), &[]).config;
    assert_eq!(config.keys.get("alice").unwrap().targets, ["chat"]);
}

#[test]
fn files_are_held_to_the_rules_of_secrets() {
    let dir = TempDir::new("keys");
    let path = |name: &str| dir.path().join(name);
    let text = format!(
        "[keys.a]\nfile = '{}'\n[keys.b]\nfile = '{}'\n",
        path("a").display(),
        path("b").display()
    );
    let rejected = |why: &str| {
        let error = good(&text, &[]).with_secrets().unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(!error.contains("hidden"), "{error}");
    };
    rejected("/etc/coder.toml:2:1: keys.a.file: ");
    rejected(&format!(
        "; make it: `openssl rand -hex 32 > {0}; chmod 600 {0}`",
        path("a").display()
    ));
    create(&path("a"), &[b'a'; 40], 0o600).unwrap();
    for (content, mode, why) in [
        ("hidden", 0o600, "the key has 6 characters, it needs 32"),
        ("", 0o600, "the key has 0 characters"),
        (&format!("hidden {}", "b".repeat(40)), 0o600, "one word of visible ASCII"),
        (&"b".repeat(40), 0o644, "is open to other users"),
        (
            &"a".repeat(40),
            0o600,
            "/etc/coder.toml:4:1: keys.b has the same key as keys.a (/etc/coder.toml:2:1)",
        ),
    ] {
        let _ = fs::remove_file(path("b"));
        create(&path("b"), content.as_bytes(), mode).unwrap();
        rejected(why);
    }
    fs::write(path("b"), "b".repeat(40)).unwrap();
    let config = good(&text, &[]).with_secrets().unwrap().config;
    assert!(config.keys.get("b").unwrap().key.is_some());
    assert!(!format!("{config:?}").contains("bbbb"));
}
