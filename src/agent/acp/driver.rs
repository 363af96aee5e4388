//! Runs a turn: brings together the conversation, the process's lines, the reply, and what ends the turn.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::conversation::{CANCEL_GRACE, Conversation, STOP_GRACE};
use super::events::{Action, Event};
use super::updates::{Calls, Shown};
use super::wire::{self, Features, Message, Update};
use super::{directories, requests, updates};
use crate::agent::living::{Address, Directory, Inbox, Input, LivingTurn, Process};
use crate::agent::{Outcome, Question, Turn};
use crate::cancel::{Cancel, CancelReason};
use crate::escape::escaped;
use crate::limits::KEEP_ALIVE;
use crate::sys::fd::EventFd;
use crate::sys::process::is_shortage;

/// A question that somebody was asked.
pub struct Open {
    /// The permission's number.
    pub number: u32,
    pub id: String,
    /// What it is about, for the log.
    pub title: String,
    pub until: Instant,
}

/// A turn that runs.
pub struct Driver<'a, 'r> {
    pub process: &'a Process,
    pub living: &'a LivingTurn<'a, 'r>,
    pub turn: &'a Turn<'a>,
    pub features: Features,
    /// Which agent it is, as sessions remember it.
    pub agent: String,
    pub inbox: Arc<Inbox>,
    pub conversation: Conversation,
    /// What the inbox is open for.
    pub session: Option<Address>,
    pub request: Option<Address>,
    /// Of a session that is not in memory yet, and of one that ends with the turn.
    pub directory: Option<Directory>,
    /// The agent's session may be empty: what was said before goes along with the prompt, which it has not
    /// taken yet.
    pub is_new: bool,
    pub calls: Calls,
    /// The permission that has come last: what it is about, and whether it can be given.
    pub asked: (Question, bool),
    pub questions: Vec<Open>,
    /// Decisions that were made.
    pub logged: Cell<u32>,
    /// Raised when there are answers.
    pub answers: Option<Arc<EventFd>>,
    /// Since when the clock stands still.
    pub stands_since: Option<Instant>,
    pub deadline: Instant,
    pub silent_since: Instant,
    pub outcome: Option<Outcome>,
}

pub fn run(process: &Process, living: &LivingTurn<'_, '_>) -> Outcome {
    let failed = |e: &io::Error| {
        temporary(&format!("the gateway cannot exchange data with the agent: {e}"), e)
    };
    let turn = living.turn;
    let inbox = match Inbox::new() {
        Ok(inbox) => inbox,
        Err(e) => return failed(&e),
    };
    let in_session = !turn.session_name.is_empty();
    let agent = if in_session { Driver::name(living.config) } else { String::new() };
    let known = turn.agent_session.filter(|session| session.agent == agent);
    let known = known.map(|session| (session.id.as_str(), process.has_session(&session.id)));
    let mut directory = None;
    if !matches!(known, Some((_, true))) {
        match directories::take(process, living) {
            Ok(taken) => directory = Some(taken),
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
        logged: Cell::new(0),
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
            // Nothing can be waited for any more.
            driver.feed(Event::Timer);
        }
    };
    driver.leave();
    if let Some(directory) = driver.directory.take() {
        directories::leave(process, living, directory, &outcome);
    }
    outcome
}

/// A cancel for this reason, and what the agent has for it.
pub fn cancelled(reason: CancelReason) -> Event<'static> {
    let grace = if reason == CancelReason::Aborted { STOP_GRACE } else { CANCEL_GRACE };
    Event::Cancel(Outcome::Ended(reason), grace)
}

