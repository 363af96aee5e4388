//! Deliveries from end to end: signed, tried again, in order, put aside, and after a kill the same
//! under the same id.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use util::api::{code_of, id_of};
use util::{Answer, DEADLINE, Gate, Gateway, Home, Received, Target, eventually, script};

/// Base64 of 24 bytes, as Standard Webhooks has secrets.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The reply that a delivery carries.
#[track_caller]
fn reply(received: &Received) -> String {
    let body = received.json();
    body["data"]["reply"].as_str().unwrap_or_else(|| panic!("no reply: {body}")).to_owned()
}

#[track_caller]
fn secret_file(home: &Home) -> PathBuf {
    let file = home.path().join("secret");
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// A gateway with this target, under the name "out".
#[track_caller]
fn gateway_with(target: &Target, more: &str) -> Gateway {
    let home = Home::new();
    home.configure(&target.config("out", more));
    home.start()
}

/// The time between each of these and the one before it.
fn gaps(received: &[Received]) -> Vec<Duration> {
    received.windows(2).map(|pair| pair[1].at - pair[0].at).collect()
}

// ------------------------------------------------------------------- callbacks ----

#[test]
fn a_reply_is_posted_and_signed() {
    let target = Target::start();
    let home = Home::new();
    let more = format!("secret_file = \"{}\"", secret_file(&home).display());
    home.configure(&target.config("out", &more));
    let gateway = home.start();
    let text = "hällo\n\"world\" \u{1f980}";
    let id = gateway.api().deliver("wörk", text, "out");
    let received = &target.wait_for(1)[0];
    assert_eq!(received.target, "/hook");
    assert!(received.field("content-type").starts_with("application/json"), "{received:?}");
    assert!(!received.field("webhook-id").is_empty());
    received.assert_signed(SECRET);
    assert_eq!(reply(received), text);
    let body = received.json();
    let data = &body["data"];
    assert_eq!((&data["id"], &data["session"]), (&id.clone().into(), &"wörk".into()), "{body}");
    assert_eq!((&body["type"], &data["status"]), (&"message.done".into(), &"done".into()));
    assert_eq!((received.field("webhook-attempt"), &data["error"]), ("1", &Value::Null));
    // Nothing of ours goes along.
    let said = format!("{received:?}");
    assert!(!said.contains(&home.api_key()) && !said.contains(SECRET), "{said}");
    let delivery = gateway.api().until_delivery(&id, "delivered");
    let wanted = json!({"target": "out", "status": "delivered", "attempts": 1, "error": null});
    assert_eq!(delivery, wanted);
}

#[test]
fn a_message_without_a_target_goes_nowhere() {
    let target = Target::start();
    let gateway = gateway_with(&target, "");
    let alone = gateway.api().accepted("s", "alone");
    gateway.api().reply(&alone);
    let id = gateway.api().deliver("s", "sent", "out");
    gateway.api().until_delivery(&id, "delivered");
    assert_eq!(target.received().len(), 1);
    assert_eq!(gateway.api().message(&alone)["deliveries"], json!([]));
}

#[test]
fn a_reply_that_is_delivered_is_streamed_to_nobody_else() {
    let home = Home::new();
    let (gate, target) = (Gate::closed(home.path()), Target::start());
    home.configure(&format!("{}{}", gate.agent(), target.config("out", "")));
    let gateway = home.start();
    let id = gateway.api().deliver("s", "x", "out");
    gateway.api().until(&id, "the turn", |message| message["status"] == "running");
    // Nothing goes out before the whole reply is there.
    let message = gateway.api().message(&id);
    let delivery = &message["deliveries"][0];
    assert!(delivery.is_null() || delivery["status"] == "pending", "{message}");
    assert!(target.received().is_empty());
    gate.open();
    assert_eq!(reply(&target.wait_for(1)[0]), "begun\nx");
}

#[test]
fn a_failure_is_told_in_words() {
    let target = Target::start();
    let home = Home::new();
    home.configure(&format!("{}{}", script("echo in words >&2; exit 3"), target.config("out", "")));
    let gateway = home.start();
    let id = gateway.api().deliver("s", "x", "out");
    let received = &target.wait_for(1)[0];
    let body = received.json();
    let data = &body["data"];
    assert_eq!((&data["id"], &data["status"]), (&id.into(), &"failed".into()), "{body}");
    assert_eq!((&body["type"], &data["reply"]), (&"message.failed".into(), &Value::Null), "{body}");
    assert!(data["error"].as_str().unwrap().contains("in words"), "{body}");
}

#[test]
fn an_error_of_the_server_is_tried_again() {
    let target = Target::answering(|number, _| if number < 3 { 500.into() } else { 200.into() });
    let gateway = gateway_with(&target, "");
    let id = gateway.api().deliver("s", "x", "out");
    let received = target.wait_for(3);
    for again in &received[1..] {
        assert_eq!(again.field("webhook-id"), received[0].field("webhook-id"));
        assert_eq!(reply(again), "x");
    }
    let gaps = gaps(&received);
    assert!(gaps[0] > Duration::from_millis(400) && gaps[0] < Duration::from_secs(4), "{gaps:?}");
    assert!(gaps[1] > Duration::from_millis(800) && gaps[1] < Duration::from_secs(8), "{gaps:?}");
    assert_eq!(gateway.api().until_delivery(&id, "delivered")["attempts"], 3);
}

/// Standard Webhooks: the body's "timestamp" is when the event occurred, the header's when it is sent.
#[test]
fn a_repeat_says_when_it_happened_and_not_when_it_is_sent() {
    let target = Target::answering(|number, _| if number < 2 { 500.into() } else { 200.into() });
    let gateway = gateway_with(&target, "");
    let id = deliver_and_finish(&gateway);
    let received = target.wait_for(2);
    assert_eq!(received[0].body, received[1].body);
    let attempts = received.iter().map(|received| received.field("webhook-attempt"));
    assert!(attempts.eq(["1", "2"]), "{received:?}");
    assert_eq!(received[0].json()["timestamp"], gateway.api().message(&id)["finished_at"]);
}

/// A message for "out" that is over; its id.
#[track_caller]
fn deliver_and_finish(gateway: &Gateway) -> String {
    let id = gateway.api().deliver("s", "x", "out");
    gateway.api().reply(&id);
    id
}

#[test]
fn a_server_says_when_to_come_back() {
    for status in [429, 503] {
        let later = Answer(status, vec![("Retry-After", "3".to_owned())]);
        let answer =
            move |number, _: &Received| if number == 1 { later.clone() } else { 204.into() };
        let target = Target::answering(answer);
        let gateway = gateway_with(&target, "");
        let id = gateway.api().deliver("s", "x", "out");
        let message = gateway.api().until(&id, "a failed try", |message| {
            let delivery = &message["deliveries"][0];
            delivery["status"] == "pending" && delivery["attempts"] == 1
        });
        let error = message["deliveries"][0]["error"].as_str().unwrap_or("");
        assert!(error.contains(&status.to_string()), "{message}");
        let gaps = gaps(&target.wait_for(2));
        assert!(gaps[0] >= Duration::from_secs(3) && gaps[0] < Duration::from_secs(8), "{gaps:?}");
    }
}

#[test]
fn no_answer_in_time_is_tried_again() {
    let gate = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&gate);
    let target = Target::answering(move |number, _| {
        if number == 1 {
            eventually("the end of the silence", || silent.load(Ordering::SeqCst).then_some(()));
        }
        204.into()
    });
    let gateway = gateway_with(&target, "timeout = \"500ms\"");
    let id = gateway.api().deliver("s", "x", "out");
    let received = target.wait_for(2);
    gate.store(true, Ordering::SeqCst);
    assert_eq!(received[0].field("webhook-id"), received[1].field("webhook-id"));
    assert_eq!(gateway.api().until_delivery(&id, "delivered")["attempts"], 2);
}

