//! `/v1/sessions`: sessions are listed, shown, reset, and followed as server-sent events.

use std::{cell::RefCell, io, os::fd::AsFd, time::Instant};

use super::auth::Authenticated;
use super::buffers::Lease;
use super::cors::page;
use super::error::{ApiError, Handled, HandlerError, bad, bad_field};
use super::messages::word_of;
use super::request::{
    Body, LAST_EVENT_ID, Query, is_named, json_body, owner_in, owner_of, principal_of,
};
use super::response::sse_head;
use super::service::{Exchange, Service};
use super::tickets::{TICKET_VALID, bound_to};
use crate::escape::quoted;
use crate::http::{Closed, Stage, Stream, number, sse};
use crate::json::{self, text_or_null};
use crate::limits::{KEEP_ALIVE, MAX_LISTED, WRITE_CHUNK};
use crate::session::{Digest, Id, Owner, Session, TurnState, Watch, now, rfc3339, session_digest};
use crate::stored_text::PLACEHOLDER;
use crate::sys::fd::EventFd;
use crate::sys::poll::{Interest, wait_any};

/// A session as JSON; `more`: members of it as JSON.
fn row(session: &Session, more: &str) -> String {
    let Session { owner: who, running, queued, transcript_bytes } = session;
    format!(
        r#"{{"session":{},"principal":{},"running":{},"queued":{queued},"transcript_bytes":{transcript_bytes}{more}}}"#,
        text_or_null(who.session.as_deref()),
        quoted(&who.principal),
        text_or_null(running.map(|id| id.to_string()).as_deref()),
    )
}

