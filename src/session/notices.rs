//! Notices: what the gateway itself has to say to a session or a target. Each is a durable message that has
//! its reply already, so it shows in the session's events and is delivered like any other; no turn runs for
//! it, and no transcript has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock::millis;
use super::hub::{Hub, State};
use super::id::Id;
use super::message_table::{Digest, Entry, Owner, Place, digest_of};
use super::restart_record::{Down, RestartRecord, Told};
use super::restarts::Requester;
use super::states::{DeliveryState, TurnState};
use super::submit::Refusal;
use crate::config::OWNER;
use crate::escape::{escaped, first_chars, quoted};
use crate::journal::record::{Accepted, Origin, Record, Step};
use crate::limits::{
    DISK_SLOW, FAILURE_COOL_DOWN, MAX_DRAIN_SEND, MAX_QUOTED_ERROR, NOTIFY_COOL_DOWN, THREAD_STACK,
};
use crate::sys::clock::rfc3339;
use crate::threads::{self, Slot};

/// What stands in the place of a sender's text.
const TEXT: &str = "(notice)";

/// What the record of a notice has as its mode.
pub const MODE: &str = "notice";

/// What a thread tells.
type Telling = Box<dyn FnOnce(&Arc<Hub>) + Send>;

/// Why one failed: nobody is told that.
pub const UNWRITTEN: &str = "the gateway ended before it had written this notice";

/// A notice that is to be written.
pub struct Notice {
    pub to: Owner,
    pub deliver: Option<String>,
    /// Where there, if that is a channel; `None`: its home.
    pub origin: Option<Box<Origin>>,
    /// What it is about: of one digest there is one notice.
    pub about: Digest,
    pub text: String,
}

impl Notice {
    /// To the session of whoever asked, and where its replies go. `what`: which of the things that
    /// are told of a request.
    pub fn to_requester(requester: &Requester, what: &str, text: String) -> Notice {
        Notice {
            to: Owner::new(requester.principal.clone(), requester.session.clone()),
            deliver: requester.deliver.clone(),
            origin: requester.place.clone().map(Place::into_origin),
            about: digest_of(&[b"notice", what.as_bytes(), requester.message.as_bytes()]),
            text,
        }
    }

    pub fn to_target(target: &str, about: &str, text: String) -> Notice {
        Notice {
            to: Owner::new(OWNER.to_owned(), None),
            deliver: Some(target.to_owned()),
            origin: None,
            about: digest_of(&[b"notice", target.as_bytes(), about.as_bytes()]),
            text,
        }
    }
}

impl Hub {
    /// Writes a notice, unless it is there: durable when this returns.
    pub(super) fn write_notice(self: &Arc<Self>, notice: Notice) -> Result<Id, Refusal> {
        let Notice { to, deliver, origin, about, text } = notice;
        let mut state = self.lock();
        let known = state.table.find_by_idempotency_key(about);
        let known = known.map(|(id, entry)| (id, entry.turn.is_over()));
        let id = match known {
            Some((id, true)) => {
                drop(state);
                self.sync(self.journal.last())?;
                return Ok(id);
            }
            // A crash came before its reply.
            Some((id, false)) => {
                state.dispatch.leave(id);
                id
            }
            None => {
                let id = state.next_id().map_err(|e| Refusal::Failed(e.to_string()))?;
                let digest = format!("{about:032x}");
                let accepted = Accepted {
                    id: id.to_string(),
                    at: self.stamp(),
                    principal: to.principal,
                    session: to.session,
                    text: TEXT.to_owned(),
                    deliver,
                    origin,
                    key: Some(digest.clone()),
                    body: Some(digest),
                    mode: Some(MODE.to_owned()),
                    ..Accepted::default()
                };
                self.write(&mut state, &Record::Accepted(Box::new(accepted)))?;
                id
            }
        };
        drop(state);
        self.reply(id, text)?;
        let over = self.lock().table.get(id).is_none_or(|entry| entry.turn.is_over());
        let full = || Refusal::Failed("the journal has no room for a notice".to_owned());
        over.then_some(id).ok_or_else(full)
    }

    /// The restart that is under way does not happen; all who asked for it are told, in a thread. False
    /// where none is under way.
    pub fn fail_restart(self: &Arc<Self>, why: &str) -> bool {
        let time = rfc3339(self.clocks.read().wall);
        let Some(restart) = self.restarts.fail(why, time) else { return false };
        let text = format!("the restart did not happen: {why}");
        self.tell_beside(Box::new(move |hub| {
            for requester in &restart.requesters {
                hub.tell(Notice::to_requester(requester, "failed", text.clone()));
            }
            hub.forget_restart();
        }));
        true
    }

