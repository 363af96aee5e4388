//! What each update becomes, and when Telegram is asked.

mod model;

use serde_json::json;

use super::*;

const BOT: i64 = 7;

/// A receiver whose first poll is on its way.
fn receiver(now: Instant) -> Receiver {
    let me = Me { id: BOT, username: "HelperBot".to_owned(), reads_all: false };
    let mut receiver = Receiver::new(me, 4096);
    let begun = receiver.begin(now);
    let [Action::Poll(poll)] = &begun[..] else { panic!("{begun:?}") };
    assert_eq!(poll.parameters["timeout"], 0, "it is to be seen soon that all is well");
    receiver
}

/// What comes of these updates, but for the status.
fn takes(receiver: &mut Receiver, updates: Value, now: Instant) -> Vec<Action> {
    let mut actions = receiver.step(Event::Updates(Ok(updates)), now);
    actions.retain(|it| !matches!(it, Action::Line(line) if line["op"] == "status"));
    actions
}

/// Members of `over` in place of those of `base`.
fn over(base: &Value, over: &Value) -> Value {
    let mut all = base.as_object().unwrap().clone();
    all.extend(over.as_object().unwrap().clone());
    all.into()
}

/// The same; null: without it.
fn with(base: &Value, other: &Value) -> Value {
    let mut all = over(base, other);
    all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    all
}

/// What comes of one update alone.
fn of(update: &Value) -> Vec<Action> {
    let now = Instant::now();
    let mut actions =
        takes(&mut receiver(now), json!([with(update, &json!({"update_id": 900}))]), now);
    actions.retain(|it| !matches!(it, Action::Poll(_)));
    actions
}

/// A message of Ann's in private, with these members, and the line that it becomes: `None`: nothing.
#[track_caller]
fn becomes(message: &Value, line: Option<&Value>) {
    let private = json!({"message_id": 55, "date": 1_700_000_000, "chat": {"id": 42, "type": "private"},
        "from": {"id": 42, "first_name": "Ann", "is_bot": false}});
    let expected = json!({"op": "message", "n": 1, "id": "42:55", "conversation": "42", "kind": "private",
        "from": {"id": "42", "name": "Ann", "bot": false, "verified": true}, "text": "",
        "at": "2023-11-14T22:13:20.000Z", "mentioned": false});
    let actions = of(&json!({"message": with(&private, message)}));
    match line {
        Some(line) => assert_eq!(actions, [Action::Line(with(&expected, line))]),
        None => assert_eq!(actions, []),
    }
}

/// The same in a group.
#[track_caller]
fn in_group(message: &Value, line: Option<&Value>) {
    let group = json!({"chat": {"id": -100_987, "type": "supergroup", "title": "G"}});
    let expected = json!({"id": "-100987:55", "conversation": "-100987", "kind": "group"});
    becomes(&over(&group, message), line.map(|line| over(&expected, line)).as_ref());
}

#[test]
fn a_message_in_private_is_offered_with_its_sender_and_time() {
    becomes(&json!({"text": "hi\u{202e}\u{7}"}), Some(&json!({"text": "hi\u{202e}\u{7}"})));
    let from = json!({"id": 42, "first_name": "Ann", "last_name": "Lee", "is_bot": true});
    let person = json!({"id": "42", "name": "Ann Lee", "bot": true, "verified": true});
    becomes(&json!({"text": "a", "from": from}), Some(&json!({"text": "a", "from": person})));
    let nameless = json!({"id": 42, "username": "ann", "is_bot": false});
    let person = json!({"id": "42", "name": "ann", "bot": false, "verified": true});
    becomes(&json!({"text": "a", "from": nameless}), Some(&json!({"text": "a", "from": person})));
    becomes(&json!({"text": "a", "date": -1}), Some(&json!({"text": "a", "at": null})));
    becomes(&json!({"text": "a", "from": {"id": BOT}}), None);
    let long = "\u{e9}".repeat(3000);
    becomes(&json!({"text": long}), Some(&json!({"text": "\u{e9}".repeat(2048)})));
}

#[test]
fn who_writes_for_a_chat_is_nobody() {
    for from in [Value::Null, json!({"id": 1_087_968_824, "first_name": "Group", "is_bot": true})] {
        let message = json!({"text": "a", "from": from, "sender_chat": {"id": -100_987}});
        in_group(&message, Some(&json!({"text": "a", "from": null})));
    }
}

