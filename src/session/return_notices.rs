//! What a run tells of the end of the run before it: those who asked for a restart, the sessions whose turns
//! were cut short, and `stop.notify`.

use std::{sync::Arc, time::Duration};

use super::clock::millis;
use super::hub::Hub;
use super::id::Id;
use super::message_table::{Owner, digest_of};
use super::notices::{Notice, more_ends};
use super::restart_record::{Down, Pending, RestartRecord};
use super::restarts::LastRestart;
use super::states::TurnState;
use crate::escape::counted;
use crate::limits::NOTIFY_COOL_DOWN;
use crate::sys::{clock::rfc3339, gather::Gather};

/// The run before this one, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct RunBefore {
    pub version: Option<String>,
    /// How it ended, in words.
    pub how: String,
    /// How long nobody served since.
    pub away: Option<Duration>,
    /// Why this is still the program that was to be replaced.
    pub failed: Option<String>,
}

/// A turn that the end of the run before cut short, and that runs again.
struct Interrupted {
    id: Id,
    owner: Arc<Owner>,
    attempts: u32,
    queued: u64,
}

impl Hub {
    /// Writes all notices about the end of the run before, each once whatever ends this run. To be
    /// called before [`Hub::open`]: what was interrupted must not run yet.
    pub fn tell_of_run_before(self: &Arc<Self>, mut before: RunBefore) {
        let Some(mut record) = self.restart_record.take_left() else { return };
        let (interrupted, now) = (self.interrupted(), self.clocks.read());
        let (pending, down) = (record.pending.clone(), record.down.clone());
        if let Some(pending) = &pending {
            // It knows best when it gave up serving.
            if pending.ended_since_boot > 0 && record.boot == self.clocks.boot() {
                let since = now.since_boot.saturating_sub(pending.ended_since_boot);
                before.away = Some(Duration::from_millis(since));
            }
            before.version = Some(pending.from.clone());
            let last = LastRestart {
                number: 0,
                kind: pending.kind.word(),
                by: pending.by.clone(),
                time: rfc3339(now.wall),
                from: pending.from.clone(),
                away: before.away,
            };
            if before.failed.is_none() {
                self.restarts.set_last(last);
            }
        }
        let (mut told, before_told) = (true, record.told.clone());
        for requester in pending.iter().flat_map(|pending| &pending.requesters) {
            told &=
                self.tell(Notice::to_requester(requester, "back", back(&before, pending.as_ref())));
        }
        for turn in &interrupted {
            told &= self.tell(turn.notice(&cause(&before, pending.as_ref())));
        }
        told &= self.tell_back(&before, &mut record, &interrupted);
        // Only now: after a crash before this the notices are there, and the same ones are written again.
        self.restart_record.keep(&mut |kept| {
            if pending.is_some() {
                kept.count(now.since_boot);
            }
            // Not what this run has begun already.
            kept.pending.take_if(|it| told && Some(&*it) == pending.as_ref());
            kept.down.take_if(|it| told && Some(&*it) == down.as_ref());
            if record.told != before_told {
                kept.told = record.told.clone();
            }
        });
    }

