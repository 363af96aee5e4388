//! What the sessions keep on disk, and whose it is. Pure: sizes and times come in.

use super::message_table::Digest;
use super::tree::{Tree, halves};
use crate::limits::SESSION_PAGE;
use crate::shares::{LimitReached, Shares};
use crate::sys::gather::Gather;

/// What one session keeps on disk: when it was last used, in milliseconds of the journal's time; its bytes, in
/// whole pages; the index of its principal in the list.
type SessionUsage = (u64, u64, usize);

fn pack((used, bytes, principal): SessionUsage) -> u128 {
    u128::from(used) << 64 | u128::from(bytes / SESSION_PAGE) << 32 | principal as u128
}

fn unpack(number: u128) -> SessionUsage {
    let (used, rest) = halves(number);
    (used, (rest >> 32) * SESSION_PAGE, usize::try_from(rest & u64::from(u32::MAX)).unwrap_or(0))
}

/// The sessions that have files, some 60 bytes of memory each.
#[derive(Debug, Default)]
pub struct TranscriptUsage {
    /// A [`SessionUsage`] each, packed.
    sessions: Tree,
    /// Bytes by principal.
    pub principals: Vec<(String, u64)>,
    /// What the journal's time was when it was last told, in milliseconds.
    pub now: u64,
}

impl TranscriptUsage {
    /// A session was used then, and its transcript has so many bytes.
    pub fn set(&mut self, session: Digest, principal: &str, bytes: u64, used: u64) {
        self.remove(session);
        let known = self.principals.iter().position(|(name, _)| name == principal);
        let at = known.unwrap_or_else(|| {
            self.principals.push((principal.to_owned(), 0));
            self.principals.len() - 1
        });
        // One more page for the file that says whose it is.
        let bytes = (bytes.div_ceil(SESSION_PAGE) + 1) * SESSION_PAGE;
        self.principals[at].1 += bytes;
        self.sessions.insert(session, pack((used, bytes, at)));
    }

    pub fn get(&self, session: Digest) -> Option<SessionUsage> {
        self.sessions.get(&session).map(|number| unpack(*number))
    }

    /// A session is used now, or has room set aside for its first turn.
    pub fn touch(&mut self, session: Digest, principal: &str, now: u64) {
        let bytes = self.get(session).map_or(SESSION_PAGE, |(_, bytes, _)| bytes - SESSION_PAGE);
        self.set(session, principal, bytes, now);
    }

    /// Returns how many bytes it had.
    pub fn remove(&mut self, session: Digest) -> u64 {
        let Some(kept) = self.sessions.remove(&session) else { return 0 };
        let (_, bytes, principal) = unpack(kept);
        self.principals[principal].1 -= bytes;
        bytes
    }

    /// Whether a session is of one of these principals, or not counted yet.
    pub fn may_be_of(&self, session: Digest, whose: &dyn Fn(&str) -> bool) -> bool {
        let kept = self.get(session);
        kept.is_none_or(|(_, _, principal)| whose(&self.principals[principal].0))
    }

    /// Whether a principal may go on with this session, or begin it.
    ///
    /// # Errors
    /// Whose limit is reached.
    pub fn check(
        &self,
        (session, principal): (Digest, &str),
        shares: Shares,
        limit: u64,
    ) -> Result<(), LimitReached> {
        let own = self.principals.iter().find(|(name, _)| name == principal);
        let all = self.principals.iter().map(|(_, bytes)| bytes).sum();
        // The page of a first turn, and that of its file's owner.
        let more = if self.get(session).is_some() { 0 } else { 2 * SESSION_PAGE };
        let held = (own.map_or(0, |(_, bytes)| *bytes), all);
        shares.admit(principal, held, more, ("limits.max_transcripts", limit))
    }

    /// Sessions of a principal, or of all, that were not used after `before`; the longest idle first.
    pub fn oldest(&self, principal: Option<&str>, before: u64) -> Vec<Digest> {
        let is_mine = |at: usize| principal.is_none_or(|name| self.principals[at].0 == name);
        let all = self.sessions.iter().map(|(session, kept)| (*session, unpack(*kept)));
        let old = all.filter(|(_, (used, _, whose))| *used <= before && is_mine(*whose));
        let mut old: Vec<(u64, Digest)> = old.map(|(session, (used, ..))| (used, session)).gather();
        old.sort_unstable();
        old.into_iter().map(|(_, session)| session).gather()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClientKey, Config};
    use crate::shares::Limit;

    #[test]
    fn sizes_are_counted_in_pages_by_principal() {
        let mut usage = TranscriptUsage::default();
        usage.set(1, "a", 0, 10);
        usage.set(2, "a", 1, 5);
        usage.set(3, "b", 2 * SESSION_PAGE, u64::MAX);
        let bytes = |usage: &TranscriptUsage| -> Vec<u64> {
            usage.principals.iter().map(|(_, bytes)| bytes / SESSION_PAGE).collect()
        };
        assert_eq!(bytes(&usage), [3, 3]);
        usage.set(1, "a", SESSION_PAGE + 1, 20);
        assert_eq!(bytes(&usage), [5, 3]);
        assert_eq!(usage.oldest(Some("a"), u64::MAX), [2, 1]);
        assert_eq!(usage.oldest(None, 20), [2, 1]);
        assert_eq!(usage.oldest(None, u64::MAX), [2, 1, 3]);
        assert_eq!((usage.remove(2), usage.remove(2)), (2 * SESSION_PAGE, 0));
        assert_eq!((bytes(&usage), usage.get(2).is_some()), (vec![3, 3], false));
    }

    #[test]
    fn a_session_that_begins_needs_room_and_one_that_goes_on_none() {
        let mut config = Config::default();
        config.keys.insert("a".to_owned(), ClientKey::new("a"));
        let (shares, limit) = (Shares::of(&config), 32 * SESSION_PAGE);
        let mut usage = TranscriptUsage::default();
        let mut next = 0;
        let mut fill = |usage: &mut TranscriptUsage, principal: &str| {
            let before = next;
            while usage.check((next, principal), shares, limit).is_ok() {
                usage.set(next, principal, 1, 0);
                next += 1;
            }
            next - before
        };
        let full = ["a", "b", "c", "owner"].map(|principal| fill(&mut usage, principal));
        assert_eq!(full, [7, 4, 2, 3]);
        assert_eq!(usage.check((0, "owner"), shares, limit), Ok(()), "it is there already");
        let full = usage.check((99, "owner"), shares, limit).unwrap_err();
        assert_eq!(full.over, Limit::Gateway);
    }
}
