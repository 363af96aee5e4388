//! The reply of a durable message, as its agent sees it: questions go to whoever's message it is, and the turn
//! gives its slot away while they are open. An answer is in the journal before the agent is told of it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::asking::{Approved, Asking, OpenApproval, PastApproval, Slot, answered};
use super::clock::millis;
use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::{Digest, Entry, Owner, digest_of};
use super::notices::Notice;
use super::reply::ReplyBuffer;
use super::states::TurnState;
use super::submit::Refusal;
use crate::agent::{AgentSession, Answer, Leave, Question, Reply, Report};
use crate::cancel::{Cancel, CancelReason};
use crate::config::Approve;
use crate::escape::first_chars;
use crate::journal::WriteError;
use crate::journal::record::{Approval, Record, Step};
use crate::limits::{MAX_OPEN_APPROVALS, MAX_QUOTED_ERROR};
use crate::sys::clock::rfc3339;
use crate::sys::fd::EventFd;
use crate::sys::gather::Gather;
use crate::sys::poll::Interest;

/// What the journal names where nobody was asked.
const POLICY: &str = "agent.approve";

/// How many records are looked through at a time, from the newest on; and for one page at the most.
const SCANNED: u64 = 4096;
const MAX_SCANNED: u64 = 256 * SCANNED;

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
        let entry = state.table.get(id).ok_or(Refusal::Unknown)?;
        let (runs, n) = (entry.turn == TurnState::Running, entry.attempts);
        let asking = state.asking.iter().find(|it| it.message == id).filter(|_| runs);
        let open = asking.map_or(&[][..], |asking| &asking.open);
        if question.is_none() && open.len() > 1 {
            let ids: Vec<&str> = open.iter().map(|it| it.id.as_str()).gather();
            return Err(Refusal::ManyAsked(ids.join(", ")));
        }
        let is_meant =
            |it: &&OpenApproval| question.is_none_or(|id| it.id.eq_ignore_ascii_case(id));
        let open = open.iter().find(is_meant).ok_or(Refusal::NotAsked)?.clone();
        let approval = Box::new(answered(&open.id, &open.question, allow, by));
        let number = self.write_step(&mut state, (id, n), Step::Approval(approval))?;
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

    /// All questions that are open about messages of `wanted` owners, the oldest message's first.
    pub fn open_approvals(&self, wanted: &dyn Fn(&Owner) -> bool) -> Vec<OpenApproval> {
        let state = self.lock();
        let open = state.asking.iter().flat_map(|asking| &asking.open);
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

    /// The living agent's own session for this one, if there is one. One whose record is damaged is none.
    ///
    /// # Errors
    /// The record cannot be read now.
    pub(super) fn agent_session(&self, session: Digest) -> io::Result<Option<AgentSession>> {
        let number = self.lock().table.agent_session_of(session);
        if number == 0 {
            return Ok(None);
        }
        match self.journal.read(number).map(|json| Record::parse(&json)) {
            Ok(Ok(Record::AgentSession { agent, id, .. })) => Ok(Some(AgentSession { agent, id })),
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                Err(e)
            }
            _ => {
                log::warn!(
                    "which session of its agent a session has cannot be read: a new one begins"
                );
                Ok(None)
            }
        }
    }
}

impl State {
    fn asking_of(&mut self, id: Id) -> Option<&mut Asking> {
        self.asking.iter_mut().find(|asking| asking.message == id)
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

/// Where the reply of a durable message goes.
pub struct DurableReply<'a> {
    pub hub: &'a Arc<Hub>,
    pub id: Id,
    /// The message when its attempt began.
    pub entry: &'a Entry,
    pub run: &'a ReplyBuffer,
    /// What the journal has as the agent's own session.
    pub known: Option<AgentSession>,
    /// There may be something of it in [`State`].
    pub asked: bool,
}

impl DurableReply<'_> {
    /// Writes down an answer, and says why that cannot be.
    fn write(
        &self,
        state: &mut State,
        (id, question): (&str, &Question),
        (allowed, by): (bool, &str),
    ) -> Result<u64, WriteError> {
        self.check(state).map_err(WriteError::Unavailable)?;
        let approval: Box<Approval> = Box::new(answered(id, question, allowed, by));
        self.hub.write_step(state, (self.id, self.entry.attempts), Step::Approval(approval))
    }

