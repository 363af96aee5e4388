//! Numbers as people write them, there and back. Pure.

use std::time::Duration;

/// What a number counts.
#[derive(Debug)]
pub struct Measure {
    /// Units by name and length, longest first.
    pub units: &'static [(&'static str, u64)],
    /// What a number without a unit counts in.
    pub plain: u64,
}

/// Time in milliseconds.
pub const TIME: Measure = Measure {
    units: &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)],
    plain: 1000,
};

/// Size in bytes.
pub const SIZE: Measure =
    Measure { units: &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)], plain: 1 };

pub const COUNT: Measure = Measure { units: &[], plain: 1 };

/// A time in whole milliseconds.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Measure {
    /// `500ms`, `10m`, `1h30m`, `64KiB`: whole numbers, units from long to short.
    pub fn parse(&self, text: &str) -> Option<u64> {
        let (mut rest, mut units, mut total) = (text, self.units, 0_u64);
        loop {
            let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
            let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let at = units.iter().position(|(name, _)| *name == &after[..unit])?;
            total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(units[at].1)?)?;
            units = &units[at + 1..];
            rest = &after[unit..];
            if rest.is_empty() {
                return Some(total);
            }
        }
    }

    /// In the largest unit that fits without a rest; without units the number alone.
    pub fn show(&self, number: u64) -> String {
        let fits = |(_, unit): &&(&str, u64)| number > 0 && number.is_multiple_of(*unit);
        match self.units.iter().find(fits).or(self.units.last()) {
            Some((name, unit)) => format!("{}{name}", number / unit),
            None => number.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are_read() {
        for (text, millis, shown) in [
            ("500ms", 500, "500ms"),
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "90s"),
            ("10m", 600_000, "10m"),
            ("1h", 3_600_000, "1h"),
            ("1h30m", 5_400_000, "90m"),
            ("1m500ms", 60_500, "60500ms"),
            ("0s", 0, "0ms"),
        ] {
            assert_eq!(TIME.parse(text), Some(millis), "{text}");
            assert_eq!(TIME.show(millis), shown);
            assert_eq!(TIME.parse(shown), Some(millis), "{shown}");
        }
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
            assert_eq!(TIME.parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_written_as_they_are_read() {
        for (text, bytes) in
            [("1MiB", 1 << 20), ("64KiB", 65536), ("1000B", 1000), ("1GiB", 1 << 30)]
        {
            assert_eq!(SIZE.parse(text), Some(bytes), "{text}");
            assert_eq!(SIZE.show(bytes), text);
        }
        assert_eq!(SIZE.show(0), "0B");
        assert_eq!(SIZE.parse("1KiB1B"), Some(1025));
        assert_eq!((SIZE.show(1025), COUNT.show(1025)), ("1025B".to_owned(), "1025".to_owned()));
        for bad in ["", "1", "MiB", "1MB", "1mib", "1 MiB", "-1B", "18446744073709551615KiB"] {
            assert_eq!(SIZE.parse(bad), None, "{bad:?}");
        }
    }
}
