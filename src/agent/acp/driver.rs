//! Runs a turn: brings together the conversation, the process's lines, the reply, and what ends the turn.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::conversation::{Action, CANCEL_GRACE, Conversation, Event, Opened, STOP_GRACE};
use super::updates::{Calls, Shown};
use super::wire::{self, Answer, Features, Message, Refusal, Update};
use super::{prompt, updates};
use crate::agent::living::{Address, Directory, Inbox, Input, LivingTurn, Process};
use crate::agent::{
    AgentSession, Answer as Given, ErrorResponse, Leave, Outcome, Question, Report, Turn,
};
use crate::cancel::{Cancel, CancelReason};
use crate::config;
use crate::digest::{hex, sha256_framed};
use crate::escape::{escaped, first_chars, quoted};
use crate::limits::KEEP_ALIVE;
use crate::sys::fd::EventFd;
use crate::sys::gather::Gather;
use crate::sys::poll::Interest;
use crate::sys::process::is_shortage;

/// Of an agent's error message, for whoever gets it.
const MAX_ERROR: usize = 1000;

/// A question that somebody was asked.
struct Open {
    /// The permission's number.
    number: u32,
    id: String,
    until: Instant,
}

struct Driver<'a, 'r> {
    process: &'a Process,
    living: &'a LivingTurn<'a, 'r>,
    turn: &'a Turn<'a>,
    features: Features,
    /// Which agent it is, as sessions remember it.
    agent: String,
    inbox: Arc<Inbox>,
    conversation: Conversation,
    /// What the inbox is open for.
    session: Option<Address>,
    request: Option<Address>,
    /// Of a session that is not in memory yet, and of one that ends with the turn.
    directory: Option<Directory>,
    /// The agent's session is new, and was not told of yet.
    is_new: bool,
    calls: Calls,
    /// The permission that has come last: what it is about, and whether it can be given.
    asked: (Question, bool),
    questions: Vec<Open>,
    /// Raised when there are answers.
    answers: Option<Arc<EventFd>>,
    /// Since when the clock stands still.
    stands_since: Option<Instant>,
    deadline: Instant,
    silent_since: Instant,
    outcome: Option<Outcome>,
}

pub fn run(process: &Process, living: &LivingTurn<'_, '_>) -> Outcome {
    let failed = |e: &io::Error| {
        let words = format!("the gateway cannot exchange data with the agent: {e}");
        if is_shortage(e) { Outcome::Short(words) } else { Outcome::Temporary(words) }
    };
    let turn = living.turn;
    let inbox = match Inbox::new() {
        Ok(inbox) => inbox,
        Err(e) => return failed(&e),
    };
    let agent = name(living.config);
    let known = turn.agent_session.filter(|session| session.agent == agent);
    let known = known.map(|session| (session.id.as_str(), process.has_session(&session.id)));
    let mut directory = None;
    if !matches!(known, Some((_, true))) {
        let names = (turn.session_name, turn.message_id);
        match Directory::of(living.config.directory.as_deref(), living.data, names) {
            Ok(made) => directory = Some(made),
            Err(why) => return Outcome::Temporary(why),
        }
    }
    let features = Features(process.features.load(Ordering::Relaxed));
    let (conversation, first) = Conversation::begin(known, features, turn.max_reply);
    let mut driver = Driver {
        process,
        living,
        turn,
        features,
        agent,
        inbox,
        conversation,
        session: None,
        request: None,
        directory,
        is_new: false,
        calls: Calls::default(),
        asked: (Question::default(), false),
        questions: Vec::new(),
        answers: None,
        stands_since: None,
        deadline: living.cancel.deadline,
        silent_since: Instant::now(),
        outcome: None,
    };
    driver.listen();
    if let Some(event) = driver.act(first) {
        driver.feed(event);
    }
    let outcome = loop {
        if let Some(outcome) = driver.outcome.take() {
            break outcome;
        }
        if let Err(e) = driver.turn_over() {
            driver.feed(Event::Cancel(failed(&e), STOP_GRACE));
        }
    };
    driver.leave();
    outcome
}

