//! `GET /openapi.json`: all routes as an OpenAPI 3.1 document.

use miniz_oxide::inflate::decompress_to_vec;

use super::error::Handled;
use super::response::json;
use super::service::Exchange;

/// `openapi.json` beside this file, as src/build.rs has compressed it (RFC 1951).
#[cfg(not(fuzzing))]
const COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi"));
/// The fuzzer's crate has no build script.
#[cfg(fuzzing)]
const COMPRESSED: &[u8] = &[];

pub fn document() -> Vec<u8> {
    // What the build has compressed itself is whole.
    decompress_to_vec(COMPRESSED).unwrap_or_default()
}

/// `GET /openapi.json`.
pub fn get(exchange: Exchange<'_>, _: &str) -> Handled {
    exchange.respond(json(200, document()))
}
