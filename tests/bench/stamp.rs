//! An agent that prints the moment at which it prints: nanoseconds of the monotonic clock. Then it
//! waits for the end of its stdin, which is there already.

use std::fs;
use std::io::{Read, Write, stdin, stdout};

fn main() -> std::io::Result<()> {
    stdin().read_to_end(&mut Vec::new())?;
    // The boot's clock as /proc has it would be too coarse: the vDSO's is asked through libc.
    let mut now = [0_i64; 2];
    unsafe extern "C" {
        fn clock_gettime(clock: i32, now: *mut i64) -> i32;
    }
    // SAFETY: the two numbers of a timespec live here; CLOCK_MONOTONIC is 1 (clock_gettime(2)).
    unsafe { clock_gettime(1, now.as_mut_ptr()) };
    write!(stdout(), "{}", now[0] * 1_000_000_000 + now[1])?;
    stdout().flush()?;
    // The reply goes on for a while: the first piece must not wait for its end.
    let _ = fs::metadata("/");
    Ok(())
}
