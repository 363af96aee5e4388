//! Bodies and receipts by tables, and the pace and the receipts under a random gateway and a random Telegram.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::*;
use crate::telegram::call::{self, Upload};
use crate::telegram::lines::parse;
use crate::testing::{Random, rounds};

const SECOND: Duration = Duration::from_secs(1);

fn line(line: &Value) -> Event {
    Event::Line(parse(line.to_string().as_bytes()).unwrap())
}

/// A `send` with these members beside those that all have.
fn part(members: &Value) -> Value {
    let mut send =
        json!({ "op": "send", "delivery": "D", "part": 0, "conversation": "7", "text": "hi" });
    send.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    send
}

/// The calls, and what the gateway is told; the latter without why.
fn split(actions: Vec<Action>) -> (Vec<(u64, Call)>, Vec<Value>) {
    let (mut calls, mut told) = (Vec::new(), Vec::new());
    for action in actions {
        match action {
            Action::Call { ticket, call } => calls.push((ticket, call)),
            Action::Line(mut line) => {
                line.as_object_mut()
                    .unwrap()
                    .retain(|name, value| name != "why" && !value.is_null());
                told.push(line);
            }
            Action::Say(_) => {}
            Action::Exit(status) => told.push(json!({ "exit": status })),
        }
    }
    (calls, told)
}

fn answer(status: u16, body: &[u8]) -> Outcome {
    call::answer(status, body, &str::to_owned)
}

fn refusal(body: &Value) -> Outcome {
    let code = u16::try_from(body["error_code"].as_u64().unwrap()).unwrap();
    answer(code, body.to_string().as_bytes())
}

fn too_many(seconds: u64) -> Outcome {
    let parameters = json!({ "retry_after": seconds });
    refusal(
        &json!({ "ok": false, "error_code": 429, "description": "Too Many Requests", "parameters": parameters }),
    )
}

#[test]
#[allow(clippy::too_many_lines, reason = "a list of cases")]
fn a_part_becomes_the_calls_that_show_it() {
    let off = json!({ "is_disabled": true });
    let file = |name: &str| json!({ "path": format!("/f/{name}"), "name": name, "type": "a/b" });
    let upload = |name: &str| Upload {
        path: format!("/f/{name}"),
        name: name.to_owned(),
        media_type: "a/b".to_owned(),
    };
    let buttons = json!([{ "id": "yes", "label": "Yes" }, { "id": "no", "label": "No" }]);
    let keyboard = json!({ "inline_keyboard": [
        [{ "text": "Yes", "callback_data": "yes:p7" }], [{ "text": "No", "callback_data": "no:p7" }],
    ] });
    let reply = json!({ "message_id": 5, "allow_sending_without_reply": true });
    let message = |more: Value| {
        let mut all = json!({ "chat_id": 7, "text": "hi", "link_preview_options": off });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        vec![("sendMessage", all, None)]
    };
    let long = "x".repeat(MAX_CAPTION_OF_TELEGRAM + 1);
    for (send, wanted) in [
        (json!({}), message(json!({}))),
        (
            json!({ "thread": "3", "reply_to": "5" }),
            message(json!({ "message_thread_id": 3, "reply_parameters": reply })),
        ),
        (json!({ "reply_to": "7:5" }), message(json!({ "reply_parameters": reply }))),
        // It was said in what this chat was before it moved.
        (json!({ "reply_to": "-1:5" }), message(json!({}))),
        (
            json!({ "buttons": buttons, "prompt": "p7" }),
            message(json!({ "reply_markup": keyboard })),
        ),
        (json!({ "buttons": buttons }), message(json!({}))),
        (json!({ "buttons": buttons, "prompt": "p".repeat(61) }), message(json!({}))),
        (
            json!({ "replaces": "9", "thread": "3", "reply_to": "5", "buttons": buttons, "prompt": "p7" }),
            vec![(
                "editMessageText",
                json!({ "chat_id": 7, "message_id": 9, "text": "hi", "link_preview_options": off, "reply_markup": keyboard }),
                None,
            )],
        ),
        (
            json!({ "files": [file("a"), file("b")], "thread": "3", "buttons": buttons, "prompt": "p7" }),
            vec![
                (
                    "sendDocument",
                    json!({ "chat_id": 7, "message_thread_id": 3, "caption": "hi", "reply_markup": keyboard }),
                    Some(upload("a")),
                ),
                (
                    "sendDocument",
                    json!({ "chat_id": 7, "message_thread_id": 3 }),
                    Some(upload("b")),
                ),
            ],
        ),
        (
            json!({ "files": [file("a")], "text": long, "reply_to": "5" }),
            vec![
                (
                    "sendMessage",
                    json!({ "chat_id": 7, "text": long, "link_preview_options": off, "reply_parameters": reply }),
                    None,
                ),
                ("sendDocument", json!({ "chat_id": 7 }), Some(upload("a"))),
            ],
        ),
    ] {
        let Event::Line(FromGateway::Send(read)) = line(&part(&send)) else { panic!("{send}") };
        let calls = request::build(&read).unwrap().calls.into_iter();
        let calls = calls.map(|it| {
            let file = it.files.into_iter().next().map(|(name, file)| {
                assert_eq!(name, "document");
                file
            });
            (it.method, it.parameters, file)
        });
        assert_eq!(calls.collect::<Vec<_>>(), wanted, "{send}");
    }
}

