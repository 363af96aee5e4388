//! Receiving: when Telegram is asked for updates, what becomes of each, and which of them are confirmed. Pure.
//!
//! `getUpdates` with an `offset` confirms all updates below it; what is not confirmed is shown again. So a poll
//! has one only where all below are answered by the gateway, and what was confirmed once is forgotten here:
//! updates are known by their exact ids, never by being older than another one.
//!
//! As a rule a poll waits for the answers to what the one before has brought. Where the gateway waits for pieces
//! of a message, or a file is downloaded, it is made nevertheless, and shows all of that again.

mod content;
mod group;
mod queue;
mod senders;
#[cfg(test)]
mod tests;
mod update;
mod values;

use std::mem;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::call::{Failure, Outcome, Refusal};
use crate::json::object;
use crate::sys::gather::Gather;
use group::Pieces;
use queue::{Queue, WINDOW};
use update::{Read, Reader, answer_press, call};
pub use values::{Action, Event, MAX_FILE, Me, Wanted};

/// Kinds of updates that are sent: the set is kept by Telegram, and named with every poll.
const KINDS: [&str; 4] = ["message", "edited_message", "callback_query", "my_chat_member"];

/// Updates of one poll: Telegram's limit, and what is asked for where an answer was too large.
const MAX_UPDATES: usize = 100;

/// Seconds that Telegram holds a poll.
const HOLD: u64 = 50;

/// Between two polls while what is there cannot be confirmed: pieces follow each other within two seconds.
const QUICK: Duration = Duration::from_millis(600);

/// A poll that would be held and comes back within that time without news is no reason for another at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Seconds of the longest pause after failures, and while another process polls.
const MAX_PAUSE: u64 = 60;
const MAX_CONFLICT_PAUSE: u64 = 30;

/// So many conflicts in a row are said: the poll of a process that has died is held for up to 30 s.
const CONFLICTS: u32 = 3;

/// A flood is waited out, if not for longer than a day.
const MAX_FLOOD_PAUSE: u64 = 86_400;

/// So long after Telegram has shown an update it is confirmed. After a week without any, ids begin anywhere: by
/// an old one, updates that nobody has seen would be confirmed. One that is not is shown again, and the gateway
/// knows it.
const CONFIRM_WITHIN: Duration = Duration::from_hours(1);

/// Lines for the operator in a minute: some are a stranger's doing.
const MAX_SAID: u32 = 20;

/// An update that Telegram has, as far as is known.
struct Known {
    id: i64,
    /// It needs no answer of the gateway's, or has it.
    answered: bool,
    shown: Instant,
}

/// A poll on its way.
struct Asked {
    offset: Option<i64>,
    at: Instant,
    hold: bool,
}

/// A poll that is to be made.
struct Plan {
    /// `None`: at once.
    due: Option<Instant>,
    offset: Option<i64>,
    limit: usize,
    hold: bool,
}

/// What receives for one bot.
pub struct Receiver {
    reader: Reader,
    queue: Queue,
    /// In Telegram's order.
    known: Vec<Known>,
    asked: Option<Asked>,
    /// After failures, and what else forbids a poll at once.
    not_before: Option<Instant>,
    quick_at: Option<Instant>,
    failures: u32,
    /// Those in a row that were another poll's doing.
    conflicts: u32,
    /// Updates that are asked for at most.
    most: usize,
    status: (&'static str, String),
    webhook_said: bool,
    /// When the minute of the lines for the operator began, and how many they are.
    said: Option<(Instant, u32)>,
    over: bool,
}

impl Receiver {
    /// `max_text`: bytes of a text that the gateway takes.
    pub fn new(me: Me, max_text: usize) -> Receiver {
        Receiver {
            reader: Reader { me, max_text, pieces: Pieces::default() },
            queue: Queue::default(),
            known: Vec::new(),
            asked: None,
            not_before: None,
            quick_at: None,
            failures: 0,
            conflicts: 0,
            most: MAX_UPDATES,
            status: ("", String::new()),
            webhook_said: false,
            said: None,
            over: false,
        }
    }

    /// The first poll.
    pub fn begin(&mut self, now: Instant) -> Vec<Action> {
        self.step(Event::Timer, now)
    }

    /// When [`Event::Timer`] is due.
    pub fn timer(&self) -> Option<Instant> {
        let poll = self.plan().and_then(|plan| plan.due);
        poll.into_iter().chain(self.queue.due()).min().filter(|_| !self.over)
    }

