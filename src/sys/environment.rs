//! The environment of this process.

use std::env;
use std::ffi::OsString;

/// Takes a variable out of the environment, so that neither this process nor what it executes sees it
/// again. While there is one thread only, at the start.
pub fn take(name: &str) -> Option<OsString> {
    let value = env::var_os(name)?;
    // SAFETY: the caller is the only thread there is, so that nobody else reads the environment.
    unsafe { env::remove_var(name) };
    Some(value)
}