const MAX_CAPTION_OF_TELEGRAM: usize = 1024;

#[test]
fn an_answer_becomes_the_receipt_of_its_kind() {
    let sent = json!({ "op": "sent", "delivery": "D", "part": 0, "id": "9" });
    let failed = |kind: &str| json!({ "op": "failed", "delivery": "D", "part": 0, "kind": kind });
    let with = |kind: &str, name: &str, value: Value| {
        let mut all = failed(kind);
        all[name] = value;
        all
    };
    let (temporary, permanent, uncertain) =
        (failed("temporary"), failed("permanent"), failed("uncertain"));
    let refused = |code: u16, description: &str| {
        refusal(&json!({ "ok": false, "error_code": code, "description": description }))
    };
    let unchanged = "Bad Request: message is not modified: specified new message content";
    let migrated = refusal(&json!({ "ok": false, "error_code": 400, "description": "upgraded",
        "parameters": { "migrate_to_chat_id": -1005 } }));
    let moved = with("temporary", "moved_to", json!("-1005"));
    let later = with("temporary", "retry_after", json!(20));
    let exit = json!({ "exit": 78 });
    for (outcome, new, edit, behind) in [
        (Ok(json!({ "message_id": 9 })), &sent, &sent, None),
        (Ok(json!(true)), &uncertain, &sent, None),
        (too_many(20), &later, &later, None),
        (migrated, &moved, &moved, None),
        (refused(400, "Bad Request: chat not found"), &permanent, &permanent, None),
        (refused(400, unchanged), &permanent, &sent, None),
        (refused(403, "Forbidden: bot was blocked by the user"), &permanent, &permanent, None),
        (refused(413, "Request Entity Too Large"), &permanent, &permanent, None),
        (refused(401, "Unauthorized"), &temporary, &temporary, Some(&exit)),
        (refused(500, "Internal Server Error"), &temporary, &temporary, None),
        (answer(502, b"<html>"), &temporary, &temporary, None),
        (answer(200, b"{\"ok\":true,\"resu"), &uncertain, &temporary, None),
        (Err(Failure::NotSent("no network".to_owned())), &temporary, &temporary, None),
        (Err(Failure::Unknown("cut".to_owned())), &uncertain, &temporary, None),
    ] {
        for (members, wanted) in [(json!({}), new), (json!({ "replaces": "9" }), edit)] {
            let (mut sender, now) = (Sender::default(), Instant::now());
            let (calls, told) = split(sender.step(line(&part(&members)), now));
            assert!(calls.len() == 1 && told.is_empty());
            let event = Event::Answer { ticket: calls[0].0, outcome: outcome.clone() };
            let (calls, told) = split(sender.step(event, now));
            assert_eq!((&told[0], calls.len()), (wanted, 0), "{outcome:?}");
            let end = [json!({ "op": "status", "state": "unauthorized" }), exit.clone()];
            assert_eq!(told[1..], end[..if behind.is_some() { 2 } else { 0 }], "{outcome:?}");
            assert!(sender.is_idle());
        }
    }
}

