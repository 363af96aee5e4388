//! Turns with an agent that answers as each test has it.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agent::acp::{ACP, wire};
use crate::agent::living::{LivingTurn, Process, Protocol};
use crate::agent::{
    AgentSession, Answer, Attachment, Context, Leave, Outcome, Question, Reply, Report, Turn,
};
use crate::cancel::{Cancel, CancelReason};
use crate::config::{self, Approve};
use crate::sys::fd::EventFd;
use crate::testing::TempDir;
use crate::threads::lock;

/// What the agent says to a line of the gateway's.
type Script = dyn FnMut(&Value) -> Vec<Value> + Send;

struct Fake {
    process: Arc<Process>,
    dir: TempDir,
    heard: Arc<Mutex<Vec<Value>>>,
    thread: Option<JoinHandle<()>>,
    config: config::Agent,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.process.close_stdin();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A request's answer.
fn result(to: &Value, result: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": to["id"], "result": result })
}

fn refuse(to: &Value, code: i64) -> Value {
    json!({ "jsonrpc": "2.0", "id": to["id"], "error": { "code": code, "message": "no" } })
}

fn update(session: &str, update: Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": "session/update",
        "params": { "sessionId": session, "update": update } })
}

fn says(session: &str, text: &str) -> Value {
    let content = json!({ "type": "text", "text": text });
    update(session, json!({ "sessionUpdate": "agent_message_chunk", "content": content }))
}

fn asks(session: &str, id: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "session/request_permission", "params": {
        "sessionId": session, "toolCall": { "toolCallId": "c", "title": "rm -r /", "kind": "execute" },
        "options": [
            { "optionId": "always", "kind": "allow_always", "name": "" },
            { "optionId": "yes", "kind": "allow_once", "name": "" },
            { "optionId": "no", "kind": "reject_once", "name": "" },
        ] } })
}

/// Opens the session `s1`, and answers a prompt with what `prompt` says, if that is anything.
fn agent(mut prompt: impl FnMut(&Value) -> Vec<Value> + Send + 'static) -> Box<Script> {
    Box::new(move |line: &Value| match line["method"].as_str() {
        Some("session/new") => vec![result(line, json!({ "sessionId": "s1", "modes": [] }))],
        Some("session/prompt") => prompt(line),
        _ => Vec::new(),
    })
}

impl Fake {
    fn new(capabilities: &Value, mut script: Box<Script>) -> Fake {
        let (process, reader) = Process::scripted(&ACP);
        let greeting = json!({ "id": 0, "result": {
            "protocolVersion": 1, "agentCapabilities": capabilities } });
        ACP.line(&process, &greeting.to_string()).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (own, said) = (Arc::clone(&process), Arc::clone(&heard));
        let thread = std::thread::spawn(move || {
            for line in BufReader::new(reader).lines() {
                let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
                lock(&said).push(line.clone());
                for answer in script(&line) {
                    ACP.line(&own, &answer.to_string()).unwrap();
                }
            }
        });
        let config = config::Agent { command: vec!["x".to_owned()], ..config::Agent::default() };
        Fake { process, dir: TempDir::new("acp"), heard, thread: Some(thread), config }
    }

    fn turn(&self, turn: &Turn<'_>, reply: &mut Listener, cancel: Cancel<'_>) -> Outcome {
        let (config, data) = (&self.config, self.dir.path());
        let reply: RefCell<&mut dyn Reply> = RefCell::new(reply);
        ACP.run(&self.process, &LivingTurn { config, data, turn, reply: &reply, cancel })
    }

    fn run(&self, turn: &Turn<'_>) -> (Outcome, Listener) {
        let mut reply = Listener::default();
        (self.turn(turn, &mut reply, Cancel::at(soon())), reply)
    }

    /// What the gateway has sent since the last time.
    fn heard(&self) -> Vec<Value> {
        std::mem::take(&mut lock(&self.heard))
    }

    /// Waits until the gateway has sent something like this.
    #[track_caller]
    fn until(&self, like: impl Fn(&Value) -> bool) -> Value {
        let deadline = soon();
        loop {
            assert!(Instant::now() < deadline, "{:?}", lock(&self.heard));
            if let Some(line) = lock(&self.heard).iter().find(|line| like(line)) {
                return line.clone();
            }
            std::thread::yield_now();
        }
    }

