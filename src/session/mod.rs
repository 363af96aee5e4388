//! Sessions: what wants a turn comes in here, waits for its place, in order within its session and
//! fairly among sessions, and is carried to its end and to its target.
//!
//! What may enter: messages and their fate, in the journal and out of it. What a turn does is
//! `agent`'s, how a reply travels `delivery`'s.
#![forbid(unsafe_code)]

pub mod cancel;
pub mod clock;
pub mod commands;
pub mod dispatch;
mod events;
pub mod history;
pub mod hub;
pub mod id;
mod lock;
mod maintenance;
pub mod message;
pub mod message_table;
pub mod outboxes;
pub mod permit;
pub mod queries;
pub mod reply;
mod retention;
mod retry;
mod sender;
pub mod states;
pub mod submit;
#[cfg(test)]
mod tests;
pub mod time;
pub mod transcript;
pub mod usage;
pub mod wait;
pub mod waits;
mod worker;
