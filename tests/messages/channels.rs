//! Channels: what people say on a chat platform is answered there, whatever becomes of its adapter or of the
//! gateway.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::util;
use util::fault::{self, Fault, When};
use util::platform::{Platform, private};
use util::sys::kill;
use util::{DEADLINE, Gate, Gateway, Home, Process, eventually, pause};

/// A gateway with a channel of this platform; `more` belongs to the channel.
fn config(platform: &Platform, more: &str) -> String {
    format!("[channel.office]\n{}allow = [\"ann\", \"bob\"]\n{more}", platform.command())
}

fn start(more: &str) -> (Gateway, Platform) {
    let home = Home::new();
    let platform = Platform::new(&home, "platform");
    home.configure(&config(&platform, more));
    (home.start(), platform)
}

fn runs(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The state of the channel, as `status` shows it.
fn until_state(gateway: &Gateway, state: &str) {
    eventually(&format!("the channel is {state}"), || {
        (gateway.status()["channels"][0]["state"] == state).then_some(())
    });
}

/// What was shown has its receipt: else it is sent again by the next run.
fn until_sent(gateway: &Gateway) {
    eventually("the receipts", || (gateway.status()["channels"][0]["waiting"] == 0).then_some(()));
}

#[test]
fn what_somebody_says_is_answered_where_it_was_said_and_strangers_are_not() {
    let (gateway, platform) = start("");
    platform.say("m1", "ann", "hello");
    platform.say("m2", "eve", "hello, too");
    platform.say("m3", "bob", "hi");
    let id = platform.answer("m1")["as"].as_str().unwrap().to_owned();
    assert!(platform.answer("m2")["as"].is_null());
    assert_eq!(platform.shown("ann", 1), ["hello"]);
    assert_eq!(platform.shown("bob", 1), ["hi"]);
    let message = gateway.api().message(&id);
    assert_eq!(
        (&message["principal"], &message["session"]),
        (&json!("office:ann"), &json!("office:ann"))
    );
    gateway.api().until_delivery(&id, "delivered");
    assert!(platform.sent().iter().all(|it| it["conversation"] != "eve"));
    until_state(&gateway, "up");
}

#[test]
fn commands_are_answered_and_a_long_reply_comes_in_parts() {
    let (_gateway, platform) = start("");
    platform.say("m1", "ann", "/whoami");
    assert!(platform.shown("ann", 1)[0].contains("office:ann"));
    let long = "a word ".repeat(1500);
    platform.say("m2", "bob", &long);
    let parts = platform.shown("bob", 3);
    assert_eq!(parts.join(" ").split_whitespace().count(), 3000);
}

#[test]
fn a_message_is_taken_once_and_answered_though_its_adapter_dies_in_between() {
    let home = Home::new();
    let platform = Platform::new(&home, "platform");
    home.configure(&config(&platform, ""));
    platform.plan(&json!({ "die_answers": 2 }));
    let gateway = home.start();
    for n in 0..5 {
        platform.say(&format!("m{n}"), "ann", &format!("text {n}"));
    }
    let ids: Vec<_> = (0..5).map(|n| platform.answer(&format!("m{n}"))["as"].clone()).collect();
    for id in &ids {
        gateway.api().until_delivery(id.as_str().unwrap(), "delivered");
    }
    let mut texts = platform.shown("ann", 5);
    texts.dedup();
    assert_eq!(texts, ["text 0", "text 1", "text 2", "text 3", "text 4"]);
    assert!(platform.answers().iter().any(|it| it["answer"]["duplicate"] == true));
}

#[test]
fn a_killed_gateway_goes_on_where_its_platform_was_read() {
    let home = Home::new();
    let platform = Platform::new(&home, "platform");
    home.configure(&config(&platform, ""));
    platform.plan(&json!({ "inbound": "cursor" }));
    let gateway = home.start();
    platform.say("m1", "ann", "one");
    platform.say("m2", "eve", "nothing");
    assert_eq!(platform.shown("ann", 1), ["one"]);
    platform.answer("m2");
    until_sent(&gateway);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    platform.say("m3", "ann", "two");
    assert_eq!(platform.shown("ann", 2), ["one", "two"]);
    let hello = platform.told().into_iter().rfind(|it| it["op"] == "hello").unwrap();
    assert_eq!(hello["cursor_account"], "robot");
    // What nobody is served for may be read again.
    assert!(["1", "2"].contains(&hello["cursor"].as_str().unwrap()), "{hello}");
    drop(gateway);
}

#[test]
fn a_drain_sends_the_replies_of_turns_that_end_in_it() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let platform = Platform::new(&home, "platform");
    home.configure(&format!("{}{}", gate.agent(), config(&platform, "")));
    let gateway = home.start();
    platform.say("m1", "ann", "question");
    gateway.wait_for_turns(1);
    let pid = platform.pid();
    gateway.signal(libc::SIGTERM);
    gateway.wait_for_log("Shutdown context", DEADLINE);
    gate.open();
    assert_eq!(gateway.wait_for_exit(DEADLINE), 143);
    assert_eq!(platform.sent().len(), 1);
    assert!(!runs(pid), "its adapter has ended");
}

