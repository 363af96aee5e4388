//! The `upstream` agent: an OpenAI-compatible server. A turn is a chat completion there, and what
//! comes back is passed on as it comes.
//!
//! A request that got nothing back is sent again; once there is a byte of an answer, never.

mod failover;
mod pass;
mod request;
mod response;

use std::cell::{Cell, RefCell};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Agent, DEFAULT_MODEL, ErrorResponse, Outcome, Reply, Turn};
use crate::cancel::{Cancel, CancelReason};
use crate::config::Upstream;
use crate::escape::{escaped, quoted};
use crate::json::{self, elements, member, string};
use crate::outbound::client::{Error, Response};
use crate::outbound::{Request, open};
use crate::subprocess::environment;
use crate::sys::{gather::Gather, poll::Interest, process::is_shortage};
use crate::threads::lock;

/// How often a request is sent again that got nothing back: a server that is being restarted.
const UPSTREAM_RETRIES: u32 = 2;

/// Before each of them.
const UPSTREAM_PAUSE: Duration = Duration::from_millis(150);

/// Connections that are kept for the next turn: no more than there are turns at once, as a rule.
const UPSTREAM_KEPT: usize = 256;

/// How long one is kept: usual servers close theirs after 5 to 75 s. It is looked at now and then.
const UPSTREAM_IDLE: Duration = Duration::from_secs(20);

/// For the list of its models: somebody waits who asked for something else.
const MODELS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the list is remembered.
const MODELS_KEPT: Duration = Duration::from_secs(60);

/// The list itself: some hundred bytes a model, and the largest traders have hundreds.
const MAX_MODELS_BODY: usize = 1 << 20;

/// The models of it that are told: a server that lists more means no choice.
const MAX_MODELS: usize = 2000;

pub use failover::models;
pub use pass::{Head, Passed, pass};

/// What is kept of a server between turns.
#[derive(Debug, Default)]
pub struct ConnectionPool {
    /// Connections that can take another request, and since when; the newest last.
    idle: Mutex<Vec<(Instant, TcpStream)>>,
    /// Its models, and when it named them.
    models: Mutex<Option<(Instant, Vec<String>)>>,
    /// It does not know `stream_options`.
    plain: AtomicBool,
    /// When it failed last, unless it has answered since.
    failed: Mutex<Option<Instant>>,
}

/// What has become of a request to one server, as far as others are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// Nothing that is the server's doing.
    Open,
    /// It is not asked for this model.
    Skipped,
    /// It cannot be reached or is busy: another may answer.
    Failed,
    Answered,
}

/// A request to a server, and what it may need.
struct UpstreamClient<'a> {
    agent: &'a Agent,
    server: &'a Upstream,
    pool: &'a ConnectionPool,
    cancel: Cancel<'a>,
    attempt: Cell<Attempt>,
    /// How often a request is sent again that got nothing back.
    retries: u32,
}

/// Runs a turn.
pub fn run(
    agent: &Agent,
    cancel: Cancel<'_>,
    turn: &Turn<'_>,
    reply: &RefCell<&mut dyn Reply>,
) -> Result<(), Outcome> {
    // A message that is tried again later needs no retries within an attempt.
    let retries = if turn.attempt > 1 { 0 } else { UPSTREAM_RETRIES };
    failover::first_answer(agent, (cancel, retries), turn.message_id, &mut |client, _| {
        client.run(turn, reply)
    })
}

