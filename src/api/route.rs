//! The routes, and what is judged of a request before its handler runs.

use std::{sync::atomic::Ordering, time::Duration};

use memchr::memchr2;

use super::auth::{Authenticated, Origin};
use super::error::{ApiError, Handled, HandlerError};
use super::pass_through::pass;
use super::request::{Query, check_once};
use super::service::{Exchange, Service};
use super::sessions::EVENTS;
use super::{
    approvals, channels, chat_completions, cors, messages, models, openapi, responses, restart,
    sessions, status,
};
use crate::http::Method::{self, Delete, Get, Post};
use crate::http::{Closed, Connection, Request, Response, SLASH};
use crate::sys::gather::Gather;

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
    /// What concerns the process; on the control socket only, and told also while the disk hangs.
    Process,
}

#[derive(Clone, Copy)]
enum Handler {
    /// Needs no key; may ask whether one was shown that opens `/v1/status`.
    Open(fn(&Service, &dyn Fn() -> bool) -> Response),
    Keyed(KeyedHandler),
}

/// The text is what stands for `{id}` or `*` in the pattern.
type KeyedHandler = fn(Exchange<'_>, &str) -> Handled;

use Class::{LongWork, Memory, Process, Read, Reload, Stream, Work};
use Handler::{Keyed, Open};

/// Method, pattern, scope, class and handler. In a pattern `{id}` is one segment and `*` any text, slashes
/// too; the first pattern that matches counts. `[keys.NAME] routes` names scopes.
struct Route(Method, &'static str, &'static str, Class, Handler);

static ROUTES: &[Route] = &[
    Route(Get, "/health", "chat", Memory, Open(status::health)),
    Route(Get, "/ready", "chat", Memory, Open(status::ready)),
    Route(Get, "/openapi.json", "chat", Memory, Keyed(openapi::get)),
    Route(Post, "/v1/chat/completions", "chat", LongWork, Keyed(chat_completions::create)),
    Route(Post, "/v1/responses", "chat", LongWork, Keyed(responses::create)),
    Route(Get, "/v1/responses/{id}", "chat", Read, Keyed(responses::get)),
    Route(Delete, "/v1/responses/{id}", "chat", Work, Keyed(responses::delete)),
    Route(Post, "/v1/responses/{id}", "chat", LongWork, Keyed(pass)),
    Route(Get, "/v1/responses/{id}/input_items", "chat", Read, Keyed(responses::input_items)),
    Route(Post, "/v1/responses/*", "chat", LongWork, Keyed(pass)),
    Route(Post, "/v1/embeddings", "chat", LongWork, Keyed(pass)),
    Route(Post, "/v1/completions", "chat", LongWork, Keyed(pass)),
    Route(Post, "/v1/audio/*", "chat", LongWork, Keyed(pass)),
    Route(Post, "/v1/images/*", "chat", LongWork, Keyed(pass)),
    Route(Post, "/v1/moderations", "chat", LongWork, Keyed(pass)),
    Route(Post, "/anthropic/v1/messages", "chat", LongWork, Keyed(pass)),
    Route(Post, "/anthropic/v1/messages/count_tokens", "chat", LongWork, Keyed(pass)),
    Route(Get, "/v1/models", "chat", Memory, Keyed(models::list)),
    Route(Get, "/v1/models/*", "chat", Memory, Keyed(models::get)),
    Route(Get, "/v1/messages", "messages", Read, Keyed(messages::list)),
    Route(Post, "/v1/messages", "messages", Work, Keyed(messages::post)),
    Route(Post, "/v1/messages/{id}/retry", "messages", Work, Keyed(messages::retry)),
    Route(Post, "/v1/messages/{id}/approval", "messages", Work, Keyed(approvals::answer)),
    Route(Get, "/v1/messages/{id}", "messages", Read, Keyed(messages::get)),
    Route(Delete, "/v1/messages/{id}", "messages", Work, Keyed(messages::cancel)),
    Route(Get, "/v1/approvals", "messages", Read, Keyed(approvals::list)),
    Route(Get, "/v1/sessions", "messages", Read, Keyed(sessions::list)),
    Route(Post, "/v1/sessions/*/messages", "messages", Work, Keyed(messages::post_to_session)),
    Route(Get, "/v1/sessions/*/events", "messages", Stream, Keyed(sessions::events)),
    Route(Get, "/v1/sessions/*", "messages", Read, Keyed(sessions::get)),
    Route(Delete, "/v1/sessions/*", "messages", Work, Keyed(sessions::reset)),
    Route(Post, "/v1/tickets", "messages", Work, Keyed(sessions::ticket)),
    Route(Get, "/v1/dead-letters", "messages", Read, Keyed(messages::dead_letters)),
    Route(Post, "/v1/dead-letters/{id}/retry", "messages", Work, Keyed(messages::deliver_again)),
    Route(Delete, "/v1/dead-letters/{id}", "messages", Work, Keyed(messages::drop_letter)),
    Route(Get, "/v1/status", "status", Memory, Keyed(status::status)),
    Route(Get, "/v1/channels", "channels", Memory, Keyed(channels::list)),
    Route(Post, "/v1/channels/pair", "channels", Work, Keyed(channels::pair)),
    Route(Post, "/v1/channels/{id}/unpair", "channels", Work, Keyed(channels::unpair)),
    Route(Post, "/v1/channels/{id}/restart", "channels", Work, Keyed(channels::restart)),
    Route(Post, "/v1/journal/compact", "journal", LongWork, Keyed(status::compact)),
    Route(Post, "/v1/reload", "status", Reload, Keyed(status::reload)),
    Route(Post, "/v1/restart", "status", Process, Keyed(restart::post)),
];

impl Route {
    /// What stands in this path for the name in the pattern.
    fn name<'p>(&self, path: &'p str) -> Option<&'p str> {
        let &Route(_, pattern, ..) = self;
        let Some(at) = memchr2(b'{', b'*', pattern.as_bytes()) else {
            return (path == pattern).then_some("");
        };
        let (prefix, suffix) = (&pattern[..at], &pattern[at + 1..]);
        let id = suffix.strip_prefix("id}");
        let name = path.strip_prefix(prefix)?.strip_suffix(id.unwrap_or(suffix))?;
        let fits = match id {
            Some(_) => !name.is_empty() && !name.contains('/'),
            None => !name.is_empty() || !suffix.is_empty(),
        };
        fits.then_some(name)
    }

    /// The methods that it takes, in the words of Allow.
    fn allow(&self) -> &'static str {
        match self {
            Route(Get, _, _, Stream, _) => "GET",
            Route(Get, ..) => "GET, HEAD",
            Route(Delete, ..) => "DELETE",
            Route(..) => "POST",
        }
    }

    fn takes(&self, method: Method) -> bool {
        let &Route(own, ..) = self;
        own == method || (method == Method::Head && self.allow() == "GET, HEAD")
    }
}

