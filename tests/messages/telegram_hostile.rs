//! Telegram that misbehaves, people who do what they like, and tokens that change: nothing is lost, nothing is
//! doubled without a reason, and `status` says what is the matter.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::telegram::{delivery, start, until_state};
use crate::util;
use util::telegram::{GROUP, Telegram, adapter, children, now, pss, text_of};
use util::{DEADLINE, Home, Private, eventually, report, rounds};

/// Bytes that an adapter may hold: an unoptimized one has 10 MB of itself in memory.
const MAX_RSS: u64 = 48 << 20;

/// The most that a process has held by now, where that can be read.
fn peak(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or(0, |it| it.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10)
}

/// Says something until it is answered.
#[track_caller]
fn assert_well(telegram: &Telegram, text: &str) {
    telegram.say(43, text);
    telegram.until(43, text);
}

/// A call fails in this way, so many times.
fn rule(method: &str, times: usize, action: &Value) -> Value {
    json!({ "rules": [{ "method": method, "name": format!("{method}-{}", now()), "times": times, "do": action }] })
}

/// The texts that were sent anew in a chat, edits apart.
fn sends(telegram: &Telegram, chat: i64) -> Vec<String> {
    let mut sent = telegram.sent();
    sent.retain(|it| it["chat_id"] == chat && it["edited"].is_null() && it["deleted"].is_null());
    sent.iter().map(text_of).collect()
}

#[test]
fn a_wrong_token_is_said_and_another_one_of_the_same_bot_goes_on_where_it_was() {
    let (gateway, telegram) = start("", "");
    assert_well(&telegram, "before");
    telegram.until_confirmed();
    let other = &util::telegram::new_token();
    telegram.plan(&json!({ "tokens": [other], "poll": 0.1 }));
    let status = until_state(&gateway, "stopped");
    assert!(status["why"].to_string().contains("BotFather"), "{status}");
    telegram.say(42, "meanwhile");
    telegram.token(other);
    gateway.home().run(&["channel", "restart", "family"]).assert_code(0);
    until_state(&gateway, "up");
    telegram.until(42, "meanwhile");
    assert_eq!(sends(&telegram, 43), ["before"]);
    assert_eq!(sends(&telegram, 42), ["meanwhile"]);
}

#[test]
fn another_bot_is_another_account_and_is_heard() {
    let (gateway, telegram) = start("", "");
    assert_well(&telegram, "before");
    let other = &util::telegram::new_token().replace("4242", "777");
    telegram.plan(&json!({ "tokens": [other], "poll": 0.1 }));
    until_state(&gateway, "stopped");
    telegram.token(other);
    gateway.home().run(&["channel", "restart", "family"]).assert_code(0);
    until_state(&gateway, "up");
    gateway.wait_for_log("777", DEADLINE);
    // Its numbers are lower, and its messages are other ones by the same numbers.
    let mut message = telegram.message(42, 42, "to the other");
    message["message_id"] = json!(1);
    telegram.put(&[json!({ "bot": 777, "update_id": 5, "message": message })]);
    assert_eq!(telegram.until(42, "to the other")["bot"], 777);
}

#[test]
fn a_token_of_no_form_and_one_that_nobody_knows_are_said_at_the_start() {
    for (token, url) in
        [("4242:ZZ-nobody_knows_this", ""), ("nonsense", ""), ("", ""), ("4242:x", "/nowhere")]
    {
        let home = Home::new();
        let telegram = Telegram::start(&home);
        telegram.token(token);
        let config = telegram.config("");
        let config = config.replace(&telegram.url(), &format!("{}{url}", telegram.url()));
        home.configure(&config);
        let gateway = home.start();
        let state = eventually("it is said", || {
            let it = gateway.status()["channels"][0].clone();
            ["unauthorized", "stopped"].contains(&it["state"].as_str()?).then_some(it)
        });
        assert!(state["why"].to_string().contains("BotFather"), "{token:?}: {state}");
        assert!(url.is_empty() || state["why"].to_string().contains("api_url"), "{state}");
        telegram.token(&telegram.secret);
        home.configure(&telegram.config(""));
        home.run(&["reload"]).assert_code(0);
        home.run(&["channel", "restart", "family"]);
        until_state(&gateway, "up");
        let log = gateway.stderr();
        assert!(token.len() < 3 || !log.contains(token), "{log}");
    }
}

