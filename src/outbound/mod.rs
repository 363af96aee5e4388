//! Requests that the gateway makes: an HTTP client over a socket of its own or the system's curl, and what
//! ends a request before its answer.
//!
//! What may enter: connections, requests, cancellation. What may not: what the answers mean.
#![forbid(unsafe_code)]

pub mod client;
pub mod connect;
pub mod curl;

pub use client::Client;

#[cfg(test)]
mod tests;