#[test]
fn what_is_refused_for_its_entities_is_sent_once_more_without_them() {
    let refused = |why: &str| {
        refusal(
            &json!({ "ok": false, "error_code": 400, "description": format!("Bad Request: {why}") }),
        )
    };
    let file = json!({ "path": "/f", "name": "f", "type": "" });
    for (members, why, again) in [
        (json!({}), "entity URL 'https://x/' is invalid: URL host is empty", true),
        (json!({ "replaces": "9" }), "wrong HTTP URL specified", true),
        (json!({ "files": [file] }), "ENTITY_BOUNDS_INVALID", true),
        (json!({ "format": "text" }), "ENTITY_BOUNDS_INVALID", false),
        (json!({}), "chat not found", false),
    ] {
        let (mut sender, now) = (Sender::default(), Instant::now());
        let mut send = part(&json!({ "text": "**a**", "format": "markdown" }));
        send.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let (first, _) = split(sender.step(line(&send), now));
        let answer = |ticket| Event::Answer { ticket, outcome: refused(why) };
        let (second, told) = split(sender.step(answer(first[0].0), now));
        assert_eq!((second.len(), told.len()), if again { (1, 0) } else { (0, 1) }, "{why}");
        if again {
            let mut wanted = first[0].1.clone();
            let parameters = wanted.parameters.as_object_mut().unwrap();
            parameters.retain(|name, _| !name.ends_with("entities"));
            assert_eq!(second[0].1, wanted);
            assert_ne!(second[0].1, first[0].1);
            let (third, told) = split(sender.step(answer(second[0].0), now));
            assert_eq!((third.len(), &told[0]["kind"]), (0, &json!("permanent")), "no third time");
        }
    }
}

#[test]
fn a_preview_without_its_entities_is_not_shown_over_the_text_behind_it() {
    let (mut sender, now) = (Sender::default(), Instant::now());
    let preview = json!({ "text": "**a**", "format": "markdown", "replaces": "9", "final": false });
    let (first, _) = split(sender.step(line(&part(&preview)), now));
    let last = json!({ "delivery": "E", "text": "b", "replaces": "9" });
    assert!(sender.step(line(&part(&last)), now).is_empty());
    let why = json!({ "ok": false, "error_code": 400, "description": "ENTITY_BOUNDS_INVALID" });
    let answer = Event::Answer { ticket: first[0].0, outcome: refusal(&why) };
    let (mut calls, told) = split(sender.step(answer, now));
    for more in 1..10 {
        calls.extend(split(sender.step(Event::Timer, now + more * SECOND)).0);
    }
    let texts: Vec<_> = calls.iter().map(|(_, call)| &call.parameters["text"]).collect();
    assert_eq!((texts, &told[0]["kind"]), (vec![&json!("b")], &json!("temporary")));
}

#[test]
fn what_is_no_id_of_telegram_fails_for_good_and_is_not_sent() {
    for members in [
        json!({ "conversation": "hermes-gateway-check" }),
        json!({ "conversation": "@name" }),
        json!({ "thread": "x" }),
        json!({ "replaces": "" }),
    ] {
        let mut sender = Sender::default();
        let (calls, told) = split(sender.step(line(&part(&members)), Instant::now()));
        let wanted = json!({ "op": "failed", "delivery": "D", "part": 0, "kind": "permanent" });
        assert_eq!((calls.len(), told), (0, vec![wanted]), "{members}");
    }
    for nothing in [
        json!({ "op": "typing", "conversation": "x" }),
        json!({ "op": "delete", "conversation": "7", "id": "x" }),
        json!({ "op": "ping" }),
    ] {
        assert_eq!(Sender::default().step(line(&nothing), Instant::now()), []);
    }
}