#[test]
fn a_webhook_is_removed_and_what_has_come_is_kept() {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    fs::write(telegram.path().join("webhook"), "").unwrap();
    home.configure(&telegram.config(""));
    telegram.say(42, "before the start");
    let gateway = home.start();
    telegram.until(42, "before the start");
    let deleted = telegram.calls_of("deleteWebhook");
    assert_eq!(deleted.len(), 1, "{deleted:?}");
    assert!(gateway.stderr().contains("webhook"), "the operator is told");
    until_state(&gateway, "up");
}

#[test]
fn another_poller_is_a_conflict_that_passes() {
    let (gateway, telegram) = start("", "");
    let error = json!({ "error_code": 409, "description": "Conflict: terminated by other getUpdates request; \
        make sure that only one bot instance is running" });
    let mut plan = rule("getUpdates", 3, &json!({ "error": error }));
    plan["poll"] = json!(0.1);
    telegram.plan(&plan);
    telegram.say(42, "in spite of it");
    let status = until_state(&gateway, "conflict");
    assert!(status.to_string().contains("bot"), "{status}");
    telegram.until(42, "in spite of it");
    until_state(&gateway, "up");
}

#[test]
fn a_second_gateway_on_the_host_does_not_take_updates_away() {
    let (first, telegram) = start("", "");
    let (_kept, home) = (first.home().clone(), Home::new());
    home.configure(&telegram.config(""));
    let second = home.start();
    let status = until_state(&second, "conflict");
    report(&status.to_string());
    assert_well(&telegram, "the first one's");
    assert!(telegram.calls_of("getUpdates").iter().all(|it| it["status"] != 409));
    drop(first);
    until_state(&second, "up");
    assert_well(&telegram, "the second one's");
}

#[test]
fn while_telegram_is_away_nothing_is_lost() {
    let (gateway, telegram) = start("", "");
    assert_well(&telegram, "before");
    telegram.away();
    let status = until_state(&gateway, "connecting");
    assert!(
        status.to_string().contains("refused") || status.to_string().contains("connect"),
        "{status}"
    );
    telegram.say(42, "while it was away");
    let gateway = gateway.reborn_after(libc::SIGKILL);
    telegram.back();
    telegram.until(42, "while it was away");
    until_state(&gateway, "up");
    telegram.until_confirmed();
}

#[test]
fn telegram_that_asks_for_a_pause_gets_it_and_other_chats_go_on() {
    let (gateway, telegram) = start("", "");
    telegram.say(43, "known");
    telegram.until(43, "known");
    let flood = json!({ "flood": 3, "of": "chat" });
    let mut plan = rule("sendMessage", 1, &flood);
    plan["rules"][0]["chat"] = json!(42);
    telegram.plan(&plan);
    for n in 0..3 {
        telegram.say(42, &format!("later {n}"));
    }
    telegram.until_call("429", |it| it["status"] == 429);
    assert_well(&telegram, "meanwhile");
    assert!(sends(&telegram, 42).is_empty());
    assert_eq!(telegram.shown(42, 3), ["later 0", "later 1", "later 2"]);
    let refused = telegram.calls().iter().filter(|it| it["status"] == 429).count();
    assert_eq!(refused, 1, "it was left alone");
    // The whole bot.
    telegram.plan(&rule("sendMessage", 1, &json!({ "flood": 2, "of": "bot" })));
    telegram.say(42, "later 3");
    assert_well(&telegram, "last");
    telegram.until(42, "later 3");
    let refused = telegram.calls().iter().filter(|it| it["status"] == 429).count();
    assert!(refused <= 3, "{refused}");
    drop(gateway);
}

#[test]
fn it_stays_below_the_limits_of_telegram() {
    let more = format!("groups = [\"{GROUP}\"]\npreview = true\npace = \"100ms\"\n");
    let slow = util::script(
        "read -r text; for n in 1 2 3; do printf '%s %s\\n' \"$text\" $n; sleep 0.2; done",
    );
    let (_gateway, telegram) = start(&slow, &more);
    telegram.plan(&json!({ "strict_limits": true }));
    let count = rounds(6, 12);
    for n in 0..count {
        telegram.say(42, &format!("private {n}"));
    }
    for n in 0..count.min(7) {
        telegram.send(&telegram.mention(42, &format!("group {n}")));
    }
    for n in 0..count {
        telegram.until(42, &format!("private {n} 3"));
    }
    for n in 0..count.min(7) {
        telegram.until(GROUP, &format!("group {n} @test_4242_bot 3"));
    }
    assert!(telegram.calls().iter().all(|it| it["status"] != 429));
}

