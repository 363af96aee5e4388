//! Where the time of a hub comes from, and the records by which the next start goes on with it.

use std::fmt;

use super::clock::{Reading, millis};
use super::hub::{Hub, now};
use crate::journal::record::Stamp;
use crate::journal::{Purpose, Refused};
use crate::sys::{clock, proc};

/// The clocks of a machine.
pub trait Clocks: fmt::Debug + Send + Sync {
    /// Which boot this is; empty where that cannot be told.
    fn boot(&self) -> String;

    fn read(&self) -> Reading;
}

/// The clocks of this machine.
#[derive(Debug)]
pub struct System;

impl Clocks for System {
    fn boot(&self) -> String {
        proc::boot_id()
    }

    fn read(&self) -> Reading {
        Reading { wall: now(), since_boot: millis(clock::since_boot()) }
    }
}

impl Hub {
    /// The time for a record of now.
    pub(super) fn stamp(&self) -> Stamp {
        self.clock.stamp(self.clocks.read())
    }

    /// Writes a record of the clock where the journal needs one. Nobody waits for it: after a power
    /// cut it would be one of another boot.
    ///
    /// # Errors
    /// Those of [`crate::journal::Journal::append`].
    pub fn keep_time(&self) -> Result<(), Refused> {
        let mut state = self.lock();
        let (known, newest) = (state.book.clock.as_ref(), state.book.newest);
        let due = self.clock.record(known, newest, self.clocks.read());
        due.map_or(Ok(()), |due| self.write(&mut state, &due, Purpose::Completion).map(drop))
    }
}
