//! The trial of a new version: what its manager says of the unit from READY on, and whether that is good
//! enough. Decides; whoever asks the manager is elsewhere.

use std::time::{Duration, Instant};

use super::super::unit_control::describe_end;
use crate::config::{TIME, millis};
use crate::systemd::systemctl::Properties;

/// Deaths of a new version that are enough: one may be anybody's, three are its own.
const MAX_DEATHS: u64 = 3;

/// How a trial goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    GoesOn,
    Passed,
    /// An operator has stopped the gateway: nothing more can be said of the new version.
    Stopped,
    /// What was wrong.
    Failed(String),
}

/// A trial that is under way.
#[derive(Debug)]
pub struct Trial {
    ends: Instant,
    /// How long a start may take.
    start_timeout: Duration,
    /// Since when it has not been ready.
    down_since: Option<Instant>,
    deaths: u64,
    /// `NRestarts=` when it was last looked at; an operator's start begins to count anew.
    restarts: u64,
    /// How it ended last.
    end: String,
}

impl Trial {
    /// `shown`: what its manager says of it now.
    pub fn new(shown: &Properties, ends: Instant, start_timeout: Duration) -> Trial {
        let (restarts, end) = (shown.restarts(), String::new());
        Trial { ends, start_timeout, down_since: None, deaths: 0, restarts, end }
    }

    pub fn judge(&mut self, shown: &Properties, now: Instant) -> Verdict {
        let restarts = shown.restarts();
        let deaths = restarts.saturating_sub(self.restarts);
        (self.restarts, self.deaths) = (restarts, self.deaths + deaths);
        let (end, _) = describe_end(shown);
        match shown.get("ActiveState") {
            "failed" => return Verdict::Failed(format!("its unit failed: {end}")),
            "inactive" => return Verdict::Stopped,
            "active" | "reloading" => self.down_since = None,
            _ => {
                // Of the process that ended: what runs now has no end yet.
                if shown.get("ExecMainCode") != "0" {
                    self.end = format!(", the last time: {end}");
                }
                self.down_since.get_or_insert(now);
            }
        }
        if self.deaths >= MAX_DEATHS {
            return Verdict::Failed(format!("it died {} times{}", self.deaths, self.end));
        }
        match self.down_since {
            Some(since) if now.duration_since(since) >= self.start_timeout => {
                let time = TIME.show(millis(self.start_timeout));
                Verdict::Failed(format!("it did not come back within {time}{}", self.end))
            }
            None if now >= self.ends => Verdict::Passed,
            _ => Verdict::GoesOn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(state: &str, restarts: u64) -> Properties {
        Properties(format!(
            "ActiveState={state}\nNRestarts={restarts}\nResult=signal\nExecMainCode=2\n\
             ExecMainStatus=11\n"
        ))
    }

    /// What a trial of a minute, with starts of ten seconds, comes to: seconds, state, `NRestarts=`.
    fn run(looks: &[(u64, &str, u64)]) -> Verdict {
        let began = Instant::now();
        let seconds = Duration::from_secs;
        let mut trial = Trial::new(&shown("active", 5), began + seconds(60), seconds(10));
        let mut verdict = Verdict::GoesOn;
        for (at, state, restarts) in looks {
            assert_eq!(verdict, Verdict::GoesOn, "before {at}");
            verdict = trial.judge(&shown(state, *restarts), began + seconds(*at));
        }
        verdict
    }

    fn failed(words: &str) -> Verdict {
        Verdict::Failed(words.to_owned())
    }

    #[test]
    fn a_version_that_stays_up_passes_and_one_death_is_not_its_end() {
        assert_eq!(run(&[(1, "active", 5), (59, "active", 5)]), Verdict::GoesOn);
        assert_eq!(run(&[(1, "active", 5), (60, "active", 5)]), Verdict::Passed);
        let twice = [(1, "activating", 6), (2, "active", 6), (9, "active", 7), (60, "active", 7)];
        assert_eq!(run(&twice), Verdict::Passed);
        // A restart by an operator counts from 0 again.
        assert_eq!(
            run(&[(1, "deactivating", 5), (2, "active", 0), (60, "active", 2)]),
            Verdict::Passed
        );
    }

    #[test]
    fn three_deaths_a_failed_unit_and_a_start_without_end_fail() {
        let thrice = [(1, "activating", 6), (2, "active", 6), (9, "active", 8)];
        let words = "it died 3 times, the last time: killed by SIGSEGV (signal 11)";
        assert_eq!(run(&thrice), failed(words));
        assert_eq!(
            run(&[(1, "failed", 5)]),
            failed("its unit failed: killed by SIGSEGV (signal 11)")
        );
        let words = "it did not come back within 10s, the last time: killed by SIGSEGV (signal 11)";
        assert_eq!(run(&[(1, "activating", 6), (11, "activating", 6)]), failed(words));
        // At the end of the trial it is down: its start is waited for.
        assert_eq!(run(&[(59, "activating", 6), (60, "activating", 6)]), Verdict::GoesOn);
        assert_eq!(run(&[(59, "activating", 6), (61, "active", 6)]), Verdict::Passed);
    }

    #[test]
    fn an_operator_may_stop_it() {
        assert_eq!(run(&[(1, "deactivating", 5), (2, "inactive", 5)]), Verdict::Stopped);
    }
}