#[test]
fn who_has_blocked_the_bot_costs_one_call() {
    let (gateway, telegram) = start("", "home = \"43\"\n");
    telegram.plan(&json!({ "blocked": ["42"] }));
    telegram.say(42, "hello");
    eventually("a dead letter", || (delivery(&gateway, 42)["status"] == "dead").then_some(()));
    assert!(delivery(&gateway, 42).to_string().contains("blocked"), "{}", delivery(&gateway, 42));
    let tried = telegram.calls_of("sendMessage").iter().filter(|it| it["status"] == 403).count();
    assert_eq!(tried, 1);
    // Who never wrote to it cannot be written to.
    let id = gateway.api().deliver("s", "hello", "family");
    gateway.api().until_delivery(&id, "dead");
    assert_well(&telegram, "well");
    until_state(&gateway, "up");
}

#[test]
fn an_answer_that_was_lost_doubles_a_message_only_where_it_may() {
    for (policy, do_, shown) in [
        ("resend", "lose", &["hello", "hello"][..]),
        ("resend", "drop", &["hello"]),
        ("resend", "cut", &["hello", "hello"]),
        ("hold", "lose", &["hello"]),
        ("edit", "lose", &["hello"]),
    ] {
        let (gateway, telegram) = start("", &format!("uncertain = {policy:?}\n"));
        telegram.plan(&rule("sendMessage", 1, &json!(do_)));
        telegram.say(42, "hello");
        let status = if policy == "hold" { "dead" } else { "delivered" };
        eventually(&format!("{policy} {do_}: {status}"), || {
            (delivery(&gateway, 42)["status"] == status).then_some(())
        });
        let mut texts = telegram.shown(42, 1);
        if policy == "edit" {
            // A placeholder may be left.
            texts.retain(|it| it.contains("hello"));
        }
        assert_eq!(texts, shown, "{policy} {do_}");
        // An edit is repeated.
        if policy == "edit" {
            telegram.plan(&rule("editMessageText", 1, &json!("lose")));
            telegram.say(42, "again");
            let edits = || telegram.calls_of("editMessageText").len();
            eventually("it is edited once more", || (edits() >= 3).then_some(()));
            telegram.until(42, "again");
            assert_eq!(telegram.shown(42, 1).iter().filter(|it| *it == "again").count(), 1);
        }
    }
}

#[test]
fn failures_that_pass_are_waited_out() {
    let (gateway, telegram) = start("", "");
    for (n, action) in [
        json!({ "status": 502, "body": "<html>Bad Gateway</html>" }),
        json!({ "error": { "error_code": 500, "description": "Internal Server Error" } }),
        json!({ "error": { "error_code": 429, "description": "Too Many Requests: retry after 1", "parameters": { "retry_after": 1 } } }),
        json!({ "slow": 1 }),
    ]
    .iter()
    .enumerate()
    {
        telegram.plan(&rule("sendMessage", 1, action));
        telegram.say(42, &format!("text {n}"));
        telegram.until(42, &format!("text {n}"));
    }
    eventually("it is delivered", || {
        (delivery(&gateway, 42)["status"] == "delivered").then_some(())
    });
    assert_eq!(sends(&telegram, 42), ["text 0", "text 1", "text 2", "text 3"]);
}

