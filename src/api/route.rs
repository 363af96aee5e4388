//! The routes, and what is judged of a request before its handler runs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::auth::{Authenticated, Origin};
use super::error::{ApiError, HandlerError};
use super::request::check_once;
use super::service::{Exchange, Service};
use super::{chat, cors, messages, models, responses, sessions, status};
use crate::http::Method::{self, Delete, Get, Post};
use crate::http::{Closed, Connection, Request, Response, SLASH};

/// How many of those may be messages that wait for their reply: the rest is for `status`.
const MAX_CONTROL_TURNS: usize = 48;

/// From then on requests are rejected that would wait for the disk: until then it may be a slow one, such
/// as a memory card under load.
const DISK_HANGS: Duration = Duration::from_secs(5);

/// What the answer to a request takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Memory only: it comes also while the disk hangs.
    Memory,
    /// What is known of messages and sessions.
    Read,
    /// A change: not during a drain, and not on the last connections of the control socket.
    Work,
    /// A change that may take longer than moments.
    LongWork,
    /// An event stream. It ends when a drain begins.
    Stream,
    /// A wait for the configuration to be read; on the control socket only.
    Reload,
}

use Class::{LongWork, Memory, Read, Reload, Stream, Work};

#[derive(Clone, Copy)]
enum Handler {
    /// Needs no key; asks where it matters whether a key was shown that opens `/v1/status`.
    Open(fn(&Service, &dyn Fn() -> bool) -> Response),
    /// The text is what stands for `{id}` or `*` in the pattern.
    Authenticated(fn(Exchange<'_>, &str) -> Result<(), HandlerError>),
}

struct Route {
    method: Method,
    /// `{id}` is one segment, `*` any text, slashes too. The first one that matches counts.
    pattern: &'static str,
    /// What `[keys.NAME] routes` calls its group.
    scope: &'static str,
    class: Class,
    handler: Handler,
}

const fn route(
    method: Method,
    pattern: &'static str,
    scope: &'static str,
    class: Class,
    handler: fn(Exchange<'_>, &str) -> Result<(), HandlerError>,
) -> Route {
    Route { method, pattern, scope, class, handler: Handler::Authenticated(handler) }
}

const fn open(
    pattern: &'static str,
    handler: fn(&Service, &dyn Fn() -> bool) -> Response,
) -> Route {
    Route { method: Get, pattern, scope: "chat", class: Memory, handler: Handler::Open(handler) }
}

static ROUTES: &[Route] = &[
    open("/health", status::health),
    open("/ready", status::ready),
    route(Post, "/v1/chat/completions", "chat", LongWork, chat::create),
    route(Post, "/v1/responses", "chat", LongWork, responses::create),
    route(Get, "/v1/responses/{id}", "chat", Read, responses::get),
    route(Delete, "/v1/responses/{id}", "chat", Work, responses::delete),
    route(Get, "/v1/models", "chat", Memory, models::list),
    route(Get, "/v1/models/*", "chat", Memory, models::get),
    route(Get, "/v1/messages", "messages", Read, messages::failed),
    route(Post, "/v1/messages", "messages", Work, messages::post),
    route(Post, "/v1/messages/{id}/retry", "messages", Work, messages::retry),
    route(Get, "/v1/messages/{id}", "messages", Read, messages::get),
    route(Delete, "/v1/messages/{id}", "messages", Work, messages::cancel),
    route(Get, "/v1/sessions", "messages", Read, sessions::list),
    route(Post, "/v1/sessions/*/messages", "messages", Work, messages::post_to_session),
    route(Get, "/v1/sessions/*/events", "messages", Stream, sessions::events),
    route(Get, "/v1/sessions/*", "messages", Read, sessions::get),
    route(Delete, "/v1/sessions/*", "messages", Work, sessions::reset),
    route(Get, "/v1/dead-letters", "messages", Read, messages::dead_letters),
    route(Post, "/v1/dead-letters/{id}/retry", "messages", Work, messages::deliver_again),
    route(Delete, "/v1/dead-letters/{id}", "messages", Work, messages::drop_letter),
    route(Get, "/v1/status", "status", Memory, status::status),
    route(Post, "/v1/journal/compact", "journal", LongWork, status::compact),
    route(Post, "/v1/reload", "status", Reload, status::reload),
];

impl Route {
    /// What stands in this path for the name in the pattern.
    fn name<'p>(&self, path: &'p str) -> Option<&'p str> {
        let Some((prefix, rest)) = self.pattern.split_once(['{', '*']) else {
            return (path == self.pattern).then_some("");
        };
        let suffix = rest.strip_prefix("id}").unwrap_or(rest);
        let name = path.strip_prefix(prefix)?.strip_suffix(suffix)?;
        let fits = suffix.len() == rest.len() || !name.contains('/');
        let may_be_empty = suffix.len() == rest.len() && !suffix.is_empty();
        (fits && (may_be_empty || !name.is_empty())).then_some(name)
    }

    /// The methods that it takes, in the words of Allow.
    fn allow(&self) -> &'static str {
        match self.method {
            Get if self.class == Stream => "GET",
            Get => "GET, HEAD",
            Delete => "DELETE",
            _ => "POST",
        }
    }

