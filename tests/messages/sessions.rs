//! Sessions from outside: what they are called, who waits in them, how a busy one is dealt with,
//! their limits, their end, and the commands that a message may be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs;

use serde_json::{Value, json};

use util::api::{code_of, id_of, session_path};
use util::{Api, Gate, Gateway, Home, script};

/// A gateway whose agent waits at a gate.
#[track_caller]
fn gated(more: &str) -> (Gateway, Gate) {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&format!("{}{more}", gate.agent()));
    (home.start(), gate)
}

/// Waits until this message runs.
#[track_caller]
fn until_running(api: &Api, id: &str) {
    api.until(id, "its turn", |message| message["status"] == "running");
}

/// What a session says of itself.
#[track_caller]
fn session(api: &Api, key: &str) -> Value {
    api.get(&session_path(key)).assert_status(200).json()
}

fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

// ----------------------------------------------------------------------- keys ----

#[test]
fn a_key_is_free_text() {
    let home = Home::new();
    home.configure(&script("printf %s \"$HERMES_SESSION\""));
    let gateway = home.start();
    let api = gateway.api();
    let longest = "x".repeat(256);
    let wide = "\u{1f980}".repeat(64);
    let keys = [
        "a",
        "a b",
        " a ",
        "wörk",
        "a/b",
        "/",
        "//a//",
        "...",
        "%",
        "%2F",
        "a?b#c",
        "messages",
        "a/messages",
        "a/events",
        "+",
        "a+b",
        "\"'\\",
        "-p",
        &longest,
        &wide,
    ];
    for key in keys {
        let body = json!({"text": "x", "session": key});
        let id = id_of(&api.post("/v1/messages", &body).assert_status(202).json());
        assert_eq!(api.reply(&id), key.trim_end_matches('\n'), "{key:?}");
        let listed = api.get("/v1/sessions").assert_status(200).json();
        let listed = listed["sessions"].as_array().unwrap();
        assert_eq!(listed.iter().filter(|one| one["session"] == key).count(), 1, "{key:?}");
    }
    let listed = api.get("/v1/sessions").assert_status(200).json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), keys.len(), "{listed}");
    // None of them became a file's name.
    let files = fs::read_dir(home.state_dir()).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<String> = files
        .flat_map(|path| match fs::read_dir(&path) {
            Ok(inner) => inner.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => vec![path],
        })
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    for name in files {
        assert!(name.is_ascii() && !name.contains("xxx") && !name.contains("passwd"), "{name}");
    }
}

#[test]
fn a_key_in_the_path_is_decoded() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let longest = "x".repeat(256);
    for key in ["a b", "wörk", "a/b", "%", "%2", "a?b#c", "a+b", "\u{1f980}", &longest] {
        let answer = api.send(key, "x").assert_status(202).json();
        assert_eq!(answer["session"], key);
        api.reply(&id_of(&answer));
        let found = session(&api, key);
        assert_eq!(found["session"], key);
        assert_eq!(found["messages"], json!([{"id": answer["id"], "status": "done"}]));
    }
    // Another way to write the same.
    assert_eq!(session(&api, "a b"), api.get("/v1/sessions/%61%20b").assert_status(200).json());
    // As encodeURIComponent() writes a slash; one that is encoded separates nothing.
    assert_eq!(session(&api, "a/b"), api.get("/v1/sessions/a%2Fb").assert_status(200).json());
    for path in ["a%2Fmessages", "a%2fevents", "x%2F%2F"] {
        let body = "{\"text\":\"x\"}";
        let target = format!("/v1/sessions/{path}/messages");
        let answer = api.call("POST", &target, &[], body).assert_status(202).json();
        let key = path.replace("%2F", "/").replace("%2f", "/");
        assert_eq!(answer["session"], key);
        let found = api.get(&format!("/v1/sessions/{path}")).assert_status(200).json();
        assert_eq!(found["session"], key);
        api.delete(&format!("/v1/sessions/{path}")).assert_status(200);
    }
    api.get("/v1%2Fsessions").assert_status(404);
    api.get("/v1/status%2F").assert_status(404);
}

