//! Telegram, from outside: what people do in its chats and what they see there. The server is the tests' own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::util;
use util::telegram::{GROUP, Telegram, adapter, now, text_of};
use util::{Gate, Gateway, Home, Process, eventually, report};

const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/turns/living/agent.py");

/// A user without rights.
const NOBODY: u32 = 65_534;

/// A gateway with a channel of it, which is up; `more` belongs to the channel.
#[track_caller]
pub fn start(agent: &str, more: &str) -> (Gateway, Telegram) {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    home.configure(&format!("{agent}{}", telegram.config(more)));
    let gateway = home.start();
    until_state(&gateway, "up");
    (gateway, telegram)
}

/// The channel, as `status` shows it, once it is in this state.
#[track_caller]
pub fn until_state(gateway: &Gateway, state: &str) -> Value {
    let mut last = Value::Null;
    eventually(&format!("the channel is {state}"), || {
        last = gateway.status()["channels"][0].clone();
        (last["state"] == state).then_some(())
    });
    last
}

/// The delivery of the newest message of this person's.
pub fn delivery(gateway: &Gateway, who: i64) -> Value {
    let path = format!("/v1/messages?principal=family%3A{who}");
    let list = gateway.api().get(&path).assert_status(200).json();
    let Some(id) = list["messages"][0]["id"].as_str() else { return Value::Null };
    gateway.api().message(id)["deliveries"][0].clone()
}

/// Waits until the reply to it has arrived, for the gateway too.
#[track_caller]
fn until_delivered(gateway: &Gateway, who: i64) {
    eventually("it is delivered", || {
        (delivery(gateway, who)["status"] == "delivered").then_some(())
    });
}

/// An agent that says which files it got, with their content, and what it was asked.
const READS_FILES: &str = "cat; printf '|'; for f in $(echo \"$HERMES_ATTACHMENTS\" | tr -d '[]\"' | tr , ' '); \
                           do cat \"$f\"; printf ';'; done";

#[test]
fn what_somebody_says_is_answered_and_the_reply_is_formatted() {
    let agent = util::script("cat; printf ' **bold \\360\\237\\230\\200** and `code` __x'");
    let (gateway, telegram) = start(&agent, "");
    telegram.say(42, "hello");
    telegram.say(99, "a stranger");
    let reply = telegram.until(42, "hello");
    assert_eq!(reply["text"], "hello bold \u{1f600} and code __x");
    let of = |kind: &str| {
        let all = reply["entities"].as_array().unwrap();
        let it = all.iter().find(|it| it["type"] == kind).unwrap_or_else(|| panic!("{reply}"));
        (it["offset"].as_u64().unwrap(), it["length"].as_u64().unwrap())
    };
    assert_eq!((of("bold"), of("code")), ((6, 7), (18, 4)));
    assert_eq!(reply["link_preview_options"]["is_disabled"], true);
    telegram.until_confirmed();
    assert!(telegram.seen(99).is_empty());
    let sessions =
        gateway.api().get("/v1/sessions?principal=family%3A42").assert_status(200).json();
    assert_eq!(sessions["sessions"][0]["session"], "family:42", "{sessions}");
    // The commands are in the menu.
    let commands = telegram.until_call("the menu", |it| it["method"] == "setMyCommands");
    let commands = commands["parameters"]["commands"].as_array().unwrap().clone();
    assert!(commands.iter().any(|it| it["command"] == "whoami"), "{commands:?}");
}

#[test]
fn the_bot_is_typing_and_a_growing_preview_becomes_the_reply() {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    let gate = Gate::closed(home.path());
    let agent =
        util::script(&format!("echo '**first** words'; {}; echo 'and *more*'", gate.wait()));
    let more = "preview = true\npace = \"100ms\"\n";
    home.configure(&format!("{agent}{}", telegram.config(more)));
    let gateway = home.start();
    let asked = telegram.say(42, "question");
    let preview = telegram.until(42, "first words");
    telegram.until_call("typing", |it| {
        it["method"] == "sendChatAction" && it["parameters"]["action"] == "typing"
    });
    gate.open();
    let whole = telegram.until(42, "and more");
    assert_eq!(whole["message_id"], preview["message_id"], "it is edited");
    assert!(text_of(&whole).starts_with("first words"), "{whole}");
    assert_eq!(telegram.seen(42).len(), 1);
    let to = json!({ "message_id": asked, "allow_sending_without_reply": true });
    assert_eq!(preview["reply_parameters"], to);
    drop(gateway);
}

