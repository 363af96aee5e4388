//! More than the gateway has room for. One test at a time, since each measures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod body_memory;
mod buffers;
mod fair_load;
mod overload;
#[path = "../util/mod.rs"]
mod util;
