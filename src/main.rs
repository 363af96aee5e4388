//! hermes-gateway: puts an AI agent behind HTTP and chat, keeps what it accepted, and tells its
//! service manager the truth when it stops.
//!
//! This room is for one thing: arguments in, command run, exit status out. Every status that the
//! process can end with is decided in [`cli::main`] or, for the daemon, by its verdict.

// Tests may panic: that is how they fail.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod exit;
#[allow(dead_code, unused_imports)]
mod http;
mod sys;

fn main() -> std::process::ExitCode {
    exit::Exit::Planned.into()
}
