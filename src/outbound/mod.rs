//! Requests that the gateway makes: an HTTP client over a socket of its own or the system's curl.
//!
//! What may enter: connections and requests. What may not: what the answers mean.
#![forbid(unsafe_code)]

pub mod client;
pub mod curl;
pub mod tcp;

pub use client::Client;
