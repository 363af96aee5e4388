//! The adapter for Telegram: a process of its own (`hermes-gateway channel-adapter telegram`) that speaks the
//! protocol of hermes-gateway-channel(7) with the gateway and the Bot API with Telegram, and alone has the bot's
//! token.
//!
//! `receive` and `send` decide, and are pure: what comes from the gateway and from Telegram goes in, what is to be
//! done comes out. `adapter` does it. What may enter: all that only Telegram has. What may not: who may talk, the
//! order of replies, retries; they are the gateway's.

mod adapter;
mod call;
mod client;
mod form;
mod jobs;
mod lines;
pub mod markdown;
mod receive;
mod send;
mod start;
mod token;

pub use adapter::{Options, run};
