//! The pause before a restart in place.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::hub::Hub;

impl Hub {
    pub fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
    }

    pub fn resume(self: &Arc<Self>) {
        self.paused.store(false, Ordering::SeqCst);
        self.maintenance_wakeup.notify_all();
        self.start_turns(self.lock());
    }

    pub fn release(self: &Arc<Self>) {}

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    pub fn waiting(&self) -> usize {
        0
    }
}