#[test]
fn a_group_mentions_the_bot_by_name_by_reply_or_by_command() {
    let entity = |kind: &str, offset: usize, length: usize| json!([{"type": kind, "offset": offset, "length": length}]);
    let cases = [
        (json!({"text": "hi @helperbot"}), entity("mention", 3, 10), "hi @helperbot", true),
        // Offsets are UTF-16: these two are of two units, and of one.
        (
            json!({"text": "\u{1f600}\u{4f60} @HelperBot"}),
            entity("mention", 4, 10),
            "\u{1f600}\u{4f60} @HelperBot",
            true,
        ),
        (
            json!({"text": "\u{1f600}@HelperBot"}),
            entity("mention", 1, 10),
            "\u{1f600}@HelperBot",
            false,
        ),
        (json!({"text": "hi @HelperBot2"}), entity("mention", 3, 11), "hi @HelperBot2", false),
        (json!({"text": "hi @HelperBot"}), json!([]), "hi @HelperBot", false),
        (
            json!({"text": "hi @HelperBot"}),
            entity("mention", 3, usize::MAX),
            "hi @HelperBot",
            false,
        ),
        (
            json!({"text": "hi @HelperBot"}),
            json!([{"type": "mention", "offset": -1}, 5]),
            "hi @HelperBot",
            false,
        ),
        (
            json!({"text": "You, say"}),
            json!([{"type": "text_mention", "offset": 0, "length": 3, "user": {"id": BOT}}]),
            "You, say",
            true,
        ),
        (
            json!({"text": "You, say"}),
            json!([{"type": "text_mention", "offset": 0, "length": 3, "user": {"id": 8}}]),
            "You, say",
            false,
        ),
        (json!({"text": "/new@helperBOT now"}), entity("bot_command", 0, 14), "/new now", true),
        (json!({"text": "/new"}), entity("bot_command", 0, 4), "/new", false),
        (
            json!({"text": "try /new@HelperBot"}),
            entity("bot_command", 4, 14),
            "try /new@HelperBot",
            true,
        ),
        (
            json!({"text": "a", "reply_to_message": {"message_id": 5, "from": {"id": BOT}}}),
            json!([]),
            "a",
            true,
        ),
        (
            json!({"text": "a", "reply_to_message": {"message_id": 5, "from": {"id": 8}}}),
            json!([]),
            "a",
            false,
        ),
    ];
    for (message, entities, text, mentioned) in cases {
        let reply = message.get("reply_to_message").map(|_| "5");
        let line = json!({"text": text, "mentioned": mentioned, "reply_to": reply});
        in_group(&over(&message, &json!({"entities": entities})), Some(&line));
    }
    let other = json!({"text": "/new@OtherBot", "entities": entity("bot_command", 0, 13)});
    in_group(&other, None);
    becomes(&other, None);
}

#[test]
fn a_thread_is_one_only_in_a_topic() {
    let first = json!({"message_id": 12, "from": {"id": BOT}});
    let topic = json!({"text": "a", "message_thread_id": 12, "is_topic_message": true, "reply_to_message": first});
    in_group(&topic, Some(&json!({"text": "a", "thread": "12"})));
    let reply = json!({"message_id": 13, "from": {"id": BOT}});
    let line = json!({"text": "a", "thread": "12", "reply_to": "13", "mentioned": true});
    in_group(&with(&topic, &json!({"reply_to_message": reply})), Some(&line));
    in_group(&json!({"text": "a", "message_thread_id": 12}), Some(&json!({"text": "a"})));
}

