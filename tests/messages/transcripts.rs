//! What an agent is handed of its message and of what was said before: environment and transcript.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::path::PathBuf;

use serde_json::{Value, json};

use util::api::{id_of, session_path};
use util::{Gate, Gateway, Home, script};

#[test]
fn an_agent_knows_what_it_works_on() {
    let home = Home::new();
    home.configure("[agent]\ncommand = [\"env\"]\n");
    let gateway = home.start();
    let body = json!({"text": "x", "attachments": ["file:a b", "https://example.org/\"x\""]});
    let id = id_of(&gateway.api().send_json("wörk/1", &body).assert_status(202).json());
    let reply = gateway.api().reply(&id);
    let value = |name: &str| {
        let values = reply.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        values.collect::<Vec<_>>().join("|")
    };
    assert_eq!(value("HERMES_SESSION"), "wörk/1");
    assert_eq!(value("HERMES_MESSAGE_ID"), id);
    assert_eq!(value("HERMES_ATTEMPT"), "1");
    assert_eq!(value("HERMES_PRINCIPAL"), "owner");
    let attachments: Value = serde_json::from_str(&value("HERMES_ATTACHMENTS")).unwrap();
    assert_eq!(attachments, body["attachments"]);
    let transcript = PathBuf::from(value("HERMES_TRANSCRIPT"));
    assert!(transcript.starts_with(home.state_dir()), "{transcript:?}");
    let name = transcript.file_name().unwrap().to_str().unwrap();
    assert!(name.is_ascii() && !name.contains("rk"), "made of the session's key: {name}");
    let body = json!({"text": "x"});
    let id = id_of(&gateway.api().post("/v1/messages", &body).assert_status(202).json());
    let reply = gateway.api().reply(&id);
    assert!(reply.contains("HERMES_TRANSCRIPT=/dev/null\n"), "{reply}");
    assert!(!reply.contains("HERMES_ATTACHMENTS"), "{reply}");
}

#[test]
fn an_agent_can_always_read_its_transcript() {
    let home = Home::new();
    home.configure(&script("cat \"$HERMES_TRANSCRIPT\" && echo read"));
    let gateway = home.start();
    assert_eq!(gateway.ask("x").reply().trim_end(), "read");
    let api = gateway.api();
    let first = api.accepted("s", "x");
    assert_eq!(api.reply(&first), "read");
    let body = json!({"text": "x"});
    let id = id_of(&api.post("/v1/messages", &body).assert_status(202).json());
    assert_eq!(api.reply(&id), "read");
}

