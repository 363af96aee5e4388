//! Running turns: a worker is a thread that exists while there is a turn for it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::commands::Command;
use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::{Digest, Entry, Owner};
use super::reply::{BufferWriter, ReplyBuffer};
use super::states::TurnState as Stage;
use super::transcript::{Known, TemporaryTranscript, Turn as Said};
use crate::agent::{self, Agent, Context, Outcome, Turn, TurnLimits};
use crate::journal::Refused;
use crate::journal::record::{Accepted, Record, Step};
use crate::limits::{DISK_PAUSE, SHORTAGE_VALID, THREAD_PAUSE};
use crate::sys::poll::{Interest, poll};
use crate::sys::process::is_shortage;
use crate::threads::{self, Work, lock};

/// The stack of a turn's or a delivery's thread; only what is touched takes memory.
const WORKER_STACK: usize = 256 << 10;

impl Hub {
    /// Gives each of these turns a worker. One for which there is no thread keeps its attempt and its
    /// place, and is tried again by the keeper.
    pub(super) fn spawn_workers(self: &Arc<Self>, ids: Vec<Id>) {
        let mut ids = VecDeque::from(ids);
        while let Some(id) = ids.pop_front() {
            let hub = Arc::clone(self);
            if self.spawn_worker("turn", Box::new(move || hub.work(id))) {
                continue;
            }
            let mut state = self.lock();
            if state.book.get(id).is_none_or(|entry| entry.turn.is_over()) {
                // It was taken back meanwhile, and that takes no thread.
                drop(state);
                ids.extend(self.finish_turn(id, Outcome::Cancelled));
                continue;
            }
            state.without_thread.push((Instant::now() + THREAD_PAUSE, id));
            if self.is_draining() {
                self.wake_maintenance(&mut state);
            }
            self.alarm.notify_all();
        }
    }

    /// Begins these, and gives each a worker.
    pub(super) fn go_on(self: &Arc<Self>, mut state: MutexGuard<'_, State>, ids: Vec<Id>) {
        let begun = self.begin(&mut state, ids);
        drop(state);
        self.spawn_workers(begun);
    }

    /// Waits for so long; says whether every turn has to end.
    pub(super) fn cut_within(&self, pause: Duration) -> bool {
        poll(&mut [Interest::read(self.cut.as_fd())], Some(pause)).is_ok_and(|ready| ready > 0)
    }

    /// Starts a thread for a turn, for deliveries or the keeper; false where the system has none.
    pub(super) fn spawn_worker(&self, name: &str, work: Work) -> bool {
        let spawned = threads::spawn(name, WORKER_STACK, work);
        if let Err(e) = &spawned {
            let why = format!("no thread for a {name}: {e}");
            if self.set_shortage(Some(&why)) {
                log::warn!("{why}; it is tried again until there is one");
            }
        }
        spawned.is_ok()
    }

    fn work(self: Arc<Self>, first: Id) {
        let mut next = Some(first);
        while let Some(id) = next {
            let outcome = self.attempt_with_patience(id);
            let mut ids = self.finish_turn(id, outcome);
            next = (!ids.is_empty()).then(|| ids.remove(0));
            self.spawn_workers(ids);
        }
    }

    /// Runs an attempt. Where the system is short of something it waits: that costs no attempt.
    fn attempt_with_patience(self: &Arc<Self>, id: Id) -> Outcome {
        let mut told = false;
        loop {
            let why = match self.attempt(id) {
                Outcome::Short(why) => why,
                outcome => {
                    self.set_shortage(None);
                    return outcome;
                }
            };
            self.set_shortage(Some(&why));
            if !std::mem::replace(&mut told, true) {
                log::warn!("turn {id} waits: {why}");
            }
            let cut = self.cut_within(DISK_PAUSE);
            let over = self.lock().book.get(id).is_none_or(|entry| entry.turn.is_over());
            if over || cut {
                return Outcome::Cut;
            }
        }
    }

