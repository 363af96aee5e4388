//! One turn as a conversation with its agent: the agent's session is opened, prompted, and cancelled if need
//! be. Pure: what has come is an event, what is to be done about it are actions.

mod opening;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::events::{Action, Event, Opened};
use super::reply_text::ReplyText;
use super::wire::Features;
use crate::agent::{Outcome, too_long};
use crate::cancel::CancelReason;

/// What is said again of a session that is loaded may come after the answer; it is over once nothing has
/// come for so long.
const SILENCE: Duration = Duration::from_millis(300);

/// It is waited for no longer: agents that announce their commands without end are not at it any more.
const LONGEST_REPLAY: Duration = Duration::from_secs(5);

/// What an agent has to answer a cancel.
pub const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// The same where the gateway is about to stop: part of what a stop may take.
pub const STOP_GRACE: Duration = Duration::from_secs(1);

/// Permissions that are open at once: an agent asks for one tool after the other, or for a few.
pub const MAX_PERMISSIONS: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Listing,
    Resuming,
    Loading,
    /// It is loaded, and what was said in it may still come.
    Settling,
    Creating,
    Prompting,
    Cancelling,
    /// The turn is over before its prompt, and the agent is still opening its session.
    Abandoning,
    Over,
}

#[derive(Debug)]
struct Permission {
    number: u32,
    request: String,
    allow: Option<String>,
    reject: Option<String>,
}

/// A turn's conversation.
#[derive(Debug)]
pub struct Conversation {
    state: State,
    features: Features,
    /// The agent's session; empty until there is one.
    session: String,
    /// Whether the agent's list has it; `None`: not known.
    listed: Option<bool>,
    pages: u32,
    /// Something was said again of what was said before.
    replayed: bool,
    settled_by: Option<Instant>,
    timer: Option<Instant>,
    permissions: Vec<Permission>,
    asked: u32,
    /// How the turn ends once its cancel was answered.
    outcome: Option<Outcome>,
    opened: Opened,
    /// A permission was not given.
    denied: bool,
    max_reply: usize,
    reply: ReplyText,
}

impl Conversation {
    /// Begins with a session of the agent's, if one is known and whether it is in the process's memory.
    pub fn begin(
        session: Option<(&str, bool)>,
        features: Features,
        max_reply: usize,
    ) -> (Conversation, Action<'static>) {
        let mut conversation = Conversation {
            state: State::Over,
            features,
            session: session.map_or(String::new(), |(id, _)| id.to_owned()),
            listed: None,
            pages: 0,
            replayed: false,
            settled_by: None,
            timer: None,
            permissions: Vec::new(),
            asked: 0,
            outcome: None,
            opened: Opened::Known,
            denied: false,
            max_reply,
            reply: ReplyText::default(),
        };
        let first = match session {
            Some((_, true)) => conversation.prompt(Opened::Known),
            Some(_) if features.has(Features::LIST) => {
                conversation.go(State::Listing, Action::List(None))
            }
            Some(_) => conversation.restore(),
            None => conversation.go(State::Creating, Action::Create),
        };
        (conversation, first)
    }

    pub fn session(&self) -> &str {
        &self.session
    }

    /// When [`Event::Timer`] is due.
    pub fn timer(&self) -> Option<Instant> {
        self.timer
    }

    /// Whether the answer that is waited for is the one to the prompt, and is wanted.
    pub fn is_prompting(&self) -> bool {
        self.state == State::Prompting
    }

    /// Whether it is the one to a cancelled prompt.
    pub fn is_cancelling(&self) -> bool {
        self.state == State::Cancelling
    }

    /// Whether the turn ends once the agent has answered.
    pub fn is_ending(&self) -> bool {
        matches!(self.state, State::Cancelling | State::Abandoning)
    }

