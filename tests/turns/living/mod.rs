//! Agents that stay, from outside: an agent of the tests that speaks the Agent Client Protocol, and breaks
//! it on demand (agent.py says how).

mod approvals;
mod misbehaviour;
mod processes;
mod prompts;
mod sessions;

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::util::api::Api;
use crate::util::{Gateway, Home, eventually};

const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/turns/living/agent.py");

/// A home whose agent is agent.py in these modes; `more` are further lines of its section, and others.
fn home(modes: &str, more: &str) -> Home {
    let home = Home::new();
    configure(&home, modes, more);
    home
}

fn configure(home: &Home, modes: &str, more: &str) {
    home.configure(&(agent(home, modes) + more));
}

/// The section of the agent in the configuration.
fn agent(home: &Home, modes: &str) -> String {
    // Not the first in PATH: that may be a wrapper which takes its time.
    let python = ["/usr/bin/python3", "python3"].into_iter().find(|it| Path::new(it).exists());
    let python = python.unwrap_or("python3");
    let dir = home.path().display();
    format!(
        "[agent]\ncommand = [{python:?}, \"-I\", \"-S\", {AGENT:?}, {modes:?}]\nprotocol = \"acp\"\n\
         env = {{ HERMES_TEST_DIR = \"{dir}\" }}\n"
    )
}

/// One turn in a session, which must come to a good end; its reply.
#[track_caller]
fn say(gateway: &Gateway, session: &str, text: &str) -> String {
    gateway.api().reply(&gateway.api().accepted(session, text))
}

/// A slash command in a session, which is answered at once; what it says.
#[track_caller]
fn command(api: &Api, session: &str, word: &str) -> String {
    let message = api.send(session, word).assert_status(200).json();
    message["reply"].as_str().unwrap_or_else(|| panic!("no reply: {message}")).to_owned()
}

/// What the agents of a home have noted.
fn log(home: &Home) -> Vec<Value> {
    let text = fs::read_to_string(home.path().join("log")).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The messages that agents got with this method.
fn got(home: &Home, method: &str) -> Vec<Value> {
    log(home).into_iter().filter(|entry| entry["got"]["method"] == method).collect()
}

/// Waits for the first entry of an agent's log that is so.
#[track_caller]
fn noted(home: &Home, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || log(home).into_iter().find(|entry| is(entry)))
}

/// Waits until an agent got so many messages with this method; the last of them.
#[track_caller]
fn until_got(home: &Home, method: &str, count: usize) -> Value {
    eventually(method, || got(home, method).into_iter().nth(count - 1))
}

/// Waits until an agent was prompted so often with a text that ends so.
#[track_caller]
fn until_prompted(home: &Home, text: &str, count: usize) {
    let so = |entry: &&Value| {
        let prompt = &entry["got"]["params"]["prompt"][0]["text"];
        prompt.as_str().is_some_and(|prompt| prompt.ends_with(text))
    };
    eventually(text, || (log(home).iter().filter(so).count() >= count).then_some(()));
}

/// The pids of the agents that were started, in their order.
fn started(home: &Home) -> Vec<i32> {
    let log = log(home);
    let starts = log.iter().filter(|entry| entry["did"] == "start");
    starts.map(|entry| i32::try_from(entry["pid"].as_i64().unwrap()).unwrap()).collect()
}

/// The gateway has kept to the protocol.
#[track_caller]
fn assert_no_violation(home: &Home) {
    let log = log(home);
    let violations: Vec<_> = log.iter().filter(|entry| !entry["violation"].is_null()).collect();
    assert!(violations.is_empty(), "{violations:?}");
}

/// Whether the process lives; one that is not reaped yet has ended.
fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// How many of a home's agents live.
fn alive(home: &Home) -> usize {
    started(home).into_iter().filter(|pid| lives(*pid)).count()
}

/// Waits until the process has ended.
#[track_caller]
fn until_ended(pid: i32) {
    eventually("the end of a process", || (!lives(pid)).then_some(()));
}
