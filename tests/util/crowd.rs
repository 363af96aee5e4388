//! A crowd of clients, each with a session of its own: they send in order under idempotency keys, ask
//! again when a gateway dies over a request, and keep the books of all that they are told.

use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::api::{is_finished, session_path};
use super::caller::is_late;
use super::http::Response;
use super::ledger::{Accepted, Finish, Ledger};
use super::{Caller, DEADLINE, pause};

/// How many messages of a session may be on their way at once.
const WINDOW: usize = 6;

/// Where the gateway is at the moment, and how many messages each session may have sent by now.
#[derive(Default)]
pub struct Stage {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
pub struct State {
    /// Counts the starts.
    pub start: usize,
    /// `None` before it is ready, and from just before it is killed.
    pub address: Option<SocketAddr>,
    pub allowed: usize,
    /// No more kills, and no more messages.
    pub over: bool,
    /// The killer has failed: nobody need wait for anything any more.
    pub closed: bool,
}

/// Tells the clients when their killer fails.
pub struct Curtain<'a>(pub &'a Stage);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.change(|state| state.closed = true);
        }
    }
}

impl Stage {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.news.notify_all();
    }

    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&state) {
                return found;
            }
            if state.closed {
                // Without another word: what went wrong is said already.
                resume_unwind(Box::new("closed"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(left > Duration::ZERO, "this did not come: {what}");
            state = self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What all clients note down.
#[derive(Default)]
pub struct Books {
    ledger: Mutex<Ledger>,
    /// What they had no reason to expect.
    surprises: Mutex<Vec<String>>,
    hanging: Mutex<Vec<String>>,
}

impl Books {
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn surprises(&self) -> Vec<String> {
        self.surprises.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests whose connection outlived the gateway: who sees some asks what it died of.
    pub fn hanging(&self) -> Vec<String> {
        self.hanging.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn left_hanging(&self, what: String) {
        self.hanging.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn surprise(&self, what: String) {
        self.surprises.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// One session's client: it sends in order, under keys of its own, and asks again when the
/// connection breaks.
pub struct Client<'a> {
    pub session: String,
    pub stage: &'a Stage,
    pub books: &'a Books,
    pub agents: &'a Path,
    pub authorization: &'a str,
    pub connection: Option<(usize, Caller)>,
}

impl Client<'_> {
    /// One request and its answer, however often the gateway dies over it.
    #[track_caller]
    pub fn ask(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Response {
        loop {
            let stage = self.stage;
            let (start, address) =
                stage.wait("a gateway", |state| Some((state.start, state.address?)));
            if self.connection.as_ref().is_none_or(|(of, _)| *of != start) {
                self.connection =
                    Caller::tcp(address, self.authorization).ok().map(|caller| (start, caller));
            }
            let answer = match &mut self.connection {
                Some((_, caller)) => caller.try_ask(method, target, fields, body),
                None => Err(std::io::ErrorKind::NotConnected.into()),
            };
            match answer {
                Ok(answer) => return answer,
                Err(error) => {
                    self.connection = None;
                    let lives = self.stage.lock();
                    if lives.start == start && lives.address.is_some() {
                        let what = format!("{method} {target}: {error}, while the gateway lived");
                        self.books.surprise(what);
                    } else if is_late(&error) {
                        let what =
                            format!("{method} {target}: its gateway died and it was not told");
                        self.books.left_hanging(what);
                    }
                }
            }
        }
    }

    /// Sends a message until it is acknowledged; false where there is no room for it yet.
    fn send(&mut self, text: &str, deliver: bool, key: &str) -> Option<String> {
        let body =
            if deliver { json!({"text": text, "deliver": "out"}) } else { json!({"text": text}) };
        let target = format!("{}/messages", session_path(&self.session));
        loop {
            let answer = self.ask("POST", &target, &[("Idempotency-Key", key)], &body.to_string());
            match answer.status() {
                200 | 202 => {
                    let json = answer.json();
                    let id = json["id"].as_str().expect("an id").to_owned();
                    self.books.ledger().keys.entry(key.to_owned()).or_default().insert(id.clone());
                    return Some(id);
                }
                429 => return None,
                status => {
                    self.books.surprise(format!("POST {target}: {status} {}", answer.text()));
                    pause(Duration::from_millis(20));
                }
            }
        }
    }

    /// Waits a moment for the end of a message; notes it down when it is there.
    fn look_after(&mut self, id: &str) -> bool {
        let answer = self.ask("GET", &format!("/v1/messages/{id}?wait=1"), &[], "");
        if answer.status() != 200 {
            let what = format!("GET {id}: {} {}", answer.status(), answer.text());
            self.books.surprise(what);
            // It stays lost: the audit says so.
            return true;
        }
        let agents_at = fs::metadata(self.agents).map_or(0, |file| file.len());
        let message = answer.json();
        if message["status"] == "done" {
            let attempts = message["attempts"].as_u64().unwrap_or(0);
            let finish = Finish { id: id.to_owned(), attempts, agents_at };
            self.books.ledger().finishes.push(finish);
        }
        is_finished(&message)
    }

    pub fn run(mut self) {
        let mut waiting: VecDeque<String> = VecDeque::new();
        let mut sent = 0;
        loop {
            let (allowed, over) = {
                let state = self.stage.lock();
                (state.allowed, state.over)
            };
            let mut full = waiting.len() >= WINDOW;
            if sent < allowed && !full {
                // One in eight takes longer than the gateway lives, as a rule.
                let kind = if sent % 8 == 3 { "slow" } else { "fast" };
                let text = format!("{}-{sent}-{kind}", self.session);
                let (deliver, key) = (sent % 2 == 0, format!("key-{text}"));
                match self.send(&text, deliver, &key) {
                    None => full = true,
                    Some(id) => {
                        let session = self.session.clone();
                        let accepted =
                            Accepted { session, id: id.clone(), text: text.clone(), deliver };
                        self.books.ledger().accepted.push(accepted);
                        waiting.push_back(id);
                        sent += 1;
                        if sent % 16 == 5 {
                            // Who has its answer may still ask twice.
                            self.send(&text, deliver, &key);
                        }
                    }
                }
            }
            let must_wait = full || sent >= allowed;
            match waiting.front().cloned() {
                Some(id) if must_wait => {
                    let finished = self.look_after(&id);
                    waiting.drain(..usize::from(finished));
                }
                None if over && sent >= allowed => return,
                None if must_wait => {
                    let more = |state: &State| (state.allowed > sent || state.over).then_some(());
                    self.stage.wait("leave to send more", more);
                }
                _ => {}
            }
        }
    }
}
