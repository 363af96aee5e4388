//! How long messages are known: what is settled is kept for a while, and within bounds. Pure.

use std::time::Duration;

use super::accounts::Account;
use super::entry::Kind;
use super::{Counts, Entry, Id, MessageTable};
use crate::journal::record::Timestamp;
use crate::limits::{
    KEEP_DEAD_LETTERS, KEEP_OFFERED, KEEP_RESULTS_FOR, MAX_DEAD_LETTERS, MAX_OFFERED,
};
use crate::named::ByName;
use crate::session::clock::millis;

/// What was ended for less than this while the machine was on is not old, whatever the clocks say of
/// the time in between: a wrong clock at one start after the other must not make a client's repeat of
/// a request a second turn.
const KEEP_UPTIME: Duration = Duration::from_secs(3600);

/// Ages do not differ by more from one record to the next: records of the clock are in between.
const MAX_AGE_STEP: Duration = Duration::from_secs(366 * 24 * 3600);

impl MessageTable {
    /// Settled messages that need not be known any more: those with a key after a day, those
    /// without also where there are more than `keep`. No more than `most` of those that `goes` says yes
    /// to.
    pub fn overdue(
        &self,
        now: Timestamp,
        keep: usize,
        (most, goes): (usize, &dyn Fn(Id) -> bool),
    ) -> Vec<Id> {
        let old = &|id: Id, most: Duration| {
            self.get(id).is_none_or(|entry| {
                let since = entry.quiet_since();
                since.age.saturating_add(millis(most)) <= now.age
                    && since.uptime().saturating_add(millis(KEEP_UPTIME)) <= now.uptime()
            })
        };
        let mut ids = Vec::new();
        let mut add = |listed: &mut dyn Iterator<Item = Id>| {
            // What was forgotten from the middle is still listed.
            let going = listed.filter(|id| self.get(*id).is_some() && goes(*id));
            let room = most - ids.len();
            ids.extend(going.take(room));
        };
        let day = KEEP_RESULTS_FOR;
        // In the order in which they settled: `next_stamp` lets no age go back.
        let kept = self.fair_cap(keep, |own| own.unkeyed.len());
        for own in self.accounts.values() {
            let (plain, too_many) = (own.unkeyed.iter(), own.unkeyed.len().saturating_sub(kept));
            let plain = plain.copied().enumerate();
            let overdue = plain.take_while(|(at, id)| *at < too_many || old(*id, day));
            add(&mut overdue.map(|(_, id)| id));
        }
        add(&mut self.keyed.iter().copied().take_while(|id| old(*id, day)));
        // What those from channels say goes first, and then that they were offered.
        let too_many = self.offered.len().saturating_sub(keep);
        let offered = self.offered.iter().copied().enumerate();
        let offered = offered.take_while(|(at, id)| *at < too_many || old(*id, day));
        let is_known = |id: &Id| self.get(*id).is_some_and(|entry| !entry.is_faded());
        add(&mut offered.map(|(_, id)| id).filter(is_known));
        let too_many = self.faded.len().saturating_sub(MAX_OFFERED);
        let faded = self.faded.iter().copied().enumerate();
        let faded = faded.take_while(|(at, id)| *at < too_many || old(*id, KEEP_OFFERED));
        add(&mut faded.map(|(_, id)| id));
        let kept = self.fair_cap(MAX_DEAD_LETTERS, |own| own.counts.dead_letters);
        // How many of a principal's are too many, and go by their age or not.
        let mut too_many: ByName<usize> = ByName::default();
        for (name, own) in self.accounts.iter().filter(|(_, own)| own.counts.dead_letters > kept) {
            too_many.insert(name.clone(), own.counts.dead_letters - kept);
        }
        // By id: one that was revived is younger than those behind it.
        let mut overdue = self.dead_letters.keys().copied().map(Id).filter(|id| {
            let more = self.get(*id).and_then(|it| too_many.get_mut(&it.owner.principal));
            let goes = more.is_some_and(|more| {
                let goes = *more > 0;
                *more = more.saturating_sub(1);
                goes
            });
            goes || old(*id, KEEP_DEAD_LETTERS)
        });
        add(&mut overdue);
        ids
    }

    /// The most of something that each principal may keep, so that all together keep no more than `most`.
    fn fair_cap(&self, most: usize, of: fn(&Account) -> usize) -> usize {
        let kept = |level| self.accounts.values().map(|own| of(own).min(level)).sum::<usize>();
        let (mut level, mut above) = (0, most + 1);
        while level + 1 < above {
            let middle = usize::midpoint(level, above);
            *(if kept(middle) <= most { &mut level } else { &mut above }) = middle;
        }
        level
    }

    /// The stamp that a record counts with. Ages only grow, and by steps that can be: one that is
    /// odd, or none, as older gateways wrote, counts as that of the record before it.
    pub(super) fn next_stamp(&mut self, at: Timestamp) -> Timestamp {
        let last = Timestamp { at: at.at, ..self.newest };
        let most = last.age.saturating_add(millis(MAX_AGE_STEP));
        let first = self.newest == Timestamp::default();
        let sound = at.age >= last.age && at.off >= last.off && at.uptime() >= last.uptime();
        self.newest = if sound && (at.age <= most || first) { at } else { last };
        self.newest
    }

    /// Whether there are so many more than `keep` that they are worth a look.
    pub fn is_crowded(&self, keep: usize) -> bool {
        let plain: usize = self.accounts.values().map(|account| account.unkeyed.len()).sum();
        let most = keep + keep / 8 + 64;
        plain > most || self.offered.len() > most || self.counts.dead_letters > MAX_DEAD_LETTERS
    }

    /// Forgets messages that were [`MessageTable::overdue`]; of one that came from a channel the text first.
    pub fn forget(&mut self, ids: &[Id]) {
        for id in ids {
            // It may have been revived since it was looked at.
            let settled = self.get(*id).filter(|entry| entry.is_settled());
            let Some(before) = settled.map(Counts::of) else { continue };
            let fades =
                settled.is_some_and(|entry| entry.kind() == Kind::Offered && !entry.is_faded());
            self.spare(*id);
            if fades {
                self.fade(*id);
                continue;
            }
            let Some(mut entry) = self.entries.remove(*id) else { continue };
            self.release(entry.files.take());
            let of = (&*entry.owner, entry.kind());
            self.recount(*id, of, before, Counts::default());
            let joined = entry.channel.iter().flat_map(|on| &on.joined).copied();
            for key in joined.chain(entry.key.as_ref().map(|key| key.key)) {
                if self.idempotency_keys.get(&key) == Some(&id.0) {
                    self.idempotency_keys.remove(&key);
                }
            }
            if let Some(session) = entry.session() {
                self.records.remove(session, entry.latest);
                if entry.erased {
                    self.resets.of(session).erased -= 1;
                }
            }
        }
        let plain = self.accounts.values_mut().map(|account| &mut account.unkeyed);
        let gone = |id: &Id| self.entries.get(*id).is_none_or(Entry::is_faded);
        while self.offered.front().is_some_and(gone) {
            self.offered.pop_front();
        }
        for list in plain.chain([&mut self.keyed, &mut self.faded]) {
            while list.front().is_some_and(|id| self.entries.get(*id).is_none()) {
                list.pop_front();
            }
        }
    }
}
