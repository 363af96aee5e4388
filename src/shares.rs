//! How much of a limit one principal may hold, so that others always find room. Pure.
//!
//! A limit is shared by dynamic thresholds (Choudhury and Hahne, "Dynamic queue length thresholds",
//! 1998): what a principal holds may not grow beyond a multiple of what is left free. At a share of
//! half, one alone holds half of the limit, a second one half of the rest, and nobody is shut out.

use crate::config::{Config, OWNER};

/// The part of a limit that only the owner may take: one sixteenth.
const OWNERS_PART: u64 = 16;

/// Whose limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// As many wait in one session as may.
    Session,
    /// The principal holds its share.
    Principal,
    /// All principals together hold all that there is.
    Gateway,
}

impl Limit {
    /// What the principal is told that holds `own` of `limit`, which `key` sets.
    pub fn reached(self, principal: &str, key: &str, (own, limit): (u64, u64)) -> LimitReached {
        let what = match self {
            Limit::Session => format!("This session's {key} ({limit}) is reached"),
            Limit::Principal => format!("{principal} holds its share of {key} ({own} of {limit})"),
            Limit::Gateway => format!("The gateway's {key} ({limit}) is reached"),
        };
        LimitReached { over: self, message: format!("{what}; try again later.") }
    }
}

/// A limit that was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitReached {
    pub over: Limit,
    /// Whose limit it was, and which key of the configuration has it.
    pub message: String,
}

/// How limits are shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Percent of a limit that one principal may hold at most; 100: there is nobody to share with.
    pub percent: u64,
}

impl Shares {
    /// `limits.max_share`, or the whole where the owner is the only principal.
    pub fn of(config: &Config) -> Shares {
        let alone = config.keys.is_empty() && config.channel.is_empty();
        Shares { percent: if alone { 100 } else { config.limits.max_share as u64 } }
    }

    /// Whether a principal that holds `own` of the `all` that are taken of a limit may take `more`.
    ///
    /// # Errors
    /// Whose limit is reached.
    pub fn check(
        self,
        principal: &str,
        (own, all): (u64, u64),
        more: u64,
        limit: u64,
    ) -> Result<(), Limit> {
        let shared = principal != OWNER && self.percent < 100;
        let kept = if shared { limit / OWNERS_PART } else { 0 };
        let free = (limit - kept).checked_sub(all.saturating_add(more)).ok_or(Limit::Gateway)?;
        let mine = own.saturating_add(more);
        // Whoever holds nothing may have one while there is room.
        let fits = !shared
            || own == 0
            || mine.saturating_mul(100 - self.percent) <= free.saturating_mul(self.percent);
        fits.then_some(()).ok_or(Limit::Principal)
    }

    /// [`Shares::check`] for the limit that the configuration calls `key`.
    ///
    /// # Errors
    /// The same, for an error message.
    pub fn admit(
        self,
        principal: &str,
        held: (u64, u64),
        more: u64,
        (key, limit): (&str, u64),
    ) -> Result<(), LimitReached> {
        let checked = self.check(principal, held, more, limit);
        checked.map_err(|over| over.reached(principal, key, (held.0, limit)))
    }

    /// What a principal may hold of a limit when nobody else holds anything.
    pub fn most(self, limit: u64) -> u64 {
        limit / 100 * self.percent + limit % 100 * self.percent / 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many each of these principals gets of 1600 when they take one at a time until refused.
    fn taken(percent: u64, principals: &[&str]) -> Vec<u64> {
        let (shares, mut all) = (Shares { percent }, 0);
        let take = |principal: &&str| {
            let mut own = 0;
            while shares.check(principal, (own, all), 1, 1600).is_ok() {
                (own, all) = (own + 1, all + 1);
            }
            own
        };
        principals.iter().map(take).collect()
    }

    #[test]
    fn nobody_takes_all_while_there_are_others() {
        assert_eq!(taken(50, &["a", "b", "c"]), [750, 375, 187]);
        assert_eq!(taken(75, &["a", "b"]), [1125, 281]);
        assert_eq!(taken(50, &["a", "b", "owner"]), [750, 375, 475]);
        assert_eq!(taken(100, &["a", "owner"]), [1600, 0]);
    }

    #[test]
    fn whose_limit_it_was_is_told() {
        let shares = Shares { percent: 50 };
        assert_eq!(shares.check("a", (8, 8), 1, 16), Err(Limit::Principal));
        assert_eq!(shares.check("a", (0, 15), 1, 16), Err(Limit::Gateway));
        assert_eq!(shares.check("owner", (0, 15), 1, 16), Ok(()));
        assert_eq!(shares.check("owner", (1, 16), 1, 16), Err(Limit::Gateway));
        assert_eq!(shares.check("a", (0, 0), 1, 1), Ok(()), "a small limit keeps nothing back");
        assert_eq!(shares.check("a", (u64::MAX, 3), 1, 16), Err(Limit::Principal));
        let message = |held| shares.admit("a", held, 1, ("limits.x", 16)).unwrap_err().message;
        assert_eq!(message((8, 8)), "a holds its share of limits.x (8 of 16); try again later.");
        assert_eq!(message((0, 15)), "The gateway's limits.x (16) is reached; try again later.");
    }
}
