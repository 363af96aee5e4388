//! Answers to what agents ask for leave to do: given, listed, and in the journal before an agent is told.

use std::sync::Arc;

use super::asking::{Approved, Asking, OpenApproval, PastApproval, Slot, answered};
use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::Owner;
use super::states::TurnState;
use super::submit::{Draft, Refusal};
use crate::agent::{Answer, Question};
use crate::escape::escaped;
use crate::journal::record::{Record, Step};
use crate::sys::gather::Gather;

/// How many records are looked through at a time, from the newest on; and for one page at the most.
const SCANNED: u64 = 4096;
const MAX_SCANNED: u64 = 256 * SCANNED;

/// Whoever gives a command or an answer.
#[derive(Clone, Debug)]
pub struct Sender {
    pub who: Owner,
    /// The channel that it came from, and the sender there; empty elsewhere.
    pub channel: String,
    pub from: String,
    pub operator: bool,
}

impl Sender {
    /// As the journal names him: where a message of several people's conversation is meant, by himself.
    fn name(&self, asker: &str) -> String {
        if asker.is_empty() {
            self.who.principal.clone()
        } else {
            escaped(&format!("{}:{}", self.channel, self.from), false)
        }
    }
}

impl Hub {
    /// Answers a question of a message: the only one that is open, or that of this id. Durable before the
    /// agent is told of it. `by`: whose answer it is.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], [`Refusal::NotAsked`], [`Refusal::ManyAsked`], or the journal's.
    pub fn approve(
        &self,
        id: Id,
        question: Option<&str>,
        allow: bool,
        by: &str,
    ) -> Result<Approved, Refusal> {
        let mut state = self.lock();
        state.table.get(id).ok_or(Refusal::Unknown)?;
        let open = state.open_approvals_of(id);
        if question.is_none() && open.len() > 1 {
            let ids: Vec<&str> = open.iter().map(|it| it.id.as_str()).gather();
            return Err(Refusal::ManyAsked(ids.join(", ")));
        }
        let is_meant =
            |it: &&OpenApproval| question.is_none_or(|id| it.id.eq_ignore_ascii_case(id));
        let open = open.iter().find(is_meant).ok_or(Refusal::NotAsked)?.clone();
        let number =
            self.write_approval(&mut state, id, (&open.id, &open.question), (allow, by))?;
        if let Some(reply) = state.replies.get(id) {
            reply.retract(&open.json);
        }
        let event = state.asking_of(id).map(|asking| {
            asking.open.retain(|it| it.id != open.id);
            asking.answers.push((Answer::Given(open.id.clone(), allow), number));
            Arc::clone(&asking.event)
        });
        drop(state);
        self.sync(number)?;
        event.iter().for_each(|event| event.notify());
        Ok(Approved { message: id, id: open.id, title: open.question.title, allowed: allow })
    }

    pub(super) fn sender(&self, draft: &Draft) -> Sender {
        let config = &self.settings().config;
        let offered = draft.origin.as_ref().filter(|_| draft.is_offered());
        let from = offered.map(|origin| origin.from.clone()).unwrap_or_default();
        let channel = draft.deliver.clone().unwrap_or_default();
        let operator =
            config.is_operator(&draft.who.principal) || config.is_operator_on(&channel, &from);
        Sender { who: draft.who.clone(), channel, from, operator }
    }

    /// Answers a question of the sender's session, or that of an id: of a message in a conversation of several
    /// people its own sender may, and an operator.
    ///
    /// # Errors
    /// Unknown: nothing is asked; NotAsked: not by this id; NotYours; ManyAsked; or those of [`Hub::approve`].
    pub fn answer_as(
        &self,
        sender: &Sender,
        id: Option<&str>,
        allow: bool,
    ) -> Result<Approved, Refusal> {
        let Sender { who, from, operator, .. } = sender;
        let mine = |owner: &Owner| owner.principal == who.principal || *operator;
        let mut open =
            self.open_approvals(&|owner| if id.is_some() { mine(owner) } else { owner == who });
        open.retain(|it| id.is_none_or(|id| it.id.eq_ignore_ascii_case(id)));
        let all = open.len();
        open.retain(|it| *operator || it.asker.is_empty() || it.asker == *from);
        match &open[..] {
            [] if all > 0 => Err(Refusal::NotYours),
            [] => Err(id.map_or(Refusal::Unknown, |_| Refusal::NotAsked)),
            [one] => self.approve(one.message, Some(&one.id), allow, &sender.name(&one.asker)),
            _ => {
                let line = |it: &OpenApproval| format!("\n{} {}", it.id, it.question.title);
                let lines: Vec<String> = open.iter().map(line).gather();
                Err(Refusal::ManyAsked(lines.concat()))
            }
        }
    }

