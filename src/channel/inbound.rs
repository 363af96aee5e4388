//! What an adapter offers: who may, and what becomes of it. Each offer is answered once its outcome is durable.

mod batch;
mod context;
mod draft;
mod edit;
mod groups;
mod notices;
mod press;
mod replies;
mod submit;

use std::time::{Duration, Instant};

use super::access::{self, Asked, Strangers, Verdict};
use super::link::Answer;
use super::pairing::invitation;
use super::wire::{Kind, Message, Offer};
use crate::config::millis;
use crate::journal::WriteError;
use crate::journal::record::Fact;
use crate::session::{Command, Draft, Owner, Place, Refusal, Submitted, channel_key, now};
use crate::sys::gather::Gather;
use crate::sys::random;
use batch::Batch;
pub(super) use context::Context;
use draft::{asked, final_refusal, is_long, later, origin, place_of, refused, taken, text_of};
use groups::{Group, Groups};
use notices::Notices;
use replies::Replies;

/// How often where the channel was read is written down by itself.
const CURSOR_EVERY: Duration = Duration::from_secs(1);

/// Up to where the channel was read with what is durable, which is not durable itself.
struct Cursor {
    /// Of the offer that came with it.
    serial: u64,
    value: String,
    keep_at: Instant,
}

/// What is known of the offers of a channel, beside the journal.
#[derive(Default)]
pub(super) struct Inbound {
    /// Of the adapter that is ready.
    account: String,
    groups: Groups,
    cursor: Option<Cursor>,
    /// Where conversations have gone: of the journal.
    moved: Vec<(String, String)>,
    strangers: Strangers,
    notices: Notices,
    replies: Replies,
    batch: Batch,
    /// Answers to be given, once the batch is durable.
    answers: Vec<(u64, Answer)>,
}

const NOBODY: Answer = Answer::Taken { message: None, duplicate: false };

impl Inbound {
    /// An adapter is ready, and reads this account.
    pub fn begin(&mut self, account: &str) {
        account.clone_into(&mut self.account);
        self.answers.clear();
        // Its numbers were another adapter's. What was read since the last record is read again.
        self.cursor = None;
    }

    /// Reads what the journal has of the channel.
    pub fn refresh(&mut self, context: Context<'_>) {
        self.moved = context.hub.facts_of(&context.channel.name, Fact::Moved);
    }

    /// The answers to be given by now, in the order in which they were found.
    pub fn take_answers(&mut self) -> Vec<(u64, Answer)> {
        std::mem::take(&mut self.answers)
    }

    /// Takes an offer; it is durable after [`Inbound::flush_due`].
    pub fn offer(&mut self, context: Context<'_>, serial: u64, offer: Offer) {
        if context.hub.is_draining() || context.hub.is_paused() {
            return self.answer(serial, later("the gateway is stopping"));
        }
        if self.comes_again(serial) {
            return;
        }
        match offer {
            Offer::Message(message) => self.message(context, serial, *message),
            Offer::Press(press) => self.press(context, serial, &press),
            Offer::Edit { id, text } => {
                let answer = self.edit(context, &id, text).unwrap_or_else(|e| refused(&e));
                self.answer(serial, answer);
            }
            Offer::Cursor(cursor) => {
                self.read_to(serial, Some(cursor));
                self.answer(serial, NOBODY);
            }
            Offer::Moved { from, to } => {
                let kept = self.keep(context, Fact::Moved, &from, &to);
                let answer = kept.map_or_else(|e| later(&e.to_string()), |()| NOBODY);
                self.refresh(context);
                self.answer(serial, answer);
            }
        }
    }

    /// An offer comes too late for this adapter.
    pub fn put_off(&mut self, serial: u64) {
        self.answer(serial, later("the adapter is ending"));
    }

    /// Whether an offer is behind one that is to be offered again: it is refused with that, and what is taken
    /// of it would be in front of that.
    fn comes_again(&self, serial: u64) -> bool {
        let later = |answer: &Answer| matches!(answer, Answer::Later { .. });
        self.answers.iter().any(|(refused, answer)| *refused < serial && later(answer))
    }

    /// An answer is found. What is offered again has to come again from there on.
    fn answer(&mut self, serial: u64, answer: Answer) {
        if let Answer::Later { .. } = answer {
            self.groups.forget_after(serial);
            self.cursor.take_if(|cursor| cursor.serial >= serial);
        }
        self.answers.push((serial, answer));
    }

    /// Makes durable what was taken, before it is answered; where that fails, all of it comes again.
    fn confirm(&mut self, context: Context<'_>) {
        let Err(e) = self.batch.confirm(context) else { return };
        let first = self.answers.iter().map(|(serial, _)| *serial).min();
        self.answers.clear();
        first.into_iter().for_each(|serial| self.answer(serial, later(&e.to_string())));
    }

