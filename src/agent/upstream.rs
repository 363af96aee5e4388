//! The `upstream` agent: an OpenAI-compatible server. A turn is a chat completion there, and what
//! comes back is passed on as it comes.
//!
//! A request that got nothing back is sent again; once there is a byte of an answer, never.

mod answer;
mod request;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::{Agent, DEFAULT_MODEL, Outcome, Refused, Reply, Turn, TurnLimits};
use crate::config::Url;
use crate::escape::{escaped, quoted};
use crate::json::{elements, member, text};
use crate::outbound::client::{Answer, Error};
use crate::outbound::connect::{Cancel, CancelReason, OutboundRequest, client, connect};
use crate::outbound::curl;
use crate::subprocess::environment;
use crate::sys::poll::{Interest, poll};
use crate::sys::process::is_shortage;
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
const MODELS_PATIENCE: Duration = Duration::from_secs(2);

/// How long the list is remembered.
const MODELS_KEPT: Duration = Duration::from_secs(60);

/// The list itself: some hundred bytes a model, and the largest traders have hundreds.
const MAX_MODELS_BODY: usize = 1 << 20;

/// The models of it that are told: a server that lists more means no choice.
const MAX_MODELS: usize = 2000;

/// What is kept of the server between turns.
#[derive(Debug, Default)]
pub struct ConnectionPool {
    /// Connections that can take another request, and since when; the newest last.
    idle: Mutex<Vec<(Instant, TcpStream)>>,
    /// Its models, and when it named them.
    models: Mutex<Option<(Instant, Vec<String>)>>,
    /// It does not know `stream_options`.
    plain: AtomicBool,
}

/// A request to the server, and what it may need.
pub struct UpstreamClient<'a> {
    agent: &'a Agent,
    url: &'a Url,
    ends: Cancel<'a>,
    /// How often a request is sent again that got nothing back.
    retries: u32,
}

pub fn ends<'a>(bounds: &TurnLimits<'a>) -> Cancel<'a> {
    let TurnLimits { deadline, client, cut, cancel, .. } = *bounds;
    Cancel { deadline, client, cut: Some(cut), cancel, idle: None }
}

/// For a question of our own, which somebody waits for.
pub fn soon<'a>() -> Cancel<'a> {
    let deadline = Instant::now() + MODELS_PATIENCE;
    Cancel { deadline, client: None, cut: None, cancel: None, idle: None }
}

