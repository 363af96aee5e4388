//! Whose transcripts there are, what they take on disk, and when each was last used.

use std::{fs, io, time::Duration};

use serde_json::Value;

use super::super::clock::millis;
use super::super::message_table::{Digest, Owner};
use super::Transcripts;
use crate::escape::quoted;
use crate::sys::fs::{self as files, if_exists, replace_unsynced};
use crate::threads::lock;

/// How far the time at which a session was last used may be off after a restart: that of each turn
/// would cost a file.
const SESSION_USE: Duration = Duration::from_secs(60);

/// A session's key and principal in JSON are some hundred bytes.
const MAX_INFO_FILE: u64 = 8 << 10;

/// A session that has a transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranscriptInfo {
    pub owner: Owner,
    pub bytes: u64,
    /// When it was last used, in milliseconds of the journal's time; an older gateway did not say.
    pub used: Option<u64>,
}

impl Transcripts {
    /// Forgets what was said, if the session is still idle; durably only where asked to. Returns how
    /// many bytes it had.
    pub fn remove(
        &self,
        session: Digest,
        durably: bool,
        still: &dyn Fn() -> bool,
    ) -> io::Result<u64> {
        let mut reconciled = lock(&self.reconciled);
        if !still() {
            return Ok(0);
        }
        reconciled.remove(&session);
        for path in [self.path(session), self.info_path(session)] {
            if if_exists(fs::remove_file(path))?.is_some() && durably {
                files::sync_dir_of(&self.path(session))?;
            }
        }
        Ok(lock(&self.usage).remove(session))
    }

    /// Counts what earlier processes have left, unless it was counted already.
    pub fn count_all(&self) -> io::Result<()> {
        // A power cut may have left one of the two files alone.
        for session in self.sessions(".jsonl")?.chain(self.sessions(".json")?) {
            let _alone = lock(&self.reconciled);
            if lock(&self.usage).get(session).is_some() {
                continue;
            }
            let about = self.find(session);
            let used = about.as_ref().and_then(|about| about.used);
            if let (None, Some(about)) = (used, &about) {
                self.record_owner(session, &about.owner)?;
            }
            let now = lock(&self.usage).now;
            let used = used.map_or(now, |used| now.min(used + millis(SESSION_USE)));
            let principal = about.as_ref().map_or("", |about| about.owner.principal.as_str());
            let bytes = fs::metadata(self.path(session)).map_or(0, |meta| meta.len());
            lock(&self.usage).set(session, principal, bytes, used);
        }
        Ok(())
    }

    /// Whether a time of use need not be written down anew.
    pub(super) fn is_recent(used: u64, now: u64) -> bool {
        used <= now && now - used < millis(SESSION_USE)
    }

    /// Counts what a session has now that it is used.
    pub(super) fn count_use(&self, session: Digest, principal: &str) {
        let bytes = fs::metadata(self.path(session)).map_or(0, |meta| meta.len());
        let now = lock(&self.usage).now;
        lock(&self.usage).set(session, principal, bytes, now);
    }

    /// Writes down whose a session is and that it is used, unless that was said a moment ago. Returns the time
    /// of use that is written down.
    pub(super) fn record_owner(&self, session: Digest, owner: &Owner) -> io::Result<u64> {
        let now = lock(&self.usage).now;
        let said = self.find(session).filter(|about| about.owner == *owner);
        if let Some(used) =
            said.and_then(|about| about.used).filter(|used| Self::is_recent(*used, now))
        {
            return Ok(used);
        }
        let principal = quoted(&owner.principal);
        let key = owner.session.as_deref().map_or_else(|| "null".to_owned(), quoted);
        let about = format!(r#"{{"principal":{principal},"session":{key},"used":{now}}}"#);
        replace_unsynced(&self.info_path(session), about.as_bytes(), 0o600).map(|()| now)
    }

    /// The session of this digest, if it has a transcript.
    pub fn find(&self, session: Digest) -> Option<TranscriptInfo> {
        let bytes = fs::metadata(self.path(session)).ok()?.len();
        let text = files::read_own(&self.info_path(session), MAX_INFO_FILE).ok()?;
        let about: Value = serde_json::from_str(&text).ok()?;
        let word = |key: &str| about[key].as_str().map(str::to_owned);
        let owner = Owner::new(word("principal")?, word("session"));
        Some(TranscriptInfo { owner, bytes, used: about["used"].as_u64() })
    }

    /// Shows the sessions of some principals that have a transcript. The files of others are not opened.
    pub fn list(
        &self,
        whose: &dyn Fn(&str) -> bool,
        visit: &mut dyn FnMut(TranscriptInfo),
    ) -> io::Result<()> {
        let may_be_mine = |session: &Digest| lock(&self.usage).may_be_of(*session, whose);
        let found = self.sessions(".json")?.filter(may_be_mine);
        let mine = |about: &TranscriptInfo| whose(&about.owner.principal);
        found.filter_map(|session| self.find(session)).filter(mine).for_each(visit);
        Ok(())
    }

    /// The sessions that have a file of this ending.
    fn sessions(&self, ending: &str) -> io::Result<impl Iterator<Item = Digest>> {
        let names = if_exists(fs::read_dir(&self.dir))?.into_iter().flatten();
        Ok(names.filter_map(move |name| {
            let name = name.ok()?.file_name();
            Digest::from_str_radix(name.to_str()?.strip_suffix(ending)?, 16).ok()
        }))
    }
}
