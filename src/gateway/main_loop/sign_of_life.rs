//! WATCHDOG=1 for the service manager: only on proof that what the gateway consists of moves. That the main loop
//! does is proof of itself.

use std::time::{Duration, Instant};

use super::state::Main;
use crate::escape::escaped;
use crate::lifecycle::phase::Phase;
use crate::threads::lock;

/// A call to the disk that is older is no proof; nor is it said before that something hangs. At most, and as a
/// part of the interval.
const PATIENCE: (Duration, u32) = (Duration::from_secs(2), 4);

/// How often it is looked again where proof is missing, likewise.
const LOOK_AGAIN: (Duration, u32) = (Duration::from_millis(500), 20);

impl Main {
    /// Sends WATCHDOG=1 when it is due. Without proof it waits for that, and the manager's time runs: it gives
    /// twice the interval. What takes less than one is never a reason for a restart.
    pub(super) fn give_sign_of_life(&mut self, now: Instant) {
        let Some((_, interval)) = self.timers.watchdog.filter(|(at, _)| *at <= now) else { return };
        let part = |(most, of): (Duration, u32)| most.min(interval / of);
        let Some(what) = self.hangs(now, part(PATIENCE)) else {
            self.notifier.send("WATCHDOG=1");
            // From now, not from when it was due: after a suspend there is nothing to catch up with.
            self.timers.watchdog = Some((now + interval, interval));
            if let Some((_, true)) = self.timers.unproven.take() {
                log::info!("all moves again");
                self.tell_hang(None);
            }
            return;
        };
        self.timers.watchdog = Some((now + part(LOOK_AGAIN), interval));
        let (since, said) = *self.timers.unproven.get_or_insert((now, false));
        if !said && now - since >= part(PATIENCE) {
            self.timers.unproven = Some((since, true));
            log::error!(
                "the gateway hangs: {what}. It sends no WATCHDOG=1 until that moves: if it does not, the \
                 service manager restarts the gateway"
            );
            self.tell_hang(Some(what));
        }
    }

    /// What keeps the gateway from working, if anything does.
    fn hangs(&mut self, now: Instant, patience: Duration) -> Option<String> {
        let started = self.started.as_ref().filter(|_| self.phase == Phase::Serving)?;
        let hub = &started.service.hub;
        let disk = hub.health().stalled(patience);
        disk.or_else(|| hub.hangs(&mut self.hub_probe, now))
    }

    /// Shows it where operators look.
    fn tell_hang(&self, what: Option<String>) {
        let Some(started) = &self.started else { return };
        let hangs = what.as_ref().map(|what| format!("; hangs: {}", escaped(what, false)));
        let line = started.service.status_line();
        self.notifier.status(&format!("{line}{}", hangs.unwrap_or_default()));
        *lock(&started.service.hangs) = what;
    }
}
