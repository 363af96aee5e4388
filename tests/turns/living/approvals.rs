//! What happens when the agent asks for leave: by policy, by an answer, or without one.

use serde_json::{Value, json};

use super::{agent, command, got, home, log, say, until_got};
use crate::util::api::{Api, code_of};
use crate::util::{DEADLINE, Gateway, Home, eventually, principals};

/// Waits for the question of a message, and returns it.
#[track_caller]
fn asked(api: &Api, message: &str) -> Value {
    let waits = |it: &Value| it["status"] == "waiting" && it["approvals"][0]["id"].is_string();
    api.until(message, "a question", waits)["approvals"][0].clone()
}

#[track_caller]
fn answer(api: &Api, message: &str, question: &Value, allow: bool) {
    let body = json!({ "id": question["id"], "allow": allow });
    api.post(&format!("/v1/messages/{message}/approval"), &body).assert_status(200);
}

#[test]
fn the_policy_allows_or_denies_once_by_the_kind_of_an_option() {
    for (modes, policy, said) in [
        ("", "", "denied"),
        ("always-first", "approve = \"never\"\n", "denied"),
        ("string-ids", "approve = \"always\"\n", "allowed"),
        ("always-first,string-ids", "approve = \"always\"\n", "allowed"),
    ] {
        let home = home(modes, policy);
        let gateway = home.start();
        assert_eq!(say(&gateway, "s", "ask"), said, "{modes}");
        assert_eq!(gateway.ask("ask 3").reply(), [said; 3].join(" "), "{modes}");
        // A chat leaves no other record.
        let given = gateway.stderr().matches("leave was given (agent.approve): ").count();
        assert_eq!(given, if said == "allowed" { 4 } else { 0 }, "{}", gateway.stderr());
    }
}

/// Some agents end a turn then as cancelled, though nobody has cancelled it.
#[test]
fn a_turn_that_a_denial_ended_is_done() {
    let home = home("reject-cancels", "");
    let gateway = home.start();
    let id = gateway.api().accepted("s", "ask");
    let message = gateway.api().finished(&id);
    assert_eq!((&message["status"], &message["reply"]), (&json!("done"), &json!("denied")));
}

#[test]
fn a_question_is_shown_and_answered() {
    let home = home("", "approve = \"ask\"\n");
    let gateway = home.start();
    let api = gateway.api();
    let mut events = api.events("s", None);
    for allow in [true, false] {
        let id = api.accepted("s", "ask 1 delete all");
        let question = asked(&api, &id);
        assert_eq!(question["title"], "delete all");
        assert_eq!(question["kind"], "execute");
        let shown = question.to_string();
        assert!(shown.contains("rm 0") && !shown.contains('\x1b'), "{shown}");
        assert!(question["id"].as_str().unwrap().len() == 6, "{question}");
        let event = loop {
            let event = events.next_event().expect("the question");
            if event.kind == "approval" && event.data["message"] == id.as_str() {
                break event;
            }
        };
        assert_eq!(event.data["id"], question["id"]);
        answer(&api, &id, &question, allow);
        assert_eq!(api.reply(&id), if allow { "allowed" } else { "denied" });
        // A second answer comes too late.
        let body = json!({ "id": question["id"], "allow": true });
        let late = api.post(&format!("/v1/messages/{id}/approval"), &body);
        code_of(late, 409);
        assert!(api.message(&id)["approvals"].as_array().is_none_or(Vec::is_empty));
    }
    // Who allowed what is in the journal, also after a kill.
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let kept = gateway.api().get("/v1/approvals").assert_status(200).json();
    let kept = kept["approvals"].as_array().unwrap().clone();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!((&kept[0]["allowed"], &kept[1]["allowed"]), (&json!(false), &json!(true)));
    assert!(kept.iter().all(|it| it["title"] == "delete all"), "{kept:?}");
    let shown = home.run(&["approvals"]).assert_code(0).stdout;
    assert!(shown.contains("delete all"), "{shown}");
}

#[test]
fn several_questions_are_answered_one_by_one() {
    let home = home("", "approve = \"ask\"\n");
    let gateway = home.start();
    let api = gateway.api();
    let id = api.accepted("s", "ask 3");
    let three = |it: &Value| it["approvals"].as_array().is_some_and(|them| them.len() == 3);
    let questions = api.until(&id, "three questions", three)["approvals"].clone();
    // Without an id it is not clear which is meant.
    let unclear = api.post(&format!("/v1/messages/{id}/approval"), &json!({"allow": true}));
    code_of(unclear, 409);
    for (at, allow) in [(1, true), (0, false), (2, true)] {
        answer(&api, &id, &questions[at], allow);
    }
    assert_eq!(api.reply(&id).split(' ').filter(|it| *it == "allowed").count(), 2);
}

#[test]
fn commands_in_the_session_answer_out_of_order() {
    let home = home("", "approve = \"ask\"\n");
    let gateway = home.start();
    let api = gateway.api();
    for (command, said) in [("/approve", "allowed"), ("/deny", "denied")] {
        let id = api.accepted("s", "ask");
        let question = asked(&api, &id);
        // One that waits behind it stays behind it.
        let next = api.accepted("s", "on");
        super::command(&api, "s", command);
        assert_eq!(api.reply(&id), said);
        assert_eq!(api.reply(&next), "on");
        let late = format!("{command} {}", question["id"].as_str().unwrap());
        assert!(!super::command(&api, "s", &late).is_empty());
    }
    let id = api.accepted("s", "ask 2");
    let two = |it: &Value| it["approvals"].as_array().is_some_and(|them| them.len() == 2);
    let questions = api.until(&id, "two questions", two)["approvals"].clone();
    let listed = command(&api, "s", "/approve");
    for question in questions.as_array().unwrap() {
        let id = question["id"].as_str().unwrap();
        assert!(listed.contains(id), "{listed}");
        command(&api, "s", &format!("/approve {}", id.to_lowercase()));
    }
    assert_eq!(api.reply(&id), "allowed allowed");
}