#[test]
fn a_part_that_its_adapter_never_read_has_certainly_not_arrived() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let platform = Platform::new(&home, "platform");
    let config = config(&platform, "uncertain = \"hold\"\n");
    home.configure(&format!("{}{config}", gate.agent()));
    let gateway = home.start();
    platform.say("m1", "ann", "question");
    let id = platform.answer("m1")["as"].as_str().unwrap().to_owned();
    let pid = platform.pid();
    kill(pid, libc::SIGSTOP).unwrap();
    gate.open();
    gateway.api().until_delivery(&id, "sending");
    kill(pid, libc::SIGKILL).unwrap();
    gateway.api().until_delivery(&id, "delivered");
    assert_eq!(platform.sent().len(), 1);
}

#[test]
fn a_reload_lets_in_and_starts_another_adapter_only_where_that_changed() {
    let (gateway, platform) = start("");
    platform.say("m1", "ann", "one");
    assert_eq!(platform.shown("ann", 1), ["one"]);
    let pid = platform.pid();
    let reload = |more: &str| {
        gateway.home().configure(&config(&platform, more));
        gateway.home().run(&["reload"]).assert_code(0);
    };
    reload("operators = [\"eve\"]\n");
    platform.say("m2", "eve", "two");
    assert_eq!(platform.shown("eve", 1), ["two"]);
    assert_eq!(platform.pid(), pid);
    reload("env = { A = \"b\" }\n");
    eventually("another adapter", || (platform.pid() != pid).then_some(()));
    platform.say("m3", "eve", "three");
    assert!(platform.answer("m3")["as"].is_null());
    let pid = platform.pid();
    gateway.home().configure("[log]\nlevel = \"info\"\n");
    gateway.home().run(&["reload"]).assert_code(0);
    eventually("no adapter", || (!runs(pid)).then_some(()));
    assert_eq!(gateway.status()["channels"], json!([]));
}

#[test]
fn a_channel_that_is_put_back_before_its_adapter_has_ended_works() {
    let home = Home::new();
    let platform = Platform::new(&home, "platform");
    // It ends neither with its stdin nor by SIGTERM.
    platform.plan(&json!({ "eof": false }));
    let with = config(&platform, "").replace(
        "command = [",
        "command = [\"sh\", \"-c\", \"trap '' TERM; exec \\\"$@\\\"\", \"sh\", ",
    );
    home.configure(&with);
    let gateway = home.start();
    platform.say("m1", "ann", "one");
    assert_eq!(platform.shown("ann", 1), ["one"]);
    for configured in ["[log]\nlevel = \"info\"\n", &*with] {
        home.configure(configured);
        home.run(&["reload"]).assert_code(0);
    }
    platform.say("m2", "ann", "two");
    assert_eq!(platform.shown("ann", 2), ["one", "two"]);
    drop(gateway);
}

#[test]
fn pieces_that_belong_together_are_one_message() {
    let (gateway, platform) = start("");
    for (id, text) in [("m1", "one"), ("m2", "two")] {
        let mut piece = private(id, "ann", text);
        piece["group"] = json!("album");
        platform.put(&piece);
    }
    assert_eq!(platform.answer("m1")["as"], platform.answer("m2")["as"]);
    assert_eq!(platform.shown("ann", 1), ["one\ntwo"]);
    drop(gateway);
}

