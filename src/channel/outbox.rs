//! What is to be sent on a channel, and how far that is. Pure: times come in, actions come out.
//!
//! One part, or preview, is in flight in a conversation, and so many in all as the adapter allows. The
//! conversations take turns, part by part: one that is stuck holds up no other. What is sent in one keeps its
//! order: a reply that is put off holds up those behind it.
//!
//! What survives a crash is in the journal, and an adapter that is lost is the same as a crash: what was in
//! flight is read again, and judged by what the journal says of it.

mod conversation;
mod preview;
mod values;
mod work;

use std::collections::VecDeque;
use std::time::Instant;

use super::wire::Receipt;
use crate::session::Id;
use conversation::{Context, Conversation, Event};

pub use values::{Abilities, Action, Delivery, Draft, Rules, Send};

/// The replies and previews of one channel.
#[derive(Debug)]
pub struct Outbox {
    rules: Rules,
    /// None: no adapter is ready.
    abilities: Option<Abilities>,
    closed: bool,
    /// Nothing is handed over before then.
    until: Option<Instant>,
    /// Those that have something to be sent, or have to wait.
    conversations: Vec<Conversation>,
    /// Turns that were given.
    turns: u64,
    actions: VecDeque<Action>,
}

impl Outbox {
    pub fn new(rules: Rules) -> Outbox {
        Outbox {
            rules,
            abilities: None,
            closed: false,
            until: None,
            conversations: Vec::new(),
            turns: 0,
            actions: VecDeque::new(),
        }
    }

    /// The next thing to be done; all of them are to be done after each call of another function.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// After a reload.
    pub fn configure(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// An adapter is ready.
    pub fn ready(&mut self, abilities: Abilities, now: Instant) {
        self.abilities = Some(abilities);
        self.schedule(now);
    }

    /// The adapter is gone, or was silent for too long: what was not answered is uncertain.
    pub fn lost(&mut self, now: Instant) {
        for at in 0..self.conversations.len() {
            self.happen(at, Event::Lost, now);
        }
        self.abilities = None;
        self.schedule(now);
    }

    /// Nothing more is handed over; what is in flight may still be answered.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// It goes on after [`close`](Outbox::close).
    pub fn open(&mut self, now: Instant) {
        self.closed = false;
        self.schedule(now);
    }

    /// The whole channel is left alone until then.
    pub fn hold_channel(&mut self, until: Instant) {
        self.until = self.until.max(Some(until));
    }

    /// A reply is to be sent to this conversation, under the id that it has now, behind those that are there.
    pub fn enqueue(&mut self, id: Id, conversation: &str, now: Instant) {
        let at = self.of(conversation);
        self.conversations[at].enqueue(id);
        self.schedule(now);
    }

    /// What [`Action::Load`] asked for.
    pub fn load(&mut self, delivery: Delivery, now: Instant) {
        if let Some(at) = self.at_work(delivery.id) {
            self.happen(at, Event::Loaded(Box::new(delivery)), now);
        }
        self.schedule(now);
    }

    /// What [`Action::Load`] asked for cannot be read before then.
    pub fn put_off(&mut self, id: Id, until: Instant, now: Instant) {
        if let Some(at) = self.at_work(id) {
            self.happen(at, Event::PutOff(until), now);
        }
        self.schedule(now);
    }

    /// This reply is not to be sent any more, or not known.
    pub fn forget(&mut self, id: Id, now: Instant) {
        match self.at_work(id) {
            Some(at) => self.happen(at, Event::Forgotten, now),
            None => self.conversations.iter_mut().for_each(|it| it.remove(id)),
        }
        self.end_preview(id, now);
    }

    /// The record that [`Action::Write`] has is written.
    pub fn written(&mut self, id: Id, now: Instant) {
        if let Some(at) = self.at_work(id) {
            self.happen(at, Event::Written, now);
        }
        self.schedule(now);
    }

    /// It could not be written.
    pub fn unwritten(&mut self, id: Id, now: Instant) {
        if let Some(at) = self.at_work(id) {
            self.happen(at, Event::Unwritten, now);
        }
        self.schedule(now);
    }

    /// What an adapter says of what was handed to it. `random` is a new random number. False: nothing is known
    /// of it, or it was answered before.
    pub fn receipt(&mut self, id: Id, receipt: &Receipt, random: u64, now: Instant) -> bool {
        let waits = |it: &Conversation| it.awaits(id, receipt.part);
        let Some(at) = self.conversations.iter().position(waits) else { return false };
        let event = match &receipt.result {
            Ok(message) => Event::Sent(message.clone()),
            Err(failure) => Event::Failed(failure.clone(), random),
        };
        self.happen(at, event, now);
        self.schedule(now);
        true
    }

    /// The newest state of a reply that is being made.
    pub fn preview(&mut self, draft: &Draft<'_>, now: Instant) {
        if let Some(abilities) = self.abilities.filter(|it| it.edit && !it.key) {
            let at = self.of(draft.conversation);
            self.conversations[at].preview(draft, &abilities);
            self.schedule(now);
        }
    }

    /// There will be no reply to this message: what was shown of it is taken back.
    pub fn end_preview(&mut self, id: Id, now: Instant) {
        for at in 0..self.conversations.len() {
            self.happen(at, Event::Unwanted(id), now);
        }
        self.schedule(now);
    }

    /// A conversation goes on under another id.
    pub fn moved(&mut self, from: &str, to: &str, now: Instant) {
        if let Some(conversation) = self.conversations.iter_mut().find(|it| it.name == from) {
            conversation.moves_to = Some(to.to_owned()).filter(|to| to != from);
        }
        self.schedule(now);
    }

    /// Begins what is due.
    pub fn tick(&mut self, now: Instant) {
        self.schedule(now);
    }

    /// When [`tick`](Outbox::tick) has something to do; `None`: not before something else happens.
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        let ready = self.abilities.is_some() && !self.closed;
        let wakes = self.conversations.iter().filter_map(|it| it.next_wake(ready));
        let held = self.until.filter(|until| ready && *until > now);
        wakes.chain(held).filter(|at| *at > now).min()
    }

