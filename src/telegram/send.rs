//! Sending: what becomes of the gateway's parts, edits and typing, within Telegram's limits. Pure.
//!
//! In a chat one call is made after the other, in the order of the gateway's lines; `typing` is beside them, and is
//! dropped wherever something waits. What Telegram has asked to leave alone gets its receipt at once, since the
//! gateway repeats it; what only the pace holds back waits here, a few seconds at most. A preview does not: by then
//! there is a newer text. What has no receipt, as the answer to a button, waits for both.

mod pace;
mod request;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::call::{Call, Failure, Outcome, Refusal};
use super::lines::{self, Failed, FromGateway, Kind, Send};
use crate::exit::Exit;
use pace::{NO_CHAT, Pace};

/// A preview that had to wait for longer would hold up the reply.
const PREVIEW_WAITS: Duration = Duration::from_secs(1);

/// Of what has no receipt and so no window of the protocol, so many wait; of `typing` so many are under way.
const MAX_SILENT: usize = 64;
const MAX_TYPING: usize = 4;

/// The method that is made again until it succeeds, and the pause after a failure.
pub const MENU: &str = "setMyCommands";
const MENU_PAUSE: Duration = Duration::from_secs(60);

/// Messages whose text is known, so that the same one is not sent again: as many as replies are made at once.
const MAX_SHOWN: usize = 64;

const NEWER: &str = "there is a newer text";
const WAIT: &str = "Telegram has asked to wait";
const UNAUTHORIZED: &str = "Telegram does not know the bot's token any more: put the one that @BotFather tells into token_file";

/// What happens. `ticket`: of the action that it answers.
#[derive(Debug)]
pub enum Event {
    /// `send`, `delete` or `typing`; others are ignored.
    Line(FromGateway),
    /// To be made when the pace allows it; nobody needs its result.
    Call(Call),
    Answer {
        ticket: u64,
        outcome: Outcome,
    },
    /// [`Sender::timer`] is due.
    Timer,
    /// No line will come any more: what waits is given back.
    End,
}

/// What is to be done, in this order.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// To be answered by its ticket. Several may be under way.
    Call { ticket: u64, call: Call },
    /// A line for the gateway.
    Line(Value),
    /// A line for the operator, on stderr.
    Say(String),
    /// The process ends with this status.
    Exit(u8),
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Part { delivery: String, part: u64, preview: bool, digest: [u8; 32] },
    Silent,
    Typing,
}

/// What takes one call, or some.
#[derive(Debug)]
struct Job {
    chat: i64,
    what: What,
    /// Those that are not made yet.
    calls: VecDeque<Call>,
    /// The message that the next call edits.
    edits: Option<i64>,
    /// The message that shows it.
    shown: Option<i64>,
    /// The call under way without its entities, had it any; of what has no receipt, the call.
    again: Option<Call>,
    not_before: Option<Instant>,
}

impl Job {
    fn beside(what: What, chat: i64, call: Call) -> Job {
        let (edits, shown, again, not_before) = (None, None, None, None);
        Job { chat, what, calls: VecDeque::from([call]), edits, shown, again, not_before }
    }

    fn is_part(&self) -> bool {
        matches!(self.what, What::Part { .. })
    }

    fn is_preview(&self) -> bool {
        matches!(self.what, What::Part { preview: true, .. })
    }

    /// The gateway is to repeat it, after `wait`.
    fn put_off(self, why: &str, wait: Option<Duration>, actions: &mut Vec<Action>) {
        let retry_after = wait.map(|it| it.as_secs() + u64::from(it.subsec_nanos() > 0));
        let (kind, why) = (Kind::Temporary, why.to_owned());
        self.failed(Failed { kind, retry_after, moved_to: None, why }, actions);
    }

    /// Its receipt.
    fn failed(self, failed: Failed, actions: &mut Vec<Action>) {
        if let What::Part { delivery, part, .. } = self.what {
            let failed = match (self.shown, failed.kind) {
                (None, _) => failed,
                (Some(_), Kind::Permanent) => {
                    Failed { why: format!("a file is missing: {}", failed.why), ..failed }
                }
                // Once more would show its text once more.
                (Some(_), Kind::Temporary | Kind::Uncertain) => {
                    Failed { kind: Kind::Uncertain, ..failed }
                }
            };
            actions.push(Action::Line(lines::failed(&delivery, part, &failed)));
        }
    }
}

/// A text that is shown.
#[derive(Debug)]
struct Shown {
    chat: i64,
    message: i64,
    digest: [u8; 32],
}

/// What is sent by one bot.
#[derive(Debug, Default)]
pub struct Sender {
    pace: Pace,
    /// In their order.
    waiting: VecDeque<Job>,
    /// Those whose call is under way.
    flying: Vec<(u64, Job)>,
    ticket: u64,
    shown: VecDeque<Shown>,
    /// The operator was told that the bot is to wait.
    limited: bool,
}