#[test]
fn a_text_that_is_shown_already_is_not_sent_again() {
    let (mut sender, now) = (Sender::default(), Instant::now());
    let mut step = |event| split(sender.step(event, now));
    let done = |ticket| Event::Answer { ticket, outcome: Ok(json!({ "message_id": 9 })) };
    let sent = vec![json!({ "op": "sent", "delivery": "D", "part": 0, "id": "9" })];
    let (calls, _) = step(line(&part(&json!({ "final": false }))));
    assert_eq!(step(done(calls[0].0)), (vec![], sent.clone()));
    let same = part(&json!({ "replaces": "9" }));
    assert_eq!(step(line(&same)), (vec![], sent.clone()));
    // Buttons are not there yet, and afterwards it is not known what is.
    let button = json!([{ "id": "yes", "label": "Yes" }]);
    let with_button = part(&json!({ "replaces": "9", "buttons": button, "prompt": "p" }));
    let (calls, told) = step(line(&with_button));
    assert!(calls.len() == 1 && told.is_empty());
    step(Event::Answer { ticket: calls[0].0, outcome: Err(Failure::Unknown(String::new())) });
    assert_eq!(step(line(&same)).0.len(), 1);
}

#[test]
fn a_file_that_fails_behind_its_text_is_not_repeated_blindly() {
    let file = json!({ "path": "/f", "name": "f", "type": "" });
    let files = part(&json!({ "files": [file, file] }));
    for (outcome, kind) in [
        (Ok(json!({ "message_id": 10 })), None),
        (too_many(20), Some("uncertain")),
        (Err(Failure::NotSent(String::new())), Some("uncertain")),
        (refusal(&json!({ "ok": false, "error_code": 400 })), Some("permanent")),
    ] {
        let (mut sender, now) = (Sender::default(), Instant::now());
        let (first, _) = split(sender.step(line(&files), now));
        let event = Event::Answer { ticket: first[0].0, outcome: Ok(json!({ "message_id": 9 })) };
        let (second, told) = split(sender.step(event, now));
        assert!(first.len() == 1 && second.len() == 1 && told.is_empty());
        let (_, told) = split(sender.step(Event::Answer { ticket: second[0].0, outcome }, now));
        match kind {
            None => assert_eq!(told[0]["id"], "9", "that of the text"),
            Some(kind) => assert_eq!(told[0]["kind"], kind),
        }
    }
}

#[test]
fn a_chat_that_is_to_wait_is_left_alone_and_two_are_the_bot() {
    let (mut sender, now) = (Sender::default(), Instant::now());
    let to = |chat: &str| line(&part(&json!({ "conversation": chat })));
    let typing = |chat: &str| line(&json!({ "op": "typing", "conversation": chat }));
    let failed = |after: u64| json!({ "op": "failed", "delivery": "D", "part": 0, "kind": "temporary", "retry_after": after });
    let status = |state: &str| json!({ "op": "status", "state": state });
    let (one, _) = split(sender.step(to("1"), now));
    let (two, _) = split(sender.step(to("2"), now));
    let refused = Event::Answer { ticket: one[0].0, outcome: too_many(9) };
    assert_eq!(split(sender.step(refused, now)).1, [failed(9)]);
    let soon = now + SECOND / 2;
    assert_eq!(split(sender.step(to("1"), soon)), (vec![], vec![failed(9)]));
    assert_eq!(sender.step(typing("1"), soon), []);
    let (three, told) = split(sender.step(to("3"), soon));
    assert!(three.len() == 1 && told.is_empty());
    let refused = Event::Answer { ticket: two[0].0, outcome: too_many(5) };
    assert_eq!(split(sender.step(refused, soon)).1, [failed(5), status("limited")]);
    assert_eq!(split(sender.step(to("4"), soon)), (vec![], vec![failed(5)]));
    assert_eq!(sender.step(typing("4"), soon), []);
    let over = sender.timer().unwrap();
    assert_eq!(over, soon + 5 * SECOND);
    assert_eq!(split(sender.step(Event::Timer, over)), (vec![], vec![status("up")]));
    assert_eq!(split(sender.step(to("4"), over)).0.len(), 1);
    assert_eq!(split(sender.step(to("1"), over)), (vec![], vec![failed(4)]));
    assert_eq!(sender.timer(), None);
}

