//! The manual pages: against the code, and every command of theirs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod adapters;
mod commands;
#[allow(dead_code)]
mod mdoc;
mod pages;
#[path = "../house/scan.rs"]
#[allow(dead_code)]
mod scan;
#[path = "../util/mod.rs"]
mod util;
