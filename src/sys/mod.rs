//! System calls: the only module with `unsafe` and the only one that names `libc`.
//!
//! What may enter: thin, typed wrappers around one system call or libc function each, split by
//! subject, returning `io::Result`. What may not: any decision of the gateway.
#![allow(unsafe_code)]
// The kernel's types are narrower than Rust's for the same small constants and sizes.
#![allow(clippy::cast_possible_truncation)]

pub mod clock;
pub mod exec;
pub mod fd;
pub mod fork;
pub mod fs;
pub mod gather;
pub mod lock;
pub mod memory;
pub mod poll;
pub mod proc;
pub mod process;
pub mod random;
pub mod signal;
pub mod socket;
pub mod spawn;
#[cfg(test)]
pub mod tests;
#[cfg(not(any(test, debug_assertions, target_feature = "crt-static")))]
mod unwind;
pub mod user;

use std::io;

/// Turns the "-1 and errno" convention into a `Result`. Out of line: each system call has one.
#[inline(never)]
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
