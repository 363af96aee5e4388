//! Temporary failures are waited out: an agent or upstream that is away, busy or broken costs no
//! accepted message, over kills of the gateway too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use util::api::{code_of, id_of};
use util::{Gateway, Home, Outage, Target, Upstream, eventually, pause, script};

/// A gateway in front of an upstream that is away.
fn without(outage: &Outage, more: &str) -> Gateway {
    let home = Home::new();
    home.configure(&outage.config(more));
    home.start()
}

/// Whatever the gateway says itself fits 80 columns; the error of a system or upstream has its own line.
#[track_caller]
fn fits(words: &str) {
    for line in words.lines().filter(|line| !line.contains("the upstream does not answer")) {
        assert!(line.len() <= 80, "{line}");
    }
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A gateway whose agent is this shell script; NOTES is a file.
fn with_agent(text: &str, more: &str) -> (Gateway, PathBuf) {
    let home = Home::new();
    let notes = home.path().join("notes");
    let text = text.replace("NOTES", &notes.display().to_string());
    home.configure(&format!("{}{more}", script(&text)));
    (home.start(), notes)
}

/// Waits until a message waits for its next attempt, after so many.
#[track_caller]
fn until_waiting(gateway: &Gateway, id: &str, attempts: u64) -> Value {
    gateway.api().until(id, "a wait", |message| {
        message["waiting"].is_object() && message["attempts"].as_u64() >= Some(attempts)
    })
}

// ------------------------------------------------------------- what is waited out ----

#[test]
fn a_message_waits_for_an_upstream_that_is_away_and_everybody_is_told() {
    let mut outage = Outage::begun();
    let gateway = without(&outage, "");
    let (api, home) = (gateway.api(), gateway.home().clone());
    let id = api.accepted("s", "x");
    // More often than max_attempts allows crashes.
    let message = until_waiting(&gateway, &id, 3);
    assert_eq!(message["status"], "queued");
    let waiting = &message["waiting"];
    assert!(waiting["reason"].as_str().unwrap().contains("refused"), "{message}");
    let time = |name: &str| waiting[name].as_str().unwrap().to_owned();
    assert!(time("next_attempt_at") < time("gives_up_at"), "{message}");
    // An hour after the first failure, which was a moment after this.
    let seconds = |time: &str| {
        let part = |at: usize| time[at..at + 2].parse::<i32>().unwrap();
        part(11) * 3600 + part(14) * 60 + part(17)
    };
    let (accepted, until) = (message["created_at"].as_str().unwrap(), time("gives_up_at"));
    let hour = (seconds(&until) - seconds(accepted)).rem_euclid(86_400);
    assert!((3599..3630).contains(&hour), "{message}");
    // What is said of it may fall between two attempts' ends.
    let status = eventually("the wait in the status", || {
        let status = api.get("/v1/status").assert_status(200).json();
        status["waiting"].is_object().then_some(status)
    });
    assert_eq!(status["waiting"]["turns"], 1, "{status}");
    api.get("/ready").assert_status(200);
    eventually("the wait in words", || {
        let words = home.run(&["status"]).assert_code(0).stdout;
        let told = words.contains("1 turn waits for the agent; next attempt in ")
            && words.contains("gives up at ")
            && words.contains("last error: the upstream does not answer");
        told.then(|| fits(&words))
    });
    eventually("the wait for programs", || {
        let json: Value =
            serde_json::from_str(&home.run(&["status", "--json"]).stdout).expect("JSON");
        (json["waiting"]["turns"] == 1).then_some(())
    });
    eventually("the wait in the journal", || {
        let words = home.run(&["journal"]).assert_code(0).stdout;
        let told = words.contains("waits, attempt ");
        (told && words.contains("refused")).then(|| fits(&words))
    });
    outage.end();
    assert_eq!(api.reply(&id), "re x");
    assert_eq!(outage.heard(), ["x"]);
    assert!(api.get("/v1/status").json()["waiting"].is_null());
}

#[test]
fn a_retry_after_is_kept_to_also_over_a_kill() {
    let upstream = Upstream::start();
    let home = Home::new();
    home.configure(&upstream.config(""));
    for kill in [false, true] {
        let mut gateway = home.start();
        let id = gateway.api().accepted("s", "x");
        let mut line = upstream.accept();
        line.request();
        line.answer(429, "Retry-After: 4\r\nConnection: close\r\n", r#"{"error":"slow"}"#);
        let told = Instant::now();
        drop(line);
        let message = until_waiting(&gateway, &id, 1);
        assert!(message["waiting"]["reason"].as_str().unwrap().contains("429"), "{message}");
        if kill {
            gateway = gateway.reborn_after(libc::SIGKILL);
        }
        let mut line = upstream.accept();
        line.request();
        assert!(told.elapsed() >= Duration::from_millis(3900), "{kill}: {:?}", told.elapsed());
        line.reply("y");
        assert_eq!(gateway.api().reply(&id), "y");
        gateway.end(libc::SIGKILL);
    }
    upstream.assert_alone();
}

#[test]
fn an_agent_that_exits_75_or_is_missing_is_tried_until_it_is_well() {
    let (gateway, notes) =
        with_agent("echo $HERMES_ATTEMPT >> NOTES; [ -e NOTES.well ] || exit 75; cat", "");
    let id = gateway.api().accepted("s", "x");
    until_waiting(&gateway, &id, 3);
    fs::write(notes.with_extension("well"), "").unwrap();
    assert_eq!(gateway.api().reply(&id), "x");
    assert!(lines(&notes).starts_with(&["1", "2", "3"].map(str::to_owned)), "{:?}", lines(&notes));

    let home = Home::new();
    let program = home.path().join("agent");
    home.configure(&format!("[agent]\ncommand = [{:?}]\n", program.display().to_string()));
    let gateway = home.start();
    let id = gateway.api().accepted("s", "x");
    until_waiting(&gateway, &id, 3);
    fs::copy("/bin/cat", &program).unwrap();
    assert_eq!(gateway.api().reply(&id), "x");
}

#[test]
fn five_messages_outlive_a_gateway_and_an_upstream_that_comes_back_later() {
    let mut outage = Outage::begun();
    let gateway = without(&outage, "");
    let texts = ["m0", "m1", "m2", "m3", "m4"];
    let ids = texts.map(|text| gateway.api().accepted("s", text));
    let gateway = gateway.reborn_after(libc::SIGKILL);
    until_waiting(&gateway, &ids[0], 4);
    outage.end();
    for (id, text) in ids.iter().zip(texts) {
        assert_eq!(gateway.api().reply(id), format!("re {text}"));
    }
    assert_eq!(outage.heard(), texts);
}

/// Ten minutes at a sixtieth: ten seconds of outage within a patience of one minute.
#[test]
fn fifty_sessions_outlive_an_outage_with_five_kills() {
    let mut outage = Outage::begun();
    let began = Instant::now();
    let mut gateway = without(&outage, "retry_for = \"60s\"");
    let texts = |session: usize| [0, 1].map(|n| format!("{session}-{n}"));
    let send = |(session, text)| gateway.api().accepted(&format!("s{session}"), text);
    let all: Vec<(usize, String)> =
        (0..50).flat_map(|session| texts(session).map(|text| (session, text))).collect();
    let ids: Vec<String> = all.iter().map(|(session, text)| send((*session, text))).collect();
    for minutes in [2, 4, 6, 8, 9] {
        pause(Duration::from_secs(minutes).saturating_sub(began.elapsed()));
        gateway = gateway.reborn_after(libc::SIGKILL);
    }
    pause(Duration::from_secs(10).saturating_sub(began.elapsed()));
    assert!(outage.heard().is_empty());
    outage.end();
    for ((_, text), id) in all.iter().zip(&ids) {
        assert_eq!(gateway.api().reply(id), format!("re {text}"));
    }
    let heard = outage.heard();
    assert_eq!(heard.len(), 100, "each was answered once: {heard:?}");
    for session in 0..50 {
        let mine: Vec<&String> =
            heard.iter().filter(|text| text.starts_with(&format!("{session}-"))).collect();
        assert_eq!(mine, texts(session).iter().collect::<Vec<_>>(), "in order");
    }
}

#[test]
fn the_last_attempt_comes_when_the_patience_is_over() {
    let (gateway, notes) = with_agent(
        "date +%s.%N >> NOTES; exit 75",
        "retry_for = \"2s\"\n[limits]\nmax_attempts = 1\n",
    );
    let message = gateway.api().finished(&gateway.api().accepted("s", "x"));
    assert_eq!(message["status"], "failed", "{message}");
    let error = message["error"].as_str().unwrap();
    assert!(error.contains("exit status 75") && error.contains("agent.retry_for"), "{error}");
    let times: Vec<f64> = lines(&notes).iter().map(|line| line.parse().unwrap()).collect();
    let took = times[times.len() - 1] - times[0];
    assert!(times.len() >= 3 && took >= 1.95, "{times:?}");
    let (gateway, notes) = with_agent("echo x >> NOTES; exit 75", "retry_for = \"0s\"\n");
    let message = gateway.api().finished(&gateway.api().accepted("s", "x"));
    assert_eq!((&message["status"], lines(&notes).len()), (&"failed".into(), 1), "{message}");
}

#[test]
fn a_message_behind_an_outage_has_a_patience_of_its_own() {
    let (gateway, _) = with_agent("exit 75", "retry_for = \"1s\"\n");
    let ids = ["a", "b"].map(|text| gateway.api().accepted("s", text));
    for id in ids {
        let message = gateway.api().finished(&id);
        assert!(message["attempts"].as_u64() >= Some(2), "it failed at once: {message}");
    }
}

#[test]
fn a_turn_that_waits_keeps_no_place_from_others() {
    let text = "text=$(cat); [ $text != away ] || exit 75; echo $text";
    let (gateway, _) = with_agent(text, "[limits]\nmax_turns = 1\n");
    let id = gateway.api().accepted("a", "away");
    until_waiting(&gateway, &id, 2);
    let other = gateway.api().accepted("b", "other");
    assert_eq!(gateway.api().reply(&other), "other");
}

#[test]
fn cancelling_stop_and_interrupt_end_a_wait() {
    let text = "text=$(cat); [ $text != away ] || exit 75; echo $text";
    let (gateway, _) = with_agent(text, "");
    let api = gateway.api();
    let ids = ["a", "b", "c"].map(|session| api.accepted(session, "away"));
    ids.iter().for_each(|id| drop(until_waiting(&gateway, id, 1)));
    let next = api.accepted("a", "next");
    let message = api.delete(&format!("/v1/messages/{}", ids[0])).assert_status(200).json();
    assert_eq!((&message["status"], &message["waiting"]), (&"cancelled".into(), &Value::Null));
    assert_eq!(api.reply(&next), "next");
    let told = api.send("b", "/stop").assert_status(200).json();
    assert!(told["reply"].as_str().unwrap().contains(&ids[1]), "{told}");
    assert_eq!(api.finished(&ids[1])["error"], "/stop");
    let now = json!({ "text": "now", "mode": "interrupt" });
    let taken = api.send_json("c", &now).assert_status(202).json();
    assert_eq!(taken["interrupted"], *ids[2], "{taken}");
    assert_eq!(api.reply(&id_of(&taken)), "now");
    assert_eq!(api.finished(&ids[2])["status"], "cancelled");
}

// ------------------------------------------------------------------ failed turns ----

#[test]
fn failed_turns_are_listed_and_run_again_over_restarts() {
    let mut outage = Outage::begun();
    let target = Target::start();
    let home = Home::new();
    home.configure(&(outage.config("retry_for = \"10ms\"") + &target.config("out", "")));
    let gateway = home.start();
    let first = gateway.api().deliver("s", "first", "out");
    assert_eq!(gateway.api().finished(&first)["status"], "failed");
    assert_eq!(target.wait_for(1)[0].json()["type"], "message.failed");
    gateway.api().until_delivery(&first, "delivered");
    outage.end();
    let second = gateway.api().accepted("s", "second");
    assert_eq!(gateway.api().reply(&second), "re second");
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let listed = gateway.api().get("/v1/messages?status=failed").assert_status(200).json();
    assert_eq!(listed["messages"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed["messages"][0]["id"], *first);
    let failed = gateway.api().get("/v1/messages?status=broken");
    assert_eq!(code_of(failed, 400), "bad_request");
    let words = home.run(&["journal"]).assert_code(0).stdout;
    assert!(words.contains(&first) && words.contains("refused"), "{words}");
    home.run(&["journal", "retry", &first]).assert_code(0);
    assert_eq!(gateway.api().reply(&first), "re first");
    assert_eq!(target.wait_for(2)[1].json()["data"]["reply"], "re first");
    home.run(&["journal", "retry", &second]).assert_code(1);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    assert_eq!(gateway.api().message(&first)["status"], "done");
    assert_eq!(outage.heard(), ["second", "first"]);
    // And what is said in a session stands in the order of acceptance.
    let last = gateway.api().accepted("s", "last");
    assert_eq!(gateway.api().reply(&last), "re last");
    let transcripts = home.state_dir().join("sessions");
    let files = fs::read_dir(transcripts).unwrap().map(|file| file.unwrap().path());
    let said: Vec<String> = files
        .filter(|file| file.extension().is_some_and(|end| end == "jsonl"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let places = ["first", "second", "last"].map(|text| said[0].find(&format!("\"re {text}\"")));
    assert!(places.is_sorted() && places[0].is_some(), "{said:?}");
    assert_eq!(said[0].lines().count(), 6, "{said:?}");
}

#[test]
fn all_failed_turns_run_again_in_their_order() {
    let mut outage = Outage::begun();
    let gateway = without(&outage, "retry_for = \"0s\"");
    let ids = ["1", "2", "3"].map(|text| gateway.api().accepted("s", text));
    ids.iter().for_each(|id| assert_eq!(gateway.api().finished(id)["status"], "failed"));
    outage.end();
    let words = gateway.home().run(&["journal", "retry", "--all"]).assert_code(0).stdout;
    assert!(words.contains("turns that run again: 3"), "{words}");
    ids.iter().for_each(|id| drop(gateway.api().reply(id)));
    assert_eq!(outage.heard(), ["1", "2", "3"]);
    gateway.home().run(&["journal", "retry", &ids[0]]).assert_code(1);
}