impl<'a> UpstreamClient<'a> {
    /// For the server at this place.
    fn new(agent: &'a Agent, at: usize, cancel: Cancel<'a>, retries: u32) -> UpstreamClient<'a> {
        let (server, pool) = (&agent.config.url[at], &agent.upstreams[at]);
        UpstreamClient { agent, server, pool, cancel, attempt: Cell::new(Attempt::Open), retries }
    }

    /// How the server is called in a log and a header, where there is more than one.
    fn name(&self) -> Option<&'a str> {
        Some(&*self.server.url.authority).filter(|_| self.agent.upstreams.len() > 1)
    }

    fn run(&self, turn: &Turn<'_>, reply: &RefCell<&mut dyn Reply>) -> Result<(), Outcome> {
        let alias = turn.context.map(|context| context.model.as_str());
        let alias = alias.filter(|alias| !alias.is_empty()).unwrap_or(DEFAULT_MODEL);
        let model = self.model(alias)?;
        let native = reply.borrow().native();
        let streams = native.unwrap_or(true);
        let most = self.agent.config.max_history;
        let wanted = native.is_none() && !self.pool.plain.load(Ordering::Relaxed);
        let mut usage = wanted;
        loop {
            let body = request::body(turn, &model, (streams, native.is_none(), usage), most)
                .map_err(|e| {
                    temporary(&format!("what was said or attached cannot be read: {e}"), Some(&e))
                })?;
            let request = Request {
                method: "POST",
                target: "/chat/completions",
                headers: &[("Content-Type", "application/json")],
                body: Some(body.as_bytes()),
            };
            let result = self.exchange(&request, &mut |answer| {
                if let Some(name) = self.name().filter(|_| answer.status < 300) {
                    reply.borrow_mut().upstream(name);
                }
                let reader = response::ResponseReader { client: self, turn, reply, alias };
                match answer.status {
                    200..=299 if streams => reader.stream(answer),
                    200..=299 => reader.whole(answer),
                    _ => Err(response::ResponseReader::error(self, answer)),
                }
            });
            match result {
                // What servers say that do not take a field that they do not know.
                Err(Outcome::ErrorResponse(it)) if usage && matches!(it.status, 400 | 422) => {
                    usage = false;
                }
                result => {
                    if wanted && !usage && result.is_ok() {
                        self.pool.plain.store(true, Ordering::Relaxed);
                    }
                    return result;
                }
            }
        }
    }

    /// The upstream's name for a model.
    fn model(&self, alias: &str) -> Result<String, Outcome> {
        let config = self.server;
        if let Some(model) = config.models.get(alias) {
            return Ok(model.clone());
        }
        if alias == DEFAULT_MODEL {
            let listed = || self.listed().and_then(|models| models.into_iter().next());
            let given = Some(&config.model).filter(|model| !model.is_empty()).cloned();
            // One that lists none may take any.
            return Ok(given.or_else(listed).unwrap_or_else(|| DEFAULT_MODEL.to_owned()));
        }
        if config.models.is_empty() {
            return Ok(alias.to_owned());
        }
        self.attempt.set(Attempt::Skipped);
        let alias = quoted(alias);
        let words = format!("There is no model {alias}; GET /v1/models lists the models.");
        let kind = (&*quoted("invalid_request_error"), "\"model\"", "\"model_not_found\"");
        Err(Outcome::ErrorResponse(Box::new(ErrorResponse::new(404, &words, kind))))
    }

    /// What a client may call a model, beside the default one.
    fn models(&self) -> Option<Vec<String>> {
        let map = &self.server.models;
        if map.is_empty() {
            return self.listed();
        }
        Some(map.names().into_iter().map(str::to_owned).gather())
    }

    /// The upstream's own list, if it tells it soon.
    fn listed(&self) -> Option<Vec<String>> {
        let cache = &self.pool.models;
        if let Some((at, models)) = &*lock(cache)
            && at.elapsed() < MODELS_KEPT
        {
            return Some(models.clone());
        }
        let deadline = self.cancel.deadline.min(Instant::now() + MODELS_TIMEOUT);
        let cancel = Cancel { deadline, ..self.cancel };
        let client = UpstreamClient { cancel, attempt: self.attempt.clone(), ..*self };
        let mut models = None;
        let request = Request { method: "GET", target: "/models", headers: &[], body: None };
        let _ = client.exchange(&request, &mut |answer| {
            let status = answer.status;
            if let Ok(body) = answer.body(MAX_MODELS_BODY, deadline) {
                // One that lists none is not asked again for each turn.
                let list = json::value(&body).ok().filter(|_| status == 200);
                models = Some(model_ids(list.unwrap_or_default()));
            }
            Ok(())
        });
        if let Some(models) = &models {
            *lock(cache) = Some((Instant::now(), models.clone()));
        }
        models
    }

    /// Sends a request for what is below the server's URL until there is an answer, and hands that over.
    fn exchange(
        &self,
        request: &Request<'_>,
        take: &mut dyn FnMut(Response<'_, '_>) -> Result<(), Outcome>,
    ) -> Result<(), Outcome> {
        let key = self.server.key.as_ref().map(|key| String::from_utf8_lossy(key.bytes()));
        // Anthropic's API has a field of its own for it.
        let other = request.target.starts_with("/messages");
        let (field, scheme) = if other { ("x-api-key", "") } else { ("Authorization", "Bearer ") };
        let key = key.map(|key| format!("{scheme}{key}"));
        let mut headers =
            vec![("User-Agent", concat!("hermes-gateway/", env!("CARGO_PKG_VERSION")))];
        headers.extend(key.iter().map(|key| (field, key.as_str())));
        headers.extend_from_slice(request.headers);
        let (target, headers) = (&*self.server.url.below(request.target), &headers[..]);
        let (request, mut retries) = (Request { target, headers, ..*request }, self.retries);
        loop {
            let kept = self.pool.take(&self.cancel).map_err(Outcome::Ended)?;
            let reused = kept.is_some();
            let (error, answered) = match self.once(&request, kept, take) {
                Ok(result) => return result,
                Err(failed) => failed,
            };
            if let Some(reason) = self.cancel.reason() {
                // It was silent for all of a turn.
                if reason == CancelReason::TimedOut {
                    self.attempt.set(Attempt::Failed);
                }
                return Err(Outcome::Ended(reason));
            }
            if reused && !answered {
                // The others are most likely dead too.
                lock(&self.pool.idle).clear();
                continue;
            }
            let words = format!("the upstream does not answer: {error}");
            match &error {
                Error::Io(e) if is_shortage(e) => return Err(temporary(&words, Some(e))),
                Error::Io(_) | Error::CutShort if !answered && retries > 0 => {}
                Error::Io(_) | Error::CutShort | Error::TimedOut | Error::Refused(_) => {
                    self.attempt.set(Attempt::Failed);
                    return Err(temporary(&words, None));
                }
            }
            retries -= 1;
            // It ends early where the turn does, which the next try finds out.
            let _ = self.cancel.wait([], Instant::now() + UPSTREAM_PAUSE);
        }
    }

    /// One try. An error comes with whether there was anything of an answer.
    fn once(
        &self,
        request: &Request<'_>,
        mut stream: Option<TcpStream>,
        take: &mut dyn FnMut(Response<'_, '_>) -> Result<(), Outcome>,
    ) -> Result<Result<(), Outcome>, (Error, bool)> {
        let (Agent { config, children, .. }, cancel) = (self.agent, &self.cancel);
        let environment = || environment(&config.env, &config.pass_env);
        let client = open((&self.server.url, request), children, &environment, &mut stream, cancel);
        let mut client = client.map_err(|e| (Error::Io(e), false))?;
        let result = match client.send(request, cancel.deadline) {
            Ok(answer) => {
                let busy = matches!(answer.status, 429 | 500..=599);
                self.attempt.set(if busy { Attempt::Failed } else { Attempt::Answered });
                take(answer)
            }
            Err(error) => return Err((error, client.has_answered())),
        };
        let free = client.is_reusable();
        drop(client);
        let mut idle = lock(&self.pool.idle);
        if let Some(stream) = stream.filter(|_| free && idle.len() < UPSTREAM_KEPT) {
            idle.push((Instant::now(), stream));
        }
        Ok(result)
    }

    /// What an error in the middle of an answer means.
    fn broken(&self, error: &Error) -> Outcome {
        let words = || temporary(&format!("the upstream's answer broke off: {error}"), None);
        self.cancel.reason().map_or_else(words, Outcome::Ended)
    }
}

