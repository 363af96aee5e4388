//! Times as people read them. Pure but for [`now`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::millis;
use crate::escape::escaped;
use crate::sys::clock::parse_rfc3339;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}

/// `2026-11-22 18:54:55 UTC`; what is no time of ours comes out escaped, as it is.
pub fn shown(text: &str) -> String {
    match parse_rfc3339(text) {
        Some(_) => format!("{} UTC", text.replacen('T', " ", 1).get(..19).unwrap_or(text)),
        None => escaped(text, false),
    }
}

/// `2026-11-22 18:54:55 UTC, 2 min ago`.
pub fn with_age(text: &str, now: i64) -> String {
    match parse_rfc3339(text).map(|then| u64::try_from(now - then)) {
        None => shown(text),
        Some(Ok(age)) => format!("{}, {} ago", shown(text), coarse(age)),
        // Clocks are set back now and then.
        Some(Err(_)) => format!("{}, in the future", shown(text)),
    }
}

/// Two units at most: `42 s`, `2 min`, `3 h 5 min`, `12 d 4 h`.
pub fn coarse(seconds: u64) -> String {
    let (whole, unit, rest, smaller) = match seconds {
        0..MINUTE => (seconds, "s", 0, ""),
        MINUTE..HOUR => (seconds / MINUTE, "min", 0, ""),
        HOUR..DAY => (seconds / HOUR, "h", seconds % HOUR / MINUTE, "min"),
        DAY.. => (seconds / DAY, "d", seconds % DAY / HOUR, "h"),
    };
    let rest = if rest == 0 { String::new() } else { format!(" {rest} {smaller}") };
    format!("{whole} {unit}{rest}")
}

/// `15 ms`, `2.4 s`, `31 s`, `2 min`.
pub fn fine(duration: Duration) -> String {
    let millis = millis(duration);
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..10_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        10_000.. => coarse(duration.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_printed_in_one_unit() {
        assert_eq!(shown("\x1b[2J"), "\\u{1b}[2J");
        let then = "1994-11-06T08:49:37.042Z";
        let age = |seconds: i64| with_age(then, 784_111_777 + seconds);
        assert_eq!(age(125), "1994-11-06 08:49:37 UTC, 2 min ago");
        assert!(age(-5).ends_with("in the future"));
        for (seconds, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3600, "1 h"),
            (3661, "1 h 1 min"),
            (86_400 * 12 + 4 * 3600 + 5, "12 d 4 h"),
        ] {
            assert_eq!(coarse(seconds), words);
        }
        assert_eq!(fine(Duration::from_millis(15)), "15 ms");
        assert_eq!(fine(Duration::from_millis(2450)), "2.4 s");
        assert_eq!(fine(Duration::from_secs(125)), "2 min");
    }
}
