//! Running turns: a worker is a thread that exists while there is a turn for it, and a moment longer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::commands::Command;
use super::durable_reply::DurableReply;
use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::{Entry, session_digest, session_name};
use super::notices::{MODE, UNWRITTEN};
use super::reply::ReplyBuffer;
use crate::agent::{AgentSession, Context, Outcome, Reply, Turn};
use crate::cancel::{Cancel, CancelReason};
use crate::config::Protocol;
use crate::journal::record::Accepted;
use crate::limits::{DISK_RETRY_DELAY, SHORTAGE_VALID, THREAD_RETRY_DELAY};
use crate::sys::poll::{Interest, poll};
use crate::sys::process::is_shortage;
use crate::threads::{self, Work, lock};

/// The stack of a turn's or a delivery's thread; only what is touched takes memory.
const WORKER_STACK: usize = 256 << 10;

/// What a turn is given beside its message.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    /// From 1.
    pub n: u32,
    pub transcript: Option<PathBuf>,
    /// See [`Turn::session_name`].
    pub session_name: String,
    pub agent_session: Option<AgentSession>,
}

impl Hub {
    /// Has the agent's processes begin that are to be there before a turn, and the end of each count as
    /// work.
    pub(super) fn begin_agent(self: &Arc<Self>) {
        let hub = Arc::downgrade(self);
        let work = move |begins| match (hub.upgrade(), begins) {
            (Some(hub), true) => hub.begin_work(1),
            (Some(hub), false) => hub.end_work(),
            (None, _) => {}
        };
        self.settings().agent.begin(Box::new(work));
    }

    /// Gives each of these turns a worker. One for which there is no thread keeps its attempt and its
    /// slot, and is tried again by maintenance.
    pub(super) fn spawn_workers(self: &Arc<Self>, ids: Vec<Id>) {
        for id in ids {
            let hub = Arc::clone(self);
            if self.spawn_worker("turn", Box::new(move || hub.run_turns(id))) {
                continue;
            }
            let mut state = self.lock();
            if state.table.get(id).is_none_or(|entry| entry.turn.is_over()) {
                // It was taken back meanwhile, and that takes no thread.
                drop(state);
                self.spawn_workers(self.finish_turn(id, &Outcome::Ended(CancelReason::Cancelled)));
                continue;
            }
            state.without_thread.push((Instant::now() + THREAD_RETRY_DELAY, id));
            if self.is_draining() {
                self.announce_drain(&mut state);
            }
            self.maintenance_wakeup.notify_all();
        }
    }

    /// Gives free slots away, and each turn that begins a worker.
    pub(super) fn start_turns(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let begun = self.begin_attempts(&mut state);
        drop(state);
        self.spawn_workers(begun);
    }

    /// Waits for so long; says whether every turn has to end.
    pub(super) fn aborted_within(&self, pause: Duration) -> bool {
        poll(&mut [Interest::read(self.abort.as_fd())], Some(pause)).is_ok_and(|ready| ready > 0)
    }

    /// Starts a thread for a turn, for deliveries or maintenance; false where the system has none.
    pub(super) fn spawn_worker(&self, name: &'static str, work: Work) -> bool {
        let spawned = threads::hand_over(name, WORKER_STACK, work);
        let short = |e| {
            let why = format!("no thread for a {name}: {e}");
            if self.note_shortage(&why) {
                log::warn!("turns wait: {why}");
            }
        };
        spawned.map_err(short).is_ok()
    }

    fn run_turns(self: Arc<Self>, first: Id) {
        let mut next = Some(first);
        while let Some(id) = next {
            let mut ids = self.finish_turn(id, &self.run_attempt(id));
            next = (!ids.is_empty()).then(|| ids.remove(0));
            self.spawn_workers(ids);
        }
    }

    /// Runs an attempt. Where the system is short of something it waits: that costs no attempt.
    fn run_attempt(self: &Arc<Self>, id: Id) -> Outcome {
        let mut logged = false;
        loop {
            match self.try_attempt(id) {
                Outcome::Short(why) => {
                    self.note_shortage(&why);
                    if !std::mem::replace(&mut logged, true) {
                        log::warn!("turn {id} waits: {why}");
                    }
                }
                outcome => {
                    *lock(&self.shortage) = None;
                    return outcome;
                }
            }
            let aborted = self.aborted_within(DISK_RETRY_DELAY);
            let over = self.lock().table.get(id).is_none_or(|entry| entry.turn.is_over());
            if over || aborted {
                return Outcome::Ended(CancelReason::Aborted);
            }
        }
    }

    /// What turns and deliveries wait for, and try again until they have it. Says whether it is news.
    fn note_shortage(&self, why: &str) -> bool {
        let mut shortage = lock(&self.shortage);
        let is_news = shortage.as_ref().is_none_or(|(at, _)| at.elapsed() >= SHORTAGE_VALID);
        *shortage = Some((Instant::now(), format!("turns wait: {why}")));
        is_news
    }

