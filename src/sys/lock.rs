//! One holder a file: flock(2) for the holding, by std, an open-file-description lock for the asking.
//!
//! flock has no way to ask without taking, so the holder also takes an OFD lock (fcntl(2)) on the
//! same descriptor: F_OFD_GETLK on it tells whether there is a holder and changes nothing.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;

use super::check;

/// Takes the lock of a file or directory for as long as it stays open, or says at once that it is
/// held (`false`).
pub fn try_hold(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Like [`try_hold`] for a file that is open for writing, and visible to [`is_held`].
pub fn try_hold_visibly(file: &File) -> io::Result<bool> {
    if !try_hold(file)? {
        return Ok(false);
    }
    let lock = whole_file();
    // SAFETY: F_OFD_SETLK reads the struct that lives here.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) })?;
    Ok(true)
}

/// Whether anybody holds the lock of `file` visibly. Takes nothing.
pub fn is_held(file: &File) -> io::Result<bool> {
    let mut lock = whole_file();
    // SAFETY: F_OFD_GETLK reads and fills the struct that lives here.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn whole_file() -> libc::flock {
    // SAFETY: all-zero is a valid flock: from the start, of any length, pid 0 as OFD locks want.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}
