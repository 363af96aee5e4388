//! The time that our unit gives a stop, and whether a stop fits into it.

use std::{env, time::Duration};

use crate::api::Service;
use crate::lifecycle::evidence::UnitSettings;
use crate::limits::STOP_HEADROOM;
use crate::threads::lock;

/// Keeps the unit's own time-out, and says whether a stop fits into it.
pub fn read(unit: Option<&UnitSettings>, service: &Service) {
    let Some(limit) = unit.map(|unit| unit.stop_timeout) else { return };
    *lock(&service.stop_timeout) = Some(limit);
    if service.shutdown.is_closing() {
        // A stop that has begun waits for it.
        service.wake.notify();
    }
    // Whole seconds, rounded up.
    let seconds = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let needed = seconds(needed(service));
    if !is_short(service) {
        log::info!("a stop takes up to {needed} s, which TimeoutStopSec= of the unit allows");
        return;
    }
    let then = if can_extend() { "asks for more time" } else { "shortens the drain" };
    log::warn!(
        "TimeoutStopSec= of the unit is {} s, but a stop may take {needed} s (stop.drain_timeout and \
         what follows it): the gateway {then}. `install` writes a unit with enough time",
        limit.as_secs()
    );
}

/// Whether a stop may take longer than the unit's own time-out.
pub fn is_short(service: &Service) -> bool {
    lock(&service.stop_timeout).is_some_and(|limit| limit < needed(service))
}

/// Whether the service manager hears us.
pub fn can_extend() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// What a stop takes at most: the drain, and what follows it.
fn needed(service: &Service) -> Duration {
    service.settings().config.stop.drain_timeout + STOP_HEADROOM
}
