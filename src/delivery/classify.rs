//! What came of an attempt, and what it means: decided here, for all kinds of targets. Pure.

use std::time::Duration;

use super::DeliveryResult;
use crate::escape::quoting;
use crate::sys::clock::since_1970;
use crate::sys::process::Status;

/// The longest wait that a receiver can ask for: one that says "tomorrow" is asked in between.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What the status of an HTTP response means. `now` is the wall clock, as time since 1970: for a
/// Retry-After that is a date.
pub fn answered(status: u16, after: Option<&str>, now: Duration) -> DeliveryResult {
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
pub fn ended(status: Status, said: &[u8]) -> DeliveryResult {
    match status {
        Status::Exited(0) => DeliveryResult::Delivered,
        Status::Exited(75) => trouble("exit status 75", said),
        Status::Exited(code) => {
            DeliveryResult::Refused(quoting(&format!("exit status {code}"), said))
        }
        Status::Signalled(signal) => trouble(&format!("it was ended by signal {signal}"), said),
    }
}

/// It was not reached, or did not answer.
pub fn trouble(why: &str, said: &[u8]) -> DeliveryResult {
    DeliveryResult::Deferred(quoting(why, said), None)
}

/// The field's value (RFC 9110 section 10.2.3): seconds or a date, not beyond our patience. What is
/// neither says nothing.
pub fn retry_after(value: &str, now: Duration) -> Option<Duration> {
    let value = value.trim();
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let wait = if digits {
        // More seconds than a u64 has are beyond any patience too.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        http_date(value)?.saturating_sub(now)
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// IMF-fixdate, the one form that may be sent (RFC 9110 section 5.6.7), as time since 1970.
fn http_date(value: &str) -> Option<Duration> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut parts = value.split_once(", ")?.1.split(' ');
    let mut next = || parts.next();
    let (day, month, year, time, zone) = (next()?, next()?, next()?, next()?, next()?);
    let number = |text: &str| text.parse::<u32>().ok().map(i64::from);
    let mut clock = time.split(':').map(number);
    let time = [clock.next()??, clock.next()??, clock.next()??];
    let (day, year) = (number(day)?, number(year)?);
    let month = MONTHS.find(month).filter(|at| at % 3 == 0 && month.len() == 3)?;
    let date = [year, i64::try_from(month / 3 + 1).ok()?, day];
    let sound = (1970..=9999).contains(&year) && zone == "GMT";
    let seconds = since_1970(date, time).filter(|_| sound)?;
    Some(Duration::from_secs(u64::try_from(seconds).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::Utc;
    use std::time::UNIX_EPOCH;

    const NOW: Duration = Duration::from_secs(784_111_777);

    #[test]
    fn responses() {
        let of = |status| answered(status, None, NOW);
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
    fn ends_of_commands() {
        let of = |status| ended(status, b"a\n\x1b[2J\n");
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
        assert!(matches!(trouble("no", b""), DeliveryResult::Deferred(..)));
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

    #[test]
    fn dates_as_the_c_library_has_them() {
        for day in (0..80_000).step_by(29) {
            let time = Duration::from_secs(day * 86_400 + day % 86_400);
            let date = Utc::new(UNIX_EPOCH + time).http_date();
            assert_eq!(http_date(&date), Some(time), "{date}");
        }
    }
}