/// Which agent it is: with another command or directory, ids of sessions mean something else.
fn name(config: &config::Agent) -> String {
    let directory =
        config.directory.as_ref().map_or(&b""[..], |it| it.as_os_str().as_encoded_bytes());
    let command = config.command.iter().map(|part| part.as_bytes());
    hex(&sha256_framed(&std::iter::once(directory).chain(command).gather())[..12])
}

/// A cancel for this reason, and what the agent has for it.
fn cancelled(reason: CancelReason) -> Event<'static> {
    let grace = if reason == CancelReason::Aborted { STOP_GRACE } else { CANCEL_GRACE };
    Event::Cancel(Outcome::Ended(reason), grace)
}

impl Driver<'_, '_> {
    /// Waits for something, and takes what has come.
    fn turn_over(&mut self) -> io::Result<()> {
        let (inbox, answers, reason) = self.wait()?;
        if inbox {
            self.inbox.event.clear();
            while self.outcome.is_none()
                && let Some(input) = self.inbox.take()
            {
                match input {
                    Input::Line(line) => self.line(&line),
                    Input::Ended(outcome) => self.ended(outcome),
                }
            }
        }
        if answers {
            self.take_answers();
        }
        let now = Instant::now();
        while let Some(at) = self.questions.iter().position(|it| it.until <= now) {
            let why = "nobody answered within agent.approve_timeout";
            let given = self.living.reply.borrow_mut().withdraw(&self.questions[at].id, why);
            self.decide(at, given.unwrap_or(false));
        }
        if self.conversation.timer().is_some_and(|timer| timer <= now) {
            self.feed(Event::Timer);
        }
        let mut ended = reason;
        if now >= self.silent_since + KEEP_ALIVE {
            self.silent_since = now;
            let gone = self.living.cancel.idle.is_some_and(|idle| idle().is_err());
            ended = ended.or(gone.then_some(CancelReason::ClientGone));
        }
        if let Some(reason) = ended {
            self.feed(cancelled(reason));
        }
        Ok(())
    }

    /// Says whether lines and answers have come, and what has ended the turn.
    fn wait(&self) -> io::Result<(bool, bool, Option<CancelReason>)> {
        let mut until = self.silent_since + KEEP_ALIVE;
        let timers = self.questions.iter().map(|question| question.until);
        timers.chain(self.conversation.timer()).for_each(|at| until = until.min(at));
        let mut cancel = self.living.cancel;
        // A question has its own time, and so does a cancel.
        cancel.deadline = self.stands_since.map_or(self.deadline, |_| until + KEEP_ALIVE);
        if self.conversation.is_cancelling() {
            let abort = cancel.abort.filter(|_| !self.is_stopping());
            cancel = Cancel { abort, ..Cancel::at(until + KEEP_ALIVE) };
        }
        let answers = self.answers.as_ref().filter(|_| !self.questions.is_empty());
        let answers = Interest::read(answers.map(|event| event.as_fd()));
        let inbox = Interest::read(self.inbox.event.as_fd());
        let ([inbox, answers], reason) = cancel.wait([inbox, answers], until)?;
        Ok((inbox, answers, reason))
    }

    /// Whether the agent has no more time than a stop leaves it.
    fn is_stopping(&self) -> bool {
        let latest = Instant::now() + STOP_GRACE;
        self.conversation.timer().is_some_and(|timer| timer <= latest)
    }