#[test]
fn a_target_that_is_not_there_is_tried_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let home = Home::new();
    home.configure(&format!("[deliver.out]\nurl = \"http://{address}/\"\n"));
    let gateway = home.start();
    let id = gateway.api().deliver("s", "x", "out");
    let message = gateway.api().until(&id, "a failed try", |message| {
        message["deliveries"][0]["attempts"] == 1 && message["deliveries"][0]["status"] == "pending"
    });
    assert_eq!(message["status"], "done", "{message}");
    assert!(!message["deliveries"][0]["error"].as_str().unwrap().is_empty(), "{message}");
    assert_eq!(gateway.status()["journal"]["outbox"], 1);
}

#[test]
fn a_redirection_is_not_followed() {
    let elsewhere = Target::start();
    let location = format!("http://{}/elsewhere", elsewhere.address());
    let target = Target::answering(move |_, _| Answer(307, vec![("Location", location.clone())]));
    let gateway = gateway_with(&target, "");
    let id = gateway.api().deliver("s", "x", "out");
    gateway.api().until(&id, "an attempt's end", |message| {
        let delivery = &message["deliveries"][0];
        delivery["error"].is_string() && delivery["status"] != "sending"
    });
    assert!(elsewhere.received().is_empty());
}

// ---------------------------------------------------------------- dead letters ----

