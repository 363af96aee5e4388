//! Turns with an agent that each test makes up, and what must hold for any.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::needless_pass_by_value)]

#[cfg(test)]
mod driver;
#[cfg(test)]
mod messages;
pub mod properties;
