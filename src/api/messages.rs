//! `/v1/messages` and `/v1/dead-letters`: durable messages are accepted, shown, waited for, cancelled and
//! retried.

use std::{os::fd::AsFd, sync::Arc, time::Duration};

use super::attachments::Attachments;
use super::auth::Authenticated;
use super::buffers::parse_lock;
use super::error::{ApiError, Handled, bad, bad_field};
use super::request::{
    Body, Query, SESSION, idempotency_key, is_named, json_body, owner_of, principal_of,
    session_header, wait_of,
};
use super::response::{self, mark_replayed};
use super::service::{Exchange, Service};
use crate::config::{Busy, ClientKey, EnumSetting};
use crate::http::{Response, number};
use crate::journal::record::{Fact, Origin};
use crate::json::{self, object, text_or_null};
use crate::limits::{MAX_LISTED, MAX_LISTED_BYTES, MAX_WAIT};
use crate::session::{
    Command, DeliveryState, Draft, Entry, Hub, Id, Message, OpenApproval, Refusal, Submitted,
    TurnState, now, rfc3339,
};
use crate::sys::clock::parse_rfc3339;

/// The fields of a message.
const FIELDS: &str = "text, session, mode, deliver, to, attachments";

/// `POST /v1/messages`.
pub fn post(exchange: Exchange<'_>, _: &str) -> Handled {
    accept(exchange, None)
}

/// `POST /v1/sessions/{session}/messages`.
pub fn post_to_session(exchange: Exchange<'_>, session: &str) -> Handled {
    accept(exchange, Some(session))
}

fn accept(mut exchange: Exchange<'_>, session: Option<&str>) -> Handled {
    let (body, mut lease) = json_body(&mut exchange)?;
    let Exchange { connection, request, service, proof } = &exchange;
    let busy = service.settings().config.session.busy;
    let wait = wait_of(request)?;
    let parsing = parse_lock(proof, &body);
    let mut draft = parse(&body, (session, service.refuses_files()), proof, busy)?;
    match (session_header(request), draft.who.session.as_deref()) {
        (Some(header), None) => draft.who = owner_of(proof, Some(header))?,
        (Some(header), Some(session)) if header != session => {
            let message = format!("{SESSION} names another session than the path or the body.");
            return Err(bad(message).into());
        }
        _ => {}
    }
    drop(parsing);
    check_target(service, proof, &mut draft)?;
    draft.key = idempotency_key(request, proof, &body)?;
    drop(body);
    // What is not stored yet is held in memory.
    lease.shrink(draft.files.iter().map(|file| file.data.len()).sum());
    let (session, mode) = (draft.who.session.clone(), draft.mode);
    let (id, position, interrupted, known) = match submit(service, draft)? {
        Submitted::New { id, position, interrupted } => (id, position, interrupted, false),
        Submitted::Known(id) => (id, 1, None, true),
    };
    drop(lease);
    let _pinned = service.hub.pin_reply(id);
    if wait > Duration::ZERO || known || position == 0 {
        match service.hub.wait(id, connection.as_fd(), wait) {
            Ok(over) if known || over => {
                let status = if over { 200 } else { 202 };
                let shown = find(service, proof, &id.to_string()).map(|it| whole(status, it));
                let response = shown.unwrap_or_else(|problem| problem.response());
                return exchange.respond(mark_replayed(response, known));
            }
            // A client that closed only its own side still reads.
            Ok(_) => {}
            // It is accepted all the same.
            Err(e) => log::warn!("message {id} cannot be waited for: {e}"),
        }
    }
    let (begun, at) = service.hub.progress_of(id).unwrap_or((true, now()));
    let body = object!(
        "id": id.to_string(), "session": session,
        "status": if begun { "running" } else { "queued" }, "position": position,
        "mode": mode.word(), "interrupted": interrupted.map(|id| id.to_string()),
        "created_at": rfc3339(at),
    );
    exchange.respond(response::json(202, body.to_string()))
}