fn dead_letters(gateway: &Gateway) -> Vec<String> {
    let letters = gateway.api().get("/v1/dead-letters").assert_status(200).json();
    letters["dead_letters"].as_array().unwrap().iter().map(id_of).collect()
}

#[test]
fn what_a_target_refuses_is_put_aside_for_the_operator() {
    let well = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&well);
    let target =
        Target::answering(
            move |_, _| if seen.load(Ordering::SeqCst) { 200.into() } else { 400.into() },
        );
    let gateway = gateway_with(&target, "");
    let api = gateway.api();
    let ids = ["a", "b"].map(|text| api.deliver("s", text, "out"));
    for id in &ids {
        let delivery = api.until_delivery(id, "dead");
        assert_eq!(delivery["attempts"], 1, "{delivery}");
        assert!(delivery["error"].as_str().unwrap().contains("400"), "{delivery}");
        // The reply is there all the same.
        assert_eq!(api.message(id)["status"], "done");
        let words = format!("the reply of message {id} to target out is a dead letter: ");
        gateway.wait_for_log(&words, DEADLINE);
    }
    // Newest first.
    let listed = [&ids[1], &ids[0]];
    assert_eq!(dead_letters(&gateway).iter().collect::<Vec<_>>(), listed);
    assert_eq!(gateway.status()["journal"]["dead_letters"], 2);
    let summary = gateway.home().run(&["journal"]).assert_code(0).stdout;
    assert!(ids.iter().all(|id| summary.contains(id)), "{summary}");

    // They survive a kill, and nothing is sent again by itself.
    let gateway = gateway.reborn_after(libc::SIGKILL);
    assert_eq!(dead_letters(&gateway).iter().collect::<Vec<_>>(), listed);
    assert_eq!(target.received().len(), 2);

    well.store(true, Ordering::SeqCst);
    gateway.home().run(&["journal", "retry", &ids[0]]).assert_code(0);
    let delivery = gateway.api().until_delivery(&ids[0], "delivered");
    let received = target.wait_for(3);
    assert_eq!(received[2].field("webhook-id"), received[0].field("webhook-id"), "{delivery}");
    gateway.home().run(&["journal", "drop", &ids[1]]).assert_code(0);
    gateway.api().until_delivery(&ids[1], "dropped");
    assert_eq!(dead_letters(&gateway), [""; 0]);
    for args in [
        ["journal", "retry", &ids[0]],
        ["journal", "drop", &ids[1]],
        ["journal", "retry", "nonsense"],
    ] {
        let outcome = gateway.home().run(&args);
        assert_ne!(outcome.code(), 0, "{args:?} {outcome:?}");
        assert!(!outcome.stderr.is_empty(), "{args:?}");
    }
    assert_eq!(target.received().len(), 3);
}

#[test]
fn the_api_has_the_dead_letters_too() {
    let target = Target::answering(|number, _| if number < 3 { 410.into() } else { 204.into() });
    let gateway = gateway_with(&target, "");
    let api = gateway.api();
    let ids = ["a", "b"].map(|text| api.deliver("s", text, "out"));
    ids.iter().for_each(|id| drop(api.until_delivery(id, "dead")));
    let path = |id: &str| format!("/v1/dead-letters/{id}");
    let answer = api.call("POST", &format!("{}/retry", path(&ids[0])), &[], "");
    assert_eq!(answer.assert_status(200).json()["id"], ids[0]);
    api.delete(&path(&ids[1])).assert_status(200);
    api.until_delivery(&ids[0], "delivered");
    api.until_delivery(&ids[1], "dropped");
    assert!((400..500).contains(&api.delete(&path(&ids[0])).status()));
    assert_eq!(code_of(api.delete(&path("01J00000000000000000000000")), 404), "not_found");
}

#[test]
fn what_grows_too_old_is_put_aside() {
    let target = Target::answering(|_, _| 500.into());
    let gateway = gateway_with(&target, "expire = \"2s\"");
    let id = gateway.api().deliver("s", "x", "out");
    let delivery = gateway.api().until_delivery(&id, "dead");
    assert!(delivery["attempts"].as_u64().unwrap() >= 2, "{delivery}");
    assert!(delivery["error"].as_str().unwrap().contains("expire"), "{delivery}");
    let words =
        format!("the reply of message {id} to target out is a dead letter: it expired after");
    let line = gateway.wait_for_log(&words, DEADLINE);
    assert!(line.contains(&format!("`journal retry {id}` tries it again")), "{line}");
}

