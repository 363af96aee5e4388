//! The leave that an agent asks for in a turn.

use std::time::{Duration, Instant};

use super::conversation::STOP_GRACE;
use super::driver::{Driver, Open, cancelled};
use super::events::Event;
use super::wire::{self, Update};
use crate::agent::{Answer, Leave, Outcome};
use crate::cancel::Cancel;

/// Decisions of one turn that the log tells: as many as the journal takes.
const MAX_DECISIONS_LOGGED: u32 = 200;

impl Driver<'_, '_> {
    pub fn permission(&mut self, request: &str, call: &Update<'_>, options: &str) {
        let owned = |kind| wire::option(options, kind).map(str::to_owned);
        let (allow, reject) = (owned("allow_once"), owned("reject_once"));
        self.asked = (self.calls.question(call), allow.is_some());
        self.feed(Event::Asked { request: request.to_owned(), allow, reject });
    }

    /// Has somebody decide on the permission that has come last.
    pub fn ask(&mut self, number: u32) -> Option<Event<'static>> {
        let (question, can) = &self.asked;
        if !can {
            self.log(&question.title, false, "the agent does not offer to allow it once only");
            return Some(Event::Decided { number, allowed: false, note: None });
        }
        let leave = self.living.reply.borrow_mut().ask(question, self.living.config.approve);
        let (allowed, note) = match leave {
            Leave::Allowed => {
                self.log(&question.title, true, "agent.approve");
                (true, None)
            }
            Leave::Denied(why) if why.is_empty() => (false, None),
            Leave::Denied(why) => {
                self.log(&question.title, false, &why);
                let title = question.title.trim_end_matches('.');
                let words = format!("(The agent asked for leave: {title}. It was denied: {why}.)");
                (false, Some(words))
            }
            Leave::Asked { id, event } => {
                let now = Instant::now();
                self.stands_since.get_or_insert(now);
                self.answers = Some(event);
                let until = now + self.living.config.approve_timeout;
                let title = question.title.clone();
                self.questions.push(Open { number, id, title, until });
                return None;
            }
        };
        Some(Event::Decided { number, allowed, note })
    }

    pub fn take_answers(&mut self) {
        if let Some(event) = &self.answers {
            event.clear();
        }
        let given = self.living.reply.borrow_mut().answers();
        for answer in given {
            match answer {
                Answer::Given(id, allowed) => {
                    if let Some(at) = self.questions.iter().position(|it| it.id == id) {
                        self.decide(at, allowed, "");
                    }
                }
                Answer::Stopping => {
                    let words = "the gateway stops, and nobody can answer the agent";
                    let outcome = Outcome::Released(words.to_owned());
                    self.feed(Event::Cancel(outcome, STOP_GRACE));
                }
            }
        }
    }

    /// Says what was decided: of turns without a record nothing else does. `by`: empty for an answer.
    fn log(&self, title: &str, allowed: bool, by: &str) {
        // An agent that asks in a loop says nothing new.
        if self.logged.replace(self.logged.get() + 1) >= MAX_DECISIONS_LOGGED {
            return;
        }
        let (id, what) = (self.turn.message_id, if allowed { "given" } else { "denied" });
        let by = if by.is_empty() { "somebody's answer" } else { by };
        log::info!("turn {id}: leave was {what} ({by}): {title}");
    }

    /// A question was decided. After the last one that is open the turn waits for its slot.
    pub fn decide(&mut self, at: usize, allowed: bool, by: &str) {
        let Open { number, title, .. } = self.questions.remove(at);
        self.log(&title, allowed, by);
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
}