/// What a path leads to.
#[derive(Default)]
struct Found<'p> {
    /// The routes of its pattern; none where the path is unknown.
    routes: &'static [Route],
    /// The one of them for the request's method, and its class.
    route: Option<&'static Route>,
    class: Option<Class>,
    /// What stands in the path for the name in the pattern.
    name: &'p str,
}

fn find(path: &str, method: Method, tcp: bool) -> Found<'_> {
    let mut known = ROUTES.chunk_by(|Route(_, a, ..), Route(_, b, ..)| a == b);
    let found = known.find_map(|routes| Some((routes, routes[0].name(path)?)));
    let (routes, name) = found.unwrap_or_default();
    let route = routes.iter().find(|route| route.takes(method));
    let class = route.map(|&Route(.., class, _)| class);
    if tcp && routes.iter().any(|&Route(.., class, _)| matches!(class, Reload | Process)) {
        return Found::default();
    }
    Found { routes, route, class, name }
}

/// Serves one connection until it ends.
pub fn serve(connection: &mut Connection, origin: Origin, service: &Service) {
    connection.error_response = super::error::refused;
    let why = loop {
        match connection.next_request() {
            Ok(Some(request)) => {
                let parked = is_parked(connection, &request, origin, service);
                let done = if parked {
                    connection.park()
                } else {
                    answer(connection, &request, origin, service)
                };
                match done {
                    Ok(()) => {}
                    Err(why) => break why,
                }
            }
            Ok(None) => return,
            Err(why) => break why,
        }
    };
    let why = match why {
        Closed::Refused(refusal) => format!("{} {}", refusal.status, refusal.reason),
        Closed::Io(_) | Closed::TimedOut | Closed::CutShort => why.to_string(),
    };
    log::debug!("a connection from {origin} ended: {why}");
}

/// Whether a request is parked, since once it has begun a restart would have to wait for it. By its head
/// alone; one without a valid key is told so at once.
fn is_parked(
    connection: &Connection,
    request: &Request,
    origin: Origin,
    service: &Service,
) -> bool {
    let is_long = || find(&request.path, request.method, false).class == Some(LongWork);
    let is_known = || service.recognize(request, origin, connection.activity.as_deref());
    service.shutdown.holds_requests() && is_long() && is_known()
}

