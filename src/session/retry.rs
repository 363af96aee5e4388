//! When a turn that failed for now is tried again, and when no more. Pure: times come in.

use std::time::Duration;

use crate::delivery::backoff;
use crate::limits::MAX_TURN_RETRY_DELAY;

/// An attempt that failed for now.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// How long the message's attempts had failed when this one began; `None`: it was the first.
    pub began: Option<Duration>,
    /// The same at its end.
    pub spent: Duration,
    /// Attempts that failed, with this one.
    pub failures: u32,
    pub retry_after: Option<Duration>,
    pub random: u64,
}

/// The pause before the next attempt; `None`: this was the last one.
///
/// The last attempt is one that begins when `retry_for` is over, so that every outage of that length
/// is waited out.
pub fn pause(attempt: &Attempt, retry_for: Duration) -> Option<Duration> {
    if retry_for.is_zero() || attempt.began.is_some_and(|spent| spent >= retry_for) {
        return None;
    }
    let rest = retry_for.saturating_sub(attempt.spent);
    let pause = backoff::delay(attempt.failures, attempt.random, MAX_TURN_RETRY_DELAY).min(rest);
    Some(pause.max(attempt.retry_after.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Lets all attempts of a message fail at once, from the start of an outage; returns when each
    /// of them began.
    fn attempts(retry_for: Duration, random: u64, after: Option<Duration>) -> Vec<Duration> {
        let mut began = vec![Duration::ZERO];
        loop {
            let spent = began[began.len() - 1];
            let first = began.len() == 1;
            let attempt = Attempt {
                began: (!first).then_some(spent),
                spent,
                failures: u32::try_from(began.len()).unwrap(),
                retry_after: after,
                random,
            };
            match pause(&attempt, retry_for) {
                Some(pause) => began.push(spent + pause),
                None => return began,
            }
            assert!(began.len() < 1000, "it never ends");
        }
    }

    #[test]
    fn the_last_attempt_comes_when_the_patience_is_over() {
        for random in [0, u64::MAX / 3, u64::MAX] {
            let began = attempts(HOUR, random, None);
            assert_eq!(began.last(), Some(&HOUR), "{random}");
            assert!(began[1] >= Duration::from_millis(500) && began[1] <= Duration::from_secs(1));
            let pauses = began.windows(2).map(|two| two[1] - two[0]);
            assert!(pauses.max() <= Some(MAX_TURN_RETRY_DELAY), "{random}");
        }
        // None fails at once where its turn comes late in an outage: each has its own patience.
        assert!(attempts(Duration::from_millis(1), 0, None).len() == 2);
        assert!(attempts(Duration::ZERO, 0, None).len() == 1, "0 tries nothing again");
    }

    #[test]
    fn a_retry_after_is_never_cut_short() {
        let (after, hour) = (Duration::from_secs(1000), HOUR);
        let began = attempts(hour, 0, Some(after));
        assert_eq!(began, [0, 1000, 2000, 3000, 4000].map(Duration::from_secs));
        let began = attempts(Duration::from_secs(10), 0, Some(after));
        assert_eq!(began, [0, 1000].map(Duration::from_secs));
    }

    #[test]
    fn an_attempt_that_took_longer_than_the_patience_is_followed_by_the_last_one() {
        let long = Attempt {
            began: Some(Duration::from_secs(10)),
            spent: Duration::from_secs(5000),
            failures: 3,
            retry_after: None,
            random: 0,
        };
        assert_eq!(pause(&long, HOUR), Some(Duration::ZERO));
        assert_eq!(pause(&Attempt { began: Some(HOUR), ..long }, HOUR), None);
    }
}
