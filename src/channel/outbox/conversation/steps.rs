//! What each event does to what is at work. Pure.

use std::time::Duration;

use super::{Context, Conversation, Preview, Recording, State, Then, What};
use crate::channel::outbox::values::{Action, Delivery, Send};
use crate::channel::outbox::work::{PLACE, Work};
use crate::channel::wire::{Failure, FailureKind};
use crate::config::Uncertain;
use crate::delivery::backoff;
use crate::journal::record::{Part, Step};
use crate::limits::DISK_RETRY_DELAY;
use crate::session::Id;

/// The longest pause between two attempts of a reply for which the platform did not ask for more.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// A part that may have been shown so often is shown no more: it may be what ends the adapter.
const MAX_UNCERTAIN: u32 = 5;

/// How long a receipt is waited for while others come. An adapter that gives none is ended earlier.
const RECEIPT_WITHIN: Duration = Duration::from_secs(150);

const TOO_UNCERTAIN: &str = "a part of it may have arrived several times";

impl Recording {
    fn write(&self, cx: &mut Context<'_>) {
        let durable = matches!(self.then, Then::Text | Then::Place | Then::Go | Then::Nothing);
        let Recording { id, n, ref step, .. } = *self;
        cx.actions.push_back(Action::Write { id, n, step: step.clone(), durable });
    }

    /// Tries it again, if that is due.
    pub(super) fn repeat(mut self, cx: &mut Context<'_>) -> State {
        if self.again.take_if(|again| *again <= cx.now).is_some() {
            self.write(cx);
        }
        State::Recording(self)
    }
}

impl Context<'_> {
    /// Text enters empty places alone.
    fn edits(&self) -> bool {
        let can = self.abilities.is_some_and(|can| can.edit && !can.key);
        can && self.rules.uncertain == Uncertain::Edit
    }

    /// What may have arrived is sent again.
    fn repeats(&self) -> bool {
        self.rules.uncertain == Uncertain::Resend || self.abilities.is_some_and(|can| can.key)
    }
}

impl Conversation {
    /// Begins the next part of the first reply, or shows a preview.
    pub(super) fn start(&mut self, cx: &mut Context<'_>) -> State {
        if let Some(id) = self.queue.front().copied() {
            if self.work.is_some() {
                return self.go(cx);
            }
            cx.actions.push_back(Action::Load(id));
            return State::Loading(id);
        }
        let at = self.previews.iter().position(Preview::has_news);
        let Some(at) = at.filter(|_| self.shows(cx.now)) else { return State::Idle };
        let first = self.previews[at].message.is_none();
        let place = first && cx.rules.uncertain != Uncertain::Resend;
        let send = self.previews[at].send(&self.name, place);
        // The text follows its place at once; then the others of the conversation have their turns.
        self.next_preview = (!place).then(|| cx.now + cx.rules.pace);
        if !place {
            self.previews[at..].rotate_left(1);
        }
        let id = send.id;
        cx.actions.push_back(Action::Send(Box::new(send)));
        State::InFlight { id, part: 0, what: What::Preview { first }, by: cx.now + RECEIPT_WITHIN }
    }

    pub(super) fn begin(&mut self, of: Delivery, cx: &mut Context<'_>) -> State {
        let known = self.attempt.take_if(|(id, _)| *id == of.id);
        let n = known.map_or(of.attempts + 1, |(_, n)| n);
        let work = self.work.insert(Box::new(Work::new(of, n)));
        if !cx.abilities.is_some_and(|can| can.edit) {
            work.of.preview = None;
        }
        if work.of.open && work.of.preview.is_none() && !cx.repeats() {
            return self.die(self.why_uncertain(cx), cx);
        }
        self.go(cx)
    }

    fn why_uncertain(&self, cx: &Context<'_>) -> String {
        let part = self.work.as_ref().map_or(0, |work| work.part());
        let end = match cx.rules.uncertain {
            Uncertain::Edit if !cx.edits() => {
                "the adapter cannot edit, as uncertain = \"edit\" needs"
            }
            Uncertain::Edit => "it was not sent as uncertain = \"edit\" has it",
            Uncertain::Hold | Uncertain::Resend => "uncertain = \"hold\" sends nothing twice",
        };
        format!("part {} may have arrived, and {end}", part + 1)
    }

    /// Goes on with the reply at work.
    fn go(&mut self, cx: &mut Context<'_>) -> State {
        let edits = cx.edits();
        if self.work.as_ref().is_some_and(|work| work.is_sent()) {
            return self.record(Step::Delivered, Then::Over, cx);
        }
        let can = cx.abilities.filter(|_| cx.open);
        let Some((work, can)) = self.work.as_mut().zip(can) else {
            return self.give_up_attempt();
        };
        work.fit(can);
        let place = edits && work.of.preview.is_none();
        let opening = work.opening(place);
        let then = if place { Then::Place } else { Then::Text };
        self.record(Step::Part(Box::new(opening)), then, cx)
    }

