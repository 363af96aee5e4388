//! Sessions: listed, looked at, reset, and followed as server-sent events.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;

use super::auth::Authenticated;
use super::buffers::Lease;
use super::chat_request::bad;
use super::error::ApiError;
use super::messages::{check_session, json, parameter};
use super::reply_writer::sse_head;
use super::{Exchange, Service};
use crate::extent::PLACE;
use crate::http::{Closed, Request, Response, SLASH, Stream, decode, sse};
use crate::limits::{KEEP_ALIVE, MAX_LISTED, MAX_PIECE, WRITE_PIECE};
use crate::session::{Digest, Id, Owner, Session, Watch, session_digest};
use crate::sys::fd::EventFd;
use crate::sys::poll::{Interest, poll};
use crate::text::quoted;

/// This session of the principal, if it may touch it. The key is no file name and goes into none.
pub fn owner_of(proof: &Authenticated, session: &str) -> Result<Owner, ApiError> {
    check_session(session)?;
    proof.check_session(session)?;
    let principal = proof.principal().to_owned();
    Ok(Owner::new(principal, Some(session.to_owned())))
}

/// `GET /v1/sessions[?after=SESSION]`: a page, in the order of their keys.
pub fn list(exchange: &Exchange<'_>) -> Result<Response, ApiError> {
    let Exchange { request, service, proof, .. } = exchange;
    let after = after(request)?;
    let wanted = |session: &str| session > after.as_str() && proof.check_session(session).is_ok();
    // While it is put together: a name is short.
    let mut lease = Lease::of(service, proof);
    lease.grow(service, MAX_LISTED << 10)?;
    let (sessions, more) = service.hub.sessions(proof.principal(), &wanted).map_err(|e| {
        ApiError::new(503, "unavailable", format!("The sessions cannot be listed: {e}."))
    })?;
    let sessions: Vec<String> = sessions.iter().map(|s| format!("{{{}}}", fields(s))).collect();
    Ok(json(200, format!(r#"{{"sessions":[{}],"has_more":{more}}}"#, sessions.join(","))))
}

/// The key of the session behind which a page begins; empty for the first page.
fn after(request: &Request) -> Result<String, ApiError> {
    let words = "A list of sessions takes one parameter: after=SESSION, percent-encoded.";
    let text = parameter(request, "after=", words)?.unwrap_or_default().replace('+', "%20");
    let decoded = decode(&text).map_err(|_| bad(words))?;
    Ok(decoded.unwrap_or(text).replace(SLASH, "/"))
}

/// `GET /v1/sessions/{session}`.
pub fn get(service: &Service, proof: &Authenticated, session: &str) -> Result<Response, ApiError> {
    let who = owner_of(proof, session)?;
    let unknown = || ApiError::new(404, "not_found", "There is no session of this key.");
    let found = service.hub.session(&who).ok_or_else(unknown)?;
    let messages = service.hub.messages_of(&who);
    // While it is put together.
    let mut lease = Lease::of(service, proof);
    lease.grow(service, messages.len() << 8)?;
    let messages: Vec<String> = messages
        .iter()
        .map(|(id, turn)| format!(r#"{{"id":"{id}","status":"{}"}}"#, turn.word()))
        .collect();
    Ok(json(200, format!(r#"{{{},"messages":[{}]}}"#, fields(&found), messages.join(","))))
}

/// `DELETE /v1/sessions/{session}`: what runs and waits is cancelled, what was said forgotten.
pub fn reset(
    service: &Service,
    proof: &Authenticated,
    session: &str,
) -> Result<Response, ApiError> {
    let who = owner_of(proof, session)?;
    let why = format!("the session was reset by {}", proof.principal());
    let count = service.hub.reset(&who, &why)?;
    Ok(json(200, format!(r#"{{"session":{},"cancelled":{count}}}"#, quoted(session))))
}

fn fields(session: &Session) -> String {
    format!(
        r#""session":{},"principal":{},"running":{},"queued":{},"transcript_bytes":{}"#,
        session.who.session.as_deref().map_or_else(|| "null".to_owned(), quoted),
        quoted(&session.who.principal),
        session.running.map_or_else(|| "null".to_owned(), |id| format!("\"{id}\"")),
        session.queued,
        session.transcript_bytes,
    )
}

/// `GET /v1/sessions/{session}/events`. What is durable has the number of its record as id, so that
/// `Last-Event-ID` goes on behind it, in this process or a later one; the pieces of a running turn
/// have none.
pub fn events(exchange: Exchange<'_>, session: &str) -> Result<(), Closed> {
    let Exchange { connection, request, service, proof } = exchange;
    let begun = owner_of(proof, session).and_then(|who| {
        let last = last_event(request)?;
        let short = |e| ApiError::new(503, "unavailable", format!("No descriptor: {e}."));
        let session = session_digest(&who.principal, session);
        Ok((session, last, service.hub.follow(session).map_err(short)?))
    });
    let (session, last, follow) = match begun {
        Ok(begun) => begun,
        Err(problem) => return connection.respond(request, problem.response()),
    };
    // An id from a journal that is no more would mean silence.
    let newest = service.hub.journal_size().1;
    let after = last.unwrap_or(newest).min(newest);
    connection.seat.iter().for_each(|seat| seat.set_streaming());
    let mut stream = connection.start_stream(request, sse_head())?;
    stream.send(b": hello\n\n")?;
    let mut telling = EventStream { service, proof, session, after, running: None };
    loop {
        follow.event.clear();
        let told = telling.records(&mut stream).and_then(|()| telling.chunks(&mut stream));
        // A key that was taken away is told nothing more.
        if stream.is_revoked() {
            return Ok(stream.finish()?);
        }
        told?;
        if service.hub.is_draining() {
            return Ok(stream.finish()?);
        }
        let piece = telling.running.as_ref().map(|running| running.watch.event.as_fd());
        let mut interests = [
            Interest::read(follow.event.as_fd()),
            piece.map_or_else(Interest::none, Interest::read),
            Interest::hangup(stream.as_fd()),
        ];
        let ready = poll(&mut interests, Some(KEEP_ALIVE))?;
        let [_, _, gone] = interests.map(|interest| interest.ready());
        if gone {
            return Err(Closed::Io(io::ErrorKind::ConnectionAborted.into()));
        }
        if ready == 0 {
            stream.send(b": still here\n\n")?;
        }
    }
}

fn last_event(request: &Request) -> Result<Option<u64>, ApiError> {
    let Some(id) = request.header("Last-Event-ID") else { return Ok(None) };
    let text = std::str::from_utf8(id).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    let number = text.and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| bad("Last-Event-ID takes the id of an event."))
}

/// One event stream.
struct EventStream<'a> {
    service: &'a Service,
    proof: &'a Authenticated,
    session: Digest,
    /// The last record that was told.
    after: u64,
    running: Option<Running>,
}

/// The turn whose pieces are told.
struct Running {
    id: Id,
    watch: Watch,
    attempt: u32,
    offset: usize,
}

impl EventStream<'_> {
    fn records(&mut self, stream: &mut Stream<'_>) -> Result<(), Closed> {
        let mut sent = Ok(());
        let (mut out, lease) = (Vec::new(), RefCell::new(Lease::of(self.service, self.proof)));
        let grow = |bytes: usize| {
            let grown = lease.borrow_mut().grow(self.service, bytes);
            grown.map_err(|p| io::Error::new(io::ErrorKind::OutOfMemory, p.message))
        };
        self.after = self.service.hub.records_of(
            self.session,
            self.after,
            &mut |length| grow(usize::try_from(4 * length).unwrap_or(usize::MAX)).map(drop),
            &mut |number, record, text| {
                out.clear();
                let (word, mut data) = (record.word(), record.without_digests().to_json());
                if text.is_some() {
                    data = data.replacen(r#""reply":"""#, &format!(r#""reply":"{PLACE}""#), 1);
                }
                sse::write_event(&mut out, word, &number.to_string(), &data);
                // The record, its JSON, the event, a chunk with it.
                let buffers = text.as_ref().map_or(4 * out.len(), |_| 2 * WRITE_PIECE);
                sent = grow(buffers).and_then(|_| stream.send_with(&out, text.as_ref()));
                sent.is_ok()
            },
        )?;
        Ok(sent?)
    }

    fn chunks(&mut self, stream: &mut Stream<'_>) -> Result<(), Closed> {
        let now = self.service.hub.running_in(self.session);
        if self.running.as_ref().map(|running| running.id) != now {
            let watch = now.and_then(|id| {
                let event = EventFd::new().ok()?;
                Some((id, self.service.hub.watch(id, event)?))
            });
            self.running = watch.map(|(id, watch)| Running { id, watch, attempt: 0, offset: 0 });
        }
        let Some(running) = &mut self.running else { return Ok(()) };
        running.watch.event.clear();
        let mut out = Vec::new();
        loop {
            let seen = running.watch.reply.snapshot(running.attempt, running.offset);
            if seen.attempt != running.attempt {
                (running.attempt, running.offset) = (seen.attempt, 0);
            }
            for piece in pieces(&seen.text) {
                out.clear();
                let data = format!(
                    r#"{{"id":"{}","attempt":{},"offset":{},"text":{}}}"#,
                    running.id,
                    running.attempt,
                    running.offset,
                    quoted(piece)
                );
                sse::write_event(&mut out, "delta", "", &data);
                stream.send(&out)?;
                running.offset += piece.len();
            }
            if !seen.more {
                return Ok(());
            }
        }
    }
}

/// A text in pieces that clients take for one event.
pub fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let most = MAX_PIECE.min(rest.len());
        let border = (0..=most).rev().find(|at| rest.is_char_boundary(*at))?;
        let (piece, after) = rest.split_at(border);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}
