//! What an agent does beside its reply, as `send` shows it: its tool calls in a line each, and its questions,
//! which are put at the terminal.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;

use super::approvals::{answer, described};
use super::context::Context;
use super::control_client::{connect_to, request};
use super::history::word;
use crate::exit::Failure;
use crate::limits::THREAD_STACK;
use crate::sys::fd::{discard_input, set_nonblocking};
use crate::sys::poll::{Interest, poll};
use crate::threads::{lock, spawn};

/// Shown dimly, and back.
const DIM: [&str; 2] = ["\x1b[2m", "\x1b[0m"];

/// Between two looks at whether a question that waits at the terminal is still open.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// What was shown so far.
pub struct LiveEvents<'a> {
    context: &'a Context,
    told: Vec<[String; 2]>,
}

impl LiveEvents<'_> {
    pub fn new(context: &Context) -> LiveEvents<'_> {
        LiveEvents { context, told: Vec::new() }
    }

    /// A line to show for an event, if standard error is a terminal: for a tool call that begins or fails.
    pub fn take(&mut self, name: &str, event: &Value) -> Option<String> {
        match name {
            "tool" => line(&mut self.told, event).filter(|_| io::stderr().is_terminal()),
            "approval" => {
                self.ask(event);
                None
            }
            _ => None,
        }
    }

    /// Puts a question, once; the answer goes to the gateway from a thread of its own, so that what comes
    /// meanwhile is shown.
    pub fn ask(&mut self, question: &Value) {
        if !is_new(&mut self.told, [word(&question["id"]), String::new()]) {
            return;
        }
        // A program that writes errors somewhere else has nobody at its terminal.
        let terminal = File::options().read(true).write(true).open("/dev/tty");
        let terminal = terminal.ok().filter(|_| io::stderr().is_terminal());
        let Some(terminal) = terminal else {
            let (what, id) = (described(question), word(&question["id"]));
            let command = format!("{} approvals --allow {id}", self.context.name.command());
            eprintln!(
                "hermes-gateway: the agent asks for leave: {what}; answer with `{command}` (or \
                 --deny), or with /approve {id} in the session"
            );
            return;
        };
        let (context, question) = (self.context.clone(), question.clone());
        let work = move || {
            if let Err(failure) = put(&context, &question, &terminal) {
                eprintln!("hermes-gateway: {failure}");
            }
        };
        if let Err(e) = spawn("ask", THREAD_STACK, Box::new(work)) {
            eprintln!("hermes-gateway: no thread for a question of the agent: {e}");
        }
    }
}

/// A line for a tool call that begins or fails. What comes of it later may lack its title.
fn line(told: &mut Vec<[String; 2]>, tool: &Value) -> Option<String> {
    let id = word(&tool["id"]);
    let known = told.iter().find(|[known, _]| *known == id).map(|[_, title]| title.clone());
    let title = tool["title"].as_str().map(|_| word(&tool["title"])).or(known)?;
    let (id, failed) = match tool["status"] == "failed" {
        true => (id + ": failed", ": failed"),
        false => (id, ""),
    };
    is_new(told, [id, title.clone()]).then(|| format!("{}· {title}{failed}{}", DIM[0], DIM[1]))
}

/// Notes an id with a title.
fn is_new(told: &mut Vec<[String; 2]>, one: [String; 2]) -> bool {
    let new = !told.iter().any(|[known, _]| *known == one[0]);
    if new {
        told.push(one);
    }
    new
}

/// Puts one question after the other, as long as each is open: the gateway takes it back when its time runs
/// out, when somebody else answers it, and when its turn ends.
fn put(context: &Context, question: &Value, mut terminal: &File) -> Result<(), Failure> {
    static ONE: Mutex<()> = Mutex::new(());
    let _turn = lock(&ONE);
    let cannot = |e| Failure::cannot("ask at the terminal", &e);
    let mut put = "";
    set_nonblocking(terminal.as_fd()).map_err(cannot)?;
    while is_open(context, question)? {
        if put.is_empty() {
            // What was typed before is no answer.
            discard_input(terminal.as_fd()).map_err(cannot)?;
            let what = described(question);
            let text = format!("\nThe agent asks for leave: {what}\nAllow? [y/N] ");
            terminal.write_all(text.as_bytes()).map_err(cannot)?;
            put = "\n";
        }
        if poll(&mut [Interest::read(terminal.as_fd())], Some(LOOK_PAUSE)).map_err(cannot)? > 0 {
            let mut line = [0; 256];
            let length = terminal.read(&mut line).map_err(cannot)?;
            let allow = matches!(line[..length].trim_ascii(), b"y" | b"Y" | b"yes" | b"Yes");
            return answer(&mut connect_to(context)?, question, allow).map(drop);
        }
    }
    let ([dim, back], what) = (DIM, word(&question["title"]));
    let text = format!("{put}{dim}· {what}: answered elsewhere, or its time ran out{back}\n");
    terminal.write_all(text.as_bytes()).map_err(cannot)
}

/// Whether the message still lists the question.
fn is_open(context: &Context, question: &Value) -> Result<bool, Failure> {
    let target = format!("/v1/messages/{}", word(&question["message"]));
    let message = request(&mut connect_to(context)?, "GET", &target)?;
    let open = message["approvals"].as_array();
    Ok(open.is_some_and(|open| open.iter().any(|one| one["id"] == question["id"])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tool_call_has_one_line_and_another_if_it_fails() {
        let mut told = Vec::new();
        let mut tool = |id: &str, title: Option<&str>, status: &str| {
            line(&mut told, &json!({ "id": id, "title": title, "status": status }))
        };
        let shown = tool("a", Some("l\u{1b}s"), "pending").unwrap();
        assert_eq!(shown, "\u{1b}[2m· l\\u{1b}s\u{1b}[0m");
        assert_eq!(tool("a", None, "in_progress"), None);
        assert_eq!(tool("b", Some("rm"), "completed").unwrap(), "\u{1b}[2m· rm\u{1b}[0m");
        assert_eq!(tool("b", None, "failed").unwrap(), "\u{1b}[2m· rm: failed\u{1b}[0m");
        assert_eq!(tool("b", Some("rm"), "failed"), None);
        assert_eq!(tool("c", None, "pending"), None);
    }
}
