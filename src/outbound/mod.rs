//! Requests that the gateway makes: an HTTP client over a socket of its own or the system's curl.
//!
//! What may enter: connections and requests. What may not: what the answers mean.

pub mod client;
mod curl;
pub mod tcp;

use std::{io, net::TcpStream, sync::Arc};

use crate::cancel::Cancel;
use crate::config::Url;
use crate::subprocess::{Children, Environment};

pub use client::{Client, Request};
pub use tcp::is_looking_up;

#[cfg(test)]
mod tests;

/// A client for a request to the URL's host: through curl with this environment where that is https, else
/// over `stream`, which is connected first where there is none.
///
/// # Errors
/// Those of the connection, or of starting curl; ConnectionAborted where it was cancelled.
pub fn open<'s>(
    (url, request): (&Url, &Request<'_>),
    children: &Arc<Children>,
    environment: &dyn Fn() -> Environment,
    stream: &'s mut Option<TcpStream>,
    cancel: &'s Cancel<'s>,
) -> io::Result<Client<'s>> {
    if url.secure {
        curl::client(children, environment(), (url, request), cancel)
    } else {
        tcp::client(stream, url, cancel)
    }
}
