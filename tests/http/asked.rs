//! What an agent that stays does beside its reply, in the stream of a client that wants to see it; and its
//! questions, which `send` puts at the terminal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use util::api::session_path;
use util::http::{Response, chat};
use util::{DEADLINE, Home, Process, eventually, script, skip, sys};

/// Speaks of the Agent Client Protocol what these tests need: a tool call, then a question; two at once if the
/// message says "both".
const AGENT: &str = r#"
say() { printf '{"jsonrpc":"2.0",%s}\n' "$1"; }
show() { say '"method":"session/update","params":{"sessionId":"s","update":{"sessionUpdate":'"$1"'}}'; }
ask() { say '"id":'$1',"method":"session/request_permission","params":{"sessionId":"s","toolCall":{"toolCallId":"u'$1'","title":"'"$2"'","kind":"execute","rawInput":{"all":true}},"options":[{"optionId":"yes","name":"y","kind":"allow_once"},{"optionId":"no","name":"n","kind":"reject_once"}]}'; }
while read -r line; do
  id=$(printf %s "$line" | sed 's/.*"id": *\([0-9]*\).*/\1/')
  case $line in
  *'"initialize"'*) say '"id":'$id',"result":{"protocolVersion":1}';;
  *'"session/new"'*) say '"id":'$id',"result":{"sessionId":"s"}';;
  *'"session/prompt"'*)
    prompt=$id
    show '"agent_message_chunk","content":{"type":"text","text":"First."}'
    show '"tool_call","toolCallId":"t","title":"look","kind":"read","status":"pending"'
    open=1; ask 7 'rm all'
    case $line in *both*) open=2; ask 8 'rm more';; esac;;
  *'"optionId"'*)
    case $line in *'"yes"'*) said=allowed;; *) said=denied;; esac
    show '"agent_message_chunk","content":{"type":"text","text":"'$said'"}'
    open=$((open - 1))
    if [ $open = 0 ]; then say '"id":'$prompt',"result":{"stopReason":"end_turn"}'; fi;;
  esac
done
"#;

fn home() -> Home {
    let home = Home::new();
    home.configure(&(script(AGENT) + "protocol = \"acp\"\napprove = \"ask\"\n"));
    home
}

/// The data of the events of this name; without one, the text of a chat's chunks.
fn of(response: &Response, name: &str) -> Vec<String> {
    let text = response.text();
    let events = text.split("\n\n").filter_map(|event| {
        let (head, data) = event.split_once("data: ")?;
        (head.trim() == format!("event: {name}") || (head.is_empty() && name.is_empty()))
            .then(|| data.to_owned())
    });
    events.collect()
}

