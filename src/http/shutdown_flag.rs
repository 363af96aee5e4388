//! What all connections are told: that the gateway stops taking work, or that another process goes on with
//! them and takes over their sockets.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use crate::sys::fd::EventFd;

/// A peer that is silent for so long between two messages is waited for with less memory: one that
/// sends ten a second or more costs us no other system call than its reads.
pub const IDLE_AFTER: Duration = Duration::from_millis(100);

/// The same before a handover, which such a wait holds up: it cannot be woken.
const IDLE_SOON: Duration = Duration::from_millis(5);

// In the order in which a handover goes through them.
const SERVING: u8 = 0;
const PREPARING: u8 = 1;
const PARKING: u8 = 2;
const HANDING_OVER: u8 = 3;
/// Each connection says `Connection: close` with its next response, and ends. Nothing follows.
const CLOSING: u8 = 4;

#[derive(Debug)]
pub struct ShutdownFlag {
    stage: AtomicU8,
    /// Another process comes, to which the next requests are left.
    silent: AtomicBool,
    /// Readable while sockets are handed over; where there is no descriptor, connections that wait for long
    /// are not.
    handing_over: Option<EventFd>,
    /// Readable unless requests are parked; else those look now and then.
    goes_on: Option<EventFd>,
    /// How many requests are parked.
    pub parked: AtomicUsize,
}

impl Default for ShutdownFlag {
    fn default() -> ShutdownFlag {
        let [handing_over, goes_on] = [(); 2].map(|()| EventFd::new().ok());
        ShutdownFlag {
            stage: AtomicU8::new(SERVING),
            silent: AtomicBool::new(false),
            handing_over,
            goes_on,
            parked: AtomicUsize::new(0),
        }
    }
}

impl ShutdownFlag {
    /// No request after the present ones. `silent`: another that comes on a connection that has had one gets
    /// no answer.
    pub fn close(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
        self.enter(CLOSING);
    }

    pub(super) fn is_silent(&self) -> bool {
        self.is_closing() && self.silent.load(Ordering::SeqCst)
    }

    /// A handover may follow: whoever waits from now on can soon be told. That takes as long as
    /// [`IDLE_AFTER`]; nobody else notices.
    pub fn prepare(&self) {
        self.enter(PREPARING);
    }

    /// Requests that need a turn at once are parked: not read beyond their heads.
    pub fn park(&self) {
        self.enter(PARKING);
    }

    /// Connections give up their sockets as soon as they are between requests, or parked.
    pub fn hand_over(&self) {
        self.enter(HANDING_OVER);
    }

    /// There is no handover: what was parked goes on.
    pub fn resume(&self) {
        self.enter(SERVING);
    }

    pub fn is_closing(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == CLOSING
    }

    pub fn is_handing_over(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == HANDING_OVER
    }

    pub(super) fn is_parking(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == PARKING
    }

    /// Whether a request that needs a turn at once is to wait for the end of a pause.
    pub fn holds_requests(&self) -> bool {
        matches!(self.stage.load(Ordering::SeqCst), PARKING | HANDING_OVER)
    }

    /// Whether the last answers in flight are waited for.
    pub fn is_awaiting_quiet(&self) -> bool {
        self.stage.load(Ordering::SeqCst) >= PARKING
    }

    /// How long a wait may be that cannot be woken.
    pub(super) fn idle_after(&self) -> Duration {
        let serving = self.stage.load(Ordering::SeqCst) == SERVING;
        if serving { IDLE_AFTER } else { IDLE_SOON }
    }

    pub(super) fn handover_event(&self) -> Option<BorrowedFd<'_>> {
        self.handing_over.as_ref().map(EventFd::as_fd)
    }

    pub(super) fn goes_on_event(&self) -> Option<BorrowedFd<'_>> {
        self.goes_on.as_ref().map(EventFd::as_fd)
    }

    fn enter(&self, next: u8) {
        let follows = |stage| (stage != CLOSING).then_some(next);
        if self.stage.fetch_update(Ordering::SeqCst, Ordering::SeqCst, follows).is_err() {
            return;
        }
        for (event, readable) in
            [(&self.handing_over, next == HANDING_OVER), (&self.goes_on, next != PARKING)]
        {
            event.iter().for_each(|event| match readable {
                true => event.notify(),
                false => _ = event.clear(),
            });
        }
    }
}
