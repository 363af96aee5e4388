//! hermes-gateway: puts an AI agent behind HTTP and chat, keeps what it accepted, and tells its
//! service manager the truth when it stops.
//!
//! Arguments in, command run, exit status out: every status that the process can end with is decided by the
//! command line or, for the daemon, by its verdict.

// Tests may panic: that is how they fail.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod agent;
mod api;
mod cancel;
mod cli;
mod config;
mod delivery;
mod digest;
mod dirs;
mod escape;
mod exit;
mod gateway;
mod http;
mod journal;
mod json;
mod lifecycle;
mod limits;
mod logger;
mod name;
mod named;
mod outbound;
mod permissions;
mod session;
mod shares;
mod stored_text;
mod subprocess;
mod sys;
mod systemd;
#[cfg(any(test, fuzzing))]
mod testing;
mod threads;

#[cfg(fuzzing)]
pub use {api::tests::properties as bodies, http::tests::properties as wire};

/// What the program does with its arguments; the status to exit with.
pub fn main() -> std::process::ExitCode {
    cli::main().code().into()
}