    /// Has the conversation take an event, and what follows from it.
    fn feed(&mut self, event: Event<'_>) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            for action in self.conversation.step(Instant::now(), event) {
                next = self.act(action).or(next);
            }
            self.listen();
        }
        if !self.conversation.is_prompting() {
            for question in self.questions.drain(..) {
                self.living.reply.borrow_mut().withdraw(&question.id, "the turn was ended");
            }
            self.stands_since = None;
        }
    }

    /// Has lines of the agent's session come here.
    fn listen(&mut self) {
        let id = self.conversation.session();
        if matches!(&self.session, Some(Address::Session(known)) if known == id) {
            return;
        }
        if let Some(address) = self.session.take() {
            self.process.close(&address);
            if let Address::Session(before) = &address {
                self.process.remove_session(before);
            }
        }
        if !id.is_empty() {
            let address = Address::Session(id.to_owned());
            self.process.open(address.clone(), &self.inbox);
            self.session = Some(address);
        }
    }

    /// Does something; returned is what comes of it at once.
    fn act(&mut self, action: Action<'_>) -> Option<Event<'static>> {
        match action {
            Action::List(cursor) => {
                self.request(|id, driver| wire::list(id, driver.cwd(), cursor.as_deref()));
            }
            Action::Resume => self.open("session/resume"),
            Action::Load => self.open("session/load"),
            Action::Create => self.open("session/new"),
            Action::Prompt(opened) => return self.prompt(opened),
            Action::Cancel => self.process.send(wire::cancel(self.conversation.session())),
            Action::Permit(request, option) => {
                self.process.send(wire::permit(&request, option.as_deref()));
            }
            Action::Ask(number) => return self.ask(number),
            Action::Say(text) => {
                self.silent_since = Instant::now();
                let gone = self.living.reply.borrow_mut().chunk(&text).is_err();
                return gone.then(|| cancelled(CancelReason::ClientGone));
            }
            Action::Show(word, json) => self.living.reply.borrow_mut().event(word, &json),
            Action::EndProcess => {
                log::warn!(
                    "turn {}: the agent does not answer; its process is ended",
                    self.turn.message_id
                );
                let words = "the agent's process was ended, since it did not answer another turn";
                self.process.end(Outcome::Released(words.to_owned()), false);
            }
            Action::Finish(outcome) => self.outcome = Some(outcome),
        }
        None
    }

    fn cwd(&self) -> &std::path::Path {
        self.directory.as_ref().map_or("/".as_ref(), |directory| &directory.path)
    }

    fn open(&mut self, method: &str) {
        let session = self.conversation.session().to_owned();
        let session = Some(session.as_str()).filter(|it| !it.is_empty());
        self.request(|id, driver| wire::open(id, method, session, driver.cwd()));
    }

    /// Sends a request whose answer is waited for.
    fn request(&mut self, words: impl FnOnce(u64, &Self) -> String) {
        let number = self.process.next_request();
        let address = Address::Request(number);
        self.process.open(address.clone(), &self.inbox);
        if let Some(before) = self.request.replace(address) {
            self.process.close(&before);
        }
        self.process.send(words(number, self));
    }

    /// Sends the prompt to a session that was opened like this.
    fn prompt(&mut self, opened: Opened) -> Option<Event<'static>> {
        self.listen();
        let id = self.conversation.session().to_owned();
        let images = self.features.has(Features::IMAGE);
        let mut before = None;
        self.is_new = opened == Opened::New;
        if self.is_new {
            match prompt::said_before(self.turn, self.living.config.max_history) {
                Ok(said) => before = Some(said),
                Err(e) => return Some(unreadable(&e)),
            }
        }
        let first = before.as_ref().map(Option::as_deref);
        let blocks = match prompt::blocks(self.turn, first, images) {
            Ok(blocks) => blocks,
            Err(e) => return Some(unreadable(&e)),
        };
        let how = match opened {
            Opened::Known => "",
            Opened::New if first.flatten().is_some() => "restored",
            Opened::New => "new",
            Opened::Resumed => "resumed",
            Opened::Loaded => "loaded",
        };
        if !how.is_empty() {
            self.process.add_session(&id, self.is_new.then_some([0; 3]));
            log::debug!("turn {}: the agent's session {id:?} is {how}", self.turn.message_id);
            let json = format!(r#"{{"how":"{how}","agent_session_id":{}}}"#, quoted(&id));
            self.living.reply.borrow_mut().event("agent_session", &json);
        }
        let meta = prompt::meta(self.turn);
        self.request(|number, _| wire::prompt(number, &id, &blocks, &meta));
        None
    }

    fn line(&mut self, line: &str) {
        match wire::read(line) {
            Ok(Message::Answer(Ok(answer))) => {
                self.keep();
                if self.conversation.is_prompting() || self.conversation.is_cancelling() {
                    self.report(&answer);
                }
                let cancelled = answer.stop_reason.get() == "cancelled";
                if self.conversation.is_cancelling() && !cancelled {
                    self.distrust();
                }
                self.feed(Event::Answered(&answer));
            }
            Ok(Message::Answer(Err(refusal))) => {
                if self.conversation.is_cancelling() {
                    self.keep();
                    self.distrust();
                }
                let outcome = self.refused(&refusal);
                self.feed(Event::Refused(outcome));
            }
            Ok(Message::Update(update)) => self.update(&update),
            Ok(Message::Permission(request, call, options)) => {
                self.permission(request, &call, options);
            }
            Ok(Message::Other) => {}
            Err(why) => {
                self.process.complain(&format!("a line of its is no JSON ({why})"), line);
                match wire::route(line) {
                    Some(wire::Route::Request(_)) => {
                        let words = "the agent's answer is no JSON".to_owned();
                        self.feed(Event::Refused(Outcome::Temporary(words)));
                    }
                    Some(wire::Route::Session(_, Some(request))) => {
                        self.process.send(wire::permit(request, None));
                    }
                    Some(_) | None => {}
                }
            }
        }
    }

    fn update(&mut self, update: &Update<'_>) {
        match updates::shown(update, &mut self.calls) {
            Shown::Text => self.feed(Event::Said(&update.text())),
            Shown::Aside => self.feed(Event::Aside),
            Shown::Event(word, json) => {
                if !json.is_empty() && self.conversation.is_prompting() {
                    log::debug!("turn {}: {word} {}", self.turn.message_id, escaped(&json, false));
                }
                self.feed(Event::Shown(word, json));
            }
            Shown::Nothing => {}
        }
    }

    fn permission(&mut self, request: &str, call: &Update<'_>, options: &str) {
        let owned = |kind| wire::option(options, kind).map(str::to_owned);
        let (allow, reject) = (owned("allow_once"), owned("reject_once"));
        self.asked = (self.calls.question(call), allow.is_some());
        self.feed(Event::Asked { request: request.to_owned(), allow, reject });
    }

    /// Has somebody decide on the permission that has come last.
    fn ask(&mut self, number: u32) -> Option<Event<'static>> {
        let (question, can) = &self.asked;
        if !can {
            log::warn!(
                "turn {}: denied, since the agent does not offer to allow it once only: {}",
                self.turn.message_id,
                question.title
            );
            return Some(Event::Decided { number, allowed: false, note: None });
        }
        let leave = self.living.reply.borrow_mut().ask(question, self.living.config.approve);
        let (allowed, note) = match leave {
            Leave::Allowed => (true, None),
            Leave::Denied(why) if why.is_empty() => (false, None),
            Leave::Denied(why) => {
                let title = question.title.trim_end_matches('.');
                let words = format!("(The agent asked for leave: {title}. It was denied: {why}.)");
                (false, Some(words))
            }
            Leave::Asked { id, event } => {
                let now = Instant::now();
                self.stands_since.get_or_insert(now);
                self.answers = Some(event);
                let until = now + self.living.config.approve_timeout;
                self.questions.push(Open { number, id, until });
                return None;
            }
        };
        Some(Event::Decided { number, allowed, note })
    }

    fn take_answers(&mut self) {
        if let Some(event) = &self.answers {
            event.clear();
        }
        let given = self.living.reply.borrow_mut().answers();
        for answer in given {
            match answer {
                Given::Given(id, allowed) => {
                    if let Some(at) = self.questions.iter().position(|it| it.id == id) {
                        self.decide(at, allowed);
                    }
                }
                Given::Stopping => {
                    let words = "the gateway stops, and nobody can answer the agent";
                    let outcome = Outcome::Released(words.to_owned());
                    self.feed(Event::Cancel(outcome, STOP_GRACE));
                }
            }
        }
    }

    /// A question was answered. After the last one that is open the turn waits for its slot.
    fn decide(&mut self, at: usize, allowed: bool) {
        let Open { number, .. } = self.questions.remove(at);
        if self.questions.is_empty() {
            // Neither its clock nor the client is looked at meanwhile: `idle` needs the reply.
            let deadline = Instant::now() + self.living.config.turn_timeout;
            let cancel = Cancel { deadline, idle: None, ..self.living.cancel };
            let resumed = self.living.reply.borrow_mut().resume(&cancel);
            self.deadline +=
                self.stands_since.take().map_or(Duration::ZERO, |since| since.elapsed());
            if let Err(reason) = resumed {
                return self.feed(cancelled(reason));
            }
        }
        self.feed(Event::Decided { number, allowed, note: None });
    }

    fn ended(&mut self, outcome: Outcome) {
        if self.process.outcome().is_none() && !self.conversation.session().is_empty() {
            // More has come than may wait: the agent has to stop, and its session is opened anew.
            self.process.send(wire::cancel(self.conversation.session()));
            self.process.remove_session(self.conversation.session());
        }
        self.feed(Event::Ended(outcome));
    }

    /// The agent has taken its first prompt, and with it what was said before: its session is worth keeping.
    fn keep(&mut self) {
        if self.is_new && !self.turn.session_name.is_empty() {
            let id = self.conversation.session().to_owned();
            let session = AgentSession { agent: self.agent.clone(), id };
            self.living.reply.borrow_mut().keep_session(&session);
            self.is_new = false;
        }
    }

    /// The agent has answered a cancel with something else, and may take the turn for one that still runs: no
    /// later one may be given to this process.
    fn distrust(&self) {
        let id = self.turn.message_id;
        log::info!(
            "turn {id}: its cancel was answered wrongly; the agent's process takes no more turns"
        );
        self.process.retire();
    }

    /// What the answer to the prompt tells beside the reply.
    fn report(&mut self, answer: &Answer<'_>) {
        let reason = answer.stop_reason.get();
        let finish =
            matches!(reason, "max_tokens" | "max_turn_requests").then(|| "length".to_owned());
        let usage = answer.tokens().and_then(|(used, in_all)| {
            let id = self.conversation.session();
            let before = self.process.used(id);
            self.process.add_session(id, Some(used));
            let [input, output, all] = if in_all && !self.features.has(Features::OWN_USAGE) {
                updates::difference(before?, used).unwrap_or_else(|| {
                    self.process.features.fetch_or(Features::OWN_USAGE, Ordering::Relaxed);
                    used
                })
            } else {
                used
            };
            Some(format!(
                r#"{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{all}}}"#
            ))
        });
        if usage.is_some() || finish.is_some() {
            let report = Report { usage, finish, ..Report::default() };
            self.living.reply.borrow_mut().report(report);
        }
    }

    /// How a turn ends by an error of the agent's.
    fn refused(&self, refusal: &Refusal) -> Outcome {
        let Refusal { code, message, status } = refusal;
        let message = escaped(&first_chars(message, MAX_ERROR), false);
        if let Some(status) = *status {
            let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
            let response = ErrorResponse::new(status, &message, (&quoted(kind), "null", "null"));
            return Outcome::ErrorResponse(Box::new(response));
        }
        let words = format!("the agent answered with the error {code}: {message}");
        match *code {
            wire::AUTHENTICATION_REQUIRED => Outcome::Failed(format!(
                "{words}; log it in as the user that runs the gateway, by its own command for that, or \
                 give it its key with agent.env or agent.pass_env"
            )),
            wire::NOT_FOUND => {
                // It may have forgotten the session: then that is opened anew.
                self.process.remove_session(self.conversation.session());
                Outcome::Temporary(words)
            }
            wire::REQUEST_CANCELLED | wire::WRONG_PARAMETERS..=wire::WRONG_REQUEST => {
                Outcome::Failed(words)
            }
            _ => Outcome::Temporary(words),
        }
    }

    /// Leaves the process to others.
    fn leave(&mut self) {
        self.inbox.end(Outcome::Done);
        self.session.iter().chain(&self.request).for_each(|address| self.process.close(address));
        while let Some(Input::Line(line)) = self.inbox.take() {
            if let Some(wire::Route::Session(_, Some(request))) = wire::route(&line) {
                self.process.send(wire::permit(request, None));
            }
        }
        let id = self.conversation.session();
        let is_over = self.turn.session_name.is_empty() || self.is_new;
        if is_over && !id.is_empty() && self.features.has(Features::CLOSE) {
            self.process.send(wire::close(id));
            self.process.remove_session(id);
        }
    }
}

fn unreadable(e: &io::Error) -> Event<'static> {
    let words = format!("what was said or attached cannot be read: {e}");
    let short = is_shortage(e);
    Event::Ended(if short { Outcome::Short(words) } else { Outcome::Temporary(words) })
}
