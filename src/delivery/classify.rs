//! What came of an attempt, and what it means: decided here, for all kinds of targets. Pure.

use std::time::Duration;

use super::DeliveryResult;
use crate::cancel::CancelReason;
use crate::escape::quoting;
use crate::sys::{clock::parse_http_date, process::Status};

/// The longest wait that a receiver can ask for: one that says "tomorrow" is asked in between.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What the status of an HTTP response means. `now` is the wall clock, as time since 1970: for a
/// Retry-After that is a date.
pub fn response(status: u16, after: Option<&str>, now: Duration) -> DeliveryResult {
    let why = format!("it answered with {status}");
    let after = after.and_then(|value| retry_after(value, now));
    match status {
        200..=299 => DeliveryResult::Delivered,
        408 | 425 | 429 | 500..=599 => DeliveryResult::Deferred(why, after),
        300..=399 => DeliveryResult::Refused(format!("{why}; redirects are not followed")),
        _ => DeliveryResult::Refused(why),
    }
}

/// What the end of a command means, and of its stderr.
pub fn exit(status: Status, said: &[u8]) -> DeliveryResult {
    match status {
        Status::Exited(0) => DeliveryResult::Delivered,
        Status::Exited(75) => temporary("exit status 75", said),
        Status::Exited(code) => {
            DeliveryResult::Refused(quoting(&format!("exit status {code}"), said))
        }
        Status::Signalled(signal) => temporary(&format!("it was ended by signal {signal}"), said),
    }
}

/// What it means that an attempt was ended.
pub fn cancelled(reason: CancelReason, said: &[u8]) -> DeliveryResult {
    match reason {
        CancelReason::TimedOut => temporary("it took longer than its timeout", said),
        _ => DeliveryResult::Aborted,
    }
}

/// It was not reached, or did not answer.
pub fn temporary(why: &str, said: &[u8]) -> DeliveryResult {
    DeliveryResult::Deferred(quoting(why, said), None)
}

/// The field's value (RFC 9110 section 10.2.3): seconds or a date, [`MAX_RETRY_AFTER`] at the most. What is
/// neither says nothing.
pub fn retry_after(value: &str, now: Duration) -> Option<Duration> {
    let value = value.trim();
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let wait = if digits {
        // More seconds than a u64 has are more than that too.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        parse_http_date(value)?.saturating_sub(now)
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(784_111_777);

    #[test]
    fn statuses_of_responses_are_classified() {
        let of = |status| response(status, None, NOW);
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(of(status), DeliveryResult::Delivered);
        }
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(matches!(of(status), DeliveryResult::Deferred(_, None)), "{status}");
        }
        for status in [0, 101, 300, 301, 304, 307, 308, 400, 401, 403, 404, 410, 422, 600] {
            assert!(matches!(of(status), DeliveryResult::Refused(_)), "{status}");
        }
    }

    #[test]
    fn exit_statuses_of_commands_are_classified() {
        let of = |status| exit(status, b"a\n\x1b[2J\n");
        assert_eq!(of(Status::Exited(0)), DeliveryResult::Delivered);
        let said = "\\u{1b}[2J";
        let why = format!("exit status 75: {said}");
        assert_eq!(of(Status::Exited(75)), DeliveryResult::Deferred(why, None));
        let why = format!("it was ended by signal 9: {said}");
        assert_eq!(of(Status::Signalled(9)), DeliveryResult::Deferred(why, None));
        for code in [1, 2, 74, 76, 127, 255] {
            assert_eq!(
                of(Status::Exited(code)),
                DeliveryResult::Refused(format!("exit status {code}: {said}"))
            );
        }
        assert!(matches!(temporary("no", b""), DeliveryResult::Deferred(..)));
    }

    #[test]
    fn how_long_it_asks_us_to_wait() {
        let of = |value: &str| retry_after(value, NOW).map(|wait| wait.as_secs());
        for (value, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("99999", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1990 08:49:37 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(3600)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 06 ovD 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:49:37 GMT", None),
            ("Sun, 00 Nov 1994 08:49:37 GMT", None),
        ] {
            assert_eq!(of(value), seconds, "{value:?}");
        }
    }
}