#[test]
fn an_adapter_that_ends_for_good_is_started_again_when_that_is_asked_for() {
    let home = Home::new();
    let platform = Platform::new(&home, "platform");
    home.configure(&config(&platform, ""));
    platform.plan(&json!({ "exit": 78 }));
    let gateway = home.start();
    until_state(&gateway, "stopped");
    assert!(gateway.status()["degraded"].as_str().unwrap().contains("channel office"));
    platform.plan(&json!({}));
    home.run(&["channel", "restart", "office"]).assert_code(0);
    until_state(&gateway, "up");
    assert!(gateway.status()["degraded"].is_null());
}

#[test]
fn a_stranger_is_let_in_by_the_code_that_he_was_told() {
    let (gateway, platform) = start("unknown = \"pair\"\n");
    platform.say("m1", "eve", "let me in");
    let told = platform.shown("eve", 1).remove(0);
    let code = told.rsplit(' ').next().unwrap();
    platform.say("m2", "eve", "now?");
    assert!(platform.answer("m2")["as"].is_null());
    gateway.home().run(&["channel", "pair", code]).assert_code(0);
    platform.say("m3", "eve", "thanks");
    assert_eq!(platform.shown("eve", 2)[1], "thanks");
    until_sent(&gateway);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    platform.say("m4", "eve", "still?");
    assert_eq!(platform.shown("eve", 3)[2], "still?");
    gateway.home().run(&["channel", "unpair", "office", "eve"]).assert_code(0);
    platform.say("m5", "eve", "and now?");
    assert!(platform.answer("m5")["as"].is_null());
}

#[test]
fn old_messages_are_counted_and_answered_when_that_is_asked_for() {
    let (_gateway, platform) = start("max_age = \"1h\"\n");
    for id in ["m1", "m2"] {
        let mut old = private(id, "ann", &format!("old {id}"));
        old["at"] = json!("2020-01-01T00:00:00Z");
        platform.put(&old);
    }
    let told = platform.shown("ann", 1).remove(0);
    assert!(told.starts_with("2 messages") && told.contains("/missed"), "{told}");
    let mut command = private("m0", "bob", "/whoami");
    command["at"] = json!("2020-01-01T00:00:00Z");
    platform.put(&command);
    let told = platform.shown("bob", 1).remove(0);
    assert!(told.contains("came too late") && told.contains("not done"), "{told}");
    platform.say("m3", "ann", "/missed");
    let shown = platform.shown("ann", 4);
    let answered: Vec<_> = shown.iter().filter(|text| text.starts_with("old ")).collect();
    assert_eq!(answered, ["old m1", "old m2"]);
}

#[test]
fn files_reach_the_agent_and_leave_the_directory_of_the_adapter() {
    let home = Home::new();
    let platform = Platform::new(&home, "platform");
    let script = "cat; echo; cat $(echo $HERMES_ATTACHMENTS | tr -d '[]\"')";
    let agent = format!("[agent]\ncommand = [\"sh\", \"-c\", {script:?}]\n");
    home.configure(&format!("{agent}{}", config(&platform, "")));
    let gateway = home.start();
    until_state(&gateway, "up");
    let dir = home.state_dir().join("channels/office/files");
    let (inside, outside) = (dir.join("note.txt"), home.path().join("secret"));
    fs::write(&inside, "a note").unwrap();
    fs::write(&outside, "a secret").unwrap();
    let mut message = private("m1", "ann", "look");
    message["files"] = json!([
        { "path": inside, "name": "note.txt", "type": "text/plain" },
        { "path": outside, "name": "secret.txt", "type": "text/plain" },
    ]);
    platform.put(&message);
    let shown = platform.shown("ann", 1).remove(0);
    assert!(shown.starts_with("look\n(the file \"secret.txt\" was not taken"), "{shown}");
    assert!(shown.ends_with("\na note"), "{shown}");
    assert!(!inside.exists() && outside.exists());
}

