//! Routes and wire formats, and authentication.
//!
//! A request is judged in this order: Host and Origin, then the key, then path and method, then the body.
//! [`route`] has the table of routes, each handler is in the file of its path, [`request`] reads requests
//! and [`response`] writes answers. How a turn runs is the business of [`crate::session`].

mod approvals;
mod attachments;
pub mod auth;
mod auth_throttle;
mod buffers;
mod channels;
mod chat_completions;
pub mod connections;
mod cors;
mod error;
mod handover;
mod messages;
mod models;
mod openapi;
mod pass_through;
mod pause;
pub mod reload;
mod reply_writer;
mod request;
mod response;
mod responses;
mod restart;
mod route;
mod service;
mod sessions;
mod status;
#[cfg(any(test, fuzzing))]
pub mod tests;
mod tickets;
mod turn;
mod warnings;

pub use auth::{Keyring, Origin};
pub use auth_throttle::source_prefix;
pub use error::ApiError;
pub use handover::HandedOver;
pub use request::{LIVE_EVENTS, check_session};
pub use route::serve;
pub use service::{Facts, Service};
