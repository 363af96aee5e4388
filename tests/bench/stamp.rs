//! An agent that prints the moment at which it prints: nanoseconds of the monotonic clock.

use std::io::{Read, Write, stdin, stdout};

fn main() -> std::io::Result<()> {
    stdin().read_to_end(&mut Vec::new())?;
    let mut now = [0_i64; 2];
    // SAFETY: the C library's function, as clock_gettime(2) declares it for a machine of 64 bits.
    unsafe extern "C" {
        fn clock_gettime(clock: i32, now: *mut i64) -> i32;
    }
    // SAFETY: the two numbers of a timespec live here; CLOCK_MONOTONIC is 1 (clock_gettime(2)).
    unsafe { clock_gettime(1, now.as_mut_ptr()) };
    write!(stdout(), "{}", now[0] * 1_000_000_000 + now[1])?;
    stdout().flush()
}
