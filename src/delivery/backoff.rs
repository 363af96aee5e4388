//! How long to wait before the next attempt, at a turn or a delivery. Pure.

use std::time::Duration;

/// The pause after attempt `attempt` (from 1): 1 s, doubled by each further one up to `cap`, of which
/// `random` takes up to a half, so that what failed together does not come back together.
pub fn delay(attempt: u32, random: u64, cap: Duration) -> Duration {
    let doublings = attempt.saturating_sub(1).min(63);
    let whole = Duration::from_secs(1 << doublings).min(cap);
    // Finer than 2^-32 nobody can tell.
    let share = u32::try_from(random >> 32).unwrap_or(u32::MAX);
    let half = whole / 2;
    half + half.saturating_mul(share) / u32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_cap() {
        let cap = Duration::from_secs(300);
        for (attempt, seconds) in
            [(0, 1), (1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (u32::MAX, 300)]
        {
            let whole = Duration::from_secs(seconds);
            assert_eq!(delay(attempt, u64::MAX, cap), whole, "{attempt}");
            assert_eq!(delay(attempt, 0, cap), whole / 2, "{attempt}");
            let some = delay(attempt, 0x5555_5555_5555_5555, cap);
            assert!(whole / 2 < some && some < whole, "{attempt}");
        }
        assert_eq!(delay(5, u64::MAX, Duration::ZERO), Duration::ZERO);
    }
}
