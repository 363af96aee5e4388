//! What the main loop has to do at a certain time.

use std::time::{Duration, Instant};

/// The points in time that the main loop waits for; `None` is never.
#[derive(Debug, Default)]
pub struct Timers {
    /// The next sign of life for the service manager, and how far apart they are.
    pub watchdog: Option<(Instant, Duration)>,
    /// The end of the drain, or of the time that cut turns have.
    pub drain: Option<Instant>,
    /// When to accept again after it failed.
    pub accept: Option<Instant>,
    /// When that it failed was last said: nothing waits for this.
    pub told_accept: Option<Instant>,
    /// When to read the configuration again, once the start is over.
    pub reload: Option<Instant>,
    /// The next line about a drain that goes on.
    pub report: Option<Instant>,
}

impl Timers {
    /// How long until the first of them; `None`: nothing is due ever.
    pub fn until_next(&self, now: Instant, started: bool) -> Option<Duration> {
        let watchdog = self.watchdog.map(|(at, _)| at);
        let reload = self.reload.filter(|_| started);
        let all = [watchdog, self.drain, self.accept, reload, self.report];
        all.into_iter().flatten().min().map(|at| at.saturating_duration_since(now))
    }
}

/// Whether a timer has run out; if so it is taken.
pub fn due(timer: &mut Option<Instant>, now: Instant) -> bool {
    timer.take_if(|at| *at <= now).is_some()
}