#[test]
fn what_is_no_text_is_a_line_in_brackets() {
    let place = json!({"latitude": 52.5, "longitude": -13.25});
    let cases = [
        (json!({"location": place}), "[location: 52.5, -13.25]"),
        (
            json!({"location": place, "venue": {"location": place, "title": "Caf\u{e9}", "address": "]\n[x"}}),
            "[venue: Caf\u{e9}, '\\u{a}'x, 52.5, -13.25]",
        ),
        (json!({"contact": {"first_name": "Bo", "phone_number": "+49"}}), "[contact: Bo, +49]"),
        (
            json!({"poll": {"question": "Tea?", "options": [{"text": "yes"}, {"text": "no"}]}}),
            "[poll: Tea? yes / no]",
        ),
        (json!({"dice": {"emoji": "\u{1f3b2}", "value": 4}}), "[dice: \u{1f3b2} 4]"),
        (json!({"sticker": {"emoji": "\u{1f600}", "file_id": "s"}}), "[sticker \u{1f600}]"),
        (json!({"story": {}}), "[story]"),
        (
            json!({"text": "a", "forward_origin": {"type": "user", "sender_user": {"first_name": "Bo"}}}),
            "[forwarded from Bo]\na",
        ),
        (
            json!({"text": "a", "forward_origin": {"type": "hidden_user", "sender_user_name": "x]\u{202e}"}}),
            "[forwarded from x'\\u{202e}]\na",
        ),
        (
            json!({"text": "a", "forward_origin": {"type": "channel", "chat": {"title": "News"}}}),
            "[forwarded from News]\na",
        ),
        (
            json!({"text": "/stop@OtherBot", "entities": [{"type": "bot_command", "offset": 0, "length": 14}],
                "forward_from": {"first_name": "Bo"}}),
            "[forwarded from Bo]\n/stop@OtherBot",
        ),
    ];
    for (message, text) in cases {
        becomes(&message, Some(&json!({"text": text})));
    }
    for service in ["pinned_message", "new_chat_members", "left_chat_member", "forum_topic_created"]
    {
        becomes(&json!({service: {"message_id": 1}}), None);
    }
}

#[test]
fn a_group_that_moves_is_said() {
    let moved =
        json!({"op": "moved", "n": 1, "from_conversation": "-5", "to_conversation": "-1005"});
    let old =
        json!({"message_id": 1, "chat": {"id": -5, "type": "group"}, "migrate_to_chat_id": -1005});
    let new = json!({"message_id": 1, "chat": {"id": -1005, "type": "supergroup"}, "migrate_from_chat_id": -5});
    for message in [old, new] {
        assert_eq!(of(&json!({"message": message})), [Action::Line(moved.clone())]);
    }
}

#[test]
fn an_edited_message_replaces_its_text() {
    let message = json!({"message_id": 55, "chat": {"id": 42, "type": "private"}, "from": {"id": 42},
        "text": "/new@HelperBot", "entities": [{"type": "bot_command", "offset": 0, "length": 14}]});
    let line = json!({"op": "edit", "n": 1, "id": "42:55", "text": "/new"});
    assert_eq!(of(&json!({"edited_message": message})), [Action::Line(line)]);
    let live = with(&message, &json!({"text": null, "location": {"latitude": 1, "longitude": 1}}));
    assert_eq!(of(&json!({"edited_message": live})), []);
}

#[test]
fn a_press_is_answered_once_the_gateway_has_it() {
    let query = json!({"id": "q1", "from": {"id": 42, "first_name": "Ann"}, "data": "allow:p:7",
        "message": {"message_id": 9, "date": 0, "chat": {"id": -5, "type": "group"}}});
    let line = json!({"op": "press", "n": 1, "id": "q1", "conversation": "-5", "prompt": "p:7", "choice": "allow",
        "from": {"id": "42", "name": "Ann", "bot": false, "verified": true}});
    assert_eq!(of(&json!({"callback_query": query})), [Action::Line(line)]);
    let now = Instant::now();
    let answer = |event: Event| {
        let mut receiver = receiver(now);
        takes(&mut receiver, json!([{"update_id": 1, "callback_query": query}]), now);
        let mut actions = receiver.step(event, now);
        actions.retain(|it| !matches!(it, Action::Poll(_)));
        actions
    };
    let answered = Action::Call(call("answerCallbackQuery", json!({"callback_query_id": "q1"})));
    let bare = json!({"chat_id": -5, "message_id": 9, "reply_markup": {"inline_keyboard": []}});
    let removed = Action::Call(call("editMessageReplyMarkup", bare));
    assert_eq!(answer(Event::Ack { n: 1, served: true }), [answered, removed]);
    let words = json!({"callback_query_id": "q1", "text": "full", "show_alert": true});
    let refuse = Event::Refuse { n: 1, retry_after: None, why: "full".to_owned() };
    assert_eq!(answer(refuse), [Action::Call(call("answerCallbackQuery", words))]);
    assert_eq!(answer(Event::Refuse { n: 1, retry_after: Some(5), why: "full".to_owned() }), []);
    for other in [
        json!({"data": "allow"}),
        json!({"data": null}),
        json!({"message": null}),
        json!({"from": null}),
    ] {
        let actions = of(&json!({"callback_query": with(&query, &other)}));
        assert!(
            matches!(&actions[..], [Action::Call(call)] if call.method == "answerCallbackQuery")
        );
    }
}

