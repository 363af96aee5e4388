//! One turn for a request that waits for its reply, whichever API it came by. The reply of a durable
//! message is passed on while somebody is there to take it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use super::attachments::Attachments;
use super::buffers::Lease;
use super::error::{ApiError, Handled, HandlerError, bad};
use super::messages::submit;
use super::reply_writer::{Encoder, ReplyWriter};
use super::request::{LIVE_EVENTS, idempotency_key, json_body, owner_of, session_header, text};
use super::service::{Exchange, Service};
use super::warnings::Warnings;
use crate::agent::context::instructions;
use crate::agent::{Outcome, Reply};
use crate::cancel::{Cancel, CancelReason};
use crate::json::member;
use crate::limits::{KEEP_ALIVE, LONGEST_REPLY};
use crate::session::{Draft, Hub, Id, PendingRetry, Refusal, Submitted, TurnState};
use crate::sys::{fd::EventFd, poll::Interest};

/// Instructions that an agent gets as a variable: with its name and NUL it stays below the system's
/// bound for one ([`MAX_EXEC_STRING`](crate::limits::MAX_EXEC_STRING)).
const MAX_INSTRUCTIONS: usize = 120 * 1024;

/// What a request asks for.
pub struct TurnRequest {
    /// The message that the turn is about.
    pub text: String,
    pub stream: bool,
    /// It is durable also without a session and an idempotency key.
    pub stored: bool,
    /// See [`crate::agent::Context`]; `None` where there is nothing but the text.
    pub context: Option<String>,
    pub attachments: Attachments,
    pub warnings: Warnings,
}

/// What else decides how a request is parsed.
#[derive(Clone, Copy, Debug)]
pub struct ParseOptions {
    pub in_session: bool,
    /// It has a session or an idempotency key: its reply is text in the journal.
    pub durable: bool,
    /// The agent speaks the API itself: it gets all that the request says.
    pub upstream: bool,
    /// Images and files of a session's message are stored.
    pub stores: bool,
}

impl ParseOptions {
    /// Whether it can be asked for tools, forms of the answer, images and files as they are: a session is text.
    pub fn takes_all(self) -> bool {
        self.upstream && !self.in_session
    }

    /// Why something is not done that it does not take.
    pub fn why_not(self) -> &'static str {
        match (self.upstream, self.in_session) {
            (false, _) => "only an agent that is an upstream takes it",
            (true, true) => "a session is text",
            (true, false) => "a durable reply is text and tool calls",
        }
    }

    /// The error for a field that must not be ignored.
    pub fn refuse(self, field: &str) -> ApiError {
        let message = format!("{field:?} cannot be met: {}.", self.why_not());
        ApiError::new(400, "unsupported_parameter", message).param(field)
    }
}

/// A request, with what its reply is written by.
pub type Parsed<E> = Result<(TurnRequest, E), ApiError>;

/// Reads a body, for a session or none.
pub type Parser<'a> = &'a dyn Fn(&[u8], Option<&str>, ParseOptions) -> Parsed<Box<dyn Encoder>>;

/// Reads what a request asks for, runs the turn and answers with its reply. A durable message goes
/// on whatever becomes of its connection.
pub fn serve(mut exchange: Exchange<'_>, read: Parser<'_>) -> Handled {
    let (body, mut lease) = json_body(&mut exchange)?;
    let Exchange { connection, request, service, proof } = exchange;
    let settings = service.settings();
    let session = session_header(request);
    let who = owner_of(proof, session)?;
    let key = idempotency_key(request, proof, &body)?;
    let in_session = session.is_some();
    let upstream = settings.agent.kind() == "upstream";
    let (durable, stores) =
        (in_session || key.is_some(), in_session && service.refuses_files().is_none());
    let options = ParseOptions { in_session, durable, upstream, stores };
    let (ask, mut encoder) = read(&body, session, options)?;
    let context = ask.context.as_deref().filter(|_| settings.agent.reads_files());
    context.map_or(Ok(()), check_instructions)?;
    drop(body);
    let (durable, stream) = (options.durable || ask.stored, ask.stream);
    let mode = settings.config.session.busy;
    let (text, context, deliver) = (ask.text, ask.context, None);
    let Attachments { references: attachments, files } = ask.attachments;
    let held = files.iter().map(|file| file.data.len()).sum();
    // A client that is shown questions can answer them.
    let attended = !(stream && request.header(LIVE_EVENTS).is_some());
    let origin = None;
    let draft =
        Draft { who, text, context, attachments, files, deliver, origin, mode, attended, key };
    // An ephemeral message waits in memory.
    let bytes = draft.text.len() + draft.context.as_ref().map_or(0, String::len);
    lease.shrink(if durable { held } else { bytes });
    // The connection is lent to the reply, and its socket watched meanwhile.
    let client = connection.watch().map_err(|e| ApiError::out_of_resources(&e))?;
    let exchange = Exchange { connection, request, service, proof };
    let mut answer = ReplyWriter::new(exchange, &mut *encoder, (stream, ask.warnings));
    let run = if durable { run_durable } else { run_ephemeral };
    let failed = match run(service, draft, (client.as_fd(), lease), &mut answer) {
        Ok(()) => None,
        Err(HandlerError::Api(problem)) => Some(problem),
        Err(HandlerError::Closed(why)) => Some(answer.refused.take().ok_or(why)?),
    };
    Ok(answer.finish(failed.as_ref())?)
}

