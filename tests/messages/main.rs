//! Messages and their sessions: accepted, asked after, told, forgotten.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attachments;
mod channels;
mod channels_hostile;
mod channels_load;
mod channels_soak;
mod forget;
mod forgotten;
mod irc;
mod lists;
mod messages;
mod notices;
mod operators;
mod restart_messages;
mod send;
mod sessions;
mod telegram;
mod telegram_hostile;
mod telegram_soak;
mod transcripts;
#[path = "../util/mod.rs"]
mod util;