/// Rejects a delivery target that the key may not name, or that there is not; and on a channel a conversation
/// that is on none of its lists.
fn check_target(
    service: &Service,
    proof: &Authenticated,
    draft: &mut Draft,
) -> Result<(), ApiError> {
    let Some(target) = draft.deliver.as_deref() else {
        let misplaced = draft.origin.as_ref().map(|_| bad_field("to", "goes with \"deliver\""));
        return misplaced.map_or(Ok(()), Err);
    };
    let ClientKey { name, targets, .. } = &*proof.0;
    if !proof.0.may_name(target) {
        let message = format!(
            "The key of {name} may not name the target {target:?}; keys.{name}.targets in the \
             configuration lists those that it may: {targets:?}."
        );
        return Err(ApiError::new(403, "target_not_allowed", message));
    }
    let config = &service.settings().config;
    let unknown = |words: &str| Err(ApiError::new(400, "unknown_target", words));
    match (config.channel.get(target), &mut draft.origin) {
        (None, _) if config.deliver.get(target).is_none() => unknown(&format!(
            "There is no target {target:?}: the configuration has no such [deliver.NAME] or \
             [channel.NAME]."
        )),
        (None, Some(_)) => Err(bad_field("to", "is for channels")),
        (None, None) => Ok(()),
        (Some(channel), None) if channel.home.is_empty() => {
            unknown(&format!("channel.{target} has no home: say where to, in \"to\"."))
        }
        (Some(_), None) => Ok(()),
        (Some(channel), Some(origin)) => {
            let to = &origin.conversation;
            let paired =
                || service.hub.facts_of(target, Fact::Paired).iter().any(|(id, _)| id == to);
            if !channel.listed().contains(&to.as_str()) && !paired() {
                let message = format!("Nobody on the lists of channel.{target} is called {to:?}.");
                return Err(ApiError::new(403, "target_not_allowed", message));
            }
            origin.group = channel.groups.contains(to);
            Ok(())
        }
    }
}

/// Submits a message, or runs the slash command that it is.
pub fn submit(service: &Service, draft: Draft) -> Result<Submitted, ApiError> {
    let command = draft.who.session.as_ref().and_then(|_| Command::parse(&draft.text));
    if command.is_some() && !draft.files.is_empty() {
        return Err(bad_field("attachments", "cannot have files beside a slash command"));
    }
    Ok(match command {
        Some(command) => service.hub.command(command, draft),
        None => service.hub.submit(draft),
    }?)
}

/// `GET /v1/messages/{id}`.
pub fn get(exchange: Exchange<'_>, id: &str) -> Handled {
    let wait = wait_of(exchange.request)?;
    let message = find(exchange.service, exchange.proof, id)?;
    let wait = if message.entry.turn.is_over() { Duration::ZERO } else { wait };
    show(exchange, message, wait)
}

/// Shows a message, after its end or a time.
fn show(exchange: Exchange<'_>, mut message: Message, wait: Duration) -> Handled {
    let Exchange { connection, service, proof, .. } = &exchange;
    let id = message.id;
    let _pinned = service.hub.pin_reply(id);
    if wait > Duration::ZERO {
        if let Err(e) = service.hub.wait(id, connection.as_fd(), wait) {
            log::warn!("message {id} cannot be waited for: {e}");
        }
        message = find(service, proof, &id.to_string())?;
    }
    exchange.respond(whole(200, message))
}

/// `DELETE /v1/messages/{id}`: cancels it, and waits for a running agent to end.
pub fn cancel(exchange: Exchange<'_>, id: &str) -> Handled {
    let why = format!("cancelled by {}", exchange.proof.principal());
    change(exchange, id, MAX_WAIT, &|hub, id| hub.cancel(id, &why))
}

/// What a list of messages may be asked for as `status`.
const STATUSES: &str = "queued, running, waiting, done, failed, cancelled";

/// `GET /v1/messages`.
pub fn list(exchange: Exchange<'_>, _: &str) -> Handled {
    let all = "session, principal, status, since, after, limit";
    let query = Query::parse(exchange.request, all)?;
    let session = query.text("session");
    session.map_or(Ok(()), |it| owner_of(exchange.proof, Some(it)).map(drop))?;
    let named = principal_of(exchange.proof, &query)?;
    let status = query.text("status");
    if status.is_some_and(|status| !STATUSES.split(", ").any(|known| known == status)) {
        return Err(bad_field("status", &format!("takes one of {STATUSES}")).into());
    }
    let time =
        |text| millis_of(text).ok_or_else(|| bad_field("since", "takes a time that ends in Z"));
    let since = query.text("since").map(time).transpose()?.unwrap_or(0);
    let open = status.map_or(Vec::new(), |_| exchange.service.hub.open_approvals(&|_| true));
    page(exchange, "messages", &query, &|id, entry| {
        is_named(named, &entry.owner.principal)
            && session.is_none_or(|session| entry.owner.session.as_deref() == Some(session))
            && status.is_none_or(|status| word_of(id, entry.turn, &open) == status)
            && entry.at >= since
    })
}