/// The models of a list, each once, in its order.
fn model_ids(list: &str) -> Vec<String> {
    let data = member(list, "data").unwrap_or_default();
    let mut ids = Vec::new();
    // Each is compared with all before it, so that there is a bound on the repeated ones too.
    for id in elements(data).take(2 * MAX_MODELS).filter_map(|it| string(it, "id")) {
        if ids.len() < MAX_MODELS && !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

fn temporary(words: &str, error: Option<&std::io::Error>) -> Outcome {
    let words = escaped(words, false);
    if error.is_some_and(is_shortage) { Outcome::Short(words) } else { Outcome::Temporary(words) }
}

impl ConnectionPool {
    /// The newest connection that still stands.
    ///
    /// # Errors
    /// The request has ended already; the connection is kept.
    fn take(&self, cancel: &Cancel<'_>) -> Result<Option<TcpStream>, CancelReason> {
        loop {
            let Some((since, stream)) = lock(&self.idle).pop() else { return Ok(None) };
            // What can be read there is its end, or nothing that we have asked for.
            match cancel.wait([Interest::read(stream.as_fd())], Instant::now()) {
                Ok((_, Some(reason))) => {
                    lock(&self.idle).push((since, stream));
                    return Err(reason);
                }
                Ok(([false], None)) if since.elapsed() < UPSTREAM_IDLE => return Ok(Some(stream)),
                Ok(_) | Err(_) => {}
            }
        }
    }

    pub fn close_idle(&self) {
        lock(&self.idle).retain(|(since, _)| since.elapsed() < UPSTREAM_IDLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_request_that_has_ended_costs_the_others_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (pool, now) = (ConnectionPool::default(), Instant::now());
        lock(&pool.idle).extend([(now, connect()), (now, connect())]);
        let ended = pool.take(&Cancel::at(now));
        assert_eq!(ended.map(drop), Err(CancelReason::TimedOut));
        assert_eq!(lock(&pool.idle).len(), 2);
        let later = Cancel::at(now + Duration::from_secs(20));
        assert!(pool.take(&later).unwrap().is_some());
        // One that the server has ended is none.
        drop(listener);
        while pool.take(&later).unwrap().is_some() {}
        assert!(lock(&pool.idle).is_empty());
    }
}