impl<'a> UpstreamClient<'a> {
    /// `None`: the agent has no upstream.
    pub fn new(agent: &'a Agent, ends: Cancel<'a>) -> Option<UpstreamClient<'a>> {
        agent.config.url.as_ref().map(|url| UpstreamClient {
            agent,
            url,
            ends,
            retries: UPSTREAM_RETRIES,
        })
    }

    pub fn run(&self, turn: &Turn<'_>, reply: &mut dyn Reply, max_reply: usize) -> Outcome {
        let reply = RefCell::new(reply);
        // A client that has gone is noticed by its hang-up.
        let idle = || drop(reply.borrow_mut().idle());
        // Whoever waits for it from attempt to attempt need not insist within one.
        let retries = if turn.attempt > 1 { 0 } else { self.retries };
        let asking =
            UpstreamClient { ends: Cancel { idle: Some(&idle), ..self.ends }, retries, ..*self };
        asking.turn(turn, &reply, max_reply)
    }

    fn turn(&self, turn: &Turn<'_>, reply: &RefCell<&mut dyn Reply>, max_reply: usize) -> Outcome {
        let asked = turn.context.map_or("", |context| context.model.as_str());
        let asked = if asked.is_empty() { DEFAULT_MODEL } else { asked };
        let model = match self.model(asked) {
            Ok(model) => model,
            Err(outcome) => return outcome,
        };
        let native = reply.borrow_mut().native().map(|native| native.streams());
        let streams = native.unwrap_or(true);
        let most = self.agent.config.max_history;
        let mut usage = native.is_none() && !self.agent.upstream.plain.load(Ordering::Relaxed);
        let mut plain = false;
        loop {
            let body = match request::body(turn, &model, (streams, native.is_none(), usage), most) {
                Ok(body) => body,
                Err(e) => return trouble(&format!("the transcript cannot be read: {e}"), Some(&e)),
            };
            let mut begun = false;
            let outcome = self.exchange("POST", "/chat/completions", &body, &mut |answer| {
                let reading = answer::ResponseReader { asking: self, reply, asked, max_reply };
                match answer.status {
                    200..=299 if streams => reading.stream(answer, &mut begun),
                    200..=299 => reading.whole(answer, &mut begun),
                    _ => reading.error(answer),
                }
            });
            match outcome {
                // What servers say that do not take a field that they do not know.
                Outcome::Refused(it) if usage && !begun && matches!(it.status, 400 | 422) => {
                    (usage, plain) = (false, true);
                }
                Outcome::Done if plain => {
                    self.agent.upstream.plain.store(true, Ordering::Relaxed);
                    return Outcome::Done;
                }
                outcome => return outcome,
            }
        }
    }

    /// The upstream's name for a model.
    fn model(&self, asked: &str) -> Result<String, Outcome> {
        let config = &self.agent.config;
        if let Some(model) = config.models.get(asked) {
            return Ok(model.clone());
        }
        if asked == DEFAULT_MODEL {
            let listed = || self.listed().and_then(|models| models.into_iter().next());
            let given = Some(&config.model).filter(|model| !model.is_empty()).cloned();
            // One that lists none may take any.
            return Ok(given.or_else(listed).unwrap_or_else(|| DEFAULT_MODEL.to_owned()));
        }
        if config.models.is_empty() {
            return Ok(asked.to_owned());
        }
        let words = format!("There is no model {} here.", quoted(asked));
        let kind = (&*quoted("invalid_request_error"), "\"model\"", "\"model_not_found\"");
        Err(Outcome::Refused(Box::new(Refused::new(404, &words, kind))))
    }

    /// What a client may call a model.
    pub fn models(&self) -> Vec<String> {
        let map = &self.agent.config.models;
        let mut models = if map.is_empty() {
            self.listed().unwrap_or_default()
        } else {
            map.names().into_iter().map(str::to_owned).collect()
        };
        models.retain(|model| model != DEFAULT_MODEL);
        models.insert(0, DEFAULT_MODEL.to_owned());
        models
    }

    /// The upstream's own list, if it tells it soon.
    fn listed(&self) -> Option<Vec<String>> {
        let memory = &self.agent.upstream.models;
        if let Some((at, models)) = &*lock(memory)
            && at.elapsed() < MODELS_KEPT
        {
            return Some(models.clone());
        }
        let deadline = self.ends.deadline.min(Instant::now() + MODELS_PATIENCE);
        let asking = UpstreamClient { ends: Cancel { deadline, ..self.ends }, ..*self };
        let mut models = None;
        asking.exchange("GET", "/models", "", &mut |answer| {
            let status = answer.status;
            if let Ok(body) = answer.body(MAX_MODELS_BODY, deadline) {
                // One that lists none is not asked again for each turn.
                let list = std::str::from_utf8(&body).ok().filter(|_| status == 200);
                models = Some(named(list.unwrap_or_default()));
            }
            Outcome::Done
        });
        if let Some(models) = &models {
            *lock(memory) = Some((Instant::now(), models.clone()));
        }
        models
    }

    /// Sends a request until there is an answer, and hands that over.
    fn exchange(
        &self,
        method: &str,
        path: &str,
        body: &str,
        take: &mut dyn FnMut(Answer<'_, '_>) -> Outcome,
    ) -> Outcome {
        let config = &self.agent.config;
        let key = config.key.as_ref().map(|key| String::from_utf8_lossy(key.bytes()));
        let bearer = key.map(|key| format!("Bearer {key}"));
        let mut headers =
            vec![("User-Agent", concat!("hermes-gateway/", env!("CARGO_PKG_VERSION")))];
        headers.extend(bearer.iter().map(|bearer| ("Authorization", bearer.as_str())));
        if !body.is_empty() {
            headers.push(("Content-Type", "application/json"));
        }
        let escaped = self.url.secure.then(|| body.replace('@', "\\u0040"));
        let body = escaped.as_deref().unwrap_or(body);
        let (url, target, headers) = (self.url, &*self.url.below(path), &headers[..]);
        let call = OutboundRequest { method, url, target, headers, body };
        let mut left = self.retries;
        loop {
            let kept = self.agent.upstream.take();
            let reused = kept.is_some();
            let (error, heard) = match self.once(&call, kept, take) {
                Ok(outcome) => return outcome,
                Err(failed) => failed,
            };
            if let Some(outcome) = self.over() {
                return outcome;
            }
            if reused && !heard {
                // The others are most likely dead too.
                lock(&self.agent.upstream.idle).clear();
                continue;
            }
            let words = format!("the upstream does not answer: {error}");
            match &error {
                Error::Io(e) if is_shortage(e) => return trouble(&words, Some(e)),
                Error::Io(_) | Error::CutShort if !heard && left > 0 => {}
                Error::Io(_) | Error::CutShort | Error::TimedOut | Error::Refused(_) => {
                    return trouble(&words, None);
                }
            }
            left -= 1;
            // It ends early where the turn does, which the next try finds out.
            let _ = self.ends.wait(Interest::none(), Instant::now() + UPSTREAM_PAUSE);
        }
    }

    /// One try. An error comes with whether there was anything of an answer.
    fn once(
        &self,
        call: &OutboundRequest<'_>,
        kept: Option<TcpStream>,
        take: &mut dyn FnMut(Answer<'_, '_>) -> Outcome,
    ) -> Result<Outcome, (Error, bool)> {
        let (ends, config) = (&self.ends, &self.agent.config);
        let unheard = |e| (Error::Io(e), false);
        let plain = (!call.url.secure).then(|| kept.map_or_else(|| connect(call.url, ends), Ok));
        let stream = plain.transpose().map_err(unheard)?;
        let made = match &stream {
            Some(stream) => client(stream, call.url, ends),
            None => {
                let environment = environment(&config.env, &config.pass_env);
                curl::client(&self.agent.children, environment, call, ends)
            }
        };
        let mut client = made.map_err(unheard)?;
        let outcome = match client.call(call, ends) {
            Ok(answer) => take(answer),
            Err(error) => return Err((error, client.has_heard())),
        };
        let free = client.is_free();
        drop(client);
        if let Some(stream) = stream.filter(|_| free) {
            self.agent.upstream.keep(stream);
        }
        Ok(outcome)
    }

    /// How the turn has ended from outside.
    fn over(&self) -> Option<Outcome> {
        self.ends.over().map(|end| match end {
            CancelReason::Cancelled => Outcome::Cancelled,
            CancelReason::ClientGone => Outcome::ClientGone,
            CancelReason::Cut => Outcome::Cut,
            CancelReason::Late => Outcome::TimedOut,
        })
    }

    /// What an error in the middle of an answer means.
    fn broken(&self, error: &Error) -> Outcome {
        let words = || trouble(&format!("the upstream's answer broke off: {error}"), None);
        self.over().unwrap_or_else(words)
    }
}

