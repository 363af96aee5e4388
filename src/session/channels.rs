//! Channels, as sessions know them: what they have offered, what is to be sent there, and what is kept of them.
//! Of processes and their lines nothing is known here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::commands::Command;
use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::{Digest, Entry, Outgoing, Owner, Parts, Place, channel_key};
use super::notices::{Notice, UNWRITTEN};
use super::reply::ReplyBuffer;
use super::states::{DeliveryState, TurnState};
use super::submit::Refusal;
use crate::journal::record::{Fact, Part, Record, Step};
use crate::sys::fd::EventFd;
use crate::sys::gather::Gather;

/// Conversations that moved time and again: each was read from a record, and they may go in a circle.
const MAX_MOVES: usize = 8;

/// A reply that is to be sent to a channel.
#[derive(Clone, Debug, Default)]
pub struct ToSend {
    pub place: Place,
    /// The platform's id of what it replies to.
    pub reply_to: Option<String>,
    /// The question of an agent that it asks.
    pub prompt: Option<String>,
    /// Attempts that were begun.
    pub attempts: u32,
    pub parts: Parts,
    /// An agent wrote it: what the gateway says itself is no markdown.
    pub markdown: bool,
    /// Why it is to become a dead letter at once.
    pub give_up: Option<String>,
}

/// A turn that runs for a message of a channel.
pub struct Running {
    pub id: Id,
    pub attempt: u32,
    pub place: Place,
    /// The platform's id of what it answers, and of what shows its reply so far.
    pub reply_to: Option<String>,
    pub preview: Option<String>,
    pub reply: Arc<ReplyBuffer>,
    /// It waits for somebody's answer.
    pub asks: bool,
}

impl Hub {
    /// A channel works from now on: `wake` is notified whenever there may be something new for it. All that is
    /// to be sent there is new to it.
    pub fn attach_channel(self: &Arc<Self>, name: &str, wake: &Arc<EventFd>) {
        self.lock().offer_all(name);
        self.attached.set(name, Some(Arc::clone(wake)));
        wake.notify();
        self.tell_all_held(name);
    }

    /// A number that is another one once there may be something new to send, or to show of turns.
    pub fn channel_changes(&self) -> usize {
        self.attached.changes()
    }

    /// Whether it works: not one that a configuration did not have meanwhile.
    pub fn is_channel_attached(&self, name: &str) -> bool {
        self.lock().to_send.get(name).is_some()
    }

    /// A channel does not work any more.
    pub fn detach_channel(&self, name: &str) {
        let mut state = self.lock();
        state.to_send.remove(name);
        if !self.is_channel(name) {
            state.move_deliveries(name);
            self.maintenance_wakeup.notify_all();
        }
        drop(state);
        self.attached.set(name, None);
        if self.is_draining() || self.is_paused() {
            self.wake_main();
        }
    }

    /// The account of which a channel was read, and up to where: durable when this returns.
    pub fn cursor_of(&self, channel: &str) -> Option<(String, String)> {
        self.facts_of(channel, Fact::Cursor)
            .pop()
            .filter(|_| self.sync(self.journal.last()).is_ok())
    }

    /// What is kept of a channel: keys and values, the oldest first.
    pub fn facts_of(&self, channel: &str, fact: Fact) -> Vec<(String, String)> {
        self.lock().table.facts_of(channel, fact)
    }

    /// Keeps something of a channel, instead of an earlier value of this key; an empty value: it does not hold
    /// any more. Of each kind the oldest make room. Returns the record to sync.
    pub fn keep_fact(
        &self,
        channel: &str,
        fact: Fact,
        key: &str,
        value: &str,
    ) -> Result<u64, Refusal> {
        let mut state = self.lock();
        if state.table.fact(channel, fact, key).unwrap_or_default() == value {
            return Ok(self.journal.last());
        }
        let [channel, key, value] = [channel, key, value].map(str::to_owned);
        let record = Record::Channel { channel, fact, key, value, at: self.stamp() };
        Ok(self.write(&mut state, &record)?)
    }

    /// The message that became of what a channel offers; durable when this returns.
    pub fn find_offered(&self, channel: &str, account: &str, id: &str) -> Option<Id> {
        let (id, number) = {
            let state = self.lock();
            let key = channel_key(channel, account, id);
            let (id, entry) = state.table.find_by_idempotency_key(key)?;
            (id, entry.accepted)
        };
        self.sync(number).ok().map(|()| id)
    }

    /// Replaces the text of a message that waits; false where it does not. Durable when this returns.
    pub fn edit(&self, id: Id, text: String) -> Result<bool, Refusal> {
        let mut state = self.lock();
        let Some(entry) = state.table.get(id) else { return Ok(false) };
        // It is not known which part of the text was one piece's.
        if entry.channel.as_ref().is_some_and(|on| !on.joined.is_empty()) {
            return Ok(false);
        }
        let record = Record::step(id, 0, self.stamp(), Step::Edited(text));
        let Record::Step { step: Step::Edited(text), .. } = &record else { return Ok(false) };
        // A command is none that waits.
        let waits = matches!(entry.turn, TurnState::Queued | TurnState::Backoff);
        if !waits || Command::parse(text).is_some() || state.table.check(&record).is_err() {
            return Ok(false);
        }
        self.check_share(&state, &entry.owner.principal, text.len() as u64)?;
        let number = self.write(&mut state, &record)?;
        drop(state);
        self.sync(number)?;
        Ok(true)
    }

