//! The reply of a durable message, as its agent sees it: questions go to whoever's message it is, and the turn
//! gives its slot away while they are open.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::asking::{Asking, OpenApproval, Slot};
use super::clock::millis;
use super::hub::Hub;
use super::id::Id;
use super::message_table::{Digest, Entry, Owner, digest_of};
use super::notices::Notice;
use super::reply::ReplyBuffer;
use super::states::TurnState;
use super::submit::Refusal;
use crate::agent::{AgentSession, Answer, Leave, Question, Reply, Report};
use crate::cancel::{Cancel, CancelReason};
use crate::config::Approve;
use crate::escape::{escaped, first_chars};
use crate::journal::record::{Origin, Record};
use crate::limits::{MAX_APPROVALS, MAX_OPEN_APPROVALS, MAX_POLICY_INPUT, MAX_QUOTED_ERROR};
use crate::sys::clock::rfc3339;
use crate::sys::fd::EventFd;
use crate::sys::gather::Gather;
use crate::sys::poll::Interest;

/// What the journal names where nobody was asked.
const POLICY: &str = "agent.approve";

/// Where a text was cut. JSON that ends so is none any more, and is shown as a string.
const CUT: &str = "…";

impl Hub {
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

/// Where the reply of a durable message goes.
pub struct DurableReply<'a> {
    pub hub: &'a Arc<Hub>,
    pub id: Id,
    /// The message when its attempt began.
    pub entry: &'a Entry,
    pub run: &'a ReplyBuffer,
    /// What the journal has as the agent's own session.
    pub known: Option<AgentSession>,
    /// How often it has asked: if it has, there may be something of it in [`super::hub::State`].
    pub asked: usize,
    /// Nobody has answered one of its questions in time, so nobody is asked any more.
    pub unanswered: bool,
}

impl DurableReply<'_> {
    /// Writes down what the configuration answers: durable when this returns.
    fn decide(&self, question: &Question, allowed: bool) -> Result<(), Refusal> {
        let mut question = question.clone();
        if question.input.len() > MAX_POLICY_INPUT {
            let end = MAX_POLICY_INPUT - CUT.len();
            question.input.truncate(question.input.floor_char_boundary(end));
            question.input += CUT;
        }
        let (mut state, by) = (self.hub.lock(), (allowed, POLICY));
        let number = self.hub.write_approval(&mut state, self.id, ("", &question), by)?;
        drop(state);
        Ok(self.hub.sync(number)?)
    }

    /// Asks whoever's message it is.
    fn open(&mut self, question: &Question) -> Result<Leave, String> {
        let hub = self.hub;
        let new = Arc::new(EventFd::new().map_err(|e| format!("nobody can be asked now: {e}"))?);
        let timeout = hub.settings().config.agent.approve_timeout;
        let expires_at = hub.clocks.read().wall.saturating_add(millis(timeout));
        let mut guard = hub.lock();
        let state = &mut *guard;
        let runs = state.table.get(self.id).is_some_and(|it| it.turn == TurnState::Running);
        runs.then_some(()).ok_or("the turn is over")?;
        let taken =
            |id: &str| state.asking.iter().flat_map(|asking| &asking.open).any(|it| it.id == id);
        let asker = self.entry.channel.as_ref().map(|on| on.asker.clone()).unwrap_or_default();
        let owner = (Arc::clone(&self.entry.owner), asker);
        let open = OpenApproval::new(self.id, owner, question, expires_at, &taken);
        if state.asking_of(self.id).is_none() {
            let (open, answers) = (Vec::new(), Vec::new());
            let (message, event, slot) = (self.id, new, Slot::Held);
            state.asking.push(Asking { message, event, open, answers, slot });
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
        let deliver = self.entry.delivery.as_ref().map(|outgoing| outgoing.target.to_string());
        if owner.session.is_none() && deliver.is_none() {
            return;
        }
        let Question { title, kind, input } = &open.question;
        let [title, kind, input] = [title, kind, input].map(|text| for_people(text));
        let kind = if kind.is_empty() { String::new() } else { format!(" ({kind})") };
        let mut text = format!("The agent of message {} asks for leave: {title}{kind}", self.id);
        if !input.is_empty() {
            text = format!("{text}\n{input}");
        }
        let until = rfc3339(expires_at);
        let text = format!("{text}\nAnswer /approve {id} or /deny {id}, until {until}.");
        let which = [self.id.to_string(), self.entry.attempts.to_string(), id.clone()].join(" ");
        let about = digest_of(&[b"notice", b"approval", which.as_bytes()]);
        let origin = self.entry.channel.as_ref().map(|on| {
            let ids = on.reply_to.iter().cloned().gather();
            Box::new(Origin { ids, prompt: Some(id.clone()), ..*on.place.clone().into_origin() })
        });
        self.hub.tell(Notice { to: (**owner).clone(), deliver, origin, about, text });
    }
}

/// The beginning of what an agent wants to do, on one line and safe to print. Nothing is out of sight behind
/// blanks, and what is cut says so.
fn for_people(text: &str) -> String {
    let text = text.split_whitespace().gather().join(" ");
    let mut shown = escaped(&first_chars(&text, MAX_QUOTED_ERROR), false);
    match text.chars().skip(MAX_QUOTED_ERROR).count() {
        0 => {}
        more => shown += &format!("{CUT} ({more} more characters: see `hermes-gateway approvals`)"),
    }
    shown
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
        self.asked += 1;
        let refused = match policy {
            Approve::Never => return Leave::Denied(String::new()),
            _ if self.asked > MAX_APPROVALS => {
                return Leave::Denied("too many questions in one turn".to_owned());
            }
            Approve::Always => match self.decide(question, true) {
                Ok(()) => return Leave::Allowed,
                Err(e) => return Leave::Denied(format!("that cannot be written down: {e}")),
            },
            Approve::Ask if self.run.lock().attended => {
                "a chat completion cannot be asked".to_owned()
            }
            Approve::Ask if self.unanswered => "nobody has answered an earlier question".to_owned(),
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
            self.unanswered = true;
            match self.hub.write_approval(&mut state, self.id, (id, &open.question), (false, why)) {
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
        if self.asked > 0 {
            self.hub.lock().asking.retain(|asking| asking.message != self.id);
        }
    }
}
