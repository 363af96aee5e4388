//! Sessions: what wants a turn waits here for its place, in order within its session and fairly
//! among sessions.
//!
//! What may enter: the order of turns and who waits for one. What a turn does is `agent`'s.
#![forbid(unsafe_code)]

pub mod dispatch;
pub mod id;
pub mod places;