    fn methods(&self) -> Vec<String> {
        let name = |line: &Value| line["method"].as_str().unwrap_or("answer").to_owned();
        self.heard().iter().map(name).collect()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// What a turn tells, and what it is told.
#[derive(Default)]
struct Listener {
    text: String,
    events: Vec<(&'static str, Value)>,
    kept: Option<AgentSession>,
    report: Report,
    /// Who asks is told this, once each.
    leaves: Vec<Leave>,
    asked: Vec<Question>,
    answers: Vec<Answer>,
    withdrawn: Vec<String>,
    resumed: usize,
    gone: bool,
}

impl Reply for Listener {
    fn chunk(&mut self, text: &str) -> io::Result<()> {
        self.text += text;
        if self.gone { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
    fn bytes(&self) -> usize {
        self.text.len()
    }
    fn event(&mut self, word: &'static str, json: &str) {
        self.events.push((word, serde_json::from_str(json).unwrap()));
    }
    fn ask(&mut self, question: &Question, _: Approve) -> Leave {
        self.asked.push(question.clone());
        self.leaves.remove(0)
    }
    fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }
    fn withdraw(&mut self, id: &str, _: &str) -> Option<bool> {
        self.withdrawn.push(id.to_owned());
        None
    }
    fn resume(&mut self, _: &Cancel<'_>) -> Result<(), CancelReason> {
        self.resumed += 1;
        Ok(())
    }
    fn keep_session(&mut self, session: &AgentSession) {
        self.kept = Some(session.clone());
    }
    fn report(&mut self, report: Report) {
        self.report = report;
    }
}

const TURN: Turn<'_> = Turn {
    message_id: "m1",
    session: "work",
    principal: "ann",
    attempt: 1,
    text: "hello",
    context: None,
    transcript: None,
    attachments: &[],
    earlier: &[],
    max_reply: 1000,
    process: "",
    session_name: "d1",
    agent_session: None,
};

#[test]
fn a_session_is_opened_once_and_every_turn_has_its_own_reply_and_usage() {
    let mut used = 0;
    let script = agent(move |line| {
        used += 10;
        let call = json!({ "sessionUpdate": "tool_call", "toolCallId": "c", "title": "ls" });
        let thought = json!({ "sessionUpdate": "agent_thought_chunk",
            "content": { "type": "text", "text": "hm" } });
        let usage =
            json!({ "inputTokens": used, "outputTokens": used / 2, "totalTokens": used * 2 });
        vec![
            says("s1", ""),
            says("s1", "I look."),
            update("s1", call),
            update("s1", thought),
            says("s1", "\n\nDone."),
            update("s1", json!({ "sessionUpdate": "tool_call_update", "toolCallId": "c" })),
            says("s1", " Really."),
            result(line, json!({ "stopReason": "end_turn", "usage": usage })),
        ]
    });
    let fake = Fake::new(&json!({}), script);
    let (outcome, first) = fake.run(&TURN);
    assert_eq!((outcome, &*first.text), (Outcome::Done, "I look.\n\nDone. Really."));
    let words: Vec<_> = first.events.iter().map(|(word, _)| *word).collect();
    assert_eq!(words, ["agent_session", "tool"]);
    assert_eq!(first.events[0].1, json!({ "how": "new", "agent_session_id": "s1" }));
    let kept = first.kept.unwrap();
    assert_eq!(kept.id, "s1");
    let usage = r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":20}"#;
    assert_eq!(first.report.usage.as_deref(), Some(usage));
    let heard = fake.heard();
    let cwd = fake.dir.path().join("work/d1");
    assert!(cwd.is_dir());
    assert_eq!(heard[0]["params"], json!({ "cwd": cwd, "mcpServers": [] }));
    assert_eq!(
        heard[1]["params"],
        json!({ "sessionId": "s1", "prompt": [{ "type": "text", "text": "hello" }], "_meta": { "hermes":
            { "principal": "ann", "messageId": "m1", "session": "work", "attempt": 1 } } })
    );

    let (outcome, second) = fake.run(&Turn { agent_session: Some(&kept), ..TURN });
    assert_eq!((outcome, &*second.text), (Outcome::Done, "I look.\n\nDone. Really."));
    assert_eq!((fake.methods(), second.kept), (vec!["session/prompt".to_owned()], None));
    assert_eq!((second.events.len(), second.report.usage.as_deref()), (1, Some(usage)));

    // The id of another command's session says nothing here.
    let other = AgentSession { agent: "other".to_owned(), id: "s1".to_owned() };
    fake.run(&Turn { agent_session: Some(&other), ..TURN });
    assert_eq!(fake.methods(), ["session/new", "session/prompt"]);
}

#[test]
fn what_was_said_before_and_what_came_along_is_in_the_first_prompt() {
    let script = agent(|line| vec![result(line, json!({ "stopReason": "max_tokens" }))]);
    let fake = Fake::new(&json!({ "promptCapabilities": { "image": true } }), script);
    let image = fake.dir.path().join("a b.png");
    std::fs::write(&image, b"abc").unwrap();
    let attachment = |name: &str, media: &str, path: bool| Attachment {
        name: name.to_owned(),
        media: media.to_owned(),
        path: path.then(|| image.clone()),
    };
    let attachments = [
        attachment("x.png", "image/png", true),
        attachment("x.pdf", "application/pdf", true),
        attachment("http://x/", "", false),
    ];
    let context = Context::parse(
        r#"{"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"a"},
        {"role":"assistant","content":"b"},{"role":"user","content":"hello"}]}"#,
    );
    let stateless = Turn {
        context: Some(&context),
        attachments: &attachments,
        session: "",
        session_name: "",
        ..TURN
    };
    let (outcome, reply) = fake.run(&stateless);
    assert_eq!((outcome, reply.report.finish.as_deref()), (Outcome::Done, Some("length")));
    assert_eq!((reply.kept, &reply.events[0].1["how"]), (None, &json!("restored")));
    let heard = fake.heard();
    let prompt = heard[1]["params"]["prompt"].as_array().unwrap();
    let text = prompt[0]["text"].as_str().unwrap();
    assert!(text.starts_with("be brief\n\n") && text.ends_with(":\nhello"), "{text}");
    let said =
        "{\"role\":\"user\",\"content\":\"a\"}\n{\"role\":\"assistant\",\"content\":\"b\"}\n";
    assert!(text.contains(said) && text.matches("be brief").count() == 1, "{text}");
    assert_eq!(prompt[1], json!({ "type": "image", "mimeType": "image/png", "data": "YWJj" }));
    let uri = format!("file://{}", image.display()).replace(' ', "%20");
    let link = json!({ "type": "resource_link", "uri": uri, "name": "x.pdf", "mimeType": "application/pdf" });
    assert_eq!(prompt[2], link);
    assert_eq!(prompt[3], json!({ "type": "text", "text": "Attachment: http://x/" }));
    // One that is empty serves the next turn, of the same principal's.
    let directories = || std::fs::read_dir(fake.dir.path().join("work")).unwrap().count();
    let cwd = heard[0]["params"]["cwd"].as_str().unwrap();
    assert!(cwd.ends_with("/m1") && directories() == 1, "{cwd}");
    let next = Turn { message_id: "m2", ..stateless };
    fake.run(&next);
    assert_eq!(fake.heard()[0]["params"]["cwd"], cwd);
    std::fs::write(format!("{cwd}/mine"), "").unwrap();
    fake.run(&next);
    fake.run(&next);
    assert!(fake.heard()[2]["params"]["cwd"].as_str().unwrap().ends_with("/m2"));
    assert_eq!(directories(), 2);
}

/// A session from an earlier process, and an agent that opens it like this. Returns what the gateway did.
fn restored(
    capabilities: &Value,
    mut open: impl FnMut(&Value) -> Vec<Value> + Send + 'static,
) -> (Vec<String>, Listener) {
    let mut prompts = agent(|line| {
        let id = line["params"]["sessionId"].as_str().unwrap();
        vec![says(id, "new"), result(line, json!({ "stopReason": "end_turn" }))]
    });
    let script = move |line: &Value| {
        let opened = open(line);
        if opened.is_empty() { prompts(line) } else { opened }
    };
    let fake = Fake::new(capabilities, Box::new(script));
    let (_, first) = fake.run(&TURN);
    let mut session = first.kept.unwrap();
    fake.heard();
    session.id = "old".to_owned();
    let (outcome, reply) = fake.run(&Turn { agent_session: Some(&session), ..TURN });
    assert_eq!((outcome, &*reply.text), (Outcome::Done, "new"));
    assert_eq!(reply.events.len(), 1, "{:?}", reply.events);
    (fake.methods(), reply)
}

#[test]
fn a_session_of_an_earlier_process_is_opened_as_the_agent_can() {
    let listed = |line: &Value| vec![result(line, json!({ "sessions": [{ "sessionId": "old" }] }))];
    let all = json!({ "loadSession": true, "sessionCapabilities": { "resume": {}, "list": {} } });
    let (methods, reply) = restored(&all, move |line| match line["method"].as_str() {
        Some("session/list") => listed(line),
        Some("session/resume") => vec![says("old", "replayed"), result(line, json!({}))],
        _ => Vec::new(),
    });
    assert_eq!(methods, ["session/list", "session/resume", "session/prompt"]);
    assert_eq!(reply.events[0].1, json!({ "how": "resumed", "agent_session_id": "old" }));
    // Announced, and not there; what was said comes before and behind the answer.
    let (methods, reply) = restored(&all, move |line| match line["method"].as_str() {
        Some("session/list") => listed(line),
        Some("session/resume") => vec![refuse(line, -32601)],
        Some("session/load") => {
            vec![says("old", "replayed"), result(line, Value::Null), says("old", "later")]
        }
        _ => Vec::new(),
    });
    assert_eq!(methods, ["session/list", "session/resume", "session/load", "session/prompt"]);
    assert_eq!(reply.events[0].1["how"], "loaded");
    assert_eq!(reply.kept, None);
    // A replay shows whether anything is there; a resume does not.
    let both = json!({ "loadSession": true, "sessionCapabilities": { "resume": {} } });
    let (methods, _) = restored(&both, |line| match line["method"].as_str() {
        Some("session/load") => vec![says("old", "replayed"), result(line, Value::Null)],
        _ => Vec::new(),
    });
    assert_eq!(methods, ["session/load", "session/prompt"]);
}

/// Some resume a session that they have lost as an empty one.
#[test]
fn what_was_said_before_goes_along_where_a_resume_may_have_found_nothing() {
    let resume = json!({ "sessionCapabilities": { "resume": {} } });
    let mut fail = true;
    let script = move |line: &Value| match line["method"].as_str() {
        Some("session/prompt") if line["params"]["sessionId"] == "old" => {
            vec![if std::mem::take(&mut fail) {
                refuse(line, -32603)
            } else {
                result(line, json!({ "stopReason": "end_turn" }))
            }]
        }
        Some("session/new") => vec![result(line, json!({ "sessionId": "s1" }))],
        _ => vec![result(line, json!({}))],
    };
    let fake = Fake::new(&resume, Box::new(script));
    let mut session = fake.run(&TURN).1.kept.unwrap();
    session.id = "old".to_owned();
    let context = Context::parse(
        r#"{"messages":[{"role":"user","content":"early"},{"role":"user","content":"hello"}]}"#,
    );
    let turn = Turn { agent_session: Some(&session), context: Some(&context), ..TURN };
    // What an error was the answer to may not be in it.
    for (methods, how) in [(2, "restored"), (2, "restored"), (1, "")] {
        fake.heard();
        let (_, reply) = fake.run(&turn);
        let heard = fake.heard();
        let prompt = heard.last().unwrap()["params"]["prompt"][0]["text"].as_str().unwrap();
        assert_eq!(prompt.contains("early"), !how.is_empty(), "{prompt}");
        assert_eq!((heard.len(), reply.events.len()), (methods, methods - 1));
        assert!(reply.events.iter().all(|(_, json)| json["how"] == how), "{:?}", reply.events);
    }
}

#[test]
fn a_session_that_the_agent_has_lost_is_noticed_however_it_answers() {
    let lost = |capabilities: &Value, open: fn(&Value) -> Vec<Value>| {
        let (methods, reply) = restored(capabilities, open);
        assert_eq!(reply.events.last().unwrap().1["how"], "new");
        assert_eq!(reply.kept.unwrap().id, "s1");
        methods
    };
    let load = json!({ "loadSession": true });
    // Nothing was said in it: it is empty.
    let empty = |line: &Value| match line["method"].as_str() {
        Some("session/load" | "session/resume") => vec![result(line, json!({}))],
        Some("session/list") => vec![result(line, json!({ "sessions": [{ "sessionId": "x" }] }))],
        _ => Vec::new(),
    };
    assert_eq!(lost(&load, empty), ["session/load", "session/new", "session/prompt"]);
    let refused = |line: &Value| match line["method"].as_str() {
        Some("session/load") => vec![refuse(line, -32002)],
        _ => Vec::new(),
    };
    assert_eq!(lost(&load, refused), ["session/load", "session/new", "session/prompt"]);
    let all = json!({ "loadSession": true, "sessionCapabilities": { "resume": {}, "list": {} } });
    let methods = ["session/list", "session/load", "session/new", "session/prompt"];
    assert_eq!(lost(&all, empty), methods);
    assert_eq!(lost(&json!({}), empty), ["session/new", "session/prompt"]);
}

#[test]
fn a_session_that_refuses_its_first_prompt_was_lost() {
    let resume = json!({ "sessionCapabilities": { "resume": {} } });
    let script = agent(|line| {
        let id = line["params"]["sessionId"].as_str().unwrap().to_owned();
        let stop = if id == "old" { "refusal" } else { "end_turn" };
        vec![result(line, json!({ "stopReason": stop }))]
    });
    let mut script = script;
    let script = move |line: &Value| match line["method"].as_str() {
        Some("session/resume") => vec![result(line, json!({}))],
        _ => script(line),
    };
    let fake = Fake::new(&resume, Box::new(script));
    let mut session = fake.run(&TURN).1.kept.unwrap();
    fake.heard();
    session.id = "old".to_owned();
    let (outcome, reply) = fake.run(&Turn { agent_session: Some(&session), ..TURN });
    assert_eq!((outcome, reply.kept.map(|it| it.id)), (Outcome::Done, Some("s1".to_owned())));
    let methods = ["session/resume", "session/prompt", "session/new", "session/prompt"];
    assert_eq!(fake.methods(), methods);
    assert!(!fake.process.has_session("old") && fake.process.has_session("s1"));
}

/// An agent that asks for leave by this id and says what it was told.
fn asking(id: Value) -> Box<Script> {
    let mut prompt = Value::Null;
    let mut open = agent(|_| Vec::new());
    Box::new(move |line: &Value| match line["method"].as_str() {
        Some("session/prompt") => {
            prompt = line.clone();
            vec![says("s1", "I ask."), asks("s1", id.clone())]
        }
        None => {
            let outcome = &line["result"]["outcome"];
            let told = outcome["optionId"].as_str().unwrap_or("cancelled").to_owned();
            let stop = if told == "yes" { "end_turn" } else { "cancelled" };
            vec![says("s1", &told), result(&prompt, json!({ "stopReason": stop }))]
        }
        _ => open(line),
    })
}

#[test]
fn leave_is_given_and_denied_by_the_kind_of_the_option() {
    let fake = Fake::new(&json!({}), asking(json!("a-1")));
    let with = |leave: Leave| {
        let mut reply = Listener { leaves: vec![leave], ..Listener::default() };
        let outcome = fake.turn(&TURN, &mut reply, Cancel::at(soon()));
        assert_eq!(outcome, Outcome::Done);
        let answer = fake.heard().pop().unwrap();
        assert_eq!(answer["id"], "a-1");
        (reply.text, reply.asked.remove(0))
    };
    let (text, question) = with(Leave::Allowed);
    assert_eq!(text, "I ask.\n\nyes");
    assert_eq!((&*question.title, &*question.kind), ("rm -r /", "execute"));
    assert_eq!(with(Leave::Denied(String::new())).0, "I ask.\n\nno");
    let told =
        "I ask.\n\n(The agent asked for leave: rm -r /. It was denied: a chat cannot.)\n\nno";
    assert_eq!(with(Leave::Denied("a chat cannot".to_owned())).0, told);
}

#[test]
fn leave_for_good_is_never_given() {
    let mut first = true;
    let mut open = agent(|_| {
        let mut question = asks("s1", json!(0));
        question["params"]["options"].as_array_mut().unwrap().remove(1);
        vec![question]
    });
    let mut prompt = Value::Null;
    let script = move |line: &Value| {
        if line["method"] == "session/prompt" {
            prompt = line.clone();
        }
        if std::mem::take(&mut first) || !line["method"].is_null() {
            return open(line);
        }
        vec![result(&prompt, json!({ "stopReason": "end_turn" }))]
    };
    let fake = Fake::new(&json!({}), Box::new(script));
    let (outcome, reply) = fake.run(&TURN);
    assert_eq!((outcome, reply.asked.len()), (Outcome::Done, 0));
    assert_eq!(fake.heard()[2]["result"]["outcome"]["optionId"], "no");
}

fn asked(event: &Arc<EventFd>) -> Leave {
    Leave::Asked { id: "QQQQQQ".to_owned(), event: Arc::clone(event) }
}

#[test]
fn the_clock_stands_still_while_somebody_is_asked_and_nobody_means_no() {
    let event = Arc::new(EventFd::new().unwrap());
    event.notify();
    let mut fake = Fake::new(&json!({}), asking(json!(0)));
    let given =
        vec![Answer::Given("other".to_owned(), false), Answer::Given("QQQQQQ".to_owned(), true)];
    let mut reply = Listener { leaves: vec![asked(&event)], answers: given, ..Listener::default() };
    assert_eq!(fake.turn(&TURN, &mut reply, Cancel::at(soon())), Outcome::Done);
    assert_eq!((&*reply.text, reply.resumed), ("I ask.\n\nyes", 1));
    // Longer than the turn may take.
    fake.config.approve_timeout = Duration::from_millis(300);
    let mut reply = Listener { leaves: vec![asked(&event)], ..Listener::default() };
    let within = Cancel::at(Instant::now() + Duration::from_millis(200));
    assert_eq!(fake.turn(&TURN, &mut reply, within), Outcome::Done);
    assert_eq!((&*reply.text, reply.resumed), ("I ask.\n\nno", 1));
    assert_eq!(reply.withdrawn, ["QQQQQQ"]);
}

#[test]
fn a_stop_and_a_cancel_answer_what_is_open() {
    let event = Arc::new(EventFd::new().unwrap());
    event.notify();
    let fake = Fake::new(&json!({}), asking(json!(0)));
    let answers = vec![Answer::Stopping];
    let mut reply = Listener { leaves: vec![asked(&event)], answers, ..Listener::default() };
    let outcome = fake.turn(&TURN, &mut reply, Cancel::at(soon()));
    assert!(matches!(outcome, Outcome::Released(_)), "{outcome:?}");
    assert_eq!((&*reply.text, reply.withdrawn.len(), reply.resumed), ("I ask.", 1, 0));
    let wanted = ["session/new", "session/prompt", "answer", "session/cancel"];
    assert_eq!(fake.methods()[..3], wanted[..3]);
    // Cancelled from outside.
    event.notify();
    let cancel = Cancel { cancel: Some(event.as_fd()), ..Cancel::at(soon()) };
    let quiet = Arc::new(EventFd::new().unwrap());
    let mut reply = Listener { leaves: vec![asked(&quiet)], ..Listener::default() };
    let outcome = fake.turn(&TURN, &mut reply, cancel);
    assert_eq!(outcome, Outcome::Ended(CancelReason::Cancelled));
    assert!(fake.process.has_session("s1"));
}

#[test]
fn a_process_that_answers_a_cancel_wrongly_takes_no_more_turns() {
    let mut prompt = Value::Null;
    let mut open = agent(|_| Vec::new());
    let script = move |line: &Value| match line["method"].as_str() {
        Some("session/prompt") => {
            prompt = line.clone();
            vec![says("s1", "a"), says("s1", "b")]
        }
        Some("session/cancel") => vec![says("s1", "c"), refuse(&prompt, -32603)],
        _ => open(line),
    };
    let fake = Fake::new(&json!({}), Box::new(script));
    let mut reply = Listener { gone: true, ..Listener::default() };
    let outcome = fake.turn(&TURN, &mut reply, Cancel::at(soon()));
    assert_eq!((outcome, &*reply.text), (Outcome::Ended(CancelReason::ClientGone), "a"));
    assert!(reply.kept.is_some() && fake.process.outcome().is_some());
}

#[test]
fn a_reply_that_is_too_long_is_taken_back() {
    let mut prompt = Value::Null;
    let mut open = agent(|_| Vec::new());
    let script = move |line: &Value| match line["method"].as_str() {
        Some("session/prompt") => {
            prompt = line.clone();
            vec![says("s1", "abc"), says("s1", "d")]
        }
        Some("session/cancel") => vec![result(&prompt, json!({ "stopReason": "cancelled" }))],
        _ => open(line),
    };
    let fake = Fake::new(&json!({}), Box::new(script));
    let (outcome, reply) = fake.run(&Turn { max_reply: 3, ..TURN });
    let why = "limits.max_reply";
    assert!(matches!(&outcome, Outcome::Failed(words) if words.contains(why)), "{outcome:?}");
    assert!(reply.text == "abc" && reply.kept.is_some() && fake.process.outcome().is_none());
}

#[test]
fn an_agent_that_does_not_answer_a_cancel_is_ended() {
    let fake = Fake::new(&json!({}), agent(|_| Vec::new()));
    let abort = EventFd::new().unwrap();
    let outcome = std::thread::scope(|scope| {
        let turn = scope.spawn(|| {
            let cancel = Cancel { abort: Some(abort.as_fd()), ..Cancel::at(soon()) };
            fake.turn(&TURN, &mut Listener::default(), cancel)
        });
        fake.until(|line| line["method"] == "session/prompt");
        abort.notify();
        turn.join().unwrap()
    });
    assert_eq!(outcome, Outcome::Ended(CancelReason::Aborted));
    assert_eq!(fake.methods(), ["session/new", "session/prompt", "session/cancel"]);
    assert!(matches!(fake.process.outcome(), Some(Outcome::Released(_))));
}

#[test]
fn errors_end_turns_as_they_should() {
    for (error, wanted) in [
        (json!({ "code": 401, "message": "m" }), "permanent 401"),
        (json!({ "code": -32603, "data": { "status": 429 } }), "temporary 429"),
        (json!({ "code": -32603, "message": "m" }), "temporary"),
        (json!({ "code": -32002, "message": "m" }), "temporary"),
        (json!({ "code": -32602, "message": "m" }), "permanent"),
        (json!({ "code": -32000, "message": "m" }), "permanent"),
        (json!({ "code": -32800, "message": "m" }), "permanent"),
        (json!(null), "permanent"),
    ] {
        let own = error.clone();
        let script = agent(move |line| {
            vec![if own.is_null() {
                result(line, json!({ "stopReason": "cancelled" }))
            } else {
                json!({ "id": line["id"], "error": own })
            }]
        });
        let fake = Fake::new(&json!({ "sessionCapabilities": { "close": {} } }), script);
        let (outcome, reply) = fake.run(&TURN);
        let was = match outcome {
            Outcome::ErrorResponse(it) if it.is_temporary() => format!("temporary {}", it.status),
            Outcome::ErrorResponse(it) => format!("permanent {}", it.status),
            Outcome::Temporary(_) => "temporary".to_owned(),
            Outcome::Failed(_) => "permanent".to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(was, wanted, "{error}");
        // What was said before may not have come to be in the session: the next attempt begins another.
        assert_eq!(reply.kept.is_none(), !error.is_null(), "{error}");
        let last = (!error.is_null()).then(|| fake.until(|line| line["method"] == "session/close"));
        assert!(last.is_none_or(|last| last["params"]["sessionId"] == "s1"));
    }
}

#[test]
fn what_belongs_to_no_turn_is_answered_at_once() {
    let fake = Fake::new(&json!({}), agent(|_| Vec::new()));
    let say = |line: Value| ACP.line(&fake.process, &line.to_string()).unwrap();
    say(json!({ "id": "r", "method": "fs/read_text_file", "params": {} }));
    let answer = fake.until(|line| line["id"] == "r");
    assert_eq!(answer["error"]["code"], wire::UNKNOWN_METHOD);
    say(asks("nobody", json!(3)));
    assert_eq!(fake.until(|line| line["id"] == 3)["result"]["outcome"]["outcome"], "cancelled");
    say(json!({ "method": "no/such/notification" }));
    say(json!({ "id": 99, "result": {} }));
    say(says("nobody", "late"));
    ACP.line(&fake.process, "not JSON").unwrap();
    assert_eq!(fake.heard().len(), 2);
}

#[test]
fn a_process_that_ends_ends_its_turns() {
    let fake = Fake::new(&json!({}), agent(|_| Vec::new()));
    std::thread::scope(|scope| {
        let turn = scope.spawn(|| fake.turn(&TURN, &mut Listener::default(), Cancel::at(soon())));
        fake.until(|line| line["method"] == "session/prompt");
        fake.process.end(Outcome::Crashed("it crashed".to_owned()), false);
        assert_eq!(turn.join().unwrap(), Outcome::Crashed("it crashed".to_owned()));
    });
}

#[test]
fn more_than_may_wait_ends_the_turn_and_the_process_after_its_others() {
    let script = agent(|_| vec![says("s1", &"x".repeat(2 << 20))]);
    let fake = Fake::new(&json!({}), script);
    let (outcome, _) = fake.run(&TURN);
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    fake.until(|line| line["method"] == "session/cancel");
    // It may still be at the prompt.
    assert!(fake.process.outcome().is_some());
}

#[test]
fn what_an_agent_says_too_much_of_is_not_kept() {
    let (process, _reader) = Process::scripted(&ACP);
    let words = "x\u{1b}".repeat(100_000);
    let error = json!({ "id": 0, "error": { "code": -32603, "message": words } });
    let why = ACP.line(&process, &error.to_string()).unwrap_err();
    assert!(why.len() < 8000 && !why.contains('\u{1b}') && why.contains("-32603"), "{why}");
    let id = "s".repeat(1025);
    let script = move |line: &Value| {
        vec![result(line, json!({ "sessionId": id, "stopReason": "end_turn" }))]
    };
    let fake = Fake::new(&json!({}), Box::new(script));
    let (outcome, reply) = fake.run(&TURN);
    assert!(
        matches!(&outcome, Outcome::Failed(words) if words.contains("sessionId") && words.len() < 200),
        "{outcome:?}"
    );
    assert!(reply.kept.is_none() && reply.events.is_empty() && fake.heard().len() == 1);
}

/// A turn that is ended while its session is opened by this method.
fn ended_before_the_prompt(
    capabilities: &Value,
    method: &'static str,
    reason: CancelReason,
) -> Fake {
    let event = Arc::new(EventFd::new().unwrap());
    let raised = Arc::clone(&event);
    let (_sender, nothing) = mpsc::channel::<()>();
    let script = move |line: &Value| {
        if line["method"] == method {
            raised.notify();
            // The turn sees that at once, and tells nobody so.
            let _ = nothing.recv_timeout(Duration::from_millis(500));
        }
        if line.get("id").is_none() || line["id"] == "unawaited" {
            return Vec::new();
        }
        vec![result(line, json!({ "sessionId": "s1", "stopReason": "end_turn" }))]
    };
    let fake = Fake::new(capabilities, Box::new(script));
    let agent = fake.run(&Turn { session_name: "other", ..TURN }).1.kept;
    let known = agent.map(|it| AgentSession { id: "old".to_owned(), ..it });
    event.clear();
    fake.process.remove_session("s1");
    fake.heard();
    let at = if reason == CancelReason::TimedOut { Instant::now() } else { soon() };
    let cancel = Some(event.as_fd()).filter(|_| reason == CancelReason::Cancelled);
    let cancel = Cancel { cancel, ..Cancel::at(at) };
    let turn = Turn { agent_session: known.as_ref().filter(|_| method != "session/new"), ..TURN };
    let outcome = fake.turn(&turn, &mut Listener::default(), cancel);
    assert_eq!(outcome, Outcome::Ended(reason));
    assert!(fake.process.outcome().is_none(), "the process was ended");
    fake
}

#[test]
fn a_session_whose_turn_is_cancelled_before_its_prompt_is_closed_or_counted() {
    for reason in [CancelReason::Cancelled, CancelReason::TimedOut] {
        let fake = ended_before_the_prompt(&json!({}), "session/new", reason);
        assert_eq!(fake.methods(), ["session/new"]);
        assert!(fake.process.has_session("s1"), "a session that nobody knows of");
        for method in ["session/new", "session/load", "session/resume"] {
            let mut all = json!({ "sessionCapabilities": { "close": {} } });
            all["loadSession"] = json!(method == "session/load");
            if method == "session/resume" {
                all["sessionCapabilities"]["resume"] = json!({});
            }
            let fake = ended_before_the_prompt(&all, method, reason);
            let closed = fake.until(|line| line["method"] == "session/close");
            let id = if method == "session/new" { "s1" } else { "old" };
            assert_eq!(closed["params"]["sessionId"], id, "{method}");
            assert!(!fake.process.has_session(id));
        }
    }
}