#[test]
fn what_comes_with_files_for_which_there_is_no_room_is_taken_without_them() {
    let home = Home::new();
    let platform = Platform::new(&home, "platform");
    let limits = "[agent]\ncommand = [\"cat\"]\n[limits]\nmax_attachments = \"128KiB\"\n";
    home.configure(&format!("{limits}{}", config(&platform, "")));
    let gateway = home.start();
    until_state(&gateway, "up");
    let say = |id: &str, text: &str| {
        let file = home.state_dir().join(format!("channels/office/files/{id}"));
        fs::write(&file, "x".repeat(40 << 10)).unwrap();
        let mut message = private(id, "ann", text);
        message["files"] = json!([{ "path": file, "name": id, "type": "text/plain" }]);
        platform.put(&message);
        assert!(platform.answer(id)["as"].is_string(), "{:?}", platform.answer(id));
        assert!(!file.exists());
    };
    say("m1", "one");
    assert_eq!(platform.shown("ann", 1), ["one"]);
    say("m2", "two");
    say("m3", "");
    let shown = platform.shown("ann", 3);
    assert!(shown[1].starts_with("two\n(the file \"m2\" was not taken: office:ann"), "{shown:?}");
    assert!(shown[2].starts_with("(the file \"m3\" was not taken: office:ann"), "{shown:?}");
}

#[test]
fn each_member_of_a_group_is_told_that_what_he_said_was_refused() {
    let (_gateway, platform) = start("groups = [\"room\"]\n");
    let put = |id: &str, who: &str, text: &str| {
        let mut message = private(id, who, text);
        message["conversation"] = json!("room");
        message["kind"] = json!("group");
        message["mentioned"] = json!(true);
        platform.put(&message);
    };
    for (id, who) in [("m1", "ann"), ("m2", "ann"), ("m3", "bob")] {
        put(id, who, &"x".repeat((64 << 10) + 1));
    }
    platform.shown("room", 2);
    put("m4", "bob", "short");
    let shown = platform.shown("room", 3);
    assert_eq!(shown.iter().filter(|text| text.contains("too long")).count(), 2, "{shown:?}");
}

#[test]
fn who_holds_his_share_is_refused_for_good_and_holds_up_nobody_else() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let platform = Platform::new(&home, "platform");
    let limits = "[limits]\nmax_turns = 1\nmax_queue = 10\nmax_queue_per_session = 10\n";
    home.configure(&format!("{}{limits}{}", gate.agent(), config(&platform, "")));
    let _gateway = home.start();
    for n in 0..10 {
        platform.say(&format!("m{n}"), "ann", "question");
    }
    assert!(platform.answer("m9")["as"].is_null(), "it is refused for good");
    platform.say("m10", "bob", "question");
    assert!(platform.answer("m10")["as"].is_string());
    let told = platform.shown("ann", 1).remove(0);
    assert!(told.contains("not taken"), "{told}");
    gate.open();
}

#[test]
fn pieces_in_front_of_the_one_with_the_mention_belong_to_it_and_long_ones_are_refused() {
    let (_gateway, platform) = start("groups = [\"room\"]\n");
    let put = |id: &str, group: &str, mentioned: bool| {
        let mut piece = private(id, "ann", id);
        piece["conversation"] = json!("room");
        piece["kind"] = json!("group");
        piece["group"] = json!(group);
        piece["mentioned"] = json!(mentioned);
        platform.put(&piece);
    };
    put("m1", "talk", false);
    put("m2", "album", false);
    put("m3", "album", true);
    assert!(platform.answer("m1")["as"].is_null(), "the group's own talk");
    assert_eq!(platform.answer("m2")["as"], platform.answer("m3")["as"]);
    assert_eq!(platform.shown("room", 1), ["m2\nm3"]);
    platform.say("m4", "bob", &"x".repeat((64 << 10) + 1));
    assert!(platform.answer("m4")["as"].is_null());
    assert!(platform.shown("bob", 1)[0].contains("too long"));
}

