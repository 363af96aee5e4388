//! A turn as an agent is given it, and what one that asks for leave is told.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::context::Context;
use super::outcome::Outcome;
use crate::sys::fd::EventFd;

/// One turn: a message for the agent.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    pub message_id: &'a str,
    /// Empty where the message belongs to no session.
    pub session: &'a str,
    /// Whose message it is.
    pub principal: &'a str,
    /// 1 for the first attempt.
    pub attempt: u32,
    pub text: &'a str,
    /// What the request said beside its text. In a session the transcript stands for its messages,
    /// but for those of `system` and `developer`.
    pub context: Option<&'a Context>,
    /// The file with what was said in the session before, which may not exist yet.
    pub transcript: Option<&'a Path>,
    /// What came with the message.
    pub attachments: &'a [Attachment],
    /// What came with earlier messages of the session, by their ids.
    pub earlier: &'a [(String, Vec<Attachment>)],
    /// The most bytes that its reply may have.
    pub max_reply: usize,
    /// Which living process it may use: empty for operators, who share one, else the principal's.
    pub process: &'a str,
    /// What the session's directory is called: a digest in hexadecimal digits, empty without a session.
    pub session_name: &'a str,
    /// The living agent's own session for this one, as [`super::Reply::keep_session`] was given it.
    pub agent_session: Option<&'a AgentSession>,
}

/// A living agent's own session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentSession {
    /// A digest of command and directory: with others the id says nothing.
    pub agent: String,
    /// What the agent calls it.
    pub id: String,
}

/// What a living agent asks for leave to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// For people, without control characters.
    pub title: String,
    /// The kind of tool, such as `execute`; empty where it is not told.
    pub kind: String,
    /// What the tool is given, as JSON on one line; empty where it is not told. Capped: then it is a JSON
    /// text with the beginning of it.
    pub input: String,
}

/// What became of a question.
#[derive(Clone, Debug)]
pub enum Leave {
    Allowed,
    /// Why, for the reply; empty where the configuration says so.
    Denied(String),
    /// Somebody is asked: `id` names the question, and the event is raised when there are
    /// [`super::Reply::answers`].
    Asked {
        id: String,
        event: Arc<EventFd>,
    },
}

/// What somebody said to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The question's id, and whether it is allowed.
    Given(String, bool),
    /// The gateway is about to stop or to restart, and nobody answers any more.
    Stopping,
}

/// What came with a message beside its text.
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    /// What its sender calls it; of a reference itself.
    pub name: String,
    /// The media type; empty for a reference that says none.
    pub media: String,
    /// Where its file is; `None` for a reference, and for one that is told of only by its name.
    pub path: Option<PathBuf>,
}

impl Turn<'_> {
    pub fn reply_too_long(&self) -> Outcome {
        too_long(self.max_reply)
    }
}

pub fn too_long(max_reply: usize) -> Outcome {
    Outcome::Failed(format!("the reply is over limits.max_reply ({max_reply} bytes)"))
}
