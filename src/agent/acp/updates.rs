//! What an agent tells of its work, as those see it who follow the session. Pure.

use serde_json::value::RawValue;

use super::wire::Update;
use crate::agent::Question;
use crate::escape::{escaped, first_chars, quoted};
use crate::json::{self, add, elements, find, lossy};

/// Of a tool call's title, or of an entry of a plan: people read it on a line.
const MAX_TITLE: usize = 500;

/// Of a word, such as a kind or a status.
const MAX_WORD: usize = 40;

/// Of what a tool is given, for whoever has to allow it: a few screens.
const MAX_INPUT: usize = 8 << 10;

/// Entries of a plan that are shown.
const MAX_ENTRIES: usize = 100;

/// Tool calls of a turn that are remembered, the newest ones: a permission may name its call only.
const MAX_CALLS: usize = 16;

/// What becomes of an update.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// A piece of the agent's text.
    Text,
    /// A part of the conversation that is not shown.
    Aside,
    /// A word and JSON, empty where there is nothing new.
    Event(&'static str, String),
    Nothing,
}

pub fn shown(update: &Update<'_>, calls: &mut Calls) -> Shown {
    match update.session_update.get() {
        "agent_message_chunk" => Shown::Text,
        "user_message_chunk" | "agent_thought_chunk" => Shown::Aside,
        "tool_call" | "tool_call_update" => {
            calls.note(update);
            Shown::Event("tool", tool(update))
        }
        "plan" => Shown::Event("plan", plan(update)),
        _ => Shown::Nothing,
    }
}

/// For people: on one line, and safe for terminals.
fn line(text: &str, most: usize) -> String {
    let text = first_chars(text.trim(), most);
    escaped(&text.replace(['\n', '\r', '\t'], " "), false)
}

fn tool(update: &Update<'_>) -> String {
    let mut json = format!(r#"{{"id":{}"#, quoted(&line(update.tool_call_id.get(), MAX_TITLE)));
    let id_only = json.len();
    let all = [
        ("title", &update.title, MAX_TITLE),
        ("kind", &update.kind, MAX_WORD),
        ("status", &update.status, MAX_WORD),
    ];
    for (name, text, most) in all {
        if !text.get().is_empty() {
            add(&mut json, Some(name), &quoted(&line(text.get(), most)));
        }
    }
    if json.len() == id_only {
        return String::new();
    }
    // What the protocol means where a new call has none.
    if update.session_update.get() == "tool_call" && update.status.get().is_empty() {
        add(&mut json, Some("status"), "\"pending\"");
    }
    json + "}"
}

fn plan(update: &Update<'_>) -> String {
    let entries = elements(update.entries.map_or("", RawValue::get)).take(MAX_ENTRIES);
    let mut entries = entries.map(|entry| {
        let mut json = "{".to_owned();
        let names = ["content", "status", "priority"];
        for (name, value) in names.iter().zip(find(entry, names)) {
            if let Some(text) = value.and_then(lossy) {
                add(&mut json, Some(name), &quoted(&line(&text, MAX_TITLE)));
            }
        }
        json + "}"
    });
    format!(r#"{{"entries":{}}}"#, json::list(&mut entries))
}

/// The newest tool calls of a turn: id, title, kind, and what the tool is given.
#[derive(Debug, Default)]
pub struct Calls(Vec<(String, Question)>);

impl Calls {
    /// What is known of a call by now.
    fn note(&mut self, update: &Update<'_>) {
        let id = first_chars(update.tool_call_id.get(), MAX_TITLE);
        if id.is_empty() {
            return;
        }
        let at = self.0.iter().position(|(known, _)| *known == id).unwrap_or_else(|| {
            if self.0.len() == MAX_CALLS {
                self.0.remove(0);
            }
            self.0.push((id, Question::default()));
            self.0.len() - 1
        });
        fill(&mut self.0[at].1, update);
    }

    /// What a permission is about.
    pub fn question(&mut self, call: &Update<'_>) -> Question {
        self.note(call);
        let id = first_chars(call.tool_call_id.get(), MAX_TITLE);
        let known = self.0.iter().find(|(known, _)| *known == id);
        let mut question = known.map(|(_, question)| question.clone()).unwrap_or_default();
        fill(&mut question, call);
        if question.title.is_empty() {
            question.title = "a tool".to_owned();
        }
        question
    }
}

fn fill(question: &mut Question, update: &Update<'_>) {
    if !update.title.get().is_empty() {
        question.title = line(update.title.get(), MAX_TITLE);
    }
    if !update.kind.get().is_empty() {
        question.kind = line(update.kind.get(), MAX_WORD);
    }
    // Some tell what a tool does only as what it will show.
    let content = update.content.filter(|_| question.input.is_empty());
    let is_empty = |it: &&RawValue| matches!(it.get(), "{}" | "[]" | "null");
    if let Some(input) = update.raw_input.or(content).filter(|it| !is_empty(it)) {
        let input = input.get();
        question.input = if input.len() > MAX_INPUT {
            let end = input.floor_char_boundary(MAX_INPUT);
            quoted(&format!("{}… ({} more bytes)", &input[..end], input.len() - end))
        } else {
            json::one_line(input.to_owned())
        };
    }
}

/// What was used since: tokens of input, of output, and in all. `None` where less was used than before.
pub fn difference(before: [u64; 3], now: [u64; 3]) -> Option<[u64; 3]> {
    let [input, output, all] = [0, 1, 2].map(|at| now[at].checked_sub(before[at]));
    Some([input?, output?, all?])
}
