//! Wrong keys, counted by address. The count changes the answer to a wrong key, and never that to a
//! valid one.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Wrong keys from one address within [`FAILURE_WINDOW`] before they are answered with 429: a client
/// with a stale key sends it a few times.
const MAX_FAILURES: u32 = 10;

/// How long wrong keys are counted together, and how long an address is told to wait at most.
const FAILURE_WINDOW: Duration = Duration::from_secs(60);

/// Addresses whose wrong keys are counted at one time; 40 kB.
const MAX_FAILING_ADDRESSES: usize = 1024;

#[derive(Default)]
pub struct AuthThrottle(Vec<Record>);

struct Record {
    source: IpAddr,
    since: Instant,
    count: u32,
}

impl AuthThrottle {
    /// Counts one more wrong key from an address. Where there were too many: whether this is the one
    /// that made it so, and how long it stays so.
    pub fn count(&mut self, address: IpAddr, now: Instant) -> Option<(bool, Duration)> {
        let source = source_prefix(address);
        let age = |record: &Record| now.saturating_duration_since(record.since);
        self.0.retain(|record| age(record) < FAILURE_WINDOW);
        let known = self.0.iter().position(|record| record.source == source);
        let at = known.unwrap_or_else(|| {
            // The oldest record goes: it expires next anyway.
            if self.0.len() >= MAX_FAILING_ADDRESSES {
                self.0.remove(0);
            }
            self.0.push(Record { source, since: now, count: 0 });
            self.0.len() - 1
        });
        let record = &mut self.0[at];
        record.count = record.count.saturating_add(1);
        let wait = FAILURE_WINDOW.saturating_sub(age(record));
        (record.count > MAX_FAILURES).then_some((record.count == MAX_FAILURES + 1, wait))
    }
}

/// The address itself, or for IPv6 its network of 64 bits, which one host has to itself.
pub fn source_prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_for_a_window_only() {
        let mut failures = AuthThrottle::default();
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let began = Instant::now();
        for _ in 0..MAX_FAILURES {
            assert_eq!(failures.count(one, began), None);
        }
        let wait = FAILURE_WINDOW;
        assert_eq!(failures.count(one, began), Some((true, wait)));
        assert_eq!(failures.count(one, began), Some((false, wait)));
        assert_eq!(failures.count(other, began), None);
        assert_eq!(failures.count(one, began + FAILURE_WINDOW), None);
    }

    #[test]
    fn the_table_is_bounded_and_networks_count_as_one() {
        let mut failures = AuthThrottle::default();
        let began = Instant::now();
        for host in 0..u32::try_from(MAX_FAILING_ADDRESSES * 2).unwrap() {
            let address = IpAddr::from(host.to_be_bytes());
            failures.count(address, began + Duration::from_millis(host.into()));
        }
        assert_eq!(failures.0.len(), MAX_FAILING_ADDRESSES);
        let place = |text: &str| source_prefix(text.parse().unwrap());
        assert_eq!(place("2001:db8::1"), place("2001:db8::2:3"));
        assert_ne!(place("2001:db8::1"), place("2001:db8:0:1::1"));
        assert_eq!(place("::ffff:192.0.2.1"), place("192.0.2.1"));
    }
}