    /// Writes down what becomes of a question about a message that runs. `question`: its id and itself.
    ///
    /// # Errors
    /// TooLate: it does not run; or the journal's, which keeps room for the ends of turns.
    pub(super) fn write_approval(
        &self,
        state: &mut State,
        id: Id,
        (question, what): (&str, &Question),
        (allowed, by): (bool, &str),
    ) -> Result<u64, Refusal> {
        let entry = state.table.get(id).filter(|entry| entry.turn == TurnState::Running);
        let entry = entry.ok_or(Refusal::TooLate)?;
        let (n, more) = (entry.attempts, what.title.len() + what.kind.len() + what.input.len());
        self.check_share(state, &entry.owner.principal, more as u64)?;
        let approval = Box::new(answered(question, what, allowed, by));
        Ok(self.write_step(state, (id, n), Step::Approval(approval))?)
    }

    /// All questions that are open about messages of `wanted` owners, the oldest message's first.
    pub fn open_approvals(&self, wanted: &dyn Fn(&Owner) -> bool) -> Vec<OpenApproval> {
        let state = self.lock();
        let open = state.asking.iter().flat_map(|it| state.open_approvals_of(it.message));
        let mut open: Vec<OpenApproval> = open.filter(|it| wanted(&it.owner)).cloned().gather();
        open.sort_by_key(|it| it.message);
        open
    }

    /// A page of answers about messages of `wanted` owners, the newest first, with records older than
    /// `before`: at most `limit`. With more, or where they are too far away, the number to go on before.
    pub fn approvals(
        &self,
        wanted: &dyn Fn(&Owner) -> bool,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<PastApproval>, Option<u64>), Refusal> {
        let last = self.journal.last();
        self.sync(last)?;
        let first = before.map_or(last, |before| before.saturating_sub(1).min(last));
        let (mut end, mut found) = (first, Vec::new());
        while end > 0 && found.len() <= limit && first - end < MAX_SCANNED {
            let (start, mut part) = (end.saturating_sub(SCANNED), Vec::new());
            let scanned = self.journal.scan(start, &mut |number, json| {
                if number <= end {
                    part.extend(self.past_approval(number, json, wanted));
                }
                number < end
            });
            scanned.map_err(|e| Refusal::Failed(e.to_string()))?;
            part.reverse();
            found.append(&mut part);
            end = start;
        }
        let more = found.len() > limit;
        found.truncate(limit);
        let next = if more { found.last().map(|it| it.number) } else { Some(end + 1) };
        Ok((found, next.filter(|next| *next > 1)))
    }

    fn past_approval(
        &self,
        number: u64,
        json: &str,
        wanted: &dyn Fn(&Owner) -> bool,
    ) -> Option<PastApproval> {
        if !json.starts_with(r#"{"t":"approval""#) {
            return None;
        }
        let Ok(Record::Step { id, at, step: Step::Approval(approval), .. }) = Record::parse(json)
        else {
            return None;
        };
        let message = Id::parse(&id)?;
        let entry = self.lock().table.copy(message).filter(|entry| !entry.erased)?;
        let owner = Some(entry.owner).filter(|owner| wanted(owner))?;
        Some(PastApproval { number, message, owner, at: at.at, approval: *approval })
    }
}

impl State {
    pub(super) fn asking_of(&mut self, id: Id) -> Option<&mut Asking> {
        self.asking.iter_mut().find(|asking| asking.message == id)
    }

    /// What is asked about a message, while it runs.
    pub(super) fn open_approvals_of(&self, id: Id) -> &[OpenApproval] {
        let runs = self.table.get(id).is_some_and(|entry| entry.turn == TurnState::Running);
        let asking = self.asking.iter().find(|it| it.message == id).filter(|_| runs);
        asking.map_or(&[], |asking| &asking.open)
    }

    /// Nobody answers any more: what waits for an answer is to end.
    pub(super) fn stop_asking(&mut self) {
        self.asking.iter_mut().for_each(Asking::stop);
    }

    /// Whether this turn, which has got a slot, is one that goes on with it.
    pub(super) fn goes_on(&mut self, id: Id) -> bool {
        let wants = |asking: &&mut Asking| asking.slot == Slot::Wanted;
        self.asking_of(id).filter(wants).is_some_and(|asking| {
            asking.slot = Slot::Held;
            asking.event.notify();
            true
        })
    }
}
