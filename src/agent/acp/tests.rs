//! Turns with an agent that each test makes up, and what must hold for any.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(test)]
mod driver;
#[cfg(test)]
mod messages;
pub mod properties;