#[test]
fn a_preview_leaves_the_pace_to_the_reply_and_at_the_end_what_waits_is_given_back() {
    let (mut sender, now) = (Sender::default(), Instant::now());
    let group = |text: &str, last: bool| {
        line(&part(&json!({ "conversation": "-1", "replaces": "9", "text": text, "final": last })))
    };
    for n in 0..4 {
        let (calls, _) = split(sender.step(group(&n.to_string(), true), now));
        sender.step(Event::Answer { ticket: calls[0].0, outcome: Ok(json!(true)) }, now);
    }
    let (calls, told) = split(sender.step(group("preview", false), now));
    assert_eq!((calls.len(), &told[0]["kind"]), (0, &json!("temporary")));
    assert!(told[0]["retry_after"].is_null());
    // The chat does not count it.
    let typing = json!({ "op": "typing", "conversation": "-1" });
    let (calls, _) = split(sender.step(line(&typing), now));
    assert_eq!(calls[0].1.method, "sendChatAction");
    sender.step(Event::Answer { ticket: calls[0].0, outcome: Ok(json!(true)) }, now);
    let (calls, _) = split(sender.step(group("all", true), now));
    sender.step(Event::Answer { ticket: calls[0].0, outcome: Ok(json!(true)) }, now);
    // The burst is used up.
    assert_eq!(split(sender.step(group("more", true), now)), (vec![], vec![]));
    assert_eq!(sender.timer(), Some(now + 4 * SECOND));
    assert!(!sender.is_idle());
    let (calls, told) = split(sender.step(Event::End, now));
    assert_eq!((calls.len(), &told[0]["kind"]), (0, &json!("temporary")));
    assert!(sender.is_idle() && sender.timer().is_none());
}

#[test]
fn a_preview_that_waits_gives_way_to_a_newer_text_and_no_more_than_so_many_deletes_wait() {
    let (mut sender, now) = (Sender::default(), Instant::now());
    let text = |n: usize, last: bool| {
        line(&part(&json!({ "part": n, "replaces": "9", "text": n.to_string(), "final": last })))
    };
    let (calls, _) = split(sender.step(text(0, false), now));
    sender.step(Event::Answer { ticket: calls[0].0, outcome: Ok(json!(true)) }, now);
    assert_eq!(split(sender.step(text(2, false), now)), (vec![], vec![]));
    assert_eq!(sender.timer(), Some(now + SECOND));
    let (calls, told) = split(sender.step(text(3, true), now));
    assert_eq!(
        (calls.len(), &told[0]["part"], &told[0]["kind"]),
        (1, &json!(2), &json!("temporary"))
    );
    for id in 0..100 {
        let id = id.to_string();
        sender.step(line(&json!({ "op": "delete", "conversation": "7", "id": id })), now);
    }
    assert_eq!(sender.waiting.len(), MAX_SILENT);
}

#[test]
fn previews_of_a_group_are_three_seconds_apart_and_its_reply_is_not_put_off() {
    for (chat, gap) in [("-1", 3), ("1", 1)] {
        let (mut sender, start) = (Sender::default(), Instant::now());
        let mut number = 0;
        let mut shown = |after: Duration, last: bool| {
            number += 1;
            let text = number.to_string();
            let send =
                json!({ "conversation": chat, "replaces": "9", "text": text, "final": last });
            let (calls, told) = split(sender.step(line(&part(&send)), start + after));
            for (ticket, _) in &calls {
                let event = Event::Answer { ticket: *ticket, outcome: Ok(json!(true)) };
                sender.step(event, start + after);
            }
            (calls.len(), told.len())
        };
        let gap = gap * SECOND;
        assert_eq!(shown(Duration::ZERO, false), (1, 0));
        let early = gap.saturating_sub(SECOND * 3 / 2);
        assert_eq!(shown(early, false), if early.is_zero() { (0, 0) } else { (0, 1) }, "{chat}");
        assert_eq!(shown(gap, false), (1, usize::from(early.is_zero())));
        assert_eq!(shown(gap, true), (1, 0));
    }
}

