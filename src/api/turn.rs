//! One turn for a request that waits for its reply, whichever API it came by.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::chat_request::{ChatRequest, ParseOptions, check_instructions};
use super::durable::run_durable;
use super::error::{ApiError, Handled, HandlerError};
use super::reply_writer::{Encoder, ReplyWriter};
use super::request::{SESSION, idempotency_key, json_body, owner_of};
use super::service::{Exchange, Service};
use crate::agent::Outcome;
use crate::session::Draft;

/// Reads what is asked for from a body, for a session or none; with the format of the reply.
pub type Parser<'a> = &'a dyn Fn(
    &[u8],
    Option<&str>,
    ParseOptions,
) -> Result<(ChatRequest, Box<dyn Encoder>), ApiError>;

/// Reads what a request asks for, runs the turn and answers with its reply. A durable message goes
/// on whatever becomes of its connection.
pub fn serve(mut exchange: Exchange<'_>, read: Parser<'_>) -> Handled {
    let (body, mut lease) = json_body(&mut exchange)?;
    let Exchange { connection, request, service, proof } = exchange;
    let settings = service.settings();
    // What is no text is as good as no session.
    let session = request.header(SESSION).map(|it| std::str::from_utf8(it).unwrap_or_default());
    let who = owner_of(proof, session)?;
    let key = idempotency_key(request, proof, &body)?;
    let in_session = session.is_some();
    let upstream = settings.agent.kind() == "upstream";
    let options = ParseOptions { in_session, durable: in_session || key.is_some(), upstream };
    let (ask, mut encoder) = read(&body, session, options)?;
    let context = ask.context.as_deref().filter(|_| settings.agent.reads_files());
    context.map_or(Ok(()), check_instructions)?;
    drop(body);
    let (durable, stream) = (options.durable || ask.stored, ask.stream);
    let mode = settings.config.session.busy;
    let (text, context, attachments, deliver) = (ask.text, ask.context, Vec::new(), None);
    let draft = Draft { who, text, context, attachments, deliver, mode, key };
    // An ephemeral message waits in memory.
    let bytes = draft.text.len() + draft.context.as_ref().map_or(0, String::len);
    lease.shrink(if durable { 0 } else { bytes });
    // The connection is lent to the reply, and its socket watched meanwhile.
    let client = connection.watch().map_err(|e| ApiError::out_of_resources(&e))?;
    let exchange = Exchange { connection, request, service, proof };
    let mut answer = ReplyWriter::new(exchange, &mut *encoder, stream);
    let run = if durable { run_durable } else { run_ephemeral };
    let failed = match run(service, draft, client.as_fd(), &mut answer) {
        Ok(()) => None,
        Err(HandlerError::Api(problem)) => Some(problem),
        Err(HandlerError::Closed(why)) => Some(answer.refused.take().ok_or(why)?),
    };
    Ok(answer.finish(failed.as_ref())?)
}

/// Waits for its turn and runs it, for this connection alone.
fn run_ephemeral(
    service: &Service,
    draft: Draft,
    client: BorrowedFd<'_>,
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