    #[cfg(any(test, fuzzing))]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes what has come at this time.
    pub fn step<'a>(&mut self, now: Instant, event: Event<'a>) -> Vec<Action<'a>> {
        use State::{
            Abandoning, Cancelling, Creating, Listing, Loading, Over, Prompting, Resuming, Settling,
        };
        match (self.state, event) {
            (Over, _) => Vec::new(),
            (Prompting, event) => self.prompting(now, event),
            (Cancelling | Abandoning, event) => self.ending(now, event),

            (Listing, Event::Answered(answer)) => vec![self.listed(answer)],
            (Listing, Event::Refused(_)) => vec![self.restore()],
            (Resuming, Event::Answered(_)) => vec![self.resumed()],
            (Resuming, Event::Refused(_)) => vec![self.load()],
            (Loading, Event::Answered(_)) => {
                (self.state, self.settled_by) = (Settling, Some(now + LONGEST_REPLAY));
                self.timer = Some(now + SILENCE);
                Vec::new()
            }
            (Loading, Event::Refused(_)) => vec![self.create()],
            (Settling, Event::Timer) if self.replayed || self.listed == Some(true) => {
                vec![self.prompt(Opened::Loaded)]
            }
            (Settling, Event::Timer) => vec![self.create()],
            (Settling, Event::Answered(_) | Event::Refused(_)) => Vec::new(),
            (Creating, Event::Answered(answer)) => self.created(answer),
            (Creating, Event::Refused(outcome)) => self.finish(outcome),

            (Loading, Event::Said(_) | Event::Shown(..) | Event::Aside) => {
                self.replayed = true;
                Vec::new()
            }
            (Settling, Event::Said(_) | Event::Shown(..) | Event::Aside) => {
                self.replayed = true;
                self.timer = self.settled_by.map(|latest| latest.min(now + SILENCE));
                Vec::new()
            }
            (Listing | Resuming | Creating, Event::Said(_) | Event::Shown(..) | Event::Aside) => {
                Vec::new()
            }
            (Listing | Resuming | Loading | Creating, Event::Timer) => Vec::new(),

            // Before the prompt there is nothing that would need leave.
            (Listing | Resuming | Loading | Settling | Creating, Event::Asked { request, .. }) => {
                vec![Action::Permit(request, None)]
            }
            (Listing | Resuming | Loading | Settling | Creating, Event::Decided { .. }) => {
                Vec::new()
            }
            (Listing | Resuming | Loading | Creating, Event::Cancel(outcome, grace)) => {
                self.abandon(now + grace, outcome);
                Vec::new()
            }
            (Settling, Event::Cancel(outcome, _)) => self.finish_by(Action::Discard, outcome),
            (Listing | Resuming | Loading | Settling | Creating, Event::Ended(outcome)) => {
                self.finish(outcome)
            }
        }
    }

    /// The prompt is out.
    fn prompting<'a>(&mut self, now: Instant, event: Event<'a>) -> Vec<Action<'a>> {
        match event {
            Event::Answered(answer) => self.stopped(answer.stop_reason.get()),
            Event::Refused(outcome) | Event::Ended(outcome) => self.finish(outcome),
            Event::Said(text) => self.say(now, text),
            Event::Shown(word, json, begins) => {
                self.reply.interrupt(begins);
                shown(word, json)
            }
            Event::Aside | Event::Timer => Vec::new(),
            Event::Asked { request, allow, reject } => {
                self.reply.interrupt(true);
                if self.permissions.len() == MAX_PERMISSIONS {
                    self.denied = true;
                    return vec![Action::Permit(request, reject)];
                }
                self.asked += 1;
                let number = self.asked;
                self.permissions.push(Permission { number, request, allow, reject });
                vec![Action::Ask(number)]
            }
            Event::Decided { number, allowed, note } => self.decide(now, number, allowed, note),
            Event::Cancel(outcome, grace) => self.cancel(now, outcome, grace),
        }
    }

    /// The turn was taken back, and the agent has to answer that, or what it was asked before.
    fn ending<'a>(&mut self, now: Instant, event: Event<'a>) -> Vec<Action<'a>> {
        let is_opening = self.state == State::Abandoning;
        match event {
            Event::Answered(answer) if is_opening && self.is_opened(answer) => {
                let outcome = self.taken_back();
                self.finish_by(Action::Discard, outcome)
            }
            Event::Answered(_) | Event::Refused(_) | Event::Ended(_) => {
                let outcome = self.taken_back();
                self.finish(outcome)
            }
            Event::Shown(word, json, _) if !is_opening => shown(word, json),
            Event::Said(_) | Event::Shown(..) | Event::Aside | Event::Decided { .. } => Vec::new(),
            Event::Asked { request, .. } => vec![Action::Permit(request, None)],
            Event::Cancel(_, grace) => {
                self.timer = self.timer.map(|timer| timer.min(now + grace));
                Vec::new()
            }
            Event::Timer => {
                let outcome = self.taken_back();
                // To open a session takes some agents longer; one that lets a whole turn pass and then
                // this time will not answer another turn either.
                let patient = is_opening && outcome != Outcome::Ended(CancelReason::TimedOut);
                let last = if patient { Action::Discard } else { Action::EndProcess };
                self.finish_by(last, outcome)
            }
        }
    }

    fn taken_back(&mut self) -> Outcome {
        self.outcome.take().unwrap_or(Outcome::Ended(CancelReason::Cancelled))
    }

    fn finish_by(&mut self, last: Action<'static>, outcome: Outcome) -> Vec<Action<'static>> {
        let mut actions = vec![last];
        actions.extend(self.finish(outcome));
        actions
    }

    /// The agent has ended the turn for this reason, and nobody cancelled it. An unknown reason, or none, means
    /// that it has said all.
    fn stopped(&mut self, reason: &str) -> Vec<Action<'static>> {
        let failed = |words: &str| Outcome::Failed(words.to_owned());
        let outcome = match reason {
            // Some answer so in a session that they do not have, though they have opened it.
            "refusal" if self.opened.is_restored() && self.reply.bytes == 0 => {
                let mut actions = self.withdraw();
                actions.push(self.create());
                return actions;
            }
            "refusal" => failed("the agent refused to go on (stopReason refusal)"),
            // What some end a turn with that may not do what they want to.
            "cancelled" if !self.denied => {
                failed("the agent says that the turn was cancelled, which nobody did")
            }
            _ => Outcome::Done,
        };
        self.finish(outcome)
    }

    fn say<'a>(&mut self, now: Instant, text: &'a str) -> Vec<Action<'a>> {
        let text = self.reply.next(text);
        if text.is_empty() {
            return Vec::new();
        }
        if self.reply.bytes > self.max_reply {
            return self.cancel(now, too_long(self.max_reply), CANCEL_GRACE);
        }
        vec![Action::Say(text)]
    }

    fn decide(
        &mut self,
        now: Instant,
        number: u32,
        allowed: bool,
        note: Option<String>,
    ) -> Vec<Action<'static>> {
        let Some(at) = self.permissions.iter().position(|it| it.number == number) else {
            return Vec::new();
        };
        let Permission { request, allow, reject, .. } = self.permissions.remove(at);
        self.denied |= !allowed;
        let mut actions = vec![Action::Permit(request, if allowed { allow } else { reject })];
        if let Some(note) = note {
            self.reply.interrupt(true);
            let said = self.say(now, &note).into_iter().map(|action| match action {
                Action::Say(text) => Action::Say(Cow::Owned(text.into_owned())),
                Action::Permit(request, option) => Action::Permit(request, option),
                _ => Action::Cancel,
            });
            actions.extend(said);
            self.reply.interrupt(true);
        }
        actions
    }

    fn cancel(&mut self, now: Instant, outcome: Outcome, grace: Duration) -> Vec<Action<'static>> {
        let mut actions = self.withdraw();
        actions.push(Action::Cancel);
        (self.state, self.timer) = (State::Cancelling, Some(now + grace));
        self.outcome = Some(outcome);
        actions
    }

    /// Answers every permission that is open: without that some agents never end a turn.
    fn withdraw(&mut self) -> Vec<Action<'static>> {
        let mut actions = Vec::new();
        for Permission { request, .. } in self.permissions.drain(..) {
            actions.push(Action::Permit(request, None));
        }
        actions
    }

    fn finish(&mut self, outcome: Outcome) -> Vec<Action<'static>> {
        let mut actions = self.withdraw();
        actions.push(Action::Finish(outcome));
        (self.state, self.timer) = (State::Over, None);
        actions
    }
}

fn shown(word: &'static str, json: String) -> Vec<Action<'static>> {
    if json.is_empty() { Vec::new() } else { vec![Action::Show(word, json)] }
}
