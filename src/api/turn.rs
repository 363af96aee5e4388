//! One turn for a request that waits for its reply, whichever API it came by.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use super::auth::Authenticated;
use super::chat_request::{ChatRequest, ParseOptions, check_instructions};
use super::durable::run_durable;
use super::error::ApiError;
use super::messages::json_body;
use super::reply_writer::{Encoder, ReplyWriter};
use super::sessions::owner_of;
use super::{Exchange, Service, idempotency};
use crate::agent::{Outcome, Turn, TurnLimits};
use crate::http::{Closed, Request};
use crate::session::{Draft, Owner};

/// The header that puts a request into a session.
pub const SESSION: &str = "X-Hermes-Session-Id";

/// The principal, and the session that the request names.
fn party(request: &Request, proof: &Authenticated) -> Result<Owner, ApiError> {
    match request.header(SESSION) {
        // What is no text is as good as no key.
        Some(bytes) => owner_of(proof, std::str::from_utf8(bytes).unwrap_or_default()),
        None => Ok(Owner::new(proof.principal().to_owned(), None)),
    }
}

/// What is asked for, as an API reads it from a body.
pub struct TurnRequest {
    pub ask: ChatRequest,
    /// It is written down also without a session and an idempotency key.
    pub stored: bool,
    /// How its reply is worded.
    pub shape: Box<dyn Encoder>,
}

/// Reads an order from a body, for a session or none.
pub type Parser<'a> =
    &'a dyn Fn(&[u8], Option<&str>, ParseOptions) -> Result<TurnRequest, ApiError>;

/// Reads what a request asks for, runs the turn and answers with its reply. A message that is durable
/// is carried on whatever becomes of its connection.
pub fn serve(mut exchange: Exchange<'_>, read: Parser<'_>) -> Result<(), Closed> {
    let (body, mut lease) = match json_body(&mut exchange)? {
        Ok(body) => body,
        Err(problem) => return exchange.respond(Err(problem)),
    };
    let Exchange { connection, request, service, proof } = exchange;
    let settings = service.settings();
    let understood = party(request, proof).and_then(|who| {
        let key = idempotency::key(request, proof, &body)?;
        let in_session = who.session.is_some();
        let upstream = settings.agent.kind() == "upstream";
        let manner = ParseOptions { in_session, durable: in_session || key.is_some(), upstream };
        let order = read(&body, who.session.as_deref(), manner)?;
        let context = order.ask.context.as_deref().filter(|_| settings.agent.reads_files());
        context.map_or(Ok(()), check_instructions)?;
        let durable = manner.durable || order.stored;
        Ok((order, durable, who, key))
    });
    drop(body);
    let (order, durable, who, key) = match understood {
        Ok(understood) => understood,
        Err(problem) => return connection.respond(request, problem.response()),
    };
    let TurnRequest { ask, mut shape, .. } = order;
    // What is not written down waits in memory.
    let held = ask.text.len() + ask.context.as_ref().map_or(0, String::len);
    lease.shrink(if durable { 0 } else { held });
    // The connection is lent to the reply, and its socket watched meanwhile.
    let client = match connection.watch() {
        Ok(client) => client,
        Err(e) => return connection.respond(request, ApiError::short(&e).response()),
    };
    let exchange = Exchange { connection, request, service, proof };
    let mut answer = ReplyWriter::new(exchange, &mut *shape, ask.stream);
    let outcome = if durable {
        let draft = Draft {
            who,
            text: ask.text,
            context: ask.context,
            attachments: Vec::new(),
            deliver: None,
            mode: settings.config.session.busy,
            key,
        };
        run_durable(service, draft, &*client, &mut answer)
    } else {
        run(service, proof.principal(), &ask, &*client, &mut answer)
    };
    match outcome {
        Ok(()) => answer.finish(),
        Err(why) => match why.or_else(|| answer.refused.take()) {
            Some(problem) => answer.fail(&problem),
            None => Err(Closed::Io(io::ErrorKind::ConnectionAborted.into())),
        },
    }
}

/// Waits for a place and runs the turn, for this connection alone. `Err(None)`: nobody is there any
/// more.
fn run(
    service: &Service,
    principal: &str,
    ask: &ChatRequest,
    client: &dyn AsFd,
    answer: &mut ReplyWriter<'_>,
) -> Result<(), Option<ApiError>> {
    let settings = service.settings();
    let patience = settings.config.agent.turn_timeout;
    let client = Some(client.as_fd());
    let place = service.hub.acquire_turn(principal, client, patience, answer);
    let place = place.map_err(|why| ApiError::no_place(&why))?;
    answer.id = place.id.to_string();
    let message_id = answer.id.clone();
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => ApiError::previous_not_found(),
        _ => ApiError::short(&e),
    };
    let context =
        ask.context.as_ref().map(|json| service.hub.context(principal, false, &ask.text, json));
    let context = context.transpose().map_err(failed)?;
    let lent =
        context.as_ref().map(|c| service.hub.temporary_transcript(&settings.agent, place.id, c));
    let lent = lent.transpose().map_err(failed)?.flatten();
    let turn = Turn {
        message_id: &message_id,
        session: "",
        principal,
        attempt: 1,
        text: &ask.text,
        context: context.as_ref(),
        transcript: lent.as_ref().map(|lent| &*lent.0),
        attachments: &[],
    };
    let max_reply = settings.config.limits.max_reply;
    let began = Instant::now();
    let (deadline, cut) = (began + patience, service.hub.cut.as_fd());
    let bounds = TurnLimits { deadline, max_reply, client, cut, cancel: None };
    let outcome = settings.agent.run(&turn, answer, &bounds);
    // An echo takes 10 µs, and a line in the journal half as much again: debug has it.
    let echoed = outcome == Outcome::Done && settings.agent.kind() == "echo";
    if !echoed || log::log_enabled!(log::Level::Debug) {
        outcome.log(&message_id, None, 1, began, answer.bytes);
    }
    match outcome {
        Outcome::Done => Ok(()),
        outcome => Err(ApiError::outcome(outcome)),
    }
}