    fn takes(&self, method: Method) -> bool {
        self.method == method || (method == Method::Head && self.allow() == "GET, HEAD")
    }

    /// Whether it begins something, or may wait for it.
    fn is_work(&self, request: &Request) -> bool {
        matches!(self.class, Work | LongWork | Stream) || waits(request)
    }

    /// Whether its answer may take longer than moments.
    fn may_wait(&self, request: &Request) -> bool {
        matches!(self.class, LongWork | Stream | Reload) || waits(request)
    }
}

fn waits(request: &Request) -> bool {
    request.query().is_some_and(|query| query.starts_with("wait="))
}

/// Where a request leads.
struct Target<'r> {
    /// Of its path; its routes differ in their methods.
    pattern: &'static str,
    name: &'r str,
    route: Option<&'static Route>,
}

impl<'r> Target<'r> {
    fn find(request: &'r Request, tcp: bool) -> Option<Target<'r>> {
        let known = ROUTES.iter().filter(|route| !tcp || route.class != Reload);
        let mut matches =
            known.filter_map(|route| Some((route.pattern, route.name(request.path())?)));
        let (pattern, name) = matches.next()?;
        let mut routes = ROUTES.iter().filter(|route| route.pattern == pattern);
        Some(Target { pattern, name, route: routes.find(|route| route.takes(request.method)) })
    }

    fn allow(&self) -> String {
        let routes = ROUTES.iter().filter(|route| route.pattern == self.pattern);
        routes.map(Route::allow).collect::<Vec<_>>().join(", ")
    }
}

/// Serves one connection until it ends.
pub fn serve(mut connection: Connection, origin: Origin, service: &Service) {
    loop {
        let request = match connection.next_request() {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(e) => return log_end(&e, origin),
        };
        if let Err(e) = answer(&mut connection, &request, origin, service) {
            return log_end(&e, origin);
        }
    }
}

fn log_end(why: &Closed, origin: Origin) {
    let why = match why {
        Closed::Refused(refusal) => format!("{} {}", refusal.status, refusal.reason),
        Closed::Io(_) | Closed::TimedOut | Closed::CutShort => why.to_string(),
    };
    log::debug!("a connection from {origin} ended: {why}");
}

/// Answers one request.
fn answer(
    connection: &mut Connection,
    request: &Request,
    origin: Origin,
    service: &Service,
) -> Result<(), Closed> {
    let target = Target::find(request, matches!(origin, Origin::Tcp(_)));
    // No drain waits for requests that come while it lasts, which are rejected or ask for its state; nor
    // for event streams, which end when it begins, and for a file that is being read.
    let class = target.as_ref().and_then(|target| target.route).map(|route| route.class);
    let streams = class == Some(Stream);
    let counts = !service.shutdown.is_closing() && !streams && class != Some(Reload);
    let _in_flight = (counts || streams).then(|| service.begin(streams));
    match admit(connection, request, target, origin, service) {
        Ok(Admitted::Answered(response)) => connection.respond(request, response),
        Ok(Admitted::Authenticated(proof, handler, name)) => {
            let exchange =
                Exchange { connection: &mut *connection, request, service, proof: &proof };
            match handler(exchange, &name) {
                Err(HandlerError::Api(problem)) => connection.respond(request, problem.response()),
                Err(HandlerError::Closed(why)) => Err(why),
                Ok(()) => Ok(()),
            }
        }
        Err(problem) => {
            let response = problem.response();
            let full = matches!(problem.code, "share_reached" | "overloaded");
            let close = full || problem.status == 429 || service.shutdown.is_closing();
            let response = match problem.status {
                401 => response.header("WWW-Authenticate", "Bearer"),
                _ => response,
            };
            connection.respond(request, if close { response.close() } else { response })
        }
    }
}

enum Admitted {
    Answered(Response),
    Authenticated(Authenticated, fn(Exchange<'_>, &str) -> Result<(), HandlerError>, String),
}

/// Judges what can be judged without the body. Which routes there are is told only to those who
/// have a key, but for the two paths that need none.
fn admit(
    connection: &mut Connection,
    request: &Request,
    target: Option<Target<'_>>,
    origin: Origin,
    service: &Service,
) -> Result<Admitted, ApiError> {
    let tcp = matches!(origin, Origin::Tcp(_));
    let page = if tcp { cors::check(request, &service.settings().config.http)? } else { None };
    let from_page = page.is_some();
    connection.extra.extend(page.into_iter().flat_map(cors::fields));
    if request.method == Method::Options {
        return Ok(Admitted::Answered(cors::options("GET, HEAD, POST, DELETE", from_page)));
    }
    if tcp && request.query().is_some_and(cors::has_key) {
        let message = "Keys do not belong into URLs, which end up in logs: send it as \
                       \"Authorization: Bearer KEY\", and take another key than this one.";
        return Err(ApiError::new(400, "key_in_url", message));
    }
    let route = target.as_ref().and_then(|target| target.route);
    let is_work = route.is_some_and(|route| route.is_work(request));
    // During a drain the control socket still tells the state.
    if service.shutdown.is_closing() && (tcp || is_work) {
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
    if let Some(Route { handler: Handler::Open(handler), .. }) = route {
        let opens_status = || {
            let shown = service.authenticate(request, origin, None);
            shown.is_ok_and(|proof| proof.opens("status"))
        };
        return Ok(Admitted::Answered(handler(service, &opens_status)));
    }
    let proof = service.authenticate(request, origin, connection.seat.as_deref())?;
    check_once(request)?;
    let Some(target) = target else {
        return Err(ApiError::new(404, "not_found", "There is nothing at this path."));
    };
    let Some(&Route { scope, class, handler: Handler::Authenticated(handler), .. }) = route else {
        let allow = target.allow();
        let message = format!("This method is not allowed here; allowed: {allow}.");
        let problem = ApiError::new(405, "method_not_allowed", message);
        return Ok(Admitted::Answered(problem.response().header("Allow", allow)));
    };
    if !proof.opens(scope) {
        let principal = proof.principal();
        let message = format!(
            "The key of {principal} does not open {scope:?}; its role and routes stand in \
             [keys.{principal}]."
        );
        return Err(ApiError::new(403, "route_not_allowed", message));
    }
    if !matches!(class, Memory | Reload)
        && let Some(why) = service.hub.stalled(DISK_HANGS)
    {
        return Err(ApiError::new(503, "journal_unavailable", format!("Try again later: {why}.")));
    }
    // A slash of the name itself came encoded.
    Ok(Admitted::Authenticated(proof, handler, target.name.replace(SLASH, "/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_the_first_pattern_that_matches() {
        let find = |path: &'static str| {
            let mut matches = ROUTES.iter().filter_map(|r| Some((r.pattern, r.name(path)?)));
            matches.next()
        };
        for (path, found) in [
            ("/v1/status", Some(("/v1/status", ""))),
            ("/v1/messages/m/retry", Some(("/v1/messages/{id}/retry", "m"))),
            ("/v1/messages/m", Some(("/v1/messages/{id}", "m"))),
            ("/v1/sessions/a/b/events", Some(("/v1/sessions/*/events", "a/b"))),
            ("/v1/sessions/events", Some(("/v1/sessions/*", "events"))),
            ("/v1/sessions//messages", Some(("/v1/sessions/*/messages", ""))),
            ("/v1/models/a/b", Some(("/v1/models/*", "a/b"))),
            ("/v1/messages/", None),
            ("/v1/messages/a/b", None),
            ("/v1/messages//retry", None),
            ("/v1/sessions/", None),
            ("/v1/statuses", None),
        ] {
            assert_eq!(find(path), found, "{path}");
        }
    }
}