#[test]
fn only_whose_message_it_is_and_operators_answer() {
    let home = Home::new();
    let keys = [("alice", ""), ("bob", "")];
    let more = agent(&home, "") + "approve = \"ask\"\n";
    home.configure(&principals::configuration(&home, &keys, &more));
    let gateway = home.start();
    let [alice, bob, owner] = ["alice", "bob", "owner"].map(|who| principals::api(&gateway, who));
    for (who, command) in [(&alice, false), (&owner, false), (&alice, true)] {
        let id = alice.accepted("s", "ask");
        let question = asked(&alice, &id);
        let body = json!({ "id": question["id"], "allow": true });
        let refused = bob.post(&format!("/v1/messages/{id}/approval"), &body).status();
        assert!(refused == 403 || refused == 404, "{refused}");
        if command {
            super::command(who, "s", "/approve");
        } else {
            answer(who, &id, &question, true);
        }
        assert_eq!(alice.reply(&id), "allowed");
    }
    assert_eq!(bob.get("/v1/approvals").assert_status(200).text().matches("allowed").count(), 0);
}

/// While somebody is asked, the turn's time stands still and others have its slot.
#[test]
fn a_turn_that_waits_for_leave_costs_neither_time_nor_a_slot() {
    let home = home("", "approve = \"ask\"\nturn_timeout = \"5s\"\n[limits]\nmax_turns = 1\n");
    let gateway = home.start();
    let api = gateway.api();
    let id = api.accepted("s", "ask");
    let question = asked(&api, &id);
    let timed_out = api.finished(&api.accepted("t", "wait"));
    assert!(timed_out["error"].as_str().unwrap().contains("turn_timeout"), "{timed_out}");
    assert_eq!(say(&gateway, "t", "on"), "on");
    assert_eq!(gateway.status()["turns"]["running"], 0);
    answer(&api, &id, &question, true);
    assert_eq!(api.reply(&id), "allowed");
}

#[test]
fn nobody_s_answer_denies() {
    let home = home("", "approve = \"ask\"\napprove_timeout = \"1s\"\n");
    let gateway = home.start();
    let api = gateway.api();
    let id = api.accepted("s", "ask");
    assert_eq!(api.reply(&id), "denied");
    let kept = api.get("/v1/approvals").assert_status(200).text();
    assert!(kept.contains("agent.approve_timeout"), "{kept}");
}

#[test]
fn the_client_of_a_chat_cannot_answer_and_is_told() {
    let home = home("", "approve = \"ask\"\n");
    let gateway = home.start();
    let reply = gateway.ask("ask 1 delete all").reply();
    assert!(reply.contains("denied") && reply.contains("delete all"), "{reply}");
    assert!(reply.ends_with("denied"), "{reply}");
    let logged = gateway.stderr();
    assert!(logged.contains("leave was denied (nobody can be asked here): "), "{logged}");
}

/// Every question is answered "cancelled", without which some agents never end a turn.
#[test]
fn a_cancel_answers_the_open_questions() {
    let home = home("", "approve = \"ask\"\n");
    let gateway = home.start();
    let api = gateway.api();
    say(&gateway, "s", "remember 7");
    let id = api.accepted("s", "ask 2");
    let two = |it: &Value| it["approvals"].as_array().is_some_and(|them| them.len() == 2);
    api.until(&id, "two questions", two);
    api.delete(&format!("/v1/messages/{id}")).assert_status(200);
    assert_eq!(api.finished(&id)["status"], "cancelled");
    let answers = || {
        let log = log(&home);
        let cancelled = |it: &&Value| it["got"]["result"]["outcome"]["outcome"] == "cancelled";
        log.iter().filter(cancelled).count()
    };
    eventually("two answers", || (answers() == 2).then_some(()));
    assert_eq!(got(&home, "session/cancel").len(), 1);
    assert_eq!(say(&gateway, "s", "what number"), "7");
}

/// It asks again in the next process, and that costs no attempt.
#[test]
fn a_stop_while_somebody_is_asked_is_quick_and_costs_nothing() {
    let home = home("", "approve = \"ask\"\n[limits]\nmax_attempts = 1\n");
    let mut gateway = home.start();
    let id = gateway.api().accepted("s", "ask");
    for round in 1..=2 {
        asked(&gateway.api(), &id);
        until_got(&home, "session/prompt", round);
        gateway.signal(libc::SIGTERM);
        gateway.wait_for_exit(DEADLINE / 2);
        gateway = home.start();
    }
    let question = asked(&gateway.api(), &id);
    answer(&gateway.api(), &id, &question, true);
    assert_eq!(gateway.api().reply(&id), "allowed");
}

/// A crash counts: the question was open when the agent died.
#[test]
fn a_killed_gateway_asks_again() {
    let home = home("", "approve = \"ask\"\n");
    let gateway = home.start();
    let id = gateway.api().accepted("s", "ask");
    let before = asked(&gateway.api(), &id);
    let gateway: Gateway = gateway.reborn_after(libc::SIGKILL);
    let question = asked(&gateway.api(), &id);
    let stale = json!({ "id": before["id"], "allow": true });
    if before["id"] != question["id"] {
        code_of(gateway.api().post(&format!("/v1/messages/{id}/approval"), &stale), 409);
    }
    answer(&gateway.api(), &id, &question, true);
    assert_eq!(gateway.api().reply(&id), "allowed");
}