    /// Has the gateway itself say something at a place of a channel, once for each `about`. Where the journal
    /// does not take it, the log says so.
    pub fn say(
        self: &Arc<Self>,
        channel: &str,
        (to, place): (Owner, Place),
        about: Digest,
        text: String,
    ) {
        let (deliver, origin) = (Some(channel.to_owned()), Some(place.into_origin()));
        self.tell(Notice { to, deliver, origin, about, text });
    }

    /// What is to be sent to a channel, and was not told before, in the order of its records.
    pub fn take_to_send(&self, channel: &str) -> Vec<Id> {
        self.lock().to_send.get_mut(channel).map(std::mem::take).unwrap_or_default()
    }

    /// What is to be sent of a message; `None`: nothing, or not any more.
    pub fn to_send(&self, id: Id) -> Option<ToSend> {
        let settings = self.settings();
        let (state, now) = (self.lock(), self.stamp());
        let entry = state.table.copy(id).filter(|entry| !entry.erased && entry.is_to_be_sent())?;
        let outgoing = entry.delivery?;
        // One that is configured no more ends what it has begun, before it is detached.
        let channel = settings.config.channel.get(&outgoing.target);
        let on = entry.channel.unwrap_or_default();
        let mut place = on.place;
        if place.conversation.is_empty() {
            place.conversation.clone_from(&channel?.home);
        }
        state.follow(&outgoing.target, &mut place);
        // What nobody could send while the machine was off does not grow old meanwhile.
        let age = now.uptime().saturating_sub(outgoing.since.uptime());
        let give_up = if place.conversation.is_empty() {
            Some(format!("channel {:?} has no home, and the message names none", outgoing.target))
        } else if channel.is_some_and(|it| Duration::from_millis(age) >= it.expire) {
            Some(format!("it expired after {} attempts", outgoing.attempts))
        } else {
            None
        };
        Some(ToSend {
            place,
            reply_to: on.reply_to,
            prompt: on.prompt,
            attempts: outgoing.attempts,
            markdown: entry.turn == TurnState::Done && entry.attempts > 0,
            parts: on.parts.map(|parts| *parts).unwrap_or_default(),
            give_up,
        })
    }

    /// By what an adapter knows the reply of a message: what a message becomes that has begun anew is another one.
    pub fn delivery_name(&self, id: Id) -> String {
        match self.lock().table.get(id).map(|entry| (entry.accepted, entry.queued)) {
            Some((accepted, queued)) if queued != accepted => format!("{id}.{queued}"),
            _ => id.to_string(),
        }
    }

    /// Whether nothing more becomes of the turn of a message; also where it is not known.
    pub fn is_over(&self, id: Id) -> bool {
        self.lock().table.get(id).is_none_or(|entry| entry.turn.is_over())
    }

    /// What is said of a message that is over, for the people of a chat. `InvalidData`: nothing ever.
    pub fn text_to_send(&self, id: Id) -> io::Result<String> {
        let entry = self.lock().table.copy(id).ok_or(io::ErrorKind::NotFound)?;
        Ok(match self.outcome(&entry)? {
            Some(Step::Done(text, _)) if !text.trim().is_empty() => text,
            Some(Step::Done(..)) => "(The reply is empty.)".to_owned(),
            Some(Step::Failed(why, ..)) if why == UNWRITTEN => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            // Its reason names files, programs and hosts.
            Some(Step::Failed(..)) => {
                format!("This could not be answered. An operator finds why under message {id}.")
            }
            _ => return Err(io::ErrorKind::NotFound.into()),
        })
    }

    /// Writes down what becomes of a part of attempt `n`; before one is handed over, that the attempt has begun.
    /// Of a turn that runs, `n` is the turn's, and the part a preview. Returns the record to sync.
    pub fn write_part(&self, id: Id, n: u32, part: Part) -> Result<u64, Refusal> {
        let mut state = self.lock();
        let entry = state.table.get(id).ok_or(Refusal::Unknown)?;
        let begins = match (entry.turn.is_over(), entry.delivery.as_deref()) {
            (true, Some(outgoing)) if part.sent.is_none() => {
                n > outgoing.attempts || outgoing.state == Some(DeliveryState::Pending)
            }
            (true, _) => false,
            (false, _) => {
                let runs = entry.turn == TurnState::Running && n == entry.attempts;
                if !part.preview || !(runs || part.sent.is_some()) {
                    return Err(Refusal::TooLate);
                }
                false
            }
        };
        if begins {
            self.write_next(&mut state, id, n, Step::Sending)?;
        }
        self.write_next(&mut state, id, n, Step::Part(Box::new(part)))
    }

