//! The part of the gateway's sources that is fuzzed, at the places where it expects to be.
// Most of it is not used here.
#![allow(dead_code, unused_imports)]

#[path = "../../src/http/mod.rs"]
pub mod http;
#[path = "../../src/limits.rs"]
mod limits;
#[path = "../../src/sys/mod.rs"]
mod sys;
#[path = "../../src/text.rs"]
mod text;
