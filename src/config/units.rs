//! Times and sizes as people write them, there and back. Pure.

use std::time::Duration;

/// Units of time in milliseconds, longest first.
const TIMES: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// Units of size in bytes, largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// `500ms`, `30s`, `10m`, `1h`, `1h30m`, `30d`: whole numbers, units from long to short.
pub fn parse_time(text: &str) -> Option<Duration> {
    let mut units = TIMES.as_slice();
    let mut total: u64 = 0;
    let mut rest = text;
    loop {
        let (number, after) = split_number(rest)?;
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let at = units.iter().position(|(name, _)| *name == &after[..unit])?;
        total = total.checked_add(number.checked_mul(units[at].1)?)?;
        units = &units[at + 1..];
        rest = &after[unit..];
        if rest.is_empty() {
            return Some(Duration::from_millis(total));
        }
    }
}

/// The shortest text that [`parse_time`] reads as the same time; parts below a millisecond go.
pub fn show_time(time: Duration) -> String {
    let mut rest = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, length) in TIMES {
        if rest >= length {
            text.push_str(&format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `64KiB`, `1MiB`, `1GiB`, `512B`.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*bytes)
}

/// In the largest unit that fits without a rest.
pub fn show_size(bytes: usize) -> String {
    let bytes = bytes as u64;
    let fits = |(_, unit): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(*unit);
    match SIZES.iter().find(fits) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => "0B".to_owned(),
    }
}

/// The digits at the front as a number, and the rest; `None` without digits or on overflow.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are_read() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1m500ms", 60_500),
            ("0s", 0),
        ] {
            assert_eq!(parse_time(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(show_time(Duration::from_millis(millis)), text);
        }
        assert_eq!(parse_time("90s"), Some(Duration::from_secs(90)));
        assert_eq!(show_time(Duration::from_secs(90)), "1m30s");
        for bad in [
            "",
            "30",
            "s",
            "1.5s",
            "-1s",
            "+1s",
            "1 s",
            "1w",
            "1s1h",
            "1s1s",
            "1h30",
            "é",
            "1é",
            "99999999999999999999s",
            "9999999999999999999h",
            "１s",
        ] {
            assert_eq!(parse_time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_written_as_they_are_read() {
        for (text, bytes) in
            [("1MiB", 1 << 20), ("64KiB", 65536), ("1000B", 1000), ("1GiB", 1 << 30)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(show_size(usize::try_from(bytes).unwrap()), text);
        }
        assert_eq!(show_size(0), "0B");
        for bad in ["", "1", "MiB", "1MB", "1mib", "1 MiB", "-1B", "18446744073709551615KiB"] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
    }
}
