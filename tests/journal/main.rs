//! The journal, and a disk that is lost, full, broken or hangs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod faults;
mod hang;
mod journal;
mod lost_journal;
mod shortage;
#[path = "../util/mod.rs"]
mod util;
