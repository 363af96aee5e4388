//! Channels: accounts on chat platforms, each behind an adapter process that speaks JSON lines.
//!
//! What may enter: the protocol, adapter processes, and who may talk. What a message is and what becomes of
//! it is `session`'s.

mod access;
mod pairing;
mod status;

pub use status::{ChannelStatus, Control};