/// Rejects instructions that cannot be passed to a program as an environment variable.
pub fn check_instructions(context: &str) -> Result<(), ApiError> {
    let mut all = member(context, "messages").map_or(String::new(), instructions);
    all += &text(member(context, "instructions"), "instructions")?.unwrap_or_default();
    let (most, length) = (MAX_INSTRUCTIONS, all.len());
    if length > most {
        let words =
            format!("The system messages have {length} bytes together; this agent takes {most}.");
        return Err(ApiError::new(413, "too_long", words));
    }
    let nul = || bad("A system message has U+0000 in it, which this agent cannot be given.");
    all.find('\0').map_or(Ok(()), |_| Err(nul()))
}

/// Waits for its turn and runs it, for this connection alone.
fn run_ephemeral(
    service: &Service,
    draft: Draft,
    (client, _lease): (BorrowedFd<'_>, Lease),
    answer: &mut ReplyWriter<'_>,
) -> Handled {
    let permit = service.hub.acquire_turn(&draft.who.principal, client, answer)?;
    answer.id = permit.id.to_string();
    match permit.run(draft, client, answer) {
        Ok(Outcome::Done) => Ok(()),
        Ok(outcome) => Err(outcome.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(ApiError::previous_not_found().into()),
        Err(e) => Err(ApiError::out_of_resources(&e).into()),
    }
}

/// Submits a durable message and passes its reply on. It goes on where the client goes away.
fn run_durable(
    service: &Service,
    draft: Draft,
    (client, lease): (BorrowedFd<'_>, Lease),
    answer: &mut ReplyWriter<'_>,
) -> Handled {
    // Before it is accepted: who is told to try again must not find it done twice.
    let event = EventFd::new().map_err(|e| ApiError::out_of_resources(&e))?;
    let (hub, keyed) = (&service.hub, draft.key.is_some());
    let (id, replayed) = match submit(service, draft)? {
        Submitted::New { id, .. } => (id, false),
        Submitted::Known(id) => (id, true),
    };
    drop(lease);
    let _pinned = hub.attend(id);
    (answer.id, answer.replayed) = (id.to_string(), replayed);
    let waiter = Waiter { hub, id, client, keyed, came: Instant::now() };
    let streamed = waiter.stream_reply(event, answer)?;
    let message = hub.message(id)?.ok_or_else(ApiError::deleted)?;
    if message.entry.erased {
        return Err(Refusal::Erased.into());
    }
    answer.report(message.report.clone());
    let error = message.error.clone().unwrap_or_default();
    let problem = match message.entry.turn {
        TurnState::Done if message.reply.is_none() && !streamed => {
            ApiError::new(503, "unavailable", error)
        }
        TurnState::Done => {
            let text = message.extent();
            answer.store(text.clone())?;
            if answer.streams() && !streamed {
                text.text_chunks(&mut |chunk| answer.chunk(chunk))?;
            }
            return Ok(());
        }
        TurnState::Failed => match message.refused {
            Some(refused) => ApiError::upstream(refused),
            None => ApiError::new(502, "agent_failed", error),
        },
        TurnState::Cancelled => ApiError::new(502, "cancelled", error),
        // One that was begun runs again, whoever hears of it.
        _ if !keyed && message.entry.attempts > 0 => {
            let words = format!("The gateway is stopping; message {id} goes on when it is back.");
            let mut error = ApiError::new(503, "gateway_stopping", words);
            error.0.after = None;
            error
        }
        TurnState::Queued | TurnState::Running | TurnState::Backoff => {
            // A client that is told to try again must not have it done twice; by its key it finds it.
            if !keyed {
                let _ = hub.cancel(id, "the gateway stopped, and its sender was told so");
            }
            ApiError::stopping()
        }
    };
    Err(problem.into())
}

/// A client that waits for the reply of a message.
struct Waiter<'a> {
    hub: &'a Arc<Hub>,
    id: Id,
    client: BorrowedFd<'a>,
    /// It can find the message again.
    keyed: bool,
    came: Instant,
}

impl Waiter<'_> {
    /// Passes the chunks of a turn on until its end, for a client that wants a stream. Says whether
    /// there were any.
    fn stream_reply(
        &self,
        event: EventFd,
        answer: &mut ReplyWriter<'_>,
    ) -> Result<bool, HandlerError> {
        let Some(watch) = self.hub.watch(self.id, event) else { return Ok(false) };
        let (streams, mut attempt, mut offset, mut shown) = (answer.streams(), 0, 0, 0);
        let watch = if streams { watch } else { watch.for_end() };
        loop {
            watch.event.clear();
            // Who wants the whole is given what the journal has.
            let seen = match answer.live {
                true => watch.reply.snapshot_with_events(attempt, offset, shown),
                false => watch.reply.snapshot(attempt, if streams { offset } else { usize::MAX }),
            };
            if seen.attempt != attempt && offset > 0 {
                return Err(self.cut_short(false).into());
            }
            (attempt, shown) = (seen.attempt, seen.seen);
            watch.reply.upstream().iter().for_each(|name| answer.upstream(name));
            if streams && !seen.text.is_empty() {
                offset += seen.text.len();
                answer.chunk(&seen.text)?;
            }
            seen.event.iter().for_each(|event| answer.event(event.word, &event.json));
            if seen.more && streams {
                continue;
            }
            if seen.over || self.hub.is_put_off(self.id) || self.came.elapsed() > LONGEST_REPLY {
                return Ok(offset > 0);
            }
            let delay = self.hub.pending_retry(self.id).filter(|delay| delay.next.is_some());
            if let Some(delay) = &delay {
                self.check_delay(delay, offset > 0)?;
            }
            let (client, abort) = (Some(self.client), Some(self.hub.abort.as_fd()));
            let cancel = Cancel { client, abort, ..Cancel::at(self.came + LONGEST_REPLY) };
            let news = [Interest::read(watch.event.as_fd())];
            let waited = cancel.wait(news, Instant::now() + KEEP_ALIVE);
            match waited.map_err(|e| ApiError::out_of_resources(&e))? {
                (_, Some(CancelReason::ClientGone)) => return Err(HandlerError::client_gone()),
                (_, Some(CancelReason::Aborted)) if offset > 0 => {
                    return Err(ApiError::stopping().into());
                }
                (_, Some(CancelReason::Aborted)) => return Ok(false),
                // A stream that has begun has no status any more, and the next thing may be an error.
                ([false], None) if delay.is_none() || offset > 0 => {
                    answer.idle()?;
                }
                _ => {}
            }
        }
    }

    /// Ends the wait where the next attempt comes later than the client waits for, from the first
    /// one that failed or from its own coming. A message that it cannot find again is cancelled
    /// before it is told to try again.
    fn check_delay(&self, delay: &PendingRetry, begun: bool) -> Handled {
        let within = self.hub.settings().config.agent.answer_within;
        let until = delay.since.max(self.came) + within;
        let Some(next) = delay.next.filter(|next| begun || *next > until) else { return Ok(()) };
        // Read before it is cancelled, which may be the end of its error.
        let first = self.hub.message(delay.id)?;
        let why = "its sender was told to send it again: the agent is away";
        if !self.keyed && self.hub.withdraw(self.id, why).is_err() {
            // It has just begun or ended, or the journal does not take it: the wait goes on.
            return Ok(());
        }
        if begun {
            return Err(self.cut_short(!self.keyed).into());
        }
        let seconds = next.saturating_duration_since(Instant::now()).as_secs() + 1;
        let (error, refused) = first.map_or((None, None), |first| (first.error, first.refused));
        let mut words = error.unwrap_or_else(|| "the agent is away".to_owned());
        if self.keyed {
            words += &format!("; message {} goes on, and the same key finds its reply", self.id);
        }
        let unavailable = || ApiError::new(503, "agent_unavailable", words);
        let problem = refused.map_or_else(unavailable, ApiError::upstream);
        Err(problem.after(seconds).into())
    }

    fn cut_short(&self, cancelled: bool) -> ApiError {
        let (id, what) = (self.id, if cancelled { "was cancelled: send it" } else { "is tried" });
        let message =
            format!("The attempt failed in the middle of its reply; message {id} {what} again.");
        ApiError::new(503, "agent_unavailable", message)
    }
}
