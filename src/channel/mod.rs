//! Channels: accounts on chat platforms, each behind an adapter process that speaks JSON lines.
//!
//! What may enter: the protocol, adapter processes, and who may talk. What a message is and what becomes of
//! it is `session`'s.

mod access;
pub mod adapter;
mod connection;
mod files;
mod inbound;
pub mod link;
mod outbound;
mod outbox;
mod pairing;
mod pool;
mod shared;
mod split;
mod status;
mod thread;
pub mod wire;
mod worker;

pub use access::shown;
pub use pool::Channels;
pub use status::{ChannelStatus, Control};