/// What people see, without what was shown of it before.
fn final_texts(platform: &Platform) -> Vec<String> {
    let all = platform.sent().into_iter().filter(|it| it["final"] == true);
    all.map(|it| it["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_restart_in_place_loses_and_doubles_nothing_that_is_said_on_a_channel() {
    for by_signal in [true, false] {
        let home = Home::new();
        let gate = Gate::closed(home.path());
        let platform = Platform::new(&home, "platform");
        home.configure(&format!("{}{}", gate.agent(), config(&platform, "")));
        platform.plan(&json!({ "inbound": "cursor" }));
        let gateway = home.start();
        platform.say("m0", "ann", "before");
        gateway.wait_for_turns(1);
        let adapter = platform.pid();
        let command =
            (!by_signal).then(|| Process::spawn(&mut home.command(&["restart", "--graceful"])));
        if by_signal {
            gateway.signal(libc::SIGUSR1);
        }
        gateway.wait_for_log("the restart waits for the turns in flight", DEADLINE);
        // It is refused for now, and offered to the next one.
        platform.say("m1", "ann", "meanwhile");
        eventually("a refusal", || {
            let answers = platform.answers();
            answers.iter().any(|it| it["answer"]["retry_after"].is_u64()).then_some(())
        });
        gate.open();
        if let Some(command) = command {
            command.finish(DEADLINE).assert_code(0);
        }
        eventually("another adapter", || (platform.pid() != adapter).then_some(()));
        platform.say("m2", "ann", "after");
        platform.shown("ann", 3);
        assert_eq!(final_texts(&platform), ["begun\nbefore", "begun\nmeanwhile", "begun\nafter"]);
        until_state(&gateway, "up");
        assert_eq!(gateway.status()["pid"], gateway.pid());
        let kept = gateway.api().get("/v1/messages?principal=office%3Aann").assert_status(200);
        assert_eq!(kept.json()["messages"].as_array().map(Vec::len), Some(3));
    }
}

#[test]
fn who_is_told_of_stops_on_a_channel_is_told_before_the_end_and_a_stuck_adapter_holds_up_no_stop() {
    let hangs = json!({ "eof": false, "rules": [{ "text": "goes down", "do": "hang" }] });
    for plan in [json!({}), hangs] {
        let home = Home::new();
        let platform = Platform::new(&home, "platform");
        platform.plan(&plan);
        let stop = "home = \"ann\"\n[stop]\nnotify = \"office\"\n";
        home.configure(&config(&platform, stop));
        let gateway = home.start();
        until_state(&gateway, "up");
        let pid = platform.pid();
        let home = gateway.end(libc::SIGINT);
        assert!(!runs(pid), "its adapter has ended");
        let told = |op: &str| platform.told().iter().filter(|it| it["op"] == op).count();
        assert_eq!((told("hello"), told("send")), (1, 1));
        let is_shown = plan["rules"].is_null();
        assert_eq!(platform.sent().len(), usize::from(is_shown));
        platform.plan(&json!({}));
        let _gateway = home.start();
        // What may have arrived is sent again.
        let shown = platform.shown("ann", 2);
        assert!(shown[0].contains("goes down") && shown[1].contains("is back"), "{shown:?}");
    }
}

#[test]
fn an_adapter_that_takes_less_gets_the_rest_of_a_reply_in_shorter_parts() {
    let (gateway, platform) = start("");
    until_state(&gateway, "up");
    let plan = |most: u32| {
        let rules = if most == 200 { json!([{ "nth": 3, "do": "hang" }]) } else { json!([]) };
        platform.plan(&json!({ "ready": { "max_len": most }, "rules": rules }));
    };
    plan(200);
    let words: Vec<String> = (0..200).map(|n| format!("word{n}")).collect();
    let pid = platform.pid();
    kill(pid, libc::SIGKILL).unwrap();
    eventually("another adapter", || (platform.pid() != pid).then_some(()));
    platform.say("m1", "ann", &words.join(" "));
    eventually("the third part", || {
        platform.told().iter().any(|it| it["op"] == "send" && it["part"] == 2).then_some(())
    });
    let first = platform.shown("ann", 2);
    plan(64);
    kill(platform.pid(), libc::SIGKILL).unwrap();
    let parts = eventually("the last word", || {
        let parts = final_texts(&platform);
        parts.last().is_some_and(|part| part.ends_with("word199")).then_some(parts)
    });
    assert_eq!(parts[..2], first[..]);
    assert!(parts[..2].iter().all(|part| (150..=200).contains(&part.len())));
    assert!(parts[2..].iter().all(|part| part.len() <= 64));
    assert_eq!(parts.join(" "), words.join(" "));
    let sent = platform.sent();
    let numbers: Vec<_> = sent.iter().map(|it| it["part"].as_u64().unwrap()).collect();
    assert!(numbers.iter().copied().eq(0..sent.len() as u64), "{numbers:?}");
    assert_eq!(sent.last().unwrap()["parts"], sent.len());
}

#[test]
fn who_is_nobody_else_any_more_has_no_turn_as_that() {
    let home = Home::new();
    let (platform, gate) = (Platform::new(&home, "platform"), Gate::closed(home.path()));
    let with = |more: &str| format!("{}{}", gate.agent(), config(&platform, more));
    home.configure(&with("as = { bob = \"owner\" }\n"));
    let gateway = home.start();
    // The second one waits for the first, in one session.
    for (id, text) in [("m1", "one"), ("m2", "two")] {
        platform.say(id, "bob", text);
        platform.answer(id);
    }
    platform.say("m3", "ann", "three");
    let ids = ["m1", "m2", "m3"].map(|id| platform.answer(id)["as"].as_str().unwrap().to_owned());
    eventually("the first runs", || {
        (gateway.api().message(&ids[0])["status"] == "running").then_some(())
    });
    let pid = platform.pid();
    home.configure(&with(""));
    home.run(&["reload"]).assert_code(0);
    gate.open();
    let ends = ids.map(|id| {
        eventually("its end", || {
            let status = gateway.api().message(&id)["status"].as_str().unwrap().to_owned();
            (!["running", "queued"].contains(&&*status)).then_some(status)
        })
    });
    assert_eq!(ends, ["done", "cancelled", "done"]);
    // What he says now is his own.
    platform.say("m4", "bob", "four");
    let id = platform.answer("m4")["as"].as_str().unwrap().to_owned();
    assert_eq!(gateway.api().message(&id)["principal"], "office:bob");
    assert_eq!(platform.pid(), pid);
}

#[test]
fn a_message_that_runs_anew_has_another_reply_to_its_adapter() {
    let home = Home::new();
    let platform = Platform::new(&home, "platform");
    let file = home.path().join("good");
    let script = format!("test -e {} && cat", file.display());
    let agent = format!("{}[limits]\nmax_attempts = 1\n", util::script(&script));
    platform.plan(&json!({ "ready": { "outbound": "key" } }));
    home.configure(&format!("{agent}{}", config(&platform, "")));
    let gateway = home.start();
    platform.say("m1", "ann", "one");
    let failed = platform.shown("ann", 1).remove(0);
    assert!(failed.starts_with("This could not be answered."), "{failed}");
    until_sent(&gateway);
    fs::write(&file, "").unwrap();
    let id = platform.answer("m1")["as"].as_str().unwrap().to_owned();
    home.run(&["journal", "retry", &id]).assert_code(0);
    assert_eq!(platform.shown("ann", 2)[1], "one");
    until_sent(&gateway);
    let sent = platform.sent();
    assert_ne!(sent[0]["delivery"], sent[1]["delivery"]);
    assert!(sent.iter().all(|it| it["again"] == false), "{sent:?}");
}

#[test]
fn a_reply_that_has_expired_on_a_full_disk_is_given_up_once_there_is_room() {
    let home = Home::new();
    let (platform, full) = (Platform::new(&home, "platform"), home.path().join("full"));
    platform.plan(&json!({ "ready": { "send_window": 1 }, "rules": [{ "do": "hang" }] }));
    home.configure(&config(&platform, "expire = \"1s\"\nuncertain = \"resend\"\n"));
    let (when, on) = (When::While(&full), "journal");
    let fault = Fault { call: "write+fallocate", error: libc::ENOSPC, when, on };
    let gateway = fault.into(home.launch(), &home).start();
    platform.say("m1", "ann", "one");
    eventually("it is handed over", || {
        platform.told().iter().any(|line| line["op"] == "send").then_some(())
    });
    // It grows old while nobody takes it.
    pause(Duration::from_millis(1100));
    fs::write(&full, "").unwrap();
    platform.plan(&json!({ "ready": { "send_window": 1 } }));
    kill(platform.pid(), libc::SIGKILL).unwrap();
    eventually("it cannot be written down", || {
        let lines = fault::hits(&home);
        (!lines.is_empty()).then_some(())
    });
    eventually("another adapter is up", || {
        (gateway.status()["channels"][0]["state"] == "up").then_some(())
    });
    fs::remove_file(&full).unwrap();
    let id = platform.answer("m1")["as"].as_str().unwrap().to_owned();
    eventually("it is a dead letter", || {
        (gateway.api().message(&id)["deliveries"][0]["status"] == "dead").then_some(())
    });
    platform.say("m2", "ann", "two");
    assert_eq!(platform.shown("ann", 1), ["two"]);
}

/// An agent that says as whom and where it is asked, and what was said there before.
fn telling_agent() -> String {
    util::script(
        "read -r text; echo \"$text as $HERMES_PRINCIPAL in $HERMES_SESSION\"; cat $HERMES_TRANSCRIPT",
    )
}

#[test]
fn members_of_a_group_have_a_session_each_where_it_is_of_the_sender() {
    let home = Home::new();
    let platform = Platform::new(&home, "platform");
    let more = "groups = [\"room\"]\nsession = \"sender\"\n";
    home.configure(&format!("{}{}", telling_agent(), config(&platform, more)));
    let gateway = home.start();
    // One after the other: they are different conversations with the agent. Eve is on no list of her own.
    let said = [("ann", "alpha"), ("bob", "beta"), ("ann", "gamma"), ("eve", "delta")];
    for (n, (who, text)) in said.into_iter().enumerate() {
        let mut item = private(&format!("m{n}"), who, text);
        (item["conversation"], item["kind"]) = (json!("room"), json!("group"));
        item["mentioned"] = json!(true);
        platform.put(&item);
        let shown = platform.shown("room", n + 1).remove(n);
        assert!(shown.starts_with(&format!("{text} as office:{who} in office:room")), "{shown}");
        for (_, other) in said.iter().filter(|it| it.1 != text) {
            assert_eq!(shown.contains(other), (text, *other) == ("gamma", "alpha"), "{shown}");
        }
    }
    // In private she is the same principal, in another session.
    platform.say("m4", "ann", "private");
    let shown = platform.shown("ann", 1).remove(0);
    assert!(shown.starts_with("private as office:ann in office:ann"), "{shown}");
    assert!(!shown.contains("alpha"), "{shown}");
    for (who, count) in [("ann", 2), ("bob", 1), ("eve", 1), ("room", 0)] {
        let sessions = gateway.api().get(&format!("/v1/sessions?principal=office%3A{who}"));
        let sessions = sessions.assert_status(200).json();
        assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(count), "{who}: {sessions}");
    }
}

#[test]
fn who_is_the_owner_on_a_channel_goes_on_with_the_terminals_conversation() {
    let home = Home::new();
    let platform = Platform::new(&home, "platform");
    let more = "as = { ann = \"owner\" }\n";
    home.configure(&format!("{}{}", telling_agent(), config(&platform, more)));
    let gateway = home.start();
    let send = |text: &str| home.run(&["send", "-s", "office:ann", text]).assert_code(0).stdout;
    platform.say("m1", "ann", "alpha");
    let first = platform.shown("ann", 1).remove(0);
    assert_eq!(first, "alpha as owner in office:ann");
    let second = send("beta");
    assert!(second.starts_with("beta as owner in office:ann\n"), "{second}");
    assert!(second.contains("alpha"), "{second}");
    platform.say("m2", "ann", "gamma");
    let third = platform.shown("ann", 2).remove(1);
    assert!(third.contains("alpha") && third.contains("beta"), "{third}");
    let session = gateway.api().get("/v1/sessions/office:ann").assert_status(200).json();
    assert_eq!(session["messages"].as_array().map(Vec::len), Some(3), "{session}");
    // Somebody else's is not there, under any name.
    platform.say("m3", "bob", "delta");
    assert!(platform.shown("bob", 1)[0].starts_with("delta as office:bob in office:bob"));
    assert!(!send("epsilon").contains("delta"));
    let sessions = gateway.api().get("/v1/sessions").assert_status(200).json();
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(1), "{sessions}");
}

#[test]
fn a_stranger_who_repeats_himself_is_named_in_the_log_once() {
    let (gateway, platform) = start("");
    for n in 0..5 {
        platform.say(&format!("m{n}"), "eve", "let me in");
        assert!(platform.answer(&format!("m{n}"))["as"].is_null());
    }
    platform.say("last", "mallory", "me, too");
    gateway.wait_for_log("\"mallory\"", DEADLINE);
    let log = gateway.stderr();
    let named: Vec<_> = log.lines().filter(|line| line.contains("\"eve\"")).collect();
    assert!(named.len() == 1 && named[0].contains("on no list"), "{named:#?}");
    assert!(platform.sent().is_empty());
}