    /// Parts and previews that were handed over and not answered.
    pub fn unanswered(&self) -> usize {
        self.conversations.iter().filter(|it| it.is_in_flight()).count()
    }

    /// Whether this one is being sent just now.
    pub fn is_at_work(&self, id: Id) -> bool {
        self.at_work(id).is_some()
    }

    /// Replies that wait, or are on their way.
    pub fn waiting(&self) -> usize {
        self.conversations.iter().map(Conversation::waiting).sum()
    }

    /// The place of a conversation, which is a new one if need be.
    fn of(&mut self, name: &str) -> usize {
        self.conversations.iter().position(|it| it.name == name).unwrap_or_else(|| {
            self.conversations.push(Conversation::new(name));
            self.conversations.len() - 1
        })
    }

    /// The place of the conversation where this is at work.
    fn at_work(&self, id: Id) -> Option<usize> {
        self.conversations.iter().position(|it| it.current() == Some(id))
    }

    fn happen(&mut self, at: usize, event: Event, now: Instant) {
        let open = self.is_open(now);
        let (abilities, actions) = (self.abilities.as_ref(), &mut self.actions);
        let mut cx = Context { rules: &self.rules, abilities, open, now, actions };
        self.conversations[at].on(event, &mut cx);
    }

    fn is_open(&self, now: Instant) -> bool {
        !self.closed && self.until.is_none_or(|until| until <= now)
    }

    /// Begins what is due, as far as the window goes: first what had its turn the longest time ago.
    fn schedule(&mut self, now: Instant) {
        self.merge_moved();
        for at in 0..self.conversations.len() {
            if self.conversations[at].is_late(now) {
                self.happen(at, Event::Lost, now);
            }
            if self.conversations[at].is_stuck(now) {
                self.happen(at, Event::Start, now);
            }
        }
        let window = self.abilities.filter(|_| self.is_open(now)).map_or(0, |can| can.send_window);
        let busy = self.conversations.iter().filter(|it| !it.is_idle()).count();
        for _ in busy..window {
            let Some(at) = self.next(now) else { break };
            self.turns += 1;
            self.conversations[at].turn = self.turns;
            self.happen(at, Event::Start, now);
        }
        self.conversations.iter_mut().for_each(Conversation::unload);
        self.conversations.retain(|it| !it.is_over(now));
    }

    /// The conversation whose turn it is.
    fn next(&self, now: Instant) -> Option<usize> {
        let moving = self.conversations.iter().any(|it| it.moves_to.is_some());
        // What was begun under the earlier id comes first.
        let waits = |name: &String| {
            moving && self.conversations.iter().any(|it| it.moves_to.as_ref() == Some(name))
        };
        let due = self.conversations.iter().enumerate();
        let due = due.filter(|(_, it)| it.is_due(now) && it.moves_to.is_none() && !waits(&it.name));
        due.min_by_key(|(_, it)| it.turn).map(|(at, _)| at)
    }

    /// Makes one of a conversation under its earlier and its new id, once one of the two is idle.
    fn merge_moved(&mut self) {
        let all = &mut self.conversations;
        for _ in 0..all.len() {
            let ready = |it: &Conversation| {
                let to = it.moves_to.clone()?;
                let new = all.iter().position(|other| other.name == to);
                new.is_none_or(|new| it.is_idle() || all[new].is_idle()).then_some((to, new))
            };
            let found = all.iter().enumerate().find_map(|(at, it)| Some((at, ready(it)?)));
            let Some((old, (to, new))) = found else { return };
            match new {
                Some(new) if all[old].is_idle() => {
                    let mut taken = all.remove(old);
                    taken.moves_to = None;
                    all[if old < new { new - 1 } else { new }].absorb(taken);
                }
                Some(new) => {
                    let newer = all.remove(new);
                    all[if new < old { old - 1 } else { old }].follow(newer);
                }
                None => (all[old].name, all[old].moves_to) = (to, None),
            }
        }
    }
}

#[cfg(test)]
mod tests;
