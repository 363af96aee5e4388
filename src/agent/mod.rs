//! Agents: who answers. A turn goes in, pieces of a reply come out as they are made, and one
//! outcome at the end.
//!
//! What may enter: running a turn to its end. Who may have one, and where the reply goes, is
//! decided above.

pub mod acp;
mod command;
pub mod context;
mod lines;
mod living;
mod outcome;
mod output;
mod reply;
mod turn;
mod upstream;

use std::path::Path;
use std::{cell::RefCell, io, sync::Arc};

use crate::cancel::{Cancel, CancelReason};
use crate::config;
use crate::subprocess::Children;

pub use context::Context;
pub use living::ProcessStatus;
use outcome::NO_REASON;
pub use outcome::{ErrorResponse, Outcome};
use reply::usage;
pub use reply::{Reply, Report, ToolCall};
use turn::too_long;
pub use turn::{AgentSession, Answer, Attachment, Leave, Question, Turn};
pub use upstream::{Head, Passed};

/// What clients call the model that is meant where none is named.
pub const DEFAULT_MODEL: &str = "default";

/// Where the answer to a request goes that was passed to an upstream: piece by piece, and whether more is to
/// come. An error means that nobody is there any more to take it.
pub type Sink<'s> = dyn FnMut(&Head, &[u8], bool) -> io::Result<()> + 's;

/// The configured agent.
#[derive(Clone, Debug)]
pub struct Agent {
    config: config::Agent,
    children: Arc<Children>,
    /// One for each of the configuration's servers.
    upstreams: Arc<[upstream::ConnectionPool]>,
    /// Where the agent is one that stays.
    living: Option<Arc<living::Living>>,
}

impl Agent {
    /// `data`: where sessions of an agent that stays get directories of their own; `limits`: bytes of its
    /// lines and of a reply.
    pub fn new(
        config: config::Agent,
        children: Arc<Children>,
        data: &Path,
        limits: (usize, usize),
    ) -> Agent {
        let upstreams = config.url.iter().map(|_| upstream::ConnectionPool::default()).collect();
        let protocol: Option<&'static dyn living::Protocol> = match config.protocol {
            config::Protocol::Text => None,
            config::Protocol::Acp => Some(&acp::ACP),
            config::Protocol::Lines => Some(&lines::LINES),
        };
        let living = protocol.filter(|_| !config.command.is_empty());
        let living = living.map(|protocol| {
            living::Living::new(&config, protocol, &children, limits, data.to_owned())
        });
        Agent { config, children, upstreams, living }
    }

    /// Goes on with the processes of the agent that there was before, where they are the same; else those
    /// end after their turns.
    pub fn follow(&mut self, before: &Agent) {
        let Some(old) = &before.living else { return };
        match &self.living {
            Some(new) if new.is_like(old) => self.living = Some(Arc::clone(old)),
            Some(new) => new.replace(old),
            None => old.set_closing(true),
        }
    }

    /// Removes what an earlier run has left: before the first turn.
    pub fn clean(&self) {
        self.living.iter().for_each(|living| living.clean());
    }

    /// Begins with what is to be there before the first turn; `work` is told of processes that end.
    pub fn begin(&self, work: Box<dyn Fn(bool) + Send + Sync>) {
        if let Some(living) = &self.living {
            living.set_work(work);
            living.preload();
        }
    }

    /// Has living processes end as soon as they have no turn, or lets them stay again. Does not wait.
    pub fn set_closing(&self, closing: bool) {
        self.living.iter().for_each(|living| living.set_closing(closing));
    }

    /// The living processes.
    pub fn processes(&self) -> Vec<ProcessStatus> {
        self.living.as_ref().map_or(Vec::new(), |living| living.processes())
    }

    /// Why living processes do not start, where they did not time and again.
    pub fn trouble(&self) -> Option<String> {
        self.living.as_ref()?.trouble()
    }

    /// A session is over; `name`: [`Turn::session_name`].
    pub fn forget(&self, name: &str) {
        self.living.iter().for_each(|living| living.forget(name));
    }

    /// Runs a turn to its end. The reply's `idle` takes the place of that in `cancel`.
    pub fn run(&self, turn: &Turn<'_>, reply: &mut dyn Reply, cancel: &Cancel<'_>) -> Outcome {
        let reply = RefCell::new(reply);
        let idle = || reply.borrow_mut().idle();
        let cancel = Cancel { idle: Some(&idle), ..*cancel };
        // A client that went away hangs up; another that cannot be written to must not have the request
        // sent again.
        let lenient = || idle().or(Ok(()));
        let patient = Cancel { idle: Some(&lenient), ..cancel };
        if !self.upstreams.is_empty() {
            return upstream::run(self, patient, turn, &reply).err().unwrap_or(Outcome::Done);
        }
        if let Some(living) = &self.living {
            return living.run(turn, &reply, cancel);
        }
        if self.reads_files() {
            return command::run(&self.children, &self.config, turn, &reply, &cancel);
        }
        match reply.borrow_mut().chunk(turn.text) {
            Ok(()) => Outcome::Done,
            Err(_) => Outcome::Ended(CancelReason::ClientGone),
        }
    }

    /// Whether it wants what was said before in a file.
    pub fn reads_files(&self) -> bool {
        !self.config.command.is_empty()
    }

    /// The models that a client may name.
    pub fn models(&self) -> Vec<String> {
        upstream::models(self)
    }

    /// Sends a request to the upstream as it is, and its answer to `sink`. Whether it may is asked with
    /// [`config::Agent::passes`].
    pub fn pass(&self, request: &Passed<'_>, cancel: &Cancel<'_>, sink: &mut Sink<'_>) -> Outcome {
        upstream::pass(self, request, *cancel, sink).err().unwrap_or(Outcome::Done)
    }

    /// Closes connections that were kept for turns that did not come; to be called now and then.
    pub fn close_idle(&self) {
        self.upstreams.iter().for_each(upstream::ConnectionPool::close_idle);
    }

    /// What `/v1/models` calls it.
    pub fn kind(&self) -> &'static str {
        self.config.kind()
    }
}
