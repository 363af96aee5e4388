//! What holds for any body that clients send.
#![forbid(unsafe_code)]

pub mod properties;
