//! Clocks that std does not offer: the calendar, and the time since boot. Deadlines use
//! `std::time::Instant` instead.

use super::gather::Gather;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since boot, sleep included (CLOCK_BOOTTIME, clock_gettime(2)): the same for every
/// process, and no operator sets it.
pub fn since_boot() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime fills the struct that lives here; Linux has had this clock since 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Now, as RFC 3339 has it.
pub fn now() -> String {
    Utc::new(SystemTime::now()).rfc3339()
}

/// A moment in milliseconds since 1970, as RFC 3339 has it.
pub fn rfc3339(millis: u64) -> String {
    Utc::new(UNIX_EPOCH + Duration::from_millis(millis)).rfc3339()
}

/// Seconds since 1970 of an RFC 3339 time in UTC, as [`Utc::rfc3339`] writes it, the fraction optional.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let time = time.split_once('.').map_or(time, |(seconds, _)| seconds);
    if (date.len(), time.len()) != (10, 8) {
        return None;
    }
    since_1970(numbers(date, '-')?, numbers(time, ':')?)
}

/// Time since 1970 of an IMF-fixdate, the one form that may be sent (RFC 9110 section 5.6.7).
pub fn parse_http_date(text: &str) -> Option<Duration> {
    let parts: Vec<&str> = text.split_once(", ")?.1.split(' ').gather();
    let [day, month, year, time, "GMT"] = parts[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let date = numbers(&format!("{year}-{month}-{day}"), '-')?;
    if !(1970..=9999).contains(&date[0]) {
        return None;
    }
    let seconds = since_1970(date, numbers(time, ':')?)?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// Three numbers, of digits alone.
fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let digits = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = text.split(separator).map(|part| Some(part).filter(digits)?.parse().ok());
    let mut next = || parts.next()?;
    let numbers = [next()?, next()?, next()?];
    parts.next().is_none().then_some(numbers)
}

/// Seconds since 1970 of a moment in UTC, or `None` where no calendar or clock has it.
fn since_1970([year, month, day]: [i64; 3], [hour, minute, second]: [i64; 3]) -> Option<i64> {
    let in_calendar = (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_calendar || !(0..24).contains(&hour) || !(0..60).contains(&minute) {
        return None;
    }
    // Years begin in March, so that the leap day is the last: 719 468 days lie before 1970.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = 365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468;
    // A leap second is the sixtieth.
    (0..=60).contains(&second).then_some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// A moment in UTC.
#[derive(Clone, Copy, Debug)]
pub struct Utc {
    tm: libc::tm,
    millis: u32,
}

impl Utc {
    pub fn new(time: SystemTime) -> Utc {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = libc::time_t::try_from(since.as_secs()).unwrap_or(libc::time_t::MAX);
        // SAFETY: all-zero is a valid tm; gmtime_r fills the one that lives here. Where the year
        // does not fit it returns null and leaves the zeros.
        let tm = unsafe {
            let mut tm: libc::tm = std::mem::zeroed();
            libc::gmtime_r(&raw const seconds, &raw mut tm);
            tm
        };
        Utc { tm, millis: since.subsec_millis() }
    }

    /// RFC 3339 with milliseconds: `2026-11-22T18:54:55.123Z`.
    pub fn rfc3339(&self) -> String {
        let (year, month, day) = (self.tm.tm_year + 1900, self.tm.tm_mon + 1, self.tm.tm_mday);
        format!("{year:04}-{month:02}-{day:02}T{}.{:03}Z", self.time_of_day(), self.millis)
    }

    /// IMF-fixdate (RFC 9110, section 5.6.7): `Sun, 22 Nov 2026 18:54:55 GMT`.
    pub fn http_date(&self) -> String {
        let at = |field: libc::c_int| usize::try_from(field).unwrap_or(0);
        let (weekday, month) = (DAYS[at(self.tm.tm_wday) % 7], MONTHS[at(self.tm.tm_mon) % 12]);
        let (day, year) = (self.tm.tm_mday, self.tm.tm_year + 1900);
        format!("{weekday}, {day:02} {month} {year:04} {} GMT", self.time_of_day())
    }

    fn time_of_day(&self) -> String {
        format!("{:02}:{:02}:{:02}", self.tm.tm_hour, self.tm.tm_min, self.tm.tm_sec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_time_is_formatted() {
        let utc = Utc::new(UNIX_EPOCH + Duration::from_millis(784_111_777_042));
        assert_eq!(utc.http_date(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(utc.rfc3339(), "1994-11-06T08:49:37.042Z");
    }

    #[test]
    fn rfc_3339_is_read_as_it_is_written() {
        for seconds in [0, 784_111_777, 951_782_399, 951_827_696, 1_709_251_199, 4_102_444_800] {
            let utc = rfc3339(seconds * 1000);
            assert_eq!(parse_rfc3339(&utc), i64::try_from(seconds).ok(), "{utc}");
        }
        assert_eq!(parse_rfc3339("1994-11-06T08:49:37Z"), Some(784_111_777));
    }

    #[test]
    fn other_forms_are_no_rfc_3339() {
        for text in [
            "",
            "Z",
            "1994-11-06",
            "1994-11-06T08:49Z",
            "1994-11-06 08:49:37Z",
            "1994-13-06T08:49:37Z",
            "1994-11-06T24:49:37Z",
            "1994-11-06T08:49:37+01:00",
            "-994-11-06T08:49:37Z",
            "1994-11-06T08:49:99999999999999999999Z",
            "1994-11-06T08:49:37:01Z",
            "9999999999999999999-1-1T08:49:37Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn dates_as_the_c_library_has_them() {
        for day in (0..80_000).step_by(29) {
            let time = Duration::from_secs(day * 86_400 + day % 86_400);
            let date = Utc::new(UNIX_EPOCH + time).http_date();
            assert_eq!(parse_http_date(&date), Some(time), "{date}");
        }
    }

    #[test]
    fn a_time_beyond_the_calendar_does_not_panic() {
        let _ = Utc::new(UNIX_EPOCH + Duration::from_secs(1 << 62)).http_date();
    }
}
