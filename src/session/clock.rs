//! The journal's own time, by which ages are told: it only grows, and no operator sets it. Pure:
//! what the clocks say comes in.
//!
//! Within a boot it goes on with CLOCK_BOOTTIME, also while no gateway runs. Over a reboot nothing
//! but the wall clock says how long the machine was off, and that may be wrong: no more than
//! [`MAX_OFF`] counts.

use std::time::Duration;

pub use crate::config::millis;
use crate::journal::record::{Record, Timestamp};

/// What a reboot may add to ages: off every night counts in full, a clock that is years off does not.
const MAX_OFF: Duration = Duration::from_secs(24 * 3600);

/// How long the journal may go without a record before one says the time: a part of [`MAX_OFF`], so
/// that with a night behind it no time is lost.
const CLOCK_ROUND: Duration = Duration::from_secs(6 * 3600);

/// What the clocks say, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Since 1970, by the clock for people.
    pub wall: u64,
    /// Since boot, sleep included.
    pub since_boot: u64,
}

/// The newest record of kind "clock": what CLOCK_BOOTTIME said when, and in which boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClockRecord {
    /// The record's number.
    pub record: u64,
    pub boot: String,
    pub since_boot: u64,
    pub at: Timestamp,
}

/// The journal's time in this process.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Which boot this is; empty where the system does not say.
    boot: String,
    /// The process's begin.
    start: Timestamp,
    since_boot: u64,
}

impl Clock {
    /// Goes on where a journal ends: with its last record of the clock, and its newest stamp.
    pub fn new(last: Option<&ClockRecord>, newest: Timestamp, boot: String, now: Reading) -> Clock {
        let same = last.filter(|last| !boot.is_empty() && last.boot == boot);
        let start = match same {
            Some(last) => {
                let since = now.since_boot.saturating_sub(last.since_boot);
                Timestamp { age: newest.age.max(last.at.age.saturating_add(since)), ..newest }
            }
            None if newest == Timestamp::default() => newest,
            None => {
                let off = now.wall.saturating_sub(newest.at).min(millis(MAX_OFF));
                let (age, off) = (newest.age.saturating_add(off), newest.off.saturating_add(off));
                Timestamp { age, off, ..newest }
            }
        };
        Clock { boot, start, since_boot: now.since_boot }
    }

    /// The stamp for a record of now.
    pub fn stamp(&self, now: Reading) -> Timestamp {
        let since = now.since_boot.saturating_sub(self.since_boot);
        Timestamp { at: now.wall, age: self.start.age.saturating_add(since), off: self.start.off }
    }

    /// A record of the clock, where the journal needs one: the next start could not tell the time
    /// that has passed since its newest stamp.
    pub fn record(
        &self,
        known: Option<&ClockRecord>,
        newest: Timestamp,
        now: Reading,
    ) -> Option<Record> {
        let at = self.stamp(now);
        let new_boot = !self.boot.is_empty() && known.is_none_or(|known| known.boot != self.boot);
        let silent = at.age.saturating_sub(newest.age) >= millis(CLOCK_ROUND);
        let (boot, since_boot) = (self.boot.clone(), now.since_boot);
        (new_boot || silent).then_some(Record::Clock { boot, since_boot, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;
    const NOW: u64 = 1_795_000_000_000;

    fn known(boot: &str, since_boot: u64, age: u64) -> ClockRecord {
        ClockRecord {
            record: 1,
            boot: boot.to_owned(),
            since_boot,
            at: Timestamp { at: NOW, age, off: 0 },
        }
    }

    /// Age and off at a start whose journal has a record of the clock, in boot "a", of 1 h since boot
    /// and age 5 h, and whose newest stamp is an hour younger.
    fn at_start(boot: &str, wall: u64, since_boot: u64) -> (u64, u64) {
        let newest = Timestamp { at: NOW, age: 6 * HOUR, off: HOUR };
        let now = Reading { wall, since_boot };
        let clock = Clock::new(Some(&known("a", HOUR, 5 * HOUR)), newest, boot.to_owned(), now);
        let Timestamp { at, age, off } = clock.stamp(now);
        assert_eq!(at, wall, "people are told what the wall clock says");
        (age, off)
    }

    #[test]
    fn within_a_boot_time_goes_on_as_since_boot_says_whatever_the_wall_clock_does() {
        for wall in [0, NOW - 2 * DAY, NOW, NOW + 2 * DAY, NOW + 40 * DAY, NOW + 3652 * DAY] {
            assert_eq!(at_start("a", wall, 10 * HOUR), (14 * HOUR, HOUR), "{wall}");
            assert_eq!(at_start("a", wall, 3 * HOUR), (7 * HOUR, HOUR), "{wall}");
            assert_eq!(at_start("a", wall, 0), (6 * HOUR, HOUR), "never back");
        }
    }

    #[test]
    fn over_a_reboot_the_wall_clock_counts_for_a_day_at_most_and_never_back() {
        let table = [
            (0, 0),
            (NOW - 2 * DAY, 0),
            (NOW, 0),
            (NOW + 9 * HOUR, 9 * HOUR),
            (NOW + 2 * DAY, DAY),
            (NOW + 40 * DAY, DAY),
            (u64::MAX, DAY),
        ];
        for (wall, off) in table {
            assert_eq!(at_start("b", wall, 7), (6 * HOUR + off, HOUR + off), "{wall}");
            assert_eq!(at_start("", wall, 7), (6 * HOUR + off, HOUR + off), "an unknown boot");
        }
    }

    #[test]
    fn running_time_goes_on_as_since_boot_says() {
        let start = Reading { wall: NOW, since_boot: HOUR };
        let clock = Clock::new(None, Timestamp { at: 1, age: 0, off: 0 }, "a".to_owned(), start);
        for wall in [0, NOW - DAY, NOW, NOW + 3652 * DAY] {
            let later = Reading { wall, since_boot: 3 * HOUR };
            let off = DAY;
            assert_eq!(clock.stamp(later), Timestamp { at: wall, age: off + 2 * HOUR, off });
            let before = Reading { wall, since_boot: 0 };
            assert_eq!(clock.stamp(before).age, off, "never back");
        }
        let first = Clock::new(None, Timestamp::default(), "a".to_owned(), start);
        assert_eq!(first.stamp(start), Timestamp { at: NOW, age: 0, off: 0 }, "a new journal");
    }

    #[test]
    fn a_record_of_the_clock_is_due_once_a_boot_and_in_long_silence() {
        let start = Reading { wall: NOW, since_boot: HOUR };
        let newest = Timestamp { at: NOW, age: 5 * HOUR, off: 0 };
        let clock = |boot: &str| {
            Clock::new(Some(&known("a", HOUR, 5 * HOUR)), newest, boot.to_owned(), start)
        };
        let due = |boot: &str, since_boot| {
            let now = Reading { wall: NOW, since_boot };
            clock(boot).record(Some(&known("a", HOUR, 5 * HOUR)), newest, now)
        };
        assert_eq!(due("a", HOUR), None);
        assert_eq!(due("", HOUR), None, "no boot would know it again");
        let Some(Record::Clock { boot, since_boot, at }) = due("b", HOUR) else { panic!("b") };
        assert_eq!((boot.as_str(), since_boot, at), ("b", HOUR, newest));
        let silence = millis(CLOCK_ROUND);
        assert_eq!(due("a", HOUR + silence - 1), None);
        for boot in ["a", ""] {
            assert!(due(boot, HOUR + silence).is_some(), "{boot:?}");
        }
    }
}