#[test]
fn calls_without_a_receipt_wait_as_parts_do_and_are_made_again_after_429() {
    let (mut sender, now) = (Sender::default(), Instant::now());
    let call = |method, parameters| Event::Call(Call { method, parameters, files: Vec::new() });
    let methods = |actions| {
        split(actions).0.iter().map(|(ticket, call)| (*ticket, call.method)).collect::<Vec<_>>()
    };
    let menu = methods(sender.step(call(MENU, json!({ "commands": [] })), now));
    assert_eq!(menu[0].1, MENU);
    // Others go on beside it.
    let query = json!({ "callback_query_id": "q" });
    let press = methods(sender.step(call("answerCallbackQuery", query.clone()), now));
    let markup = json!({ "chat_id": 7, "message_id": 9 });
    let edit = methods(sender.step(call("editMessageReplyMarkup", markup), now));
    assert_eq!((press.len(), edit.len()), (1, 1));
    sender.step(Event::Answer { ticket: press[0].0, outcome: too_many(9) }, now);
    sender.step(Event::Answer { ticket: edit[0].0, outcome: too_many(5) }, now);
    assert!(sender.limited, "two at once are the bot");
    let later = call("answerCallbackQuery", query.clone());
    assert_eq!(methods(sender.step(later, now)), []);
    let answer = Event::Answer { ticket: menu[0].0, outcome: Err(Failure::NotSent(String::new())) };
    assert_eq!(methods(sender.step(answer, now)), []);
    let names = |actions| methods(actions).iter().map(|it| it.1).collect::<Vec<_>>();
    assert_eq!(sender.timer(), Some(now + 5 * SECOND));
    let over = names(sender.step(Event::Timer, now + 5 * SECOND));
    assert_eq!(over, ["editMessageReplyMarkup"]);
    assert_eq!(names(sender.step(Event::Timer, now + 9 * SECOND)), ["answerCallbackQuery"; 2]);
    assert_eq!(sender.timer(), Some(now + MENU_PAUSE));
    let menu = methods(sender.step(Event::Timer, now + MENU_PAUSE));
    assert_eq!(menu[0].1, MENU);
    // What is wrong with it will be so again.
    let outcome = refusal(&json!({ "ok": false, "error_code": 400 }));
    sender.step(Event::Answer { ticket: menu[0].0, outcome }, now + MENU_PAUSE);
    assert_eq!(sender.timer(), None);
}

/// A random gateway and a random Telegram around a sender, and what has happened.
struct World {
    sender: Sender,
    random: Random,
    start: Instant,
    now: Instant,
    /// When each call is answered.
    calls: BTreeMap<u64, (Instant, Call)>,
    /// Those that were made: when, in which chat, and whether anybody sees it.
    made: Vec<(Instant, i64, bool)>,
    /// Parts without a receipt, since when, and those that were handed over, in their order.
    open: BTreeMap<u64, (i64, Instant)>,
    handed: BTreeMap<i64, u64>,
    next: u64,
    /// Until when Telegram wants to hear nothing of a chat.
    held: BTreeMap<i64, Instant>,
    limited: bool,
    /// Telegram refuses much.
    harsh: bool,
    /// There are many chats, and no pauses.
    crowd: bool,
}

const CHATS: [i64; 10] = [1, 2, 3, 4, 5, 6, 7, -1, -2, -100_987];