#[test]
fn answers_that_are_huge_endless_or_none_are_survived() {
    let (gateway, telegram) = start("", "");
    for (n, action) in [
        json!("huge"),
        json!("endless"),
        json!("garbage"),
        json!("cut"),
        json!("lose"),
        json!("drop"),
        json!({ "status": 200, "body": "[[[[" }),
        json!({ "status": 200, "body": "{\"ok\":true,\"result\":{}}" }),
        json!({ "status": 200, "body": "{\"ok\":true,\"result\":[1,null,\"x\",{}]}" }),
        json!({ "status": 200, "body": format!("{{\"ok\":true,\"result\":{}{}}}", "[".repeat(5000), "]".repeat(5000)) }),
        json!({ "status": 302, "body": "" }),
        json!({ "status": 500, "body": "" }),
        json!({ "error": { "error_code": 429, "description": "x", "parameters": { "retry_after": 1 } } }),
        json!({ "error": { "error_code": 400, "description": "x" } }),
    ]
    .iter()
    .enumerate()
    {
        let mut plan = rule("getUpdates", 1, action);
        plan["poll"] = json!(0.1);
        plan["rules"][0]["name"] = json!(format!("rule-{n}"));
        telegram.plan(&plan);
        telegram.until_call(&action.to_string(), |it| it["method"] == "getUpdates" && it["do"] == *action);
        telegram.plan(&json!({ "poll": 0.1 }));
        assert_well(&telegram, &format!("after {n}"));
    }
    if let Some(pid) = adapter(&gateway) {
        let peak = peak(pid);
        report(&format!("an adapter's peak: {} kB", peak >> 10));
        assert!(peak <= MAX_RSS, "{peak} bytes");
    }
    until_state(&gateway, "up");
    let log = gateway.stderr();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_poll_that_has_no_answer_in_time_is_given_up_and_made_again() {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    // The first poll asks for what is there, and has 10 s; so has the next after a failure.
    let rule = |name: &str| json!({ "method": "getUpdates", "name": name, "times": 1, "do": name });
    telegram.plan(&json!({ "rules": [rule("hang"), rule("trickle")] }));
    telegram.say(42, "hello");
    home.configure(&telegram.config(""));
    let gateway = home.start();
    let poll = |count: usize| {
        eventually(&format!("poll {count}"), || telegram.calls_of("getUpdates").get(count).cloned())
    };
    let first = poll(0);
    let status = until_state(&gateway, "connecting");
    assert!(status["why"].is_string(), "{status}");
    let polls = [first, poll(1), poll(2)];
    let lasted = |n: usize| polls[n]["at"].as_f64().unwrap() - polls[n - 1]["at"].as_f64().unwrap();
    report(&format!("{status}; {} s, {} s", lasted(1), lasted(2)));
    assert!(lasted(1) >= 10.0 && lasted(2) >= 10.0, "{polls:?}");
    telegram.until(42, "hello");
    until_state(&gateway, "up");
    telegram.until_confirmed();
    assert_eq!(sends(&telegram, 42), ["hello"]);
}

/// Updates with something missing, or of another kind than it should be.
fn without_sense(telegram: &Telegram, long: &str, name: &str) -> Vec<Value> {
    let message = |what: &str, value: Value| {
        let mut message = telegram.message(42, 42, "text");
        message[what] = value;
        json!({ "message": message })
    };
    vec![
        json!({ "message": null }),
        json!({ "message": 1 }),
        json!({ "message": [] }),
        json!({ "message": {} }),
        json!({}),
        json!({ "update_id": null, "message": telegram.message(42, 42, "without a number") }),
        json!({ "edited_message": {} }),
        json!({ "callback_query": {} }),
        json!({ "callback_query": { "id": 1, "from": 2, "data": 3 } }),
        json!({ "my_chat_member": {} }),
        json!({ "unheard_of": {} }),
        json!({ "channel_post": telegram.message(-1_001, 42, "x") }),
        message("chat", Value::Null),
        message("chat", json!({ "id": "42", "type": "private" })),
        message("chat", json!({ "id": 1.5e300, "type": "private" })),
        message("message_id", json!("1")),
        message("message_id", json!(-1)),
        message("from", json!({})),
        message("from", json!([])),
        message("from", Value::Null),
        message("date", json!(-5)),
        message("date", json!("x")),
        message("text", json!(5)),
        message("text", json!("")),
        message("entities", json!({ "a": 1 })),
        message("entities", json!([{ "type": "mention", "offset": -1, "length": 1u64 << 52 }])),
        message(
            "entities",
            json!([{ "type": "bot_command", "offset": 4_000_000_000_u64, "length": 9 }]),
        ),
        message("photo", json!([])),
        message("photo", json!({})),
        message("photo", json!([{ "file_id": "none" }])),
        message("document", json!({ "file_id": "../../x", "file_name": "../../../x" })),
        message("document", json!({ "file_id": long, "file_name": long })),
        message("media_group_id", json!(5)),
        message("message_thread_id", json!("x")),
        message("reply_to_message", json!("x")),
        message("migrate_to_chat_id", json!("x")),
        message("forward_origin", json!({ "type": "user", "sender_user": { "first_name": name } })),
        message("location", json!({})),
        message("poll", json!({ "question": name })),
    ]
}

#[test]
fn updates_that_make_no_sense_hold_nothing_up() {
    let (gateway, telegram) = start("", &format!("groups = [\"{GROUP}\"]\n"));
    let long = "n".repeat(64 << 10);
    let name = "\u{202e}\u{1b}[31m\u{7}evil\n\u{0}".repeat(3000);
    let mut updates = without_sense(&telegram, &long, &name);
    let mut named = telegram.message(42, 42, "named");
    named["from"]["first_name"] = json!(name);
    named["chat"]["first_name"] = json!(name);
    updates.push(json!({ "message": named }));
    let mut stranger = telegram.message(99, 99, "stranger");
    stranger["from"]["first_name"] = json!(name);
    updates.push(json!({ "message": stranger }));
    let mut caption = telegram.message(42, 42, "");
    caption["document"] = telegram.document(&name, b"evil");
    caption["caption"] = json!("\u{202e}caption\u{7}");
    updates.push(json!({ "message": caption }));
    telegram.put(&updates);
    assert_well(&telegram, "after all of them");
    telegram.until_confirmed();
    telegram.until(42, "named");
    let log = gateway.stderr();
    assert!(!log.contains(['\u{202e}', '\u{1b}', '\u{7}', '\0']), "{log:?}");
    assert!(!log.contains("panicked"), "{log}");
    let longest = log.lines().map(str::len).max().unwrap();
    assert!(longest < 4000, "a line of {longest} bytes");
}

#[test]
fn a_flood_in_a_large_group_costs_little() {
    let (gateway, telegram) = start("", &format!("groups = [\"{GROUP}\"]\n"));
    let people = rounds(600, 10_000);
    let talk: Vec<Value> = (0..people)
        .map(|n| {
            let who = i64::try_from(1000 + n).unwrap();
            json!({ "message": telegram.message(GROUP, who, &format!("talk {n}")) })
        })
        .collect();
    telegram.put(&talk);
    telegram.send(&telegram.mention(42, "asked"));
    assert_well(&telegram, "nobody waits");
    telegram.until(GROUP, "asked");
    telegram.until_confirmed();
    assert_eq!(telegram.seen(GROUP).len(), 1);
    if let Some(pid) = adapter(&gateway) {
        assert!(peak(pid) <= MAX_RSS, "{}", peak(pid));
    }
}

#[test]
fn files_that_cannot_be_had_are_named_and_the_message_is_answered() {
    let (gateway, telegram) = start("", "");
    let send = |name: &str, plan: &Value| {
        telegram.plan(plan);
        let mut message = telegram.message(42, 42, "");
        message["document"] = telegram.document(name, b"content");
        message["caption"] = json!(format!("look at {name}"));
        telegram.send(&message);
        let shown = text_of(&telegram.until(42, &format!("look at {name}")));
        report(&shown);
        assert!(shown.len() > format!("look at {name}").len(), "{shown}");
        shown
    };
    send(
        "refused",
        &rule(
            "getFile",
            9,
            &json!({ "error": { "error_code": 400, "description": "Bad Request: file is too big" } }),
        ),
    );
    send("gone", &rule("file", 9, &json!({ "status": 404, "body": "no" })));
    send("huge", &rule("file", 9, &json!("huge")));
    send("outside", &json!({ "file_path": "../../../../etc/passwd" }));
    send("absolute", &json!({ "file_path": "/etc/passwd" }));
    let calls = telegram.calls_of("file");
    assert!(
        calls.iter().all(|it| !it["parameters"]["path"].as_str().unwrap().contains("passwd")),
        "{calls:?}"
    );
    telegram.take_wrong();
    telegram.plan(&json!({}));
    assert_well(&telegram, "well");
    telegram.until_confirmed();
    drop(gateway);
}

/// A key and a certificate that nobody has signed; false: there is no `openssl`.
fn certificate(telegram: &Telegram) -> bool {
    let file = telegram.path().join("tls.pem");
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]);
    openssl
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(telegram.path().join("key.pem"));
    openssl
        .arg("-out")
        .arg(telegram.path().join("cert.pem"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !openssl.status().is_ok_and(|it| it.success()) {
        return false;
    }
    let read = |name: &str| fs::read_to_string(telegram.path().join(name)).unwrap();
    fs::write(file, read("key.pem") + &read("cert.pem")).unwrap();
    true
}

#[test]
fn a_wrong_certificate_is_said_and_with_a_good_one_curl_speaks_https() {
    let home = Home::new();
    let telegram = Telegram::start(&home);
    if !certificate(&telegram) {
        return util::skip("there is no openssl");
    }
    telegram.away();
    telegram.back();
    let config = |more: &str| telegram.config(more).replace("http://", "https://");
    home.configure(&config(""));
    let gateway = home.start();
    let status = until_state(&gateway, "connecting");
    report(&status.to_string());
    assert!(status["why"].to_string().to_lowercase().contains("certificate"), "{status}");
    let trust = telegram.path().join("cert.pem");
    home.configure(&config(&format!("env = {{ CURL_CA_BUNDLE = {trust:?} }}\n")));
    home.run(&["reload"]).assert_code(0);
    until_state(&gateway, "up");
    assert_well(&telegram, "by https");
    let mut message = telegram.message(42, 42, "");
    message["document"] = telegram.document("note", b"content");
    message["caption"] = json!("with a file");
    telegram.send(&message);
    telegram.until(42, "with a file");
    telegram.until_confirmed();
    let secret = telegram.secret.split(':').nth(1).unwrap();
    // The one that polls is there for as long as nothing comes.
    let curl = eventually("a curl of the adapter's", || {
        let pids = children(adapter(&gateway)?);
        let mut texts = pids.iter().map(|pid| {
            ["cmdline", "environ"]
                .map(|file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default())
        });
        texts.find(|[words, variables]| words.contains("curl\0") && !variables.is_empty())
    });
    for text in curl {
        assert!(![secret, "bot4242", "127.0.0.1"].iter().any(|it| text.contains(it)), "{text}");
    }
    let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    for process in
        all.filter(|it| it.file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit()))
    {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(process.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains(secret), "{text}");
        }
    }
    // Root alone may read the adapter's.
    let sum = || {
        let pid = adapter(&gateway)?;
        let each = children(pid).into_iter().chain([pid]).map(pss);
        each.collect::<Option<Vec<u64>>>().filter(|it| it.len() == 2)
    };
    if util::sys::uid() == 0 {
        // It gives memory back after a second without work.
        util::pause(Duration::from_secs(2));
        let each = eventually("an adapter and its curl", sum);
        report(&format!("PSS of curl and of the adapter: {each:?} kB"));
        // Most of it are curl's libraries, which count in full where nobody else has them loaded.
        let most = if cfg!(debug_assertions) { 64 << 10 } else { 11_500 };
        assert!(each.iter().sum::<u64>() <= most, "{each:?} kB");
    }
}

