//! What the gateway offers over HTTP: routes, who may use them, and what they answer.
//!
//! What may enter: requests that are framed already, and the order in which they are judged:
//! Host and Origin, then the key, then path and method, then the body. How a turn runs is known below.
#![forbid(unsafe_code)]

pub mod auth;
mod auth_throttle;
mod buffers;
mod chat;
mod chat_request;
pub mod connections;
mod cors;
mod durable;
mod error;
mod messages;
mod models;
pub mod reload;
mod reply_writer;
mod request;
mod response;
mod responses;
mod route;
mod service;
mod sessions;
mod status;
#[cfg(any(test, fuzzing))]
pub mod tests;
mod turn;

pub use auth::{Keyring, Origin};
pub use auth_throttle::source_prefix;
pub use request::check_session;
pub use route::serve;
pub use service::{Facts, Service};