impl World {
    fn new(seed: u64) -> World {
        let now = Instant::now();
        World {
            sender: Sender::default(),
            random: Random::new(seed),
            start: now,
            now,
            calls: BTreeMap::new(),
            made: Vec::new(),
            open: BTreeMap::new(),
            handed: BTreeMap::new(),
            next: 0,
            held: BTreeMap::new(),
            limited: false,
            harsh: seed.is_multiple_of(2),
            crowd: seed % 4 == 1,
        }
    }

    fn step(&mut self, event: Event) {
        for action in self.sender.step(event, self.now) {
            match action {
                Action::Call { ticket, call } => self.called(ticket, call),
                Action::Line(line) => self.told(&line),
                Action::Say(_) => {}
                Action::Exit(status) => panic!("exit {status}"),
            }
        }
        let due = self.sender.timer();
        assert!(due.is_none_or(|due| due > self.now), "it wakes without end");
        assert!(self.sender.waiting.len() <= 16 + MAX_SILENT);
        assert!(self.sender.pace.chats() <= 61 && self.sender.shown.len() <= MAX_SHOWN);
        assert_eq!(self.sender.is_idle(), self.open.is_empty());
    }

    fn called(&mut self, ticket: u64, call: Call) {
        let chat = call.parameters["chat_id"].as_i64().unwrap_or(NO_CHAT);
        assert!(self.held.get(&chat).is_none_or(|until| *until <= self.now), "{chat} is to wait");
        let seen = call.method != "sendChatAction" && chat != NO_CHAT;
        if seen {
            let mut others = self.calls.values();
            let same = |other: &(Instant, Call)| {
                other.1.parameters["chat_id"] == chat && other.1.method != "sendChatAction"
            };
            assert!(!others.any(same), "two at once in {chat}");
        }
        let file = call.files.first().map(|(_, file)| &*file.name);
        if let Some(name) = call.parameters["text"].as_str().or(file) {
            let number = name.parse().unwrap();
            let before = self.handed.insert(chat, number);
            assert!(before < Some(number) || file.is_some() && before == Some(number), "{chat}");
        }
        self.made.push((self.now, chat, seen));
        let millis = [1, 40, 300, 3000][self.random.below(if self.crowd { 1 } else { 4 })];
        self.calls.insert(ticket, (self.now + Duration::from_millis(millis), call));
    }

    fn told(&mut self, line: &Value) {
        match line["op"].as_str().unwrap() {
            "status" => {
                let limited = line["state"] == "limited";
                assert_ne!(limited, self.limited, "{line}");
                self.limited = limited;
            }
            _ => {
                let part = line["part"].as_u64().unwrap();
                let (_, since) =
                    self.open.remove(&part).expect("a receipt of a part, and its first");
                // 16 of one group, each answered as late as any is.
                assert!(self.now - since <= 17 * 4 * SECOND, "{part} starves");
            }
        }
    }

    /// What the gateway does: one part after the other in a chat as a rule, and 16 in all.
    fn speak(&mut self) {
        let chat = match self.crowd {
            true => 1 + i64::try_from(self.random.below(60)).unwrap(),
            false => *self.random.pick(&CHATS),
        };
        let conversation = chat.to_string();
        let busy = self.open.values().any(|(other, _)| *other == chat);
        match self.random.below(8) {
            0 => self.step(line(&json!({ "op": "typing", "conversation": conversation }))),
            1 => {
                self.step(line(
                    &json!({ "op": "delete", "conversation": conversation, "id": "5" }),
                ));
                let parameters = json!({ "callback_query_id": "q" });
                let (method, files) = ("answerCallbackQuery", Vec::new());
                self.step(Event::Call(Call { method, parameters, files }));
            }
            _ if self.open.len() < 16 && (!busy || self.random.one_in(4)) => {
                self.next += 1;
                let mut send = part(&json!({ "conversation": conversation, "part": self.next,
                    "text": self.next.to_string(), "final": self.random.one_in(2) }));
                if self.random.one_in(3) {
                    send["replaces"] = "5".into();
                } else if self.random.one_in(8) {
                    let name = self.next.to_string();
                    let file = json!({ "path": "/f", "name": name, "type": "" });
                    send["files"] = json!([file, file]);
                }
                self.open.insert(self.next, (chat, self.now));
                self.step(line(&send));
            }
            _ => {}
        }
    }

