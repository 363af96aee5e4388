//! The harness of the tests, and what it finds: it can fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;
mod ledger;
mod restart_clients;
#[path = "../util/mod.rs"]
mod util;
