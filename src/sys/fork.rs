//! Work that may hang in the kernel for good, in a process of its own (fork(2)).
//!
//! A thread that waits for a frozen file system cannot be killed, and while it is there its process is
//! not gone for whoever waits for that. A child can be left behind.

use super::gather::Gather;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::check;
use super::process::exit_now;
use super::signal::with_all_blocked;

/// Runs `work` in a copy of this process that has no other descriptors than `keep`. What `work` returns
/// can be read from the file, which is at its end without it where the child has died.
///
/// `work` must take no lock that another thread may hold here: it may use files and memory.
///
/// # Errors
/// Those of pipe2(2) and fork(2).
pub fn run_in_child(keep: &[BorrowedFd<'_>], work: &dyn Fn() -> String) -> io::Result<File> {
    let (read, mut write) = io::pipe()?;
    let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).gather();
    keep.push(write.as_raw_fd());
    // SAFETY: in the child there is only this thread; the C library keeps its memory usable over a
    // fork, and the child runs nothing but `work`, which takes no lock of ours, and ends without a
    // destructor or exit handler; a panic aborts it. Signals are blocked in it from its first moment: their handler would
    // write to a pipe that it shares.
    let pid = with_all_blocked(|| unsafe {
        let pid = libc::fork();
        if pid == 0 {
            close_others(&keep);
            let words = work();
            // Nobody waits for the end of the child: what it holds goes first, its word, and the pipe.
            close_others(&[write.as_raw_fd()]);
            let _ = write.write_all(words.as_bytes());
            drop(write);
            exit_now(0);
        }
        pid
    });
    check(pid)?;
    Ok(OwnedFd::from(read).into())
}

/// Closes all descriptors but these (close_range(2)).
fn close_others(keep: &[RawFd]) {
    let mut from = 0;
    while from < u32::MAX {
        let kept = keep.iter().map(|fd| fd.cast_unsigned()).filter(|fd| *fd >= from);
        let to = kept.min().unwrap_or(u32::MAX);
        if from < to {
            // SAFETY: in the child of a fork nobody uses the descriptors that are closed here.
            unsafe { libc::syscall(libc::SYS_close_range, from, to - 1, 0) };
        }
        from = to.saturating_add(1);
    }
}
