//! What comes in a turn's conversation with its agent, and what is to be done about it. Pure.

use std::borrow::Cow;
use std::time::Duration;

use super::wire::Answer;
use crate::agent::Outcome;

/// How the agent's session came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It was in the process's memory.
    Known,
    New,
    Resumed,
    /// It was resumed, and may be empty: the agent does not tell.
    Doubtful,
    Loaded,
}

impl Opened {
    pub fn is_restored(self) -> bool {
        matches!(self, Opened::Resumed | Opened::Doubtful | Opened::Loaded)
    }
}

/// What has come.
#[derive(Debug)]
pub enum Event<'a> {
    /// The answer to the request that is open.
    Answered(&'a Answer<'a>),
    /// An error is the answer, and the turn ends so if nothing else helps.
    Refused(Outcome),
    /// Text of the agent's.
    Said(&'a str),
    /// A tool call or a plan: a word and JSON, empty where there is nothing to be shown; whether it begins.
    Shown(&'static str, String, bool),
    /// What belongs to a conversation and is no part of the reply: a user's text, a thought.
    Aside,
    /// A request for a permission, by its id, with the options to allow it and to reject it, as JSON.
    Asked { request: String, allow: Option<String>, reject: Option<String> },
    /// A permission, by its number, with what the reply has to say about it.
    Decided { number: u32, allowed: bool, note: Option<String> },
    /// The time has come that was set.
    Timer,
    /// The turn has to end so; the agent has so long for that.
    Cancel(Outcome, Duration),
    /// Nothing more will come.
    Ended(Outcome),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Requests: a page of the list of sessions, and those that open one.
    List(Option<String>),
    Resume,
    Load,
    Create,
    Prompt(Opened),
    /// The notification.
    Cancel,
    /// The answer to a permission's request; `None`: cancelled.
    Permit(String, Option<String>),
    /// Somebody has to decide on the permission that has come last.
    Ask(u32),
    Say(Cow<'a, str>),
    Show(&'static str, String),
    /// The agent does not do what it has to: its process cannot be used any more.
    EndProcess,
    /// The session that was asked for is nobody's.
    Discard,
    Finish(Outcome),
}