#[test]
fn dots_between_slashes_are_refused_wherever_a_session_is_named() {
    let gateway = Gateway::start();
    let api = gateway.api();
    for key in [".", "..", "a/../b", "../../etc/passwd", "a/."] {
        let body = json!({"text": "x", "session": key});
        assert_eq!(code_of(api.post("/v1/messages", &body), 400), "bad_session", "{key}");
        let chat = json!({"messages": [{"role": "user", "content": "x"}]}).to_string();
        let field = [("X-Hermes-Session-Id", key)];
        let answer = api.call("POST", "/v1/chat/completions", &field, &chat);
        assert_eq!(code_of(answer, 400), "bad_session", "{key}");
        for path in [key.to_owned(), key.replace('/', "%2F").replace('.', "%2E")] {
            let answer = api.get(&format!("/v1/sessions/{path}"));
            assert_eq!(answer.status(), 400, "{path}: {answer:?}");
        }
    }
    // Dots elsewhere are as good as any letter.
    for key in ["...", "a..b", ".a", "v1.2"] {
        api.send(key, "x").assert_status(202);
        assert_eq!(session(&api, key)["session"], key);
    }
}

#[test]
fn the_header_puts_a_message_into_a_session_unless_it_has_another() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let header = |name: &'static str| [("X-Hermes-Session-Id", name)];
    let (plain, named) = (r#"{"text":"x"}"#, r#"{"text":"x","session":"a/b"}"#);
    for (path, body) in
        [("/v1/messages", plain), ("/v1/messages", named), ("/v1/sessions/a%2Fb/messages", plain)]
    {
        let accepted = api.call("POST", path, &header("a/b"), body).assert_status(202).json();
        assert_eq!(accepted["session"], "a/b", "{path} {body}");
    }
    for (path, body) in [("/v1/messages", named), ("/v1/sessions/a%2Fb/messages", plain)] {
        let error = api.call("POST", path, &header("c"), body).error(400);
        assert!(error.contains("X-Hermes-Session-Id"), "{error}");
    }
    let answer = api.call("POST", "/v1/messages", &header("a/.."), plain);
    assert_eq!(code_of(answer, 400), "bad_session");
}

#[test]
fn a_header_field_that_names_something_comes_once() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let chat = json!({"messages": [{"role": "user", "content": "x"}]}).to_string();
    for name in ["X-Hermes-Session-Id", "Idempotency-Key", "Last-Event-ID"] {
        for (first, second) in [("1", "2"), ("1", "1")] {
            let fields = [(name, first), (name, second)];
            for (method, path, body) in [
                ("POST", "/v1/chat/completions", chat.as_str()),
                ("POST", "/v1/messages", "{\"text\":\"x\"}"),
                ("GET", "/v1/sessions/s/events", ""),
                ("GET", "/v1/sessions", ""),
            ] {
                let answer = api.call(method, path, &fields, body).assert_status(400);
                assert_eq!(answer.json()["error"]["code"], "repeated_header", "{name} {path}");
                assert!(answer.text().contains(name), "{answer:?}");
            }
        }
    }
    let twice = [("Authorization", "Bearer x"), ("Authorization", "Bearer y")];
    api.call("GET", "/v1/sessions", &twice, "").assert_status(400);
    assert_eq!(api.get("/v1/sessions").assert_status(200).json()["sessions"], json!([]));
}

