//! What senders whom nobody serves may have downloaded. Pure.

use std::time::{Duration, Instant};

use super::content::MAX_FILE;

/// So long a sender's files count against [`MAX_FILE`], which is one large file.
const WITHIN: Duration = Duration::from_mins(10);

/// Senders that are remembered: who is forgotten may have one more file than he might.
const MAX_SENDERS: usize = 256;

/// What is known of senders, the one heard of longest ago first.
#[derive(Default)]
pub(super) struct Senders(Vec<Sender>);

struct Sender {
    id: i64,
    /// His last message was.
    served: bool,
    since: Instant,
    bytes: u64,
}

impl Senders {
    fn get(&mut self, id: i64, now: Instant) -> &mut Sender {
        let at = self.0.iter().position(|sender| sender.id == id);
        let mut sender = at.map(|at| self.0.remove(at)).unwrap_or(Sender {
            id,
            served: false,
            since: now,
            bytes: 0,
        });
        if self.0.len() >= MAX_SENDERS {
            self.0.remove(0);
        }
        if now.saturating_duration_since(sender.since) >= WITHIN {
            (sender.since, sender.bytes) = (now, 0);
        }
        let last = self.0.len();
        self.0.push(sender);
        &mut self.0[last]
    }

    /// The gateway has answered a message of his.
    pub fn note(&mut self, id: i64, served: bool, now: Instant) {
        self.get(id, now).served = served;
    }

    /// Counts a file of so many bytes. False: it may not be downloaded.
    pub fn may(&mut self, id: i64, bytes: u64, now: Instant) -> bool {
        let sender = self.get(id, now);
        let fits = sender.served || sender.bytes.saturating_add(bytes) <= MAX_FILE;
        if fits {
            sender.bytes = sender.bytes.saturating_add(bytes);
        }
        fits
    }
}