/// What an agent finds in its transcript, a value a line.
fn transcript(reply: &str) -> Vec<Value> {
    reply.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn the_transcript_has_what_was_said() {
    let home = Home::new();
    let text = "read -r text; case $text in show) cat $HERMES_TRANSCRIPT;; *) printf 're %s\\n' \"$text\";; esac";
    home.configure(&script(text));
    let mut gateway = home.start();
    let mut ids = Vec::new();
    for text in ["one", "two \"zwei\" \u{1f980}"] {
        let id = gateway.api().accepted("s", &format!("{text}\n"));
        assert_eq!(gateway.api().reply(&id), format!("re {text}"));
        ids.push(id);
        gateway = gateway.reborn_after(libc::SIGKILL);
    }
    let id = gateway.api().accepted("s", "show\n");
    let lines = transcript(&gateway.api().reply(&id));
    let said: Vec<(&str, &str, &str)> = lines
        .iter()
        .map(|line| ["role", "content", "id"].map(|name| line[name].as_str().unwrap()))
        .map(|[role, content, id]| (role, content.trim_end(), id))
        .collect();
    let wanted = [
        ("user", "one", &ids[0]),
        ("assistant", "re one", &ids[0]),
        ("user", "two \"zwei\" \u{1f980}", &ids[1]),
        ("assistant", "re two \"zwei\" \u{1f980}", &ids[1]),
    ];
    let wanted = wanted.map(|(role, content, id)| (role, content, id.as_str()));
    // Whether it has the running turn's own message already is not said; its reply it has not.
    assert_eq!(said[..4], wanted, "{lines:#?}");
    assert!(said[4..].iter().all(|(role, content, _)| (*role, *content) == ("user", "show")));
    assert!(lines.iter().all(|line| !line["at"].is_null()), "{lines:?}");
    // Another session's is another one.
    let other = gateway.api().accepted("t", "show\n");
    assert!(!gateway.api().reply(&other).contains("one"));
}

#[test]
fn the_transcript_rolls_off_by_whole_turns() {
    let home = Home::new();
    let text = "read -r text; case $text in show) cat $HERMES_TRANSCRIPT;; *) printf 're %s\\n' \"$text\";; esac";
    home.configure(&format!("{}[limits]\nmax_transcript = \"4KiB\"\n", script(text)));
    let gateway = home.start();
    let mut last = String::new();
    for number in 0..20 {
        last = format!("{number:02} {}", "x".repeat(300));
        let id = gateway.api().accepted("s", &format!("{last}\n"));
        gateway.api().reply(&id);
        let session = gateway.api().get("/v1/sessions/s").assert_status(200).json();
        let bytes = session["transcript_bytes"].as_u64().unwrap();
        assert!(bytes > 0 && bytes <= 4096, "{session}");
    }
    let id = gateway.api().accepted("s", "show\n");
    let reply = gateway.api().reply(&id);
    let lines = transcript(&reply);
    let said: Vec<(&str, &str)> = lines
        .iter()
        .map(|line| (line["role"].as_str().unwrap(), line["content"].as_str().unwrap().trim_end()))
        .filter(|(_, content)| *content != "show")
        .collect();
    assert!(said.len() >= 4 && said.len() < 20, "{}", said.len());
    for turn in said.chunks(2) {
        assert_eq!((turn[0].0, turn[1].0), ("user", "assistant"));
        assert_eq!(turn[1].1, format!("re {}", turn[0].1));
    }
    assert_eq!(said[said.len() - 2].1, last);
}

#[test]
fn any_text_survives_the_journal() {
    let gateway = Gateway::start();
    let texts = [
        "a\nb\r\nc\n",
        "\u{0}\u{1}\u{7f}\u{2028}\u{feff}",
        "\"\\\"{}[]",
        " \u{1f980}\u{10ffff} ",
        &"x".repeat(900_000),
    ];
    let api = gateway.api();
    let ids = texts.map(|text| api.accepted("s", text));
    ids.iter().for_each(|id| drop(api.finished(id)));
    let gateway = gateway.reborn_after(libc::SIGKILL);
    for (id, text) in ids.iter().zip(texts) {
        assert!(gateway.api().reply(id) == text, "{}", text.chars().take(9).collect::<String>());
    }
    gateway.home().run(&["journal", "check"]).assert_code(0);
}

#[test]
fn who_goes_away_does_not_take_the_message_along() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home.start();
    let api = gateway.api();
    let target = format!("{}/messages?wait=60", session_path("s"));
    let waiting = api.begin("POST", &target, &[], &json!({"text": "x"}).to_string());
    let fields = [("X-Hermes-Session-Id", "t")];
    let body = util::http::chat("x", false);
    let chat = api.begin("POST", "/v1/chat/completions", &fields, &body);
    gateway.wait_for_turns(2);
    drop((waiting, chat));
    gate.open();
    for session in ["s", "t"] {
        let session = api.get(&session_path(session)).assert_status(200).json();
        let id = session["messages"][0]["id"].as_str().unwrap();
        assert_eq!(api.reply(id), "begun\nx");
    }
}

#[test]
fn a_turn_without_record_still_works() {
    let gateway = Gateway::start();
    assert_eq!(gateway.ask("hello").reply(), "hello");
    let sessions = gateway.api().get("/v1/sessions").assert_status(200).json();
    assert_eq!(sessions["sessions"], json!([]));
}