#[test]
fn the_list_of_sessions_comes_in_pages() {
    let home = Home::new();
    home.configure("[limits]\nmax_queue = 5000\n");
    let gateway = home.start();
    let api = gateway.api();
    let mut keys: Vec<String> = (0..1001).map(|n| format!("s{n:04}")).collect();
    keys.push("t/x +y".to_owned());
    for key in &keys {
        api.send(key, "x").assert_status(202);
    }
    let page = |query: &str| {
        let page = api.get(&format!("/v1/sessions{query}")).assert_status(200).json();
        let listed = page["sessions"].as_array().unwrap().iter();
        let listed: Vec<String> =
            listed.map(|one| one["session"].as_str().unwrap().to_owned()).collect();
        (listed, page["has_more"].as_bool().unwrap())
    };
    assert_eq!(page(""), (keys[..1000].to_vec(), true));
    assert_eq!(page("?after=s0999"), (keys[1000..].to_vec(), false));
    assert_eq!(page("?after=s0500").0, keys[501..]);
    assert_eq!(page("?after=t%2Fx%20%2By"), (vec![], false));
    for query in ["?before=a", "?after=%zz", "?after=a&after=b"] {
        assert_eq!(code_of(api.get(&format!("/v1/sessions{query}")), 400), "bad_request");
    }
}

#[test]
fn what_is_no_key_is_refused() {
    let gateway = Gateway::start();
    let api = gateway.api();
    let too_long = "x".repeat(257);
    for key in ["", &too_long] {
        let body = json!({"text": "x", "session": key});
        let answer = api.post("/v1/messages", &body);
        assert!(code_of(answer, 400).starts_with("bad_"), "{}", key.len());
    }
    let body = "{\"text\":\"x\"}";
    for path in [&too_long, "%zz", "a%2", "a%", "%ff", "%00"] {
        let answer = api.call("POST", &format!("/v1/sessions/{path}/messages"), &[], body);
        assert_eq!(answer.status(), 400, "{path}: {answer:?}");
    }
    assert_eq!(api.get("/v1/sessions").assert_status(200).json()["sessions"], json!([]));
}

// -------------------------------------------------------------- what there is ----

#[test]
fn sessions_tell_what_runs_and_what_waits() {
    let (gateway, gate) = gated("");
    let api = gateway.api();
    let ids = ["a", "b", "c"].map(|text| api.accepted("work", text));
    let other = api.accepted("play", "x");
    until_running(&api, &ids[0]);
    until_running(&api, &other);
    let listed = api.get("/v1/sessions").assert_status(200).json();
    let listed = listed["sessions"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    let work = listed.iter().find(|one| one["session"] == "work").unwrap();
    let wanted = ["principal", "queued", "running", "session", "transcript_bytes"];
    assert_eq!(names(work), wanted);
    assert_eq!((&work["running"], &work["queued"]), (&ids[0].clone().into(), &2.into()), "{work}");
    assert_eq!(work["principal"], "owner");
    let mut one = session(&api, "work");
    let messages = one.as_object_mut().unwrap().remove("messages").unwrap();
    assert_eq!(&one, work);
    let wanted = json!([
        {"id": ids[0], "status": "running"}, {"id": ids[1], "status": "queued"},
        {"id": ids[2], "status": "queued"}
    ]);
    assert_eq!(messages, wanted);
    let journal = gateway.status()["journal"].clone();
    assert_eq!((&journal["queued"], &journal["running"]), (&2.into(), &2.into()), "{journal}");
    gate.open();
    ids.iter().for_each(|id| drop(api.reply(id)));
    let one = session(&api, "work");
    assert_eq!((&one["running"], &one["queued"]), (&Value::Null, &0.into()), "{one}");
    assert!(one["transcript_bytes"].as_u64().unwrap() > 0, "{one}");
}

#[test]
fn a_reset_ends_what_runs_and_forgets_what_was_said() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    let text = format!(
        "read -r text; case $text in wait*) {};; esac; cat $HERMES_TRANSCRIPT; echo",
        gate.wait()
    );
    home.configure(&script(&text));
    let gateway = home.start();
    let api = gateway.api();
    let before = api.accepted("s", "remember me\n");
    api.reply(&before);
    let ids = ["wait 1\n", "wait 2\n", "wait 3\n"].map(|text| api.accepted("s", text));
    let elsewhere = api.accepted("t", "wait 4\n");
    until_running(&api, &ids[0]);
    let answer = api.delete("/v1/sessions/s").assert_status(200).json();
    assert_eq!(answer, json!({"session": "s", "cancelled": 3}));
    for id in &ids {
        assert_eq!(code_of(api.get(&format!("/v1/messages/{id}?wait=5")), 410), "session_reset");
    }
    gate.open();
    let reply = api.reply(&api.accepted("s", "what was said?\n"));
    assert!(!reply.contains("remember me"), "{reply}");
    // It is nobody else's end.
    assert_eq!(api.finished(&elsewhere)["status"], "done");
    assert_eq!(code_of(api.get(&format!("/v1/messages/{before}")), 410), "session_reset");
    let gateway = gateway.reborn_after(libc::SIGKILL);
    let reply = gateway.api().reply(&gateway.api().accepted("s", "and now?\n"));
    assert!(!reply.contains("remember me") && reply.contains("what was said?"), "{reply}");
    // Whoever never was has nothing to forget.
    let answer = gateway.api().delete("/v1/sessions/nobody").assert_status(200).json();
    assert_eq!(answer, json!({"session": "nobody", "cancelled": 0}));
}

