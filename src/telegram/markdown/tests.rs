//! Replies as agents write them, case by case, and what must hold of any text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(test)]
mod cases;
pub mod properties;