    /// The channel was read up to here, once all that came before is durable.
    fn read_to(&mut self, serial: u64, cursor: Option<String>) {
        let Some(value) = cursor else { return };
        let before = self.cursor.take();
        let keep_at =
            before.as_ref().map_or_else(|| Instant::now() + CURSOR_EVERY, |it| it.keep_at);
        let newer = before.filter(|before| before.serial > serial);
        self.cursor = newer.or(Some(Cursor { serial, value, keep_at }));
    }

    fn keep(
        &self,
        context: Context<'_>,
        fact: Fact,
        key: &str,
        value: &str,
    ) -> Result<(), Refusal> {
        let number = context.hub.keep_fact(&context.channel.name, fact, key, value)?;
        Ok(context.hub.sync(number)?)
    }

    /// Writes down where the channel was read, if that is due.
    pub fn keep_cursor(&mut self, context: Context<'_>, due: Instant) {
        let whole = self.groups.is_empty();
        let Some(cursor) = self.cursor.take_if(|it| whole && it.keep_at <= due) else { return };
        let name = &context.channel.name;
        if context.hub.keep_fact(name, Fact::Cursor, &self.account, &cursor.value).is_err() {
            self.cursor = Some(Cursor { keep_at: due + CURSOR_EVERY, ..cursor });
        }
    }

    /// What a conversation was called when it was first known.
    fn first_name<'a>(&'a self, conversation: &'a str) -> &'a str {
        let mut name = conversation;
        for _ in 0..self.moved.len() {
            let Some((from, _)) = self.moved.iter().find(|(_, to)| to == name) else { break };
            name = from;
        }
        name
    }

    /// Judges who says something; tells strangers what is to be told. `may_pair`: a code may be, there.
    fn judge(
        &mut self,
        context: Context<'_>,
        asked: &Asked<'_>,
        (name, may_pair): (&str, bool),
    ) -> Option<(Owner, bool)> {
        let Context { settings, channel, .. } = context;
        let known = |id: &str| context.shared.is_paired(id);
        let first = self.first_name(asked.conversation).to_owned();
        // A group may be listed by either name; its session stays the same.
        let listed = channel.groups.contains(&first);
        let conversation = if listed || asked.private { &first } else { asked.conversation };
        let asked = Asked { conversation, ..*asked };
        let (id, pair) = match access::judge((&settings.config, channel), &known, &asked) {
            Verdict::Take { who, operator } => return Some((who, operator)),
            Verdict::Ignore => return None,
            Verdict::Stranger { id, pair } => (id.to_owned(), pair && may_pair),
        };
        let now = Instant::now();
        let line = self.strangers.note(&channel.name, (&id, name), pair, now);
        line.iter().for_each(|line| log::info!("{line}"));
        let mut bytes = [0; 8];
        if pair && random::fill(&mut bytes).is_ok() {
            let code = context.shared.lock().pairing.offer((&id, name), now, bytes);
            if let Some(code) = code {
                let who = Owner::new(access::name_of(&channel.name, &[&id]), None);
                let place = place_of(asked.conversation, asked.thread);
                context.say(who, place, &code, invitation(&code));
            }
        }
        None
    }

    fn message(&mut self, context: Context<'_>, serial: u64, message: Message) {
        let name = &context.channel.name;
        if let Some(id) = context.hub.find_offered(name, &self.account, &message.id) {
            self.batch.files.extend(message.files.into_iter().map(|file| file.path));
            self.read_to(serial, message.cursor);
            return self.answer(serial, taken(id, true));
        }
        let of = message.from.as_ref().map_or("", |from| &from.name);
        // Of several pieces one alone names the bot, which is known once all are there.
        let mentioned = message.mentioned || message.group.is_some();
        let asked = Asked { mentioned, ..asked(&message) };
        let Some((who, _)) = self.judge(context, &asked, (of, true)) else {
            self.batch.files.extend(message.files.into_iter().map(|file| file.path));
            self.read_to(serial, message.cursor);
            return self.answer(serial, NOBODY);
        };
        // What is said in a conversation keeps its order.
        while let Some(group) = self.groups.take_other(&message) {
            self.take(context, group);
        }
        if self.comes_again(serial) {
            return;
        }
        let group = Group::new(who, serial, message);
        if let Some(group) = self.groups.join(group, Instant::now()) {
            self.take(context, group);
        }
        while self.groups.is_large() {
            let first = self.groups.take_first();
            first.into_iter().for_each(|group| self.take(context, group));
        }
    }

    /// Takes the groups that are whole by now, or have waited for long; all that was taken is durable then.
    pub fn flush_due(&mut self, context: Context<'_>, now: Instant) {
        while let Some(group) = self.groups.take_due(now) {
            self.take(context, group);
        }
        self.confirm(context);
        self.notices.tell_held(context, Some(now));
    }