    /// Writes down how attempt `n` of a delivery ended. Returns the record to sync.
    pub fn settle(&self, id: Id, n: u32, step: Step) -> Result<u64, Refusal> {
        let dead = if let Step::Dead(why) = &step { Some(why.clone()) } else { None };
        let mut state = self.lock();
        // An attempt that ends with its empty place has not begun yet.
        let outgoing = state.table.get(id).and_then(|entry| entry.delivery.as_deref());
        let begun = |outgoing: &Outgoing| {
            outgoing.state != Some(DeliveryState::Pending) || n <= outgoing.attempts
        };
        if !outgoing.is_none_or(begun) {
            self.write_next(&mut state, id, n, Step::Sending)?;
        }
        let number = self.write_next(&mut state, id, n, step)?;
        self.sync_soon(&mut state);
        let target = state.table.get(id).and_then(Entry::target).map(str::to_owned);
        drop(state);
        if let Some((why, target)) = dead.zip(target) {
            super::delivery_worker::warn_dead(&target, id, &why);
        }
        Ok(number)
    }

    /// Writes a step that may have become impossible.
    fn write_next(&self, state: &mut State, id: Id, n: u32, step: Step) -> Result<u64, Refusal> {
        let record = Record::step(id, n, self.stamp(), step);
        state.table.check(&record).map_err(|_| Refusal::TooLate)?;
        Ok(self.write(state, &record)?)
    }

    /// The turns that run for messages of a channel.
    pub fn running_on(&self, channel: &str) -> Vec<Running> {
        let state = self.lock();
        let known = |(id, reply): &(Id, Arc<ReplyBuffer>)| {
            let entry = state.table.get(*id).filter(|entry| entry.turn == TurnState::Running)?;
            let on = entry.channel.as_ref().filter(|_| entry.offered)?;
            entry.target().filter(|target| *target == channel)?;
            let mut place = on.place.clone();
            state.follow(channel, &mut place);
            let preview = on.parts.as_ref().and_then(|parts| parts.preview.clone());
            let (reply_to, reply) = (on.reply_to.clone(), Arc::clone(reply));
            let (attempt, asks) = (entry.attempts, !state.open_approvals_of(*id).is_empty());
            Some(Running { id: *id, attempt, place, reply_to, preview, reply, asks })
        };
        state.replies.iter().filter_map(known).gather()
    }

    /// Whether a target is a channel, or still one, to which no delivery worker sends.
    pub(super) fn sends_itself(&self, state: &State, target: &str) -> bool {
        self.is_channel(target) || state.to_send.get(target).is_some()
    }

    /// Whether the configuration has a channel of this name.
    pub(super) fn is_channel(&self, target: &str) -> bool {
        self.settings().config.channel.get(target).is_some()
    }

    /// Has the channel of a message look again.
    pub(super) fn wake_channel_of(&self, state: &State, id: Id) {
        let target = state.table.get(id).and_then(Entry::target);
        target.into_iter().for_each(|target| self.attached.wake_one(target));
    }

    /// Hands what is to be sent to a channel to that.
    pub(super) fn send_on_channel(&self, state: &mut State, target: &str, id: Id) {
        if let Some(ids) = state.to_send.get_mut(target) {
            ids.push(id);
            self.attached.wake_one(target);
        }
    }

    /// A name that was a channel's may be a target's, or nobody's: what was to be sent there is moved once the
    /// channel is detached. One that is back before that has all of it again.
    pub(super) fn follow_channels(&self, state: &mut State, before: &[&str]) {
        for name in before {
            if !self.sends_itself(state, name) {
                state.move_deliveries(name);
            }
        }
        for name in self.settings().config.channel.names() {
            if !before.contains(&name) && state.to_send.get(name).is_some() {
                state.offer_all(name);
            }
        }
    }
}

impl State {
    /// All that is to be sent to a channel is new to it.
    fn offer_all(&mut self, name: &str) {
        let ids = self.table.sorted(Entry::is_to_be_sent, |entry| entry.outcome);
        let ids = ids.into_iter().filter(|(_, entry)| entry.target() == Some(name));
        self.to_send.insert(name.to_owned(), ids.map(|(id, _)| id).gather());
    }

    /// What was to be sent to a channel goes to a target of its name, or is a dead letter.
    fn move_deliveries(&mut self, name: &str) {
        for (id, entry) in self.table.sorted(Entry::is_to_be_sent, |entry| entry.outcome) {
            if entry.target() == Some(name) {
                self.deliveries.push(name, &entry.owner.principal, id);
            }
        }
    }

    /// Queues a message whose end could not be written.
    pub(super) fn take_up(&mut self, id: Id) {
        if let Some(entry) = self.table.get(id).filter(|entry| !entry.turn.is_over()) {
            let (who, session) = (Arc::clone(&entry.owner), entry.session());
            self.dispatch.restore(id, &who.principal, session);
        }
    }

    /// Where a conversation goes on.
    pub(super) fn follow(&self, channel: &str, place: &mut Place) {
        for _ in 0..MAX_MOVES {
            let moved = self.table.fact(channel, Fact::Moved, &place.conversation);
            let Some(moved) = moved else { return };
            place.conversation = moved.to_owned();
        }
    }
}
