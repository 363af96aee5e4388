//! Where the time of a hub comes from.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use super::clock::{Reading, millis};
use crate::sys::{clock, proc};

/// The clocks of a machine.
pub trait Clocks: fmt::Debug + Send + Sync {
    /// Which boot this is; empty where that cannot be told.
    fn boot(&self) -> String;

    fn read(&self) -> Reading;
}

/// The clocks of this machine.
#[derive(Debug)]
pub struct SystemClocks;

impl Clocks for SystemClocks {
    fn boot(&self) -> String {
        proc::boot_id().to_owned()
    }

    fn read(&self) -> Reading {
        Reading { wall: now(), since_boot: millis(clock::since_boot()) }
    }
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