#[test]
fn without_curl_it_says_what_to_do() {
    Private::new().run(|| {
        // It is looked for beyond PATH, too.
        let path = std::env::var_os("PATH").unwrap();
        let dirs = std::env::split_paths(&path)
            .chain(["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from));
        for curl in dirs.map(|dir| dir.join("curl")).filter(|it| it.is_file()) {
            let mut mount = Command::new("mount");
            mount.args(["--bind", "/dev/null"]).arg(&curl);
            assert!(mount.status().unwrap().success());
        }
        let home = Home::new();
        let telegram = Telegram::start(&home);
        home.configure(&telegram.config("").replace("http://", "https://"));
        let gateway = home.start();
        let status = until_state(&gateway, "connecting");
        assert!(status["why"].to_string().contains("install the package curl"), "{status}");
    });
}

#[test]
fn privacy_mode_is_said_where_there_are_groups_and_nowhere_else() {
    for more in [format!("groups = [\"{GROUP}\"]\n"), String::new()] {
        let home = Home::new();
        let telegram = Telegram::start(&home);
        telegram.plan(&json!({ "me": { "can_read_all_group_messages": false } }));
        home.configure(&telegram.config(&more));
        let gateway = home.start();
        assert_well(&telegram, "it is up");
        let said = gateway.stderr().contains("/setprivacy");
        assert_eq!(said, !more.is_empty(), "{}", gateway.stderr());
    }
}
