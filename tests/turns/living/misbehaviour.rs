//! What agents must not do, and do: nothing hangs, the log names it, and the next turn works.

use std::fs;
use std::time::Instant;

use serde_json::json;

use super::{agent, alive, home, lives, log, noted, say, started, until_ended};
use crate::util::principals::memory;
use crate::util::{DEADLINE, Home, eventually, pause, rounds};

/// Prompts after which the same process goes on, with what their replies are.
#[test]
fn what_an_agent_says_beside_the_protocol_is_passed_over() {
    let home = home("", "");
    let gateway = home.start();
    say(&gateway, "s", "remember 7");
    for (text, reply, words) in [
        ("twice", "once", ""),
        ("late", "in time", ""),
        ("stranger", "own", ""),
        ("not-utf8", "utf8", "not UTF-8"),
        ("not-json", "json", "no JSON"),
        ("flood", "flooded", "line 0 "),
        ("call fs/read_text_file", "-32601", ""),
        ("call terminal/create", "-32601", ""),
        ("call something/new", "-32601", ""),
    ] {
        assert_eq!(say(&gateway, "s", text), reply, "{text}");
        // Nothing of it is in a later reply, of this session or another.
        assert_eq!(say(&gateway, "s", "what number"), "7", "{text}");
        assert_eq!(say(&gateway, "other", "on"), "on", "{text}");
        if !words.is_empty() {
            gateway.wait_for_log(words, DEADLINE);
        }
    }
    assert_eq!(started(&home).len(), 1);
    // 4 MB of stderr are no 4 MB of log.
    assert!(gateway.stderr().len() < 400_000, "{}", gateway.stderr().len());
}

/// Prompts after which the process is over, and what the message says then.
#[test]
fn an_agent_that_breaks_in_the_middle_of_a_turn_is_replaced() {
    let long = format!("long {}", rounds(20_000_000, 100_000_000));
    for (text, words) in [
        ("crash", "signal 9"),
        ("exit 0", "exit status 0"),
        ("exit 75", "exit status 75"),
        ("close", "closed its standard output"),
        (&long, "limits.max_agent_line"),
        ("endless", "limits.max_agent_line"),
    ] {
        let home = home("", "[limits]\nmax_attempts = 1\n");
        let gateway = home.start();
        say(&gateway, "s", "remember 7");
        let api = gateway.api();
        let message = api.finished(&api.accepted("s", text));
        assert_eq!(message["status"], "failed", "{text}: {message}");
        gateway.wait_for_log(words, DEADLINE);
        until_ended(started(&home)[0]);
        assert_eq!(say(&gateway, "s", "what number"), "7", "{text}");
        assert_eq!(started(&home).len(), 2, "{text}");
        assert_eq!(alive(&home), 1, "{text}");
    }
}

#[test]
fn a_turn_that_a_crash_cut_short_runs_again_with_what_was_known() {
    let home = home("", "");
    let gateway = home.start();
    say(&gateway, "s", "remember 7");
    let id = gateway.api().accepted("s", "crash-once");
    assert_eq!(gateway.api().reply(&id), "second");
    assert_eq!(gateway.api().message(&id)["attempts"], 2);
    assert_eq!(say(&gateway, "s", "what number"), "7");
    assert_eq!(started(&home).len(), 2);
}

#[test]
fn an_agent_that_hangs_is_ended_at_the_turns_end() {
    let home = home("", "turn_timeout = \"5s\"\n");
    let gateway = home.start();
    say(&gateway, "s", "remember 7");
    let api = gateway.api();
    let message = api.finished(&api.accepted("s", "hang"));
    assert!(message["error"].as_str().unwrap().contains("turn_timeout"), "{message}");
    until_ended(started(&home)[0]);
    assert_eq!(say(&gateway, "s", "what number"), "7");
}

/// The child holds the agent's output, and is in a session of its own.
#[test]
fn what_an_agent_leaves_ends_with_it() {
    for modes in ["", "stays", "no-term"] {
        let home = home(modes, "");
        let gateway = home.start();
        let child: i32 = say(&gateway, "s", "fork").parse().unwrap();
        assert!(lives(child));
        let (began, pid) = (Instant::now(), started(&home)[0]);
        gateway.end(libc::SIGTERM);
        assert!(!lives(pid) && !lives(child), "{modes}");
        assert!(began.elapsed() < DEADLINE, "{modes}: {:?}", began.elapsed());
        let told = log(&home).iter().any(|it| it["did"] == "end of input");
        assert!(told, "{modes}: it was not let end by itself");
    }
}

