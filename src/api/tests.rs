//! What holds for any body that clients send.

pub mod properties;
