//! The time that a stop has in all. Each part of it gets what is left, less what the parts behind it need.

use std::time::{Duration, Instant};

use super::progress::StopStep;
use crate::config::millis;
use crate::limits::{
    ABORT_TIMEOUT, CLOSE_TIMEOUT, HISTORY_TIMEOUT, KILL_AFTER, QUERY_DEADLINE, STOP_HEADROOM,
    STREAM_END_TIMEOUT,
};

/// What the service manager needs from the end of the process to seeing it, and from its signal to ours:
/// at most, and as a part of the time that it gives.
const MARGIN: (Duration, u32) = (Duration::from_millis(1500), 10);

/// What the stop watchdog needs to say what was stuck, before the end.
const WATCHDOG_RESERVE: (Duration, u32) = (Duration::from_secs(1), 4);

/// What each step behind the drain takes at most where there is time enough, in their order.
const STEPS: [(StopStep, Duration); 4] = [
    (StopStep::Aborting, KILL_AFTER.saturating_add(ABORT_TIMEOUT)),
    (StopStep::Asking, QUERY_DEADLINE),
    (StopStep::CleaningUp, CLOSE_TIMEOUT.saturating_add(STREAM_END_TIMEOUT)),
    (StopStep::Recording, HISTORY_TIMEOUT),
];

/// When a stop has to be over.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    began: Instant,
    drain: Duration,
    pub has_limit: bool,
    /// When the service manager would kill us, less the margin; `None`: never.
    limit: Option<Instant>,
    /// The same by what it was asked for since.
    extended: Option<Instant>,
}

fn part((most, of): (Duration, u32), time: Duration) -> Duration {
    most.min(time / of)
}

impl Budget {
    /// Of a stop whose first signal came at `began`. `limit`: what the service manager gives it.
    pub fn new(began: Instant, drain: Duration, limit: Option<Duration>) -> Budget {
        let mut budget = Budget { began, drain, has_limit: false, limit: None, extended: None };
        budget.set_limit(limit);
        budget
    }

    /// What the manager gives has become known.
    pub fn set_limit(&mut self, limit: Option<Duration>) {
        self.has_limit = limit.is_some();
        let usable = limit.map(|limit| limit - part(MARGIN, limit));
        self.limit = usable.and_then(|usable| self.began.checked_add(usable));
    }

    /// The manager was asked for so much more from now on.
    pub fn extend(&mut self, now: Instant, more: Duration) {
        self.extended = Some(now + more - part(MARGIN, more));
    }

    /// When the stop watchdog acts.
    pub fn end(&self) -> Instant {
        let own = self.began + self.drain + STOP_HEADROOM;
        let end =
            self.limit.map_or(own, |limit| limit.max(self.extended.unwrap_or(limit)).min(own));
        end - part(WATCHDOG_RESERVE, end - self.began)
    }

    /// How long the drain may take: something also where there is little time, and all that it wants where
    /// the manager is asked for more while it goes on.
    pub fn drain(&self, now: Instant) -> Duration {
        if self.extended.is_some() {
            return self.drain;
        }
        let left = self.end().saturating_duration_since(now);
        let behind: Duration = STEPS.iter().map(|(_, time)| *time).sum();
        self.drain.min(left.saturating_sub(behind).max(left / 4))
    }

    /// How long this step may take: where less is left than it and those behind it want, each gets its part.
    pub fn share(&self, step: StopStep, now: Instant) -> Duration {
        let left = self.end().saturating_duration_since(now);
        let from = STEPS.iter().position(|(it, _)| *it == step).unwrap_or(STEPS.len());
        let all: Duration = STEPS[from..].iter().map(|(_, time)| *time).sum();
        let own = STEPS.get(from).map_or(Duration::ZERO, |(_, time)| *time);
        if left >= all {
            return own;
        }
        let [own, left, all] = [own, left, all].map(millis);
        Duration::from_millis(own * left / all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_secs(30);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_units_time_that_fits_leaves_the_drain_whole() {
        let now = Instant::now();
        let budget = Budget::new(now, DRAIN, Some(DRAIN + STOP_HEADROOM));
        assert_eq!(budget.drain(now), DRAIN);
        let abort = now + DRAIN;
        assert_eq!(budget.share(StopStep::Aborting, abort), KILL_AFTER + ABORT_TIMEOUT);
        assert!(budget.end() < now + DRAIN + STOP_HEADROOM - secs(2));
        // Longer than needed is not used, and for ever not at all.
        for limit in [Some(secs(3600)), Some(Duration::MAX), None] {
            let budget = Budget::new(now, DRAIN, limit);
            assert_eq!((budget.end(), budget.drain(now)), (now + secs(44), DRAIN), "{limit:?}");
        }
    }

    #[test]
    fn all_steps_one_after_the_other_end_in_time_however_short_it_is() {
        for limit in [1, 2, 3, 5, 9, 20, 45, 90].map(secs) {
            let began = Instant::now();
            let budget = Budget::new(began, DRAIN, Some(limit));
            let mut now = began + budget.drain(began);
            for (step, _) in STEPS {
                let share = budget.share(step, now);
                assert!(share > secs(1).min(limit / 40), "{limit:?} {step:?} {share:?}");
                now += share;
            }
            assert!(now <= budget.end() + Duration::from_micros(10), "{limit:?}");
            assert!(budget.end() < began + limit, "{limit:?}");
        }
    }

    #[test]
    fn what_was_asked_for_is_counted_and_no_more() {
        let began = Instant::now();
        let mut budget = Budget::new(began, DRAIN, Some(secs(3)));
        let short = budget.end();
        assert!(short < began + secs(3));
        let later = began + secs(20);
        budget.extend(later, secs(15));
        assert_eq!(budget.end(), later + secs(15) - MARGIN.0 - WATCHDOG_RESERVE.0);
        assert_eq!(budget.share(StopStep::Aborting, later), KILL_AFTER + ABORT_TIMEOUT);
        assert_eq!(budget.drain(began), DRAIN);
        // Never beyond what a stop takes.
        budget.extend(began + secs(40), secs(15));
        assert_eq!(budget.end(), began + secs(44));
        // Without a manager nothing is asked for.
        let mut alone = Budget::new(began, secs(1), None);
        alone.extend(later, secs(15));
        assert_eq!(alone.end(), began + secs(15));
    }

    #[test]
    fn a_limit_that_becomes_known_later_counts_from_the_first_signal() {
        let began = Instant::now();
        let mut budget = Budget::new(began, DRAIN, None);
        budget.set_limit(Some(secs(10)));
        assert!(budget.end() < began + secs(10));
    }
}
