//! Restarts without a service manager: in place, by another process, by an update, each after a proof.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod asked;
mod graceful;
mod proof;
mod replace;
mod update;
#[path = "../util/mod.rs"]
mod util;