#[test]
fn the_reply_to_a_message_that_was_deleted_meanwhile_arrives() {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    let gate = Gate::closed(home.path());
    let agent = util::script(&format!("{}; cat", gate.wait()));
    home.configure(&format!("{agent}{}", telegram.config("")));
    let gateway = home.start();
    let asked = telegram.say(42, "question");
    gateway.wait_for_turns(1);
    telegram.plan(&json!({ "gone": [asked] }));
    gate.open();
    let reply = telegram.until(42, "question");
    let to = json!({ "message_id": asked, "allow_sending_without_reply": true });
    assert_eq!(reply["reply_parameters"], to);
    assert_eq!(telegram.calls_of("sendMessage").len(), 1);
}

#[test]
fn the_bot_is_typing_for_as_long_as_the_turn_runs_and_no_longer() {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    let gate = Gate::closed(home.path());
    let agent = util::script(&format!("{}; cat", gate.wait()));
    home.configure(&format!("{agent}{}", telegram.config("")));
    let _gateway = home.start();
    telegram.say(42, "question");
    let typing = || {
        let calls = telegram.calls_of("sendChatAction");
        calls.iter().map(|it| it["at"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    // Telegram shows it for 5 s.
    let times = eventually("three times", || Some(typing()).filter(|it| it.len() >= 3));
    assert!(times.windows(2).all(|it| (2.0..5.5).contains(&(it[1] - it[0]))), "{times:?}");
    gate.open();
    let replied = telegram.until(42, "question")["at"].as_f64().unwrap();
    // One may be on its way.
    util::pause(Duration::from_secs(6));
    let times = typing();
    assert!(times.iter().all(|at| *at < replied + 1.0), "{replied}: {times:?}");
}

#[test]
fn a_stranger_is_let_in_by_the_code_that_he_was_told() {
    let (gateway, telegram) = start("", "unknown = \"pair\"\n");
    telegram.say(99, "let me in");
    let told = telegram.shown(99, 1).remove(0);
    let code = told.rsplit(' ').next().unwrap();
    gateway.home().run(&["channel", "pair", code]).assert_code(0);
    telegram.say(99, "thanks");
    telegram.until(99, "thanks");
}

#[test]
fn a_button_allows_once_and_is_gone_then() {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    home.configure(&format!(
        "[agent]\ncommand = [\"python3\", \"-I\", \"-S\", {AGENT:?}, \"\"]\nprotocol = \"acp\"\napprove = \"ask\"\n\
         env = {{ HERMES_TEST_DIR = \"{}\" }}\n{}",
        home.path().display(),
        telegram.config(&format!("groups = [\"{GROUP}\"]\n"))
    ));
    let gateway = home.start();
    let question = |chat: i64| {
        eventually("a question", || {
            telegram
                .seen(chat)
                .into_iter()
                .rfind(|it| it["reply_markup"]["inline_keyboard"][0].is_array())
        })
    };
    for (label, said) in [("Allow once", "allowed"), ("Deny", "denied")] {
        telegram.say(42, "ask 1 delete all");
        let asked = question(42);
        assert!(telegram.press(42, &asked, label)["text"].is_null());
        telegram.until(42, said);
        eventually("no buttons", || {
            let seen = telegram.seen(42);
            let it = seen.iter().find(|it| it["message_id"] == asked["message_id"])?;
            it["reply_markup"]["inline_keyboard"][0].is_null().then_some(())
        });
    }
    // In the group another member presses, and is told; the buttons stay for whom they are for.
    telegram.send(&telegram.mention(42, "ask 1 delete all"));
    let asked = question(GROUP);
    let told = telegram.press(77, &asked, "Allow once");
    let why = "Whoever sent the message is asked; an operator may answer, too.";
    assert_eq!((&told["text"], &told["show_alert"]), (&json!(why), &json!(true)));
    assert!(telegram.seen(GROUP)[0]["reply_markup"]["inline_keyboard"][0].is_array());
    telegram.press(42, &asked, "Allow once");
    telegram.until(GROUP, "allowed");
    assert_eq!(telegram.calls_of("answerCallbackQuery").len(), 4);
    drop(gateway);
}

#[test]
fn a_photograph_with_a_question_reaches_the_agent_by_its_path() {
    let (gateway, telegram) = start(&util::script(READS_FILES), "");
    let mut message = telegram.message(42, 42, "");
    message["photo"] = telegram.photo(b"the largest");
    message["caption"] = json!("what is this?");
    telegram.send(&message);
    assert_eq!(telegram.shown(42, 1), ["what is this?|the largest;"]);
    // Without a word; and what has a name that could be a path.
    let mut message = telegram.message(43, 43, "");
    message["document"] = telegram.document("../../etc/\u{202e}passwd\n", b"a document");
    telegram.send(&message);
    assert_eq!(telegram.shown(43, 1), ["(A file came: .._etc__passwd.)|a document;"]);
    // One that is too large is named.
    let mut message = telegram.message(42, 42, "");
    message["document"] = telegram.document("large.iso", b"x");
    message["document"]["file_size"] = json!(30 << 20);
    message["caption"] = json!("and this?");
    telegram.send(&message);
    let text = telegram.until(42, "large.iso");
    assert!(text_of(&text).contains("and this?"), "{text}");
    let dir = gateway.home().state_dir().join("channels/family/files");
    telegram.until_confirmed();
    eventually("no file is left", || fs::read_dir(&dir).unwrap().next().is_none().then_some(()));
}

#[test]
fn an_album_is_one_message() {
    let (_gateway, telegram) = start(&util::script(READS_FILES), "");
    let album = |caption: bool, n: u8| {
        let mut message = telegram.message(42, 42, "");
        message["photo"] = telegram.photo(&[b'0' + n]);
        message["media_group_id"] = json!("7000");
        if caption {
            message["caption"] = json!("holidays");
        }
        json!({ "message": message })
    };
    // The last one comes when the first ones are on their way.
    telegram.put(&[album(true, 1), album(false, 2)]);
    telegram.until_call("the first one", |it| it["method"] == "file");
    telegram.put(&[album(false, 3)]);
    telegram.say(43, "nobody waits for it");
    assert_eq!(telegram.shown(42, 1), ["holidays|1;2;3;"]);
    assert_eq!(telegram.shown(43, 1), ["nobody waits for it|"]);
    telegram.until_confirmed();
}

#[test]
fn ten_thousand_pasted_characters_are_one_turn_and_a_reply_of_as_many_comes_in_parts() {
    let (gateway, telegram) = start("", "");
    let text: String = (0..2000).map(|n| format!("{n:04} ")).collect();
    let pieces: Vec<Value> = text
        .as_bytes()
        .chunks(4096)
        .map(|it| {
            let message = telegram.message(42, 42, std::str::from_utf8(it).unwrap());
            json!({ "message": message })
        })
        .collect();
    let begun = now();
    telegram.put(&pieces);
    let parts = telegram.shown(42, 3);
    assert!(parts.iter().all(|part| part.len() <= 4096));
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    assert_eq!(digits(&parts.concat()), digits(&text));
    let kept = gateway.api().get("/v1/messages?principal=family%3A42").assert_status(200).json();
    assert_eq!(kept["messages"].as_array().map(Vec::len), Some(1), "{kept}");
    report(&format!("{} s", now() - begun));
    telegram.until_confirmed();
}

#[test]
fn a_topic_is_a_conversation_of_its_own_and_is_answered_there() {
    let (gateway, telegram) = start("", &format!("groups = [\"{GROUP}\"]\n"));
    let mut message = telegram.mention(42, "in the topic");
    message["message_thread_id"] = json!(12);
    message["is_topic_message"] = json!(true);
    telegram.send(&message);
    // A thread of replies is no topic.
    let mut message = telegram.mention(42, "in the group");
    message["message_thread_id"] = json!(77);
    telegram.send(&message);
    assert_eq!(telegram.until(GROUP, "in the topic")["message_thread_id"], 12);
    assert_eq!(telegram.until(GROUP, "in the group")["message_thread_id"], Value::Null);
    let list = format!("/v1/sessions?principal=family%3A{GROUP}");
    let sessions = gateway.api().get(&list).assert_status(200).json();
    let names: Vec<_> =
        sessions["sessions"].as_array().unwrap().iter().map(|it| it["session"].clone()).collect();
    assert_eq!(names, [json!(format!("family:{GROUP}")), json!(format!("family:{GROUP}:12"))]);
}

#[test]
fn in_a_group_it_answers_who_mentions_it_replies_to_it_or_commands_it_and_nobody_else() {
    let (_gateway, telegram) = start("", &format!("groups = [\"{GROUP}\"]\n"));
    // A mention behind what takes two units each.
    telegram.send(&telegram.mention(1, "\u{1f600}\u{1f600} one"));
    let one = telegram.until(GROUP, "one");
    assert_eq!(telegram.seen(GROUP).len(), 1);
    let mut reply = telegram.message(GROUP, 2, "two");
    reply["reply_to_message"] = json!({ "message_id": one["message_id"], "date": now(),
        "chat": { "id": GROUP, "type": "supergroup" }, "from": { "id": 4242, "is_bot": true } });
    telegram.send(&reply);
    telegram.until(GROUP, "two");
    telegram.send(&telegram.message(GROUP, 3, "/whoami@test_4242_bot"));
    telegram.until(GROUP, &format!("family:{GROUP}"));
    telegram.send(&telegram.message(GROUP, 3, "/whoami@TEST_4242_bot"));
    telegram.shown(GROUP, 4);
    // Talk, another bot's command, a mention of somebody with a longer name, a text that only looks like one.
    telegram.send(&telegram.message(GROUP, 4, "talk"));
    telegram.send(&telegram.message(GROUP, 4, "/whoami@other_bot"));
    let mut other = telegram.message(GROUP, 4, "no @test_4242_bot2");
    other["entities"] = json!([{ "type": "mention", "offset": 3, "length": 15 }]);
    telegram.send(&other);
    // Who writes as the group or as a channel, and bots.
    for chat in [GROUP, -1_009_999] {
        let mut anonymous = telegram.mention(1_087_968_824, "no anonymous");
        anonymous["sender_chat"] = json!({ "id": chat, "type": "supergroup", "title": "x" });
        anonymous["from"]["is_bot"] = json!(true);
        telegram.send(&anonymous);
    }
    let mut bot = telegram.mention(5, "no bot");
    bot["from"]["is_bot"] = json!(true);
    telegram.send(&bot);
    // Another group.
    telegram.send(&telegram.message(-1_005_555, 42, "/whoami"));
    // In the bot's own entity, without a name.
    let mut mention = telegram.message(GROUP, 6, "Bot, last");
    mention["entities"] = json!([{ "type": "text_mention", "offset": 0, "length": 3,
        "user": { "id": 4242, "is_bot": true, "first_name": "Bot" } }]);
    telegram.send(&mention);
    telegram.until(GROUP, "last");
    telegram.until_confirmed();
    assert_eq!(telegram.seen(GROUP).len(), 5, "{:?}", telegram.shown(GROUP, 5));
    assert!(telegram.seen(-1_005_555).is_empty());
}

#[test]
fn a_message_that_is_edited_while_it_waits_is_answered_as_edited() {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    let gate = Gate::closed(home.path());
    let agent = util::script(&format!("{}; cat", gate.wait()));
    home.configure(&format!("{agent}{}", telegram.config("")));
    let gateway = home.start();
    telegram.say(42, "first");
    gateway.wait_for_turns(1);
    let mut second = telegram.message(42, 42, "secnod");
    telegram.send(&second);
    second["text"] = json!("second");
    second["edit_date"] = json!(now());
    telegram.put(&[json!({ "edited_message": second })]);
    telegram.until_confirmed();
    gate.open();
    assert_eq!(telegram.shown(42, 2), ["first", "second"]);
    // One that is answered is answered.
    second["text"] = json!("too late");
    telegram.put(&[json!({ "edited_message": second })]);
    telegram.until_confirmed();
    telegram.say(42, "last");
    assert_eq!(telegram.shown(42, 3), ["first", "second", "last"]);
}

#[test]
fn a_group_that_becomes_a_supergroup_keeps_its_conversation() {
    let (old, new) = (-555, GROUP);
    let (gateway, telegram) = start("", &format!("groups = [\"{old}\"]\n"));
    let mut message = telegram.message(old, 42, "/whoami");
    message["chat"]["type"] = json!("group");
    telegram.send(&message);
    telegram.shown(old, 1);
    // It is told with the next reply there, and by service messages.
    telegram.plan(&json!({ "migrated": { old.to_string(): new.to_string() } }));
    let mut message = telegram.message(old, 42, "/help");
    message["chat"]["type"] = json!("group");
    telegram.send(&message);
    telegram.shown(new, 1);
    let mut told = telegram.message(old, 42, "");
    told["migrate_to_chat_id"] = json!(new);
    telegram.send(&told);
    let mut told = telegram.message(new, 42, "");
    told["migrate_from_chat_id"] = json!(old);
    telegram.send(&told);
    telegram.send(&telegram.mention(42, "in the new one"));
    telegram.until(new, "in the new one");
    let sessions = gateway.api().get("/v1/sessions?principal=family").assert_status(200).json();
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(1), "{sessions}");
    telegram.until_confirmed();
}

#[test]
fn an_operator_restarts_the_gateway_from_his_chat_and_is_told_when_it_is_back() {
    let (gateway, telegram) = start("", "operators = [\"44\"]\n");
    telegram.say(42, "/restart");
    telegram.shown(42, 1);
    telegram.say(44, "/restart");
    telegram.until(44, "back after ");
    let told = telegram.shown(44, 2);
    assert!(told[0].starts_with("restart requested"), "{told:?}");
    telegram.say(42, "as before");
    telegram.until(42, "as before");
    telegram.until_confirmed();
    drop(gateway);
}

#[test]
fn what_was_sent_while_nobody_listened_is_answered_and_nothing_is_dropped() {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    home.configure(&telegram.config("[limits]\nmax_queue_per_session = 1000\n"));
    let count: usize = util::rounds(150, 500);
    for n in 0..count {
        telegram.say(if n % 2 == 0 { 42 } else { 43 }, &n.to_string());
    }
    let gateway = home.start();
    telegram.until_confirmed();
    let kept = |who: i64| {
        let path = format!("/v1/messages?principal=family%3A{who}&limit=1000");
        let kept = gateway.api().get(&path).assert_status(200).json();
        let texts = kept["messages"].as_array().unwrap().iter().rev();
        texts.map(|it| it["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = [42, 43].map(kept);
    assert_eq!(all.iter().map(Vec::len).sum::<usize>(), count);
    assert_eq!(gateway.api().reply(all[0].last().unwrap()), (count - 2).to_string());
}

#[test]
fn after_more_than_a_day_without_a_poll_it_says_that_something_may_be_missing() {
    let (gateway, telegram) = start("", "");
    telegram.say(42, "one");
    telegram.until(42, "one");
    until_delivered(&gateway, 42);
    telegram.until_confirmed();
    assert!(gateway.status()["channels"][0]["gap"].is_null(), "{}", gateway.status());
    let home = gateway.end(libc::SIGTERM);
    // Telegram forgets what it has had for so long.
    telegram.plan(&json!({ "keep": 0 }));
    telegram.say(42, "two");
    eventually("it has forgotten that", || (telegram.pending() == 0).then_some(()));
    telegram.plan(&json!({}));
    telegram.say(42, "three");
    let polled = |hours: u64| {
        let marker = home.state_dir().join("channels/family/state/polled");
        let file = fs::File::options().write(true).open(marker).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
    };
    polled(25);
    let gateway = home.start();
    assert_eq!(telegram.shown(42, 2), ["one", "three"]);
    until_delivered(&gateway, 42);
    let gap = gateway.status()["channels"][0]["gap"].to_string();
    assert!(gap.contains("since 20") && gap.contains("24 hours"), "{gap}");
    gateway.end(libc::SIGTERM);
    polled(23);
    telegram.say(42, "four");
    let gateway = home.start();
    assert_eq!(telegram.shown(42, 3), ["one", "three", "four"]);
    assert!(gateway.status()["channels"][0]["gap"].is_null(), "{}", gateway.status());
}

#[test]
fn an_update_with_a_random_lower_number_is_answered_as_any_other() {
    let (gateway, telegram) = start("", "");
    telegram.say(42, "one");
    telegram.until(42, "one");
    telegram.until_confirmed();
    // Telegram counts on from a number by chance after a week.
    let waits = |it: &Value| it["parameters"]["offset"].is_null() && it["status"] == 200;
    let calls = telegram.calls_of("getUpdates").len();
    telegram.plan(&json!({ "poll": 0.2 }));
    eventually("a poll that confirms nothing", || {
        telegram.calls_of("getUpdates")[calls..].iter().any(waits).then_some(())
    });
    let message =
        |text: &str| json!({ "update_id": 17, "message": telegram.message(42, 42, text) });
    telegram.put(&[message("two")]);
    telegram.until(42, "two");
    telegram.say(42, "three");
    telegram.until(42, "three");
    telegram.until_confirmed();
    let _gateway = gateway.reborn_after(libc::SIGKILL);
    assert_eq!(telegram.shown(42, 3).len(), 3);
}

#[test]
fn nothing_is_confirmed_before_it_is_in_the_journal() {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    home.configure(&telegram.config(""));
    let gateway = home.start();
    until_state(&gateway, "up");
    telegram.say(42, "one");
    telegram.until(42, "one");
    until_delivered(&gateway, 42);
    telegram.until_confirmed();
    // A gateway that stands still answers no offer.
    gateway.signal(libc::SIGSTOP);
    eventually("all of it stands still", || {
        let mut tasks = fs::read_dir(format!("/proc/{}/task", gateway.pid())).ok()?;
        let stands = |it: std::io::Result<fs::DirEntry>| {
            let stat = fs::read_to_string(it.ok()?.path().join("stat")).ok()?;
            Some(stat.rsplit(") ").next()?.starts_with('T'))
        };
        tasks.all(|it| stands(it) == Some(true)).then_some(())
    });
    let id = telegram.say(42, "two");
    telegram
        .until_call("it is read", |it| it["answer"]["result"][0]["message"]["message_id"] == id);
    util::pause(Duration::from_millis(300));
    assert_eq!(telegram.confirmed(), 1);
    let home = gateway.end(libc::SIGKILL);
    let gateway = home.start();
    telegram.until(42, "two");
    telegram.until_confirmed();
    assert_eq!(telegram.shown(42, 2), ["one", "two"]);
    drop(gateway);
}

#[test]
fn the_token_is_in_the_file_and_in_the_adapter_alone() {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    home.configure(&telegram.config(""));
    let gateway = home.launch().arg("--set").arg("log.level=debug").start();
    until_state(&gateway, "up");
    let secret = telegram.secret.split(':').nth(1).unwrap();
    telegram.say(42, "/status");
    telegram.shown(42, 1);
    // Failures have words about what failed.
    telegram.plan(&json!({ "rules": [
        { "method": "sendMessage", "name": "a", "times": 1, "do": "lose" },
        { "method": "sendMessage", "name": "b", "times": 1, "do": "garbage" },
        { "method": "sendMessage", "name": "c", "times": 1, "do": { "status": 502, "body": telegram.secret } },
        { "method": "getUpdates", "name": "d", "times": 1, "do": "cut" },
    ] }));
    telegram.say(42, "echo");
    telegram.until(42, "echo");
    telegram.away();
    let connecting = until_state(&gateway, "connecting");
    telegram.back();
    until_state(&gateway, "up");
    let pid = adapter(&gateway).expect("an adapter");
    let mut said = vec![connecting.to_string(), gateway.status().to_string(), gateway.stderr()];
    for pid in [gateway.pid(), pid] {
        for file in ["cmdline", "environ"] {
            // The adapter's are its own alone.
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            said.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    for words in [&["status"][..], &["channel"], &["config"], &["logs"], &["history"]] {
        let outcome = home.run(words);
        said.extend([outcome.stdout, outcome.stderr]);
    }
    for path in ["/v1/status", "/ready", "/metrics", "/v1/channels"] {
        said.push(gateway.api().get(path).text());
    }
    for text in &said {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(said[4].contains("channel-adapter") || said[5].contains("channel-adapter"), "{said:?}");
    let gateway = gateway.end(libc::SIGTERM);
    let mut dirs =
        vec![gateway.path().join("s"), gateway.path().join("r"), gateway.path().join("c")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().filter_map(Result::ok) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap();
                let found = bytes.windows(secret.len()).any(|it| it == secret.as_bytes());
                assert!(!found, "{}", entry.path().display());
            }
        }
    }
}

#[test]
fn the_adapter_protects_its_memory_by_itself() {
    let (dir, root) = (util::TempDir::new(""), util::sys::uid() == 0);
    let file = dir.path().join("token");
    fs::write(&file, util::telegram::new_token()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    // What starts it allows what it is to forbid.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh"]).arg(util::binary());
    command.args(["channel-adapter", "telegram", "--api-url", "http://127.0.0.1:9"]);
    command.arg("--token-file").arg(&file).current_dir("/").stdin(Stdio::piped());
    // Of root's processes all is root's in any case.
    let who = if root { NOBODY } else { util::sys::uid() };
    if root {
        chown(&file, Some(who), Some(who)).unwrap();
        command.gid(who).uid(who);
    }
    let mut adapter = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let proc = PathBuf::from(format!("/proc/{}", adapter.id()));
    eventually("it runs", || {
        let name = fs::read_to_string(proc.join("comm")).ok()?;
        name.starts_with("hermes-telegram").then_some(())
    });
    let owner = |file: &str| fs::metadata(proc.join(file)).unwrap().uid();
    eventually("its memory is nobody's but root's", || {
        let limits = fs::read_to_string(proc.join("limits")).unwrap();
        let core = limits.lines().find(|it| it.starts_with("Max core file size")).unwrap();
        let core: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
        (core == ["0", "0"] && owner("mem") == 0 && owner("environ") == 0).then_some(())
    });
    let status = fs::read_to_string(proc.join("status")).unwrap();
    assert!(status.contains(&format!("\nUid:\t{who}\t{who}\t")), "{status}");
    // The end of its input ends it.
    drop(adapter.stdin.take());
    assert!(adapter.wait().unwrap().success());
}

#[test]
fn the_check_of_adapters_has_nothing_to_say_about_it() {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    // More than its window, which it does not fill again while one of them has no answer.
    for n in 0..80 {
        telegram.say(42, &n.to_string());
    }
    let (program, file) = (util::binary(), telegram.path().join("token"));
    let mut command = home.command(&["channel", "check", "--to", "42", "--wait", "20", "--"]);
    command.arg(program).args(["channel-adapter", "telegram", "--api-url", &telegram.url()]);
    let check = Process::spawn(command.arg("--token-file").arg(file));
    let outcome = check.finish(Duration::from_secs(300)).assert_code(0);
    assert!(outcome.stdout.ends_with("18 ok, 0 wrong, 1 not tried\n"), "{}", outcome.stdout);
}

#[test]
fn from_an_update_to_the_reply_it_takes_few_milliseconds() {
    let (_gateway, telegram) = start("", "");
    let mut times = Vec::new();
    for n in 0..util::rounds(6, 40) {
        let (who, text) = (if n % 2 == 0 { 42 } else { 43 }, format!("number {n}"));
        telegram.say(who, &text);
        telegram.until(who, &text);
        let has = |value: &Value| value.to_string().contains(&text);
        // A call is written down once it has been answered.
        let [took, sent] = eventually("both calls", || {
            let calls = telegram.calls();
            let took = calls.iter().find(|it| it["method"] == "getUpdates" && has(&it["answer"]));
            let sent = calls.iter().find(|it| it["method"] == "sendMessage" && has(it));
            Some([took?["done"].as_f64()?, sent?["at"].as_f64()?])
        });
        times.push((sent - took) * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    report(&format!("ms from the answer to a poll to the reply's call: {times:.1?}"));
    assert!(times[0] < 200.0, "{times:?}");
    let strict = util::full() && !cfg!(debug_assertions);
    assert!(!strict || times[times.len() / 2] <= 30.0, "{times:?}");
}

#[test]
fn an_idle_adapter_uses_no_processor_and_little_memory() {
    let (gateway, telegram) = start("", "");
    telegram.say(42, "hello");
    telegram.until(42, "hello");
    telegram.until_confirmed();
    let pid = adapter(&gateway).expect("an adapter");
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let (before, calls) = (ticks(), telegram.calls().len());
    util::pause(Duration::from_secs(2));
    assert!(ticks() - before <= 1, "it does something");
    assert!(
        telegram.calls().len() <= calls + 1,
        "it polls in vain: {:?}",
        &telegram.calls()[calls..]
    );
    let pss = util::telegram::pss(pid);
    report(&format!("PSS: {pss:?} kB"));
    // Root alone may read it: the process protects its memory.
    assert!(pss.is_some() || util::sys::uid() != 0);
    if !cfg!(debug_assertions) {
        assert!(pss.is_none_or(|pss| pss <= 1500), "{pss:?} kB");
    }
    drop(gateway);
    eventually("it ends with its gateway", || {
        (!fs::exists(format!("/proc/{pid}/exe")).unwrap()).then_some(())
    });
}
