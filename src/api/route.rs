//! Paths and methods, and the order of judgement before a handler runs.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::auth::{Authenticated, Origin, authenticate, host_is_ours, origin_is_ours};
use super::error::Problem;
use super::{Service, chat, status};
use crate::http::Response;
use crate::http::{Closed, Connection};
use crate::http::{Method, Request};

/// What a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Health,
    Ready,
    Chat,
    Models,
    Status,
}

impl Route {
    fn find(path: &str) -> Option<Route> {
        Some(match path {
            "/health" => Route::Health,
            "/ready" => Route::Ready,
            "/v1/chat/completions" => Route::Chat,
            "/v1/models" => Route::Models,
            "/v1/status" => Route::Status,
            _ => return None,
        })
    }

    fn allowed(self) -> &'static str {
        match self {
            Route::Health | Route::Ready | Route::Models | Route::Status => "GET, HEAD",
            Route::Chat => "POST",
        }
    }

    fn allows(self, method: Method) -> bool {
        match self {
            Route::Health | Route::Ready | Route::Models | Route::Status => {
                matches!(method, Method::Get | Method::Head)
            }
            Route::Chat => method == Method::Post,
        }
    }
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
        Ok(Admitted::Known(route, proof)) => match route {
            Route::Chat => chat::complete(connection, request, service, &proof),
            Route::Models => connection.respond(request, status::models(service, &proof)),
            Route::Health | Route::Ready | Route::Status => {
                connection.respond(request, status::status(service, &proof))
            }
        },
        Err(response) => connection.respond(request, *response),
    }
}

enum Admitted {
    /// Needs no key.
    Open(Route),
    Known(Route, Authenticated),
}

/// Judges what can be judged without the body. Unknown paths are told apart from known ones only
/// to those who have the key.
fn admit(request: &Request, origin: Origin, service: &Service) -> Result<Admitted, Box<Response>> {
    let problem = |p: Problem| Box::new(p.response());
    let route = Route::find(request.path());
    if let Some(route) = route.filter(|route| !route.allows(request.method)) {
        return Err(Box::new(Response::method_not_allowed(route.allowed())));
    }
    let tcp = matches!(origin, Origin::Tcp(_));
    if tcp {
        check_browser(request, service).map_err(problem)?;
    }
    // During a drain the control socket still tells how it goes.
    if service.gate.is_closing() && (tcp || route == Some(Route::Chat)) {
        return Err(Box::new(Problem::stopping().response().close()));
    }
    if !tcp && route == Some(Route::Chat) && service.control_is_busy() {
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
    if service.ready.load(Ordering::SeqCst) && !service.gate.is_closing() {
        status::ready()
    } else {
        Problem::stopping().response()
    }
}
