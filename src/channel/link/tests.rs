//! The connection with an adapter, case by case, and what must hold of any.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(test)]
mod cases;
pub mod properties;
