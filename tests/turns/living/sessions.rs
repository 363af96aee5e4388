//! Which session of the agent's a session has, and how it comes back.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{agent, assert_no_violation, command, got, home, log, say, started, until_got};
use crate::util::api::session_path;
use crate::util::{DEADLINE, Gateway, Home, eventually};

/// What number the agent remembers, and how its session came to be there, by the session's events: they
/// are live, so the turn ends when they were seen.
#[track_caller]
fn recall(gateway: &Gateway, session: &str) -> (String, String) {
    let mut events = gateway.api().events(session, None);
    let id = gateway.api().accepted(session, "gated what number");
    let how = loop {
        let event = events.next_event().expect("an event of the agent's session");
        if event.kind == "agent_session" && event.data["how"].is_string() {
            break event.data["how"].as_str().unwrap().to_owned();
        }
    };
    fs::write(gateway.home().path().join("go"), "").unwrap();
    (gateway.api().reply(&id), how)
}

#[track_caller]
fn reset(gateway: &Gateway, session: &str) {
    let status = gateway.api().delete(&session_path(session)).status();
    assert!(status == 200 || status == 204, "{status}");
}

#[test]
fn a_living_agent_remembers_and_is_started_once() {
    let home = home("", "");
    let gateway = home.start();
    assert_eq!(say(&gateway, "s", "remember 7"), "remember 7");
    assert_eq!(say(&gateway, "other", "what number"), "none");
    assert_eq!(say(&gateway, "s", "what number"), "7");
    assert_eq!(say(&gateway, "s", "history"), "2");
    assert_eq!(started(&home).len(), 1);
    assert_eq!(got(&home, "session/new").len(), 2);
    assert_no_violation(&home);
}

/// By what the agent announces, and whether that is true; with a replay that comes late, and one that never
/// comes.
#[test]
fn a_session_comes_back_after_the_end_of_gateway_and_agent() {
    let signals = [libc::SIGTERM, libc::SIGKILL].into_iter().cycle();
    let cases = [
        ("", "loaded"),
        ("list", "loaded"),
        ("replay-after", "loaded"),
        ("resume", "loaded"),
        ("resume,no-load", "restored"),
        ("resume,list", "resumed"),
        ("no-resume", "loaded"),
        ("no-resume,replay-after,list", "loaded"),
        ("no-load", "restored"),
    ];
    for ((modes, expected), signal) in cases.into_iter().zip(signals) {
        let home = home(modes, "");
        let gateway = home.start();
        assert_eq!(say(&gateway, "s", "remember 7"), "remember 7");
        let gateway = gateway.reborn_after(signal);
        // Exactly: nothing of the replay is in the reply.
        assert_eq!(recall(&gateway, "s"), ("7".into(), expected.into()), "{modes}");
        assert_eq!(say(&gateway, "s", "what number"), "7", "{modes}");
        assert_no_violation(&home);
    }
}

/// Said in an error, or not at all.
#[test]
fn a_session_that_the_agent_has_lost_begins_anew_with_the_transcript() {
    for modes in ["", "empty-load", "empty-load,list", "empty-load,resume,list", "resume"] {
        let home = home(modes, "");
        let gateway = home.start();
        say(&gateway, "s", "remember 7");
        let gateway = gateway.reborn_after(libc::SIGTERM);
        fs::remove_dir_all(home.path().join("sessions")).unwrap();
        assert_eq!(recall(&gateway, "s"), ("7".into(), "restored".into()), "{modes}");
        // And the new one is the session's.
        assert_eq!(say(&gateway, "s", "history"), "1", "{modes}");
        assert_eq!(got(&home, "session/new").len(), 2, "{modes}");
    }
}

#[test]
fn another_command_gets_a_session_of_its_own() {
    let home = home("", "");
    let gateway = home.start();
    say(&gateway, "s", "remember 7");
    let dir = gateway.end(libc::SIGTERM);
    dir.configure(&agent(&home, "list"));
    let gateway = dir.start();
    assert_eq!(say(&gateway, "s", "what number"), "7");
    assert_eq!(got(&home, "session/new").len(), 2);
    assert_eq!(got(&home, "session/load").len(), 0);
}