/// `GET /v1/sessions`: a page, in the order of their keys.
pub fn list(exchange: Exchange<'_>, _: &str) -> Handled {
    let Exchange { request, service, proof, .. } = exchange;
    let query = Query::parse(request, "after, limit, principal")?;
    let (named, limit) = (principal_of(proof, &query)?, query.limit(MAX_LISTED, MAX_LISTED)?);
    // Of several principals a session's place in the list is told by both names.
    let place = |who: &Owner| {
        let key = who.session.clone().unwrap_or_default();
        if who.principal == named { key } else { format!("{} {key}", who.principal) }
    };
    // Empty for the first page.
    let after = query.text("after").unwrap_or_default();
    let wanted = |who: &Owner| *place(who) > *after && proof.sees(who);
    // While it is put together: a name is short.
    let mut lease = exchange.lease();
    lease.grow(limit << 10)?;
    let whose = |principal: &str| is_named(named, principal);
    let (sessions, has_more) = service.hub.sessions(&whose, &wanted, limit).map_err(|e| {
        ApiError::new(503, "unavailable", format!("The sessions cannot be listed: {e}."))
    })?;
    let rows = json::list(&mut sessions.iter().map(|session| row(session, "")));
    let last = sessions.last().filter(|_| has_more);
    let next = text_or_null(last.map(|session| place(&session.owner)).as_deref());
    let body = format!(r#"{{"sessions":{rows},"has_more":{has_more},"next":{next}}}"#);
    drop((rows, lease));
    exchange.json(body)
}

/// `GET /v1/sessions/{session}`.
pub fn get(exchange: Exchange<'_>, session: &str) -> Handled {
    let hub = &exchange.service.hub;
    let query = Query::parse(exchange.request, "principal")?;
    let who = owner_in(exchange.proof, &query, session)?;
    let unknown = || ApiError::new(404, "not_found", "There is no such session.");
    let found = hub.session(&who).ok_or_else(unknown)?;
    let (messages, open) = (hub.messages_of(&who), hub.open_approvals(&|owner| *owner == who));
    // While it is put together.
    let mut lease = exchange.lease();
    lease.grow(messages.len() << 8)?;
    let shown = |(id, turn): &(Id, TurnState)| {
        format!(r#"{{"id":"{id}","status":"{}"}}"#, word_of(*id, *turn, &open))
    };
    let messages = json::list(&mut messages.iter().map(shown));
    let body = row(&found, &format!(r#","messages":{messages}"#));
    drop((messages, lease));
    exchange.json(body)
}

/// `DELETE /v1/sessions/{session}`: what runs and waits is cancelled, what was said forgotten.
pub fn reset(exchange: Exchange<'_>, session: &str) -> Handled {
    let query = Query::parse(exchange.request, "principal")?;
    let who = owner_in(exchange.proof, &query, session)?;
    let why = format!("the session was reset by {}", exchange.proof.principal());
    let count = exchange.service.hub.reset(&who, &why)?;
    exchange.json(format!(r#"{{"cancelled":{count},"session":{}}}"#, quoted(session)))
}

/// The parameters of an event stream.
pub const EVENTS: &str = "after, follow, principal, ticket";

/// `POST /v1/tickets`: a ticket for the events of a session.
pub fn ticket(mut exchange: Exchange<'_>, _: &str) -> Handled {
    let (body, _lease) = json_body(&mut exchange)?;
    let Exchange { connection, service, proof, .. } = &exchange;
    let session = Body::strict(&body, "session")?.text("session")?;
    let session = session.ok_or_else(|| bad_field("session", "must be a session's key"))?;
    owner_of(proof, Some(&session))?;
    let bound = bound_to(&session, page(&connection.extra));
    let issued = service.tickets.issue(&proof.0, bound, Instant::now());
    let ticket =
        issued.map_err(|e| ApiError::new(503, "unavailable", format!("No random bytes: {e}.")))?;
    let until = rfc3339(now() + TICKET_VALID.as_secs() * 1000);
    exchange.json(format!(r#"{{"ticket":"{ticket}","expires_at":"{until}"}}"#))
}

/// `GET /v1/sessions/{session}/events`. What is durable has the number of its record as id, so that
/// `Last-Event-ID` goes on behind it, in this process or a later one; the chunks of a running turn
/// have none.
pub fn events(exchange: Exchange<'_>, session: &str) -> Handled {
    let Exchange { connection, request, service, proof } = exchange;
    let query = Query::parse(request, EVENTS)?;
    let who = owner_in(proof, &query, session)?;
    // A ticket is for a session of its own principal.
    if who.principal != proof.principal() && query.text("ticket").is_some() {
        return Err(bad_field("principal", "does not go with a ticket").into());
    }
    let once = match query.text("follow") {
        None | Some("true") => false,
        Some("false") => true,
        Some(_) => return Err(bad_field("follow", "takes true or false").into()),
    };
    let wrong = || bad("Last-Event-ID takes the id of an event.");
    let last = request.header(LAST_EVENT_ID).map(|id| number(id).ok_or_else(wrong)).transpose()?;
    // A page cannot set the field.
    let last = last.or(query.number("after", &(0..=u64::MAX))?);
    let session = session_digest(&who.principal, session);
    let short = |e| ApiError::new(503, "unavailable", format!("No descriptor: {e}."));
    let follow = service.hub.follow(session).map_err(short)?;
    // After an id of a journal that was removed there would be no events.
    let newest = service.hub.journal_size().1;
    let after = last.unwrap_or(newest).min(newest);
    let streaming = Stage::Streaming(Instant::now());
    connection.activity.iter().for_each(|activity| activity.enter(streaming));
    let mut stream = connection.start_stream(request, sse_head())?;
    stream.send(b": hello\n\n")?;
    let mut events = EventStream { service, proof, session, after, running: None };
    loop {
        follow.clear();
        let sent = events.records(&mut stream).and_then(|()| events.chunks(&mut stream));
        // Nothing more is sent once the key is revoked.
        if stream.is_revoked() || (sent.is_ok() && (once || service.hub.are_waits_over())) {
            return Ok(stream.finish()?);
        }
        sent?;
        let chunk = events.running.as_ref().map(|running| running.watch.event.as_fd());
        let interests = [
            Interest::read(follow.as_fd()),
            Interest::read(chunk),
            Interest::hangup(stream.as_fd()),
        ];
        match wait_any(interests, Some(KEEP_ALIVE))? {
            [.., true] => return Err(HandlerError::client_gone()),
            [false, false, false] => stream.send(b": still here\n\n")?,
            [..] => {}
        }
    }
}

/// One event stream.
struct EventStream<'a> {
    service: &'a Service,
    proof: &'a Authenticated,
    session: Digest,
    /// The last record that was sent.
    after: u64,
    running: Option<Running>,
}

/// The turn whose chunks are sent.
struct Running {
    id: Id,
    watch: Watch,
    attempt: u32,
    offset: usize,
    /// So many of its live events.
    shown: usize,
}

impl EventStream<'_> {
    fn records(&mut self, stream: &mut Stream<'_>) -> Result<(), Closed> {
        let mut sent = Ok(());
        let (mut out, lease) =
            (Vec::new(), RefCell::new(Lease::new(&self.service.buffers, self.proof.principal())));
        let grow = |bytes: usize| {
            let grown = lease.borrow_mut().grow(bytes);
            grown.map_err(|p| io::Error::new(io::ErrorKind::OutOfMemory, p.0.message))
        };
        self.after = self.service.hub.records_of(
            self.session,
            self.after,
            &mut |length| grow(usize::try_from(4 * length).unwrap_or(usize::MAX)).map(drop),
            &mut |number, record, text| {
                out.clear();
                let (word, mut data) = (record.word(), record.without_digests().to_json());
                if text.is_some() {
                    data =
                        data.replacen(r#""reply":"""#, &format!(r#""reply":"{PLACEHOLDER}""#), 1);
                }
                sse::write_event(&mut out, word, &number.to_string(), &data);
                // The record, its JSON, the event, a chunk with it.
                let buffers = text.as_ref().map_or(4 * out.len(), |_| 2 * WRITE_CHUNK);
                sent = grow(buffers).and_then(|_| stream.send_with(&out, text.as_ref()));
                sent.is_ok()
            },
        )?;
        Ok(sent?)
    }

    fn chunks(&mut self, stream: &mut Stream<'_>) -> Result<(), Closed> {
        let now = self.service.hub.running_in(self.session);
        if self.running.as_ref().map(|running| running.id) != now {
            self.running = now.and_then(|id| {
                let watch = self.service.hub.watch(id, EventFd::new().ok()?)?;
                Some(Running { id, watch, attempt: 0, offset: 0, shown: 0 })
            });
        }
        let Some(running) = &mut self.running else { return Ok(()) };
        running.watch.event.clear();
        let mut out = Vec::new();
        loop {
            let Running { id, attempt, offset, shown, .. } = running;
            let seen = running.watch.reply.snapshot_with_events(*attempt, *offset, *shown);
            if seen.attempt != *attempt {
                (*attempt, *offset) = (seen.attempt, 0);
            }
            for piece in sse::chunks(&seen.text) {
                out.clear();
                let text = quoted(piece);
                let data = format!(
                    r#"{{"id":"{id}","attempt":{attempt},"offset":{offset},"text":{text}}}"#
                );
                sse::write_event(&mut out, "delta", "", &data);
                stream.send(&out)?;
                *offset += piece.len();
            }
            if let Some(event) = seen.event {
                out.clear();
                sse::write_event(&mut out, event.word, "", &event.json);
                stream.send(&out)?;
            }
            *shown = seen.seen;
            if !seen.more {
                return Ok(());
            }
        }
    }
}