#[test]
fn an_agent_that_does_not_start_is_named() {
    for (modes, words) in [
        ("die", "a reason to die"),
        ("version-2", "version"),
        ("no-session", "Authentication required"),
    ] {
        let home = home(modes, "");
        let gateway = home.start();
        let answer = gateway.ask("x");
        assert!(answer.status() == 502 || answer.status() == 503, "{modes}: {answer:?}");
        let status = answer.status();
        let told = answer.error(status);
        assert!(told.contains(words), "{modes}: {told}");
        // It is noticed when it is better.
        let better = home.clone();
        better.configure(&agent(&home, ""));
        gateway.signal(libc::SIGHUP);
        eventually("an answer", || (gateway.ask("x").status() == 200).then_some(()));
    }
}

#[test]
fn an_agent_that_is_silent_costs_a_turn_its_time_and_no_more() {
    let home = home("silent", "turn_timeout = \"1s\"\n");
    let gateway = home.start();
    gateway.ask("x").error(504);
    gateway.wait_for_turns(0);
    gateway.end(libc::SIGTERM);
    assert!(!lives(started(&home)[0]));
}

#[test]
fn an_agent_that_chats_before_it_speaks_the_protocol_is_heard() {
    let home = home("no-json,flood", "");
    let gateway = home.start();
    assert_eq!(gateway.ask("x").reply(), "x");
    gateway.wait_for_log("Welcome to the agent!", DEADLINE);
}

#[test]
fn three_deaths_at_the_start_are_shown_until_one_lives() {
    let home = home("die", "");
    let gateway = home.start();
    let api = gateway.api();
    let id = api.accepted("s", "x");
    eventually("/ready that is degraded", || {
        let ready = gateway.connect().get("/ready", &[]).text();
        ready.contains("degraded").then_some(())
    });
    let status = gateway.status();
    assert!(status.to_string().contains("a reason to die"), "{status}");
    Home::configure(&home, &agent(&home, ""));
    gateway.signal(libc::SIGHUP);
    // The message waited for that.
    assert_eq!(api.reply(&id), "x");
    eventually("/ready", || {
        let ready = gateway.connect().get("/ready", &[]).text();
        (!ready.contains("degraded")).then_some(())
    });
    assert_eq!(api.message(&id)["status"], json!("done"));
}

#[test]
fn it_is_shown_until_the_agent_has_started() {
    let home = home("recovers", "");
    let gateway = home.start();
    let api = gateway.api();
    let is_degraded = || gateway.connect().get("/ready", &[]).text().contains("degraded");
    let id = api.accepted("s", "x");
    eventually("/ready that is degraded", || is_degraded().then_some(()));
    fs::write(home.path().join("better"), "").unwrap();
    noted(&home, "another start", |entry| entry["did"] == "starts slowly");
    assert!(is_degraded());
    fs::write(home.path().join("go"), "").unwrap();
    assert_eq!(api.reply(&id), "x");
    assert!(!is_degraded());
}

/// What it is answered waits for it, up to a limit.
#[test]
fn an_agent_that_asks_without_end_and_reads_nothing_is_ended() {
    for method in ["fs/read_text_file", "session/request_permission"] {
        let home = home("", "[limits]\nmax_attempts = 1\n");
        let gateway = home.start();
        let api = gateway.api();
        let id = api.accepted("s", &format!("demand {method}"));
        let mut most = 0;
        let message = eventually("the end of the turn", || {
            most = most.max(memory(&gateway, "RssAnon:"));
            Some(api.message(&id)).filter(|message| message["status"] == "failed")
        });
        let words = "does not read what it is answered";
        assert!(message["error"].as_str().unwrap().contains(words), "{method}: {message}");
        until_ended(started(&home)[0]);
        most = most.max(memory(&gateway, "RssAnon:"));
        assert!(most < 60_000, "{method}: {most} kB");
        assert_eq!(say(&gateway, "s", "on"), "on");
    }
}

#[test]
fn a_reader_that_is_slow_is_no_reason_to_lose_anything() {
    let home = home("", "");
    let gateway = home.start();
    // The client takes nothing, until the agent has said all.
    let mut chat = gateway.begin("many 5000", true);
    noted(&home, "the prompt", |entry| entry["got"]["method"] == "session/prompt");
    pause(std::time::Duration::from_millis(300));
    let mut text = String::new();
    assert_eq!(chat.head().status, 200);
    while let Some(chunk) = chat.chunk() {
        text += &String::from_utf8(chunk).unwrap();
    }
    assert!(text.contains("4999 ") && text.ends_with("data: [DONE]\n\n"), "{}", text.len());
    assert!(fs::metadata(home.path().join("log")).unwrap().len() > 0);
}
