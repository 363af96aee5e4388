//! Starts that failed one after the other, and when the next one may be tried.

use std::time::{Duration, Instant};

/// After failed starts the next one waits so long, and twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// So many deaths at a start in so short a time are no accident.
const TROUBLE: (usize, Duration) = (3, Duration::from_secs(60));

/// After so long what ends is not at fault from its start.
pub const GOOD_AFTER: Duration = Duration::from_secs(60);

/// More of them change nothing.
const MAX_KEPT: usize = 16;

/// The failed starts of a process since the last good one.
#[derive(Debug, Default)]
pub struct Deaths {
    times: Vec<Instant>,
    why: String,
    /// There were too many at once.
    many: bool,
}

impl Deaths {
    pub fn add(&mut self, why: String) {
        let (most, within) = TROUBLE;
        self.times.push(Instant::now());
        self.times.drain(..self.times.len().saturating_sub(MAX_KEPT));
        let first = self.times.iter().rev().nth(most - 1);
        self.many |= first.is_some_and(|first| first.elapsed() < within);
        self.why = why;
    }

    /// A process has ended that was good for so long: one that ends soon is not to be started all the time.
    pub fn survived(&mut self, good_for: Duration) {
        if good_for >= GOOD_AFTER {
            *self = Deaths::default();
        }
    }

    /// Why the last one failed, while the next one has to wait.
    pub fn pausing(&self) -> Option<&str> {
        self.until().filter(|until| *until > Instant::now()).map(|_| &*self.why)
    }

    /// When the next one may be.
    pub fn until(&self) -> Option<Instant> {
        let doublings = u32::try_from(self.times.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(10)).min(LONGEST_PAUSE);
        self.times.last().map(|last| *last + pause)
    }

    /// The same once they were too many at once, until one is good.
    pub fn trouble(&self) -> Option<&str> {
        self.many.then_some(&*self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_one_was_good_for_a_minute() {
        let mut deaths = Deaths::default();
        let mut pause = |good_for: u64| {
            deaths.survived(Duration::from_secs(good_for));
            deaths.add("why".to_owned());
            (deaths.until().unwrap() - *deaths.times.last().unwrap()).as_millis()
        };
        let pauses = [0, 1, 59, 0, 30, 0, 59, 0].map(&mut pause);
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!([60, 0, 3600, 0].map(pause), [500, 1000, 500, 1000]);
    }
}