/// Answers one request. Out of line: what waits for the next one needs none of this on its stack.
#[inline(never)]
fn answer(
    connection: &mut Connection,
    request: &Request,
    origin: Origin,
    service: &Service,
) -> Result<(), Closed> {
    let found = find(&request.path, request.method, matches!(origin, Origin::Tcp(_)));
    let class = found.class;
    // No drain waits for requests that come while it lasts, which are rejected or ask for its state; nor
    // for event streams, which end when it begins, and for a file that is being read.
    let streams = class == Some(Stream);
    let in_flight = (class != Some(Reload)).then(|| service.begin(streams));
    // Counted first and looked at then, once: a drain that begins meanwhile sees it. It is new until then.
    let closing = service.shutdown.is_closing();
    if connection.first {
        service.begin_connection(connection.activity.as_deref());
    }
    let _in_flight = in_flight.filter(|_| streams || !closing);
    if closing && matches!(origin, Origin::Tcp(_)) && connection.leave() {
        return Ok(());
    }
    let (proof, handler) = match admit(connection, request, &found, origin, closing, service) {
        Ok(admitted) => admitted,
        Err(response) => return connection.respond(request, response),
    };
    let exchange = Exchange { connection: &mut *connection, request, service, proof: &proof };
    // A slash of the name itself came encoded.
    match handler(exchange, &found.name.replace(SLASH, "/")) {
        Err(HandlerError::Api(problem)) => connection.respond(request, problem.response()),
        Err(HandlerError::Closed(why)) => Err(why),
        Ok(()) => Ok(()),
    }
}

/// An error before the handler. What is over a limit loses its connection.
impl From<ApiError> for Response {
    fn from(problem: ApiError) -> Response {
        let response = problem.response();
        match problem.0.code {
            "share_reached" | "overloaded" | "too_many_failures" => response.close(),
            _ => response,
        }
    }
}

/// Judges what can be judged without the body. `Err`: the answer, where there is nothing for a handler
/// to do. Which routes there are is told only to those who have a key, but for the two paths that need
/// none.
fn admit(
    connection: &mut Connection,
    request: &Request,
    found: &Found<'_>,
    origin: Origin,
    closing: bool,
    service: &Service,
) -> Result<(Authenticated, KeyedHandler), Response> {
    let tcp = matches!(origin, Origin::Tcp(_));
    if tcp {
        connection.extra = cors::check(request, &service.settings().config.http)?;
    }
    if request.method == Method::Options {
        return Err(cors::options(!connection.extra.is_empty()));
    }
    if tcp && request.query.as_deref().is_some_and(cors::has_key) {
        let message = "Do not put a key into a URL: URLs end up in logs. Send it as \
                       \"Authorization: Bearer KEY\", and replace this key.";
        return Err(ApiError::new(400, "key_in_url", message).into());
    }
    let class = found.class;
    let waits = waits(class, request.query.as_deref());
    let is_work = waits || matches!(class, Some(Work | LongWork | Stream));
    // During a drain the control socket still tells the state.
    if closing && (tcp || is_work) {
        return Err(ApiError::stopping().into());
    }
    let overloaded = |message| Err(ApiError::new(503, "overloaded", message).into());
    if !tcp && is_work && service.control_connections.load(Ordering::SeqCst) > MAX_CONTROL_TURNS {
        return overloaded("Too many messages wait on the control socket.");
    }
    let may_wait = waits || matches!(class, Some(LongWork | Stream | Reload));
    if may_wait && matches!(origin, Origin::Control { spare: true, .. }) {
        return overloaded("There is no thread for a request that waits; try again soon.");
    }
    if let Some(Route(.., Open(handler))) = found.route {
        let opens_status = || {
            let shown = service.authenticate(request, origin, None);
            shown.is_ok_and(|proof| proof.0.opens("status"))
        };
        return Err(handler(service, &opens_status));
    }
    // What is wrong with a query is told to those who have a key.
    let query = (class == Some(Stream)).then(|| Query::parse(request, EVENTS).ok()).flatten();
    let (activity, page) = (connection.activity.as_deref(), cors::page(&connection.extra));
    let proof = match query.as_ref().and_then(|query| query.text("ticket")) {
        Some(ticket) => {
            service.redeem(ticket, (&found.name.replace(SLASH, "/"), page), activity)?
        }
        None => service.authenticate(request, origin, activity)?,
    };
    check_once(request)?;
    let handler = found.handler(&proof, service)?;
    Ok((proof, handler))
}