    /// Says whether it is news.
    pub(super) fn set_shortage(&self, why: Option<&str>) -> bool {
        let mut shortage = lock(&self.shortage);
        let counted = shortage.as_ref().is_some_and(|(at, _)| at.elapsed() < SHORTAGE_VALID);
        *shortage = why.map(|why| (Instant::now(), format!("turns wait: {why}")));
        !counted
    }

    /// Runs one attempt of a message's turn, once the record that says so is durable.
    fn attempt(self: &Arc<Self>, id: Id) -> Outcome {
        let (entry, run, number) = {
            let mut state = self.lock();
            let Some(entry) = state.book.get(id).cloned() else {
                return Outcome::Failed("the message is not known any more".to_owned());
            };
            if entry.turn.is_over() {
                return Outcome::Cancelled;
            }
            (entry, state.runs.of(id), self.journal.last())
        };
        if self.sync(number).is_err() {
            return Outcome::Cut;
        }
        let message = match self.accepted(&entry) {
            Ok(message) => message,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return Outcome::Failed(format!("the message cannot be read back: {e}"));
            }
            Err(e) => {
                let why = format!("the message cannot be read now: {e}");
                // A disk may stay like this, and others want the place meanwhile.
                let short = is_shortage(&e);
                return if short { Outcome::Short(why) } else { Outcome::Temporary(why) };
            }
        };
        if entry.who.session.is_some() && Command::read(&message.text).is_some() {
            // An operator's word to the gateway is none for the agent.
            let words = "the gateway ended before it had carried this command out: send it again";
            return Outcome::Failed(words.to_owned());
        }
        let outcome = self.run(id, &entry, &message, &run);
        outcome.unwrap_or_else(|e| Outcome::Short(format!("it cannot be prepared: {e}")))
    }

    fn run(
        &self,
        id: Id,
        entry: &Entry,
        message: &Accepted,
        run: &ReplyBuffer,
    ) -> io::Result<Outcome> {
        let settings = self.settings();
        let limits = &settings.config.limits;
        let transcript = match entry.session() {
            Some(session) => {
                let mut settled = self.settle_transcript(session, &entry.who);
                let again = entry.attempts > 1 || entry.queued != entry.accepted;
                if again && settled.is_ok() {
                    settled = self.transcripts.remove_turn(session, id);
                }
                // A full disk must not keep accepted work from going on; what it lacks of the system it
                // waits for, and does not run without what was said before.
                if let Err(e) = settled {
                    if is_shortage(&e) {
                        return Err(e);
                    }
                    self.transcripts.mark_stale(session);
                    log::warn!("the transcript for turn {id} is not up to date: {e}");
                }
                Some(self.transcripts.path(session))
            }
            None => None,
        };
        let cancel = run.cancelled()?;
        let in_session = transcript.is_some();
        let context = message.context.as_deref();
        let principal = &entry.who.principal;
        let context = context.map(|it| self.context(principal, in_session, &message.text, it));
        let context = match context.transpose() {
            Ok(context) => context,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                let words = "a message that this one builds upon is not known any more, or damaged";
                return Ok(Outcome::Failed(words.to_owned()));
            }
            Err(e) => return Err(e),
        };
        let lent = match &context {
            Some(context) if !in_session => {
                self.temporary_transcript(&settings.agent, id, context)?
            }
            Some(_) | None => None,
        };
        let turn = Turn {
            message_id: &id.to_string(),
            session: entry.who.session.as_deref().unwrap_or(""),
            principal: &entry.who.principal,
            attempt: entry.attempts,
            text: &message.text,
            context: context.as_ref(),
            transcript: transcript.as_deref().or(lent.as_ref().map(|lent| &*lent.0)),
            attachments: &message.attachments,
        };
        let bounds = TurnLimits {
            deadline: Instant::now() + settings.config.agent.turn_timeout,
            max_reply: limits.max_reply,
            client: None,
            cut: self.cut.as_fd(),
            cancel: Some(cancel.as_fd()),
        };
        Ok(settings.agent.run(&turn, &mut BufferWriter(run), &bounds))
    }

    /// Gives an agent that reads files what was said before a turn without a session.
    pub fn temporary_transcript(
        &self,
        agent: &Agent,
        id: Id,
        context: &Context,
    ) -> io::Result<Option<TemporaryTranscript>> {
        let lines = if agent.reads_files() { context.lines() } else { String::new() };
        (!lines.is_empty()).then(|| self.transcripts.write_temporary(id, &lines)).transpose()
    }

    /// Writes down how an attempt ended; returns whose turn it is now.
    pub(super) fn finish_turn(self: &Arc<Self>, id: Id, outcome: Outcome) -> Vec<Id> {
        let (entry, run) = {
            let mut state = self.lock();
            (state.book.copy(id), state.runs.of(id))
        };
        let session = entry.as_ref().and_then(|entry| entry.who.session.as_deref());
        let attempt = entry.as_ref().map_or(0, |entry| entry.attempts);
        let began = run.began().unwrap_or_else(Instant::now);
        outcome.log(&id.to_string(), session, attempt, began, run.bytes());
        let Some(entry) = entry.filter(|entry| !entry.turn.is_over()) else {
            // It was taken back while it ran, and its agent has ended by now.
            return self.let_go(&mut self.lock(), id);
        };
        let (n, at) = (entry.attempts, self.stamp());
        let step = match outcome {
            Outcome::Done => {
                let (reply, report) = run.said();
                self.say(id, &entry, at.at, &reply);
                Step::Done(reply, report.to_json())
            }
            Outcome::Temporary(error) => self.after_failure(&entry, &run, error, (false, None)),
            Outcome::Refused(refused) if refused.passes() => {
                self.after_failure(&entry, &run, refused.to_string(), (false, Some(&refused)))
            }
            Outcome::Crashed(error) => self.after_failure(&entry, &run, error, (true, None)),
            Outcome::Failed(error) => Step::Failed(error, None),
            Outcome::Refused(refused) => Step::Failed(refused.to_string(), Some(refused.to_json())),
            Outcome::TimedOut => {
                let why = "the agent did not finish within agent.turn_timeout";
                Step::Failed(why.to_owned(), Some(agent::Refused::timed_out().to_json()))
            }
            // The record of its beginning stays the last one: it runs again after the start.
            Outcome::Cut | Outcome::Cancelled | Outcome::ClientGone | Outcome::Short(_) => {
                return self.stop_short(id);
            }
        };
        let record = Record::step(id, n, at, step);
        self.settle(id, &entry, &record).unwrap_or_else(|| self.stop_short(id))
    }

    /// Writes the record of an end; returns whose turn it is now. `None`: the gateway ends before
    /// that.
    fn settle(&self, id: Id, entry: &Entry, record: &Record) -> Option<Vec<Id>> {
        let what = format!("the end of turn {id}");
        let beyond = self.beyond_share(&entry.who.principal, record);
        let mut written = if beyond.is_some() {
            Err(Refused::TooLong)
        } else {
            self.write_with_retry(&what, record)
        };
        if let Err(Refused::TooLong) = written {
            if let Some(session) = entry.session() {
                // What was said there already is not what the sender gets.
                let _ = self.transcripts.remove_turn(session, id);
            }
            let too_long = || "the reply is longer than a record of the journal".to_owned();
            let error = beyond.unwrap_or_else(too_long);
            let failed = Step::Failed(error, None);
            written = self
                .write_with_retry(&what, &Record::step(id, entry.attempts, self.stamp(), failed));
        }
        match written {
            Ok(mut state) => {
                let ids = self.after(&mut state, id, entry.failing.is_some());
                self.rest_from_work();
                Some(self.begin(&mut state, ids))
            }
            // It was left out: somebody else has ended the message.
            Err(Refused::Unavailable(_)) => Some(self.let_go(&mut self.lock(), id)),
            Err(Refused::Broken(_) | Refused::Full(_) | Refused::TooLong) => None,
        }
    }

    /// Gives the place of a turn away that needs no more record.
    fn let_go(&self, state: &mut State, id: Id) -> Vec<Id> {
        state.runs.end(id);
        let ids = state.dispatch.leave(id);
        self.rest_from_work();
        self.begin(state, ids)
    }

    /// What follows the end of an attempt. `failed`: one before it had failed for now.
    fn after(&self, state: &mut State, id: Id, failed: bool) -> Vec<Id> {
        match state.book.get(id).map(|entry| entry.turn) {
            Some(Stage::Resting) => {
                self.sync_soon(state);
                return self.put_off(state, id);
            }
            Some(Stage::Done) if failed => state.hurry(),
            _ => {}
        }
        self.over(state, id);
        state.dispatch.leave(id)
    }

    /// A turn that the gateway's own end cuts short.
    fn stop_short(&self, id: Id) -> Vec<Id> {
        let mut state = self.lock();
        state.runs.end(id);
        self.rest_from_work();
        Vec::new()
    }

    /// Puts a turn into the transcript of its session.
    fn say(&self, id: Id, entry: &Entry, at: u64, reply: &str) {
        let Some(session) = entry.session() else { return };
        let said = self.accepted(entry).and_then(|message| {
            let (reply, text) = (reply.to_owned(), message.text);
            let turn = Said { id, asked_at: entry.at, text, answered_at: at, reply };
            let cap = self.transcript_cap();
            // A hole in it could never be filled again.
            self.settle_transcript(session, &entry.who)?;
            let still = || {
                let state = self.lock();
                let reset = state.book.is_reset(session, entry.accepted);
                !reset && state.book.get(id).is_some_and(|entry| !state.book.is_erased(entry))
            };
            let late = self.lock().book.is_late(id, session);
            self.transcripts.append(session, &entry.who, &turn, (cap, late), &still)
        });
        if let Err(e) = said {
            self.transcripts.mark_stale(session);
            log::warn!("turn {id} is missing from its transcript for now: {e}");
        }
    }

    /// See [`super::transcript::Transcripts::reconcile`].
    pub(super) fn settle_transcript(&self, session: Digest, who: &Owner) -> io::Result<()> {
        let known = || {
            let (mut known, reset) = (Known::default(), self.lock().book.reset_of(session));
            known.reset = reset.map(|(newest, _)| newest);
            let after = reset.map_or(0, |(_, number)| number);
            self.each_of(session, after, &mut |id, entry| match entry.turn {
                // What the gateway answered itself had no turn.
                Stage::Done if entry.attempts > 0 => known.said.push(id),
                Stage::Done | Stage::Failed | Stage::Cancelled => known.unsaid.push(id),
                Stage::Queued | Stage::Running | Stage::Resting => {}
            });
            known
        };
        let load = |id: Id| {
            let entry = self.lock().book.copy(id).ok_or(io::ErrorKind::NotFound)?;
            let (Accepted { text, .. }, reply) = self.said(&entry)?;
            Ok(Said { id, asked_at: entry.at, text, answered_at: entry.ended.at, reply })
        };
        let cap = self.transcript_cap();
        self.transcripts.reconcile(session, who, cap, &known, &load)
    }

    /// The record that began a message.
    pub(super) fn accepted(&self, entry: &Entry) -> io::Result<Accepted> {
        if entry.erased {
            return Err(io::ErrorKind::NotFound.into());
        }
        match parsed(&self.journal.read(entry.accepted)?)? {
            Record::Accepted(accepted) => Ok(*accepted),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Its end or its last failed attempt.
    pub(super) fn outcome(&self, entry: &Entry) -> io::Result<Option<Step>> {
        if entry.erased { Ok(None) } else { self.step(entry.outcome) }
    }

    /// The step that this record tells of; of 0 there is none.
    pub(super) fn step(&self, number: u64) -> io::Result<Option<Step>> {
        if number == 0 { Ok(None) } else { step_of(&self.journal.read(number)?) }
    }
}

fn parsed(json: &str) -> io::Result<Record> {
    Record::parse(json).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

pub(super) fn step_of(json: &str) -> io::Result<Option<Step>> {
    match parsed(json)? {
        Record::Step { step, .. } => Ok(Some(step)),
        _ => Ok(None),
    }
}
