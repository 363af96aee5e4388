//! What senders whom nobody serves may have downloaded. Pure.

use std::time::{Duration, Instant};

use super::values::MAX_FILE;

/// So long files count against a [`Budget`].
const WITHIN: Duration = Duration::from_mins(10);

/// What a file counts at least: a small one takes two requests as well.
const MIN_COST: u64 = 1_000_000;

/// For all together of whom is not known yet whether they are served: a night's files of who is, after a restart.
const MAX_UNKNOWN: u64 = 10 * MAX_FILE;

/// Senders that are remembered: of who is forgotten it is not known whether he is served.
const MAX_SENDERS: usize = 256;

/// What is known of senders.
#[derive(Default)]
pub(super) struct Senders {
    /// Whether the last message of each was served, the one heard of longest ago first.
    served: Vec<(i64, bool)>,
    /// For all who are not: one large file.
    strangers: Budget,
    unknown: Budget,
}

/// Bytes that were downloaded since then.
#[derive(Default)]
struct Budget(Option<Instant>, u64);

impl Senders {
    /// Whether the last message of this sender was served, where that is known.
    pub fn served(&self, id: i64) -> Option<bool> {
        self.served.iter().find(|sender| sender.0 == id).map(|sender| sender.1)
    }

    /// The gateway has answered a message of his.
    pub fn note(&mut self, id: i64, served: bool) {
        self.served.retain(|sender| sender.0 != id);
        if self.served.len() >= MAX_SENDERS {
            self.served.remove(0);
        }
        self.served.push((id, served));
    }

    /// Counts a file of so many bytes. False: it may not be downloaded.
    pub fn may(&mut self, id: i64, bytes: u64, now: Instant) -> bool {
        let cost = bytes.max(MIN_COST);
        self.budget(id, now).is_none_or(|(budget, most)| {
            let fits = budget.1.saturating_add(cost) <= most;
            budget.1 += if fits { cost } else { 0 };
            fits
        })
    }

    /// Counts a file that turned out to be so large.
    pub fn count(&mut self, id: i64, bytes: u64, now: Instant) {
        if let Some((budget, _)) = self.budget(id, now) {
            budget.1 = budget.1.saturating_add(bytes.saturating_sub(MIN_COST));
        }
    }

    /// What a file of his counts against, and the bytes that may be.
    fn budget(&mut self, id: i64, now: Instant) -> Option<(&mut Budget, u64)> {
        let (budget, most) = match self.served(id) {
            Some(true) => return None,
            Some(false) => (&mut self.strangers, MAX_FILE),
            None => (&mut self.unknown, MAX_UNKNOWN),
        };
        if budget.0.is_none_or(|since| now.saturating_duration_since(since) >= WITHIN) {
            *budget = Budget(Some(now), 0);
        }
        Some((budget, most))
    }
}