    /// The next run is to tell of no restart, unless another was asked for meanwhile. A disk that hangs is
    /// waited for no longer than a moment, where there is a thread for that.
    pub(super) fn forget_restart(self: &Arc<Self>) {
        let forget = |hub: &Hub| {
            hub.restart_record.keep(&mut |record| {
                record.pending.take_if(|_| hub.restarts.current().is_none());
            });
        };
        let (hub, done) = (Arc::clone(self), Arc::<Slot<()>>::default());
        let tell = Arc::clone(&done);
        let work = move || {
            forget(&hub);
            tell.send(());
        };
        match threads::spawn("restart record", THREAD_STACK, Box::new(work)) {
            Ok(_) => _ = done.wait(DISK_SLOW),
            Err(_) => forget(self),
        }
    }

    /// Tells somebody in a thread. A stop that drains waits for it.
    fn tell_beside(self: &Arc<Self>, tell: Telling) {
        self.begin_work(1);
        let hub = Arc::clone(self);
        let work = move || {
            tell(&hub);
            hub.end_work();
        };
        if let Err(e) = threads::spawn("notice", THREAD_STACK, Box::new(work)) {
            log::warn!("nobody is told of the restart or stop: there is no thread for it: {e}");
            self.end_work();
        }
    }

    /// Tells all who asked for an update what came of it, in words.
    pub fn tell_update(self: &Arc<Self>, words: &str) {
        let updates = self.restart_record.get().updates;
        let mut told = true;
        for it in &updates {
            told &= self.tell(Notice::to_requester(it, "update", words.to_owned()));
        }
        let ended = |it: &Requester| updates.iter().any(|known| known.message == it.message);
        if told {
            self.restart_record.keep(&mut |record| record.updates.retain(|it| !ended(it)));
        }
    }

    /// Writes a notice; says in the log where that cannot be done.
    pub(super) fn tell(self: &Arc<Self>, notice: Notice) -> bool {
        let (who, session) = (notice.to.principal.clone(), notice.to.session.clone());
        let refused = match self.write_notice(notice) {
            Ok(_) => return true,
            Err(refused) => refused,
        };
        let session = session.map_or_else(|| "no session".to_owned(), |it| quoted(&it));
        log::warn!("a notice for {who} ({session}) could not be written: {refused}");
        false
    }

    /// Has `stop.notify` told that the gateway goes down, as `words` says. A stop that drains waits for it.
    pub fn announce_down(self: &Arc<Self>, words: String) {
        let target = self.settings().config.stop.notify.clone();
        if target.is_empty() {
            return;
        }
        self.tell_beside(Box::new(move |hub| hub.tell_down(&target, &words)));
    }

    /// Tells a target that the gateway goes down, unless it was told of another end a moment ago:
    /// durable first, and then sent if the target takes it soon.
    fn tell_down(self: &Arc<Self>, target: &str, words: &str) {
        let (what, stamp) = (format!("stop.{target}"), self.stamp());
        let mut record = self.restart_record.get();
        let keep = |told: RestartRecord| {
            self.restart_record.keep(&mut |record| {
                (record.told, record.down) = (told.told.clone(), told.down.clone());
            });
        };
        let Some(more) = record.may_tell(&what, stamp.age, millis(NOTIFY_COOL_DOWN)) else {
            return keep(record);
        };
        let words = format!("at {}: {words}", rfc3339(stamp.at));
        let text = format!("gateway {} goes down {words}{}", self.name(), more_ends(more));
        let about = format!("down {}", stamp.age);
        // First: a notice that nobody knew of would be the last word of a gateway that is back.
        let notice = Notice::to_target(target, &about, text);
        record.down = Some(Down { target: target.to_owned(), about, words });
        keep(record);
        // Before it can be seen: the target's own worker is not to wait for as long as it likes.
        let itself = self.sends_itself(&self.lock(), target);
        let claimed = !itself && self.claim_target(target);
        let written = self.write_notice(notice).inspect_err(|e| {
            log::warn!("target {target} could not be told of the stop: {e}");
        });
        if claimed {
            self.send_claimed(target, written.ok(), MAX_DRAIN_SEND);
        }
    }

