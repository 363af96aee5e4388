//! Tickets: each stands for a key in the URL of one event stream, since the EventSource of a browser sends no
//! header fields of the page. They are in memory only.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::config::ClientKey;
use crate::digest::{hex, sha256, sha256_framed};
use crate::sys::random;
use crate::threads::lock;

/// A page uses its ticket at once; what a log of a proxy shows later is worth nothing.
pub const TICKET_VALID: Duration = Duration::from_secs(60);

/// Tickets of a principal at one time, 100 bytes each: every tab of its browsers connects anew.
const MAX_TICKETS: usize = 64;

#[derive(Default)]
pub struct Tickets(Mutex<Vec<Ticket>>);

struct Ticket {
    /// Its digest: how long a comparison takes tells nothing of it.
    digest: [u8; 32],
    key: Arc<ClientKey>,
    bound: [u8; 32],
    until: Instant,
}

/// What a ticket is bound to: its session, and the foreign page that asked for it, empty for none.
pub fn bound_to(session: &str, page: &str) -> [u8; 32] {
    sha256_framed(&[session.as_bytes(), page.as_bytes()])
}

impl Tickets {
    /// A new ticket. Where its principal has too many already, the oldest of them is void.
    ///
    /// # Errors
    /// The kernel has no random bytes.
    pub fn issue(&self, key: &Arc<ClientKey>, bound: [u8; 32], now: Instant) -> io::Result<String> {
        let mut bytes = [0; 16];
        random::fill(&mut bytes)?;
        let ticket = hex(&bytes);
        let (digest, key) = (sha256(&[ticket.as_bytes()]), Arc::clone(key));
        let mut tickets = lock(&self.0);
        tickets.retain(|known| known.until > now);
        let is_own = |known: &Ticket| known.key.name == key.name;
        if tickets.iter().filter(|known| is_own(known)).count() >= MAX_TICKETS
            && let Some(oldest) = tickets.iter().position(is_own)
        {
            tickets.remove(oldest);
        }
        tickets.push(Ticket { digest, key, bound, until: now + TICKET_VALID });
        Ok(ticket)
    }

    /// Uses a ticket up. Its key, if it is valid and bound to this.
    pub fn take(&self, ticket: &str, bound: [u8; 32], now: Instant) -> Option<Arc<ClientKey>> {
        let digest = sha256(&[ticket.as_bytes()]);
        let mut tickets = lock(&self.0);
        let at = tickets.iter().position(|known| known.digest == digest)?;
        let ticket = tickets.remove(at);
        (ticket.until > now && ticket.bound == bound).then_some(ticket.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_used_once_within_a_minute_for_what_it_is_bound_to() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let (key, bound) = (Arc::new(ClientKey::new("alice")), bound_to("s", "https://page"));
        let issue = || tickets.issue(&key, bound, now).unwrap();
        let take = |ticket: &str, bound, at| tickets.take(ticket, bound, at).is_some();
        let ticket = issue();
        assert_eq!(ticket.len(), 32);
        let just_now = now + TICKET_VALID - Duration::from_nanos(1);
        assert!(take(&ticket, bound, just_now) && !take(&ticket, bound, now));
        assert!(!take(&issue(), bound, now + TICKET_VALID));
        for other in
            [bound_to("t", "https://page"), bound_to("s", ""), bound_to("sh", "ttps://page")]
        {
            let ticket = issue();
            assert!(!take(&ticket, other, now), "it is for something else");
            assert!(!take(&ticket, bound, now), "it is used");
        }
        assert!(!take("", bound, now) && lock(&tickets.0).is_empty());
    }

    #[test]
    fn the_oldest_of_too_many_tickets_of_a_principal_is_void() {
        let (tickets, now, bound) = (Tickets::default(), Instant::now(), bound_to("s", ""));
        let issue = |name| tickets.issue(&Arc::new(ClientKey::new(name)), bound, now).unwrap();
        let (others, first, second) = (issue("bob"), issue("alice"), issue("alice"));
        (2..=MAX_TICKETS).for_each(|_| drop(issue("alice")));
        assert_eq!(lock(&tickets.0).len(), MAX_TICKETS + 1);
        let valid = [&others, &first, &second].map(|it| tickets.take(it, bound, now).is_some());
        assert_eq!(valid, [true, false, true]);
        tickets.issue(&Arc::new(ClientKey::new("bob")), bound, now + TICKET_VALID).unwrap();
        assert_eq!(lock(&tickets.0).len(), 1, "those that are over are gone");
    }
}
