//! Agents that others wrote, unchanged, behind the gateway by the Agent Client Protocol, before a server of
//! models that answers by rules: tests/clients/agents/model.py. One of them as a rule, with `--full` all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::util::api::{is_finished, session_path};
use crate::util::{DEADLINE, Gateway, Home, eventually, full, report, skip, sys};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/agents");

/// They import much, and start while others of them do.
const PATIENCE: Duration = Duration::from_secs(120);

/// An agent, and what it cannot.
struct Kind {
    name: &'static str,
    /// A command that it asks for leave to run: `rm -rf` and a path, which other words would not be.
    asks_for_all: bool,
    /// What the reply has that the agent's model answered this status; `None`: it waits and says nothing.
    told: [(u16, Option<&'static str>); 3],
}

const KINDS: &[Kind] = &[
    Kind {
        name: "codex",
        asks_for_all: true,
        told: [(401, Some("401")), (429, Some("429")), (500, Some("high demand"))],
    },
    Kind {
        name: "hermes",
        asks_for_all: false,
        told: [(401, Some("HTTP 401")), (429, Some("HTTP 429")), (500, Some("HTTP 500"))],
    },
    Kind {
        name: "gemini",
        asks_for_all: true,
        told: [(401, Some("401")), (429, None), (500, None)],
    },
];

/// A server of models; it ends with this.
struct Model {
    child: Child,
    port: u16,
}

impl Model {
    #[track_caller]
    fn start(home: &Home) -> Model {
        let mut command = Command::new("python3");
        command.args(["-I", &format!("{HERE}/model.py")]).arg(home.path().join("requests"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start the server of models");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Model { port: line.trim().parse().expect("a port"), child }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A gateway before a real agent.
struct Real {
    kind: &'static Kind,
    gateway: Option<Gateway>,
    home: Home,
    work: PathBuf,
    _model: Model,
}

impl Real {
    #[track_caller]
    fn start(kind: &'static Kind, clients: &Path, more: &str) -> Real {
        let home = Home::new();
        let model = Model::start(&home);
        let (place, work) = (home.path().join("agent"), home.path().join("work"));
        fs::create_dir(&place).unwrap();
        fs::create_dir(&work).unwrap();
        let mut script = Command::new("sh");
        script.arg(format!("{HERE}/configure.sh")).arg(kind.name).arg(&place);
        let said = script.arg(model.port.to_string()).arg(clients).output().unwrap();
        assert!(said.status.success(), "{said:?}");
        let start: Value = serde_json::from_slice(&said.stdout).unwrap();
        let env = start["env"].as_object().unwrap().iter();
        let env: Vec<String> = env.map(|(name, value)| format!("{name} = {value}")).collect();
        home.configure(&format!(
            "[agent]\ncommand = {}\nprotocol = \"acp\"\ndirectory = {work:?}\n\
             env = {{ HOME = {place:?}, {} }}\n{more}",
            start["command"],
            env.join(", ")
        ));
        Real { kind, gateway: Some(home.start()), home, work, _model: model }
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    /// Ends the gateway so, and starts it again.
    fn again(&mut self, signal: i32) {
        self.gateway.take().unwrap().end(signal);
        self.gateway = Some(self.home.start());
    }

    /// A message once it is finished; these take their time.
    #[track_caller]
    fn finished(&self, id: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let path = format!("/v1/messages/{id}?wait=5");
            let message = self.gateway().api().get(&path).assert_status(200).json();
            if is_finished(&message) {
                return message;
            }
            let name = self.kind.name;
            assert!(Instant::now() < deadline, "{name}: it does not finish: {message}");
        }
    }

    #[track_caller]
    fn reply(&self, id: &str) -> String {
        let message = self.finished(id);
        assert_eq!(message["status"], "done", "{}: {message}", self.kind.name);
        message["reply"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn say(&self, session: &str, text: &str) -> String {
        self.reply(&self.gateway().api().accepted(session, text))
    }

    /// Waits for the question of a message, and answers it.
    #[track_caller]
    fn answer(&self, id: &str, allow: bool) -> Value {
        let api = self.gateway().api();
        let question = until(&format!("{}: a question", self.kind.name), || {
            let message = api.message(id);
            assert!(!is_finished(&message), "{}: it did not ask: {message}", self.kind.name);
            (message["status"] == "waiting").then(|| message["approvals"][0].clone())
        });
        let body = json!({ "id": question["id"], "allow": allow });
        api.post(&format!("/v1/messages/{id}/approval"), &body).assert_status(200);
        question
    }

    /// The processes of the agent: those that have this home in their environment, but for the gateway.
    fn processes(&self) -> BTreeSet<i32> {
        let mark = format!("HOME={}", self.home.path().join("agent").display());
        let mut found = BTreeSet::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environ.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()) {
                found.insert(pid);
            }
        }
        found
    }

    /// Waits until an agent's tool has made this file.
    #[track_caller]
    fn until_made(&self, name: &str) {
        let what = format!("{}: {name}", self.kind.name);
        until(&what, || self.work.join(name).exists().then_some(()));
    }

    /// Begins a turn that streams for a minute, and waits until it does.
    #[track_caller]
    fn slow(&self, session: &str) -> String {
        let api = self.gateway().api();
        let mut events = api.events(session, None);
        let id = api.accepted(session, "slow");
        events.set_read_limit(PATIENCE);
        while let Some(event) = events.next_event() {
            assert!(!["done", "failed"].contains(&event.kind.as_str()), "{event:?}");
            if event.kind == "delta" && event.data.to_string().contains("piece 1") {
                return id;
            }
        }
        panic!("{}: no pieces", self.kind.name)
    }
}

/// [`eventually`], with more patience.
#[track_caller]
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE - DEADLINE;
    while Instant::now() < deadline {
        if let Some(answer) = ask() {
            return answer;
        }
        crate::util::pause(Duration::from_millis(20));
    }
    eventually(what, ask)
}

/// Runs a case with each agent that is installed for this run.
#[track_caller]
fn with_each(more: &str, case: impl Fn(&mut Real)) {
    let Some(clients) = env::var_os("HERMES_CLIENTS").map(PathBuf::from) else {
        return skip("there are no clients: tests/run installs them");
    };
    let only = env::var("HERMES_AGENT").ok();
    let kinds = if full() { KINDS } else { &KINDS[..1] };
    for kind in kinds.iter().filter(|kind| only.as_ref().is_none_or(|only| only == kind.name)) {
        let began = Instant::now();
        let mut real = Real::start(kind, &clients, more);
        case(&mut real);
        let left = real.processes();
        real.gateway.take().unwrap().end(libc::SIGTERM);
        let gone = || real.processes().is_empty().then_some(());
        until(&format!("{}: the end of {left:?}", kind.name), gone);
        report(&format!("{} in {:.1?}", kind.name, began.elapsed()));
    }
}

#[test]
fn real_agents_chat_stream_and_remember() {
    with_each("", |real| {
        let mut chat = real.gateway().begin("say hello", false);
        chat.set_read_limit(PATIENCE);
        assert_eq!(chat.response().reply(), "hello", "{}", real.kind.name);
        let mut stream = real.gateway().begin("say streamed", true);
        stream.set_read_limit(PATIENCE);
        assert_eq!(stream.head().status, 200);
        let mut text = String::new();
        while let Some(chunk) = stream.chunk() {
            text += &String::from_utf8(chunk).unwrap();
        }
        assert!(text.contains("streamed") && text.ends_with("data: [DONE]\n\n"), "{text}");
        assert_eq!(real.say("s", "remember 4711"), "ok");
        assert_eq!(real.say("s", "say more"), "more");
        assert_eq!(real.say("s", "what number"), "4711");
        assert_eq!(real.say("other", "what number"), "none");
        let long = format!("{}\ncount", "x".repeat(400_000));
        // Some put words of their own in front of it.
        let count: usize = real.say("long", &long).parse().unwrap();
        assert!((400_000..500_000).contains(&count), "{count}");
    });
}

#[test]
fn real_agents_run_eight_sessions_at_once() {
    with_each("[limits]\nmax_turns = 8\n", |real| {
        real.say("s0", "say warm");
        let api = real.gateway().api();
        let ids: Vec<String> =
            (0..8).map(|at| api.accepted(&format!("s{at}"), &format!("remember {at}"))).collect();
        assert!(ids.iter().all(|id| real.reply(id) == "ok"));
        let ids: Vec<String> =
            (0..8).map(|at| api.accepted(&format!("s{at}"), "what number")).collect();
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(real.reply(id), at.to_string(), "{}", real.kind.name);
        }
    });
}

#[test]
fn real_agents_keep_their_sessions_over_restarts_and_kills() {
    with_each("", |real| {
        assert_eq!(real.say("s", "remember 4711"), "ok");
        real.again(libc::SIGTERM);
        assert_eq!(real.say("s", "what number"), "4711", "{}", real.kind.name);
        // The agent in the middle of a turn: that runs again, and again for the gateway.
        let id = real.slow("s");
        for pid in real.processes() {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        let api = real.gateway().api();
        until("the second attempt", || (api.message(&id)["attempts"] == 2).then_some(()));
        api.delete(&format!("/v1/messages/{id}")).assert_status(200);
        real.finished(&id);
        assert_eq!(real.say("s", "what number"), "4711", "{}", real.kind.name);
        let id = real.slow("s");
        real.again(libc::SIGKILL);
        let api = real.gateway().api();
        until("the second attempt", || (api.message(&id)["attempts"] == 2).then_some(()));
        api.delete(&format!("/v1/messages/{id}")).assert_status(200);
        assert_eq!(real.say("s", "what number"), "4711", "{}", real.kind.name);
        // A reset forgets.
        api.delete(&session_path("s"));
        assert_eq!(real.say("s", "what number"), "none", "{}", real.kind.name);
    });
}

#[test]
fn real_agents_ask_for_leave_and_keep_to_the_answer() {
    with_each("approve = \"ask\"\n", |real| {
        let api = real.gateway().api();
        let victim = real.work.join("victim");
        for allow in [false, true] {
            fs::create_dir_all(&victim).unwrap();
            let id = api.accepted("s", &format!("tell, run rm -rf {}", victim.display()));
            let question = real.answer(&id, allow);
            let shown = question.to_string();
            assert!(shown.contains("rm -rf") && shown.contains("victim"), "{shown}");
            let reply = real.reply(&id);
            assert_eq!(victim.exists(), !allow, "{}: {reply}", real.kind.name);
            assert!(reply.starts_with("I run it."), "{}: {reply}", real.kind.name);
            assert_eq!(reply.contains("done: "), allow || real.kind.name != "codex", "{reply}");
            assert!(!reply.contains("\n\n\n"), "{reply:?}");
            assert_eq!(real.say("s", "say next"), "next");
        }
        // A client that cannot be asked is told so.
        fs::create_dir_all(&victim).unwrap();
        let mut chat = real.gateway().begin(&format!("run rm -rf {}", victim.display()), false);
        chat.set_read_limit(PATIENCE);
        let reply = chat.response().reply();
        assert!(victim.exists() && reply.contains("denied"), "{}: {reply}", real.kind.name);
        let kept = api.get("/v1/approvals").assert_status(200).text();
        assert!(kept.contains("victim"), "{kept}");
    });
}

#[test]
fn real_agents_are_cancelled_in_the_middle_of_a_turn_a_tool_and_a_question() {
    with_each("approve = \"ask\"\n", |real| {
        let api = real.gateway().api();
        assert_eq!(real.say("s", "remember 4711"), "ok");
        let name = real.kind.name;
        let cancel = |id: &str| {
            api.delete(&format!("/v1/messages/{id}")).assert_status(200);
            assert_eq!(real.finished(id)["status"], "cancelled", "{name}");
            assert_eq!(real.say("s", "say after"), "after", "{name}");
            assert_eq!(real.say("s", "what number"), "4711", "{name}");
        };
        cancel(&real.slow("s"));
        let made = real.work.join("made");
        let id = api.accepted("s", &format!("run touch {}; sleep 77", made.display()));
        if real.kind.asks_for_all {
            real.answer(&id, true);
        }
        real.until_made("made");
        cancel(&id);
        let id = api.accepted("s", &format!("run rm -rf {}", made.display()));
        until("a question", || (api.message(&id)["status"] == "waiting").then_some(()));
        cancel(&id);
        assert!(made.exists());
    });
}

#[test]
fn real_agents_tell_what_their_model_did_not_do() {
    with_each("turn_timeout = \"40s\"\nretry_for = \"0s\"\n", |real| {
        assert_eq!(real.say("s", "remember 4711"), "ok");
        for (status, told) in real.kind.told {
            let id = real.gateway().api().accepted("s", &format!("fail {status}"));
            let message = real.finished(&id);
            let words = message.to_string();
            let expected = told.unwrap_or("turn_timeout");
            assert!(words.contains(expected), "{}: {status}: {message}", real.kind.name);
            let failed = message["status"] == "failed";
            assert!(failed || real.kind.name == "hermes", "{}: {message}", real.kind.name);
            assert_eq!(real.say("s", "what number"), "4711", "{}", real.kind.name);
        }
    });
}