    /// Takes all of them, and tells of what was held: their adapter is gone.
    pub fn flush_all(&mut self, context: Context<'_>) {
        while let Some(group) = self.groups.take_first() {
            self.take(context, group);
        }
        self.confirm(context);
        self.notices.tell_held(context, None);
    }

    /// When [`Inbound::flush_due`] or [`Inbound::keep_cursor`] has something to do.
    pub fn next_wake(&self) -> Option<Instant> {
        let cursor = self.cursor.as_ref().filter(|_| self.groups.is_empty());
        let cursor = cursor.map(|cursor| cursor.keep_at);
        cursor.into_iter().chain(self.notices.due()).chain(self.groups.due()).min()
    }

    /// Has a message, whole by now, become a turn, and answers its pieces.
    fn take(&mut self, context: Context<'_>, group: Group) {
        let Group { who, serials, pieces: all } = group;
        let pieces = Group::once(&all);
        let (Some(first), Some(last), Some(serial)) =
            (pieces.first(), pieces.last(), serials.last())
        else {
            return;
        };
        if self.comes_again(serials[0]) {
            return;
        }
        let place = place_of(&last.conversation, last.thread.as_deref());
        let from = last.from.as_ref().map_or("", |from| &from.id);
        let most = millis(context.channel.max_age);
        let old = last.at.is_some_and(|at| at.saturating_add(most) < now());
        let cursor = all.iter().rev().find_map(|piece| piece.cursor.clone());
        self.read_to(*serial, cursor);
        // Only with the last one that waits is all durable that the cursor covers.
        let cursor = self.cursor.as_ref().filter(|_| self.groups.is_empty());
        let cursor = cursor.map(|cursor| cursor.value.clone());
        let key = channel_key(&context.channel.name, &self.account, &first.id);
        let draft = Draft {
            who: who.clone(),
            text: pieces.iter().map(text_of).filter(|text| !text.is_empty()).gather().join("\n"),
            context: None,
            attachments: Vec::new(),
            files: Vec::new(),
            deliver: Some(context.channel.name.clone()),
            origin: Some(Box::new(origin(&self.account, &pieces, cursor))),
            mode: context.settings.config.session.busy,
            attended: false,
            key: Some((key, key)),
        };
        let command = Command::parse(&draft.text);
        let concerns = |it: &Message| it.mentioned || it.kind == Kind::Private;
        let ours = command.is_some() || pieces.iter().any(concerns);
        let long = pieces.iter().any(is_long);
        if command.is_some() || pieces.iter().any(|it| !it.files.is_empty()) {
            // Others do not wait for what it does, or for files that are copied.
            self.confirm(context);
            if self.comes_again(serials[0]) {
                return;
            }
        }
        let how = (&place, command, old);
        let mut submitted = match () {
            () if !ours => Ok(None),
            () if long => Err(Refusal::Journal(WriteError::TooLong)),
            () => self.submit(context, &pieces, how, (draft.clone(), None)),
        };
        // Nothing that was said is lost with its files.
        if let Err(Refusal::Attachments(full)) = &submitted {
            submitted = self.submit(context, &pieces, how, (draft, Some(&full.message)));
        }
        self.batch.written |= matches!(submitted, Ok(Some(_)));
        let answer = self.outcome(context, submitted, (who, place, from), old);
        if let Answer::Later { .. } = answer {
            // All of it comes again, with its files.
            return self.answer(serials[0], answer);
        }
        self.batch.files.extend(all.into_iter().flat_map(|it| it.files).map(|file| file.path));
        serials.iter().for_each(|serial| self.answer(*serial, answer.clone()));
    }

    /// What is answered where a message was taken, or was not.
    fn outcome(
        &mut self,
        context: Context<'_>,
        submitted: Result<Option<Submitted>, Refusal>,
        (who, place, from): (Owner, Place, &str),
        old: bool,
    ) -> Answer {
        let refusal = submitted.as_ref().err().cloned();
        let answer = match submitted {
            Ok(None) => NOBODY,
            Ok(Some(Submitted::Known(id))) => taken(id, true),
            Ok(Some(Submitted::New { id, .. })) => {
                // It is in its record.
                self.cursor.take_if(|_| self.groups.is_empty());
                if old {
                    self.notices.count_held(place, who);
                }
                taken(id, false)
            }
            Err(Refusal::Erased | Refusal::Conflict) => {
                Answer::Taken { message: None, duplicate: true }
            }
            Err(refusal) => match final_refusal(&refusal) {
                Some(words) => {
                    self.notices.tell_refused(context, (who, place, from), words);
                    Answer::Never(refusal.to_string())
                }
                None => later(&refusal.to_string()),
            },
        };
        self.notices.note_refused(context, refusal.as_ref(), &answer);
        answer
    }
}