#[test]
fn a_reset_begins_a_new_session_of_the_agents() {
    let home = home("", "");
    let gateway = home.start();
    for session in ["a", "b"] {
        say(&gateway, session, "remember 7");
        if session == "a" {
            reset(&gateway, session);
        } else {
            command(&gateway.api(), session, "/new");
        }
        assert_eq!(say(&gateway, session, "what number"), "none");
        assert_eq!(say(&gateway, session, "history"), "1");
    }
    let gateway = gateway.reborn_after(libc::SIGKILL);
    assert_eq!(say(&gateway, "a", "what number"), "none");
}

#[test]
fn a_request_without_a_session_has_one_of_its_own_which_is_closed() {
    let home = home("close", "");
    let gateway = home.start();
    assert_eq!(gateway.ask("remember 7").reply(), "remember 7");
    assert_eq!(gateway.ask("what number").reply(), "none");
    let first = until_got(&home, "session/close", 1)["got"]["params"]["sessionId"].clone();
    let second = until_got(&home, "session/close", 2)["got"]["params"]["sessionId"].clone();
    let prompts = got(&home, "session/prompt");
    let prompted = prompts.iter().map(|it| &it["got"]["params"]["sessionId"]);
    assert_eq!(prompted.collect::<Vec<_>>(), [&first, &second]);
}

#[test]
fn the_agent_is_told_whose_message_it_is() {
    let home = home("", "");
    let gateway = home.start();
    let id = gateway.api().accepted("s", "meta");
    let meta: Value = serde_json::from_str(&gateway.api().reply(&id)).unwrap();
    let meta = &meta["hermes"];
    assert_eq!((&meta["messageId"], &meta["principal"]), (&id.into(), &"owner".into()), "{meta}");
    assert_eq!((&meta["session"], &meta["attempt"]), (&"s".into(), &1.into()), "{meta}");
}

/// Where a session works; it must be there.
#[track_caller]
fn directory(gateway: &Gateway, session: &str) -> String {
    let directory = say(gateway, session, "cwd");
    assert!(Path::new(&directory).is_absolute() && Path::new(&directory).is_dir(), "{directory}");
    directory
}

#[test]
fn each_session_has_a_directory_which_goes_with_it_when_it_is_empty() {
    let home = home("", "");
    let gateway = home.start();
    let (empty, full) = (directory(&gateway, "a"), directory(&gateway, "b"));
    assert_ne!(empty, full);
    assert_eq!(directory(&gateway, "a"), empty);
    let file = Path::new(&full).join("file");
    fs::write(&file, "work").unwrap();
    reset(&gateway, "a");
    reset(&gateway, "b");
    eventually("the end of an empty one", || (!Path::new(&empty).exists()).then_some(()));
    assert!(file.exists());
    // That of a request without a session serves the next one, and goes with the process.
    let alone = gateway.ask("cwd").reply();
    assert_ne!(alone, empty);
    assert_eq!(gateway.ask("cwd").reply(), alone);
    gateway.signal(libc::SIGINT);
    gateway.into_process().finish(DEADLINE).assert_code(0);
    assert!(!Path::new(&alone).exists() && file.exists());
}

#[test]
fn all_sessions_work_where_the_configuration_says() {
    let home = Home::new();
    let work = home.path().join("work");
    fs::create_dir(&work).unwrap();
    home.configure(&format!("{}directory = {work:?}\n", agent(&home, "")));
    let gateway = home.start();
    assert_eq!(directory(&gateway, "a"), work.to_str().unwrap());
    assert_eq!(directory(&gateway, "b"), work.to_str().unwrap());
    reset(&gateway, "a");
    assert_eq!(gateway.ask("cwd").reply(), work.to_str().unwrap());
    assert!(work.is_dir());
}

#[test]
fn eight_sessions_run_at_once_in_one_process() {
    let home = home("", "[limits]\nmax_turns = 8\n");
    let gateway = home.start();
    let api = gateway.api();
    let waiting: Vec<String> = (0..8).map(|at| api.accepted(&format!("s{at}"), "wait")).collect();
    until_got(&home, "session/prompt", 8);
    assert_eq!(started(&home).len(), 1);
    let prompts = log(&home).iter().filter(|it| it["got"]["method"] == "session/prompt").count();
    assert_eq!(prompts, 8);
    for id in &waiting {
        api.delete(&format!("/v1/messages/{id}")).assert_status(200);
    }
    until_got(&home, "session/cancel", 8);
    for at in 0..8 {
        assert_eq!(say(&gateway, &format!("s{at}"), "history"), "1");
    }
    assert_no_violation(&home);
}