/// The state of a message as the API calls it, where these are the open questions.
pub fn word_of(id: Id, turn: TurnState, open: &[OpenApproval]) -> &'static str {
    if open.iter().any(|it| it.message == id) { "waiting" } else { turn.word() }
}

/// `GET /v1/dead-letters`.
pub fn dead_letters(exchange: Exchange<'_>, _: &str) -> Handled {
    let query = Query::parse(exchange.request, "after, limit")?;
    let is_dead = |_, entry: &Entry| entry.delivery_state() == Some(DeliveryState::Dead);
    page(exchange, "dead_letters", &query, &is_dead)
}

/// Milliseconds since 1970 of a time as the gateway writes it.
fn millis_of(text: &str) -> Option<u64> {
    let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction.trim_end_matches('Z'));
    let seconds = u64::try_from(parse_rfc3339(text)?).ok()?;
    Some(seconds * 1000 + number(format!("{fraction:0<3.3}").as_bytes())?)
}

/// A page of messages of the principal's, newest first.
fn page(
    exchange: Exchange<'_>,
    name: &str,
    query: &Query,
    wanted: &dyn Fn(Id, &Entry) -> bool,
) -> Handled {
    let Exchange { service, proof, .. } = exchange;
    let id = |text| Id::parse(text).ok_or_else(|| bad_field("after", "takes a message's id"));
    let after = query.text("after").map(id).transpose()?;
    // While it is put together.
    let mut lease = exchange.lease();
    lease.grow(MAX_LISTED_BYTES)?;
    let wanted = |id, entry: &Entry| proof.sees(&entry.owner) && wanted(id, entry);
    let (found, next) = service.hub.list(&wanted, after, query.limit(MAX_LISTED, MAX_LISTED)?)?;
    let all = json::list(&mut found.iter().map(Message::to_json));
    let next = text_or_null(next.map(|id| id.to_string()).as_deref());
    let body = format!(r#"{{"{name}":{all},"has_more":{},"next":{next}}}"#, next != "null");
    drop((all, lease));
    let mut long = found.into_iter().filter_map(|message| message.long);
    let response = response::json(200, body).extents(&mut long);
    // It holds what no place was taken for.
    drop(long);
    exchange.respond(response)
}

/// `POST /v1/messages/{id}/retry`.
pub fn retry(exchange: Exchange<'_>, id: &str) -> Handled {
    change(exchange, id, Duration::ZERO, &Hub::retry)
}

/// `POST /v1/dead-letters/{id}/retry`.
pub fn deliver_again(exchange: Exchange<'_>, id: &str) -> Handled {
    change(exchange, id, Duration::ZERO, &|hub, id| hub.revive(id))
}

/// `DELETE /v1/dead-letters/{id}`.
pub fn drop_letter(exchange: Exchange<'_>, id: &str) -> Handled {
    change(exchange, id, Duration::ZERO, &|hub, id| hub.drop_dead_letter(id))
}

type Change<'a> = &'a dyn Fn(&Arc<Hub>, Id) -> Result<(), Refusal>;

/// Changes a message, and shows it once it is over, or after `wait`.
fn change(exchange: Exchange<'_>, id: &str, wait: Duration, change: Change<'_>) -> Handled {
    let Exchange { service, proof, .. } = exchange;
    change(&service.hub, find(service, proof, id)?.id)?;
    let message = find(service, proof, id)?;
    show(exchange, message, wait)
}

/// The message of this id, which is invisible to other principals.
pub fn find(service: &Service, proof: &Authenticated, id: &str) -> Result<Message, ApiError> {
    let unknown =
        || ApiError::new(404, "not_found", "There is no message with this ID (any more).");
    let id = Id::parse(id).ok_or_else(unknown)?;
    let found = service.hub.message(id)?;
    let message = found.filter(|message| proof.sees(&message.entry.owner)).ok_or_else(unknown)?;
    if message.entry.erased { Err(Refusal::Erased.into()) } else { Ok(message) }
}

/// Parses the body of a message, for the session in its path. `refuses_files`: why none are taken.
pub(super) fn parse(
    body: &[u8],
    (session, refuses_files): (Option<&str>, Option<&str>),
    proof: &Authenticated,
    busy: Busy,
) -> Result<Draft, ApiError> {
    let body = Body::strict(body, FIELDS)?;
    let said = body.text("text")?.filter(|text| !text.is_empty());
    let said = said.ok_or_else(|| bad("\"text\" must be text, and not empty."))?.into_owned();
    let named = body.text("session")?;
    if session.is_some() && named.is_some() {
        return Err(bad("The session is in the path already."));
    }
    let mut mode = busy;
    if body.text("mode")?.is_some_and(|word| !mode.choose(&word)) {
        return Err(bad("\"mode\" must be \"queue\" or \"interrupt\"."));
    }
    let attached = Attachments::of_list(body.raw("attachments"), refuses_files)?;
    let to = body.text("to")?;
    Ok(Draft {
        who: owner_of(proof, session.or(named.as_deref()))?,
        text: said,
        context: None,
        attachments: attached.references,
        files: attached.files,
        deliver: body.text("deliver")?.map(Into::into),
        origin: to.map(|to| Box::new(Origin { conversation: to.into(), ..Origin::default() })),
        mode,
        attended: false,
        key: None,
    })
}

/// A message as JSON; a long reply is sent from its file.
fn whole(status: u16, message: Message) -> Response {
    response::json(status, message.to_json()).extents(&mut message.long.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &str, session: Option<&str>) -> Result<Draft, String> {
        let owner = Authenticated(Arc::new(ClientKey::new("owner")));
        parse(body.as_bytes(), (session, None), &owner, Busy::Queue)
            .map_err(|problem| problem.0.message)
    }

    #[test]
    fn members_of_a_message_are_checked() {
        let body = r#"{"text":"hi","mode":"interrupt","deliver":"out","attachments":["a"]}"#;
        let draft = text(body, Some("s")).unwrap();
        assert_eq!((draft.text.as_str(), draft.mode), ("hi", Busy::Interrupt));
        assert_eq!((draft.deliver.as_deref(), draft.attachments), (Some("out"), vec!["a".into()]));
        assert_eq!(draft.who.session.as_deref(), Some("s"));
        let draft = text(r#"{"text":"hi","session":"a b","mode":null}"#, None).unwrap();
        assert_eq!(draft.who.session.as_deref(), Some("a b"));
        assert_eq!(text(r#"{"text":"hi"}"#, None).unwrap().who.session, None);
    }

    #[test]
    fn a_time_has_three_digits_of_its_fraction() {
        for (text, millis) in [
            ("1970-01-01T00:00:01Z", Some(1000)),
            ("1970-01-01T00:00:01.5Z", Some(1500)),
            ("1970-01-01T00:00:01.0049Z", Some(1004)),
            ("2026-11-29T15:36:05.910Z", Some(1_795_966_565_910)),
            ("1970-01-01T00:00:01.xZ", None),
            ("1970-01-01T00:00:01", None),
            ("1970-01-01", None),
            ("1969-01-01T00:00:00Z", None),
        ] {
            assert_eq!(millis_of(text), millis, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = format!(r#"{{"text":"x","session":"{}"}}"#, "x".repeat(257));
        for (body, session, word) in [
            ("", None, "not JSON"),
            ("[]", None, "object"),
            ("{}", None, "text"),
            (r#"{"text":""}"#, None, "empty"),
            (r#"{"text":1}"#, None, "\"text\" must be text"),
            (r#"{"text":"x","txt":1}"#, None, "\"txt\""),
            (r#"{"text":"x","mode":"x"}"#, None, "interrupt"),
            (r#"{"text":"x","session":"y"}"#, Some("z"), "path"),
            (r#"{"text":"x","session":""}"#, None, "256"),
            (r#"{"text":"x","session":"a\nb"}"#, None, "256"),
            (r#"{"text":"x","attachments":"y"}"#, None, "list"),
            (r#"{"text":"x","attachments":[1]}"#, None, "list"),
            (long.as_str(), None, "256"),
        ] {
            let error = text(body, session).unwrap_err();
            assert!(error.contains(word), "{body}: {error}");
        }
    }
}