    /// Has a record of the reply at work written.
    fn record(&mut self, step: Step, then: Then, cx: &mut Context<'_>) -> State {
        let Some(work) = &self.work else { return State::Idle };
        let recording = Recording { id: work.of.id, n: work.n, step, then, again: None };
        recording.write(cx);
        State::Recording(recording)
    }

    fn die(&mut self, why: String, cx: &mut Context<'_>) -> State {
        self.record(Step::Dead(why), Then::Over, cx)
    }

    pub(super) fn recorded(&mut self, it: &Recording, cx: &mut Context<'_>) -> State {
        match it.then {
            Then::Text | Then::Place => self.hand_over(it.then == Then::Place, cx),
            Then::Go => self.go(cx),
            Then::Next if self.work.as_ref().is_some_and(|work| work.is_sent()) => self.go(cx),
            Then::Next if cx.abilities.is_none() => self.give_up_attempt(),
            Then::Next | Then::Nothing => State::Idle,
            Then::PutOff(until) => {
                self.until = self.until.max(until);
                self.give_up_attempt()
            }
            Then::Over => self.drop_first(it.id),
        }
    }

    fn hand_over(&mut self, place: bool, cx: &mut Context<'_>) -> State {
        let Some(work) = self.work.as_deref() else { return State::Idle };
        let (part, parts, of) = (work.part(), work.parts(), &work.of);
        let replaces = of.preview.clone();
        let send = Send {
            id: of.id,
            attempt: work.n,
            part,
            parts,
            conversation: self.name.clone(),
            thread: of.thread.clone(),
            reply_to: of.reply_to.clone().filter(|_| part == 0 && replaces.is_none()),
            prompt: of.prompt.clone().filter(|_| part + 1 == parts && !place),
            text: if place { PLACE.to_owned() } else { work.piece.clone() },
            markdown: of.markdown,
            replaces,
            last: !place,
        };
        let (id, what) = (send.id, if place { What::Place } else { What::Text });
        cx.actions.push_back(Action::Send(Box::new(send)));
        State::InFlight { id, part, what, by: cx.now + RECEIPT_WITHIN }
    }

    /// What was heard from the platform is written however long that takes.
    pub(super) fn unrecorded(&mut self, mut it: Recording, cx: &mut Context<'_>) -> State {
        let again = Some(cx.now + DISK_RETRY_DELAY);
        if matches!(it.then, Then::Text | Then::Place) {
            self.until = self.until.max(again);
            self.unload_work();
            return State::Idle;
        }
        it.again = again;
        State::Recording(it)
    }

    pub(super) fn sent(
        &mut self,
        id: Id,
        what: What,
        message: String,
        cx: &mut Context<'_>,
    ) -> State {
        let part = |part, preview| {
            let sent = Some(message.clone());
            Step::Part(Box::new(Part { part, sent, preview, ..Part::default() }))
        };
        match (what, self.work.as_mut()) {
            (What::Text, Some(work)) => {
                let step = part(work.part(), false);
                work.advance();
                self.record(step, Then::Next, cx)
            }
            (What::Place, Some(work)) => {
                work.of.preview = Some(message.clone());
                let step = part(work.part(), true);
                self.record(step, Then::Go, cx)
            }
            (What::Preview { first }, _) => {
                if let Some(preview) = self.previews.iter_mut().find(|it| it.id == id) {
                    preview.message.get_or_insert(message.clone());
                }
                if !first {
                    return State::Idle;
                }
                let (step, then) = (part(0, true), Then::Nothing);
                let recording = Recording { id, n: 0, step, then, again: None };
                recording.write(cx);
                State::Recording(recording)
            }
            (What::Unwanted { taken_back: true }, _) => self.take_back(id, message, cx),
            (What::Unwanted { taken_back: false } | What::Text | What::Place, _) => State::Idle,
        }
    }

    fn take_back(&self, id: Id, message: String, cx: &mut Context<'_>) -> State {
        if cx.abilities.is_some_and(|can| can.delete) {
            let conversation = self.name.clone();
            cx.actions.push_back(Action::Delete { id, conversation, message });
        }
        State::Idle
    }