    /// Runs one attempt of a message's turn, once the record that says so is durable.
    fn try_attempt(self: &Arc<Self>, id: Id) -> Outcome {
        let (entry, run, number) = {
            let mut state = self.lock();
            let entry = state.table.get(id).filter(|entry| !entry.turn.is_over()).cloned();
            let Some(entry) = entry else { return Outcome::Ended(CancelReason::Cancelled) };
            (entry, state.replies.of(id), self.journal.last())
        };
        if self.sync(number).is_err() {
            return Outcome::Ended(CancelReason::Aborted);
        }
        let known = run.lock().message.clone();
        let message = match known.map_or_else(|| self.accepted(&entry).map(Arc::new), Ok) {
            Ok(message) => message,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return Outcome::Failed(format!("the message cannot be read back: {e}"));
            }
            Err(e) => {
                let why = format!("the message cannot be read now: {e}");
                // A disk may stay like this, and others want the slot meanwhile.
                let short = is_shortage(&e);
                return if short { Outcome::Short(why) } else { Outcome::Temporary(why) };
            }
        };
        run.lock().message = Some(Arc::clone(&message));
        if message.mode.as_deref() == Some(MODE) {
            return Outcome::Failed(UNWRITTEN.to_owned());
        }
        if entry.owner.session.is_some() && Command::parse(&message.text).is_some() {
            // An operator's word to the gateway is none for the agent.
            let words = "the gateway ended before it had carried this command out: send it again";
            return Outcome::Failed(words.to_owned());
        }
        if !self.is_served(&message) {
            let cancelled = self.cancel(id, "its sender may not talk on its channel any more");
            return match cancelled {
                Ok(()) => Outcome::Ended(CancelReason::Cancelled),
                Err(refusal) => Outcome::Short(refusal.to_string()),
            };
        }
        match self.run_durable(id, &entry, &message, &run) {
            Ok(outcome) => outcome,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                let words = "a message that this one builds upon is not known any more, or damaged";
                Outcome::Failed(words.to_owned())
            }
            Err(e) => Outcome::Short(format!("it cannot be prepared: {e}")),
        }
    }

    fn run_durable(
        self: &Arc<Self>,
        id: Id,
        entry: &Entry,
        message: &Accepted,
        run: &ReplyBuffer,
    ) -> io::Result<Outcome> {
        if let Some(session) = entry.session() {
            let again = entry.attempts > 1 || entry.queued != entry.accepted;
            let remove = || if again { self.transcripts.remove_turn(session, id) } else { Ok(()) };
            let settled = self.reconcile(session, &entry.owner, true).and_then(|()| remove());
            // A full disk must not keep accepted work from going on; what it lacks of the system it
            // waits for, and does not run without what was said before.
            if let Err(e) = settled {
                if is_shortage(&e) {
                    return Err(e);
                }
                self.transcripts.mark_stale(session);
                log::warn!("the transcript for turn {id} is not up to date: {e}");
            }
        }
        let mut attempt = Attempt { n: entry.attempts, ..Attempt::default() };
        if let Some(session) = entry.session() {
            attempt.transcript = Some(self.transcripts.path(session));
            if self.settings().config.agent.protocol != Protocol::Text {
                attempt.session_name = session_name(session);
                attempt.agent_session = self.agent_session(session)?;
            }
        }
        let cancel = run.cancelled()?;
        let cancel = (None, Some(cancel.as_fd()));
        let known = attempt.agent_session.clone();
        let (asked, unanswered) = (0, false);
        let mut reply = DurableReply { hub: self, id, entry, run, known, asked, unanswered };
        self.run_agent(message, &attempt, &mut reply, cancel)
    }

    /// Has the agent answer a message, whether it is in the journal or not. It may be ended by the
    /// hang-up of a client, or by a descriptor that becomes readable.
    ///
    /// # Errors
    /// NotFound or InvalidData: of what the message builds upon. Else the system is short of something.
    pub(super) fn run_agent(
        &self,
        message: &Accepted,
        attempt: &Attempt,
        reply: &mut dyn Reply,
        (client, cancel): (Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>),
    ) -> io::Result<Outcome> {
        let settings = self.settings();
        let config = &settings.config;
        let Accepted { id, principal, session, text, attachments, .. } = message;
        let context = message.context.as_ref();
        let context = context.map(|json| self.context(principal, session.is_some(), text, json));
        let context = context.transpose()?;
        // Without a session, an agent that reads files is given what was said before in one.
        let reads = session.is_none() && settings.agent.reads_files();
        let lines = context.as_ref().filter(|_| reads).map(Context::lines);
        let lines = lines.filter(|lines| !lines.is_empty());
        let temporary = lines.map(|lines| self.transcripts.write_temporary(id, &lines));
        let temporary = temporary.transpose().map_err(io::Error::other)?;
        let mut room = u64::MAX;
        let attachments = &*self.attached(attachments, &mut room);
        // What goes along with a request is no more than a client's own request may bring.
        let room = (config.limits.max_body as u64).saturating_sub(u64::MAX - room);
        let session_of = session.as_ref().filter(|_| settings.agent.kind() == "upstream");
        let earlier = session_of
            .map(|session| self.attached_before(session_digest(principal, session), id, room));
        let turn = Turn {
            message_id: id,
            session: session.as_deref().unwrap_or(""),
            principal,
            attempt: attempt.n,
            text,
            context: context.as_ref(),
            transcript: attempt.transcript.as_deref().or(temporary.as_ref().map(|file| &*file.0)),
            attachments,
            earlier: &earlier.unwrap_or_default(),
            max_reply: config.limits.max_reply,
            process: if config.is_operator(principal) { "" } else { principal },
            session_name: &attempt.session_name,
            agent_session: attempt.agent_session.as_ref(),
        };
        let (abort, timeout) = (Some(self.abort.as_fd()), config.agent.turn_timeout);
        let cancel = Cancel { abort, client, cancel, ..Cancel::at(Instant::now() + timeout) };
        Ok(settings.agent.run(&turn, reply, &cancel))
    }
}
