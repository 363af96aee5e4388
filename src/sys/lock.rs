//! One holder a file: flock(2) for the holding, an open-file-description lock for the asking.
//!
//! flock has no way to ask without taking, so the holder also takes an OFD lock (fcntl(2)) on the
//! same descriptor: F_OFD_GETLK on it tells whether there is a holder and changes nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::check;

/// Takes the lock of a file or directory for as long as it stays open, or says at once that it is
/// held (`false`).
pub fn try_hold(file: &File) -> io::Result<bool> {
    // SAFETY: flock takes a descriptor that is borrowed here, and flags.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

/// Gives the lock of [`try_hold`] back. To close the file is not enough while a child that is being
/// started has it, too.
pub fn release(file: &File) {
    // SAFETY: flock takes a descriptor that is borrowed here, and flags.
    let _ = check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) });
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
