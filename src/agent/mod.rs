//! Agents: who answers. A turn goes in, pieces of a reply come out as they are made, and one
//! outcome at the end.
//!
//! What may enter: running a turn to its end. Who may have one, and where the reply goes, is
//! decided above.
#![forbid(unsafe_code)]

mod command;
mod environment;
mod output;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::config;
use crate::subprocess::Children;

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
    /// The file with what was said in the session before, which may not exist yet.
    pub transcript: Option<&'a Path>,
    /// References that came with the message; nobody here opens them.
    pub attachments: &'a [String],
}

/// Where a reply goes, piece by piece. An error means that nobody is there any more to take it.
pub trait Reply {
    fn piece(&mut self, text: &str) -> io::Result<()>;
}

/// What may end a turn from outside.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    pub deadline: Instant,
    /// The most bytes that a reply may have.
    pub max_reply: usize,
    /// A socket whose hang-up means that the client has gone away.
    pub client: Option<BorrowedFd<'a>>,
    /// Readable once every turn has to end.
    pub cut: BorrowedFd<'a>,
    /// Readable once this turn has to end.
    pub cancel: Option<BorrowedFd<'a>>,
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It may go better another time: exit status 75, a signal, an agent that cannot be started.
    Temporary(String),
    /// The system is short of descriptors, processes or memory: nobody's fault, and soon over.
    Short(String),
    /// It will not: any other exit status, or a reply that is too long.
    Failed(String),
    TimedOut,
    ClientGone,
    /// Somebody took the message back.
    Cancelled,
    /// The gateway is stopping.
    Cut,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Done => "done",
            Outcome::Temporary(words) | Outcome::Short(words) | Outcome::Failed(words) => words,
            Outcome::TimedOut => "it took longer than agent.turn_timeout",
            Outcome::ClientGone => "the client went away",
            Outcome::Cancelled => "it was cancelled",
            Outcome::Cut => "the gateway is stopping",
        })
    }
}

/// The configured agent.
#[derive(Clone, Debug)]
pub struct Agent {
    config: config::Agent,
    children: Arc<Children>,
}

impl Agent {
    pub fn new(config: config::Agent, children: Arc<Children>) -> Agent {
        Agent { config, children }
    }

    /// Runs a turn to its end.
    pub fn run(&self, turn: &Turn<'_>, reply: &mut dyn Reply, bounds: &Bounds<'_>) -> Outcome {
        match self.config.kind {
            config::AgentKind::Echo => match reply.piece(turn.text) {
                Ok(()) => Outcome::Done,
                Err(_) => Outcome::ClientGone,
            },
            config::AgentKind::Command => {
                command::run(&self.children, &self.config, turn, reply, bounds)
            }
        }
    }

    /// What `/v1/models` calls it.
    pub fn kind(&self) -> &'static str {
        match self.config.kind {
            config::AgentKind::Echo => "echo",
            config::AgentKind::Command => "command",
        }
    }
}