fn text_of(response: &Response) -> String {
    let chunks = of(response, "");
    let values = chunks.iter().filter_map(|chunk| serde_json::from_str::<Value>(chunk).ok());
    values
        .filter_map(|it| it["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn a_stream_that_asks_for_it_has_tools_and_questions_and_its_client_answers() {
    let home = home();
    let gateway = home.start();
    let api = gateway.api();
    let fields = [("X-Hermes-Session-Id", "s"), ("X-Hermes-Events", "true")];
    let target = "/v1/chat/completions";
    let mut stream = api.begin("POST", target, &fields, &chat("go", true));
    let open = eventually("a question", || {
        let all = api.get("/v1/approvals").assert_status(200).json();
        all["approvals"].as_array().unwrap().first().cloned()
    });
    assert_eq!((&open["allowed"], &open["session"]), (&Value::Null, &json!("s")));
    let answer = format!("/v1/messages/{}/approval", open["message"].as_str().unwrap());
    api.post(&answer, &json!({ "allow": true, "x": 1 })).assert_status(400);
    api.post(&answer, &json!({})).assert_status(400);
    let done = api.post(&answer, &json!({ "allow": true })).assert_status(200).json();
    let title = "rm all";
    let expected =
        json!({ "message": open["message"], "id": open["id"], "title": title, "allowed": true });
    assert_eq!(done, expected);
    let response = stream.response().assert_status(200);
    assert_eq!(text_of(&response), "First.\n\nallowed");
    let [tools, questions] = ["tool", "approval"].map(|name| of(&response, name));
    let tool: Value = serde_json::from_str(&tools[0]).unwrap();
    assert_eq!((tools.len(), &tool["title"]), (1, &json!("look")));
    let question: Value = serde_json::from_str(&questions[0]).unwrap();
    assert_eq!((questions.len(), &question["id"]), (1, &open["id"]));
    assert_eq!(
        (&question["message"], &question["input"]),
        (&open["message"], &json!({"all": true}))
    );
    let text = response.text();
    let at = |words: &str| text.find(words).unwrap();
    assert!(at("First.") < at("event: tool") && at("event: approval") < at("allowed"), "{text}");
    // Others get what they know, and are not asked.
    let response = api.call("POST", target, &fields[..1], &chat("go", true)).assert_status(200);
    assert!(!response.text().contains("event:"), "{}", response.text());
    assert!(text_of(&response).ends_with("denied"), "{}", text_of(&response));
    let past = api.get("/v1/approvals?limit=1").assert_status(200).json();
    assert_eq!(
        (&past["approvals"][0]["by"], &past["has_more"]),
        (&json!("agent.approve"), &json!(true))
    );
    let next = format!("/v1/approvals?after={}", past["next"].as_str().unwrap());
    let first = api.get(&next).assert_status(200).json();
    assert_eq!(first["approvals"][0]["id"], open["id"]);
    assert_eq!((&first["approvals"][0]["by"], &first["next"]), (&json!("owner"), &Value::Null));
    api.get("/v1/approvals?after=x").assert_status(400);
    let twice = [fields[1], fields[1]];
    api.call("POST", target, &twice, &chat("go", true)).assert_status(400);
    assert_eq!(api.get(&session_path("s")).assert_status(200).json()["queued"], 0);
}

#[test]
fn send_without_a_terminal_says_how_to_answer() {
    let home = home();
    let _gateway = home.start();
    for (option, said) in [("--allow", "allowed"), ("--deny", "denied")] {
        let send = Process::spawn(&mut home.command(&["send", "-s", "s", "go"]));
        let id = eventually("a question", || {
            let listed = home.run(&["approvals", "--json"]).assert_code(0).stdout;
            let first: Value = serde_json::from_str(listed.lines().next()?).unwrap();
            first["allowed"].is_null().then(|| first["id"].as_str().unwrap().to_owned())
        });
        let answered = home.run(&["approvals", option, &id.to_lowercase()]).assert_code(0);
        assert_eq!(answered.stdout, format!("{id}: {said}\n"));
        home.run(&["approvals", option, &id]).assert_code(1);
        let outcome = send.finish(DEADLINE).assert_code(0);
        assert_eq!(outcome.stdout, format!("First.\n\n{said}\n"));
        assert!(outcome.stderr.contains(&format!("approvals --allow {id}")), "{}", outcome.stderr);
    }
}

/// What is written to a terminal, as it comes.
struct Screen(mpsc::Receiver<Vec<u8>>, String);

impl Screen {
    fn until(&mut self, words: &str) {
        while !self.1.contains(words) {
            let bytes = self.0.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{}", self.1));
            self.1 += &String::from_utf8_lossy(&bytes);
        }
    }
}

/// `send` at a terminal of its own: our end of that, and what it shows.
fn at_terminal(home: &Home, text: &str) -> (File, Screen, Child) {
    let (ours, theirs) = sys::terminal().expect("a terminal");
    let send = home.command(&["send", "-s", "s", "-"]);
    // The terminal is the one of a session of its own; the message comes from elsewhere.
    let line = format!("printf {text} | \"$0\" \"$@\"");
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait", "sh", "-c", &line]).arg(send.get_program());
    command.args(send.get_args()).env_clear();
    command.envs(send.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(home.path());
    let also = || Stdio::from(theirs.try_clone().unwrap());
    command.stdin(also()).stdout(also()).stderr(also());
    let child = command.spawn().expect("start it");
    let (sender, receiver) = mpsc::channel();
    let mut from = ours.try_clone().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        // The other end of a terminal that is closed is an I/O error.
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let _ = sender.send(buffer[..count].to_vec());
        }
    });
    (ours, Screen(receiver, String::new()), child)
}

#[test]
fn send_asks_at_its_terminal_and_not_at_standard_input() {
    if !Path::new("/usr/bin/setsid").exists() {
        return skip("needs setsid of util-linux");
    }
    let home = home();
    let _gateway = home.start();
    for (answer, said) in [("y\n", "allowed"), ("\n", "denied")] {
        let (mut ours, mut screen, mut child) = at_terminal(&home, "go");
        screen.until("Allow? [y/N] ");
        assert!(screen.1.contains("· look"), "{}", screen.1);
        let asked = "The agent asks for leave: execute: rm all  {\"all\":true}";
        assert!(screen.1.contains(asked), "{}", screen.1);
        ours.write_all(answer.as_bytes()).unwrap();
        screen.until(said);
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_question_that_is_answered_elsewhere_makes_room_for_the_next() {
    if !Path::new("/usr/bin/setsid").exists() {
        return skip("needs setsid of util-linux");
    }
    let home = home();
    let gateway = home.start();
    let (mut ours, mut screen, mut child) = at_terminal(&home, "both");
    screen.until("Allow? [y/N] ");
    // Half of an answer to this one is no answer to the next.
    ours.write_all(b"y").unwrap();
    let all = eventually("two questions", || {
        let all = gateway.api().get("/v1/approvals").assert_status(200).json();
        let all = all["approvals"].as_array().unwrap().clone();
        (all.len() == 2).then_some(all)
    });
    // Either may be put first.
    let [title, next] =
        if screen.1.contains("rm all") { ["rm all", "rm more"] } else { ["rm more", "rm all"] };
    let first = all.iter().find(|one| one["title"] == title).unwrap();
    let target = format!("/v1/messages/{}/approval", first["message"].as_str().unwrap());
    let body = json!({ "id": first["id"], "allow": false });
    gateway.api().post(&target, &body).assert_status(200);
    screen.until(&format!("· {title}: answered elsewhere, or its time ran out"));
    screen.until(&format!("{next}  {{\"all\":true}}\r\nAllow? [y/N] "));
    screen.1.clear();
    ours.write_all(b"\n").unwrap();
    screen.until("denied");
    assert!(child.wait().unwrap().success());
}
