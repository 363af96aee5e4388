//! What the sessions keep on disk, and whose it is. Pure: sizes and times come in.

use super::message_table::Digest;
use crate::digest_map::DigestMap;
use crate::limits::SESSION_PAGE;
use crate::shares::{Over, Shares};

/// The sessions that have files, some 50 bytes of memory each.
#[derive(Debug, Default)]
pub struct Usage {
    /// When each was last used, in milliseconds of the journal's time; its pages; its principal.
    sessions: DigestMap,
    /// Bytes by principal.
    pub principals: Vec<(String, u64)>,
}

impl Usage {
    /// A session was used then, and its transcript has so many bytes.
    pub fn set(&mut self, session: Digest, principal: &str, bytes: u64, used: u64) {
        self.remove(session);
        let known = self.principals.iter().position(|(name, _)| name == principal);
        let at = known.unwrap_or_else(|| {
            self.principals.push((principal.to_owned(), 0));
            self.principals.len() - 1
        });
        // One more page for the file that says whose it is.
        let pages = u32::try_from(bytes.div_ceil(SESSION_PAGE) + 1).unwrap_or(u32::MAX);
        self.principals[at].1 += u64::from(pages) * SESSION_PAGE;
        self.sessions
            .insert(session, u128::from(used) << 64 | u128::from(pages) << 32 | at as u128);
    }

    /// A session is used now, or has room set aside for its first turn.
    pub fn touch(&mut self, session: Digest, principal: &str, now: u64) {
        let bytes =
            self.sessions.get(session).map_or(SESSION_PAGE, |it| parts(it).1 - SESSION_PAGE);
        self.set(session, principal, bytes, now);
    }

    /// Returns how many bytes it had.
    pub fn remove(&mut self, session: Digest) -> u64 {
        let Some((_, bytes, at)) = self.sessions.get(session).map(parts) else { return 0 };
        self.sessions.remove(session);
        self.principals[at].1 -= bytes;
        bytes
    }

    pub fn contains(&self, session: Digest) -> bool {
        self.sessions.contains(session)
    }

    /// Whether a session is this principal's, or not counted yet.
    pub fn may_be_of(&self, session: Digest, principal: &str) -> bool {
        let of = self.sessions.get(session).map(|it| parts(it).2);
        of.is_none_or(|at| self.principals[at].0 == principal)
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
    ) -> Result<(), Over> {
        let own = self.principals.iter().find(|(name, _)| name == principal);
        let all = self.principals.iter().map(|(_, bytes)| bytes).sum();
        // The page of a first turn, and that of its file's owner.
        let more = if self.contains(session) { 0 } else { 2 * SESSION_PAGE };
        shares.check(principal, (own.map_or(0, |(_, bytes)| *bytes), all), more, limit)
    }

    /// Sessions of a principal, or of all, that were not used after `before`; the longest idle first.
    pub fn oldest(&self, principal: Option<&str>, before: u64) -> Vec<Digest> {
        let sessions = self.sessions.range(0, Digest::MAX).map(|(s, it)| (parts(it), s));
        let mine = |at: usize| principal.is_none_or(|name| self.principals[at].0 == name);
        let chosen = sessions.filter(|((used, _, at), _)| *used <= before && mine(*at));
        let mut chosen: Vec<(u64, Digest)> = chosen.map(|((used, ..), s)| (used, s)).collect();
        chosen.sort_unstable();
        chosen.into_iter().map(|(_, session)| session).collect()
    }
}

/// When a session was used, its bytes, and whose it is.
fn parts(packed: u128) -> (u64, u64, usize) {
    let bits = |from: u32, count: u32| (packed >> from) & ((1 << count) - 1);
    let number = |bits: u128| u64::try_from(bits).unwrap_or(u64::MAX);
    let at = usize::try_from(bits(0, 32)).unwrap_or(usize::MAX);
    (number(bits(64, 64)), number(bits(32, 32)) * SESSION_PAGE, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClientKey, Config};

    #[test]
    fn sizes_are_counted_in_pages_by_principal() {
        let mut usage = Usage::default();
        usage.set(1, "a", 0, 10);
        usage.set(2, "a", 1, 5);
        usage.set(3, "b", 2 * SESSION_PAGE, u64::MAX);
        let bytes = |usage: &Usage| -> Vec<u64> {
            usage.principals.iter().map(|(_, bytes)| bytes / SESSION_PAGE).collect()
        };
        assert_eq!(bytes(&usage), [3, 3]);
        usage.set(1, "a", SESSION_PAGE + 1, 20);
        assert_eq!(bytes(&usage), [5, 3]);
        assert_eq!(usage.oldest(Some("a"), u64::MAX), [2, 1]);
        assert_eq!(usage.oldest(None, 20), [2, 1]);
        assert_eq!(usage.oldest(None, u64::MAX), [2, 1, 3]);
        assert_eq!((usage.remove(2), usage.remove(2)), (2 * SESSION_PAGE, 0));
        assert_eq!((bytes(&usage), usage.contains(2)), (vec![3, 3], false));
    }

    #[test]
    fn a_session_that_begins_needs_room_and_one_that_goes_on_none() {
        let mut config = Config::default();
        config.keys.insert("a".to_owned(), ClientKey::new("a"));
        let (shares, limit) = (Shares::of(&config), 32 * SESSION_PAGE);
        let mut usage = Usage::default();
        let mut next = 0;
        let mut fill = |usage: &mut Usage, principal: &str| {
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
        assert_eq!(usage.check((99, "owner"), shares, limit), Err(Over::Gateway));
    }
}
