//! Random bytes from the kernel: getentropy(3).

use std::io;

use super::check;

/// A number for pauses and the like; 0 where the kernel has none.
pub fn number() -> u64 {
    let mut bytes = [0; 8];
    let _ = fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// Fills at most 256 bytes with unpredictable ones. Blocks only before the kernel's pool is initialised.
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: getentropy writes `bytes.len()` bytes into the slice that is ours.
    check(unsafe { libc::getentropy(bytes.as_mut_ptr().cast(), bytes.len()) }).map(drop)
}
