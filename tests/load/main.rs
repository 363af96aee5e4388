//! More than the gateway has room for. One test at a time, since each measures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod body_memory;
mod buffers;
mod fair_load;
mod overload;
#[path = "../util/mod.rs"]
mod util;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by each test for as long as it measures.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