    /// Tells `stop.notify` that the gateway is back: where it was told that it goes down, where a restart
    /// was asked for, or turns were cut short.
    fn tell_back(
        self: &Arc<Self>,
        before: &RunBefore,
        record: &mut RestartRecord,
        interrupted: &[Interrupted],
    ) -> bool {
        let target = self.settings().config.stop.notify.clone();
        let (what, age) = (format!("stop.{target}"), self.stamp().age);
        // Where the notice of it was not begun, nobody hears of it; one without its end gets that.
        let written = |down: &Down| {
            let text = format!("gateway {} goes down {}", self.name(), down.words);
            let notice = Notice::to_target(&down.target, &down.about, text);
            self.lock().table.find_by_idempotency_key(notice.about)?;
            self.write_notice(notice).ok()
        };
        let down = record.down.as_ref().and_then(|down| Some((down.clone(), written(down)?)));
        let about = match (&down, &record.pending, interrupted.first()) {
            _ if target.is_empty() => return true,
            (Some((down, _)), ..) => format!("back {}", down.about),
            (None, Some(pending), _) => {
                let first = pending.requesters.first().map_or("", |it| &it.message);
                format!("{} {first} {}", pending.by, pending.ended)
            }
            (None, None, Some(turn)) => format!("{} {} {}", turn.id, turn.attempts, turn.queued),
            (None, None, None) => return true,
        };
        // Whoever was told of the one is told of the other.
        let more = match down {
            Some(_) => Some(0),
            None => record.may_tell(&what, age, millis(NOTIFY_COOL_DOWN)),
        };
        let Some(more) = more else { return true };
        let unsent = down.as_ref().filter(|(_, id)| self.is_unsent(*id));
        let (name, back) = (self.name(), back(before, record.pending.as_ref()));
        let cut = match interrupted.len() {
            0 => String::new(),
            count => format!("; {} interrupted, and run again", counted(&count, "turn")),
        };
        let first = match (&down, &unsent) {
            (Some(_), Some((down, _))) => {
                format!("gateway {name} went down {}; it is ", down.words)
            }
            (Some(_), None) => format!("gateway {name} is "),
            (None, _) => {
                format!("gateway {name} ended ({}) and is ", cause(before, record.pending.as_ref()))
            }
        };
        let text = format!("{first}{back}{cut}{}", more_ends(more));
        let told = self.tell(Notice::to_target(&target, &about, text));
        if let (true, Some((_, id))) = (told, unsent) {
            self.withdraw_notice(*id, "the notice that the gateway is back says it, too");
        }
        told
    }

    /// Turns of sessions that were cut short, and run again.
    fn interrupted(&self) -> Vec<Interrupted> {
        let most = self.settings().config.limits.max_attempts;
        let state = self.lock();
        let entries = state.table.entries().filter(|(_, entry)| {
            let again = usize::try_from(entry.crashes).is_ok_and(|crashes| crashes < most);
            entry.turn == TurnState::Queued && entry.attempts > 0 && again
        });
        let entries = entries.filter(|(_, entry)| entry.session().is_some());
        let interrupted = |(id, entry): (Id, &super::message_table::Entry)| Interrupted {
            id,
            owner: Arc::clone(&entry.owner),
            attempts: entry.attempts,
            queued: entry.queued,
        };
        entries.map(interrupted).gather()
    }
}

impl Interrupted {
    fn notice(&self, cause: &str) -> Notice {
        let Interrupted { id, owner, attempts, queued } = self;
        let which = [id.to_string(), attempts.to_string(), queued.to_string()].join(" ");
        Notice {
            to: (**owner).clone(),
            deliver: None,
            origin: None,
            about: digest_of(&[b"notice", b"interrupted", which.as_bytes()]),
            text: format!(
                "the turn of message {id} was interrupted ({cause}); it runs again, as attempt {}",
                attempts.saturating_add(1)
            ),
        }
    }
}

/// `back after 0.2 s, version 0.3.0 (was 0.2.0)`.
fn back(before: &RunBefore, pending: Option<&Pending>) -> String {
    let after = before.away.map(|away| format!(" after {}", lasted(away)));
    let after = after.unwrap_or_else(|| ", nobody can tell after how long".to_owned());
    let version = env!("CARGO_PKG_VERSION");
    let was = before.version.as_deref().filter(|was| *was != version);
    let was = was.map(|was| format!(" (was {was})")).unwrap_or_default();
    // A restart that was asked for, and something else came first.
    let cut = pending.is_some_and(|pending| pending.ended.is_empty());
    let how =
        if cut { format!("; the run before ended so: {}", before.how) } else { String::new() };
    let failed = before.failed.as_ref().map(|why| format!("the restart did not happen: {why}; "));
    format!("{}back{after}, version {version}{was}{how}", failed.unwrap_or_default())
}

/// Why the run before ended.
fn cause(before: &RunBefore, pending: Option<&Pending>) -> String {
    match pending.filter(|pending| !pending.ended.is_empty()) {
        Some(pending) => format!("{} by {}", pending.kind.word(), pending.by),
        None => before.how.clone(),
    }
}

/// `0.2 s`, `12.0 s`, `3 min`, `2 h 5 min`.
fn lasted(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{}.{} s", time.as_secs(), time.subsec_millis() / 100),
        60..3600 => format!("{} min", time.as_secs() / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}