/// Whether the query asks to wait for a message, which only what is told or changed of one can.
fn waits(class: Option<Class>, query: Option<&str>) -> bool {
    matches!(class, Some(Read | Work)) && query.is_some_and(|query| query.starts_with("wait="))
}

impl Found<'_> {
    /// The handler, if there is such a route and the key opens it.
    fn handler(&self, proof: &Authenticated, service: &Service) -> Result<KeyedHandler, Response> {
        if self.routes.is_empty() {
            return Err(ApiError::new(404, "not_found", "There is nothing at this path.").into());
        }
        let Some(&Route(_, pattern, scope, class, Keyed(handler))) = self.route else {
            let allow = self.routes.iter().map(Route::allow).gather().join(", ");
            let message = format!("This method is not allowed here; allowed: {allow}.");
            let problem = ApiError::new(405, "method_not_allowed", message);
            return Err(problem.response().header("Allow", allow));
        };
        if !proof.0.opens(scope) {
            let name = proof.principal();
            let message = format!(
                "The key of {name} may not use {scope:?} routes; [keys.{name}] sets its role and \
                 routes."
            );
            return Err(ApiError::new(403, "route_not_allowed", message).into());
        }
        if !matches!(class, Memory | Reload | Process)
            && let Some(why) = service.hub.health().stalled(DISK_HANGS)
        {
            let message = format!("Try again later: {why}.");
            return Err(ApiError::new(503, "journal_unavailable", message).into());
        }
        // An upstream that has the API itself has the responses, too.
        let passed = pattern.starts_with("/v1/responses")
            && service.settings().config.agent.passes("responses").is_ok();
        Ok(if passed { pass } else { handler })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    #[test]
    fn only_a_request_for_a_message_waits() {
        for (path, query, expected) in [
            ("/v1/messages/m", Some("wait=5"), true),
            ("/v1/messages/m", Some("x=5"), false),
            ("/v1/messages/m", None, false),
            ("/v1/status", Some("wait=5"), false),
            ("/health", Some("wait=5"), false),
            ("/v1/nothing", Some("wait=5"), false),
        ] {
            assert_eq!(waits(find(path, Get, true).class, query), expected, "{path} {query:?}");
        }
    }

    /// A route as the document names it: method, path and scope, which is empty where no key is needed.
    fn named(Route(method, pattern, scope, _, handler): &Route) -> [String; 3] {
        let name = match pattern.split('/').nth(2) {
            Some("sessions") => "{session}",
            Some("models") => "{model}",
            _ => "{path}",
        };
        let scope = if matches!(handler, Open(_)) { "" } else { scope };
        [format!("{method:?}").to_lowercase(), pattern.replace('*', name), scope.to_owned()]
    }

    #[test]
    fn the_openapi_document_has_each_route_with_its_scope_and_no_other() {
        let document: Value = serde_json::from_slice(&openapi::document()).unwrap();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let (mut routes, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let scope = operation["security"][0]["key"][0].as_str().unwrap_or_default();
                assert_eq!(scope.is_empty(), operation["security"] == json!([]), "{path}");
                routes.insert([method, path, scope].map(str::to_owned));
                assert!(ids.insert(operation["operationId"].to_string()), "{operation}");
                // Each name in the path is a parameter, and each parameter is there.
                let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                let all = parameters.iter().map(|parameter| match parameter["$ref"].as_str() {
                    Some(place) => document.pointer(&place[1..]).expect(place),
                    None => parameter,
                });
                let in_path = all.filter(|parameter| parameter["in"] == "path");
                let names: Vec<&str> = in_path.map(|it| it["name"].as_str().unwrap()).collect();
                let braces = path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap());
                assert_eq!(names, braces.collect::<Vec<_>>(), "{method} {path}");
            }
        }
        assert_eq!(routes, ROUTES.iter().map(named).collect());
        let text = document.to_string();
        for place in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap())
        {
            assert!(document.pointer(place).is_some(), "{place}");
        }
    }

    #[test]
    fn a_path_leads_to_the_first_pattern_that_matches() {
        for (path, found) in [
            ("/v1/status", Some(("/v1/status", ""))),
            ("/v1/messages/m/approval", Some(("/v1/messages/{id}/approval", "m"))),
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
            ("/v1/reload", None),
            ("/v1/restart", None),
        ] {
            let Found { routes, name, .. } = find(path, Get, true);
            assert_eq!(routes.first().map(|route| (route.1, name)), found, "{path}");
        }
    }
}