#[test]
fn the_operator_is_told_where_the_bot_comes_and_goes() {
    let change = |kind: &str, before: &str, after: &str| {
        of(
            &json!({"my_chat_member": {"chat": {"id": 42, "type": kind, "title": "G\u{7}"}, "from": {"id": 8, "first_name": "Bo"},
            "old_chat_member": {"status": before}, "new_chat_member": {"status": after}}}),
        )
    };
    let said = |line: &str| vec![Action::Say(format!("@HelperBot {line}"))];
    assert_eq!(
        change("group", "left", "member"),
        said("was added to the group \"G\\u{7}\" (42), by \"Bo\" (8)")
    );
    assert_eq!(
        change("group", "administrator", "kicked"),
        said("was removed from the group \"G\\u{7}\" (42), by \"Bo\" (8)")
    );
    assert_eq!(change("private", "member", "kicked"), said("was blocked by \"G\\u{7}\" (42)"));
    assert_eq!(change("group", "member", "administrator"), []);
}

#[test]
fn pieces_and_albums_are_groups_by_what_telegram_says() {
    let now = Instant::now();
    let mut receiver = receiver(now);
    let message = |id: i64, date: i64, units: usize, from: i64| {
        json!({"update_id": id, "message": {"message_id": id, "date": date, "chat": {"id": -5, "type": "group"},
            "from": {"id": from}, "text": "x".repeat(units)}})
    };
    let album = json!({"update_id": 9, "message": {"message_id": 9, "date": 100, "chat": {"id": -5, "type": "group"},
        "from": {"id": 1}, "caption": "c", "media_group_id": "77", "photo": [{"file_id": "f", "file_size": 5}]}});
    let updates = [
        message(1, 100, 4000, 1),
        message(2, 101, 10, 2),
        message(3, 102, 4001, 1),
        message(4, 104, 3, 1),
        message(5, 104, 4000, 1),
        message(6, 107, 4000, 1),
        message(7, 108, 3999, 1),
        message(8, 108, 3, 1),
        album,
    ];
    let mut groups = Vec::new();
    for action in takes(&mut receiver, updates.to_vec().into(), now) {
        if let Action::Line(line) = action {
            groups.push(line["group"].as_str().unwrap_or("").to_owned());
        }
    }
    assert_eq!(
        groups,
        ["text--5-1", "", "text--5-1", "text--5-1", "text--5-5", "text--5-6", "text--5-6", ""]
    );
    assert!(receiver.queue.wants_more());
}

/// One message with this member, as update `id`.
fn with_file(id: i64, chat: i64, file: &Value) -> Value {
    let message = json!({"message_id": id, "chat": {"id": chat, "type": "private"}, "from": {"id": chat},
        "caption": "what is it?"});
    json!({"update_id": id, "message": with(&message, file)})
}

fn lines(actions: &[Action]) -> Vec<&Value> {
    let mut all = Vec::new();
    for action in actions {
        if let Action::Line(line) = action {
            all.push(line);
        }
    }
    all
}

fn fetches(actions: &[Action]) -> Vec<(u64, &str)> {
    let mut all = Vec::new();
    for action in actions {
        if let Action::Fetch { ticket, wanted } = action {
            all.push((*ticket, &*wanted.name));
        }
    }
    all
}