// -------------------------------------------------------------------- being busy ----

#[test]
fn a_message_may_interrupt_what_runs() {
    let (gateway, gate) = gated("");
    let api = gateway.api();
    let [first, second] = ["a", "b"].map(|text| api.accepted("s", text));
    until_running(&api, &first);
    let body = json!({"text": "now", "mode": "interrupt"});
    let answer = api.send_json("s", &body).assert_status(202).json();
    assert_eq!(
        (&answer["mode"], &answer["interrupted"]),
        (&"interrupt".into(), &first.clone().into())
    );
    let message = api.finished(&first);
    assert_eq!(message["status"], "cancelled", "{message}");
    assert!(message["error"].as_str().unwrap().contains("interrupt"), "{message}");
    gate.open();
    // Both of the others run; nothing that was accepted is dropped unsaid.
    assert_eq!(api.reply(&id_of(&answer)), "begun\nnow");
    assert_eq!(api.reply(&second), "begun\nb");
    // Where nothing runs there is nothing to interrupt.
    let answer = api.send_json("s", &body).assert_status(202).json();
    assert_eq!(answer["interrupted"], Value::Null, "{answer}");
}

#[test]
fn the_configuration_says_what_a_busy_session_does() {
    let (gateway, gate) = gated("[session]\nbusy = \"interrupt\"\n");
    let api = gateway.api();
    let first = api.accepted("s", "a");
    until_running(&api, &first);
    let queued =
        api.send_json("s", &json!({"text": "b", "mode": "queue"})).assert_status(202).json();
    assert_eq!((&queued["mode"], &queued["position"]), (&"queue".into(), &2.into()), "{queued}");
    assert_eq!(api.message(&first)["status"], "running");
    let answer = api.send("s", "c").assert_status(202).json();
    assert_eq!(
        (&answer["mode"], &answer["interrupted"]),
        (&"interrupt".into(), &first.clone().into())
    );
    assert_eq!(api.finished(&first)["status"], "cancelled");
    gate.open();
    api.reply(&id_of(&answer));
    api.reply(&id_of(&queued));
}