impl Driver<'_, '_> {
    /// Waits for something, and takes what has come.
    fn turn_over(&mut self) -> io::Result<()> {
        let (answers, reason) = self.wait()?;
        while self.outcome.is_none()
            && let Some(input) = self.inbox.take()
        {
            match input {
                Input::Line(line) => self.line(&line),
                Input::Ended(outcome) => self.ended(outcome),
            }
        }
        if answers {
            self.take_answers();
        }
        let now = Instant::now();
        while let Some(at) = self.questions.iter().position(|it| it.until <= now) {
            let (id, by) = (&self.questions[at].id, "agent.approve_timeout");
            let given = self.living.reply.borrow_mut().withdraw(id, by);
            self.decide(at, given.unwrap_or(false), if given.is_some() { "" } else { by });
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

    /// Says whether answers have come, and what has ended the turn.
    fn wait(&self) -> io::Result<(bool, Option<CancelReason>)> {
        let mut until = self.silent_since + KEEP_ALIVE;
        let timers = self.questions.iter().map(|question| question.until);
        timers.chain(self.conversation.timer()).for_each(|at| until = until.min(at));
        let mut cancel = self.living.cancel;
        // A question has its own time, and so does a cancel.
        cancel.deadline = self.stands_since.map_or(self.deadline, |_| until + KEEP_ALIVE);
        if self.conversation.is_ending() {
            let abort = cancel.abort.filter(|_| !self.is_stopping());
            cancel = Cancel { abort, ..Cancel::at(until + KEEP_ALIVE) };
        }
        let answers = self.answers.as_ref().filter(|_| !self.questions.is_empty());
        self.process.wait(&self.inbox, answers.map(|event| event.as_fd()), &cancel, until)
    }

    /// Whether the agent has no more time than a stop leaves it.
    fn is_stopping(&self) -> bool {
        let latest = Instant::now() + STOP_GRACE;
        self.conversation.timer().is_some_and(|timer| timer <= latest)
    }

    /// Has the conversation take an event, and what follows from it.
    pub fn feed(&mut self, event: Event<'_>) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            for action in self.conversation.step(Instant::now(), event) {
                next = self.act(action).or(next);
            }
            self.listen();
        }
        if !self.conversation.is_prompting() {
            for question in self.questions.drain(..) {
                // Nobody has denied it.
                self.living.reply.borrow_mut().withdraw(&question.id, "");
            }
            self.stands_since = None;
        }
    }

    /// Has lines of the agent's session come here.
    pub fn listen(&mut self) {
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
                self.request(|id, driver| requests::list(id, driver.cwd(), cursor.as_deref()));
            }
            Action::Resume => self.open("session/resume"),
            Action::Load => self.open("session/load"),
            Action::Create => self.open("session/new"),
            Action::Prompt(opened) => return self.prompt(opened),
            Action::Cancel => self.process.send(requests::cancel(self.conversation.session())),
            Action::Permit(request, option) => {
                self.process.answer(requests::permit(&request, option.as_deref()));
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
            Action::Discard => {
                self.is_new = true;
                let id = self.conversation.session();
                // One whose id has not come yet counts as well.
                let id = if id.is_empty() { format!("{:?}", self.request) } else { id.to_owned() };
                self.process.add_session(&id, None);
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
        self.request(|id, driver| requests::open(id, method, session, driver.cwd()));
    }

    /// Sends a request whose answer is waited for.
    pub fn request(&mut self, words: impl FnOnce(u64, &Self) -> String) {
        let number = self.process.next_request();
        let address = Address::Request(number);
        self.process.open(address.clone(), &self.inbox);
        if let Some(before) = self.request.replace(address) {
            self.process.close(&before);
        }
        self.process.send(words(number, self));
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
                        self.process.answer(requests::permit(request, None));
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
                let begins = update.session_update.get() == "tool_call";
                self.feed(Event::Shown(word, json, begins));
            }
            Shown::Nothing => {}
        }
    }

    fn ended(&mut self, outcome: Outcome) {
        if self.process.outcome().is_none() && !self.conversation.session().is_empty() {
            // More has come than may wait. The agent has to stop, and is not waited for: it may be at the
            // prompt still when the next turn begins, in another process.
            self.process.send(requests::cancel(self.conversation.session()));
            self.process.retire();
        }
        self.feed(Event::Ended(outcome));
    }

    /// Leaves the process to others.
    fn leave(&mut self) {
        self.inbox.end(Outcome::Done);
        self.session.iter().chain(&self.request).for_each(|address| self.process.close(address));
        while let Some(Input::Line(line)) = self.inbox.take() {
            if let Some(wire::Route::Session(_, Some(request))) = wire::route(&line) {
                self.process.answer(requests::permit(request, None));
            }
        }
        let id = self.conversation.session();
        let is_over = self.turn.session_name.is_empty() || self.is_new;
        let closes = self.features.has(Features::CLOSE);
        if is_over && !id.is_empty() && closes {
            self.process.send(requests::close(id));
        }
        // One that has an id of before is opened again by the next turn. Others are counted as long as they
        // may be there.
        let known = self.turn.agent_session.is_some_and(|session| session.id == id);
        if is_over && (closes || known) {
            self.process.remove_session(id);
        }
    }
}

/// A failure of the system's.
pub fn temporary(words: &str, e: &io::Error) -> Outcome {
    let short = is_shortage(e);
    if short { Outcome::Short(words.to_owned()) } else { Outcome::Temporary(words.to_owned()) }
}
