//! Programs that others wrote: clients, a browser, proxies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agents;
mod browser;
mod clients;
mod matrix;
mod matrix_node;
mod openapi;
mod proxy;
mod telegram;
#[path = "../util/mod.rs"]
mod util;