#[test]
fn a_target_that_the_configuration_lost_is_a_dead_letter() {
    let target = Target::answering(|_, _| 500.into());
    let gateway = gateway_with(&target, "");
    let id = gateway.api().deliver("s", "x", "out");
    target.wait_for(1);
    let home = gateway.end(libc::SIGKILL);
    home.configure("");
    let gateway = home.start();
    let delivery = gateway.api().until_delivery(&id, "dead");
    assert!(delivery["error"].as_str().unwrap().contains("out"), "{delivery}");
    gateway.wait_for_log("is a dead letter: the configuration has no target", DEADLINE);
}

// ------------------------------------------------------------- order and company ----

#[test]
fn order_holds_within_a_target() {
    let target = Target::answering(|number, _| if number <= 2 { 500.into() } else { 204.into() });
    let gateway = gateway_with(&target, "");
    let api = gateway.api();
    let ids: Vec<String> =
        (0..5).map(|number| api.deliver("s", &format!("m{number}"), "out")).collect();
    api.until_delivery(&ids[4], "delivered");
    let came: Vec<String> = target.received().iter().map(reply).collect();
    assert_eq!(came, ["m0", "m0", "m0", "m1", "m2", "m3", "m4"]);
    let webhook_ids: BTreeSet<String> =
        target.received().iter().map(|r| r.field("webhook-id").to_owned()).collect();
    assert_eq!(webhook_ids.len(), 5);
}

/// A target that holds its answers until the flag is up.
fn holding(open: &Arc<AtomicBool>) -> Target {
    let open = Arc::clone(open);
    Target::answering(move |_, _| {
        eventually("leave to answer", || open.load(Ordering::SeqCst).then_some(()));
        204.into()
    })
}

#[test]
fn a_dead_target_slows_no_other() {
    let open = Arc::new(AtomicBool::new(false));
    let (slow, quick) = (holding(&open), Target::start());
    let broken = Target::answering(|_, _| 500.into());
    let home = Home::new();
    let targets = [("slow", &slow), ("quick", &quick), ("broken", &broken)];
    home.configure(&targets.map(|(name, target)| target.config(name, "")).concat());
    let gateway = home.start();
    let api = gateway.api();
    let stuck: Vec<String> = (0..3)
        .flat_map(|_| [api.deliver("s", "x", "slow"), api.deliver("s", "x", "broken")])
        .collect();
    slow.wait_for(1);
    broken.wait_for(1);
    let ids: Vec<String> = (0..20).map(|_| api.deliver("s", "x", "quick")).collect();
    quick.wait_for(20);
    ids.iter().for_each(|id| drop(api.until_delivery(id, "delivered")));
    assert_eq!(slow.received().len(), 1);
    assert_eq!(api.message(&stuck[0])["deliveries"][0]["status"], "sending");
    open.store(true, Ordering::SeqCst);
    slow.wait_for(3);
}

// ------------------------------------------------------------- kills and stops ----

#[test]
fn a_send_that_a_kill_cut_is_repeated_under_the_same_id() {
    let open = Arc::new(AtomicBool::new(false));
    let target = holding(&open);
    let gateway = gateway_with(&target, "");
    let ids = ["a", "b"].map(|text| gateway.api().deliver("s", text, "out"));
    target.wait_for(1);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    target.wait_for(2);
    open.store(true, Ordering::SeqCst);
    let delivery = gateway.api().until_delivery(&ids[0], "delivered");
    assert_eq!(delivery["attempts"], 2, "{delivery}");
    gateway.api().until_delivery(&ids[1], "delivered");
    let received = target.received();
    let came: Vec<String> = received.iter().map(reply).collect();
    assert_eq!(came, ["a", "a", "b"]);
    assert_eq!(received[0].field("webhook-id"), received[1].field("webhook-id"));
    assert_eq!(received[0].body, received[1].body);
}

#[test]
fn a_stop_waits_for_a_send_in_flight() {
    let open = Arc::new(AtomicBool::new(false));
    let target = holding(&open);
    let gateway = gateway_with(&target, "");
    let ids = ["a", "b"].map(|text| gateway.api().deliver("s", text, "out"));
    target.wait_for(1);
    gateway.api().finished(&ids[1]);
    gateway.signal(libc::SIGTERM);
    eventually("the drain", || (gateway.status()["state"] == "draining").then_some(()));
    assert!(gateway.is_running());
    open.store(true, Ordering::SeqCst);
    gateway.wait_for_exit(DEADLINE);
    let gateway = gateway.home().start();
    ids.iter().for_each(|id| drop(gateway.api().until_delivery(id, "delivered")));
    // Each came once: the one in flight was awaited, the other sent in time or after the start.
    let came: Vec<String> = target.received().iter().map(reply).collect();
    assert_eq!(came, ["a", "b"]);
}