#[test]
fn queues_are_bounded() {
    let (gateway, gate) =
        gated("[limits]\nmax_turns = 1\nmax_queue = 5\nmax_queue_per_session = 2\n");
    let api = gateway.api();
    let mut ids = vec![api.accepted("a", "runs")];
    until_running(&api, &ids[0]);
    ids.extend((0..2).map(|_| api.accepted("a", "waits")));
    let full = api.send("a", "too many");
    assert!(
        full.field("retry-after").is_some_and(|after| after.parse::<u64>().is_ok()),
        "{full:?}"
    );
    assert_eq!(code_of(full, 429), "session_queue_full");
    ids.extend(["b", "b", "c"].map(|session| api.accepted(session, "waits")));
    let full = api.send("d", "too many");
    assert!(full.field("retry-after").is_some(), "{full:?}");
    assert_eq!(code_of(full, 429), "queue_full");
    let full = api.post("/v1/messages", &json!({"text": "too many"}));
    assert_eq!(code_of(full, 429), "queue_full");
    // What was refused is not there, and a key does not remember it.
    assert_eq!(code_of(api.send_keyed("d", "k", "x"), 429), "queue_full");
    api.get("/v1/sessions/d").assert_status(404);
    gate.open();
    ids.iter().for_each(|id| drop(api.reply(id)));
    api.reply(&id_of(&api.send_keyed("d", "k", "x").assert_status(202).json()));
}

#[test]
fn queues_stay_bounded_and_whole_across_a_restart() {
    let (gateway, gate) = gated("[limits]\nmax_turns = 1\nmax_queue = 3\nmax_attempts = 5\n");
    let accepted = |n: usize| gateway.api().accepted(&format!("s{n}"), "x");
    let mut ids = vec![accepted(0)];
    // Until turns may begin, which is a moment after READY, it waits like the others.
    until_running(&gateway.api(), &ids[0]);
    ids.extend((1..4).map(accepted));
    assert_eq!(gateway.api().send("t", "x").status(), 429);
    let gateway = gateway.reborn_after(libc::SIGKILL);
    assert_eq!(gateway.api().send("t", "x").status(), 429);
    gate.open();
    ids.iter().for_each(|id| drop(gateway.api().reply(id)));
}

#[test]
fn no_session_waits_for_the_whole_line_of_another() {
    let home = Home::new();
    let (gate, notes) = (Gate::closed(home.path()), home.path().join("notes"));
    let text = format!("{}; cat >> {}", gate.wait(), notes.display());
    home.configure(&format!("{}[limits]\nmax_turns = 1\n", script(&text)));
    let gateway = home.start();
    let api = gateway.api();
    let mut ids: Vec<String> = (0..10).map(|n| api.accepted("long", &format!("a{n}\n"))).collect();
    until_running(&api, &ids[0]);
    ids.push(api.accepted("short", "b\n"));
    gate.open();
    ids.iter().for_each(|id| drop(api.finished(id)));
    let order = fs::read_to_string(&notes).unwrap();
    let order: Vec<&str> = order.lines().collect();
    let place = order.iter().position(|line| *line == "b").unwrap();
    assert!(place <= 2, "{order:?}");
    let long: Vec<&str> = order.into_iter().filter(|line| *line != "b").collect();
    assert!(long.is_sorted() && long.len() == 10, "{long:?}");
}

#[test]
fn no_more_turns_run_at_once_than_are_allowed() {
    let (gateway, gate) = gated("[limits]\nmax_turns = 3\n");
    let api = gateway.api();
    let ids: Vec<String> = (0..8).map(|n| api.accepted(&format!("s{n}"), "x")).collect();
    gateway.wait_for_turns(3);
    let running = ids.iter().filter(|id| api.message(id)["status"] == "running").count();
    assert_eq!(running, 3);
    assert_eq!(gateway.status()["turns"]["waiting"], 5);
    gate.open();
    ids.iter().for_each(|id| drop(api.reply(id)));
}

// ---------------------------------------------------------------------- commands ----

/// Sends a command and returns the answer, which does not wait for a turn.
#[track_caller]
fn command(api: &Api, session: &str, word: &str) -> String {
    let target = format!("{}/messages?wait=20", session_path(session));
    let message = api.post(&target, &json!({"text": word})).assert_status(200).json();
    assert_eq!(message["status"], "done", "{word}: {message}");
    message["reply"].as_str().unwrap().to_owned()
}

