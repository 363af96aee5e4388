//! Sessions that are forgotten: those idle for longer than `session.keep`, and the longest idle where
//! all, or those of one principal, take too much of the disk.

use std::{io, sync::Arc};

use super::clock::millis;
use super::hub::Hub;
use super::message_table::{Digest, Owner, session_name};
use crate::limits::SESSION_PAGE;
use crate::shares::{Limit, LimitReached, Shares};
use crate::threads::lock;

/// One session may take this part of what all may: many have room.
const SESSIONS_PART: usize = 16;

/// Where sessions have to go for others, this part of what their principal has goes at once: who
/// fills the disk pays with a look at all sessions for each so many.
const EVICTED_PART: u64 = 16;

impl Hub {
    /// The most bytes of one transcript.
    pub(super) fn transcript_cap(&self) -> usize {
        let limits = &self.settings().config.limits;
        limits.max_transcript.min(limits.max_transcripts / SESSIONS_PART)
    }

    /// Bytes that sessions keep on disk, by principal.
    pub fn transcript_bytes(&self) -> Vec<(String, u64)> {
        lock(&self.transcripts.usage).principals.clone()
    }

    /// Sets room aside for what will be said in this session.
    ///
    /// # Errors
    /// Whose limit is reached: see [`Hub::make_room`].
    pub(super) fn reserve_session(&self, owner: &Owner) -> Result<(), LimitReached> {
        let Some(session) = owner.digest() else { return Ok(()) };
        let config = &self.settings().config;
        let (shares, limit) = (Shares::of(config), config.limits.max_transcripts as u64);
        let now = self.transcript_time();
        let mut usage = lock(&self.transcripts.usage);
        usage.check((session, &owner.principal), shares, limit)?;
        usage.touch(session, &owner.principal, now);
        Ok(())
    }

    /// The journal's time, told to the transcripts too.
    pub(super) fn transcript_time(&self) -> u64 {
        let now = self.stamp().age;
        lock(&self.transcripts.usage).now = now;
        now
    }

    /// Counts what earlier processes have left, and forgets what is too old.
    pub(super) fn count_sessions(self: Arc<Self>) {
        self.transcript_time();
        if let Err(e) = self.transcripts.count_all() {
            log::warn!("the transcripts cannot be counted, so not all have a limit: {e}");
        }
        self.forget_idle();
        self.sweep_attachments();
    }

    /// Forgets idle sessions, the longest idle first, so that this one has room: of the principal where
    /// that holds its share, else of the one that holds most. Not under the hub's lock.
    pub(super) fn make_room(&self, owner: &Owner, over: Limit) {
        let (oldest, goal) = {
            let usage = lock(&self.transcripts.usage);
            let holders = usage.principals.iter();
            let holds =
                |(name, _): &&(String, u64)| over == Limit::Gateway || *name == owner.principal;
            let most = holders.filter(holds).max_by_key(|(_, bytes)| *bytes);
            let Some((name, bytes)) = most else { return };
            (usage.oldest(Some(name), u64::MAX), bytes / EVICTED_PART + 2 * SESSION_PAGE)
        };
        let mut freed = 0;
        for session in oldest.into_iter().filter(|session| Some(*session) != owner.digest()) {
            if freed >= goal && self.reserve_session(owner).is_ok() {
                return;
            }
            match self.forget_session(session, false) {
                Ok(bytes) => freed += bytes,
                Err(e) => return log::warn!("an idle session cannot be removed: {e}"),
            }
        }
    }

    /// Forgets what was idle for too long.
    pub(super) fn forget_idle(&self) {
        let keep = millis(self.settings().config.session.keep);
        let Some(before) = self.transcript_time().checked_sub(keep) else { return };
        let old = lock(&self.transcripts.usage).oldest(None, before);
        for session in old {
            self.note_move();
            if let Err(e) = self.forget_session(session, true) {
                return log::warn!(
                    "cannot remove a session that was idle for longer than session.keep: {e}"
                );
            }
        }
    }

    /// Forgets a session if it is idle: what was said there, so that it does not come back from the
    /// journal, and where `all` is to go the results too. Returns how many bytes it had.
    fn forget_session(&self, session: Digest, all: bool) -> io::Result<u64> {
        let found = self.transcripts.find(session).map(|about| Arc::new(about.owner));
        {
            let mut state = self.lock();
            let known = state.table.messages_of(session, 0).next();
            let known = known.map(|(_, entry)| Arc::clone(&entry.owner));
            // Its messages may be forgotten, and its agent still knows what they said.
            let agent = state.table.agent_session_of(session) > 0;
            let owner = known.or(found.filter(|_| agent));
            if let Some(owner) = owner.filter(|_| state.table.is_idle(session)) {
                let written = self.write_reset(&mut state, &owner, !all);
                written.map_err(|refused| io::Error::other(refused.to_string()))?;
            }
        }
        let idle = || self.lock().table.is_idle(session);
        let removed = self.transcripts.remove(session, false, &idle);
        if idle() {
            self.settings().agent.forget(&session_name(session));
        }
        removed
    }
}
