//! What becomes of a message: agents and upstreams, attempts, what a turn leaves, deliveries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agents;
mod delivery;
mod delivery_command;
mod failover;
mod leftovers;
mod living;
mod pass_through;
mod temporary_failures;
mod tools;
mod translation;
mod turns;
mod upstream;
#[path = "../util/mod.rs"]
mod util;