#[test]
fn an_operator_may_command() {
    let (gateway, gate) = gated("");
    let api = gateway.api();
    let ids = ["a", "b"].map(|text| api.accepted("s", text));
    until_running(&api, &ids[0]);
    // All of these are answered while a turn runs.
    let help = command(&api, "s", "/help");
    for word in ["/help", "/status", "/stop", "/new", "/queue", "/retry", "/whoami"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert!(command(&api, "s", "/whoami").contains("owner"));
    assert!(!command(&api, "s", "/status").is_empty());
    let queue = command(&api, "s", "/queue");
    assert!(queue.contains(&ids[1]), "{queue}");
    command(&api, "s", "/stop");
    assert_eq!(api.finished(&ids[0])["status"], "cancelled");
    until_running(&api, &ids[1]);
    command(&api, "s", "/new");
    assert_eq!(code_of(api.get(&format!("/v1/messages/{}", ids[1])), 410), "session_reset");
    gate.open();
    let id = api.accepted("s", "once");
    assert_eq!(api.reply(&id), "begun\nonce");
    command(&api, "s", "/retry");
    let messages = session(&api, "s")["messages"].clone();
    let again = messages.as_array().unwrap().iter().rev().find_map(|message| {
        let message = api.finished(message["id"].as_str().unwrap());
        (message["reply"] == "begun\nonce").then_some(message)
    });
    assert_ne!(again.unwrap()["id"], id);
}

#[test]
fn what_is_no_command_goes_to_the_agent() {
    let gateway = Gateway::start();
    let api = gateway.api();
    for text in ["/unknown", "/", "/etc/passwd is a file", "say /help", "/HELP", "//help"] {
        assert_eq!(api.reply(&api.accepted("s", text)), text);
    }
    // Without a session there is nothing to command.
    let id = id_of(&api.post("/v1/messages", &json!({"text": "/whoami"})).json());
    assert_eq!(api.reply(&id), "/whoami");
}

#[test]
fn who_is_no_operator_is_refused_in_words() {
    let home = Home::new();
    let gate = Gate::closed(home.path());
    home.configure(&gate.agent());
    let gateway = home.launch().set("session.operators", "[]").start();
    let api = gateway.api();
    let ids = ["a", "b"].map(|text| api.accepted("s", text));
    until_running(&api, &ids[0]);
    for word in ["/status", "/stop", "/new", "/queue", "/retry"] {
        let words = command(&api, "s", word);
        assert!(words.contains("operator") && !words.contains(&ids[1]), "{word}: {words}");
    }
    assert_eq!(api.message(&ids[0])["status"], "running");
    assert_eq!(api.message(&ids[1])["status"], "queued");
    gate.open();
    ids.iter().for_each(|id| drop(api.reply(id)));
    let before = session(&api, "s")["messages"].as_array().unwrap().len();
    command(&api, "s", "/retry");
    assert_eq!(session(&api, "s")["messages"].as_array().unwrap().len(), before + 1);
}

#[test]
fn a_chat_in_a_session_waits_its_turn_there() {
    let (gateway, gate) = gated("");
    let api = gateway.api();
    let first = api.accepted("s", "first");
    until_running(&api, &first);
    let fields = [("X-Hermes-Session-Id", "s")];
    let mut chat =
        api.begin("POST", "/v1/chat/completions", &fields, &util::http::chat("chat", false));
    util::eventually("the chat in the line", || {
        (session(&api, "s")["queued"] == 1 || gateway.status()["turns"]["waiting"] == 1)
            .then_some(())
    });
    let last = api.send("s", "last").assert_status(202).json();
    assert_eq!(last["position"], 3, "{last}");
    gate.open();
    assert_eq!(chat.response().reply(), "begun\nchat");
    assert_eq!(api.reply(&id_of(&last)), "begun\nlast");
}
