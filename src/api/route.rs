//! Paths and methods, and the order of judgement before a handler runs.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::auth::{Authenticated, Origin, authenticate, host_is_ours, origin_is_ours};
use super::error::Problem;
use super::{Service, chat, messages, responses, sessions, status};
use crate::http::{Closed, Connection, Method, Request, Response};
use crate::journal::Condition;

/// What a path stands for, with the ids and keys in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
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
    Sessions,
    Session(&'a str),
    SessionMessages(&'a str),
    SessionEvents(&'a str),
    DeadLetters,
    DeadLetter(&'a str),
    DeadLetterRetry(&'a str),
    Compact,
}

impl<'a> Route<'a> {
    fn find(path: &'a str) -> Option<Route<'a>> {
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
            _ => {
                if let Some(id) = path.strip_prefix("/v1/messages/") {
                    Route::Message(one(id)?)
                } else if let Some(id) = path.strip_prefix("/v1/responses/") {
                    Route::Response(one(id)?)
                } else if let Some(model) = path.strip_prefix("/v1/models/") {
                    Route::Model(model)
                } else if let Some(rest) = path.strip_prefix("/v1/dead-letters/") {
                    match rest.strip_suffix("/retry") {
                        Some(id) => Route::DeadLetterRetry(one(id)?),
                        None => Route::DeadLetter(one(rest)?),
                    }
                } else {
                    Route::in_session(path.strip_prefix("/v1/sessions/")?)?
                }
            }
        })
    }

    /// A session's key may have slashes: what is last counts.
    fn in_session(rest: &'a str) -> Option<Route<'a>> {
        let route = if let Some(session) = rest.strip_suffix("/messages") {
            Route::SessionMessages(session)
        } else if let Some(session) = rest.strip_suffix("/events") {
            Route::SessionEvents(session)
        } else {
            Route::Session(rest)
        };
        (!rest.is_empty()).then_some(route)
    }

    fn allowed(self) -> &'static str {
        match self {
            Route::Health
            | Route::Ready
            | Route::Models
            | Route::Model(_)
            | Route::Status
            | Route::Sessions
            | Route::DeadLetters => "GET, HEAD",
            Route::SessionEvents(_) => "GET",
            Route::Chat
            | Route::Responses
            | Route::Messages
            | Route::SessionMessages(_)
            | Route::DeadLetterRetry(_)
            | Route::Compact => "POST",
            Route::Message(_) | Route::Response(_) | Route::Session(_) => "GET, HEAD, DELETE",
            Route::DeadLetter(_) => "DELETE",
        }
    }

    fn allows(self, method: Method) -> bool {
        let name = match method {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Delete => "DELETE",
            Method::Put | Method::Patch | Method::Options | Method::Other => return false,
        };
        self.allowed().split(", ").any(|allowed| allowed == name)
    }

    /// Whether it begins something, or may wait for it: not during a drain, and not on the last
    /// connections of the control socket.
    fn is_work(self, request: &Request) -> bool {
        match self {
            Route::Chat
            | Route::Responses
            | Route::Messages
            | Route::SessionMessages(_)
            | Route::SessionEvents(_)
            | Route::DeadLetterRetry(_)
            | Route::DeadLetter(_)
            | Route::Compact => true,
            Route::Message(_) => request.query().is_some() || request.method == Method::Delete,
            Route::Session(_) | Route::Response(_) => request.method == Method::Delete,
            Route::Health
            | Route::Ready
            | Route::Models
            | Route::Model(_)
            | Route::Status
            | Route::Sessions
            | Route::DeadLetters => false,
        }
    }
}

/// Whether the answer is an event stream without an end.
pub fn is_stream(request: &Request) -> bool {
    matches!(Route::find(request.path()), Some(Route::SessionEvents(_)))
}

/// Answers one request.
pub fn answer(
    connection: &mut Connection,
    request: &Request,
    origin: Origin,
    service: &Service,
) -> Result<(), Closed> {
    match admit(request, origin, service) {
        Ok(Admitted::Open(Route::Health)) => connection.respond(request, status::health()),
        Ok(Admitted::Open(_)) => connection.respond(request, ready(service)),
        Ok(Admitted::Known(route, proof)) => handle(connection, request, service, route, &proof),
        Err(response) => connection.respond(request, *response),
    }
}

fn handle(
    connection: &mut Connection,
    request: &Request,
    service: &Service,
    route: Route<'_>,
    proof: &Authenticated,
) -> Result<(), Closed> {
    let deletes = request.method == Method::Delete;
    let result = match route {
        Route::Chat => return chat::complete(connection, request, service, proof),
        Route::Responses => return responses::create(connection, request, service, proof),
        Route::Messages => return messages::post(connection, request, service, proof, None),
        Route::SessionMessages(session) => {
            return messages::post(connection, request, service, proof, Some(session));
        }
        Route::SessionEvents(session) => {
            return sessions::events(connection, request, service, proof, session);
        }
        Route::Message(id) if deletes => {
            return messages::cancel(connection, request, service, proof, id);
        }
        Route::Message(id) => return messages::get(connection, request, service, proof, id),
        Route::Models => Ok(status::models(service, proof)),
        Route::Model(name) => status::model(service, proof, name),
        Route::Response(id) if deletes => responses::delete(service, proof, id),
        Route::Response(id) => responses::get(service, proof, id),
        Route::Sessions => sessions::list(service, proof),
        Route::Session(session) if deletes => sessions::reset(service, proof, session),
        Route::Session(session) => sessions::get(service, proof, session),
        Route::DeadLetters => messages::dead_letters(service, proof),
        Route::DeadLetter(id) => messages::dead_letter(service, proof, id, false),
        Route::DeadLetterRetry(id) => messages::dead_letter(service, proof, id, true),
        Route::Compact => status::compact(service, proof),
        Route::Health | Route::Ready | Route::Status => Ok(status::status(service, proof)),
    };
    connection.respond(request, result.unwrap_or_else(|problem| problem.response()))
}

enum Admitted<'a> {
    /// Needs no key.
    Open(Route<'a>),
    Known(Route<'a>, Authenticated),
}

/// Judges what can be judged without the body. Unknown paths are told apart from known ones only
/// to those who have the key.
fn admit<'r>(
    request: &'r Request,
    origin: Origin,
    service: &Service,
) -> Result<Admitted<'r>, Box<Response>> {
    let problem = |p: Problem| Box::new(p.response());
    let route = Route::find(request.path());
    if let Some(route) = route.filter(|route| !route.allows(request.method)) {
        return Err(Box::new(Response::method_not_allowed(route.allowed())));
    }
    let tcp = matches!(origin, Origin::Tcp(_));
    if tcp {
        check_browser(request, service).map_err(problem)?;
    }
    let is_work = route.is_some_and(|route| route.is_work(request));
    // During a drain the control socket still tells how it goes.
    if service.gate.is_closing() && (tcp || is_work) {
        return Err(Box::new(Problem::stopping().response().close()));
    }
    if !tcp && is_work && service.control_is_busy() {
        let message = "Too many messages wait on the control socket.";
        return Err(problem(Problem::new(503, "overloaded", message)));
    }
    if let Some(open @ (Route::Health | Route::Ready)) = route {
        return Ok(Admitted::Open(open));
    }
    let Some(proof) = authenticate(request, origin, &service.key) else {
        let message = "A key is required: send it as \"Authorization: Bearer KEY\".";
        let response = Problem::new(401, "invalid_api_key", message).response();
        return Err(Box::new(response.header("WWW-Authenticate", "Bearer")));
    };
    match route {
        Some(route) => Ok(Admitted::Known(route, proof)),
        None => Err(problem(Problem::new(404, "not_found", "There is nothing at this path."))),
    }
}

/// Keeps web pages of other sites out: a name that was rebound to our address shows in Host, a
/// foreign page in Origin.
fn check_browser(request: &Request, service: &Service) -> Result<(), Problem> {
    let settings = service.settings();
    let host = request.host();
    if !host.is_none_or(|host| host_is_ours(host, &settings.config.http.allowed_hosts)) {
        let message = "This host name is not served here; http.allowed_hosts lists those that are.";
        return Err(Problem::new(421, "unknown_host", message));
    }
    match request.header("Origin") {
        Some(page) if !origin_is_ours(page, host) => {
            let message = "Web pages of other origins may not use this gateway.";
            Err(Problem::new(403, "foreign_origin", message))
        }
        _ => Ok(()),
    }
}

fn ready(service: &Service) -> Response {
    if !service.ready.load(Ordering::SeqCst) || service.gate.is_closing() {
        return Problem::stopping().response();
    }
    match service.hub.condition() {
        Condition::Good => status::ready(),
        Condition::Degraded(why) | Condition::Broken(why) => status::degraded(&why),
    }
}
