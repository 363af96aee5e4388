//! Whether the hub moves: its lock, its maintenance, and the attempts of deliveries. For a caller that must not
//! wait, and may look again a moment later.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::hub::Hub;
use crate::limits::{KILL_AFTER, REAP_TIMEOUT};
use crate::outbound;
use crate::threads::lock;

/// What an attempt may take beyond its own time: a child that has to be killed.
const ATTEMPT_MARGIN: Duration = KILL_AFTER.saturating_add(REAP_TIMEOUT);

/// The same while the system's resolver looks up a name, which nothing ends: three servers that do not answer,
/// each asked twice, for three names.
const LOOK_UP_MARGIN: Duration = Duration::from_secs(120);

/// What the last look saw.
#[derive(Debug, Default)]
pub struct Probe {
    /// How often the lock had been taken, where it was held.
    taken: Option<usize>,
    /// How far maintenance was, where something was due.
    moves: Option<usize>,
}

impl Hub {
    /// What has not moved since the last look, or cannot be told from what does not.
    pub fn hangs(&self, probe: &mut Probe, now: Instant) -> Option<String> {
        let due = if let Ok(state) = self.state.try_lock() {
            probe.taken = None;
            state.open && !self.is_draining() && self.has_due(&state, now)
        } else {
            let taken = self.taken.load(Ordering::Relaxed);
            let before = probe.taken.replace(taken);
            if before.is_none_or(|before| before == taken) {
                return Some("the sessions' lock is not given back".to_owned());
            }
            // It changes hands.
            false
        };
        if due {
            let moves = self.moves.load(Ordering::Relaxed);
            let before = probe.moves.replace(moves);
            if before.is_none_or(|before| before == moves) {
                return Some("the dispatcher does not begin what is due".to_owned());
            }
        } else {
            probe.moves = None;
        }
        let margin = if outbound::is_looking_up() { LOOK_UP_MARGIN } else { ATTEMPT_MARGIN };
        let attempts = lock(&self.attempts);
        let late = attempts.iter().find(|(_, until)| now > *until + margin);
        late.map(|(target, _)| format!("a delivery to target {target} does not end in its time"))
    }

    /// The dispatcher, or maintenance, goes on.
    pub(super) fn note_move(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
}