impl Sender {
    /// No receipt is to come.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        !self.all().any(Job::is_part)
    }

    /// When [`Event::Timer`] is due.
    pub fn timer(&self) -> Option<Instant> {
        let due = self.waiting.iter().filter_map(|job| self.due(job).flatten()).min();
        let over = self.pace.all_held().filter(|_| self.limited);
        due.into_iter().chain(over).min()
    }

    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        self.pace.forget(now);
        match event {
            Event::Line(FromGateway::Send(send)) => self.accept(&send, now, &mut actions),
            Event::Line(FromGateway::Delete { conversation, id }) => {
                let call = request::delete(&conversation, &id);
                call.into_iter().for_each(|call| self.silent(call, None));
            }
            Event::Call(call) => self.silent(call, None),
            Event::Line(FromGateway::Typing { conversation, thread }) => {
                self.typing(request::typing(&conversation, thread.as_deref()), now, &mut actions);
            }
            Event::Line(_) | Event::Timer => {}
            Event::Answer { ticket, outcome } => {
                self.answered(ticket, &outcome, now, &mut actions);
            }
            Event::End => self.give_back(&|_| true, "it ends", None, &mut actions),
        }
        self.fly(now, &mut actions);
        actions
    }

    fn accept(&mut self, send: &Send, now: Instant, actions: &mut Vec<Action>) {
        let mut request = match request::build(send) {
            Ok(request) => request,
            Err(why) => {
                let kind = Kind::Permanent;
                let failed = Failed { kind, retry_after: None, moved_to: None, why };
                let line = lines::failed(&send.delivery, send.part, &failed);
                return actions.push(Action::Line(line));
            }
        };
        let chat = request.chat;
        let older = |job: &Job| job.chat == chat && job.is_preview();
        self.give_back(&older, NEWER, None, actions);
        let (digest, mut edits) = (request.digest, request.replaces);
        let known = self.shown.iter().find(|it| (it.chat, Some(it.message)) == (chat, edits));
        let shown = edits.take_if(|_| known.is_some_and(|it| it.digest == digest));
        if let Some(message) = shown {
            request.calls.pop_front();
            if request.calls.is_empty() {
                let line = lines::sent(&send.delivery, send.part, message);
                return actions.push(Action::Line(line));
            }
        }
        let (delivery, part) = (send.delivery.clone(), send.part);
        let what = What::Part { delivery, part, preview: !send.last, digest };
        let calls = request.calls;
        let job = Job { chat, what, calls, edits, shown, again: None, not_before: None };
        let waits = self.is_in_flight(chat) || self.waiting.iter().any(|job| job.chat == chat);
        let late = |at: Option<Instant>| at.is_some_and(|at| at > now + PREVIEW_WAITS);
        if let Some(until) = self.pace.held(chat) {
            job.put_off(WAIT, Some(until - now), actions);
        } else if !send.last && (waits || late(self.pace.preview_at(chat))) {
            job.put_off("the chat takes no more previews now", None, actions);
        } else {
            self.waiting.push_back(job);
        }
    }

    /// Without a receipt. It is behind what waits in its chat.
    fn silent(&mut self, call: Call, not_before: Option<Instant>) {
        let silent = self.waiting.iter().filter(|job| job.what == What::Silent).count();
        if silent < MAX_SILENT {
            let chat = call.parameters["chat_id"].as_i64().unwrap_or(NO_CHAT);
            self.waiting.push_back(Job { not_before, ..Job::beside(What::Silent, chat, call) });
        }
    }

    /// At once or not at all, and not where something else is about to be shown.
    fn typing(
        &mut self,
        call: Result<(i64, Call), String>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Ok((chat, call)) = call else { return };
        let typing = self.flying.iter().filter(|(_, job)| job.what == What::Typing).count();
        let free = self.pace.typing_at(chat).is_none_or(|at| at <= now);
        if free && typing < MAX_TYPING && !self.all().any(|job| job.chat == chat) {
            self.launch(Job::beside(What::Typing, chat, call), now, actions);
        }
    }

    /// A call is under way that others of the chat have to wait for.
    fn is_in_flight(&self, chat: i64) -> bool {
        let mut flying = self.flying.iter().map(|(_, job)| job);
        chat != NO_CHAT && flying.any(|job| job.chat == chat && job.what != What::Typing)
    }

    /// All that waits or is under way.
    fn all(&self) -> impl Iterator<Item = &Job> {
        self.waiting.iter().chain(self.flying.iter().map(|(_, job)| job))
    }

    /// When one of those that wait may go on; `None`: once its chat has an answer.
    fn due(&self, job: &Job) -> Option<Option<Instant>> {
        (!self.is_in_flight(job.chat)).then(|| match job.is_preview() {
            true => self.pace.preview_at(job.chat),
            false => self.pace.free_at(job.chat).max(job.not_before),
        })
    }

    /// Makes the calls whose time has come.
    fn fly(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.limited && self.pace.all_held().is_none() {
            self.limited = false;
            actions.push(Action::Line(lines::status("up", "")));
        }
        let mut at = 0;
        while at < self.waiting.len() {
            let due =
                self.due(&self.waiting[at]).is_some_and(|due| due.is_none_or(|due| due <= now));
            match due.then(|| self.waiting.remove(at)).flatten() {
                Some(job) => self.launch(job, now, actions),
                None => at += 1,
            }
        }
    }

    fn launch(&mut self, mut job: Job, now: Instant, actions: &mut Vec<Action>) {
        let Some(call) = job.calls.pop_front() else { return };
        job.again = match job.what {
            What::Silent => Some(call.clone()),
            What::Part { .. } | What::Typing => request::plain(&call),
        };
        match job.what {
            What::Part { .. } | What::Silent if job.chat != NO_CHAT => {
                self.pace.take(job.chat, job.is_preview(), now);
            }
            What::Part { .. } | What::Silent | What::Typing => self.pace.take_unseen(now),
        }
        if let Some(id) = job.edits {
            self.shown.retain(|it| (it.chat, it.message) != (job.chat, id));
        }
        self.ticket += 1;
        self.flying.push((self.ticket, job));
        actions.push(Action::Call { ticket: self.ticket, call });
    }

    /// It goes on with its next call, before what came behind it; a preview not, where that is a newer text.
    fn go_on(&mut self, job: Job, actions: &mut Vec<Action>) {
        if job.is_preview() && self.waiting.iter().any(|it| it.is_part() && it.chat == job.chat) {
            return job.put_off(NEWER, None, actions);
        }
        self.waiting.push_front(job);
    }

    fn answered(
        &mut self,
        ticket: u64,
        outcome: &Outcome,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(at) = self.flying.iter().position(|(known, _)| *known == ticket) else { return };
        let (_, mut job) = self.flying.swap_remove(at);
        let chat = job.chat;
        let again = job.again.take();
        if job.what == What::Silent {
            let menu = again.as_ref().filter(|call| call.method == MENU).map(|_| MENU_PAUSE);
            if let (Some(call), Some(pause)) = (again, verdict::again(outcome, menu)) {
                self.silent(call, Some(now + pause));
            }
        } else if let Some(call) = again.filter(|_| verdict::blames_entities(outcome)) {
            job.calls.push_front(call);
            return self.go_on(job, actions);
        } else if let What::Part { delivery, part, digest, .. } = &job.what {
            match verdict::of(outcome, job.edits.take()) {
                Ok(message) => {
                    if job.shown.is_none() {
                        job.shown = Some(message);
                        self.shown.truncate(MAX_SHOWN - 1);
                        self.shown.push_front(Shown { chat, message, digest: *digest });
                    }
                    if let Some(id) = job.shown.filter(|_| job.calls.is_empty()) {
                        actions.push(Action::Line(lines::sent(delivery, *part, id)));
                    } else {
                        self.go_on(job, actions);
                    }
                }
                Err(failed) => job.failed(failed, actions),
            }
        }
        match outcome {
            Err(Failure::Refused(refusal)) if refusal.code == 429 => {
                self.hold(chat, refusal, now, actions);
            }
            Err(Failure::Refused(refusal)) if refusal.code == 401 => {
                self.give_back(&|_| true, UNAUTHORIZED, None, actions);
                actions.push(Action::Line(lines::status("unauthorized", UNAUTHORIZED)));
                actions.push(Action::Say(UNAUTHORIZED.to_owned()));
                actions.push(Action::Exit(Exit::Config.code()));
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Telegram has asked to wait.
    fn hold(&mut self, chat: i64, refusal: &Refusal, now: Instant, actions: &mut Vec<Action>) {
        let seconds = refusal.retry_after.unwrap_or(verdict::RETRY_AFTER).max(1);
        let all = self.pace.hold(chat, seconds, now);
        let held = |job: &Job| all || job.chat == chat;
        self.give_back(&held, WAIT, Some(Duration::from_secs(seconds)), actions);
        if all && !self.limited {
            self.limited = true;
            let why = format!("Telegram has asked the bot to send nothing for {seconds} s");
            actions.push(Action::Line(lines::status("limited", &why)));
            actions.push(Action::Say(why));
        }
    }

    /// Of what waits, those parts are put off.
    fn give_back(
        &mut self,
        which: &dyn Fn(&Job) -> bool,
        why: &str,
        wait: Option<Duration>,
        actions: &mut Vec<Action>,
    ) {
        for job in mem::take(&mut self.waiting) {
            if job.is_part() && which(&job) {
                job.put_off(why, wait, actions);
            } else {
                self.waiting.push_back(job);
            }
        }
    }
}
