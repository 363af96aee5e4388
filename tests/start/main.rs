//! A gateway without a service manager: its start, its place, its reloads, its commands, its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod check;
mod clocks;
mod commands;
mod container;
mod files;
mod foreground;
mod kubernetes;
mod listen_fds;
mod places;
mod protected;
mod reload;
mod signals;
mod start;
#[path = "../util/mod.rs"]
mod util;