    /// Writes down what the configuration answers: durable when this returns.
    fn decide(&self, question: &Question, allowed: bool) -> Result<(), WriteError> {
        let mut state = self.hub.lock();
        let number = self.write(&mut state, ("", question), (allowed, POLICY))?;
        drop(state);
        self.hub.sync(number)
    }

    /// That its attempt goes on.
    fn check(&self, state: &State) -> Result<(), String> {
        let entry = state.table.get(self.id);
        let runs = entry.is_some_and(|entry| entry.turn == TurnState::Running);
        runs.then_some(()).ok_or_else(|| "the turn is over".to_owned())
    }

    /// Asks whoever's message it is.
    fn open(&mut self, question: &Question) -> Result<Leave, String> {
        let hub = self.hub;
        let new = Arc::new(EventFd::new().map_err(|e| format!("nobody can be asked now: {e}"))?);
        let timeout = hub.settings().config.agent.approve_timeout;
        let expires_at = hub.clocks.read().wall.saturating_add(millis(timeout));
        let mut guard = hub.lock();
        let state = &mut *guard;
        self.check(state)?;
        let taken =
            |id: &str| state.asking.iter().flat_map(|asking| &asking.open).any(|it| it.id == id);
        let owner = Arc::clone(&self.entry.owner);
        let open = OpenApproval::new(self.id, owner, question, expires_at, &taken);
        if state.asking_of(self.id).is_none() {
            let (open, answers) = (Vec::new(), Vec::new());
            let (message, event, slot) = (self.id, new, Slot::Held);
            state.asking.push(Asking { message, event, open, answers, slot });
            self.asked = true;
        }
        let parks = |asking: &Asking| asking.slot == Slot::Held;
        let Some(asking) = state.asking.iter_mut().find(|it| it.message == self.id) else {
            return Err("nobody can be asked now".to_owned());
        };
        if asking.open.len() >= MAX_OPEN_APPROVALS {
            return Err(format!("{MAX_OPEN_APPROVALS} other questions of this turn are open"));
        }
        asking.open.push(open.clone());
        self.run.add_event("approval", Arc::clone(&open.json));
        if parks(asking) && state.dispatch.park(self.id) {
            asking.slot = Slot::Parked;
        }
        // Looked at under the lock: who drains or pauses comes by for those that ask, after the flag.
        let stopping = hub.is_draining() || hub.is_paused();
        if stopping {
            asking.stop();
        }
        let event = Arc::clone(&asking.event);
        let begun = hub.begin_attempts(state);
        drop(guard);
        hub.spawn_workers(begun);
        if !stopping {
            self.tell(&open, expires_at);
        }
        Ok(Leave::Asked { id: open.id, event })
    }

    /// Has the session, and where its replies go, told of a question.
    fn tell(&self, open: &OpenApproval, expires_at: u64) {
        let (owner, id) = (&self.entry.owner, &open.id);
        let deliver = self.entry.delivery.as_ref().map(|outgoing| outgoing.target.clone());
        if owner.session.is_none() && deliver.is_none() {
            return;
        }
        let Question { title, kind, input } = &open.question;
        let kind = if kind.is_empty() { String::new() } else { format!(" ({kind})") };
        let mut text = format!("The agent of message {} asks for leave: {title}{kind}", self.id);
        if !input.is_empty() {
            text = format!("{text}\n{}", first_chars(input, MAX_QUOTED_ERROR));
        }
        let until = rfc3339(expires_at);
        let text = format!("{text}\nAnswer /approve {id} or /deny {id}, until {until}.");
        let which = [self.id.to_string(), self.entry.attempts.to_string(), id.clone()].join(" ");
        let about = digest_of(&[b"notice", b"approval", which.as_bytes()]);
        self.hub.tell(Notice { to: (**owner).clone(), deliver, about, text });
    }
}

