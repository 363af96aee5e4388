//! Whether and when a turn is tried again whose attempt has ended. Pure: times come in.

use std::time::Duration;

use super::clock::millis;
use super::message_table::Entry;
use crate::agent::{ErrorResponse, Outcome};
use crate::cancel::CancelReason;
use crate::config::Config;
use crate::delivery::{backoff, retry_after};
use crate::journal::record::{Retry, Step};
use crate::limits::MAX_TURN_RETRY_DELAY;

/// What the end of an attempt is recorded as. `None`: the gateway's own end cut it short. The record of
/// its beginning stays the last one, and it runs again after the next start.
///
/// What failed for now is tried again while `agent.retry_for` lasts; after a crash of the agent, while
/// `limits.max_attempts` allows it. The `ages` are those of the process at the attempt's beginning and
/// end, `now` is the wall clock as time since 1970.
pub fn step_after(
    outcome: &Outcome,
    (text, report): (String, Option<String>),
    entry: &Entry,
    ages: [Duration; 2],
    (now, random): (Duration, u64),
    config: &Config,
) -> Option<Step> {
    let (error, crash) = (outcome.to_string(), matches!(outcome, Outcome::Crashed(_)));
    let (detail, passes, asked) = match outcome {
        Outcome::Done => return Some(Step::Done(text, report)),
        Outcome::Ended(CancelReason::TimedOut) => {
            (Some(ErrorResponse::timed_out().to_json()), false, None)
        }
        Outcome::Released(_) => return Some(Step::Released),
        Outcome::Ended(_) | Outcome::Short(_) => return None,
        Outcome::Failed(_) => (None, false, None),
        Outcome::ErrorResponse(refused) => {
            (Some(refused.to_json()), refused.is_temporary(), refused.retry_after.as_deref())
        }
        Outcome::Temporary(_) | Outcome::Crashed(_) => (None, true, None),
    };
    if !passes {
        return Some(Step::Failed(error, detail));
    }
    let asked = asked.and_then(|value| retry_after(value, now));
    let failing = entry.failing.as_deref();
    let [began, spent] = ages.map(|age| failing.map(|failing| failing.spent(age)));
    let spent = spent.unwrap_or_default();
    let failures = failing.map_or(1, |failing| failing.retry.failures.saturating_add(1));
    let (cuts, retry_for) = (entry.crashes + 1, config.agent.retry_for);
    let pause = if crash {
        let allowed = usize::try_from(cuts).is_ok_and(|cuts| cuts < config.limits.max_attempts);
        allowed.then(|| backoff::delay(cuts, random, MAX_TURN_RETRY_DELAY))
    } else {
        pause((began, spent, failures), (asked, random), retry_for)
    };
    Some(if let Some(pause) = pause {
        Step::Retry(Box::new(Retry {
            error,
            failures,
            spent: millis(spent),
            pause: millis(pause),
            asked: asked.is_some(),
            crash,
            detail,
        }))
    } else {
        let over = format!("{error} (attempt {}; agent.retry_for is over)", entry.attempts);
        let error = if crash || retry_for.is_zero() { error } else { over };
        // Its sender is told the same as one whose message is not written down.
        let detail = detail.unwrap_or_else(|| ErrorResponse::unavailable(&error).to_json());
        Step::Failed(error, Some(detail))
    })
}

/// The pause before the next attempt; `None`: this was the last one. `began` and `spent`: for how long
/// the message's attempts had failed when this one began, unless it was the first, and when it ended.
///
/// The last attempt is one that begins when `retry_for` is over, so that every outage of that length
/// is waited out.
fn pause(
    (began, spent, failures): (Option<Duration>, Duration, u32),
    (retry_after, random): (Option<Duration>, u64),
    retry_for: Duration,
) -> Option<Duration> {
    if retry_for.is_zero() || began.is_some_and(|spent| spent >= retry_for) {
        return None;
    }
    let rest = retry_for.saturating_sub(spent);
    let pause = backoff::delay(failures, random, MAX_TURN_RETRY_DELAY).min(rest);
    Some(pause.max(retry_after.unwrap_or_default()))
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
            let failures = u32::try_from(began.len()).unwrap();
            let failed = ((!first).then_some(spent), spent, failures);
            match pause(failed, (after, random), retry_for) {
                Some(pause) => began.push(spent + pause),
                None => return began,
            }
            assert!(began.len() < 1000, "it never ends");
        }
    }

    #[test]
    fn each_outcome_has_its_record() {
        let after = |outcome| {
            let (reply, chance) = (("text".to_owned(), None), (HOUR, 0));
            let ages = [Duration::ZERO; 2];
            step_after(&outcome, reply, &Entry::default(), ages, chance, &Config::default())
        };
        let why = || "why".to_owned();
        assert_eq!(after(Outcome::Done), Some(Step::Done("text".to_owned(), None)));
        assert_eq!(after(Outcome::Failed(why())), Some(Step::Failed(why(), None)));
        let late = after(Outcome::Ended(CancelReason::TimedOut));
        assert!(matches!(late, Some(Step::Failed(_, Some(detail))) if detail.contains("504")));
        for reason in [CancelReason::Cancelled, CancelReason::ClientGone, CancelReason::Aborted] {
            assert_eq!(after(Outcome::Ended(reason)), None, "{reason:?}");
        }
        assert_eq!(after(Outcome::Short(why())), None);
        for (outcome, crashed) in
            [(Outcome::Temporary(why()), false), (Outcome::Crashed(why()), true)]
        {
            let Some(Step::Retry(retry)) = after(outcome) else { panic!("it is not tried again") };
            assert_eq!((retry.error, retry.failures, retry.crash), (why(), 1, crashed));
        }
        for (status, passes) in [(400, false), (404, false), (429, true), (500, true), (503, true)]
        {
            let mut refused = ErrorResponse::unavailable("why");
            (refused.status, refused.retry_after) = (status, Some("7".to_owned()));
            match after(Outcome::ErrorResponse(Box::new(refused))) {
                Some(Step::Retry(retry)) => {
                    assert!(passes && retry.asked && retry.pause == 7000, "{status}: {retry:?}");
                    assert!(retry.detail.is_some());
                }
                other => {
                    let failed = matches!(other, Some(Step::Failed(_, Some(_))));
                    assert!(!passes && failed, "{status}: {other:?}");
                }
            }
        }
    }

    #[test]
    fn the_last_attempt_comes_when_retry_for_is_over() {
        for random in [0, u64::MAX / 3, u64::MAX] {
            let began = attempts(HOUR, random, None);
            assert_eq!(began.last(), Some(&HOUR), "{random}");
            assert!(began[1] >= Duration::from_millis(500) && began[1] <= Duration::from_secs(1));
            let pauses = began.windows(2).map(|two| two[1] - two[0]);
            assert!(pauses.max() <= Some(MAX_TURN_RETRY_DELAY), "{random}");
        }
        // None fails at once where its turn comes late in an outage: each has its own `retry_for`.
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
    fn an_attempt_that_took_longer_than_retry_for_is_followed_by_the_last_one() {
        let long = |began| pause((Some(began), Duration::from_secs(5000), 3), (None, 0), HOUR);
        assert_eq!(long(Duration::from_secs(10)), Some(Duration::ZERO));
        assert_eq!(long(HOUR), None);
    }
}
