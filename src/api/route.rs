//! Paths and methods, and the order of judgement before a handler runs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::auth::{Authenticated, Origin};
use super::error::ApiError;
use super::messages::json;
use super::{
    Exchange, Service, chat, cors, idempotency, messages, reload, responses, sessions, status, turn,
};
use crate::http::{Closed, Connection, Method, Request, Response, SLASH};
use crate::journal::Condition;
use crate::text::quoted;

/// How many of those may be messages that wait for their reply: the rest is for `status`.
const MAX_CONTROL_TURNS: usize = 48;

/// From then on requests are refused that would wait for the disk: until then it may be a slow one, such
/// as a memory card under load.
const DISK_HANGS: Duration = Duration::from_secs(5);

/// Header fields that we read and that may occur once; http/ has those that frame or let in.
const ONCE: [&str; 3] = [idempotency::SESSION, idempotency::HEADER, "Last-Event-ID"];

/// What a path stands for, with the ids and keys in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    Health,
    Ready,
    Chat,
    Responses,
    Response(&'a str),
    Models,
    Model(&'a str),
    Status,
    Messages,
    Message(&'a str),
    MessageRetry(&'a str),
    Sessions,
    Session(&'a str),
    SessionMessages(&'a str),
    SessionEvents(&'a str),
    DeadLetters,
    DeadLetter(&'a str),
    DeadLetterRetry(&'a str),
    Compact,
    /// On the control socket only.
    Reload,
}

impl<'a> Route<'a> {
    pub fn find(path: &'a str) -> Option<Route<'a>> {
        let one = |rest: &'a str| (!rest.is_empty() && !rest.contains('/')).then_some(rest);
        Some(match path {
            "/health" => Route::Health,
            "/ready" => Route::Ready,
            "/v1/chat/completions" => Route::Chat,
            "/v1/responses" => Route::Responses,
            "/v1/models" => Route::Models,
            "/v1/status" => Route::Status,
            "/v1/messages" => Route::Messages,
            "/v1/sessions" => Route::Sessions,
            "/v1/dead-letters" => Route::DeadLetters,
            "/v1/journal/compact" => Route::Compact,
            "/v1/reload" => Route::Reload,
            _ => {
                let (group, rest) = path.strip_prefix("/v1/")?.split_once('/')?;
                // A session's key may have slashes: what is last counts.
                match (group, rest.rsplit_once('/')) {
                    ("messages", Some((id, "retry"))) => Route::MessageRetry(one(id)?),
                    ("messages", _) => Route::Message(one(rest)?),
                    ("dead-letters", Some((id, "retry"))) => Route::DeadLetterRetry(one(id)?),
                    ("dead-letters", _) => Route::DeadLetter(one(rest)?),
                    ("responses", _) => Route::Response(one(rest)?),
                    ("models", _) => Route::Model(rest),
                    ("sessions", Some((session, "messages"))) => Route::SessionMessages(session),
                    ("sessions", Some((session, "events"))) => Route::SessionEvents(session),
                    ("sessions", _) if !rest.is_empty() => Route::Session(rest),
                    _ => return None,
                }
            }
        })
    }

    /// The methods that it takes, and what `[keys.NAME] routes` calls its group.
    fn about(self) -> (&'static str, &'static str) {
        match self {
            Route::Health | Route::Ready | Route::Models | Route::Model(_) => ("GET, HEAD", "chat"),
            Route::Chat | Route::Responses => ("POST", "chat"),
            Route::Response(_) => ("GET, HEAD, DELETE", "chat"),
            Route::Messages => ("GET, HEAD, POST", "messages"),
            Route::Message(_) | Route::Session(_) => ("GET, HEAD, DELETE", "messages"),
            Route::Sessions | Route::DeadLetters => ("GET, HEAD", "messages"),
            Route::MessageRetry(_) | Route::SessionMessages(_) | Route::DeadLetterRetry(_) => {
                ("POST", "messages")
            }
            Route::SessionEvents(_) => ("GET", "messages"),
            Route::DeadLetter(_) => ("DELETE", "messages"),
            Route::Status => ("GET, HEAD", "status"),
            Route::Compact => ("POST", "journal"),
            Route::Reload => ("POST", "status"),
        }
    }

    fn allows(self, method: Method) -> bool {
        self.about().0.split(", ").any(|allowed| Method::new(allowed) == method)
    }

    /// Whether it begins something, or may wait for it: not during a drain, and not on the last
    /// connections of the control socket.
    fn is_work(self, request: &Request) -> bool {
        let changes = matches!(request.method, Method::Post | Method::Delete);
        let waits = matches!(self, Route::Message(_)) && request.query().is_some();
        (changes && self != Route::Reload) || waits || matches!(self, Route::SessionEvents(_))
    }

    /// Whether its answer may take longer than moments.
    fn may_wait(self, request: &Request) -> bool {
        let waits = matches!(
            self,
            Route::Chat | Route::Responses | Route::SessionEvents(_) | Route::Compact
        );
        waits || self == Route::Reload || (self.is_work(request) && request.query().is_some())
    }
}

/// Answers one request.
pub fn answer(
    connection: &mut Connection,
    request: &Request,
    route: Option<Route<'_>>,
    origin: Origin,
    service: &Service,
) -> Result<(), Closed> {
    match admit(connection, request, route, origin, service) {
        Ok(Admitted::Open(response)) => connection.respond(request, response),
        Ok(Admitted::Known(route, proof)) => {
            handle(Exchange { connection, request, service, proof: &proof }, route)
        }
        Err(problem) => {
            let response = problem.response();
            let full = matches!(problem.code, "share_reached" | "overloaded");
            let close = full || problem.status == 429 || service.gate.is_closing();
            let response = match problem.status {
                401 => response.header("WWW-Authenticate", "Bearer"),
                _ => response,
            };
            connection.respond(request, if close { response.close() } else { response })
        }
    }
}

fn handle(exchange: Exchange<'_>, route: Route<'_>) -> Result<(), Closed> {
    let Exchange { request, service, proof, .. } = exchange;
    let deletes = request.method == Method::Delete;
    // A slash of the name itself came encoded.
    let plain = |name: &str| name.replace(SLASH, "/");
    let result = match route {
        Route::Chat => {
            return turn::serve(exchange, &|body, _, manner| chat::read(proof, body, manner));
        }
        Route::Responses => {
            return turn::serve(exchange, &|body, session, _| {
                responses::parse(service, proof, body, session)
            });
        }
        Route::Messages if request.method != Method::Post => messages::failed(&exchange),
        Route::MessageRetry(id) => messages::change(&exchange, id, |hub, id| hub.retry(id)),
        Route::Messages => return messages::post(exchange, None),
        Route::SessionMessages(name) => return messages::post(exchange, Some(&plain(name))),
        Route::SessionEvents(name) => return sessions::events(exchange, &plain(name)),
        Route::Message(id) if deletes => messages::cancel(&exchange, id),
        Route::Message(id) => messages::get(&exchange, id),
        Route::Models => Ok(status::models(service, proof)),
        Route::Model(name) => status::model(service, proof, &plain(name)),
        Route::Response(id) if deletes => responses::delete(service, proof, id),
        Route::Response(id) => responses::get(service, proof, id),
        Route::Sessions => sessions::list(&exchange),
        Route::Session(name) if deletes => sessions::reset(service, proof, &plain(name)),
        Route::Session(name) => sessions::get(service, proof, &plain(name)),
        Route::DeadLetters => messages::dead_letters(&exchange),
        Route::DeadLetter(id) => {
            messages::change(&exchange, id, |hub, id| hub.drop_dead_letter(id))
        }
        Route::DeadLetterRetry(id) => messages::change(&exchange, id, |hub, id| hub.revive(id)),
        Route::Compact => status::compact(service, proof),
        Route::Reload => reload::reload(service),
        Route::Health | Route::Ready | Route::Status => {
            let Exchange { connection, request, .. } = exchange;
            return connection.respond(request, status::status(service, proof));
        }
    };
    exchange.respond(result)
}

enum Admitted<'a> {
    /// Needs no key.
    Open(Response),
    Known(Route<'a>, Authenticated),
}

/// Judges what can be judged without the body. What there is at a path is told only to those who
/// have a key, but for the two paths that need none.
fn admit<'r>(
    connection: &mut Connection,
    request: &Request,
    route: Option<Route<'r>>,
    origin: Origin,
    service: &Service,
) -> Result<Admitted<'r>, ApiError> {
    let tcp = matches!(origin, Origin::Tcp(_));
    let route = route.filter(|route| !tcp || *route != Route::Reload);
    let asks_methods = request.method == Method::Options;
    let page = if tcp { cors::check(request, &service.settings().config.http)? } else { None };
    let from_page = page.is_some();
    connection.extra.extend(page.into_iter().flat_map(cors::fields));
    if asks_methods {
        return Ok(Admitted::Open(cors::options("GET, HEAD, POST, DELETE", from_page)));
    }
    if tcp && request.query().is_some_and(cors::has_key) {
        let message = "Keys do not belong into URLs, which end up in logs: send it as \
                       \"Authorization: Bearer KEY\", and take another key than this one.";
        return Err(ApiError::new(400, "key_in_url", message));
    }
    let is_work = route.is_some_and(|route| route.is_work(request));
    // During a drain the control socket still tells how it goes.
    if service.gate.is_closing() && (tcp || is_work) {
        return Err(ApiError::stopping());
    }
    if !tcp && is_work && service.control_connections.load(Ordering::SeqCst) > MAX_CONTROL_TURNS {
        let message = "Too many messages wait on the control socket.";
        return Err(ApiError::new(503, "overloaded", message));
    }
    let may_wait = route.is_some_and(|route| route.may_wait(request));
    if may_wait && matches!(origin, Origin::Control { spare: true, .. }) {
        let message = "The system has no thread for a request that waits; try again in a moment.";
        return Err(ApiError::new(503, "overloaded", message));
    }
    match route.filter(|route| route.allows(request.method)) {
        Some(Route::Health) => return Ok(Admitted::Open(json(200, r#"{"status":"ok"}"#.into()))),
        Some(Route::Ready) => {
            let shown = service.let_in(request, origin, None);
            let may_know = shown.is_ok_and(|proof| proof.opens("status"));
            return Ok(Admitted::Open(ready(service, may_know)));
        }
        Some(_) | None => {}
    }
    let proof = service.let_in(request, origin, connection.seat.as_deref())?;
    check_once(request)?;
    let Some(route) = route else {
        return Err(ApiError::new(404, "not_found", "There is nothing at this path."));
    };
    let (methods, group) = route.about();
    if !route.allows(request.method) {
        let message = format!("This method is not allowed here; allowed: {methods}.");
        let problem = ApiError::new(405, "method_not_allowed", message);
        return Ok(Admitted::Open(problem.response().header("Allow", methods)));
    }
    if !proof.opens(group) {
        let principal = proof.principal();
        let message = format!(
            "The key of {principal} does not open {group:?}; its role and routes stand in \
             [keys.{principal}]."
        );
        return Err(ApiError::new(403, "route_not_allowed", message));
    }
    if !matches!(route, Route::Status | Route::Models | Route::Model(_) | Route::Reload)
        && let Some(why) = service.hub.stalled(DISK_HANGS)
    {
        return Err(ApiError::new(503, "journal_unavailable", format!("Try again later: {why}.")));
    }
    Ok(Admitted::Known(route, proof))
}

/// Somebody in front may go by the first of two fields and we by the last, or the other way round.
fn check_once(request: &Request) -> Result<(), ApiError> {
    let count = |name: &str| {
        request.headers().filter(|(known, _)| known.eq_ignore_ascii_case(name)).count()
    };
    let Some(name) = ONCE.iter().find(|name| count(name) > 1) else { return Ok(()) };
    let message = format!("The header field {name} occurs more than once: send it once.");
    Err(ApiError::new(400, "repeated_header", message))
}

/// New durable work is taken, or why not. The reason names programs and files, which are no concern of everybody.
fn ready(service: &Service, may_know: bool) -> Response {
    if !service.ready.load(Ordering::SeqCst) || service.gate.is_closing() {
        return ApiError::stopping().response();
    }
    let why = match service.hub.condition() {
        Condition::Good => return json(200, r#"{"status":"ready"}"#.into()),
        Condition::Degraded(_) | Condition::Broken(_) if !may_know => {
            "a key that opens /v1/status is told the reason here and there".to_owned()
        }
        Condition::Degraded(why) | Condition::Broken(why) => why,
    };
    json(503, format!(r#"{{"status":"degraded","reason":{}}}"#, quoted(&why)))
}
