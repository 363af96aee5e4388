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
mod output;
mod upstream;

use std::path::{Path, PathBuf};
use std::{cell::RefCell, fmt, io, sync::Arc, time::Instant};

use crate::cancel::{Cancel, CancelReason};
use crate::config::{self, Approve};
use crate::escape::quoted;
use crate::json::{add, find, member, one_line, string, text_or_null};
use crate::subprocess::Children;
use crate::sys::fd::EventFd;

pub use context::Context;
pub use living::ProcessStatus;
use living::{Living, Protocol};
pub use upstream::{Head, Passed};

/// What clients call the model that is meant where none is named.
pub const DEFAULT_MODEL: &str = "default";

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
    /// The living agent's own session for this one, as [`Reply::keep_session`] was given it.
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
    /// [`Reply::answers`].
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
    fn reply_too_long(&self) -> Outcome {
        too_long(self.max_reply)
    }
}

fn too_long(max_reply: usize) -> Outcome {
    Outcome::Failed(format!("the reply is over limits.max_reply ({max_reply} bytes)"))
}

/// Where the answer to a request goes that was passed to an upstream: piece by piece, and whether more is to
/// come. An error means that nobody is there any more to take it.
pub type Sink<'s> = dyn FnMut(&Head, &[u8], bool) -> io::Result<()> + 's;

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
    index: Option<u64>,
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
fn usage(given: &str) -> Option<String> {
    given.starts_with('{').then(|| one_line(given.to_owned()))
}

/// An error that the agent's server answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    /// 400 to 599.
    pub status: u16,
    /// OpenAI's error object as JSON: `message`, `type`, `param`, `code`.
    pub error: String,
    /// Its Retry-After, as it came.
    pub retry_after: Option<String>,
}

impl ErrorResponse {
    /// Whether the same may go better another time (RFC 9110 section 15.5.9, RFC 6585 section 4).
    pub fn is_temporary(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 500..=599)
    }

    /// For the journal.
    pub fn to_json(&self) -> String {
        let after = text_or_null(self.retry_after.as_deref());
        format!(r#"{{"status":{},"error":{},"retry_after":{after}}}"#, self.status, self.error)
    }

    /// What an agent says that did not answer in time (RFC 9110 section 15.6.5).
    pub fn timed_out() -> ErrorResponse {
        let message = "The agent did not finish within agent.turn_timeout.";
        ErrorResponse::server_error(504, "turn_timeout", message)
    }

    /// A temporary failure without a server's own words for it.
    pub fn unavailable(why: &str) -> ErrorResponse {
        ErrorResponse::server_error(503, "agent_unavailable", why)
    }

    fn server_error(status: u16, code: &str, message: &str) -> ErrorResponse {
        ErrorResponse::new(status, message, (&quoted("server_error"), "null", &quoted(code)))
    }

    /// `type`, `param` and `code` as JSON.
    fn new(status: u16, message: &str, (kind, param, code): (&str, &str, &str)) -> ErrorResponse {
        let message = quoted(message);
        let error =
            format!(r#"{{"message":{message},"type":{kind},"param":{param},"code":{code}}}"#);
        ErrorResponse { status, error, retry_after: None }
    }

    pub fn parse(json: &str) -> Option<ErrorResponse> {
        let status = member(json, "status")?.parse().ok()?;
        let error = member(json, "error").unwrap_or("null").to_owned();
        let response = ErrorResponse { status, error, retry_after: string(json, "retry_after") };
        (400..600).contains(&status).then_some(response)
    }
}

/// The message of an error that has none.
const NO_REASON: &str = "it did not say why";

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = string(&self.error, "message");
        let message = message.as_deref().unwrap_or(NO_REASON);
        write!(f, "the upstream answered {}: {message}", self.status)
    }
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It may go better another time: exit status 75, an agent or server that is not there.
    Temporary(String),
    /// The agent was ended by a signal.
    Crashed(String),
    /// The system is short of descriptors, processes or memory: nobody's fault, and soon over.
    Short(String),
    /// It was ended for the sake of something else, and runs again. That costs no attempt.
    Released(String),
    /// It will not: any other exit status, or a reply that is too long.
    Failed(String),
    /// The agent's server refused, in its own words.
    ErrorResponse(Box<ErrorResponse>),
    /// From outside.
    Ended(CancelReason),
}

impl Outcome {
    /// Says in the log how an attempt at a turn ended: a line each, without what was said.
    pub fn log(&self, id: &str, session: Option<&str>, attempt: u32, began: Instant, bytes: usize) {
        let (session, millis) =
            (session.map_or("none".to_owned(), quoted), began.elapsed().as_millis());
        let turn =
            format!("turn {id} (session {session}, attempt {attempt}, {millis} ms, {bytes} bytes)");
        match self {
            Outcome::Done => log::info!("{turn} is done"),
            Outcome::Temporary(_)
            | Outcome::Crashed(_)
            | Outcome::Failed(_)
            | Outcome::ErrorResponse(_)
            | Outcome::Ended(CancelReason::TimedOut) => log::warn!("{turn} failed: {self}"),
            Outcome::Ended(_) | Outcome::Short(_) | Outcome::Released(_) => {
                log::info!("{turn} was ended: {self}");
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Done => "done",
            Outcome::Temporary(words)
            | Outcome::Crashed(words)
            | Outcome::Short(words)
            | Outcome::Released(words)
            | Outcome::Failed(words) => words,
            Outcome::ErrorResponse(response) => return response.fmt(f),
            Outcome::Ended(CancelReason::TimedOut) => "it took longer than agent.turn_timeout",
            Outcome::Ended(CancelReason::ClientGone) => "the client went away",
            Outcome::Ended(CancelReason::Cancelled) => "it was cancelled",
            Outcome::Ended(CancelReason::Aborted) => "the gateway is stopping",
        })
    }
}

/// The configured agent.
#[derive(Clone, Debug)]
pub struct Agent {
    config: config::Agent,
    children: Arc<Children>,
    /// One for each of the configuration's servers.
    upstreams: Arc<[upstream::ConnectionPool]>,
    /// Where the agent is one that stays.
    living: Option<Arc<Living>>,
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
        let protocol: Option<&'static dyn Protocol> = match config.protocol {
            config::Protocol::Text => None,
            config::Protocol::Acp => Some(&acp::ACP),
            config::Protocol::Lines => Some(&lines::LINES),
        };
        let living = protocol.filter(|_| !config.command.is_empty());
        let living = living
            .map(|protocol| Living::new(&config, protocol, &children, limits, data.to_owned()));
        Agent { config, children, upstreams, living }
    }

    /// Goes on with the processes of the agent that there was before, where they are the same; else those
    /// end after their turns.
    pub fn follow(&mut self, before: &Agent) {
        let Some(old) = &before.living else { return };
        if self.living.as_ref().is_some_and(|new| new.is_like(old)) {
            self.living = Some(Arc::clone(old));
        } else {
            old.set_closing(true);
        }
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