impl Reply for DurableReply<'_> {
    fn chunk(&mut self, text: &str) -> io::Result<()> {
        self.run.add_text(text);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.run.lock().text.len()
    }

    fn event(&mut self, word: &'static str, json: &str) {
        self.run.add_event(word, Arc::from(json));
    }

    fn ask(&mut self, question: &Question, policy: Approve) -> Leave {
        let refused = match policy {
            Approve::Never => return Leave::Denied(String::new()),
            Approve::Always => match self.decide(question, true) {
                Ok(()) => return Leave::Allowed,
                Err(e) => return Leave::Denied(format!("that cannot be written down: {e}")),
            },
            Approve::Ask if self.run.lock().attended => {
                "a chat completion cannot be asked".to_owned()
            }
            Approve::Ask => match self.open(question) {
                Ok(asked) => return asked,
                Err(why) => why,
            },
        };
        if let Err(e) = self.decide(question, false) {
            log::warn!("what turn {} was not allowed is not in the journal: {e}", self.id);
        }
        Leave::Denied(refused)
    }

    fn answers(&mut self) -> Vec<Answer> {
        let mut state = self.hub.lock();
        let Some(asking) = state.asking_of(self.id) else { return Vec::new() };
        asking.event.clear();
        let answers = std::mem::take(&mut asking.answers);
        drop(state);
        let newest = answers.iter().fold(0, |newest, (_, number)| newest.max(*number));
        // Of a journal that broke nobody is told more: the process ends.
        let durable = self.hub.sync(newest).is_ok();
        answers.into_iter().filter(|_| durable).map(|(answer, _)| answer).gather()
    }

    fn withdraw(&mut self, id: &str, why: &str) -> Option<bool> {
        let mut state = self.hub.lock();
        let asking = state.asking_of(self.id)?;
        let given =
            |(answer, _): &(Answer, u64)| matches!(answer, Answer::Given(it, _) if it == id);
        if let Some(at) = asking.answers.iter().position(given) {
            let (answer, number) = asking.answers.remove(at);
            drop(state);
            let Answer::Given(_, allowed) = answer else { return None };
            return self.hub.sync(number).ok().map(|()| allowed);
        }
        let at = asking.open.iter().position(|it| it.id == id)?;
        let open = asking.open.remove(at);
        self.run.retract(&open.json);
        if !why.is_empty() {
            match self.write(&mut state, (id, &open.question), (false, why)) {
                Ok(_) => self.hub.sync_soon(&mut state),
                Err(e) => log::warn!("a question of turn {} ended unwritten: {e}", self.id),
            }
        }
        None
    }

    fn resume(&mut self, cancel: &Cancel<'_>) -> Result<(), CancelReason> {
        loop {
            let mut state = self.hub.lock();
            let Some(asking) = state.asking_of(self.id) else { return Ok(()) };
            let event = Arc::clone(&asking.event);
            event.clear();
            match asking.slot {
                Slot::Held => return Ok(()),
                Slot::Wanted => {}
                Slot::Parked => {
                    asking.slot = Slot::Wanted;
                    state.dispatch.unpark(self.id);
                    self.hub.start_turns(state);
                    continue;
                }
            }
            drop(state);
            let waited = cancel.wait([Interest::read(event.as_fd())], cancel.deadline);
            let (_, ended) = waited.unwrap_or(([false], Some(CancelReason::TimedOut)));
            let Some(reason) = ended else { continue };
            // So that the slot is not given to one that does not go on.
            let mut state = self.hub.lock();
            let asking = state.asking_of(self.id).filter(|asking| asking.slot == Slot::Wanted);
            if let Some(asking) = asking {
                asking.slot = Slot::Parked;
                state.dispatch.park(self.id);
            }
            return Err(reason);
        }
    }

    fn keep_session(&mut self, session: &AgentSession) {
        let Some(digest) = self.entry.session() else { return };
        if self.known.as_ref() == Some(session) {
            return;
        }
        let mut state = self.hub.lock();
        // What was reset meanwhile stays forgotten.
        if state.table.is_reset(digest, self.entry.accepted) {
            return;
        }
        let Owner { principal, session: key, .. } = &*self.entry.owner;
        let record = Record::AgentSession {
            principal: principal.clone(),
            session: key.clone().unwrap_or_default(),
            at: self.hub.stamp(),
            agent: session.agent.clone(),
            id: session.id.clone(),
        };
        match self.hub.write(&mut state, &record) {
            Ok(_) => {
                self.hub.sync_soon(&mut state);
                self.known = Some(session.clone());
            }
            Err(e) => log::warn!("turn {}: its agent's session is not kept: {e}", self.id),
        }
    }

    fn upstream(&mut self, name: &str) {
        Reply::upstream(&mut self.run, name);
    }

    fn report(&mut self, report: Report) {
        self.run.lock().report = report;
    }
}

impl Drop for DurableReply<'_> {
    fn drop(&mut self) {
        if self.asked {
            self.hub.lock().asking.retain(|asking| asking.message != self.id);
        }
    }
}
