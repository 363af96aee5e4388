//! Deliveries by a command of the operator's: what it is handed, and what its end means.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use util::{Home, eventually};

/// A home with a command as its target "out".
fn with_command(text: &str, more: &str) -> Home {
    let home = Home::new();
    let text = text.replace("DIR", &home.path().display().to_string());
    home.configure(&format!(
        "[deliver.out]\ncommand = [\"sh\", \"-c\", {}]\n{more}\n",
        json!(text)
    ));
    home
}

#[track_caller]
fn wait_for_file(file: &Path) -> String {
    eventually("a file", || fs::read_to_string(file).ok())
}

#[test]
fn a_command_gets_the_reply_and_the_facts() {
    let home = with_command("env > DIR/facts; cat > DIR/new; mv DIR/new DIR/reply", "");
    let gateway = home.start();
    let text = "hällo $(date) 'x'\n\u{1f980}";
    let id = gateway.api().deliver("wörk 1", text, "out");
    assert_eq!(wait_for_file(&home.path().join("reply")), text);
    gateway.api().until_delivery(&id, "delivered");
    let facts = fs::read_to_string(home.path().join("facts")).unwrap();
    let values: Vec<&str> = facts.lines().filter_map(|l| Some(l.split_once('=')?.1)).collect();
    for wanted in [id.as_str(), "wörk 1", "owner", "done", "out", "1"] {
        assert!(values.contains(&wanted), "{wanted}: {facts}");
    }
    assert!(!facts.contains(&home.api_key()) && !facts.contains("NOTIFY_SOCKET"), "{facts}");
}

#[test]
fn a_delivery_command_that_exits_75_or_is_killed_is_tried_again() {
    // A hundred and one: once more; three: never.
    let text = "read -r how; n=$(cat DIR/count-$how 2>/dev/null); n=${n}x; echo $n > DIR/count-$how; \
                case $how$n in 75x) exit 75;; killx) kill -KILL $$;; 3*) echo in words >&2; exit 3;; slowx) exec sleep 600;; esac";
    let home = with_command(text, "timeout = \"1s\"");
    let gateway = home.start();
    let api = gateway.api();
    let send = |text: &str| api.deliver(text, &format!("{text}\n"), "out");
    for text in ["75", "kill", "slow"] {
        let delivery = api.until_delivery(&send(text), "delivered");
        assert_eq!(delivery["attempts"], 2, "{text}: {delivery}");
    }
    let delivery = api.until_delivery(&send("3"), "dead");
    assert_eq!(delivery["attempts"], 1, "{delivery}");
    assert!(delivery["error"].as_str().unwrap().contains("in words"), "{delivery}");
}

#[test]
fn of_a_commands_traceback_a_client_gets_the_last_line_without_paths() {
    let text = "cat >/dev/null; printf 'Traceback:\\n  File \"/srv/op/send.py\", line 3\\n' >&2; \
                echo 'KeyError: /srv/op/token' >&2; exit 3";
    let home = with_command(text, "");
    let gateway = home.start();
    let delivery = gateway.api().until_delivery(&gateway.api().deliver("s", "x", "out"), "dead");
    assert_eq!(delivery["error"], "exit status 3: KeyError: token");
}

#[test]
fn a_command_that_is_not_there_may_come() {
    let home = Home::new();
    let file = home.path().join("command");
    home.configure(&format!("[deliver.out]\ncommand = [{:?}]\n", file.display().to_string()));
    let gateway = home.start();
    let id = gateway.api().deliver("s", "x", "out");
    gateway
        .api()
        .until(&id, "a failed try", |message| message["deliveries"][0]["error"].is_string());
    fs::write(home.path().join("new"), "#!/bin/sh\ncat >/dev/null\n").unwrap();
    fs::set_permissions(home.path().join("new"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(home.path().join("new"), &file).unwrap();
    gateway.api().until_delivery(&id, "delivered");
}