#[test]
fn a_file_is_downloaded_before_its_message_is_offered() {
    let now = Instant::now();
    let photo = json!([{"file_id": "s", "width": 90, "file_size": 900}, {"file_id": "m", "width": 800, "file_size": 9000},
        {"file_id": "l", "width": 9000, "file_size": 21_000_000}]);
    let cases = [
        (json!({"photo": photo}), "m", "photo.jpg", "image/jpeg"),
        (
            json!({"document": {"file_id": "d", "file_name": "../a\u{202e}/b.txt", "mime_type": "text/plain"}}),
            "d",
            "_a__b.txt",
            "text/plain",
        ),
        (json!({"audio": {"file_id": "a"}}), "a", "audio.mp3", "audio/mpeg"),
        (json!({"voice": {"file_id": "v"}}), "v", "voice.ogg", "audio/ogg"),
        (json!({"video": {"file_id": "v"}}), "v", "video.mp4", "video/mp4"),
        (json!({"video_note": {"file_id": "n"}}), "n", "video_note.mp4", "video/mp4"),
        (
            json!({"animation": {"file_id": "g"}, "document": {"file_id": "x"}}),
            "g",
            "animation.mp4",
            "video/mp4",
        ),
    ];
    for (file, id, name, of) in cases {
        let mut receiver = receiver(now);
        let actions = takes(&mut receiver, json!([with_file(31, 42, &file)]), now);
        let [Action::Fetch { ticket: 1, wanted }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!((&*wanted.file_id, &wanted.name), (id, &format!("31-{name}")));
        let fetched = Event::Fetched { ticket: 1, result: Ok(("/files/x".to_owned(), 9)) };
        let actions = receiver.step(fetched, now);
        let expected = json!([{"path": "/files/x", "name": name, "type": of, "size": 9}]);
        assert_eq!(lines(&actions)[0]["files"], expected);
        assert_eq!(lines(&actions)[0]["text"], "what is it?");
    }
    let long = json!({"document": {"file_id": "d", "file_name": format!("{}.{}", "\u{e9}".repeat(40_000), "x".repeat(99))}});
    let actions = takes(&mut receiver(now), json!([with_file(31, 42, &long)]), now);
    let name = fetches(&actions)[0].1;
    assert!(name.len() <= 104 && name.ends_with(".xxxxxxxxxxxxxxxxxxx"), "{name}");
}

#[test]
fn a_file_that_does_not_come_is_a_line_in_the_text() {
    let now = Instant::now();
    let mut receiver = receiver(now);
    let large = json!({"video": {"file_id": "v", "file_size": 34_560_000}});
    let actions = takes(
        &mut receiver,
        json!([with_file(1, 42, &large), with_file(2, 42, &json!({"voice": {"file_id": "v"}}))]),
        now,
    );
    let text = "what is it?\n[video \"video.mp4\" (34.5 MB) was not downloaded: larger than 20 MB]";
    assert_eq!(lines(&actions)[0]["text"], text);
    let actions = receiver.step(Event::Fetched { ticket: 1, result: Err("cut\n".to_owned()) }, now);
    let text = "what is it?\n[voice \"voice.ogg\" was not downloaded: cut\\u{a}]";
    assert_eq!(lines(&actions)[0]["text"], text);
    // The talk of a group, and what is nobody's.
    let mut group = with_file(3, 42, &json!({"voice": {"file_id": "v"}}));
    group["message"]["chat"] = json!({"id": -5, "type": "group"});
    let actions = of(&group);
    assert_eq!(fetches(&actions), []);
    assert_eq!(lines(&actions).len(), 1);
}

#[test]
fn a_slow_file_holds_up_its_own_chat_alone() {
    let now = Instant::now();
    let mut receiver = receiver(now);
    (10..16).for_each(|id| receiver.queue.senders.note(id, true));
    let text = |id: i64, chat: i64| with_file(id, chat, &json!({"text": "a"}));
    let file = json!({"voice": {"file_id": "v"}});
    let updates = json!([
        with_file(1, 10, &file),
        text(2, 10),
        text(3, 11),
        with_file(4, 12, &file),
        with_file(5, 13, &file),
        with_file(6, 14, &file),
        with_file(7, 15, &file)
    ]);
    let actions = takes(&mut receiver, updates, now);
    let names = ["1-voice.ogg", "4-voice.ogg", "5-voice.ogg", "6-voice.ogg"];
    assert_eq!(fetches(&actions).iter().map(|it| it.1).collect::<Vec<_>>(), names, "four at once");
    let ids = |actions: &[Action]| {
        lines(actions).iter().map(|it| it["id"].to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids(&actions), "\"11:3\"");
    // What comes meanwhile is asked for, and nothing can be confirmed.
    let actions = receiver.step(Event::Ack { n: 1, served: true }, now);
    assert_eq!(actions, []);
    let later = receiver.timer().unwrap();
    assert_eq!(later, now + QUICK);
    let actions = receiver.step(Event::Timer, later);
    let [Action::Poll(poll)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((&poll.parameters["timeout"], poll.parameters.get("offset")), (&json!(0), None));
    let actions =
        receiver.step(Event::Fetched { ticket: 1, result: Ok(("/f".to_owned(), 1)) }, later);
    assert_eq!(ids(&actions), "\"10:1\" \"10:2\"");
    assert_eq!(fetches(&actions), [(5, "7-voice.ogg")]);
}

#[test]
fn an_album_is_offered_once_all_its_files_are_there() {
    let now = Instant::now();
    let mut receiver = receiver(now);
    let piece = |id: i64, album: &str| {
        with_file(id, 42, &json!({"voice": {"file_id": "v"}, "media_group_id": album}))
    };
    let fetched = |ticket| Event::Fetched { ticket, result: Ok(("/f".to_owned(), 1)) };
    receiver.queue.senders.note(42, true);
    takes(&mut receiver, json!([piece(1, "a"), piece(2, "a"), piece(3, "b")]), now);
    assert_eq!(receiver.step(fetched(1), now), []);
    assert_eq!(receiver.step(fetched(3), now), []);
    let ids: Vec<_> =
        lines(&receiver.step(fetched(2), now)).iter().map(|it| it["id"].clone()).collect();
    assert_eq!(ids, ["42:1", "42:2", "42:3"]);
}

#[test]
fn all_whom_nobody_serves_share_one_large_file_in_ten_minutes() {
    let mut now = Instant::now();
    let mut senders = senders::Senders::default();
    for _ in 0..3 {
        assert!(senders.may(1, 15_000_000, now), "nobody has answered him yet");
    }
    senders.count(1, 155_000_000, now);
    assert!(senders.may(2, 1, now));
    assert!(!senders.may(2, 11_000_000, now), "there is a limit for these, too");
    (1..4).for_each(|id| senders.note(id, id == 1));
    assert!(senders.may(1, 20_000_000, now) && senders.may(1, 20_000_000, now));
    assert!(senders.may(2, 15_000_000, now) && !senders.may(3, 6_000_000, now));
    assert!((0..5).all(|_| senders.may(3, 1, now)) && !senders.may(2, 1, now));
    now += Duration::from_mins(10);
    assert!(senders.may(3, 0, now));
    senders.count(3, 20_000_000, now);
    assert!(!senders.may(2, 0, now));
    (4..300).for_each(|id| senders.note(id, false));
    assert_eq!((senders.served(2), senders.served(299)), (None, Some(false)));
}

#[test]
fn files_of_who_may_not_be_served_leave_room_for_the_others() {
    let now = Instant::now();
    let mut receiver = receiver(now);
    receiver.queue.senders.note(13, true);
    let file = json!({"voice": {"file_id": "v"}});
    let updates: Vec<_> = (10..14).map(|id| with_file(id, id, &file)).collect();
    let actions = takes(&mut receiver, updates.into(), now);
    let names: Vec<_> = fetches(&actions).iter().map(|it| it.1).collect();
    assert_eq!(names, ["10-voice.ogg", "11-voice.ogg", "13-voice.ogg"]);
    let fetched = Event::Fetched { ticket: 1, result: Err("cut".to_owned()) };
    assert_eq!(fetches(&receiver.step(fetched, now)), [(4, "12-voice.ogg")]);
}

#[test]
fn malformed_updates_are_said_and_count_as_answered() {
    let now = Instant::now();
    let mut receiver = receiver(now);
    let good = with_file(50, 42, &json!({"text": "a"}));
    let mut bad =
        vec![json!(5), json!({"message": {}}), json!({"update_id": "5"}), json!({"update_id": -5})];
    let chat = json!({"id": 42, "type": "private"});
    for message in [
        json!(null),
        json!("x"),
        json!({}),
        json!({"chat": chat}),
        json!({"chat": {"id": "42"}, "message_id": 5}),
        json!({"chat": chat, "message_id": 5, "text": 5}),
        json!({"chat": chat, "message_id": 5, "photo": []}),
        json!({"chat": chat, "message_id": 5, "text": "a", "from": {"id": "5"}}),
        json!({"chat": chat, "message_id": 5, "voice": {}}),
    ] {
        bad.push(json!({"update_id": bad.len(), "message": message}));
    }
    let count = bad.len();
    bad.extend([good.clone(), good]);
    let actions = takes(&mut receiver, bad.into(), now);
    assert_eq!(actions.iter().filter(|it| matches!(it, Action::Say(_))).count(), count);
    assert_eq!(lines(&actions).len(), 1, "it is there twice");
    let actions = receiver.step(Event::Ack { n: 1, served: true }, now);
    let [Action::Poll(poll)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(poll.parameters["offset"], 51);
    let many = vec![json!({}); 50];
    let actions = takes(&mut receiver, many.into(), now);
    assert_eq!(actions.len(), 21 - count, "no more than some lines a minute");
}

/// The next poll's parameters, at its time.
#[track_caller]
fn next_poll(receiver: &mut Receiver) -> (Instant, Value) {
    let at = receiver.timer().unwrap();
    let actions = receiver.step(Event::Timer, at);
    let [Action::Poll(poll)] = &actions[..] else { panic!("{actions:?}") };
    (at, poll.parameters.clone())
}

#[test]
fn what_is_answered_is_confirmed_once() {
    let now = Instant::now();
    let mut receiver = receiver(now);
    takes(
        &mut receiver,
        json!([
            with_file(900, 42, &json!({"text": "a"})),
            with_file(901, 42, &json!({"text": "b"}))
        ]),
        now,
    );
    assert_eq!(
        (receiver.step(Event::Ack { n: 1, served: true }, now), receiver.timer()),
        (vec![], None)
    );
    let actions = receiver.step(Event::Ack { n: 2, served: true }, now);
    let expected = json!({"offset": 902, "limit": 64, "timeout": 50,
        "allowed_updates": ["message", "edited_message", "callback_query", "my_chat_member"]});
    assert_eq!(actions, [Action::Poll(call("getUpdates", expected.clone()))]);
    let later = now + Duration::from_secs(50);
    let actions = receiver.step(Event::Updates(Ok(json!([]))), later);
    let again = with(&expected, &json!({"offset": null}));
    assert_eq!(actions, [Action::Poll(call("getUpdates", again))], "the next id may be lower");
    let actions = receiver.step(Event::Updates(Ok(json!([]))), later);
    assert_eq!(actions, [], "it was not held, and brings nothing");
    assert_eq!(receiver.timer(), Some(later + PAUSE));
}

#[test]
fn polls_that_fail_are_made_again_after_pauses_and_said_once() {
    let refused = |code, description: &str, retry_after| {
        let description = description.to_owned();
        Failure::Refused(Refusal { code, description, retry_after, migrate_to: None })
    };
    let fails = |failures: &[Failure]| {
        let now = Instant::now();
        let mut receiver = receiver(now);
        let (mut at, mut pauses, mut said) = (now, Vec::new(), Vec::new());
        for failure in failures {
            said.extend(receiver.step(Event::Updates(Err(failure.clone())), at));
            let (next, _) = next_poll(&mut receiver);
            pauses.push((next - at).as_secs());
            at = next;
        }
        said.extend(receiver.step(Event::Updates(Ok(json!([]))), at + Duration::from_secs(50)));
        said.retain(|it| !matches!(it, Action::Poll(_)));
        (pauses, said)
    };
    let status =
        |state: &str, why: &str| Action::Line(json!({"op": "status", "state": state, "why": why}));
    let (pauses, said) = fails(&vec![Failure::NotSent("no route".to_owned()); 8]);
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(said, [status("connecting", "no route"), status("up", "")]);
    let (pauses, said) =
        fails(&vec![refused(409, "Conflict: terminated by other getUpdates request", None); 7]);
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    assert!(matches!(&said[0], Action::Line(line) if line["state"] == "conflict"));
    let conflict = refused(409, "Conflict: terminated by other getUpdates request", None);
    let away = Failure::NotSent("no route".to_owned());
    let (_, said) = fails(&[away.clone(), away, conflict.clone(), conflict.clone()]);
    assert_eq!(said.len(), 2, "a poll of its own that has died: {said:?}");
    let (_, said) = fails(&[conflict.clone(), conflict.clone(), conflict]);
    assert_eq!(said.len(), 2);
    let webhook = refused(409, "can't use getUpdates method while webhook is active", None);
    let (_, said) = fails(&[webhook.clone(), webhook]);
    let delete = Action::Call(call("deleteWebhook", json!({})));
    assert_eq!(said.iter().filter(|it| **it == delete).count(), 2, "each can fail");
    assert!(matches!(&said[1], Action::Say(_)) && said.len() == 5, "{said:?}");
    let (pauses, said) =
        fails(&[refused(429, "Too Many Requests", Some(17)), refused(502, "Bad Gateway", None)]);
    assert_eq!((&pauses[..], said.len()), (&[17, 2][..], 3));
}

#[test]
fn a_token_that_is_not_known_ends_the_process() {
    for code in [401, 404] {
        let now = Instant::now();
        let mut receiver = receiver(now);
        let refusal =
            Refusal { code, description: "Unauthorized".to_owned(), ..Refusal::default() };
        let actions = receiver.step(Event::Updates(Err(Failure::Refused(refusal))), now);
        assert!(
            matches!(&actions[..], [Action::Say(_), Action::Line(line), Action::Exit(78)] if line["state"] == "unauthorized")
        );
        assert_eq!((receiver.step(Event::Timer, now), receiver.timer()), (vec![], None));
    }
}

#[test]
fn an_answer_that_is_too_large_is_asked_for_in_parts() {
    let now = Instant::now();
    let mut receiver = receiver(now);
    let mut limits = Vec::new();
    let mut at = now;
    for _ in 0..3 {
        let large = Failure::Unknown("the answer is too large".to_owned());
        receiver.step(Event::Updates(Err(large)), at);
        let (next, poll) = next_poll(&mut receiver);
        limits.push(poll["limit"].as_u64().unwrap());
        at = next;
    }
    assert_eq!(limits, [10, 1, 1]);
    let actions = receiver.step(Event::Updates(Ok(json!([{"update_id": 5}]))), at);
    assert!(
        matches!(&actions[..], [Action::Line(_), Action::Poll(poll)] if poll.parameters["limit"] == 10)
    );
}

#[test]
fn what_is_refused_for_now_is_offered_again_with_its_number() {
    let now = Instant::now();
    let mut receiver = receiver(now);
    let text = |id: i64| with_file(id, 42, &json!({"text": "a"}));
    takes(&mut receiver, json!([text(1), text(2), text(3)]), now);
    receiver.step(Event::Ack { n: 1, served: true }, now);
    let refuse = |n| Event::Refuse { n, retry_after: Some(5), why: "full".to_owned() };
    assert_eq!(receiver.step(refuse(2), now), []);
    assert_eq!(receiver.timer(), None, "the third one has no answer");
    assert_eq!(receiver.step(refuse(3), now), []);
    let at = receiver.timer().unwrap();
    assert_eq!(at, now + Duration::from_secs(5));
    let actions = receiver.step(Event::Timer, at);
    let again: Vec<_> =
        lines(&actions).iter().map(|it| (it["n"].clone(), it["id"].clone())).collect();
    assert_eq!(again, [(json!(2), json!("42:2")), (json!(3), json!("42:3"))]);
}

#[test]
fn what_could_not_be_offered_before_a_refusal_comes_behind_it() {
    let now = Instant::now();
    let mut receiver = receiver(now);
    let file = json!({"voice": {"file_id": "v"}});
    let text = |id: i64, chat: i64| with_file(id, chat, &json!({"text": "a"}));
    let numbers = |actions: &[Action]| {
        lines(actions).iter().map(|it| (it["n"].clone(), it["id"].clone())).collect::<Vec<_>>()
    };
    let updates = json!([with_file(1, 10, &file), text(2, 11), text(3, 12)]);
    let actions = takes(&mut receiver, updates, now);
    let refused = [(json!(1), json!("11:2")), (json!(2), json!("12:3"))];
    assert_eq!(numbers(&actions), refused);
    for n in [1, 2] {
        receiver.step(Event::Refuse { n, retry_after: Some(5), why: "full".to_owned() }, now);
    }
    let fetched = Event::Fetched { ticket: 1, result: Ok(("/f".to_owned(), 1)) };
    assert_eq!(receiver.step(fetched, now), []);
    let at = receiver.timer().unwrap();
    let again = numbers(&receiver.step(Event::Timer, at));
    assert_eq!(again[..2], refused);
    assert_eq!(again[2..], [(json!(3), json!("10:1"))]);
}