    /// Which gateway this is, for those who hear from several.
    pub(super) fn name(&self) -> &str {
        self.gateway.get().map_or("default", String::as_str)
    }

    /// Whether nobody took this yet, nor is being sent it.
    pub(super) fn is_unsent(&self, id: Id) -> bool {
        let outgoing = |entry: &Entry| entry.delivery_state() == Some(DeliveryState::Pending);
        self.lock().table.get(id).is_some_and(outgoing)
    }

    /// Takes a notice back that nobody was sent yet.
    pub(super) fn withdraw_notice(&self, id: Id, why: &str) {
        let mut state = self.lock();
        let dead = self.write_step(&mut state, (id, 0), Step::Dead(why.to_owned()));
        // Else it is a dead letter, which is true as well.
        let _ = dead.map(|_| self.write_step(&mut state, (id, 0), Step::Dropped));
    }

    /// A turn has failed, or a reply became a dead letter.
    pub(super) fn note_failure(&self, state: &mut State, id: &str) {
        let settings = self.settings();
        let target = &settings.config.stop.notify_failures;
        let Some((id, entry)) = Id::parse(id).and_then(|id| Some((id, state.table.get(id)?)))
        else {
            return;
        };
        if !target.is_empty() && !is_notice_to(entry, target) {
            state.failures.add(id);
            self.maintenance_wakeup.notify_all();
        }
    }

    /// Tells `stop.notify_failures` of the newest failure, and of how many there were beside it.
    pub(super) fn tell_failures(self: &Arc<Self>) {
        let (id, count) = {
            let (mut state, now) = (self.lock(), Instant::now());
            let failures = &mut state.failures;
            if failures.due(now).is_none_or(|due| due > now) {
                return;
            }
            let Some(taken) = failures.take() else { return };
            taken
        };
        let target = self.settings().config.stop.notify_failures.clone();
        let (what, age) = (format!("failures.{target}"), self.stamp().age);
        let told = self.restart_record.get().told.get(&what).copied().unwrap_or_default();
        let since = Duration::from_millis(age.saturating_sub(told.age));
        let left = FAILURE_COOL_DOWN.saturating_sub(since);
        let rests = told.age > 0 && !left.is_zero();
        let pause = if rests { left } else { FAILURE_COOL_DOWN };
        let failure = if rests { None } else { self.failure_in_words(id) };
        if rests || failure.is_some() {
            let failures = &mut self.lock().failures;
            failures.until = Some(Instant::now() + pause);
            if rests {
                failures.put_back(id, count);
            }
        }
        let Some(failure) = failure.filter(|_| !target.is_empty()) else { return };
        let more =
            if count > 1 { format!(" (and {} more since)", count - 1) } else { String::new() };
        let text = format!("gateway {}: {failure}{more}", self.name());
        let told = Told { age: age.max(1), more: 0 };
        self.restart_record.keep(&mut |record| record.told.insert(what.clone(), told));
        self.tell(Notice::to_target(&target, &format!("failure {id} {age}"), text));
    }

    fn failure_in_words(&self, id: Id) -> Option<String> {
        let message = self.message(id).ok().flatten()?;
        let clip = |text: Option<&String>| {
            let text = first_chars(text?, MAX_QUOTED_ERROR);
            Some(escaped(&text, false))
        };
        let session = message.entry.owner.session.as_deref().map(quoted);
        let session = session.unwrap_or_else(|| "none".to_owned());
        let who = &message.entry.owner.principal;
        if message.entry.turn == TurnState::Failed {
            let why = clip(message.error.as_ref())?;
            return Some(format!(
                "the turn of message {id} of {who} (session {session}) failed: {why}"
            ));
        }
        let dead = message.entry.delivery_state() == Some(DeliveryState::Dead);
        let target = message.entry.delivery.as_ref().filter(|_| dead).map(|it| &it.target)?;
        let why = clip(message.delivery_error.as_ref())?;
        Some(format!(
            "the reply of message {id} of {who} (session {session}) to target {target} is a dead letter: {why}"
        ))
    }
}

/// Whether a message is a notice to this target, whose own failure is not told there.
fn is_notice_to(entry: &Entry, target: &str) -> bool {
    let without_turn = entry.turn == TurnState::Done && entry.attempts == 0;
    let to = entry.target() == Some(target);
    without_turn && to && entry.owner.session.is_none()
}

/// What a notice says of the ends that it was too early to tell of.
pub fn more_ends(count: u64) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more since the last notice)") }
}