/// The models of a list, each once, in its order.
fn named(list: &str) -> Vec<String> {
    let mut known = BTreeSet::new();
    let data = member(list, "data").map_or("", RawValue::get);
    let ids = elements(data).filter_map(|model| text(member(model.get(), "id")?).ok());
    let new = ids.filter(|id| known.insert(id.clone()));
    new.take(MAX_MODELS).map(Cow::into_owned).collect()
}

fn trouble(words: &str, error: Option<&std::io::Error>) -> Outcome {
    let words = escaped(words, false);
    if error.is_some_and(is_shortage) { Outcome::Short(words) } else { Outcome::Temporary(words) }
}

impl ConnectionPool {
    /// The newest connection that still stands.
    fn take(&self) -> Option<TcpStream> {
        let mut idle = lock(&self.idle);
        while let Some((since, stream)) = idle.pop() {
            // What can be read there is its end, or nothing that we have asked for.
            let silent = poll(&mut [Interest::read(stream.as_fd())], Some(Duration::ZERO));
            if since.elapsed() < UPSTREAM_IDLE && silent.is_ok_and(|ready| ready == 0) {
                return Some(stream);
            }
        }
        None
    }

    fn keep(&self, stream: TcpStream) {
        let mut idle = lock(&self.idle);
        if idle.len() < UPSTREAM_KEPT {
            idle.push((Instant::now(), stream));
        }
    }

    pub fn rest(&self) {
        lock(&self.idle).retain(|(since, _)| since.elapsed() < UPSTREAM_IDLE);
    }
}