    pub(super) fn failed(
        &mut self,
        id: Id,
        what: What,
        failure: Failure,
        random: u64,
        cx: &mut Context<'_>,
    ) -> State {
        let Failure { kind, retry_after, moved_to, why } = failure;
        let asked = retry_after.map(|seconds| cx.now + Duration::from_secs(seconds));
        self.until = self.until.max(asked);
        let moved = moved_to.filter(|to| *to != self.name);
        if let Some(to) = moved.clone() {
            cx.actions.push_back(Action::Moved { from: self.name.clone(), to: to.clone() });
            self.moves_to = Some(to);
        }
        let times = self.count(kind != FailureKind::Uncertain || moved.is_some());
        let Some(work) = self.work.as_mut().filter(|_| matches!(what, What::Text | What::Place))
        else {
            let kind = if moved.is_some() { FailureKind::Temporary } else { kind };
            self.preview_failed(id, what, kind, cx);
            return State::Idle;
        };
        let edit = what == What::Text && work.of.preview.is_some();
        match kind {
            // The first time it is tried there at once.
            _ if moved.is_some() && times == 1 => {
                self.record(Step::Deferred(why), Then::PutOff(None), cx)
            }
            FailureKind::Permanent if moved.is_none() => {
                if !edit || work.anew {
                    return self.die(why, cx);
                }
                // Somebody may have deleted what was to be edited.
                (work.of.preview, work.anew) = (None, true);
                let gone = work.opening(true);
                self.record(Step::Part(Box::new(gone)), Then::Go, cx)
            }
            FailureKind::Uncertain if what == What::Text && !edit && !cx.repeats() => {
                let end = self.why_uncertain(cx);
                self.die(format!("{end}: {why}"), cx)
            }
            FailureKind::Uncertain if self.is_too_uncertain(what, times, cx) => {
                self.die(format!("{TOO_UNCERTAIN}: {why}"), cx)
            }
            FailureKind::Temporary | FailureKind::Permanent | FailureKind::Uncertain => {
                let until = cx.now + backoff::delay(times, random, MAX_PAUSE);
                self.record(Step::Deferred(why), Then::PutOff(Some(until)), cx)
            }
        }
    }

    fn preview_failed(&mut self, id: Id, what: What, kind: FailureKind, cx: &Context<'_>) {
        let What::Preview { first } = what else { return };
        let Some(preview) = self.previews.iter_mut().find(|it| it.id == id) else { return };
        // A second one beside the first would be worse than none.
        preview.off = kind == FailureKind::Permanent || first && kind == FailureKind::Uncertain;
        preview.repeat();
        self.next_preview = Some(cx.now + cx.rules.pace);
    }

    /// Counts that the part at work did not get through, being refused or without that being known. The pause
    /// grows with this, and not with attempts, which end with gateways and other parts too.
    fn count(&mut self, refused: bool) -> u32 {
        let Some(work) = &self.work else { return 1 };
        let part = Some((work.of.id, work.part()));
        if self.setbacks.0 != part {
            self.setbacks = (part, [0; 2]);
        }
        let count = &mut self.setbacks.1[usize::from(refused)];
        *count += 1;
        *count
    }

    /// Whether it may have been shown too often.
    fn is_too_uncertain(&self, what: What, times: u32, cx: &Context<'_>) -> bool {
        let edited = |work: &Work| what == What::Text && work.of.preview.is_some();
        let once = self.work.as_deref().is_some_and(edited);
        times >= MAX_UNCERTAIN && !once && !cx.abilities.is_some_and(|can| can.key)
    }

    pub(super) fn lost(&mut self, id: Id, what: What, cx: &mut Context<'_>) -> State {
        match what {
            What::Text | What::Place => {
                let times = self.count(false);
                if self.is_too_uncertain(what, times, cx) {
                    return self.die(TOO_UNCERTAIN.to_owned(), cx);
                }
                let until = cx.now + backoff::delay(times, u64::MAX, MAX_PAUSE);
                self.until = self.until.max(Some(until));
                self.give_up_attempt()
            }
            What::Preview { .. } | What::Unwanted { .. } => {
                self.preview_failed(id, what, FailureKind::Uncertain, cx);
                State::Idle
            }
        }
    }

    /// The reply at work is read again, for another attempt.
    pub(super) fn give_up_attempt(&mut self) -> State {
        if let Some(work) = self.work.take() {
            self.attempt = Some((work.of.id, work.n + 1));
        }
        State::Idle
    }

    /// It is settled, or not wanted any more.
    pub(super) fn drop_first(&mut self, id: Id) -> State {
        self.queue.retain(|it| *it != id);
        self.previews.retain(|it| it.id != id);
        self.work = None;
        self.attempt = None;
        State::Idle
    }

    /// Nothing is to be sent any more, and what it shows without being its text is taken back.
    pub(super) fn forget(&mut self, id: Id, cx: &mut Context<'_>) -> State {
        self.end_preview(id, cx);
        self.drop_first(id)
    }

    /// There will be no reply to what has this preview.
    pub(super) fn end_preview(&mut self, id: Id, cx: &mut Context<'_>) {
        let Some(at) = self.previews.iter().position(|it| it.id == id) else { return };
        if let Some(message) = self.previews.remove(at).message {
            self.take_back(id, message, cx);
        }
    }
}