    /// What Telegram does about a call.
    fn answer(&mut self, ticket: u64) {
        let (_, call) = self.calls.remove(&ticket).unwrap();
        let chat = call.parameters["chat_id"].as_i64().unwrap_or(NO_CHAT);
        let code = match self.random.below(if self.harsh { 12 } else { 1000 }) {
            0 => 429,
            1 => 400,
            2 => 500,
            _ => 200,
        };
        let outcome = match code {
            429 => {
                let seconds = 1 + self.random.below(5);
                let until = self.now + u32::try_from(seconds).unwrap() * SECOND;
                let held = self.held.entry(chat).or_insert(until);
                *held = until.max(*held);
                too_many(seconds as u64)
            }
            200 => Ok(json!({ "message_id": self.next + 10 })),
            code => refusal(&json!({ "ok": false, "error_code": code })),
        };
        self.step(Event::Answer { ticket, outcome });
    }

    /// Goes to whatever happens next: by `until` the gateway says something.
    fn advance(&mut self, until: Option<Instant>) -> bool {
        let answer = self.calls.iter().map(|(ticket, (at, _))| (*at, Some(*ticket)));
        let timer = self.sender.timer().map(|at| (at, None));
        let first = answer.chain(timer).min();
        let Some((at, ticket)) = first.filter(|it| until.is_none_or(|until| it.0 < until)) else {
            return false;
        };
        self.now = at.max(self.now);
        match ticket {
            Some(ticket) => self.answer(ticket),
            None => self.step(Event::Timer),
        }
        true
    }

    /// No window has more than it may.
    fn check_pace(&self) {
        for (n, (at, _, _)) in self.made.iter().enumerate().skip(25) {
            assert!(*at - self.made[n - 25].0 >= SECOND, "{:?}", *at - self.start);
        }
        for chat in self.made.iter().map(|it| it.1).collect::<BTreeSet<i64>>() {
            let seen = self.made.iter().filter(|it| it.1 == chat && it.2);
            let seen: Vec<Instant> = seen.map(|it| it.0).collect();
            for (n, from) in seen.iter().enumerate() {
                for (more, at) in seen[n..].iter().enumerate() {
                    let time = *at - *from;
                    let most = if chat > 0 { 3 + time.as_secs() } else { 5 + time.as_secs() / 4 };
                    assert!((more as u64) < most, "{chat}: {} in {time:?}", more + 1);
                    assert!(chat > 0 || time >= 60 * SECOND || more < 20);
                }
            }
        }
    }
}

#[test]
fn no_window_is_ever_over_its_limit_and_each_part_has_one_receipt_in_its_turn() {
    let mut most = 0;
    for seed in 0..rounds(40, 3000) {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.speak();
            let pauses = if world.crowd { 4 } else { 6 };
            let pause = [0, 0, 0, 5, 100, 1500][world.random.below(pauses)];
            let until = world.now + Duration::from_millis(pause);
            while world.advance(Some(until)) {}
            world.now = until;
        }
        while world.advance(None) {}
        assert!(world.open.is_empty(), "seed {seed}");
        assert!(!world.limited);
        world.check_pace();
        let seconds: BTreeSet<u64> =
            world.made.iter().map(|it| (it.0 - world.start).as_secs()).collect();
        let busy = |second: &u64| {
            world.made.iter().filter(|it| (it.0 - world.start).as_secs() == *second).count()
        };
        most = most.max(seconds.iter().map(busy).max().unwrap());
        // Nothing is remembered once nothing is to be waited for.
        world.now += 100 * SECOND;
        world.step(Event::Timer);
        assert_eq!(world.sender.pace.chats(), 0);
    }
    assert_eq!(most, 25, "the limit of all chats was reached");
}
