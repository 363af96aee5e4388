//! Where a reply goes, and what is told of it.

use std::io;

use super::context;
use super::turn::{AgentSession, Answer, Leave, Question};
use crate::cancel::{Cancel, CancelReason};
use crate::config::Approve;
use crate::escape::quoted;
use crate::json::{add, find, one_line, string, text_or_null};

/// Where a reply goes, piece by piece. An error means that nobody is there any more to take it.
pub trait Reply {
    fn chunk(&mut self, text: &str) -> io::Result<()>;

    /// How many bytes of text there were, for the log.
    fn bytes(&self) -> usize;

    /// There has been nothing for [`KEEP_ALIVE`](crate::limits::KEEP_ALIVE), and the turn goes on.
    fn idle(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// One of the tool calls so far, `calls[at]`, has gone on by this piece of its arguments. All of
    /// them come in the report too.
    fn call(&mut self, _calls: &[ToolCall], _at: usize, _piece: &str) -> io::Result<()> {
        Ok(())
    }

    /// Something that a living agent does beside its reply, for those who follow the session: what it is,
    /// a word, and an object, as JSON on one line.
    fn event(&mut self, _word: &'static str, _json: &str) {}

    /// The agent asks for leave. The default is what holds where nobody can be asked.
    fn ask(&mut self, _question: &Question, policy: Approve) -> Leave {
        match policy {
            Approve::Always => Leave::Allowed,
            Approve::Never => Leave::Denied(String::new()),
            Approve::Ask => Leave::Denied("nobody can be asked here".to_owned()),
        }
    }

    /// What was answered since.
    fn answers(&mut self) -> Vec<Answer> {
        Vec::new()
    }

    /// A question needs no answer any more; returned is one that came before. `why`: what denies it, for the
    /// journal, such as `agent.approve_timeout`; empty where it just does not hold any more.
    fn withdraw(&mut self, _id: &str, _why: &str) -> Option<bool> {
        None
    }

    /// No question is open any more: the turn goes on once there is a slot for it.
    ///
    /// # Errors
    /// The turn was ended before that.
    fn resume(&mut self, _cancel: &Cancel<'_>) -> Result<(), CancelReason> {
        Ok(())
    }

    /// The agent's own session for the turn's, for later turns.
    fn keep_session(&mut self, _session: &AgentSession) {}

    /// Which of several servers answers; comes before the first piece.
    fn upstream(&mut self, _name: &str) {}

    /// What the agent's own server tells of the turn; comes before its end, or never.
    fn report(&mut self, _report: Report) {}

    /// Whether it takes chat completions as the agent's server words them, in place of pieces and
    /// report: chunks (`Some(true)`) or a whole one; `None` where only text is wanted.
    fn native(&self) -> Option<bool> {
        None
    }

    /// Such a `chat.completion.chunk` or `chat.completion`, with so many bytes of text in it.
    fn object(&mut self, _json: String, _bytes: usize) -> io::Result<()> {
        Ok(())
    }
}

/// What is known of a turn beside its text. Nothing here is made up: what the agent does not say is
/// absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// OpenAI's `usage` object of a chat completion, as JSON.
    pub usage: Option<String>,
    /// OpenAI's `finish_reason`, such as `length`.
    pub finish: Option<String>,
    /// OpenAI's `tool_calls` of an assistant's message, as JSON on one line; never an empty list.
    pub calls: Option<String>,
    /// What the model said instead of an answer.
    pub refusal: Option<String>,
}

impl Report {
    /// For the journal; `None` where nothing is known.
    pub fn to_json(&self) -> Option<String> {
        let usage = self.usage.as_deref().unwrap_or("null");
        let finish = text_or_null(self.finish.as_deref());
        let mut json = format!(r#"{{"usage":{usage},"finish":{finish}"#);
        if let Some(calls) = &self.calls {
            add(&mut json, Some("calls"), calls);
        }
        if let Some(refusal) = &self.refusal {
            add(&mut json, Some("refusal"), &quoted(refusal));
        }
        (*self != Report::default()).then(|| json + "}")
    }

    pub fn parse(json: &str) -> Report {
        let [used, calls] = find(json, ["usage", "calls"]);
        let calls = calls.filter(|calls| calls.starts_with('[')).map(str::to_owned);
        let [finish, refusal] = ["finish", "refusal"].map(|name| string(json, name));
        Report { usage: used.and_then(usage), finish, calls, refusal }
    }
}

/// A function that the model wants to be called, as far as it has said so.
#[derive(Clone, Debug, Default)]
pub struct ToolCall {
    /// The number that the server gives it, if any.
    pub index: Option<u64>,
    pub id: String,
    pub name: String,
    /// JSON, once it is whole.
    pub arguments: String,
}

impl ToolCall {
    /// An element of OpenAI's `tool_calls`.
    pub fn to_json(&self) -> String {
        let [id, name, arguments] = [&self.id, &self.name, &self.arguments].map(|it| quoted(it));
        context::tool_call(&id, &name, &arguments)
    }
}

/// A usage as it is kept: an object on one line.
pub fn usage(given: &str) -> Option<String> {
    given.starts_with('{').then(|| one_line(given.to_owned()))
}