    /// Takes what has come at this time.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.over {
            return actions;
        }
        match event {
            Event::Updates(outcome) => self.polled(outcome, now, &mut actions),
            Event::Ack { n, served } => self.answered(n, Ok(served), &mut actions),
            Event::Refuse { n, retry_after: None, why } => {
                self.answered(n, Err(why), &mut actions);
            }
            Event::Refuse { n, retry_after: Some(seconds), .. } => {
                self.queue.again(n, seconds, now);
            }
            Event::Fetched { ticket, result } => self.queue.fetched(ticket, result, now),
            Event::Timer => {}
        }
        if !self.over {
            self.queue.run(now, &mut actions);
            let late = |it: &Known| now.saturating_duration_since(it.shown) >= CONFIRM_WITHIN;
            self.known.retain(|it| !(it.answered && late(it)));
            if let Some(plan) = self.plan().filter(|plan| plan.due.is_none_or(|due| due <= now)) {
                actions.push(self.poll(&plan, now));
            }
        }
        actions
    }

    /// The next poll, unless one is on its way or answers of the gateway's come first.
    fn plan(&self) -> Option<Plan> {
        let idle = self.queue.len() == 0;
        if self.asked.is_some() || !(idle || self.queue.wants_more()) {
            return None;
        }
        // What comes before the first update without an answer, in Telegram's order and by number.
        let answered = self.known.iter().take_while(|it| it.answered);
        let offset = answered.map(|it| it.id + 1).max();
        let open = |offset: &i64| self.known.iter().all(|it| it.answered || it.id >= *offset);
        let offset = offset.filter(open);
        let shown = |it: &&Known| offset.is_none_or(|offset| it.id >= offset);
        // They come again, and are in the way.
        let again = self.known.iter().filter(shown).count();
        let limit = (WINDOW.saturating_sub(self.queue.len()) + again).min(self.most);
        let due = if idle { self.not_before } else { self.not_before.max(self.quick_at) };
        // At first and after a failure it is to be seen soon that all is well.
        let hold = idle && self.status.0 == "up";
        (limit > again).then_some(Plan { due, offset, limit, hold })
    }

    fn poll(&mut self, plan: &Plan, now: Instant) -> Action {
        let Plan { offset, limit, hold, .. } = *plan;
        self.asked = Some(Asked { offset, at: now, hold });
        let kinds = KINDS.map(Value::from).to_vec();
        let mut parameters = object!("limit": limit, "timeout": if hold { HOLD } else { 0 },
            "allowed_updates": kinds);
        if let Some(offset) = offset {
            parameters["offset"] = offset.into();
        }
        Action::Poll(call("getUpdates", parameters))
    }

    /// A poll has been answered.
    fn polled(&mut self, outcome: Outcome, now: Instant, actions: &mut Vec<Action>) {
        let Some(asked) = self.asked.take() else { return };
        self.not_before = None;
        self.quick_at = Some(now + QUICK);
        let updates = match outcome {
            Ok(Value::Array(updates)) => updates,
            Ok(_) => {
                let why = "the answer to getUpdates is no list".to_owned();
                return self.failed(Failure::Unknown(why), now, actions);
            }
            Err(failure) => return self.failed(failure, now, actions),
        };
        (self.failures, self.conflicts) = (0, 0);
        self.webhook_said = false;
        self.most = (self.most * 10).min(MAX_UPDATES);
        self.say_status(("up", String::new()), actions);
        // It is confirmed, unless it is shown nevertheless.
        let ids: Vec<Option<i64>> = updates.iter().map(id_of).gather();
        self.known.retain(|it| {
            let confirmed = it.answered && asked.offset.is_some_and(|offset| it.id < offset);
            !confirmed || ids.contains(&Some(it.id))
        });
        let mut news = false;
        for (update, id) in updates.iter().zip(ids) {
            let Some(id) = id else {
                self.say("an update without a usable update_id was passed over", now, actions);
                continue;
            };
            if let Some(known) = self.known.iter_mut().find(|it| it.id == id) {
                known.shown = now;
                continue;
            }
            news = true;
            let answered = self.read(id, update, now, actions);
            self.known.push(Known { id, answered, shown: now });
        }
        let soon = now.saturating_duration_since(asked.at) < PAUSE;
        if asked.hold && soon && !news {
            self.not_before = Some(now + PAUSE);
        }
    }

    /// Reads an update. Returns whether it needs no answer of the gateway's.
    fn read(&mut self, id: i64, update: &Value, now: Instant, actions: &mut Vec<Action>) -> bool {
        match self.reader.read(id, update) {
            Ok(Read::Item(item)) => {
                self.queue.add(*item);
                return false;
            }
            Ok(Read::Nothing) => {}
            Ok(Read::Say(line)) => self.say(&line, now, actions),
            Ok(Read::Answer(call)) => actions.push(Action::Call(call)),
            Err(why) => self.say(&format!("update {id} was passed over: {why}"), now, actions),
        }
        true
    }

    /// The gateway has taken an item, and serves somebody; or does not want it.
    fn answered(&mut self, n: u64, answer: Result<bool, String>, actions: &mut Vec<Action>) {
        let Some(item) = self.queue.take(n) else { return };
        for known in self.known.iter_mut().filter(|it| it.id == item.update) {
            known.answered = true;
        }
        if let (Some(sender), Ok(served)) = (item.sender, &answer) {
            self.queue.senders.note(sender, *served);
        }
        let Some((query, button)) = item.press else { return };
        let why = answer.as_ref().err().map_or("", |why| why);
        actions.push(Action::Call(answer_press(&query, why)));
        if let (Ok(true), Some((chat, message))) = (answer, button) {
            let none = object!("inline_keyboard": Vec::<Value>::new());
            let parameters = object!("chat_id": chat, "message_id": message, "reply_markup": none);
            actions.push(Action::Call(call("editMessageReplyMarkup", parameters)));
        }
    }

    /// A poll has failed: another one is made after a pause.
    fn failed(&mut self, failure: Failure, now: Instant, actions: &mut Vec<Action>) {
        self.failures = self.failures.saturating_add(1);
        let mut most = MAX_PAUSE;
        let mut pause = None;
        let conflicts = mem::take(&mut self.conflicts);
        let (state, why) = match failure {
            Failure::Refused(Refusal { code: 401 | 404, description, .. }) => {
                return self.unauthorized(&description, actions);
            }
            Failure::Refused(Refusal { code: 409, description, .. }) => {
                most = MAX_CONFLICT_PAUSE;
                let webhook = description.contains("webhook");
                self.conflicts = if webhook { 0 } else { conflicts + 1 };
                if webhook {
                    // Until it is gone: each of these calls can fail.
                    actions.push(Action::Call(call("deleteWebhook", object!())));
                    if !mem::replace(&mut self.webhook_said, true) {
                        let line = "a webhook is set for this bot: it is being deleted, and what it has not \
                                    got comes here";
                        self.say(line, now, actions);
                    }
                }
                (
                    "conflict",
                    if webhook {
                        "a webhook is set for this bot".to_owned()
                    } else {
                        "another process polls with this bot's token: stop it, or give this channel a bot of \
                     its own"
                        .to_owned()
                    },
                )
            }
            Failure::Refused(Refusal { retry_after: Some(seconds), .. }) => {
                pause = Some(seconds.clamp(1, MAX_FLOOD_PAUSE));
                ("limited", format!("Telegram allows the next poll in {seconds} s"))
            }
            Failure::Refused(Refusal { code, description, .. }) => {
                ("connecting", format!("Telegram answers {code}: {description}"))
            }
            Failure::Unknown(why) if why.contains("too large") => {
                if self.most > 1 {
                    self.most = if self.most > 10 { 10 } else { 1 };
                    self.not_before = Some(now + PAUSE);
                    return;
                }
                ("connecting", format!("one update alone cannot be read: {why}"))
            }
            Failure::NotSent(why) | Failure::Unknown(why) => ("connecting", why),
        };
        let doubled = 1 << (self.failures - 1).min(6);
        let pause = pause.unwrap_or_else(|| most.min(doubled));
        self.not_before = Some(now + Duration::from_secs(pause));
        if !(1..CONFLICTS).contains(&self.conflicts) {
            self.say_status((state, why), actions);
        }
    }

    fn unauthorized(&mut self, description: &str, actions: &mut Vec<Action>) {
        self.over = true;
        let why = format!(
            "Telegram does not know this bot's token ({description}): ask @BotFather for it, and write it to \
             the token_file"
        );
        actions.push(Action::Say(why.clone()));
        self.say_status(("unauthorized", why), actions);
        actions.push(Action::Exit(78));
    }

    fn say_status(&mut self, status: (&'static str, String), actions: &mut Vec<Action>) {
        if self.status != status {
            let (state, why) = (status.0, status.1.clone());
            self.status = status;
            actions.push(Action::Line(object!("op": "status", "state": state, "why": why)));
        }
    }

    /// A line for the operator, if there were not too many.
    fn say(&mut self, line: &str, now: Instant, actions: &mut Vec<Action>) {
        let minute = Duration::from_secs(60);
        let said = self.said.filter(|(at, _)| now.saturating_duration_since(*at) < minute);
        let (at, count) = said.unwrap_or((now, 0));
        self.said = Some((at, count.saturating_add(1)));
        if count < MAX_SAID {
            actions.push(Action::Say(line.to_owned()));
        } else if count == MAX_SAID {
            actions.push(Action::Say("more of this is not said for a minute".to_owned()));
        }
    }
}

/// The id of an update by which it can be confirmed.
fn id_of(update: &Value) -> Option<i64> {
    update.get("update_id")?.as_i64().filter(|id| (0..i64::MAX).contains(id))
}
